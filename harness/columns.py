"""A run by column: what pairing and testing need of 100,000 documents, without a text of theirs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.corpus import classes
from harness.errors import RecordError
from harness.files import parse_line, read_jsonl
from harness.records import TaskRecord

TaskKey = tuple[str, str, str]
DocumentKey = tuple[str, int]
"""doc_hash and occurrence."""


@dataclass(frozen=True, slots=True)
class Columns:
    """One task of a run.

    All columns are in the order asked, n long. lengths: characters of the prompts. right, said: class numbers, -1
    where an answer is no class; empty where the task has no corpus metrics. values: by (metric, filter), NaN where
    unscored. places: byte offsets into samples.jsonl.
    """

    task: TaskRecord
    keys: list[DocumentKey] = field(default_factory=list)
    item_ids: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    slices: list[str] = field(default_factory=list)
    prompt_hashes: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    said: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    values: dict[tuple[str, str], npt.NDArray[np.float64]] = field(default_factory=dict)

    def primary(self) -> tuple[str, str] | None:
        """The primary metric, as its first filter read it; None where the task has no score of it."""
        return next((key for key in self.values if key[0] == self.task.primary), None)


def read_columns(tasks: Sequence[TaskRecord], samples: Path, scores: Path) -> dict[TaskKey, Columns]:
    """Reads samples.jsonl and scores.jsonl of a run.

    Raises RecordError where a line is no record of one of the tasks, DataError where it is no JSON.
    """
    found = {task.key: Columns(task) for task in tasks}
    with _no_collection():
        _read_samples(samples, found)
        _read_scores(scores, found)
    return found


@contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of small lists and no cycle among them: the collector would look through all, again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_samples(path: Path, found: dict[TaskKey, Columns]) -> None:
    if not path.is_file():
        raise RecordError(f"{path}: no such file.")
    place, share = 0, sys.intern
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            here, place = place, place + len(raw)
            if not raw.strip():
                continue
            row = parse_line(raw, path, number)
            try:
                to = found[row["task"], row["orthography"], row["prompt_id"]]
                to.keys.append((row["doc_hash"], row["occurrence"]))
                to.item_ids.append(row["item_id"])
                to.groups.append(share(row["group"]))
                to.slices.append(share(row["slice"]))
                to.prompt_hashes.append(row["prompt_hash"])
                to.lengths.append(len(row["prompt"]))
                to.places.append(here)
                if to.task.corpus_metrics:
                    right, said = classes(row["target"], row["choices"], row["response"], row["logprobs"])
                    to.right.append(right)
                    to.said.append(said)
            except (KeyError, TypeError) as error:
                raise RecordError(f"{path}:{number}: not a sample of this run ({error}).") from None


def _read_scores(path: Path, found: dict[TaskKey, Columns]) -> None:
    columns: dict[TaskKey, dict[tuple[str, str], npt.NDArray[np.float64]]] = {key: {} for key in found}
    numbers = {key: {doc: number for number, doc in enumerate(each.keys)} for key, each in found.items()}
    for line, row in read_jsonl(path):
        try:
            task = row["task"], row["orthography"], row["prompt_id"]
            metric = row["metric"], row.get("filter", "none")
            column = columns[task].get(metric)
            if column is None:
                column = columns[task][metric] = np.full(len(found[task].keys), np.nan)
            value = row["value"]
            column[numbers[task][row["doc_hash"], row["occurrence"]]] = np.nan if value is None else value
            if value is not None and not 0 <= value <= 1:
                raise RecordError(f"{path}:{line}: value {value} isn't in [0,1].")
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{path}:{line}: not a score of this run ({error}).") from None
    for key, each in columns.items():
        found[key].values.update(each)
