"""report.md: a comparison for people, in Markdown, and its plots as SVG files beside it.

Text of models and data sets is untrusted: it is escaped, never inside a code fence, and cut at a length.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.files import write_text
from harness.records import Comparison, Sample, Series
from harness.runs import RunDirectory
from reports import plots, tables
from reports.format import MARKDOWN, escape, table
from reports.items import Pair, pairs, texts
from reports.judge import judged_text, judgings_of
from reports.tables import orthography

SHOWN_ITEMS = 10
PROMPT_LENGTH, ANSWER_LENGTH = 600, 400
PLOTS = "plots"
"""The folder of the plots, beside the report."""


def write_report(comparison: Comparison, base: RunDirectory, cand: RunDirectory, path: Path) -> Path:
    """Writes the report of one comparison, and plots/*.svg beside it; returns the report's path."""
    drawn = plots.of_comparison(comparison)
    _write_plots(drawn, path)
    return write_text(path, render(comparison, base, cand, drawn))


def render(
    comparison: Comparison, base: RunDirectory, cand: RunDirectory, drawn: Mapping[str, plots.Plot] | None = None
) -> str:
    """The report as one Markdown text.

    drawn: the plots that lie beside it as files, by name; without them it shows none.
    """
    images = {name: _image(name, plot) for name, plot in (drawn or {}).items()}
    others = [row for row in comparison.rows if not row.primary]
    unadjusted = "their p-values are not adjusted."
    parts = [
        _head(comparison),
        _section("Primary metrics", images.get("deltas"), headline_table(comparison), images.get("scores")),
        _section("Macro average", "Each task counts the same.\n", tables.overall_table(comparison, MARKDOWN)),
        _section(
            "Other metrics", f"Descriptive: {unadjusted}\n", tables.rows_table(others, MARKDOWN) if others else ""
        ),
        _section(
            "Prompts",
            "The same items under several prompts; each item counts as the mean of its prompts. The p-values are not "
            "adjusted.\n",
            tables.prompts_table(comparison, MARKDOWN),
        ),
        _section(
            "Alphabets",
            "The same items in another alphabet, paired by item.\n",
            tables.gaps_table(comparison, MARKDOWN),
            images.get("alphabets"),
        ),
        _section(
            "Slices",
            f"Parts of the tasks, in the primary metrics. Descriptive: {unadjusted}\n",
            tables.slices_table(comparison, MARKDOWN),
        ),
        _section("The judge", None, judged_text(comparison.judged, judgings_of(base, cand), MARKDOWN)),
        _items(comparison, base, cand),
        _section("Provenance", None, tables.provenance_table(base, cand, MARKDOWN)),
    ]
    return "\n".join(part for part in parts if part)


def render_series(series: Series, drawn: Mapping[str, plots.Plot] | None = None) -> str:
    """Several runs as Markdown: their learning curve, and what of a gain is the prompt format.

    drawn: as in `render`.
    """
    images = [_image(name, plot) for name, plot in (drawn or {}).items()]
    parts = [
        _section(
            "Runs",
            "In the order given; differences are to the first, paired by document, and their p-values are not "
            "adjusted.\n",
            tables.curve_table(series, MARKDOWN),
            *images,
        ),
        *(
            _section(
                "Format and the rest",
                f"{tables.split_sentence(split, MARKDOWN)}\n",
                tables.split_table(split, MARKDOWN),
            )
            for split in series.splits
        ),
    ]
    return "\n".join(part for part in parts if part)


def write_series(series: Series, path: Path) -> Path:
    """Writes what `render_series` says, and its plots beside it; returns the path of the text."""
    drawn = {f"curve-{number}": plot for number, plot in enumerate(plots.of_series(series), 1)}
    _write_plots(drawn, path)
    return write_text(path, render_series(series, drawn))


def headline_table(comparison: Comparison) -> str:
    """One line a task and orthography, primary metrics only."""
    return tables.rows_table([row for row in comparison.rows if row.primary], MARKDOWN)


def _write_plots(drawn: Mapping[str, plots.Plot], path: Path) -> None:
    for name, plot in drawn.items():
        write_text(path.parent / PLOTS / f"{name}.svg", plots.standalone(plot.svg()))


def _image(name: str, plot: plots.Plot) -> str:
    return f"![{escape(plot.title)}]({PLOTS}/{name}.svg)\n"


def _section(heading: str, before: str | None, shown: str, *after: str | None) -> str:
    """A heading and what stands below it; nothing where there is nothing to show."""
    return "\n".join([f"## {heading}\n", *(part for part in (before, shown, *after) if part)]) if shown else ""


def _head(comparison: Comparison) -> str:
    asked = tables.asked_differently(comparison, MARKDOWN)
    lines = [f"# {tables.title(comparison, escape)}", "", *([asked, ""] if asked else [])]
    lines += [f"> {escape(note)}\n" for note in comparison.notes]
    return "\n".join([*lines, tables.headline(comparison), ""])


def _items(comparison: Comparison, base: RunDirectory, cand: RunDirectory) -> str:
    everything = pairs(comparison, base, cand)
    parts = []
    for title, outcome in (("Gained", "gained"), ("Lost", "lost")):
        items = [pair for pair in everything if pair.outcome == outcome]
        # A fixed draw: the report of the same runs is the same.
        places = sorted(random.Random(0).sample(range(len(items)), min(SHOWN_ITEMS, len(items))))
        shown = [items[place] for place in places]
        parts.append(f"## {title}\n\n{len(shown)} of {len(items)} items.\n")
        if shown:
            parts.append(items_table(shown, base, cand))
    return "\n".join(parts)


def items_table(shown: Sequence[Pair], base: RunDirectory, cand: RunDirectory) -> str:
    """One line an item: what was asked and wanted, and what either run answered."""
    header = ["item", "question", "wanted", f"base: {escape(base.run.model_name)}"]
    header.append(f"tuned: {escape(cand.run.model_name)}")
    said = texts(shown, base, cand)
    return table(header, [_item_line(pair, *both) for pair, both in zip(shown, said, strict=True)])


def _item_line(pair: Pair, before: Sample, after: Sample) -> list[str]:
    alphabet = f" ({orthography(before.orthography)})" if before.orthography != "latin" else ""
    return [
        escape(before.item_id or before.doc_hash[:10]) + alphabet,
        escape(before.prompt, PROMPT_LENGTH),
        escape(before.target, ANSWER_LENGTH),
        _answer(before, pair.one),
        _answer(after, pair.two),
    ]


def _answer(sample: Sample, score: float | None) -> str:
    said = "(no answer)" if sample.response is None else escape(sample.response, ANSWER_LENGTH) or "(empty)"
    return said if score in (None, 0.0, 1.0) else f"{said} · {score:.2f}"
