"""Several runs of the same tasks: the learning curve, and how much of a gain is the prompt format.

plain base → base in the adapter's format → adapter: total = format + rest, document by document
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness import stats
from harness.comparison import PairedTask, pair
from harness.metrics import first_prompts
from harness.records import MACRO, Comparison, CurvePoint, FormatSplit, Metric, Series, Side, SplitRow
from harness.runs import RunDirectory


def series(runs: Sequence[RunDirectory], comparisons: Sequence[Comparison]) -> Series:
    """Puts runs in a row, each held against the first.

    comparisons: of the first run with each of the others, in their order.
    """
    first, *rest = runs
    points = _points(0, first, None)
    for number, (run, comparison) in enumerate(zip(rest, comparisons, strict=True), 1):
        points += _points(number, run, comparison)
    splits = [
        split(first, in_format, cand)
        for cand in rest
        for in_format in rest
        if cand is not in_format and _asked_in_format_of(first, in_format, cand)
    ]
    return Series(sides=tuple(Side.of(run.run) for run in runs), points=tuple(points), splits=tuple(splits))


def _asked_in_format_of(base: RunDirectory, other: RunDirectory, cand: RunDirectory) -> bool:
    """Whether a run is the base once more, asked in the prompt format of a candidate that is another model."""
    one, two, three = base.run.spec, other.run.spec, cand.run.spec
    if not base.run.source == other.run.source == cand.run.source == "uzbench":
        return False
    same = all(getattr(one, name) == getattr(two, name) for name in ("model", "revision", "adapter", "quantization"))
    tuned = (three.model, three.adapter) != (one.model, one.adapter)
    return same and tuned and two.prompt_format == three.prompt_format != one.prompt_format


# The curve.


def _points(number: int, run: RunDirectory, comparison: Comparison | None) -> list[CurvePoint]:
    firsts = {task.key for task in first_prompts(run.run.tasks)}
    rows = {(row.task, row.orthography): row for row in comparison.rows if row.primary} if comparison else {}
    points: list[CurvePoint] = []
    seen: set[tuple[str, str]] = set()
    of_alphabet: dict[str, list[Metric]] = {}
    for metric in run.metrics:
        # A task read by several filters stands by its first.
        if not metric.primary or metric.value is None or (metric.task, metric.orthography) in seen:
            continue
        if (metric.task, metric.orthography, metric.prompt_id) not in firsts:
            continue
        seen.add((metric.task, metric.orthography))
        of_alphabet.setdefault(metric.orthography, []).append(metric)
        row = rows.get((metric.task, metric.orthography))
        points.append(
            CurvePoint(
                side=number,
                task=metric.task,
                orthography=metric.orthography,
                metric=metric.metric,
                value=metric.value,
                ci95=metric.ci95,
                delta=row.delta if row else None,
                delta_ci95=row.ci95 if row else None,
                p=row.p if row else None,
                n_pairs=row.n_pairs if row else metric.n,
                higher_is_better=metric.higher_is_better,
            )
        )
    for orthography, metrics in of_alphabet.items():
        if len(metrics) > 1:
            points.append(_macro_point(number, orthography, metrics, comparison))
    return points


def _macro_point(number: int, orthography: str, metrics: Sequence[Metric], comparison: Comparison | None) -> CurvePoint:
    overall = comparison.overall.get(orthography) if comparison else None
    value, low, high, _ = stats.macro(
        [metric.value for metric in metrics if metric.value is not None], [metric.stderr for metric in metrics]
    )
    return CurvePoint(
        side=number,
        task=MACRO,
        orthography=orthography,
        metric="",
        value=value,
        ci95=(max(0.0, low), min(1.0, high)),
        delta=overall.delta if overall else None,
        delta_ci95=overall.ci95 if overall else None,
        p=overall.p if overall else None,
        n_pairs=len(metrics),
    )


# The prompt format.


def split(base: RunDirectory, in_format: RunDirectory, cand: RunDirectory) -> FormatSplit:
    """Splits a gain into what the prompt format does to the base and the rest, on documents scored in all three.

    base: asked in its own format. in_format: the same model in the candidate's. Raises UnpairedError.
    """
    rows: list[SplitRow] = []
    found: dict[str, list[tuple[SplitRow, list[float | None]]]] = {}
    for of_format, of_cand in zip(pair(base, in_format).tasks, pair(base, cand).tasks, strict=True):
        key = of_format.base.primary()
        if key is None or not of_format.is_first:
            continue
        row = _split_row(of_format, of_cand, key)
        if row is not None:
            rows.append(row[0])
            found.setdefault(row[0].orthography, []).append(row)
    for orthography, each in found.items():
        if len(each) > 1:
            rows.append(_macro_split(orthography, each))
    return FormatSplit(
        base=Side.of(base.run), base_in_format=Side.of(in_format.run), cand=Side.of(cand.run), rows=tuple(rows)
    )


def _split_row(
    of_format: PairedTask, of_cand: PairedTask, key: tuple[str, str]
) -> tuple[SplitRow, list[float | None]] | None:
    """The row, and the standard errors of its three differences."""
    one, two, three = of_format.base.values[key], of_format.of_cand(*key), of_cand.of_cand(*key)
    scored = ~(np.isnan(one) | np.isnan(two) | np.isnan(three))
    if not scored.any():
        return None
    groups = [of_format.base.groups[number] for number in np.flatnonzero(scored)]
    one, two, three = one[scored], two[scored], three[scored]
    total, form, rest = (stats.paired(*each, groups) for each in ((one, three), (one, two), (two, three)))
    task = of_format.task
    row = SplitRow(
        task=task.task,
        orthography=task.orthography,
        metric=task.primary,
        total=total.delta,
        total_ci95=total.ci95,
        format=form.delta,
        format_ci95=form.ci95,
        rest=rest.delta,
        rest_ci95=rest.ci95,
        n_pairs=len(groups),
    )
    return row, [total.stderr, form.stderr, rest.stderr]


def _macro_split(orthography: str, rows: Sequence[tuple[SplitRow, list[float | None]]]) -> SplitRow:
    deltas = np.asarray([(row.total, row.format, row.rest) for row, _ in rows]).T
    errors = list(zip(*(stderrs for _, stderrs in rows), strict=True))
    (total, *total_ci, _), (form, *form_ci, _), (rest, *rest_ci, _) = (
        stats.macro(list(each), list(error)) for each, error in zip(deltas, errors, strict=True)
    )
    return SplitRow(
        task=MACRO,
        orthography=orthography,
        metric="",
        total=total,
        total_ci95=(total_ci[0], total_ci[1]),
        format=form,
        format_ci95=(form_ci[0], form_ci[1]),
        rest=rest,
        rest_ci95=(rest_ci[0], rest_ci[1]),
        n_pairs=len(rows),
    )
