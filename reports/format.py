"""How numbers and untrusted text are written. Percent exists only here."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

NONE = "—"

_MARKDOWN = {ord(mark): f"&#{ord(mark)};" for mark in "[]|`*_~\\@$!#"} | {
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
    ord("\n"): "&#10;",
}
# GitHub makes links of bare addresses.
_ADDRESS = re.compile(r"(?i)(https?|ftp|mailto|javascript|data)(:)|(www)(\.)")


def percent(value: float | None, digits: int = 1) -> str:
    """0.4531 → "45.3 %"."""
    return NONE if value is None else f"{100 * value:.{digits}f} %"


def points(value: float | None, digits: int = 1) -> str:
    """A difference of fractions in percentage points: -0.0296 → "−3.0"."""
    if value is None:
        return NONE
    text = f"{100 * value:+.{digits}f}"
    # A difference that rounds to nothing has no direction.
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"


def plus_minus(value: float, digits: int = 1) -> str:
    """A width to both sides in percentage points: 0.03 → "± 3.0"."""
    return f"± {points(value, digits).lstrip('+')}"


def interval(ci95: tuple[float, float] | None, digits: int = 1) -> str:
    """(-0.058, -0.001) → "[−5.8, −0.1]"."""
    return NONE if ci95 is None else f"[{points(ci95[0], digits)}, {points(ci95[1], digits)}]"


def probability(p: float | None) -> str:
    """A p-value with two digits that say something."""
    if p is None:
        return NONE
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"


def duration(seconds: float) -> str:
    """75.2 → "1 min 15 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def visible(text: str, limit: int | None = None) -> str:
    """Untrusted text of which everything can be seen: invisible and direction-changing characters are named.

    limit: characters of the text that are shown. Nothing is escaped yet.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[:limit]}… ({len(text):,} characters)"
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    # Most text is plain: one call then says so of all its characters.
    return text if text.replace("\n", " ").isprintable() else harmless(text)


def harmless(text: str) -> str:
    """Untrusted text for a terminal, a piece at a time: what would steer it is named, white space stays."""
    return "".join(character if character.isprintable() else _named(character) for character in text)


def _named(character: str) -> str:
    if character in "\n\t":
        return character if character == "\n" else " "
    # Cc control, Cf format (direction marks, zero width), Cs lone surrogates, Zl/Zp line separators; and the codes
    # that stand for no character, which XML can't hold.
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") or ord(character) & 0xFFFE == 0xFFFE:
        return f"⟨U+{ord(character):04X}⟩"
    return character


def escape(text: str, limit: int | None = None) -> str:
    """Untrusted text for a Markdown table or line: nothing in it is markup, a link, a mention or a new line.

    limit: as in `visible`.
    """
    return _ADDRESS.sub(_broken, visible(text, limit).translate(_MARKDOWN))


def _broken(found: re.Match[str]) -> str:
    scheme, mark = (found[1], found[2]) if found[1] else (found[3], found[4])
    return f"{scheme}&#{ord(mark)};"


def for_terminal(markdown: str) -> str:
    """Markdown of ours without its entities: a terminal shows them as they are, and runs no markup."""
    return html.unescape(markdown)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """A Markdown table; cells are taken as they are. align: one of l, r a column, l where it is short."""
    marks = ["--:" if mark == "r" else "---" for mark in align.ljust(len(header), "l")]
    lines = [header, marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


class Text(Protocol):
    """Makes untrusted text safe. limit: characters of it that are shown."""

    def __call__(self, untrusted: str, /, limit: int | None = None) -> str: ...


class Table(Protocol):
    """Writes a table of safe cells. align: one of l, r a column."""

    def __call__(self, header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str: ...


@dataclass(frozen=True, slots=True)
class Writer:
    """One way of writing, so that what a report says is said once: Markdown here, HTML in reports/page.py.

    strong, code, paragraph: of safe text. verdict: of one of the verdicts.
    """

    text: Text
    strong: Callable[[str], str]
    paragraph: Callable[[str], str]
    code: Callable[[str], str]
    verdict: Callable[[str], str]
    table: Table


MARKDOWN = Writer(
    text=escape,
    strong=lambda safe: f"**{safe}**",
    paragraph=lambda safe: f"{safe}\n",
    code=lambda safe: f"`{safe}`",
    verdict=lambda verdict: f"**{verdict}**" if verdict in ("better", "worse") else escape(verdict),
    table=table,
)
