"""What one run says of itself, as Markdown tables: scores, prompts, alphabets."""

from __future__ import annotations

from collections.abc import Mapping

from harness.records import MACRO, OrthographyGap
from harness.runs import RunDirectory
from reports.format import NONE, escape, interval, percent, points, probability, table

ORTHOGRAPHY_NAMES = {"latin": "Latin", "cyrillic": "Cyrillic", "latin2026": "Latin 2026"}


def orthography(name: str) -> str:
    return ORTHOGRAPHY_NAMES.get(name) or escape(name)


def baseline(baselines: Mapping[str, float]) -> str:
    """The best of what needs no reading, and which it is."""
    if not baselines:
        return NONE
    name, value = max(baselines.items(), key=lambda each: each[1])
    return f"{percent(value)} {escape(name)}"


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
    return table(["task", "alphabet", "metric", "score", "95 %", "baseline", "n"], lines, "lllrrlr")


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
    return table(header, lines, "lllrrrrr") if lines else ""


def _gaps(run: RunDirectory) -> str:
    lines = [gap_cells(gap) for gap in run.orthography_gaps]
    return table(gap_header(), lines, "lllrrrrrr") if lines else ""


def gap_header() -> list[str]:
    return ["task", "metric", "alphabet", "Latin", "other", "gap", "95 %", "p", "items"]


def gap_cells(gap: OrthographyGap) -> list[str]:
    """One line of a table of gaps."""
    return [
        f"**{MACRO}**" if gap.task == MACRO else escape(gap.task),
        escape(gap.metric),
        orthography(gap.orthography),
        percent(gap.latin),
        percent(gap.other),
        points(gap.delta),
        interval(gap.ci95),
        probability(gap.p),
        f"{gap.n_pairs}" + (" tasks" if gap.task == MACRO else ""),
    ]
