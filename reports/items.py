"""The items of two runs, side by side: what each answered, and whether that was a gain."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.records import Comparison, Sample, Score
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

_TaskKey = tuple[str, str, str]
_Key = tuple[_TaskKey, str, int]


@dataclass(frozen=True, slots=True)
class Pair:
    """One item, asked of both, under its task's primary metric. outcome: one of OUTCOMES."""

    before: Sample
    after: Sample
    one: Score | None
    two: Score | None
    outcome: str


def pairs(comparison: Comparison, base: RunDirectory, cand: RunDirectory) -> list[Pair]:
    """The items of the primary results, in the order in which the base was asked."""
    primary = {
        (row.task, row.orthography, row.prompt_id): (row.metric, row.filter, row.higher_is_better)
        for row in comparison.rows
        if row.primary
    }
    one, two = (_primary_scores(run, primary) for run in (base, cand))
    answers = {_key(sample): sample for sample in cand.samples}
    found = []
    for sample in base.samples:
        key = _key(sample)
        if key[0] in primary and key in answers:
            scores = one.get(key), two.get(key)
            found.append(Pair(sample, answers[key], *scores, _outcome(*scores, primary[key[0]][2])))
    return found


def draw(items: Sequence[Pair]) -> Iterator[int]:
    """The places of all items in a fixed mixed order, of which every beginning is a fair sample.

    Each task, alphabet and outcome takes its turn; gains and losses take three.
    """
    strata: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for place, pair in enumerate(items):
        strata[pair.before.task, pair.before.orthography, pair.outcome].append(place)
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


def _key(record: Sample | Score) -> _Key:
    return (record.task, record.orthography, record.prompt_id), record.doc_hash, record.occurrence


def _primary_scores(run: RunDirectory, primary: dict[_TaskKey, tuple[str, str, bool]]) -> dict[_Key, Score]:
    return {
        _key(score): score
        for score in run.scores
        if score.task_key in primary and (score.metric, score.filter) == primary[score.task_key][:2]
    }


def _outcome(one: Score | None, two: Score | None, higher_is_better: bool) -> str:
    if one is None or two is None or one.value is None or two.value is None:
        return "unscored"
    if one.value == two.value:
        return "right" if one.value == (1.0 if higher_is_better else 0.0) else "unchanged"
    return "gained" if (two.value > one.value) == higher_is_better else "lost"
