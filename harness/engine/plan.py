"""Which requests are computed together: batches of a tree of token ids, and what is computed once before them.

All contexts are sorted by their token ids, so that those which share most stand side by side. Where a stretch of
them has more distinct tokens than a batch may hold, what they all begin with becomes a segment that is computed
once and kept; the rest is cut where contexts part, never inside a document that fits a batch:

    shots ──┬── passage 1 ─┬─ question 1 …     segment: shots
            │              └─ question 2 …     batch 1: passage 1, passage 2     batch 2: passage 3 …
            ├── passage 2 ── …
            └── passage 3 ── …

The plan rests on the requests alone, never on what has been answered already: neighbours in a batch move a
float32 log-likelihood by about 1e-6, and a resumed run must come to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harness.engine.tree import Ints, Tokens, common_length, sort_key

SEGMENT = 32
"""The fewest tokens that are worth a computation of their own; fewer are computed again in each batch."""


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens to score: the log-likelihood of a continuation behind its context, neither of them empty."""

    context: Tokens
    continuation: Tokens

    @property
    def text(self) -> Tokens:
        """What is computed: the last token of a continuation predicts nothing that is scored."""
        return np.concatenate([self.context, self.continuation[:-1]])


@dataclass(frozen=True, slots=True)
class Unit:
    """What is computed together and never apart: the choices of a document, the windows of a text, a prompt.

    keys: the request that each part belongs to. A prompt to go on from is a part with no continuation.
    """

    keys: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def head(self) -> Tokens:
        """What decides its place among the others."""
        return self.parts[0].text

    @property
    def stem(self) -> int:
        """Tokens of it that may be computed before it: what all parts begin with, and nothing that predicts."""
        first = self.parts[0]
        # Choices of one document have one context; what was cut to the model's length may not.
        others = [part for part in self.parts if part.context is not first.context]
        alike = min((common_length(first.text, part.text) for part in others), default=len(first.context))
        return min(alike, *(len(part.context) - 1 for part in self.parts))


@dataclass(frozen=True, slots=True)
class Batch:
    """Units that are computed at once.

    cuts: ends, in tokens, of the segments that all of them begin with, each computed behind the one before.
    n_tokens: distinct tokens beyond those.
    """

    units: tuple[Unit, ...]
    cuts: tuple[int, ...]
    n_tokens: int

    @property
    def keys(self) -> tuple[str, ...]:
        """The requests it answers, each once."""
        return tuple(dict.fromkeys(key for unit in self.units for key in unit.keys))

    @property
    def prefix(self) -> Tokens:
        """What all of its units begin with and what is computed before them."""
        return self.units[0].head[: self.cuts[-1] if self.cuts else 0]

    def halves(self) -> tuple[Batch, Batch] | None:
        """Two batches of half the units each, None for a single unit."""
        half = len(self.units) // 2
        if not half:
            return None
        depth = self.cuts[-1] if self.cuts else 0
        one, two = self.units[:half], self.units[half:]
        return Batch(one, self.cuts, _beyond(one, depth)), Batch(two, self.cuts, _beyond(two, depth))


def arranged(unit: Unit) -> Unit:
    """A unit whose parts stand in the order in which they share most."""
    order = sorted(range(len(unit.parts)), key=lambda number: sort_key(unit.parts[number].text))
    return Unit(tuple(unit.keys[n] for n in order), tuple(unit.parts[n] for n in order))


def plan(units: Sequence[Unit], budget: int) -> list[Batch]:
    """Batches of at most budget distinct tokens; a single unit may exceed it alone."""
    if not units:
        return []
    ordered = sorted(map(arranged, units), key=lambda unit: sort_key(unit.head))
    shared = _between(ordered, lambda unit: unit.parts[0])
    overlap = _between(ordered, lambda unit: unit.parts[-1])
    stems = np.asarray([unit.stem for unit in ordered], dtype=np.int64)
    sizes = np.asarray([_distinct(unit) for unit in ordered], dtype=np.int64)

    def tokens_of(low: int, high: int, depth: int) -> int:
        return int(sizes[low:high].sum() - depth - np.maximum(overlap[low + 1 : high], depth).sum())

    batches = []
    stack: list[tuple[int, int, int, tuple[int, ...]]] = [(0, len(ordered), 0, ())]
    while stack:
        low, high, depth, cuts = stack.pop()
        n_tokens = tokens_of(low, high, depth)
        if n_tokens <= budget or high - low == 1:
            batches.append(Batch(tuple(ordered[low:high]), cuts, n_tokens))
            continue
        level = int(shared[low + 1 : high].min())
        segment = min(level, int(stems[low:high].min()))
        if segment - depth >= SEGMENT:
            depth, cuts = segment, (*cuts, segment)
        # Branches of the tree from this level on, as many to a batch as it holds.
        edges = [*map(int, np.flatnonzero(shared[low + 1 : high] <= level) + low + 1), high]
        packed, first = [], low
        for edge, following in zip(edges, [*edges[1:], high], strict=True):
            if edge == high or tokens_of(first, following, depth) > budget:
                packed.append((first, edge, depth, cuts))
                first = edge
        stack += reversed(packed)
    return batches


def _between(units: Sequence[Unit], part: Callable[[Unit], Part]) -> Ints:
    """Tokens that each unit's first text shares with a part of the unit before it; 0 for the first unit."""
    pairs = pairwise(units)
    lengths = (common_length(part(one).text, two.head) for one, two in pairs)
    return np.asarray([0, *lengths], dtype=np.int64)


def _distinct(unit: Unit) -> int:
    """Distinct tokens of a unit that stands alone."""
    texts = [part.text for part in unit.parts]
    pairs = pairwise(texts)
    return sum(map(len, texts)) - sum(common_length(one, two) for one, two in pairs)


def _beyond(units: Sequence[Unit], depth: int) -> int:
    """Distinct tokens of neighbouring units beyond a depth that they all share."""
    overlap = np.maximum(_between(units, lambda unit: unit.parts[-1]), depth)
    return int(sum(map(_distinct, units)) - overlap.sum())
