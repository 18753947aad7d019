"""Answers of paid servers and the money they cost, in one SQLite file: nothing is asked twice, nothing spent unseen.

Before a call its worst price is reserved, in the same transaction that holds the sum against the cap; when the answer
is in, the price that it had takes the reservation's place and the answer is stored, in one transaction again. So the
cap holds whatever happens between: a call that a kill or a cut connection leaves without an answer may have been
billed and stays counted at its worst price.

    jobs       one a command that spends: what it has spent and reserved, US dollars
    spending   one a call: what was reserved, then what it cost
    answers    one a request that was answered
    batches    what was handed to a batch API and not yet collected
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.database import Database

LEDGER = "calls.sqlite"

_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (job TEXT PRIMARY KEY, usd REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spending (
    id INTEGER PRIMARY KEY, job TEXT NOT NULL, usd REAL NOT NULL, open INTEGER NOT NULL, created TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    uid TEXT PRIMARY KEY, job TEXT NOT NULL, batch_id TEXT, spending INTEGER NOT NULL, keys TEXT NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """A batch that was handed in, or was about to be. batch_id: the server's, None where it was not yet written."""

    uid: str
    batch_id: str | None
    spending: int
    keys: tuple[str, ...]


class Ledger(Database):
    """What was asked of paid servers, for any number of jobs. Use as a context manager, from one thread at a time.

    Raises RecordError for a file that isn't a ledger or is newer, DiskFullError.
    """

    def __init__(self, path: Path):
        super().__init__(path, "ledger of calls", _TABLES)

    # Money.

    def spent(self, job: str) -> float:
        """US dollars that a job has spent and reserved, in this process and in earlier ones."""
        found = self._db.execute("SELECT usd FROM jobs WHERE job=?", (job,)).fetchone()
        return float(found[0]) if found else 0.0

    def unsettled(self, job: str) -> float:
        """Of that, what is reserved for calls that have no answer: under way, or cut off."""
        found = self._db.execute("SELECT SUM(usd) FROM spending WHERE job=? AND open=1", (job,)).fetchone()
        return float(found[0] or 0.0)

    def reserve(self, job: str, usd: float, cap: float | None) -> int | None:
        """Sets a worst price aside; returns the reservation's number, or None where the cap would be passed."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO jobs VALUES (?, 0)", (job,))
            fits = self._db.execute(
                "UPDATE jobs SET usd = usd + ?1 WHERE job=?2 AND (?3 IS NULL OR usd + ?1 <= ?3)", (usd, job, cap)
            )
            if not fits.rowcount:
                return None
            made = self._db.execute(
                "INSERT INTO spending (job, usd, open, created) VALUES (?, ?, 1, datetime('now'))", (job, usd)
            )
            return made.lastrowid

    def settle(self, spending: int, usd: float | None, answers: Mapping[str, Any]) -> None:
        """Puts what a call cost in place of what was reserved for it, and stores its answers by key.

        usd: None where nobody knows what it cost; then what was reserved stands.
        """
        with self._transaction():
            self._settle(spending, usd, answers)

    def _settle(self, spending: int, usd: float | None, answers: Mapping[str, Any]) -> None:
        job, reserved = self._db.execute("SELECT job, usd FROM spending WHERE id=?", (spending,)).fetchone()
        usd = reserved if usd is None else usd
        self._db.execute("UPDATE jobs SET usd = usd + ? WHERE job=?", (usd - reserved, job))
        self._db.execute("UPDATE spending SET usd=?, open=0 WHERE id=?", (usd, spending))
        self._db.executemany(
            "INSERT OR REPLACE INTO answers VALUES (?, ?)",
            [(key, json.dumps(answer)) for key, answer in answers.items()],
        )

    # Answers.

    def get(self, keys: Iterable[str]) -> dict[str, Any]:
        """The stored answers among the keys asked for."""
        return self._documents("SELECT key, answer FROM answers WHERE key IN", keys)

    def count(self) -> int:
        """How many answers are kept."""
        return int(self._db.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    # Batches.

    def open_batch(self, job: str, uid: str, keys: Sequence[str], usd: float, cap: float | None) -> int | None:
        """Notes a batch before it is handed in and reserves its worst price; None where the cap would be passed."""
        spending = self.reserve(job, usd, cap)
        if spending is not None:
            with self._transaction():
                self._db.execute(
                    "INSERT INTO batches VALUES (?, ?, NULL, ?, ?)", (uid, job, spending, json.dumps(list(keys)))
                )
        return spending

    def name_batch(self, uid: str, batch_id: str) -> None:
        """Notes what the server calls a batch."""
        with self._transaction():
            self._db.execute("UPDATE batches SET batch_id=? WHERE uid=?", (batch_id, uid))

    def pending_batches(self, job: str) -> list[PendingBatch]:
        """The batches of a job that were not collected."""
        rows = self._db.execute("SELECT uid, batch_id, spending, keys FROM batches WHERE job=? ORDER BY uid", (job,))
        return [
            PendingBatch(uid, batch_id, spending, tuple(json.loads(keys))) for uid, batch_id, spending, keys in rows
        ]

    def close_batch(self, batch: PendingBatch, usd: float | None, answers: Mapping[str, Any]) -> None:
        """Takes a batch for collected, with what it cost and its answers."""
        with self._transaction():
            self._settle(batch.spending, usd, answers)
            self._db.execute("DELETE FROM batches WHERE uid=?", (batch.uid,))
