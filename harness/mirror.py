"""Filling a mirror: the hub data of tasks, copied to a directory with their checksums.

DIR/<owner>/<name>/<config>/<split>.jsonl    one JSON object a row, as the hub has it
DIR/SHA256SUMS                               as `sha256sum --check` reads it
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from datetime import date, time
from pathlib import Path

from harness.errors import NetworkError, UnknownNameError, UsageError
from harness.files import dumps, write_text
from tasks_uz import catalog
from tasks_uz.data import CHECKSUMS, HubUnreachableError, Row, Source, mirror_checksums, read_hub

log = logging.getLogger(__name__)


def fill(out: Path, tasks: Sequence[str] = ("uz_hub",)) -> list[Path]:
    """Copies the data of hub tasks and groups; a file that is there and is what its checksum says stays.

    Returns the files, the checksums last. One that can't be had doesn't keep the others from being fetched. Raises
    NetworkError naming what could not be had, UnknownNameError, UsageError, DiskFullError.
    """
    out = Path(out)
    paths, missing = [], []
    for source in _sources(tasks):
        for split in source.splits:
            relative = f"{source.name}/{source.config}/{split}.jsonl"
            path = out / relative
            sums = mirror_checksums(out)
            if relative in sums and path.is_file() and _digest(path) == sums[relative]:
                paths.append(path)
                continue
            try:
                rows = read_hub(source.name, source.config, split)
            except HubUnreachableError as error:
                log.info("%s: not fetched: %s", relative, error.cause)
                missing.append(f"{source.name} ({source.config})")
                continue
            write_text(path, "".join(f"{dumps(_plain(row))}\n" for row in rows))
            _remember(out, {**sums, relative: _digest(path)})
            log.info("%s: %d rows", relative, len(rows))
            paths.append(path)
    if missing:
        raise NetworkError(
            f"Data that could not be fetched: {', '.join(dict.fromkeys(missing))}. Where terms must be accepted, "
            "HF_TOKEN is needed too; the same command fetches what is missing."
        )
    return [*paths, out / CHECKSUMS]


def _sources(tasks: Sequence[str]) -> list[Source]:
    known, groups = catalog.tasks(), catalog.groups()
    found: dict[Source, None] = {}
    for name in tasks:
        if name not in known and name not in groups:
            raise UnknownNameError("Task", name, [*known, *groups], "All tasks: uzbench tasks")
        for member in groups.get(name, (name,)):
            sources = catalog.sources(known[member])
            if not sources:
                raise UsageError(f"Task {member} ships with uzbench: it needs no mirror. Hub tasks: --tasks uz_hub")
            found |= dict.fromkeys(sources)
    return list(found)


def _plain(row: Row) -> Row:
    """A row in JSON's own types: `datasets` makes a date of a text that looks like one."""
    return {key: value.isoformat() if isinstance(value, (date, time)) else value for key, value in row.items()}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _remember(out: Path, sums: dict[str, str]) -> None:
    write_text(out / CHECKSUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
