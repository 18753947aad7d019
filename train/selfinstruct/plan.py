"""What is to be written next: the kinds of rows that a set still lacks most, axis by axis.

An axis is a property that a request asks for: type, topic, register, alphabet, length. What is asked for next is drawn
with the weight of what is missing, so that a kind whose rows are often refused is asked for more often.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

AXES = ("type", "topic", "register", "alphabet", "length")

OFF_BALANCE = 0.25
"""A share that misses its aim by more than a quarter of it is named."""

Cell = tuple[str, ...]
"""One value of each axis, in the order of AXES."""


def length_of(n_words: int) -> str:
    """The class of an answer's length."""
    return "short" if n_words <= 20 else "medium" if n_words <= 80 else "long"


@dataclass
class Plan:
    """Aims and what is there. shares: of each axis, value to weight."""

    shares: Mapping[str, Mapping[str, float]]
    kept: dict[str, Counter[str]] = field(default_factory=lambda: {axis: Counter() for axis in AXES})
    asked: dict[str, Counter[str]] = field(default_factory=lambda: {axis: Counter() for axis in AXES})

    def draw(self, chance: random.Random, n_aim: int) -> Cell:
        """The cell of the next request, for a set that shall have n_aim rows."""
        return tuple(self._draw(axis, chance, n_aim) for axis in AXES)

    def _draw(self, axis: str, chance: random.Random, n_aim: int) -> str:
        values = list(self.shares[axis])
        total = sum(self.shares[axis].values())
        missing = [
            max(0.0, n_aim * self.shares[axis][value] / total - self.kept[axis][value] - self.asked[axis][value])
            for value in values
        ]
        # Where all is there, what is over the aim is drawn as it was planned.
        weights = missing if sum(missing) > 0 else [self.shares[axis][value] for value in values]
        return chance.choices(values, weights)[0]

    def ask(self, cell: Cell, n_rows: float) -> None:
        """So many rows of a cell are expected; n_rows below 0: no more."""
        for axis, value in zip(AXES, cell, strict=True):
            self.asked[axis][value] += n_rows  # type: ignore[assignment]

    def keep(self, values: Mapping[str, str], n_rows: int = 1) -> None:
        """A row was kept; n_rows -1: taken out again."""
        for axis in AXES:
            self.kept[axis][values[axis]] += n_rows

    def off_balance(self) -> list[str]:
        """Where the kept rows miss their aim, in words; few rows are off by chance and aren't named."""
        found = []
        for axis in AXES:
            n, total = sum(self.kept[axis].values()), sum(self.shares[axis].values())
            for value, weight in self.shares[axis].items():
                aim = weight / total
                share = self.kept[axis][value] / n if n else 0.0
                chance = 3 * (aim * (1 - aim) / n) ** 0.5 if n else 1.0
                if abs(share - aim) > max(OFF_BALANCE * aim, chance):
                    found.append(f"{axis} {value}: {share:.1%} of the rows, {aim:.1%} wanted")
        return found
