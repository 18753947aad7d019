"""Reading and writing JSON and JSONL so that a reader never sees half a file.

Every document and every row carries `"schema": 1` as its first key; a newer schema is refused.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import orjson

from harness.errors import DataError, RecordError, disk_faults

SCHEMA = 1


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[str]]:
    """A text file that takes its name only when it is whole and on the disk.

    Raises DiskFullError when the device is full; the old file, if any, stays.
    """
    path = Path(path)
    with disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes private files; a report or record is read by others too.
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A directory to fill, which takes its name, and the place of an older one, only when it is whole.

    Raises DiskFullError when the device is full; the old directory, if any, stays.
    """
    path = Path(path)
    with disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        old = part.with_suffix(".old")
        try:
            yield part
            part.chmod(0o777 & ~_umask())  # mkdtemp's are private.
            # No call replaces a directory that isn't empty: the old one steps aside for the new.
            if path.exists():
                os.replace(path, old)
            try:
                os.replace(part, path)
            except OSError:
                if old.exists():
                    os.replace(old, path)
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> Path:
    """Writes a text file atomically; returns its path."""
    with atomic_writer(path) as file:
        file.write(text)
    return Path(path)


def dumps(value: Any, *, indent: int | None = None) -> str:
    """JSON with a stable order and readable Uzbek. Lone surrogates are escaped: UTF-8 can't hold them.

    Raises ValueError for NaN and infinity: no record may hold one.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, ensure_ascii=True, allow_nan=False, indent=indent)
    return text


def write_json(path: Path, document: dict[str, Any]) -> Path:
    """Writes one JSON document with its schema number."""
    return write_text(path, dumps({"schema": SCHEMA, **document}, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads one JSON document.

    Raises DataError for malformed JSON, RecordError for a missing file or a newer schema.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file.") from None
    except UnicodeDecodeError as error:
        raise DataError(path, f"not UTF-8 (byte {error.start})") from None
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(path, f"not JSON: {error.msg}", line=error.lineno) from None
    if not isinstance(document, dict):
        raise DataError(path, f"expected a JSON object, saw {type(document).__name__}")
    check_schema(document, path)
    return document


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Writes one JSON object a line, each with its schema number."""
    with atomic_writer(path) as file:
        for row in rows:
            file.write(dumps({"schema": SCHEMA, **row}) + "\n")
    return Path(path)


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) of each line that isn't blank.

    Raises DataError with the line and the reason, RecordError for a missing file or a newer schema.
    """
    try:
        file = Path(path).open("rb")  # noqa: SIM115, closed below; only opening may find nothing
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise RecordError(f"{path}: a directory, where a JSONL file was expected.") from None
    with file:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                yield number, parse_line(raw, path, number)


def parse_line(raw: bytes, path: Path, number: int) -> dict[str, Any]:
    """The object of one line of JSONL.

    Raises DataError with the line and the reason, RecordError for a newer schema.
    """
    try:
        row = orjson.loads(raw)
    except orjson.JSONDecodeError:
        # The standard library takes lone surrogates, which a model may write, and says what is wrong and where.
        try:
            row = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(path, f"not UTF-8 (byte {error.start})", line=number) from None
        except json.JSONDecodeError as error:
            raise DataError(path, f"not JSON: {error.msg} (column {error.colno})", line=number) from None
    if not isinstance(row, dict):
        raise DataError(path, f"expected a JSON object, saw {type(row).__name__}", line=number)
    check_schema(row, path, line=number)
    return row


def check_schema(document: dict[str, Any], path: object, *, line: int | None = None) -> None:
    """Refuses a schema newer than this version's; a document with none counts as the first."""
    schema = document.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema > SCHEMA:
        where = f"{path}:{line}" if line is not None else f"{path}"
        raise RecordError(f"{where}: schema {schema!r}, this uzbench reads up to {SCHEMA}. Try: pip install -U uzbench")
