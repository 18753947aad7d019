"""Plots as SVG: what differs and how sure that is, what was scored, alphabets, learning curves.

A plot is drawn for a width in pixels, so that a phone gets one of its own rather than a shrunk one. Colours are
classes of plots.css, in light and dark; what a colour says a shape says too. Text of models is escaped by `text`,
which is safe in XML as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from harness.records import MACRO, Comparison, CurvePoint, OrthographyGap, Overall, Row, Series
from reports.format import interval, percent, plus_minus, points, visible
from reports.page import text
from reports.tables import orthography

WIDE, NARROW = 960, 350
"""Pixels: of a page, of a phone."""

_LINE = 26
_ROOM = 16
_APART = 10
"""Between groups of rows."""
_CHARACTER = 7.3
"""The width of a character of 13 px, about: labels are cut by it."""
_NUMBERS = 150
"""What the numbers beside a row take, where there is room for them."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Values to pixels: low stands at start, high at end, all between in proportion."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, margin: float = 0.04) -> Scale:
        """A scale that holds all values, with a margin (a part of their range) at both ends."""
        values = list(values)
        low, high = min(values), max(values)
        room = (high - low) * margin or 0.01
        return cls(low - room, high + room, start, end)

    def ticks(self, at_most: int = 7) -> list[float]:
        """Round values inside the scale: multiples of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / at_most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * each for each in (1, 2, 5, 10, 20) if self._count(power * each) <= at_most)
        first = math.ceil(self.low / step - 1e-9)
        return [round(step * (first + number), 10) for number in range(self._count(step))]

    def _count(self, step: float) -> int:
        return math.floor(self.high / step + 1e-9) - math.ceil(self.low / step - 1e-9) + 1


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot that can be drawn at any width. title: plain text, may hold a model's name."""

    title: str
    draw: Callable[[int], Iterator[str]]

    def svg(self, width: int = WIDE) -> str:
        """The plot as one element. What is drawn first says its height."""
        height, *parts = self.draw(width)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label="{text(self.title)}">\n<title>{text(self.title)}</title>\n'
            + "\n".join(parts)
            + "\n</svg>\n"
        )

    def figure(self, caption: str) -> str:
        """The plot for a page and once more for a phone, whose style shows one of them. caption: safe HTML."""
        return (
            f'<figure>\n<div class="wide">{self.svg()}</div>\n<div class="narrow">{self.svg(NARROW)}</div>\n'
            f"<figcaption>{caption}</figcaption>\n</figure>\n"
        )


def standalone(svg: str) -> str:
    """A plot as a file of its own: with its style, on a ground that its ink can be read on."""
    style = (Path(__file__).parent / "plots.css").read_text(encoding="utf-8")
    # The first bracket closes the svg element's tag: brackets in its attributes are entities.
    tag, rest = svg.split(">", 1)
    found = re.search(r'viewBox="0 0 (\d+) ([\d.]+)" width="\d+" height="[\d.]+"', tag)
    assert found, "every plot says its size"
    # A page has room around a plot, a file has none.
    width, height = int(found[1]) + 2 * _ROOM, float(found[2]) + 2 * _ROOM
    size = f'viewBox="{-_ROOM} {-_ROOM} {_n(width)} {_n(height)}" width="{_n(width)}" height="{_n(height)}"'
    ground = f'<rect class="ground" x="{-_ROOM}" y="{-_ROOM}" width="{_n(width)}" height="{_n(height)}"/>'
    return f"{tag[: found.start()]}{size}{tag[found.end() :]}>\n<style>\n{style}</style>\n{ground}{rest}"


def of_comparison(comparison: Comparison) -> dict[str, Plot]:
    """The plots of a comparison by name; those that would be empty are left out."""
    names = f"{_name(comparison.cand.model_name)} against {_name(comparison.base.model_name)}"
    primary = [row for row in comparison.rows if row.primary]
    found = {}
    if primary:
        found["deltas"] = Plot(f"Differences with 95 % intervals, {names}", lambda width: _forest(comparison, width))
        found["scores"] = Plot(f"Scores, {names}", lambda width: _bars(primary, width))
    if any(comparison.orthography_gaps.values()):
        found["alphabets"] = Plot(
            f"Gaps between alphabets with 95 % intervals, {names}", lambda width: _gaps(comparison, width)
        )
    return found


def of_series(series: Series) -> list[Plot]:
    """A learning curve of each task and alphabet that several runs have, the macro averages first."""
    curves: dict[tuple[str, str], list[CurvePoint]] = {}
    for point in sorted(series.points, key=lambda point: point.task != MACRO):
        curves.setdefault((point.task, point.orthography), []).append(point)
    return [_curve_plot(series, found) for found in curves.values() if len(found) > 1]


def _curve_plot(series: Series, found: list[CurvePoint]) -> Plot:
    found = sorted(found, key=lambda point: point.side)
    metric = f", {_name(found[0].metric)}" if found[0].metric else ""
    name = f"{_name(found[0].task)}{metric}, {orthography(found[0].orthography, _name)}"
    return Plot(name, lambda width: _curve(series, found, width))


# Differences, a row a task.


def _forest(comparison: Comparison, width: int) -> Iterator[str]:
    groups: dict[str, list[Row | Overall]] = {}
    drawn: list[Row | Overall] = [row for row in comparison.rows if row.primary]
    for each in (*drawn, *comparison.overall.values()):
        groups.setdefault(each.orthography, []).append(each)
    rows = [row for group in groups.values() for row in group]
    labels = [MACRO if isinstance(row, Overall) else row.task for row in rows]
    left, right = _sides(labels, width, numbers=True)
    margin = comparison.margin
    scale = Scale.over([0.0, margin, -margin, *(end for row in rows for end in row.ci95)], left, right)
    bottom = _LINE * len(rows) + (_LINE + _APART) * len(groups)
    yield _n(bottom + 66)
    yield _band(scale, -margin, margin, bottom)
    yield from _axis(scale, bottom, width, points, "Δ points, tuned − base")
    y = 0.0
    for name, group in groups.items():
        yield _heading(orthography(name, _name), y)
        y += _LINE
        for row in group:
            whole = isinstance(row, Overall)
            label = MACRO if isinstance(row, Overall) else row.task
            said = f"{points(row.delta)} {interval(row.ci95)}"
            verdict = text(row.verdict)
            yield f'<g class="{"whole " if whole else ""}{verdict}">'
            yield f"<title>{text(_name(label))}: {said}, {verdict}</title>"
            yield _label(label, left, y)
            yield _whisker(scale, row.ci95, y + _LINE / 2)
            yield _shape(verdict, scale(row.delta), y + _LINE / 2, 6.5 if whole else 5)
            if width >= WIDE:
                yield _numbers(said, width, y)
            yield "</g>"
            y += _LINE
        y += _APART
    yield from _legend(
        [*((verdict, verdict) for verdict in ("better", "worse", "same", "unclear")), ("band", plus_minus(margin))],
        left if width >= WIDE else 0,
        bottom + 52,
    )


# Scores, two bars a task.


def _bars(rows: Sequence[Row], width: int) -> Iterator[str]:
    left, right = _sides([row.task for row in rows], width, numbers=True)
    scale = Scale(0.0, 1.0, left, right)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.orthography, []).append(row)
    line = _LINE + 6
    bottom = line * len(rows) + (_LINE + _APART) * len(groups)
    yield _n(bottom + 66)
    yield from _axis(scale, bottom, width, percent, "")
    y = 0.0
    for name, group in groups.items():
        yield _heading(orthography(name, _name), y)
        y += _LINE
        for row in group:
            said = f"{percent(row.base)} → {percent(row.cand)}"
            floor = max(row.baselines.values(), default=row.chance)
            beside = "" if floor is None else f", without reading {percent(floor)}"
            yield f"<g><title>{text(_name(row.task))}, {text(_name(row.metric))}: {said}{beside}</title>"
            yield _label(row.task, left, y, line)
            for side, value, top in (("base", row.base, y + 5), ("tuned", row.cand, y + 17)):
                yield (
                    f'<rect class="{side}" x="{_n(left)}" y="{_n(top)}" width="{_n(max(scale(value) - left, 1))}" '
                    'height="10"/>'
                )
            if floor is not None:
                x = _n(scale(floor))
                yield f'<line class="floor" x1="{x}" x2="{x}" y1="{_n(y + 2)}" y2="{_n(y + line - 2)}"/>'
            if width >= WIDE:
                yield _numbers(said, width, y, line)
            yield "</g>"
            y += line
        y += _APART
    legend = [("base bar", "base"), ("tuned bar", "tuned"), ("floor", "without reading")]
    yield from _legend(legend, left if width >= WIDE else 0, bottom + 52)


# Gaps between alphabets, both models a task.


def _gaps(comparison: Comparison, width: int) -> Iterator[str]:
    groups: dict[str, dict[str, dict[str, OrthographyGap]]] = {}
    for side, gaps in comparison.orthography_gaps.items():
        for gap in gaps:
            groups.setdefault(gap.orthography, {}).setdefault(gap.task, {})[side] = gap
    everything = [gap for gaps in comparison.orthography_gaps.values() for gap in gaps]
    left, right = _sides([gap.task for gap in everything], width, numbers=True)
    scale = Scale.over([0.0, *(end for gap in everything for end in gap.ci95)], left, right)
    line = _LINE + 8
    bottom = line * sum(len(tasks) for tasks in groups.values()) + (_LINE + _APART) * len(groups)
    yield _n(bottom + 66)
    yield from _axis(scale, bottom, width, points, "Δ points, other alphabet − Latin")
    y = 0.0
    for name, tasks in groups.items():
        yield _heading(f"{orthography(name, _name)} against Latin", y)
        y += _LINE
        for task, sides in tasks.items():
            yield f'<g class="{"whole" if task == MACRO else ""}">'
            yield _label(task, left, y, line)
            for side, mark, middle in (("base", "base", y + 11), ("cand", "tuned", y + 24)):
                if side not in sides:
                    continue
                gap = sides[side]
                said = f"{points(gap.delta)} {interval(gap.ci95)}"
                yield f'<g class="{mark}"><title>{text(_name(task))}, {mark}: {said}</title>'
                yield _whisker(scale, gap.ci95, middle)
                yield _shape(mark, scale(gap.delta), middle, 4.5)
                if width >= WIDE:
                    yield _numbers(said, width, middle - _LINE / 2, small=True)
                yield "</g>"
            yield "</g>"
            y += line
        y += _APART
    yield from _legend([("base", "base"), ("tuned", "tuned")], left if width >= WIDE else 0, bottom + 52)


# Learning curves.


def steps(names: Sequence[str]) -> list[int] | None:
    """The numbers in which all names end, where nothing else differs and they rise: checkpoint-500, checkpoint-1000.

    A base before the steps of its own training, model, model+adapter@500, is step 0.
    """
    if len(names) > 1 and "@" in names[1] and names[1].startswith(f"{names[0]}+"):
        names = [f"{names[1].rpartition('@')[0]}@0", *names[1:]]
    # No model has a step of more digits than this; int() of a million of them takes minutes.
    found = [re.fullmatch(r"(.*?)(\d{1,12})", name, re.DOTALL) for name in names]
    if not all(found) or len({each[1] for each in found if each}) != 1:
        return None
    numbers = [int(each[2]) for each in found if each]
    return numbers if all(one < two for one, two in pairwise(numbers)) else None


def _curve(series: Series, found: Sequence[CurvePoint], width: int) -> Iterator[str]:
    names = [series.sides[point.side].model_name for point in found]
    at = steps(names)
    places = [float(each) for each in at] if at else [float(number) for number in range(len(found))]
    ends = [end for point in found for end in point.ci95 or (point.value, point.value)]
    height = 230
    y = Scale.over([*ends, *(point.value for point in found)], height - 44, 14)
    x = Scale(places[0], places[-1], 66, width - 30)
    yield f"{height}"
    ticks = y.ticks(5)
    for tick in ticks:
        yield f'<line class="grid" x1="52" x2="{width - 12}" y1="{_n(y(tick))}" y2="{_n(y(tick))}"/>'
        value = percent(tick, 0 if _whole(ticks) else 1)
        yield f'<text class="soft end" x="48" y="{_n(y(tick) + 4)}">{value}</text>'
    first = _n(y(found[0].value))
    yield f'<line class="zero first" x1="52" x2="{width - 12}" y1="{first}" y2="{first}"/>'
    path = " ".join(f"{_n(x(place))},{_n(y(point.value))}" for place, point in zip(places, found, strict=True))
    yield f'<polyline class="tuned curve" points="{path}"/>'
    shown = -math.inf
    for place, point, name in zip(places, found, names, strict=True):
        middle = x(place)
        said = f"{percent(point.value)} {interval(point.ci95).replace('+', '')}"
        yield f'<g class="tuned"><title>{text(_name(name))}: {said}</title>'
        if point.ci95 is not None:
            low, high = (y(end) for end in point.ci95)
            yield f'<line class="whisker" x1="{_n(middle)}" x2="{_n(middle)}" y1="{_n(low)}" y2="{_n(high)}"/>'
        yield _shape("tuned", middle, y(point.value), 4.5)
        yield "</g>"
        label = f"{int(place):,}" if at else f"{point.side + 1}"
        # Labels that would touch are left out; the table has them all.
        if middle - shown >= _CHARACTER * len(label) + 8:
            yield f'<text class="soft middle" x="{_n(middle)}" y="{height - 24}">{label}</text>'
            shown = middle
    title = "steps" if at else "run, in the order given"
    yield f'<text class="soft middle" x="{_n((x.start + x.end) / 2)}" y="{height - 5}">{title}</text>'


# Data sets.


def shares(title: str, rows: Sequence[tuple[str, float, float | None]]) -> Plot:
    """Shares of a whole as bars. rows: (name, share in [0,1], the share that was aimed at)."""
    return Plot(title, lambda width: _shares(rows, width))


def _shares(rows: Sequence[tuple[str, float, float | None]], width: int) -> Iterator[str]:
    left, right = _sides([name for name, *_ in rows], width, numbers=True)
    scale = Scale(0.0, max([share for _, share, _ in rows] + [aim or 0.0 for *_, aim in rows] + [0.01]), left, right)
    yield _n(_LINE * len(rows) + 40)
    for place, (name, share, aim) in enumerate(rows):
        y = _LINE * place
        said = percent(share) + ("" if aim is None else f", {percent(aim)} wanted")
        yield f"<g><title>{text(_name(name))}: {said}</title>{_label(name, left, y)}"
        bar = f'width="{_n(max(scale(share) - left, 1))}" height="14"'
        yield f'<rect class="tuned" x="{_n(left)}" y="{_n(y + 6)}" {bar}/>'
        if aim is not None:
            x = _n(scale(aim))
            yield f'<line class="floor" x1="{x}" x2="{x}" y1="{_n(y + 2)}" y2="{_n(y + _LINE - 2)}"/>'
        if width >= WIDE:
            yield _numbers(said, width, y, small=True)
        yield "</g>"
    if any(aim is not None for *_, aim in rows):
        yield from _legend([("tuned bar", "kept"), ("floor", "wanted")], left, _LINE * len(rows) + 26)


def wheel(title: str, tree: Mapping[str, Mapping[str, int]]) -> Plot:
    """Counts in two rings: inside the names, outside what each is made of; a name's part is its share of all."""
    return Plot(title, lambda width: _wheel(tree, width))


def _wheel(tree: Mapping[str, Mapping[str, int]], width: int) -> Iterator[str]:
    size = min(width, 620)
    centre, total = size / 2, sum(sum(each.values()) for each in tree.values()) or 1
    yield _n(size)
    at = 0.0
    for number, (name, parts) in enumerate(tree.items()):
        share = sum(parts.values()) / total
        yield _sector(centre, (0.16, 0.56), (at, at + share), "tuned" if number % 2 else "base", name, share)
        inner = at
        for part, count in parts.items():
            yield _sector(centre, (0.57, 0.98), (inner, inner + count / total), "ring", part, count / total)
            inner += count / total
        at += share


def _sector(
    centre: float,
    radii: tuple[float, float],
    turn: tuple[float, float],
    kind: str,
    name: str,
    share: float,
) -> str:
    """A piece of a ring. radii: of the wheel's own; turn: in whole turns, from the top."""
    (near, far), (start, end) = (tuple(each * centre for each in radii), turn)
    end = min(end, start + 0.9999)  # A whole turn would end where it begins.

    def point(radius: float, at: float) -> str:
        angle = 2 * math.pi * at
        return f"{_n(centre + radius * math.sin(angle))} {_n(centre - radius * math.cos(angle))}"

    large = int(end - start > 0.5)
    path = (
        f"M{point(near, start)} L{point(far, start)} A{_n(far)} {_n(far)} 0 {large} 1 {point(far, end)} "
        f"L{point(near, end)} A{_n(near)} {_n(near)} 0 {large} 0 {point(near, start)} Z"
    )
    found = f'<g><title>{text(_name(name))}: {percent(share)}</title><path class="sector {kind}" d="{path}"/>'
    if share * 2 * math.pi * far > 16:
        middle = (start + end) / 2
        degrees = 360 * middle - 90
        turned = degrees if middle < 0.5 else degrees + 180
        x, y = point((near + far) / 2, middle).split()
        shown = text(_name(name, max(4, int((far - near) / _CHARACTER))))
        found += f'<text class="small middle" transform="translate({x} {y}) rotate({_n(turned)})" dy="4">{shown}</text>'
    return found + "</g>"


# Pieces.


def _n(number: float) -> str:
    """A coordinate: two digits say enough."""
    return f"{number:.2f}".rstrip("0").rstrip(".")


def _name(name: str, limit: int | None = 80) -> str:
    """A name that fits into a plot, everything of it visible; not yet escaped."""
    limit = min(limit or 80, 80)
    shown = visible(name[: limit + 1]).replace("\n", " ")
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def _whole(values: Iterable[float]) -> bool:
    return all(abs(100 * value - round(100 * value)) < 1e-6 for value in values)


def _sides(labels: Iterable[str], width: int, *, numbers: bool) -> tuple[float, float]:
    """Where a row's labels end and its numbers begin."""
    longest = max(len(_name(label)) for label in labels) * _CHARACTER + 12
    left = min(max(longest, 64), 0.3 * width)
    return left, width - (_NUMBERS + 20 if numbers and width >= WIDE else 14)


def _heading(name: str, y: float) -> str:
    return f'<text class="heading" x="0" y="{_n(y + 18)}">{text(name)}</text>'


def _label(name: str, left: float, y: float, line: float = _LINE) -> str:
    shown = text(_name(name, int((left - 8) / _CHARACTER)))
    return f'<text class="label" x="0" y="{_n(y + line / 2 + 4.5)}">{shown}</text>'


def _numbers(said: str, width: float, y: float, line: float = _LINE, *, small: bool = False) -> str:
    size = "numbers small" if small else "numbers"
    return f'<text class="{size}" x="{width}" y="{_n(y + line / 2 + 4.5)}">{said}</text>'


def _band(scale: Scale, low: float, high: float, bottom: float) -> str:
    x, width = scale(low), scale(high) - scale(low)
    return f'<rect class="band" x="{_n(x)}" y="{_LINE}" width="{_n(width)}" height="{_n(bottom - _LINE)}"/>'


def _axis(scale: Scale, bottom: float, width: int, written: Callable[..., str], title: str) -> Iterator[str]:
    """Lines of the grid, their values below, and a stronger line at zero."""
    ticks = scale.ticks(8 if width >= WIDE else 5)
    digits = 0 if _whole(ticks) else 1
    for tick in ticks:
        x = _n(scale(tick))
        kind = "grid" if tick else "zero"
        yield f'<line class="{kind}" x1="{x}" x2="{x}" y1="{_LINE - 4}" y2="{_n(bottom)}"/>'
        yield f'<text class="soft middle" x="{x}" y="{_n(bottom + 16)}">{written(tick, digits)}</text>'
    if title:
        x = _n((scale.start + scale.end) / 2)
        yield f'<text class="soft middle" x="{x}" y="{_n(bottom + 33)}">{title}</text>'


def _whisker(scale: Scale, ci95: tuple[float, float], y: float) -> str:
    low, high = (_n(scale(end)) for end in ci95)
    ends = "".join(f'<line class="whisker" x1="{x}" x2="{x}" y1="{_n(y - 3)}" y2="{_n(y + 3)}"/>' for x in (low, high))
    return f'<line class="whisker" x1="{low}" x2="{high}" y1="{_n(y)}" y2="{_n(y)}"/>{ends}'


def _shape(kind: str, x: float, y: float, size: float) -> str:
    """Up and down for better and worse, a square for the same, a ring where the data can't tell."""
    if kind in ("better", "worse"):
        tip, foot = (-1, 1) if kind == "better" else (1, -1)
        corners = ((x, y + 1.25 * tip * size), (x - 1.1 * size, y + foot * size), (x + 1.1 * size, y + foot * size))
        return f'<polygon class="mark {kind}" points="{" ".join(f"{_n(a)},{_n(b)}" for a, b in corners)}"/>'
    if kind == "same":
        left, top, side = _n(x - 0.9 * size), _n(y - 0.9 * size), _n(1.8 * size)
        return f'<rect class="mark {kind}" x="{left}" y="{top}" width="{side}" height="{side}"/>'
    return f'<circle class="mark {kind}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(size)}"/>'


def _legend(entries: Iterable[tuple[str, str]], x: float, y: float) -> Iterator[str]:
    for kind, said in entries:
        if kind.endswith(" bar"):
            yield f'<rect class="{kind.removesuffix(" bar")}" x="{_n(x)}" y="{_n(y - 5)}" width="14" height="10"/>'
        elif kind == "band":
            yield f'<rect class="band" x="{_n(x)}" y="{_n(y - 7)}" width="14" height="14"/>'
        elif kind == "floor":
            yield f'<line class="floor" x1="{_n(x + 7)}" x2="{_n(x + 7)}" y1="{_n(y - 8)}" y2="{_n(y + 8)}"/>'
        else:
            yield _shape(kind, x + 7, y, 5)
        yield f'<text class="soft" x="{_n(x + 20)}" y="{_n(y + 4.5)}">{said}</text>'
        x += 20 + len(said) * 6.4 + 14
