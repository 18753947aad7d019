"""report.md: a comparison for people, in Markdown.

Text of models and data sets is untrusted: it is escaped, never inside a code fence, and cut at a length.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from harness.files import write_text
from harness.records import Comparison, Row, Sample, Score
from harness.runs import RunDirectory
from reports.format import NONE, duration, escape, interval, percent, points, probability, table
from reports.tables import baseline, gap_cells, gap_header, orthography

SHOWN_ITEMS = 10
PROMPT_LENGTH, ANSWER_LENGTH = 600, 400


def write_report(comparison: Comparison, base: RunDirectory, cand: RunDirectory, path: Path) -> Path:
    """Writes the report of one comparison; returns its path."""
    return write_text(path, render(comparison, base, cand))


def render(comparison: Comparison, base: RunDirectory, cand: RunDirectory) -> str:
    """The report as one Markdown text."""
    parts = [
        _head(comparison),
        "## Primary metrics\n\n" + headline_table(comparison),
        _overall(comparison),
        _others(comparison),
        _prompts(comparison),
        _gaps(comparison),
        _items(comparison, base, cand),
        _provenance(base, cand),
    ]
    return "\n".join(part for part in parts if part)


def headline_table(comparison: Comparison) -> str:
    """One line a task and orthography, primary metrics only.

    baseline: the best of what needs no reading.
    """
    return _rows_table([row for row in comparison.rows if row.primary])


def _rows_table(rows: Sequence[Row]) -> str:
    several = len({row.prompt_id for row in rows}) > 1
    header = [
        "task",
        "alphabet",
        "metric",
        "baseline",
        "base",
        "tuned",
        "Δ points",
        "95 %",
        "p",
        "p adjusted",
        "n",
        "+ / −",
    ]
    header += ["detectable", "verdict"]
    lines = []
    for row in rows:
        name = escape(row.task) + (f" {escape(row.prompt_id)}" if several else "")
        metric = row.metric + (f" ({row.filter})" if row.filter != "none" else "")
        unscored = f" ({row.n_unscored} unscored)" if row.n_unscored else ""
        lines.append(
            [
                name,
                orthography(row.orthography),
                escape(metric),
                baseline(row.baselines),
                percent(row.base),
                percent(row.cand),
                points(row.delta),
                interval(row.ci95),
                probability(row.p),
                probability(row.p_adjusted),
                f"{row.n_pairs}{unscored}",
                f"{row.gained} / {row.lost}",
                NONE if row.mde is None else f"± {points(row.mde).lstrip('+')}",
                f"**{row.verdict}**" if row.verdict in ("better", "worse") else row.verdict,
            ]
        )
    return table(header, lines, "llllrrrrrrrrrl")


def _head(comparison: Comparison) -> str:
    base, cand = comparison.base, comparison.cand
    lines = [f"# {escape(cand.model_name)} against {escape(base.model_name)}", ""]
    if comparison.asked_differently:
        lines += [
            f"**Asked differently:** the base in the format `{base.prompt_format}`, the candidate in "
            f"`{cand.prompt_format}`.",
            "",
        ]
    lines += [f"> {escape(note)}\n" for note in comparison.notes]
    primary = [row for row in comparison.rows if row.primary]
    counted = {verdict: sum(row.verdict == verdict for row in primary) for verdict in ("better", "worse", "same")}
    rest = len(primary) - sum(counted.values())
    lines.append(
        f"Of {len(primary)} primary results {counted['better']} are better, {counted['worse']} worse, "
        f"{counted['same']} the same within ± {points(comparison.margin).lstrip('+')} points, and {rest} unclear: "
        "the data can't tell."
    )
    return "\n".join(lines) + "\n"


def _overall(comparison: Comparison) -> str:
    if not comparison.overall:
        return ""
    lines = [
        [
            orthography(each.orthography),
            str(each.n_tasks),
            percent(each.base),
            percent(each.cand),
            points(each.delta),
            interval(each.ci95),
            probability(each.p),
            each.verdict,
        ]
        for each in comparison.overall.values()
    ]
    header = ["alphabet", "tasks", "base", "tuned", "Δ points", "95 %", "p", "verdict"]
    return "## Macro average\n\nEach task counts the same.\n\n" + table(header, lines, "lrrrrrrl")


def _others(comparison: Comparison) -> str:
    others = [row for row in comparison.rows if not row.primary]
    if not others:
        return ""
    return "## Other metrics\n\nDescriptive: their p-values are not adjusted.\n\n" + _rows_table(others)


def _prompts(comparison: Comparison) -> str:
    if not comparison.prompt_rows:
        return ""
    lines = []
    for row in comparison.prompt_rows:
        base, cand = row.base, row.cand
        lines.append(
            [
                escape(base.task) + (f" {escape(base.form)}" if base.form else ""),
                orthography(base.orthography),
                escape(base.metric),
                str(len(base.prompts)),
                f"{percent(base.mean)} ± {points(base.sd).lstrip('+')}",
                f"{percent(base.worst[1])} {escape(base.worst[0])}",
                f"{percent(cand.mean)} ± {points(cand.sd).lstrip('+')}",
                f"{percent(cand.worst[1])} {escape(cand.worst[0])}",
                points(row.delta),
                interval(row.ci95),
                probability(row.p),
                f"{points(row.low)} … {points(row.high)}",
                row.verdict,
            ]
        )
    header = ["task", "alphabet", "metric", "prompts", "base mean ± sd", "worst", "tuned mean ± sd", "worst"]
    header += ["Δ points", "95 %", "p", "Δ by prompt", "verdict"]
    return (
        "## Prompts\n\nThe same items under several prompts; each item counts as the mean of its prompts. The p-values "
        "are not adjusted.\n\n" + table(header, lines, "lllrrrrrrrrrl")
    )


def _gaps(comparison: Comparison) -> str:
    names = {"base": comparison.base.model_name, "cand": comparison.cand.model_name}
    lines = [
        [escape(names[side]), *gap_cells(gap)] for side, gaps in comparison.orthography_gaps.items() for gap in gaps
    ]
    if not lines:
        return ""
    return "## Alphabets\n\nThe same items in another alphabet, paired by item.\n\n" + table(
        ["model", *gap_header()], lines, "llllrrrrrr"
    )


def _items(comparison: Comparison, base: RunDirectory, cand: RunDirectory) -> str:
    primary = {
        (row.task, row.orthography, row.prompt_id): (row.metric, row.filter, row.higher_is_better)
        for row in comparison.rows
        if row.primary
    }
    one, two = (_primary_scores(run, primary) for run in (base, cand))
    answers = {_key(sample): sample for sample in cand.samples}
    gained: list[tuple[Sample, Sample, Score, Score]] = []
    lost: list[tuple[Sample, Sample, Score, Score]] = []
    for sample in base.samples:
        key = _key(sample)
        if key not in one or key not in two:
            continue
        before, after = one[key].value, two[key].value
        if before is None or after is None or before == after:
            continue
        better = (after > before) == primary[key[0]][2]
        (gained if better else lost).append((sample, answers[key], one[key], two[key]))
    parts = []
    for title, items in (("Gained", gained), ("Lost", lost)):
        # A fixed draw: the report of the same runs is the same.
        shown = random.Random(0).sample(items, min(SHOWN_ITEMS, len(items)))
        shown.sort(key=lambda item: items.index(item))
        parts.append(f"## {title}\n\n{len(shown)} of {len(items)} items.\n")
        if shown:
            header = ["item", "question", "wanted", f"base: {escape(base.run.model_name)}"]
            header.append(f"tuned: {escape(cand.run.model_name)}")
            parts.append(table(header, [_item_line(*item) for item in shown]))
    return "\n".join(parts)


_ItemKey = tuple[tuple[str, str, str], str, int]


def _key(record: Sample | Score) -> _ItemKey:
    return (record.task, record.orthography, record.prompt_id), record.doc_hash, record.occurrence


def _primary_scores(
    run: RunDirectory, primary: dict[tuple[str, str, str], tuple[str, str, bool]]
) -> dict[_ItemKey, Score]:
    return {
        _key(score): score
        for score in run.scores
        if score.task_key in primary and (score.metric, score.filter) == primary[score.task_key][:2]
    }


def _item_line(before: Sample, after: Sample, one: Score, two: Score) -> list[str]:
    name = before.item_id or before.doc_hash[:10]
    alphabet = f" ({orthography(before.orthography)})" if before.orthography != "latin" else ""
    return [
        escape(name) + alphabet,
        escape(before.prompt, PROMPT_LENGTH),
        escape(before.target, ANSWER_LENGTH),
        _answer(before, one),
        _answer(after, two),
    ]


def _answer(sample: Sample, score: Score) -> str:
    said = "(no answer)" if sample.response is None else escape(sample.response, ANSWER_LENGTH) or "(empty)"
    return f"{said} · {score.value:.2f}" if score.value not in (0.0, 1.0) else said


def _provenance(base: RunDirectory, cand: RunDirectory) -> str:
    runs = [base.run, cand.run]

    def line(name: str, values: Sequence[object]) -> list[str]:
        return [name, *(escape(str(value)) if value not in (None, "") else NONE for value in values)]

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
        line("machine", [_machine(run.hardware) for run in runs]),
        line("commit", [run.git_commit for run in runs]),
        line("versions", [", ".join(f"{name} {value}" for name, value in run.versions.items()) for run in runs]),
    ]
    return "## Provenance\n\n" + table(["", "base", "tuned"], rows)


def _machine(hardware: dict[str, object]) -> str:
    if not hardware:
        return ""
    parts = [f"{hardware.get('processor')}, {hardware.get('cores')} cores, {hardware.get('memory_gib')} GiB"]
    if "gpu" in hardware:
        parts.append(f"{hardware.get('gpus')} × {hardware['gpu']}")
    return "; ".join(parts)
