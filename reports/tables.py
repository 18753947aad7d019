"""What runs and comparisons say of themselves, as tables and sentences: once, for Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.records import MACRO, Comparison, FormatSplit, OrthographyGap, Row, Series
from harness.runs import RunDirectory
from reports.format import (
    MARKDOWN,
    NONE,
    Text,
    Writer,
    duration,
    escape,
    interval,
    percent,
    plus_minus,
    points,
    probability,
)

ORTHOGRAPHY_NAMES = {"latin": "Latin", "cyrillic": "Cyrillic", "latin2026": "Latin 2026"}
# Long enough for every name that a person would give.
NAME_LENGTH = 200


def orthography(name: str, text: Text = escape) -> str:
    return ORTHOGRAPHY_NAMES.get(name) or text(name, NAME_LENGTH)


def baseline(baselines: Mapping[str, float], text: Text = escape) -> str:
    """The best of what needs no reading, and which it is."""
    if not baselines:
        return NONE
    name, value = max(baselines.items(), key=lambda each: each[1])
    return f"{percent(value)} {text(name, NAME_LENGTH)}"


# One run.


def run_tables(run: RunDirectory) -> str:
    """Primary metrics, then the spread over prompts and the gaps between alphabets where there are any."""
    limited = ", limited: a part of the documents" if run.run.limited else ""
    parts = (f"{escape(run.run.model_name)}{limited}\n", _scores(run), _prompts(run), _gaps(run))
    return "\n".join(part for part in parts if part)


def _scores(run: RunDirectory) -> str:
    lines = [
        [
            escape(metric.task) + (f" {escape(metric.prompt_id)}" if metric.prompt_id != "p1" else ""),
            orthography(metric.orthography),
            escape(metric.metric),
            percent(metric.value),
            interval(metric.ci95).replace("+", ""),
            baseline(metric.baselines),
            f"{metric.n}" + (f" ({metric.n_unscored} unscored)" if metric.n_unscored else ""),
        ]
        for metric in run.metrics
        if metric.primary
    ]
    return MARKDOWN.table(["task", "alphabet", "metric", "score", "95 %", "baseline", "n"], lines, "lllrrlr")


def _prompts(run: RunDirectory) -> str:
    lines = [
        [
            escape(spread.task) + (f" {escape(spread.form)}" if spread.form else ""),
            orthography(spread.orthography),
            escape(spread.metric),
            str(len(spread.prompts)),
            percent(spread.mean),
            interval(spread.ci95).replace("+", ""),
            points(spread.sd).lstrip("+"),
            f"{percent(spread.worst[1])} {escape(spread.worst[0])}",
        ]
        for spread in run.prompt_spreads
    ]
    header = ["task", "alphabet", "metric", "prompts", "mean", "95 %", "sd", "worst"]
    return MARKDOWN.table(header, lines, "lllrrrrr") if lines else ""


def _gaps(run: RunDirectory) -> str:
    lines = [_gap_cells(gap, MARKDOWN) for gap in run.orthography_gaps]
    return MARKDOWN.table(_GAP_HEADER, lines, "lllrrrrrr") if lines else ""


_GAP_HEADER = ["task", "metric", "alphabet", "Latin", "other", "gap", "95 %", "p", "items"]


def _gap_cells(gap: OrthographyGap, to: Writer) -> list[str]:
    return [
        _task(gap.task, to),
        to.text(gap.metric, NAME_LENGTH) or NONE,
        orthography(gap.orthography, to.text),
        percent(gap.latin),
        percent(gap.other),
        points(gap.delta),
        interval(gap.ci95),
        probability(gap.p),
        f"{gap.n_pairs}" + (" tasks" if gap.task == MACRO else ""),
    ]


def _task(name: str, to: Writer, *more: str) -> str:
    if name == MACRO:
        return to.strong(MACRO)
    return " ".join(to.text(part, NAME_LENGTH) for part in (name, *more) if part)


# Two runs.


def title(comparison: Comparison, text: Text) -> str:
    names = comparison.cand.model_name, comparison.base.model_name
    return " against ".join(text(name, NAME_LENGTH) for name in names)


def asked_differently(comparison: Comparison, to: Writer) -> str:
    """What stands before any number where the two were asked in different formats, else nothing."""
    if not comparison.asked_differently:
        return ""
    base, cand = (to.code(side.prompt_format) for side in (comparison.base, comparison.cand))
    return f"{to.strong('Asked differently:')} the base in the format {base}, the candidate in {cand}."


def headline(comparison: Comparison) -> str:
    """The primary results in one sentence."""
    primary = [row for row in comparison.rows if row.primary]
    counted = {verdict: sum(row.verdict == verdict for row in primary) for verdict in ("better", "worse", "same")}
    rest = len(primary) - sum(counted.values())
    return (
        f"Of {len(primary)} primary results {counted['better']} are better, {counted['worse']} worse, "
        f"{counted['same']} the same within {plus_minus(comparison.margin)} points, and {rest} unclear: "
        "the data can't tell."
    )


def rows_table(rows: Sequence[Row], to: Writer) -> str:
    """One line a row of a comparison. baseline: the best of what needs no reading."""
    several = len({row.prompt_id for row in rows}) > 1
    header = ["task", "alphabet", "metric", "baseline", "base", "tuned", "Δ points", "95 %", "p", "p adjusted", "n"]
    header += ["+ / −", "detectable", "verdict"]
    lines = []
    for row in rows:
        metric = row.metric + (f" ({row.filter})" if row.filter != "none" else "")
        unscored = f" ({row.n_unscored} unscored)" if row.n_unscored else ""
        lines.append(
            [
                _task(row.task, to, row.prompt_id if several else ""),
                orthography(row.orthography, to.text),
                to.text(metric, NAME_LENGTH),
                baseline(row.baselines, to.text),
                percent(row.base),
                percent(row.cand),
                points(row.delta),
                interval(row.ci95),
                probability(row.p),
                probability(row.p_adjusted),
                f"{row.n_pairs}{unscored}",
                f"{row.gained} / {row.lost}",
                NONE if row.mde is None else plus_minus(row.mde),
                to.verdict(row.verdict),
            ]
        )
    return to.table(header, lines, "llllrrrrrrrrrl")


def overall_table(comparison: Comparison, to: Writer) -> str:
    lines = [
        [
            orthography(each.orthography, to.text),
            str(each.n_tasks),
            percent(each.base),
            percent(each.cand),
            points(each.delta),
            interval(each.ci95),
            probability(each.p),
            to.verdict(each.verdict),
        ]
        for each in comparison.overall.values()
    ]
    header = ["alphabet", "tasks", "base", "tuned", "Δ points", "95 %", "p", "verdict"]
    return to.table(header, lines, "lrrrrrrl") if lines else ""


def prompts_table(comparison: Comparison, to: Writer) -> str:
    lines = []
    for row in comparison.prompt_rows:
        base, cand = row.base, row.cand
        lines.append(
            [
                _task(base.task, to, base.form),
                orthography(base.orthography, to.text),
                to.text(base.metric, NAME_LENGTH),
                str(len(base.prompts)),
                f"{percent(base.mean)} {plus_minus(base.sd)}",
                f"{percent(base.worst[1])} {to.text(base.worst[0], NAME_LENGTH)}",
                f"{percent(cand.mean)} {plus_minus(cand.sd)}",
                f"{percent(cand.worst[1])} {to.text(cand.worst[0], NAME_LENGTH)}",
                points(row.delta),
                interval(row.ci95),
                probability(row.p),
                f"{points(row.low)} … {points(row.high)}",
                to.verdict(row.verdict),
            ]
        )
    header = ["task", "alphabet", "metric", "prompts", "base mean ± sd", "worst", "tuned mean ± sd", "worst"]
    header += ["Δ points", "95 %", "p", "Δ by prompt", "verdict"]
    return to.table(header, lines, "lllrrrrrrrrrl") if lines else ""


def gaps_table(comparison: Comparison, to: Writer) -> str:
    names = {"base": comparison.base.model_name, "cand": comparison.cand.model_name}
    lines = [
        [to.text(names[side], NAME_LENGTH), *_gap_cells(gap, to)]
        for side, gaps in comparison.orthography_gaps.items()
        for gap in gaps
    ]
    return to.table(["model", *_GAP_HEADER], lines, "llllrrrrrr") if lines else ""


def slices_table(comparison: Comparison, to: Writer) -> str:
    several = len({each.prompt_id for each in comparison.slices}) > 1
    lines = [
        [
            _task(each.task, to, each.prompt_id if several else ""),
            orthography(each.orthography, to.text),
            to.text(each.metric, NAME_LENGTH),
            to.text(each.by, NAME_LENGTH),
            to.text(each.name, NAME_LENGTH) or NONE,
            percent(each.base),
            percent(each.cand),
            points(each.delta),
            interval(each.ci95),
            probability(each.p),
            str(each.n_pairs),
            f"{each.gained} / {each.lost}",
        ]
        for each in comparison.slices
    ]
    header = ["task", "alphabet", "metric", "by", "part", "base", "tuned", "Δ points", "95 %", "p", "n", "+ / −"]
    return to.table(header, lines, "lllllrrrrrrr") if lines else ""


def provenance_table(base: RunDirectory, cand: RunDirectory, to: Writer) -> str:
    runs = [base.run, cand.run]

    def line(name: str, values: Sequence[object]) -> list[str]:
        return [name, *(to.text(str(value)) if value not in (None, "") else NONE for value in values)]

    rows = [
        line("run", [run.run_id for run in runs]),
        line("model", [run.spec.model for run in runs]),
        line("revision", [run.spec.revision for run in runs]),
        line("adapter", [run.spec.adapter for run in runs]),
        line("quantization", [run.spec.quantization for run in runs]),
        line("dtype", [run.spec.dtype for run in runs]),
        line("backend", [run.spec.backend for run in runs]),
        line("prompt format", [run.spec.prompt_format for run in runs]),
        line("model key", [run.model_key[:16] for run in runs]),
        line("asked", [run.created for run in runs]),
        line("took", [duration(sum(run.timings.values())) for run in runs]),
        line("machine", [machine(run.hardware) for run in runs]),
        line("commit", [run.git_commit for run in runs]),
        line("versions", [", ".join(f"{name} {value}" for name, value in run.versions.items()) for run in runs]),
    ]
    return to.table(["", "base", "tuned"], rows)


def machine(hardware: Mapping[str, object]) -> str:
    """A computer in a few words, still to be escaped."""
    if not hardware:
        return ""
    parts = [f"{hardware.get('processor')}, {hardware.get('cores')} cores, {hardware.get('memory_gib')} GiB"]
    if "gpu" in hardware:
        parts.append(f"{hardware.get('gpus')} × {hardware['gpu']}")
    return "; ".join(parts)


# Several runs.


def curve_table(series: Series, to: Writer) -> str:
    """One line a run and task. Differences are to the first run."""
    lines = []
    for point in series.points:
        lines.append(
            [
                f"{point.side + 1}. {to.text(series.sides[point.side].model_name, NAME_LENGTH)}",
                _task(point.task, to),
                orthography(point.orthography, to.text),
                to.text(point.metric, NAME_LENGTH) or NONE,
                percent(point.value),
                interval(point.ci95).replace("+", ""),
                points(point.delta),
                interval(point.delta_ci95),
                probability(point.p),
                f"{point.n_pairs}" + (" tasks" if point.task == MACRO else ""),
            ]
        )
    header = ["run", "task", "alphabet", "metric", "score", "95 %", "Δ points", "95 %", "p", "n"]
    return to.table(header, lines, "llllrrrrrr") if lines else ""


def split_sentence(split: FormatSplit, to: Writer) -> str:
    base, in_format, cand = (
        f"{to.text(side.model_name, NAME_LENGTH)} ({to.text(side.prompt_format, NAME_LENGTH)})"
        for side in (split.base, split.base_in_format, split.cand)
    )
    return (
        f"From {base} to {cand}. Format: what asking {in_format} changes. Rest: what the candidate adds, both asked "
        "in its format. Total = format + rest."
    )


def split_table(split: FormatSplit, to: Writer) -> str:
    lines = [
        [
            _task(row.task, to),
            orthography(row.orthography, to.text),
            to.text(row.metric, NAME_LENGTH) or NONE,
            points(row.total),
            interval(row.total_ci95),
            points(row.format),
            interval(row.format_ci95),
            points(row.rest),
            interval(row.rest_ci95),
            f"{row.n_pairs}" + (" tasks" if row.task == MACRO else ""),
        ]
        for row in split.rows
    ]
    return to.table(
        ["task", "alphabet", "metric", "total", "95 %", "format", "95 %", "rest", "95 %", "n"], lines, "lllrrrrrrr"
    )
