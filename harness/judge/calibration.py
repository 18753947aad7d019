"""Human labels: reading them, having the judge judge the same answers, holding the two against each other.

One label, a line of JSONL:

    {"task": "uz_qa", "question": "…", "input": "", "references": ["…"], "answer": "…", "label": true, "slice": "matn"}

`label`: whether people accept the answer. `grade`: on the rubric's own scale, in its place or beside it. `uzbench judge
RUN --sheet FILE` writes such a file of a run's answers, with the labels left to fill in.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DataError
from harness.files import read_jsonl, write_jsonl
from harness.judge.agreement import agreement_slice, kappa, share
from harness.judge.asking import Case
from harness.judge.records import Agreement
from harness.judge.rubrics import Rubric
from harness.judge.verdicts import Verdict
from tasks_uz.judged import Judged

SHEET = 200
"""Answers that a sheet has at most: labels from which κ is known to ±0.1."""


@dataclass(frozen=True, slots=True)
class Label:
    """What people say of an answer. grade: on the rubric's scale, None where they only accepted or refused it."""

    line: int
    rubric: Rubric
    judged: Judged
    answer: str
    accepted: bool
    grade: int | None
    slice: str


def read_labels(path: Path, rubric_of: Callable[[str], Rubric | None]) -> list[Label]:
    """The labels of a file.

    rubric_of: the pointwise rubric of a task, None where there is none. Raises DataError with line and reason.
    """
    found = [_label(path, line, row, rubric_of) for line, row in read_jsonl(path)]
    if not found:
        raise DataError(path, "no labels, expected one JSON object a line: question, answer, label")
    return found


def _label(path: Path, line: int, row: Mapping[str, Any], rubric_of: Callable[[str], Rubric | None]) -> Label:
    for key in ("question", "answer"):
        if not isinstance(row.get(key), str):
            raise DataError(path, f"the key {key!r} is missing or no text", line=line)
    task = str(row.get("task", ""))
    rubric = rubric_of(task)
    if rubric is None:
        raise DataError(path, f"task {task!r} has no pointwise rubric. Name one: --rubric", line=line)
    low, high = rubric.criteria[rubric.overall]
    grade, label = row.get("grade"), row.get("label")
    if grade is not None and (isinstance(grade, bool) or not isinstance(grade, int) or not low <= grade <= high):
        raise DataError(path, f"grade {grade!r}, expected a whole number from {low} to {high}", line=line)
    if label is None and grade is not None:
        label = grade >= rubric.passing
    if label not in (True, False):
        raise DataError(path, f"label {label!r}, expected true or false (or a grade)", line=line)
    references = row.get("references", [])
    if not isinstance(references, list) or not all(isinstance(each, str) for each in references):
        raise DataError(path, "references are no list of texts", line=line)
    texts = [row.get(key, "") for key in ("input", "notes", "slice")]
    if not all(isinstance(each, str) for each in texts):
        raise DataError(path, "input, notes and slice are texts", line=line)
    judged = Judged(row["question"], texts[0], tuple(references), texts[1])
    return Label(line, rubric, judged, row["answer"], bool(label), grade, texts[2])


def label_cases(labels: Iterable[Label]) -> Iterator[Case]:
    """The labelled answers, to be judged."""
    for label in labels:
        yield Case(("label", label.line), label.rubric, label.judged, (label.answer,))


def agreement(path: Path, labels: Sequence[Label], verdicts: Mapping[Any, Verdict]) -> Agreement:
    """How the judge's verdicts agree with the labels, over all and by slice."""
    people, judge, parts = [], [], defaultdict(list)
    grades: list[tuple[int, int]] = []
    n_unscored = 0
    for label in labels:
        found = verdicts[("label", label.line)].grades
        if found is None:
            n_unscored += 1
            continue
        said = found[label.rubric.overall]
        pair = int(label.accepted), int(said >= label.rubric.passing)
        people.append(pair[0])
        judge.append(pair[1])
        parts[label.slice].append(pair)
        if label.grade is not None and label.rubric.graded:
            grades.append((label.grade, said))
    table = [[0, 0], [0, 0]]
    for one, two in zip(people, judge, strict=True):
        table[one][two] += 1
    plain = kappa(people, judge)
    weighted = kappa(*map(list, zip(*grades, strict=True)), weights="quadratic") if grades else None
    return Agreement(
        source=f"{path.name}, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}",
        n=len(people),
        n_unscored=n_unscored,
        confusion=((table[0][0], table[0][1]), (table[1][0], table[1][1])),
        kappa=plain[0] if plain else None,
        kappa_ci95=plain[1] if plain else None,
        weighted_kappa=weighted[0] if weighted else None,
        weighted_ci95=weighted[1] if weighted else None,
        sensitivity=share(table[1][1], sum(table[1])),
        specificity=share(table[0][0], sum(table[0])),
        slices=tuple(
            agreement_slice(name, *map(list, zip(*pairs, strict=True)))
            for name, pairs in sorted(parts.items())
            if len(parts) > 1
        ),
    )


def write_sheet(path: Path, rows: Sequence[tuple[str, Judged, str, str]], seed: int = 1) -> Path:
    """Writes answers of a run, SHEET of them by chance, in the form of labels that are still to be filled in.

    rows: (task, judged, answer, slice).
    """
    drawn = random.Random(seed).sample(range(len(rows)), min(SHEET, len(rows)))
    return write_jsonl(
        path,
        (
            {
                "task": task,
                "question": judged.question,
                "input": judged.input,
                "references": list(judged.references),
                "notes": judged.notes,
                "answer": answer,
                "label": None,
                "slice": part,
            }
            for task, judged, answer, part in (rows[number] for number in sorted(drawn))
        ),
    )
