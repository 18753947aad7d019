"""leaderboard.md, leaderboard.html: models ranked, for people.

Names of models are untrusted: they are escaped, and cut at a length. The tables are said once, for Markdown and HTML
alike; the Markdown is small enough for a README.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from harness.files import write_json, write_text
from harness.records import MACRO, Leaderboard, Standing
from reports import plots
from reports.format import MARKDOWN, NONE, Writer, interval, percent, visible
from reports.page import HTML, page, text
from reports.tables import NAME_LENGTH, orthography

TITLE = "Leaderboard"
CHANCE = "chance"
OTHER = "best without reading"

HOW_TO_READ = (
    "Scores with 95 % intervals. In brackets the 95 % interval of a rank, by bootstrap over documents, the same draw "
    "for all models; it isn't adjusted for their number. Wins and losses: models that it is better, worse than, paired "
    "by document, p < .05 adjusted by Holm over all pairs. In italics what needs no reading of the question."
)


def write_leaderboard(board: Leaderboard, folder: Path) -> list[Path]:
    """Writes leaderboard.json, leaderboard.md and leaderboard.html; returns their paths."""
    return [
        write_json(folder / "leaderboard.json", board.to_dict()),
        write_text(folder / "leaderboard.md", render(board)),
        write_text(folder / "leaderboard.html", render_page(board)),
    ]


def render(board: Leaderboard) -> str:
    """The leaderboard as one Markdown text."""
    parts = [f"# {TITLE}\n", *(f"> {MARKDOWN.text(note)}\n" for note in board.notes)]
    for rows in _by_orthography(board):
        parts.append(f"## {_title(rows[0][0], MARKDOWN, len(rows) - 1)}\n\n{standings_table(rows[0])}")
        if len(rows) > 1:
            parts.append(f"Scores by task:\n\n{scores_table(rows)}")
    return "\n".join([*parts, f"{HOW_TO_READ}\n"])


def headline(board: Leaderboard) -> str:
    """What a terminal shows: of each alphabet the macro average, or its only task, as Markdown."""
    return "\n".join(
        f"{_title(rows[0][0], MARKDOWN, len(rows) - 1)}\n\n{standings_table(rows[0])}"
        for rows in _by_orthography(board)
    )


def render_page(board: Leaderboard) -> str:
    """The leaderboard as one HTML document; every task with its ranks and intervals."""
    notes = "".join(f'<p class="note warning">{text(note)}</p>\n' for note in board.notes)
    parts = [f"<header>\n<h1>{TITLE}</h1>\n{notes}<p>{text(HOW_TO_READ)}</p>\n</header>"]
    for rows in _by_orthography(board):
        parts.append(f"<h2>{_title(rows[0][0], HTML, len(rows) - 1)}</h2>\n{_figure(rows[0])}")
        parts.append(standings_table(rows[0], HTML))
        if len(rows) > 1:
            parts.append(f"<h3>Scores by task</h3>\n{scores_table(rows, HTML)}")
            for each in rows[1:]:
                parts.append(f"<h3>{_title(each[0], HTML, 0)}</h3>\n{standings_table(each, HTML)}")
    parts.append(f'<p class="soft">Made {text(board.created)} from {len(board.sides)} runs.</p>')
    return page(TITLE, "\n".join(parts))


# Tables.


def standings_table(rows: Sequence[Standing], writer: Writer = MARKDOWN) -> str:
    """One task or macro average: a line a model, the best first, and between them what needs no reading."""
    lines = []
    for row in _best_first(rows):
        soft = _soft(writer) if row.kind == "baseline" else _plain
        lines.append(
            [
                soft(writer.text(row.model, NAME_LENGTH)),
                _rank(row),
                soft(percent(row.score)),
                _interval(row),
                NONE if row.rank is None else f"{row.wins}",
                NONE if row.rank is None else f"{row.losses}",
                NONE if row.rank is None else _n(row),
            ]
        )
    return writer.table(["model", "rank", "score", "95 %", "wins", "losses", "n"], lines, "lrrrrrr")


def scores_table(tasks: Sequence[Sequence[Standing]], writer: Writer = MARKDOWN) -> str:
    """Models by tasks, scores alone. tasks: the rows of each, the macro average first; models in its order."""
    order = [(row.model, row.run_id) for row in _best_first(tasks[0]) if row.kind == "model"]
    scores = [{(row.model, row.run_id): row for row in rows if row.kind == "model"} for rows in tasks]
    lines = [
        [writer.text(key[0], NAME_LENGTH), *(percent(each[key].score) if key in each else NONE for each in scores)]
        for key in order
    ]
    soft = _soft(writer)
    baselines = [[row for row in rows if row.kind == "baseline"] for rows in tasks]
    chances = [next((row for row in rows if row.model == CHANCE), None) for rows in baselines]
    others = [next((row for row in rows if row.model != CHANCE), None) for rows in baselines]
    if any(chances):
        lines.append([soft(CHANCE), *(soft(percent(row.score)) if row else NONE for row in chances)])
    if any(others):
        named = [f"{percent(row.score)} {writer.text(row.model, NAME_LENGTH)}" if row else "" for row in others]
        lines.append([soft(OTHER), *(soft(each) if each else NONE for each in named)])
    header = ["model", *(_column(rows[0], writer) for rows in tasks)]
    return writer.table(header, lines, "l" + "r" * len(tasks))


def _by_orthography(board: Leaderboard) -> list[list[list[Standing]]]:
    """The rows of each alphabet, task by task, the macro average first where there is one."""
    found: dict[str, dict[str, list[Standing]]] = {}
    for row in board.rows:
        found.setdefault(row.orthography, {}).setdefault(row.task, []).append(row)
    return [list(tasks.values()) for tasks in found.values()]


def _best_first(rows: Iterable[Standing]) -> list[Standing]:
    # Models in the order of their ranks; of equal scores a model stands before what needs no reading.
    return sorted(rows, key=lambda row: (-row.score if row.higher_is_better else row.score, row.kind != "model"))


def _title(row: Standing, writer: Writer, n_tasks: int) -> str:
    name = orthography(row.orthography, writer.text)
    if row.task == MACRO and not row.metric:
        return f"{name}: {MACRO} of {n_tasks} tasks"
    less = "" if row.higher_is_better else ", less is better"
    return f"{name}: {writer.text(row.task, NAME_LENGTH)}, {writer.text(row.metric, NAME_LENGTH)}{less}"


def _column(row: Standing, writer: Writer) -> str:
    return MACRO if row.task == MACRO and not row.metric else writer.text(row.task, NAME_LENGTH)


def _soft(writer: Writer) -> Callable[[str], str]:
    return (lambda safe: f"<em>{safe}</em>") if writer is HTML else (lambda safe: f"*{safe}*")


def _plain(safe: str) -> str:
    return safe


def _rank(row: Standing) -> str:
    """ "2 [1–4]" """
    if row.rank is None:
        return NONE
    return f"{row.rank}" if row.rank_ci95 is None else f"{row.rank} [{row.rank_ci95[0]}–{row.rank_ci95[1]}]"


def _interval(row: Standing) -> str:
    return interval(row.ci95).replace("+", "")


def _n(row: Standing) -> str:
    tasks = " tasks" if row.task == MACRO and not row.metric else ""
    return f"{row.n}{tasks}" + (f" ({row.n_unscored} unscored)" if row.n_unscored else "")


# The plot.

_LINE = 26
_CHARACTER = 7.3
"""The width of a character of 13 px, about."""
_NUMBERS = 235


def plot(rows: Sequence[Standing]) -> plots.Plot:
    """Scores with their intervals, a line a model, the best first."""
    return plots.Plot(f"Scores with 95 % intervals: {_plot_name(rows[0].task)}", lambda width: _draw(rows, width))


def _draw(rows: Sequence[Standing], width: int) -> Iterator[str]:
    wide = width >= plots.WIDE
    left = min(max(len(_plot_name(row.model)) for row in rows) * _CHARACTER + 12, (0.34 if wide else 0.42) * width)
    ends = [end for row in rows for end in (row.score, *(row.ci95 or ()))]
    scale = plots.Scale.over(ends, left, width - (_NUMBERS if wide else 14))
    bottom = _LINE * len(rows) + 6
    yield f"{bottom + 24}"
    ticks = scale.ticks(6 if wide else 4)
    digits = 0 if all(abs(100 * tick - round(100 * tick)) < 1e-6 for tick in ticks) else 1
    for tick in ticks:
        x = f"{scale(tick):.1f}"
        yield f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{bottom}"/>'
        yield f'<text class="soft middle" x="{x}" y="{bottom + 16}">{percent(tick, digits)}</text>'
    for number, row in enumerate(_best_first(rows)):
        y = _LINE * number + _LINE / 2 + 2
        x = f"{scale(row.score):.1f}"
        said = f"{percent(row.score)} {_interval(row)}, rank {_rank(row)}" if row.rank else percent(row.score)
        yield f'<g class="tuned"><title>{text(_plot_name(row.model))}: {said}</title>'
        label = text(_plot_name(row.model, int((left - 8) / _CHARACTER)))
        yield f'<text class="label" x="0" y="{y + 4.5}">{label}</text>'
        if row.ci95 is not None:
            low, high = (f"{scale(end):.1f}" for end in row.ci95)
            yield f'<line class="whisker" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
        if row.kind == "model":
            yield f'<circle class="mark tuned" cx="{x}" cy="{y}" r="5"/>'
        else:
            yield f'<line class="floor" x1="{x}" x2="{x}" y1="{y - 8}" y2="{y + 8}"/>'
        if wide:
            yield f'<text class="numbers" x="{width}" y="{y + 4.5}">{said}</text>'
        yield "</g>"


def _plot_name(name: str, limit: int = 80) -> str:
    """A name that fits into a plot, everything of it visible; not yet escaped."""
    shown = visible(name, NAME_LENGTH).replace("\n", " ")
    # Cut in the middle: names of a family differ at their ends.
    tail = (limit - 1) // 2
    return shown if len(shown) <= limit else f"{shown[: limit - 1 - tail]}…{shown[-tail:]}"


def _figure(rows: Sequence[Standing]) -> str:
    baselines = "; an upright line is what needs no reading" if any(row.kind == "baseline" for row in rows) else ""
    return plot(rows).figure(f"Scores with 95 % intervals{baselines}.")
