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
from typing import Any

from harness.database import Database
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


class Store(Database):
    """The answers of any number of models. Use as a context manager.

    Raises RecordError for a file that isn't a store or is newer, DiskFullError.
    """

    def __init__(self, path: Path):
        super().__init__(path, "store of answers", _TABLES)

    def remember_model(self, model_key: str, identity: Mapping[str, Any]) -> None:
        """Keeps what a model_key stands for, for people who look into the file."""
        with disk_faults(self.path):
            self._db.execute(
                "INSERT OR IGNORE INTO models VALUES (?, ?)",
                (model_key, json.dumps(identity, sort_keys=True)),
            )

    def get(self, model_key: str, keys: Iterable[str]) -> dict[str, Any]:
        """The stored answers among the keys asked for."""
        select = "SELECT request_key, answer FROM answers WHERE model_key=? AND request_key IN"
        return self._documents(select, keys, model_key)

    def put(self, model_key: str, answers: Mapping[str, Any]) -> None:
        """Writes a batch of answers in one transaction; raises DiskFullError and writes none of it."""
        rows = [(model_key, key, json.dumps(answer)) for key, answer in answers.items()]
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)

    def count(self, model_key: str | None = None) -> int:
        """How many answers are kept, of one model or of all."""
        where, values = ("WHERE model_key=?", (model_key,)) if model_key else ("", ())
        return int(self._db.execute(f"SELECT COUNT(*) FROM answers {where}", values).fetchone()[0])
