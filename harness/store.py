"""Answers, kept: one SQLite file, keyed by model and request, so that nothing is asked twice.

`model_key` hashes everything that changes an answer (harness.engine.identity); two adapters of one base, or
int8 and float32 of one model, never share an answer. (lm-eval's own cache leaves the model out:
https://github.com/EleutherAI/lm-evaluation-harness/issues/4063.)

Answers are written a batch at a time, each batch in one transaction: a kill at any moment loses at most the
batch that was being computed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.database import open_database
from harness.errors import disk_faults
from harness.records import digest

STORE = "store.sqlite"

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    model_key TEXT, request_key TEXT, answer TEXT NOT NULL, PRIMARY KEY (model_key, request_key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS models (model_key TEXT PRIMARY KEY, identity TEXT NOT NULL);
"""


def request_key(kind: str, arguments: Sequence[Any]) -> str:
    """SHA-256 of one request: kind ("loglikelihood", "generate_until", …) and its arguments."""
    return digest([kind, list(arguments)])


class Store:
    """The answers of any number of models. Use as a context manager.

    Raises RecordError for a file that isn't a store or is newer, DiskFullError.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._db = open_database(self.path, "store of answers", _TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def remember_model(self, model_key: str, identity: Mapping[str, Any]) -> None:
        """Keeps what a model_key stands for, for people who look into the file."""
        with disk_faults(self.path):
            self._db.execute(
                "INSERT OR IGNORE INTO models VALUES (?, ?)",
                (model_key, json.dumps(identity, sort_keys=True)),
            )

    def get(self, model_key: str, keys: Iterable[str]) -> dict[str, Any]:
        """The stored answers among the keys asked for."""
        found = {}
        wanted = list(keys)
        # SQLite takes a limited number of parameters a statement.
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            marks = ",".join("?" * len(part))
            rows = self._db.execute(
                f"SELECT request_key, answer FROM answers WHERE model_key=? AND request_key IN ({marks})",
                (model_key, *part),
            )
            found.update({key: json.loads(answer) for key, answer in rows})
        return found

    def put(self, model_key: str, answers: Mapping[str, Any]) -> None:
        """Writes a batch of answers in one transaction; raises DiskFullError and writes none of it."""
        rows = [(model_key, key, json.dumps(answer)) for key, answer in answers.items()]
        with disk_faults(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)
                self._db.execute("COMMIT")
            except BaseException:
                # After some errors SQLite has rolled back by itself.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def count(self, model_key: str | None = None) -> int:
        """How many answers are kept, of one model or of all."""
        where, values = ("WHERE model_key=?", (model_key,)) if model_key else ("", ())
        return int(self._db.execute(f"SELECT COUNT(*) FROM answers {where}", values).fetchone()[0])
