"""Judging runs one answer at a time: grades become scores of the run, beside those that lm-eval gave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from harness import stats
from harness.errors import UsageError
from harness.judge import calibration, probes, rubrics
from harness.judge.agreement import corrected_rate
from harness.judge.asking import Case, Docket, Settings, host_of, put_before
from harness.judge.records import PASS, Agreement, JudgedRate, Judging, ProbeClass, write_judging
from harness.judge.rubrics import Rubric
from harness.judge.verdicts import Verdict
from harness.metrics import TaskKey, by_task
from harness.records import Sample, Score, TaskRecord
from harness.runs import RunDirectory, write_run
from harness.scoring import NO_ANSWER
from tasks_uz import catalog
from tasks_uz.judged import Judged, judged_documents

NOT_ASKED = "not judged (--limit)"


def metric_names(rubric: Rubric) -> tuple[str, ...]:
    """The metrics that a rubric gives: a grade for each criterion, where it grades, and whether an answer passes."""
    return (*(f"judge_{name}" for name in rubric.criteria if rubric.graded), PASS)


@dataclass(frozen=True, slots=True)
class Bench:
    """The answers of one run that are judged under one rubric. tasks: their samples, and what is known of each."""

    rubric: Rubric
    tasks: dict[TaskKey, list[tuple[Sample, Judged]]]


def rubric_of(settings: Settings, task: str) -> Rubric | None:
    """The pointwise rubric that a task is judged under; None where there is none for it."""
    if settings.rubric == "auto":
        return rubrics.for_task(task, settings.language)
    rubric = rubrics.named(settings.rubric, settings.language)
    return rubric if rubric.kind == "pointwise" and (not rubric.tasks or task in rubric.tasks) else None


def benches(run: RunDirectory, settings: Settings) -> list[Bench]:
    """What of a run is judged, by rubric.

    Raises UsageError where nothing is.
    """
    found: dict[str, Bench] = {}
    asked = by_task(run.samples)
    for task in run.run.tasks:
        rubric = rubric_of(settings, task.task) if task.output_type == "generate_until" else None
        if rubric is not None:
            bench = found.setdefault(rubric.digest, Bench(rubric, {}))
            bench.tasks[task.key] = described(task, asked[task.key])
    if not found:
        names = ", ".join(sorted({task.task for task in run.run.tasks}))
        which = "a rubric" if settings.rubric == "auto" else f"for rubric {settings.rubric!r}"
        raise UsageError(
            f"{run.path} has no task with written answers that is {which} (it asked {names}). "
            "Try: uzbench run --tasks uz_open, or name another rubric: --rubric FILE.md"
        )
    return list(found.values())


def described(task: TaskRecord, samples: Iterable[Sample]) -> list[tuple[Sample, Judged]]:
    """Samples with what a judge is shown beside the answer: of tasks of ours the document, else prompt and target."""
    info = catalog.tasks().get(task.lm_eval_task)
    documents = judged_documents(info) if info else {}
    return [(sample, documents.get(sample.item_id) or _as_asked(sample)) for sample in samples]


def _as_asked(sample: Sample) -> Judged:
    return Judged(sample.prompt, references=(sample.target,) if sample.target else ())


def judge_runs(
    runs: Sequence[RunDirectory], settings: Settings, *, progress: bool = False
) -> list[tuple[RunDirectory, list[Judging]]]:
    """Judges every answer of runs, and writes the scores into their directories.

    Raises UsageError, DataError, BudgetError, NetworkError; nothing is written into a run before all of it is judged.
    """
    work = [(run, bench) for run in runs for bench in benches(run, settings)]
    used = {bench.rubric.digest: bench.rubric for _, bench in work}
    labels = (
        calibration.read_labels(settings.calibrate, lambda task: _label_rubric(settings, task, used))
        if settings.calibrate
        else []
    )
    kinds = {
        key: probes.kinds_of(rubric, [task for _, each in work for task, *_ in each.tasks])
        for key, rubric in used.items()
    }

    def cases() -> Iterator[Case]:
        yield from calibration.label_cases(labels)
        for rubric in used.values() if settings.probes else ():
            yield from probes.probe_cases(rubric, kinds[rubric.digest])
        for number, (_, bench) in enumerate(work):
            yield from _cases(number, bench, settings.limit)

    job = [*(run.run.run_id for run in runs), *used]
    docket = put_before(cases, settings, job=job, folder=runs[0].path.parent, progress=progress)
    agreed = calibration.agreement(settings.calibrate, labels, docket.verdicts) if settings.calibrate else None
    found = []
    for run in runs:
        judgings, scores, records = [], [], {task.key: task for task in run.run.tasks}
        for number, (other, bench) in enumerate(work):
            if other is not run:
                continue
            planted: tuple[ProbeClass, ...] = ()
            if settings.probes:
                planted = probes.read_probes(bench.rubric, kinds[bench.rubric.digest], docket.verdicts)
            some = _scores(number, bench, settings, docket)
            judgings.append(_judging(number, bench, settings, docket, some, planted, agreed))
            scores += some
            for key in bench.tasks:
                records[key] = _judged_task(records[key], bench.rubric, judgings[-1].name)
        found.append((_written(run, scores, records, judgings), judgings))
    return found


def _label_rubric(settings: Settings, task: str, used: Mapping[str, Rubric]) -> Rubric | None:
    """Labels without a task are for the one rubric that is in use."""
    if not task and len(used) == 1:
        return next(iter(used.values()))
    return rubric_of(settings, task)


def _cases(number: int, bench: Bench, limit: int | None) -> Iterator[Case]:
    for key, each in bench.tasks.items():
        for place, (sample, judged) in enumerate(each[:limit]):
            if sample.response is not None:
                yield Case((number, key, place), bench.rubric, judged, (sample.response,))


def _scores(number: int, bench: Bench, settings: Settings, docket: Docket) -> list[Score]:
    rubric, found = bench.rubric, []
    for key, each in bench.tasks.items():
        for place, (sample, _) in enumerate(each):
            if settings.limit is not None and place >= settings.limit:
                verdict = Verdict(reason=NOT_ASKED)
            elif sample.response is None:
                verdict = Verdict(reason=NO_ANSWER)
            else:
                verdict = docket.verdicts[number, key, place]
            said = {"scorer": settings.judge, "explanation": verdict.explanation or None}
            values = _values(rubric, verdict)
            found += [Score.of(sample, metric, value, verdict.reason, **said) for metric, value in values.items()]
    return found


def _values(rubric: Rubric, verdict: Verdict) -> dict[str, float | None]:
    grades = verdict.grades
    if grades is None:
        return dict.fromkeys(metric_names(rubric))
    graded = {f"judge_{name}": (grades[name] - low) / (high - low) for name, (low, high) in rubric.criteria.items()}
    passed = float(grades[rubric.overall] >= rubric.passing)
    return {**(graded if rubric.graded else {}), PASS: passed}


def _judging(
    number: int,
    bench: Bench,
    settings: Settings,
    docket: Docket,
    scores: Sequence[Score],
    planted: tuple[ProbeClass, ...],
    agreed: Agreement | None,
) -> Judging:
    unscored = Counter(score.unscored_reason for score in scores if score.metric == PASS and score.unscored_reason)
    return Judging(
        judge=settings.judge,
        answered_by=tuple(sorted(docket.answered_by)),
        host=host_of(settings),
        rubric=bench.rubric.title,
        metrics=metric_names(bench.rubric),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        rates=tuple(_rate(key, scores, agreed) for key in bench.tasks),
        unscored=dict(unscored),
        n_neutralised=_among(docket.neutralised, number),
        n_cut=_among(docket.cut, number),
        usd=docket.usd,
        probes=planted,
        agreement=agreed,
    )


def _among(keys: Iterable[Any], number: int) -> int:
    """How many keys are of a bench's own answers; planted answers and labels have keys of another form."""
    return sum(key[0] == number for key in keys)


def _rate(key: TaskKey, scores: Sequence[Score], agreed: Agreement | None) -> JudgedRate:
    mine = [score for score in scores if score.metric == PASS and score.task_key == key]
    known = [score for score in mine if score.value is not None]
    n_unscored = len(mine) - len(known)
    if not known:
        return JudgedRate(*key, 0, n_unscored, None, None, why_not="no answer has a verdict")
    values = np.asarray([score.value for score in known], dtype=np.float64)
    found = stats.estimate(values, [score.group for score in known])
    corrected: tuple[float, tuple[float, float]] | str = "no human labels (--calibrate)"
    if agreed is not None:
        # Answers that share a passage are worth fewer independent ones.
        spread = found.mean * (1 - found.mean)
        n = spread / found.stderr**2 if found.stderr and spread and found.n_clusters < len(known) else len(known)
        corrected = corrected_rate(found.mean, n, agreed.sensitivity, agreed.specificity)
    told = (None, None, corrected) if isinstance(corrected, str) else (*corrected, None)
    return JudgedRate(*key, len(known), n_unscored, found.mean, found.ci95, *told)


def _judged_task(task: TaskRecord, rubric: Rubric, name: str) -> TaskRecord:
    metrics = metric_names(rubric)
    return replace(
        task,
        metrics={**task.metrics, **dict.fromkeys(metrics, True)},
        judges={**task.judges, **dict.fromkeys(metrics, name)},
    )


def _written(
    run: RunDirectory, scores: Sequence[Score], records: Mapping[TaskKey, TaskRecord], judgings: Sequence[Judging]
) -> RunDirectory:
    written = with_scores(run, scores, records)
    for judging in judgings:
        write_judging(run.path, judging)
    return written


def with_scores(run: RunDirectory, scores: Sequence[Score], records: Mapping[TaskKey, TaskRecord]) -> RunDirectory:
    """Writes scores into a run, in the place of those of the same tasks and metrics."""
    given = {(score.task_key, score.metric) for score in scores}
    kept = [score for score in run.scores if (score.task_key, score.metric) not in given]
    tasks = tuple(records[task.key] for task in run.run.tasks)
    return write_run(run.path, replace(run.run, tasks=tasks), run.samples, [*kept, *scores])


def write_sheet(run: RunDirectory, settings: Settings, path: Path) -> Path:
    """Writes answers of a run for people to label; returns the path."""
    rows = [
        (key[0], judged, sample.response, sample.slice)
        for bench in benches(run, settings)
        for key, each in bench.tasks.items()
        for sample, judged in each
        if sample.response is not None
    ]
    return calibration.write_sheet(path, rows)
