"""report.html: a comparison for people, as one page that needs no network.

Tables and plots need no script. The items of both runs lie in the page as JSON and are browsed by page.js:

    {"tasks": ["uz_topic"], "alphabets": ["Latin"], "slices": [""], "outcomes": [["gained", "gained"]],
     "items": [{"task": 0, "alphabet": 0, "slice": 0, "outcome": 0, "id": "topic-001", "prompt": "Savol …",
                "target": "sport", "base": "siyosat", "base_score": "acc 0", "tuned": "sport", "tuned_score": "acc 1"}]}

A page stays below 15 MB whatever the runs: of many items it holds a fixed sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.files import write_text
from harness.records import Comparison, Sample, Series
from harness.runs import RunDirectory
from reports import plots, tables
from reports.format import interval, percent, points, visible
from reports.items import OUTCOMES, Pair, draw, pairs, texts
from reports.judge import judged_text, judgings_of
from reports.page import HTML, embedded, page, text

PAGE_BYTES = 15_000_000
"""What one page may hold; several pages of one command share it, down to FEWEST_BYTES each."""
FEWEST_BYTES = 2_000_000
PROMPT_HEAD, PROMPT_TAIL = 500, 1_000
"""Characters shown of a longer prompt: the question stands at its end, after examples."""
ANSWER_LENGTH = 1_000


def write_page(
    comparison: Comparison, base: RunDirectory, cand: RunDirectory, path: Path, series: Series | None = None
) -> Path:
    """Writes the page of one comparison; returns its path."""
    return write_text(path, render(comparison, base, cand, series))


def render(comparison: Comparison, base: RunDirectory, cand: RunDirectory, series: Series | None = None) -> str:
    """The comparison as one HTML document.

    series: the runs that this one stands among, where there are several; their pages share the bytes of one.
    """
    n_pages = len(series.sides) - 1 if series else 1
    page_bytes = max(FEWEST_BYTES, PAGE_BYTES // n_pages)
    everything = pairs(comparison, base, cand)
    sections = [
        _section("differences", "Differences", _differences(comparison)),
        _section("scores", "Scores", _figures(comparison, "scores", _SCORES)),
        _section("alphabets", "Alphabets", _alphabets(comparison)),
        _section("prompts", "Prompts", _prompts(comparison)),
        _section("slices", "Slices", _slices(comparison)),
        _section("metrics", "Other metrics", _others(comparison)),
        _section("runs", "Runs", _series(series)),
        _section("format", "Format and the rest", _splits(series)),
        _section("judge", "The judge", judged_text(comparison.judged, judgings_of(base, cand), HTML)),
        _section("items", "Items", _BROWSER if everything else ""),
        _section("provenance", "Provenance", _wrapped(tables.provenance_table(base, cand, HTML))),
    ]
    shown = [section for section in sections if section]
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading, _ in shown)
    body = "\n".join(
        [
            _head(comparison),
            f'<nav aria-label="Sections"><ul>{links}</ul></nav>',
            *(f'<section id="{name}">\n<h2>{heading}</h2>\n{inner}\n</section>' for name, heading, inner in shown),
        ]
    )
    name = tables.title(comparison, visible)
    # What of the page's size the items leave; the count of them is written last.
    room = page_bytes - len(page(name, body, data={}, script=True).encode()) - 1_000
    data, n_shown = browsed(everything, base, cand, room)
    body = body.replace(_SAMPLE, _sample_sentence(n_shown, len(everything)), 1)
    return page(name, body, data=data, script=True)


# Parts of the page.


def _section(name: str, heading: str, inner: str) -> tuple[str, str, str] | None:
    return (name, heading, inner) if inner else None


def _head(comparison: Comparison) -> str:
    asked = tables.asked_differently(comparison, HTML)
    parts = [f"<header>\n<h1>{tables.title(comparison, text)}</h1>"]
    parts += [f'<p class="note warning">{asked}</p>'] if asked else []
    parts += [f'<p class="note">{text(note)}</p>' for note in comparison.notes]
    parts.append(f'<p class="lead">{text(tables.headline(comparison))}</p>')
    tiles = [
        f'<li class="{text(each.verdict)}">'
        f'<span class="soft">Macro average, {tables.orthography(each.orthography, text)}</span>'
        f'<span class="big">{points(each.delta)} <small>points</small></span>'
        f"<span>{interval(each.ci95)} {HTML.verdict(each.verdict)}</span>"
        f'<span class="soft">{percent(each.base)} → {percent(each.cand)}</span></li>'
        for each in comparison.overall.values()
    ]
    parts += [f'<ul class="tiles">{"".join(tiles)}</ul>'] if tiles else []
    return "\n".join([*parts, "</header>"])


_DELTAS = (
    "Tuned − base in percentage points, with 95 % intervals, paired by document. The band is the margin inside which "
    "a difference counts as the same."
)
_SCORES = (
    "Score of both models under each task's primary metric. The mark is the best of what needs no reading of the "
    "question: guessing, or always the same answer. Whether a difference is sure is said by the intervals above, not "
    "by the length of bars."
)
_GAPS = "The same items in another alphabet, paired by item: how much worse each model does in it than in Latin."
_UNADJUSTED = '<p class="soft">{} Their p-values are not adjusted.</p>\n'
_KEY = """<details>
<summary>How to read the columns</summary>
<dl>
<dt>baseline</dt><dd>the best score of what needs no reading of the question.</dd>
<dt>Δ points, 95 %</dt><dd>tuned − base in percentage points, and its 95 % interval.</dd>
<dt>p, p adjusted</dt><dd>two-sided; adjusted by Holm over the primary metrics of one alphabet.</dd>
<dt>+ / −</dt><dd>documents whose score rose, fell.</dd>
<dt>detectable</dt><dd>the smallest difference that a test of this size finds 80 % of the time.</dd>
<dt>verdict</dt><dd>better or worse: adjusted p &lt; .05; same: the whole interval inside the margin; unclear: the data
can't tell.</dd>
</dl>
</details>
"""


def _differences(comparison: Comparison) -> str:
    primary = [row for row in comparison.rows if row.primary]
    overall = tables.overall_table(comparison, HTML)
    parts = [
        _figures(comparison, "deltas", _DELTAS),
        "<h3>Primary metrics</h3>\n" + tables.rows_table(primary, HTML) + _KEY if primary else "",
        f'<h3>Macro average</h3>\n<p class="soft">Each task counts the same.</p>\n{overall}' if overall else "",
    ]
    return "\n".join(part for part in parts if part)


def _alphabets(comparison: Comparison) -> str:
    table = tables.gaps_table(comparison, HTML)
    return _figures(comparison, "alphabets", _GAPS) + table if table else ""


def _prompts(comparison: Comparison) -> str:
    table = tables.prompts_table(comparison, HTML)
    said = "The same items under several prompts; each item counts as the mean of its prompts."
    return _UNADJUSTED.format(said) + table if table else ""


def _slices(comparison: Comparison) -> str:
    table = tables.slices_table(comparison, HTML)
    return _UNADJUSTED.format("Parts of the tasks, in the primary metrics; descriptive.") + table if table else ""


def _others(comparison: Comparison) -> str:
    rows = [row for row in comparison.rows if not row.primary]
    return _UNADJUSTED.format("Descriptive.") + tables.rows_table(rows, HTML) if rows else ""


def _series(series: Series | None) -> str:
    table = tables.curve_table(series, HTML) if series else ""
    if not series or not table:
        return ""
    curves = "".join(f"<li>{_small(plot)}</li>" for plot in plots.of_series(series))
    said = "In the order given, with 95 % intervals; differences are to the first, paired by document."
    return _UNADJUSTED.format(said) + (f'<ul class="curves">{curves}</ul>\n' if curves else "") + table


def _splits(series: Series | None) -> str:
    return "\n".join(
        f'<p class="soft">{tables.split_sentence(split, HTML)}</p>\n{tables.split_table(split, HTML)}'
        for split in (series.splits if series else ())
    )


def _figures(comparison: Comparison, name: str, caption: str) -> str:
    plot = plots.of_comparison(comparison).get(name)
    return plot.figure(caption) if plot else ""


def _small(plot: plots.Plot) -> str:
    """One of several plots side by side, each under its own title."""
    return f"<figure><figcaption>{text(plot.title)}</figcaption>{plot.svg(plots.NARROW)}</figure>"


def _wrapped(table: str) -> str:
    return f'<div class="wrap">{table}</div>'


# The browser of items.

_SAMPLE = "<!-- sample -->"
_PAGES = (
    '<div class="pages" hidden><button type="button" class="previous">Previous</button>'
    '<span class="place"></span><button type="button" class="next">Next</button></div>'
)


def _select(name: str, every: str) -> str:
    return (
        f'<div class="field"><label for="filter-{name}">{name}</label>'
        f'<select id="filter-{name}"><option value="">{every}</option></select></div>'
    )


# No form: a policy that forbids sending one would complain at every Enter.
_BROWSER = f"""<p class="soft">{_SAMPLE}</p>
<noscript><p class="note">The tables and plots above need no script; browsing the items does.</p></noscript>
<div id="browser" hidden>
<div class="filters" role="search" aria-label="Items">
{_select("task", "all tasks")}
{_select("alphabet", "all alphabets")}
{_select("outcome", "all outcomes")}
{_select("slice", "all slices")}
<div class="field long"><label for="filter-text">search</label>
<input id="filter-text" type="search" autocomplete="off" spellcheck="false"></div>
<button type="button" id="filter-clear">Clear</button>
</div>
<div class="bar"><p id="count" aria-live="polite" tabindex="-1"></p>{_PAGES}</div>
<div id="cards"></div>
<div class="bar">{_PAGES}</div>
</div>"""


def _sample_sentence(n_shown: int, n_all: int) -> str:
    if n_shown == n_all:
        return f"All {n_all:,} items of the primary results. Words that the other answer lacks are marked."
    return (
        f"A sample of {n_shown:,} of {n_all:,} items, the same at every writing: from each task and outcome, gains and "
        "losses the more. Words that the other answer lacks are marked."
    )


def browsed(items: Sequence[Pair], base: RunDirectory, cand: RunDirectory, room: int) -> tuple[dict[str, Any], int]:
    """What page.js shows, and how many items that are.

    room: bytes that the items may take. All are shown if they fit, else those that a fixed draw names first.
    """
    names: dict[str, dict[str, int]] = {"tasks": {}, "alphabets": {}, "slices": {}}
    outcomes = list(OUTCOMES)

    def number(kind: str, name: str) -> int:
        nonlocal room
        if name not in names[kind]:
            names[kind][name] = len(names[kind])
            room -= len(embedded(name).encode()) + 1
        return names[kind][name]

    found: dict[int, dict[str, Any]] = {}
    places = list(draw(items))
    said = texts((items[place] for place in places), base, cand)
    for place, (before, after) in zip(places, said, strict=True):
        pair = items[place]
        item = {
            "task": number("tasks", visible(pair.task, tables.NAME_LENGTH)),
            "alphabet": number("alphabets", tables.orthography(pair.orthography, visible)),
            "slice": number("slices", visible(before.slice, tables.NAME_LENGTH)),
            "outcome": outcomes.index(pair.outcome),
            "id": visible(before.item_id or before.doc_hash[:10], tables.NAME_LENGTH),
            "prompt": _prompt(before.prompt),
            "target": visible(before.target, ANSWER_LENGTH),
            "base": _answer(before),
            "base_score": _score(pair.metric, pair.one),
            "tuned": _answer(after),
            "tuned_score": _score(pair.metric, pair.two),
        }
        if after.prompt != before.prompt:
            item["tuned_prompt"] = _prompt(after.prompt)
        room -= len(embedded(item).encode()) + 1
        if room < 0:
            break
        found[place] = item
    lists = {kind: list(known) for kind, known in names.items()}
    shown = [found[place] for place in sorted(found)]
    return {**lists, "outcomes": [[name, OUTCOMES[name]] for name in outcomes], "items": shown}, len(shown)


def _prompt(prompt: str) -> str:
    if len(prompt) <= PROMPT_HEAD + PROMPT_TAIL:
        return visible(prompt)
    cut = f"{prompt[:PROMPT_HEAD]}\n\n… ({len(prompt):,} characters) …\n\n{prompt[-PROMPT_TAIL:]}"
    return visible(cut)


def _answer(sample: Sample) -> str | None:
    return None if sample.response is None else visible(sample.response, ANSWER_LENGTH)


def _score(metric: str, score: float | None) -> str:
    if score is None:
        return "not scored"
    value = f"{score:.2f}".rstrip("0").rstrip(".")
    return visible(f"{metric} {value}", tables.NAME_LENGTH)
