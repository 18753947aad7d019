"""Opening a SQLite file of ours: by several processes, across kills, and with a clear word where it isn't one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from harness.errors import RecordError, disk_faults
from harness.files import SCHEMA


def open_database(path: Path, what: str, tables: str) -> sqlite3.Connection:
    """A connection to a file, which is made where there is none.

    what: what a message calls it ("store of answers"). tables: the statements that make it. Connections commit each
    statement by itself, unless a transaction is begun. Raises RecordError for a file that is something else or newer,
    DiskFullError.
    """
    with disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise RecordError(f"{path} is a directory, where a {what} was expected.")
        # Several processes may share a file: wait for each other rather than fail. One thread at a time uses it, but
        # in a notebook not always the one that opened it.
        database = sqlite3.connect(path, timeout=120, isolation_level=None, check_same_thread=False)
        try:
            _prepare(database, path, tables)
        except (RecordError, sqlite3.OperationalError):
            database.close()
            raise
        except sqlite3.DatabaseError as error:
            database.close()
            raise RecordError(f"{path} isn't a {what} ({error}). Move it away, a new one is made.") from None
        return database


def _prepare(database: sqlite3.Connection, path: Path, tables: str) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA:
        raise RecordError(f"{path}: schema {version}, this uzbench reads up to {SCHEMA}. Try: pip install -U uzbench")
    database.execute("PRAGMA journal_mode=WAL")
    # A killed process loses nothing under NORMAL; only a power cut may lose the last writes.
    database.execute("PRAGMA synchronous=NORMAL")
    if version == SCHEMA:
        return  # Writes nothing: what is stored can be read from a full disk.
    database.executescript(tables)
    database.execute(f"PRAGMA user_version={SCHEMA}")
