"""What keeps a row out of the set, each with its name: the first that holds is the reason.

What is exact (form, patterns, cut answers) comes before what is judged by likeness (language, contamination, novelty),
and what costs more comes later.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from harness.records import Record
from tasks_uz.answers import MIN_LETTERS, alphabets, is_cut_off, is_uzbek
from train.contamination import Hit, Index
from train.faults import invisible, left_over, mixed_word, refuses
from train.selfinstruct.novelty import Novelty, Words, folded
from train.shingles import Texts

REASONS = (
    *("malformed", "schema", "cut", "refusal", "left_over", "markup", "invisible", "mixed_letters", "personal_data"),
    *("too_short", "too_long", "alphabet", "language", "copied", "contaminated", "near_instruction", "near_output"),
    "quality",
)
"""Why rows are refused, in the order in which it is looked for."""

FEWEST_INSTRUCTION_WORDS = 3
FEWEST_OUTPUT_WORDS = 8
"""Words from which an answer is compared with other answers; shorter ones, such as labels, may come again."""

FEWEST_LETTERS = 40
"""Letters from which the language of a row is told: of a label or a name, the alphabet alone."""

_FOREIGN_ALLOWED = ("translation",)
"""Types whose input and output may be in another language."""

_PERSONAL = {
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.[a-z]{2,}", re.IGNORECASE),
    "a phone number": re.compile(
        r"\+\s?\d{1,3}[\s(-]*\d{2}[\s)-]*\d{3}[\s-]*\d{2}[\s-]*\d{2}\b|(?<![\d.,-])\(?(?:9[0-9]|88|77|33|71)\)?"
        r"[\s-]\d{3}[\s-]\d{2}[\s-]\d{2}(?!\d)"
    ),
    "a card number": re.compile(
        r"(?<!\d)(?:\d{4}[ -]){3}\d{4}(?!\d)|(?<!\d)(?:8600|9860|5614|4\d{3}|5[1-5]\d\d)\d{12}(?!\d)"
    ),
    "a passport number": re.compile(r"\b[A-Z]{2}\s?№?\s?\d{7}\b"),
    "a personal number": re.compile(r"(?<!\d)[3-6]\d{13}(?!\d)"),
}
_TAG = re.compile(
    r"<(/?)(b|i|u|p|div|span|ul|ol|li|table|tr|td|th|h[1-6]|code|pre|a|br|hr)\b[^<>]*?(/?)>", re.IGNORECASE
)
_EMPTY_TAGS = ("br", "hr")


@dataclass(frozen=True, slots=True)
class Candidate(Record):
    """A row as a model wrote it, and what it was asked for. request: its number; place: of the row in the answer."""

    request: int
    place: int
    instruction: str
    input: str
    output: str
    type: str
    topic: str
    register: str
    alphabet: str
    length: str

    @property
    def text(self) -> str:
        return "\n".join((self.instruction, self.input, self.output))


@dataclass(frozen=True, slots=True)
class Rejected(Record):
    """A row that was refused: why, what of it, and which kept row it is like, where it is."""

    reason: str
    detail: str
    candidate: Candidate | None
    request: int
    like: int | None = None


@dataclass
class Filters:
    """All filters, and what they have kept so far."""

    index: Index
    instruction_rouge: float = 0.7
    output_rouge: float = 0.9
    longest_words: int = 400
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.instructions = Novelty(self.instruction_rouge)
        self.outputs = Novelty(self.output_rouge)

    def know(self, instructions: Iterable[str]) -> None:
        """Instructions that no row may come near, such as the seeds'."""
        for words in folded(instructions):
            self.instructions.add(words)

    def look(self, rows: Sequence[Candidate]) -> list[Rejected | None]:
        """Of each row why it isn't kept; None where it is, and what comes later is held against it too."""
        hits = self.index.find(Texts(row.text for row in rows)) if rows else {}
        words = folded(text for row in rows for text in (row.instruction, row.input, row.output))
        found = []
        for place, row in enumerate(rows):
            fault = self._fault(row, words[3 * place : 3 * place + 3], hits.get(place, []))
            if fault is not None:
                self.counts[fault.reason] += 1
            found.append(fault)
        return found

    def _fault(self, row: Candidate, words: Sequence[Words], hits: Sequence[Hit]) -> Rejected | None:
        for reason, detail in self._alone(row, words):
            return Rejected(reason, detail, row, row.request)
        if hits:
            return Rejected("contaminated", f"item {hits[0].item} of {hits[0].task}", row, row.request)
        instruction, _, output = words
        found = self.instructions.likest(instruction)
        if found:
            return Rejected("near_instruction", f"ROUGE-L {found[1]:.2f}", row, row.request, found[0])
        compared = len(output) >= FEWEST_OUTPUT_WORDS
        found = self.outputs.likest(output) if compared else None
        if found:
            return Rejected("near_output", f"ROUGE-L {found[1]:.2f}", row, row.request, found[0])
        self.instructions.add(instruction)
        if compared:
            self.outputs.add(output)
        return None

    def _alone(self, row: Candidate, words: Sequence[Words]) -> Iterator[tuple[str, str]]:
        """(reason, detail) of what is wrong with a row by itself, the first first."""
        asked, given, said = words
        instruction, output = row.instruction, row.output
        if not instruction or not output:
            yield "schema", "an empty instruction or answer"
        if refuses(output):
            yield "refusal", output[:60]
        if left := left_over(output, row.input) or left_over(instruction):
            yield "left_over", left[:60]
        if broken := _broken_markup(row.text):
            yield "markup", broken
        if hidden := invisible(row.text):
            yield "invisible", f"U+{ord(hidden):04X}"
        if mixed := mixed_word(row.text):
            yield "mixed_letters", mixed[:40]
        for what, pattern in _PERSONAL.items():
            if pattern.search(row.text):
                yield "personal_data", what
        if len(asked) < FEWEST_INSTRUCTION_WORDS or not said:
            yield "too_short", f"{len(asked)} words asked, {len(said)} answered"
        if max(len(said), len(given)) > self.longest_words:
            yield "too_long", f"{len(said)} words answered, {len(given)} given"
        if _breaks_off(output):
            yield "cut", f"ends with {output[-30:]!r}"
        parts = [instruction] if row.type in _FOREIGN_ALLOWED else [instruction, row.input, output]
        # A row of too few letters to tell its language by is judged by its alphabet alone.
        for part in parts:
            if _letters(part) >= MIN_LETTERS and row.alphabet not in alphabets(part):
                yield "alphabet", f"not in {row.alphabet}: {part[:40]}"
        for part in parts:
            if _letters(part) >= FEWEST_LETTERS and is_uzbek(part) == 0.0:
                yield "language", f"not in Uzbek: {part[:40]}"
        if how := _copied(asked, given, said):
            yield "copied", how


def _breaks_off(output: str) -> bool:
    """Whether prose ends inside a sentence; a list, a signature or a label needs no full stop."""
    if "\n" in output:
        return False
    sentences = re.split(r"[.!?…][”»)]*\s", output)
    return len(sentences) > 1 and len(sentences[-1].split()) > 2 and output[-1].isalpha() and bool(is_cut_off(output))


def _letters(text: str) -> int:
    return sum(mark.isalpha() for mark in text)


def _broken_markup(text: str) -> str | None:
    """What was opened and not closed; None where all was."""
    if text.count("```") % 2:
        return "a code fence without its end"
    if text.count("**") % 2:
        return "** without its end"
    opened: list[str] = []
    for closing, name, alone in _TAG.findall(text):
        name = name.lower()
        if name in _EMPTY_TAGS or alone:
            continue
        if not closing:
            opened.append(name)
        elif not opened or opened.pop() != name:
            return f"</{name}> without its beginning"
    # Lists and paragraphs may end by themselves in HTML; a row that is about HTML says so in code.
    return f"<{opened[0]}> without its end" if opened and opened[0] not in ("li", "p", "td", "tr", "th") else None


def _copied(asked: Words, given: Words, said: Words) -> str | None:
    """How an answer only repeats what was asked; None where it doesn't."""
    if said in (asked, given):
        return "the answer is the question"
    if len(said) < FEWEST_OUTPUT_WORDS:
        return None
    if _longest_run(said, asked) >= 0.8 * len(said):
        return "the answer repeats the instruction"
    if len(said) >= 0.8 * len(given) > 0 and _longest_run(said, given) >= 0.9 * len(said):
        return "the answer repeats the input"
    return None


def _longest_run(one: Words, two: Words) -> int:
    return SequenceMatcher(None, one, two, autojunk=False).find_longest_match().size


def read_tasks(text: str, *, cut: bool) -> tuple[list[Mapping[str, Any]], str | None]:
    """The rows of an answer, and why some or all of them can't be read.

    cut: the answer ended at its limit; what was whole before that is read.
    """
    start = text.find("[", text.find('"tasks"')) if '"tasks"' in text else -1
    if start < 0:
        return [], "cut" if cut else "malformed"
    decoder, place = json.JSONDecoder(), start + 1
    found: list[Mapping[str, Any]] = []
    while True:
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        if place < len(text) and text[place] == "]":
            return found, None
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return found, "cut" if cut else "malformed"
        if not isinstance(value, dict):
            return found, "malformed"
        found.append(value)
