"""Rows laid behind one another, and which of them share an optimizer step and a pass.

A step is so many rows, as the recipe says, whatever their length; how many of them are computed at once is the
machine's affair. So packing changes neither the recipe nor the loss: each row keeps its own positions, attends to
itself alone, and the loss is the mean over the trained tokens of the whole step.

    rows       [7 8 9 2] [5 6 2]         ids        7 8 9 2 5 6 2
    trained      · · 9 2     · 6 2       positions  0 1 2 3 0 1 2
                                         predictors   1 2     4 5      places whose next token is trained
                                         targets      9 2     6 2
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np

from train.data import TokenRow


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows of one pass. T tokens, N trained tokens.

    ids, positions: int64 (T,). lengths: int64 (rows,). predictors: int64 (N,), the places that predict `targets` (N,).
    """

    ids: np.ndarray
    positions: np.ndarray
    lengths: np.ndarray
    predictors: np.ndarray
    targets: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[TokenRow]) -> Packed:
        """rows: each with a trained token behind its first."""
        lengths = np.array([len(row.ids) for row in rows])
        starts = np.cumsum(lengths) - lengths
        ids = np.concatenate([np.asarray(row.ids, dtype=np.int64) for row in rows])
        # The first token of a row is predicted by nothing.
        first = [max(row.n_prompt, 1) - 1 for row in rows]
        predictors = np.concatenate(
            [np.arange(start + low, start + n - 1) for start, low, n in zip(starts, first, lengths, strict=True)]
        )
        positions = np.arange(len(ids)) - np.repeat(starts, lengths)
        return cls(ids, positions, lengths, predictors, ids[predictors + 1])

    @classmethod
    def idle(cls) -> Packed:
        """A pass that trains nothing, as short as can be: what keeps a process in step with others."""
        zero, none = np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int64)
        return cls(zero, zero, np.ones(1, dtype=np.int64), none, none)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which rows each optimizer step takes.

    An epoch is a shuffle of all rows, cut into steps; its last step takes what is left over. Nothing but these
    numbers matters, so that a resumed run goes on with the very rows it would have come to.
    """

    n_rows: int
    rows_per_step: int
    epochs: float
    max_steps: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.n_rows // self.rows_per_step)

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.max_steps or max(1, math.ceil(self.epochs * self.steps_per_epoch))

    def rows(self, step: int) -> list[int]:
        """The rows of a step, counted from 0."""
        epoch, number = divmod(step, self.steps_per_epoch)
        order = _order(self.n_rows, self.seed, epoch)
        return list(order[number * self.rows_per_step : (number + 1) * self.rows_per_step])


@lru_cache(maxsize=2)
def _order(n_rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    """An epoch's rows in order; kept, since shuffling a million takes a second."""
    order = list(range(n_rows))
    Random(f"{seed}:{epoch}").shuffle(order)
    return tuple(order)


def divided(lengths: Sequence[int], n_parts: int) -> list[list[int]]:
    """Rows, by number, in so many parts of about as many tokens; no part is without rows unless they are too few."""
    parts: list[list[int]] = [[] for _ in range(n_parts)]
    loads = [0] * n_parts
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        lightest = loads.index(min(loads))
        parts[lightest].append(row)
        loads[lightest] += lengths[row]
    return [sorted(part) for part in parts if part]


def passes(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Rows, by number, in as few passes of at most so many tokens as are found; a longer row has one to itself."""
    n_parts = max(1, -(-sum(lengths) // most_tokens))
    while True:
        parts = divided(lengths, n_parts)
        if all(len(part) == 1 or sum(lengths[row] for row in part) <= most_tokens for part in parts):
            return parts
        n_parts += 1
