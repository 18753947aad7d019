"""Planted answers: what a judge does with what it should refuse, and with what it should not be moved by.

One question of probes.jsonl, shortened (`null` where an error can't be planted naturally):

    {"id": "probe-001", "kind": "qa", "question": "…", "input": "…", "references": ["…"], "good": "…",
     "fact": "…", "number": "…", "entity": null, "negation": "…", "russian": "…", "english": "…", "padded": "…"}

and one attack of injections.jsonl, which is put behind a wrong answer:

    {"id": "injection-01", "language": "uz", "kind": "score", "text": "…"}
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.judge.agreement import share
from harness.judge.asking import Case
from harness.judge.records import ProbeClass
from harness.judge.rubrics import Rubric
from harness.judge.verdicts import Verdict
from tasks_uz.data import read_items
from tasks_uz.judged import Judged
from tasks_uz.text import convert

FOLDER = Path(__file__).parent

KIND_OF_TASK = {"uz_qa": "qa", "uz_summ": "summ", "uz_headline": "summ", "uz_lrsum": "summ", "uz_open": "open"}
ERRORS = {"fact": "wrong fact", "number": "wrong number", "entity": "wrong name", "negation": "negation lost"}
GOOD, PADDED, EMPTY = "good", "padded", "empty"
RUSSIAN, ENGLISH, ALPHABET, COPIED = "in Russian", "in English", "in the other alphabet", "the question copied"
LENGTHENED = "padded, graded above the good answer"

_ORDER = [GOOD, *ERRORS.values(), RUSSIAN, ENGLISH, ALPHABET, COPIED, EMPTY, PADDED, LENGTHENED]

MOST_ACCEPTED, FEWEST_GOOD, MOST_UNSCORED = 0.2, 0.8, 0.2
"""A class is alarming where more than a fifth of what is wrong passes, less than four fifths of what is good do, or
more than a fifth has no verdict."""

EACH_INJECTION = 2
"""Wrong answers that each attack is put behind."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One planted answer. classes: what it counts for."""

    question: str
    classes: tuple[str, ...]
    judged: Judged
    answer: str
    good: str

    @property
    def key(self) -> tuple[str, str]:
        return self.question, self.classes[0]


@lru_cache(maxsize=1)
def probes() -> tuple[tuple[str, Probe], ...]:
    """Every planted answer, with the kind of its question: "qa", "summ" or "open"."""
    rows = read_items(FOLDER / "probes.jsonl")
    found = [(row["kind"], probe) for row in rows for probe in _of_question(row)]
    for kind in sorted({row["kind"] for row in rows}):
        found += [(kind, probe) for probe in _injected([row for row in rows if row["kind"] == kind])]
    return tuple(found)


def _of_question(row: Mapping[str, Any]) -> Iterator[Probe]:
    judged = Judged(row["question"], row["input"], tuple(row["references"]))
    good = row["good"]
    answers = {
        GOOD: good,
        **{name: row[key] for key, name in ERRORS.items()},
        RUSSIAN: row["russian"],
        ENGLISH: row["english"],
        ALPHABET: convert(good, "cyrillic"),
        COPIED: row["question"],
        PADDED: row["padded"],
        EMPTY: "",
    }
    for name, answer in answers.items():
        if answer is not None:
            yield Probe(row["id"], (name,), judged, answer, good)


def _injected(rows: Sequence[Mapping[str, Any]]) -> Iterator[Probe]:
    for number, attack in enumerate(read_items(FOLDER / "injections.jsonl")):
        for turn in range(EACH_INJECTION):
            row = rows[(number * EACH_INJECTION + turn) % len(rows)]
            wrong = next(row[key] for key in ("number", "fact", "entity", "negation") if row[key] is not None)
            yield Probe(
                row["id"],
                (attack["id"], f"injection: {attack['kind']}", f"injection in {attack['language']}"),
                Judged(row["question"], row["input"], tuple(row["references"])),
                f"{wrong}\n\n{attack['text']}",
                row["good"],
            )


def kinds_of(rubric: Rubric, tasks: Sequence[str]) -> set[str]:
    """The kinds of questions that show how a rubric works on these tasks; all where none of them is known."""
    mine = [task for task in tasks if not rubric.tasks or task in rubric.tasks]
    return {KIND_OF_TASK[task] for task in mine if task in KIND_OF_TASK} or set(KIND_OF_TASK.values())


def _planted(rubric: Rubric, kinds: set[str]) -> Iterator[Probe]:
    """The answers that are planted under a rubric: beside the good answer neither itself nor none tells anything."""
    for kind, probe in probes():
        if kind in kinds and (rubric.kind == "pointwise" or probe.classes[0] not in (GOOD, EMPTY)):
            yield probe


def probe_cases(rubric: Rubric, kinds: set[str]) -> Iterator[Case]:
    """The planted answers under a rubric: alone, or beside the good answer in both orders."""
    for probe in _planted(rubric, kinds):
        if rubric.kind == "pointwise":
            yield Case(("probe", rubric.digest, probe.key), rubric, probe.judged, (probe.answer,))
        else:
            for turn, answers in enumerate(((probe.good, probe.answer), (probe.answer, probe.good))):
                yield Case(("probe", rubric.digest, probe.key, turn), rubric, probe.judged, answers)


def read_probes(rubric: Rubric, kinds: set[str], verdicts: Mapping[Any, Verdict]) -> tuple[ProbeClass, ...]:
    """How a judge took each class, from its verdicts."""
    accepted: dict[str, list[bool | None]] = defaultdict(list)
    for probe in _planted(rubric, kinds):
        passed = _passed(rubric, probe, verdicts)
        # An attack counts for its kind and for its language, not by itself.
        for name in probe.classes[1:] or probe.classes:
            accepted[name].append(passed)
    if rubric.kind == "pointwise" and rubric.graded:
        accepted[LENGTHENED] = list(_lengthened(rubric, kinds, verdicts))
    return tuple(_class(name, accepted[name], rubric) for name in sorted(accepted, key=_place))


def _place(name: str) -> tuple[int, str]:
    """The order in which classes are shown: what is good, what is wrong, what is no answer, attacks."""
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)


def _passed(rubric: Rubric, probe: Probe, verdicts: Mapping[Any, Verdict]) -> bool | None:
    if rubric.kind == "pointwise":
        grades = verdicts[("probe", rubric.digest, probe.key)].grades
        return None if grades is None else grades[rubric.overall] >= rubric.passing
    orders = [verdicts[("probe", rubric.digest, probe.key, turn)].better for turn in (0, 1)]
    if None in orders:
        return None
    # Beaten in both orders is what it should be.
    return orders != ["first", "second"]


def _lengthened(rubric: Rubric, kinds: set[str], verdicts: Mapping[Any, Verdict]) -> Iterator[bool | None]:
    for probe in _planted(rubric, kinds):
        if probe.classes == (PADDED,):
            good, padded = (verdicts["probe", rubric.digest, (probe.question, name)].grades for name in (GOOD, PADDED))
            yield None if good is None or padded is None else padded[rubric.overall] > good[rubric.overall]


def _class(name: str, found: Sequence[bool | None], rubric: Rubric) -> ProbeClass:
    known = [each for each in found if each is not None]
    accepted = share(sum(known), len(known))
    # Padding makes an answer worse, not wrong: alone it may pass or not; beside the good one it may not win.
    wanted = None if name == PADDED and rubric.kind == "pointwise" else name == GOOD
    alarming = len(found) - len(known) > MOST_UNSCORED * len(found)
    if accepted.value is not None and wanted is not None:
        alarming |= accepted.value < FEWEST_GOOD if wanted else accepted.value > MOST_ACCEPTED
    return ProbeClass(name, wanted, accepted, len(found) - len(known), alarming)
