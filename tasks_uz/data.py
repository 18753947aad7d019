"""Where the documents of a task come from: the package, a mirror of the model hub, or the hub itself.

An embedded item is one JSON object a line, in the 1995 Latin alphabet:

    {"id": "topic-003", "text": "Davlat hokimiyati uch tarmoqqa …", "label": "siyosat", "slice": "maktab"}

lm-eval calls `load` of a task's `utils.py` with the task's metadata as keyword arguments. What it gives
back are documents in the orthography that was asked for; `id`, `group` and `slice` are never transliterated.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks_uz.text import convert

if TYPE_CHECKING:
    from datasets import Dataset

ROOT = Path(__file__).parent
MIRROR_VARIABLE = "UZBENCH_MIRROR"
CHECKSUMS = "SHA256SUMS"

Row = dict[str, Any]
_UNTOUCHED = ("id", "group", "slice", "orthography", "prompt", "form")


class HubUnreachableError(ConnectionError):
    """The hub that holds a data set can't be reached or doesn't give it, and no mirror was named.

    cause: what the hub's library says, in one line.
    """

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


class MirrorError(Exception):
    """A mirror that lacks a file, or holds one that isn't what its checksum says."""


def read_items(path: Path) -> list[Row]:
    """The JSONL rows of a file that ships with the package."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def transliterate(row: Row, orthography: str) -> Row:
    """A document in another orthography, `orthography` added; strings inside lists too."""
    done = {key: value if key in _UNTOUCHED else _convert(value, orthography) for key, value in row.items()}
    return {**done, "orthography": orthography}


def _convert(value: Any, orthography: str) -> Any:
    if isinstance(value, str):
        return convert(value, orthography)
    if isinstance(value, list):
        return [_convert(part, orthography) for part in value]
    return value


def embedded(
    folder: Path, document: Callable[[Row], Row], *, orthography: str, prompt: str, form: str
) -> dict[str, Dataset]:
    """The splits `test` (items.jsonl) and `shots` (shots.jsonl) of an embedded task.

    document: makes a document of an item, still in the 1995 Latin alphabet. prompt, form: how it is to be asked,
    which the documents carry.
    """
    return {
        split: as_dataset(
            [{**row, "prompt": prompt, "form": form} for row in embedded_rows(folder / name, orthography, document)]
        )
        for split, name in (("test", "items.jsonl"), ("shots", "shots.jsonl"))
    }


@lru_cache(maxsize=64)
def embedded_rows(path: Path, orthography: str, document: Callable[[Row], Row]) -> list[Row]:
    """The documents made of a file's items, in an orthography."""
    return [transliterate(document(item), orthography) for item in read_items(path)]


def as_dataset(rows: list[Row]) -> Dataset:
    """Rows as the data set that lm-eval wants."""
    from datasets import Dataset

    return Dataset.from_list(rows)


@dataclass(frozen=True, slots=True)
class Source:
    """A data set of the model hub: its name, configuration, and the splits that are read."""

    name: str
    config: str
    splits: tuple[str, ...]


def from_hub(
    source: Source,
    splits: Mapping[str, str],
    document: Callable[[int, Row], Row],
    *,
    mirror: str | os.PathLike[str] | None = None,
    orthography: str = "latin",
    prompt: str = "p1",
    form: str = "letters",
    mixed: Sequence[str] = (),
) -> dict[str, Dataset]:
    """The splits of a hub data set, from a mirror where one is named, else from the hub.

    splits: our name of a split to the hub's. document: makes a document of (row number from 0, row), in the
    orthography that the data have. orthography, prompt, form: how it is to be asked, which the documents carry.
    mixed: our names of the splits to put in one fixed order by chance, where the hub's is by class and --limit
    would ask one class alone.
    mirror: DIR with `DIR/<owner>/<name>/<config>/<split>.jsonl`; UZBENCH_MIRROR where None.
    Raises MirrorError, HubUnreachableError.
    """
    mirror = mirror or os.environ.get(MIRROR_VARIABLE)
    asked = {"orthography": orthography, "prompt": prompt, "form": form}
    found = {}
    for ours, theirs in splits.items():
        if mirror:
            rows: Iterable[Row] = read_mirror(Path(mirror), source.name, source.config, theirs)
        else:
            rows = read_hub(source.name, source.config, theirs)
        documents = [{**_document(source, theirs, document, number, row), **asked} for number, row in enumerate(rows)]
        if ours in mixed:
            documents.sort(key=lambda found: hashlib.sha256(found["id"].encode()).digest())
        found[ours] = as_dataset(documents)
    return found


def _document(source: Source, split: str, document: Callable[[int, Row], Row], number: int, row: Row) -> Row:
    try:
        found = document(number, row)
        if any(not str(choice or "").strip() for choice in found.get("choices", ())):
            raise ValueError("a choice is empty")
        return found
    except KeyError as error:
        raise MirrorError(
            f"{source.name} ({source.config}, {split}), row {number + 1} has no column {error}, it has "
            f"{', '.join(map(str, row))}. Expected the hub's own columns."
        ) from None
    except (AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise MirrorError(
            f"{source.name} ({source.config}, {split}), row {number + 1} isn't what was expected: {error}."
        ) from None


def parallel(
    sources: Sequence[Source],
    splits: Mapping[str, str],
    document: Callable[[Row, Row], Row],
    *,
    mirror: str | os.PathLike[str] | None = None,
    prompt: str = "p1",
) -> dict[str, Dataset]:
    """The splits of two data sets of one hub repository whose rows pair by `id`: (given, wanted).

    document: makes a document of two rows. Raises MirrorError, HubUnreachableError.
    """

    def numbered(number: int, row: Row) -> Row:
        return {"row": row, "id": str(row["id"])}

    given, wanted = (from_hub(source, splits, numbered, mirror=mirror) for source in sources)
    asked = {"orthography": "latin", "prompt": prompt, "form": "words"}
    found = {}
    for split, theirs in splits.items():
        rows = {each["id"]: each["row"] for each in given[split]}
        others = {each["id"]: each["row"] for each in wanted[split]}
        if rows.keys() != others.keys():
            strange = sorted(rows.keys() ^ others.keys())
            raise MirrorError(
                f"{sources[0].name}, {theirs}: {len(strange)} rows of {sources[0].config} and {sources[1].config} "
                f"have no counterpart, such as id {strange[0]}."
            )

        def paired(number: int, row: Row, others: dict[str, Row] = others) -> Row:
            return document(row, others[str(row["id"])])

        documents = [_document(sources[0], theirs, paired, number, row) for number, row in enumerate(rows.values())]
        found[split] = as_dataset([{**each, **asked} for each in documents])
    return found


def read_mirror(mirror: Path, name: str, config: str, split: str) -> list[Row]:
    """The rows of one split in a mirror, checked against its SHA256SUMS where it has one."""
    relative = f"{name}/{config}/{split}.jsonl"
    path = mirror / relative
    if not path.is_file():
        raise MirrorError(
            f"mirror {mirror} has no {relative}. Expected DIR/<owner>/<name>/<config>/<split>.jsonl, "
            "one JSON object a row of the hub's data set."
        )
    content = path.read_bytes()
    wanted = mirror_checksums(mirror).get(relative)
    if wanted and hashlib.sha256(content).hexdigest() != wanted:
        raise MirrorError(f"mirror {mirror}: {relative} isn't what {CHECKSUMS} says. Fetch or copy it again.")
    rows = []
    # Not splitlines(): U+2028 and U+0085 may stand inside a JSON string.
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise MirrorError(f"{path}:{number}: not UTF-8 (byte {error.start})") from None
        except json.JSONDecodeError as error:
            raise MirrorError(f"{path}:{number}: not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise MirrorError(f"{path}:{number}: expected a JSON object, saw {type(row).__name__}")
        rows.append(row)
    if not rows:
        raise MirrorError(f"{path}: empty, expected one JSON object a line.")
    return rows


def mirror_checksums(mirror: Path) -> dict[str, str]:
    """File to SHA-256 of a mirror; empty where it carries none."""
    path = mirror / CHECKSUMS
    if not path.is_file():
        return {}
    pairs = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {name.strip().lstrip("*"): digest for digest, name in pairs}


def read_hub(name: str, config: str, split: str) -> list[Row]:
    """The rows of one split as the hub has them.

    Raises HubUnreachableError.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return list(load_dataset(name, config if config != "default" else None, split=split))
    # ValueError: no such configuration or split. RuntimeError: a data set that wants its own code run.
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        what = "can't be reached" if isinstance(error, ConnectionError) else "doesn't give it"
        raise HubUnreachableError(
            f"data set {name} ({config}, {split}) is on the model hub, which {what} "
            f"({type(error).__name__}). Name a mirror: --mirror DIR or {MIRROR_VARIABLE}=DIR",
            cause,
        ) from error
