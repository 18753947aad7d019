"""The items of two runs, side by side: what each answered, and whether that was a gain."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.records import Comparison, Sample
from harness.runs import RunDirectory

OUTCOMES = {
    "gained": "gained",
    "lost": "lost",
    "right": "right in both",
    "unchanged": "no better, no worse",
    "unscored": "not scored in both",
}
"""What may have come of an item, and how a reader is told so."""

# A gain or a loss is what a reader looks for: three of each come for one of the others.
TURNS = {"gained": 3, "lost": 3}


@dataclass(frozen=True, slots=True)
class Pair:
    """One item, asked of both, under its task's primary metric.

    one, two: its score in the base and in the candidate, None where unscored. outcome: one of OUTCOMES. before, after:
    where its sample stands in either run.
    """

    task: str
    orthography: str
    metric: str
    one: float | None
    two: float | None
    outcome: str
    before: int
    after: int


def pairs(comparison: Comparison, base: RunDirectory, cand: RunDirectory) -> list[Pair]:
    """The items of the primary results, in the order in which the base was asked."""
    found = []
    for row in comparison.rows:
        if not row.primary:
            continue
        key = row.task, row.orthography, row.prompt_id
        mine, theirs = base.columns[key], cand.columns[key]
        column = row.metric, row.filter
        other = dict(zip(theirs.keys, zip(theirs.values[column].tolist(), theirs.places, strict=True), strict=True))
        for document, score, before in zip(mine.keys, mine.values[column].tolist(), mine.places, strict=True):
            if document in other:
                score_after, after = other[document]
                one, two = (None if math.isnan(each) else each for each in (score, score_after))
                outcome = _outcome(one, two, row.higher_is_better)
                found.append(Pair(row.task, row.orthography, row.metric, one, two, outcome, before, after))
    return sorted(found, key=lambda pair: pair.before)


def texts(items: Iterable[Pair], base: RunDirectory, cand: RunDirectory) -> Iterator[tuple[Sample, Sample]]:
    """What either run was asked and answered, read item by item: the texts of a run may be larger than memory."""
    items = list(items)
    return zip(
        base.samples_at(pair.before for pair in items), cand.samples_at(pair.after for pair in items), strict=True
    )


def draw(items: Sequence[Pair]) -> Iterator[int]:
    """The places of all items in a fixed mixed order, of which every beginning is a fair sample.

    Each task, alphabet and outcome takes its turn; gains and losses take three.
    """
    strata: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for place, pair in enumerate(items):
        strata[pair.task, pair.orthography, pair.outcome].append(place)
    chance = random.Random(0)
    for places in strata.values():
        chance.shuffle(places)
    while strata:
        for key, places in list(strata.items()):
            for _ in range(TURNS.get(key[2], 1)):
                if places:
                    yield places.pop()
            if not places:
                del strata[key]


def _outcome(one: float | None, two: float | None, higher_is_better: bool) -> str:
    if one is None or two is None:
        return "unscored"
    if one == two:
        return "right" if one == (1.0 if higher_is_better else 0.0) else "unchanged"
    return "gained" if (two > one) == higher_is_better else "lost"
