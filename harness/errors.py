"""Every failure that has a name.

    UzBenchError              what a person can fix: one line, exit 2
    ├── UsageError            an argument, option or configuration value
    ├── UnknownNameError      a task, rubric, … that doesn't exist; carries the nearest name
    ├── DataError             a file whose contents are wrong: path, line, reason
    ├── RecordError           a record of another schema, or a directory that isn't a run
    ├── ModelError            a model or adapter that can't be loaded as asked
    ├── UnpairedError         two runs that can't be compared
    └── EnvironmentFault      network, server, disk: exit 3
        ├── NetworkError      a hub or server that can't be reached
        └── DiskFullError     no space left; what was stored stays whole

A message says what was seen, what was expected and what to type next. Anything else that is raised
is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC

EXIT_DONE, EXIT_USER, EXIT_ENVIRONMENT, EXIT_INTERRUPTED = 0, 2, 3, 130


class UzBenchError(Exception):
    """A failure that a person can fix; `str()` is the one line they read."""

    exit_code = EXIT_USER


class UsageError(UzBenchError):
    """An argument, option or configuration value is wrong."""


class UnknownNameError(UzBenchError):
    """A name that isn't among the known ones; the message offers the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str):
        known = sorted(known)
        near = nearest(name, known)
        guess = f" Did you mean {near!r}?" if near else ""
        super().__init__(f"{kind} {name!r} is unknown.{guess} {hint}")
        self.name, self.nearest = name, near


class DataError(UzBenchError):
    """A file whose contents are wrong."""

    def __init__(self, path: object, reason: str, *, line: int | None = None):
        where = f"{path}:{line}" if line is not None else f"{path}"
        super().__init__(f"{where}: {reason}")
        self.path, self.line, self.reason = path, line, reason


class RecordError(UzBenchError):
    """A record that can't be read: another schema, missing, or not ours."""


class ModelError(UzBenchError):
    """A model or adapter that can't be loaded as asked."""


class UnpairedError(UzBenchError):
    """Two runs that can't be compared, and which of their hashes differ."""


class EnvironmentFault(UzBenchError):
    """Not the user's doing: network, server, disk."""

    exit_code = EXIT_ENVIRONMENT


class NetworkError(EnvironmentFault):
    """A hub or server that can't be reached."""


class DiskFullError(EnvironmentFault):
    """No space left on a device."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when none is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


@contextmanager
def disk_faults(path: object) -> Iterator[None]:
    """Turns "no space left" from files or from SQLite into DiskFullError; lets all else pass."""
    import sqlite3

    try:
        yield
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise _disk_full(path) from error
        raise
    except sqlite3.OperationalError as error:
        # SQLITE_FULL, or an I/O error of the write-ahead log on a full device.
        if "disk is full" in str(error) or "disk I/O error" in str(error):
            raise _disk_full(path) from error
        raise


def _disk_full(path: object) -> DiskFullError:
    return DiskFullError(
        f"{path}: no space left on the device. What was stored is whole. "
        "Free some space, or move the run directory and name it with --out, and type the same command again."
    )
