"""A SQLite file of ours: used by several processes, across kills, and with a clear word where it isn't one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.errors import RecordError, disk_faults
from harness.files import SCHEMA


class Database:
    """An open file, made where there is none. Use as a context manager, from one thread at a time.

    what: what a message calls it ("store of answers"). tables: the statements that make it. Each statement is committed
    by itself, unless in a transaction. Raises RecordError for a file that is something else or newer, DiskFullError.
    """

    def __init__(self, path: Path, what: str, tables: str):
        self.path = Path(path)
        with disk_faults(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir():
                raise RecordError(f"{self.path} is a directory, where a {what} was expected.")
            # Several processes may share a file: wait for each other rather than fail. In a notebook the thread that
            # uses it isn't always the one that opened it.
            self._db = sqlite3.connect(self.path, timeout=120, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(tables)
            except (RecordError, sqlite3.OperationalError):
                self._db.close()
                raise
            except sqlite3.DatabaseError as error:
                self._db.close()
                raise RecordError(f"{self.path} isn't a {what} ({error}). Move it away, a new one is made.") from None

    def _prepare(self, tables: str) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise RecordError(
                f"{self.path}: schema {version}, this uzbench reads up to {SCHEMA}. Try: pip install -U uzbench"
            )
        self._db.execute("PRAGMA journal_mode=WAL")
        # A killed process loses nothing under NORMAL; only a power cut may lose the last writes.
        self._db.execute("PRAGMA synchronous=NORMAL")
        if version == SCHEMA:
            return  # Writes nothing: what is stored can be read from a full disk.
        self._db.executescript(tables)
        self._db.execute(f"PRAGMA user_version={SCHEMA}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of what is written inside, or none of it; raises DiskFullError."""
        with disk_faults(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # After some errors SQLite has rolled back by itself.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _documents(self, select: str, keys: Iterable[str], *values: Any) -> dict[str, Any]:
        """Key to JSON document of those keys that are there.

        select: a statement of (key, document) that ends in "IN", before which it takes `values`.
        """
        found: dict[str, Any] = {}
        wanted: Sequence[str] = list(keys)
        for start in range(0, len(wanted), 500):  # SQLite takes a limited number of parameters a statement.
            part = wanted[start : start + 500]
            rows = self._db.execute(f"{select} ({','.join('?' * len(part))})", (*values, *part))
            found.update({key: json.loads(document) for key, document in rows})
        return found
