"""Run directories: writing, reading and finding them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from harness.columns import Columns, TaskKey, read_columns
from harness.errors import RecordError, UzBenchError
from harness.files import parse_line, read_json, read_jsonl, write_json, write_jsonl
from harness.metrics import orthography_gaps, prompt_spreads, summarize
from harness.records import Metric, OrthographyGap, PromptSpread, Record, Run, Sample, Score

RUN, SAMPLES, SCORES, RESULT, PLAN = "run.json", "samples.jsonl", "scores.jsonl", "result.json", "plan.json"

AnyRecord = TypeVar("AnyRecord", bound=Record)


@dataclass(frozen=True)
class RunDirectory:
    """A run on the disk; its larger files are read when they are first asked for."""

    path: Path
    run: Run

    @cached_property
    def samples(self) -> list[Sample]:
        return [Sample.from_dict(row) for _, row in read_jsonl(self.path / SAMPLES)]

    @cached_property
    def scores(self) -> list[Score]:
        return [Score.from_dict(row) for _, row in read_jsonl(self.path / SCORES)]

    @cached_property
    def columns(self) -> dict[TaskKey, Columns]:
        """The tasks by column; several times quicker to read than `samples` and `scores`, and far smaller."""
        return read_columns(self.run.tasks, self.path / SAMPLES, self.path / SCORES)

    def samples_at(self, places: Iterable[int]) -> Iterator[Sample]:
        """The samples that stand at byte offsets, in the order given."""
        path = self.path / SAMPLES
        with path.open("rb") as file:
            for place in places:
                file.seek(place)
                yield Sample.from_dict(parse_line(file.readline(), path, 0))

    @cached_property
    def metrics(self) -> list[Metric]:
        return self._result(Metric, "metrics")

    @cached_property
    def prompt_spreads(self) -> list[PromptSpread]:
        return self._result(PromptSpread, "prompt_spreads")

    @cached_property
    def orthography_gaps(self) -> list[OrthographyGap]:
        return self._result(OrthographyGap, "orthography_gaps")

    def _result(self, cls: type[AnyRecord], name: str) -> list[AnyRecord]:
        return [cls.from_dict(row) for row in read_json(self.path / RESULT).get(name, ())]


def open_run(path: str | os.PathLike[str], *, complete: bool = True) -> RunDirectory:
    """Opens a run directory.

    complete: refuses a run that was cut off. Raises RecordError, DataError.
    """
    path = Path(path)
    if not (path / RUN).is_file():
        # In the directory itself, or in a folder a model.
        if any(any(path.glob(name)) for name in ("results.json", "results_*.json", "*/results_*.json")):
            raise RecordError(f"{path} is what lm-eval wrote, not a run. Try: uzbench import {path}")
        raise RecordError(f"{path} isn't a run directory: it has no {RUN}. All runs: uzbench runs")
    document = read_json(path / RUN)
    try:
        run = Run.from_dict(document)
    except UzBenchError as error:
        raise RecordError(f"{path / RUN}: {error}") from None
    # Reports are written into directories of this name, and a run may come from anybody.
    if run.run_id in ("", ".", "..") or any(mark in run.run_id for mark in "/\\"):
        raise RecordError(f"{path / RUN}: run_id {run.run_id!r} isn't the name of a directory.")
    if complete and not run.complete:
        raise RecordError(
            f"Run {path} was cut off before its end. Type the same uzbench run again: what was answered is kept."
        )
    return RunDirectory(path, run)


def find_runs(directory: Path) -> list[RunDirectory]:
    """The runs directly below a directory, newest first; cut-off ones too, unreadable ones left out."""
    found = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        try:
            found.append(open_run(path, complete=False))
        except UzBenchError:
            continue
    return sorted(found, key=lambda each: each.run.created, reverse=True)


def write_run(path: Path, run: Run, samples: Sequence[Sample], scores: Sequence[Score]) -> RunDirectory:
    """Writes a whole run and what follows from it; run.json comes last, so that a complete one has all its files."""
    result: dict[str, Sequence[Record]] = {
        "metrics": summarize(scores, run.tasks, samples),
        "prompt_spreads": prompt_spreads(scores, run.tasks),
        "orthography_gaps": orthography_gaps(scores, run.tasks),
    }
    write_jsonl(path / SAMPLES, (sample.to_dict() for sample in samples))
    write_jsonl(path / SCORES, (score.to_dict() for score in scores))
    write_json(path / RESULT, {name: [each.to_dict() for each in found] for name, found in result.items()})
    write_json(path / RUN, run.to_dict())
    return RunDirectory(path, run)


def slug(name: str) -> str:
    """A model's name as part of a file name."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")[:80] or "model"
