"""Metrics that all documents have together and none alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.records import Sample
from harness.stats import Floats

Classes = npt.NDArray[np.intp]

CORPUS_METRICS = ("macro_f1",)


def classes(target: str, choices: Sequence[str], response: str | None, logprobs: Sequence[float]) -> tuple[int, int]:
    """Of one document the class that is right and the class that was said; (-1, -1) where one isn't a choice.

    What was said is the likeliest choice, whatever the primary metric weighs.
    """
    if target not in choices or response is None or response not in choices:
        return -1, -1
    said = max(range(len(logprobs)), key=logprobs.__getitem__) if logprobs else choices.index(response)
    return choices.index(target), said


@dataclass(frozen=True, slots=True)
class Classified:
    """Documents of a choice task: the class that is right and the class that was said, shape (n,) each, -1 for none."""

    right: Classes
    said: Classes

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Classified:
        """From samples."""
        found = [classes(sample.target, sample.choices, sample.response, sample.logprobs) for sample in samples]
        right, said = np.asarray(found, dtype=np.intp).reshape(-1, 2).T
        return cls(right, said)

    def at(self, documents: npt.NDArray[Any]) -> Classified:
        """Some of the documents: a mask, or their numbers."""
        return Classified(self.right[documents], self.said[documents])

    def macro_f1(self) -> Callable[[Floats], Floats]:
        """Macro-F1 as a statistic of document weights (see `stats.bootstrap`).

        A class that is neither right nor said in the documents drawn doesn't count.
        """
        labels = np.arange(max(self.right.max(), self.said.max()) + 1)
        right, said = (each[:, None] == labels for each in (self.right, self.said))
        both, either = (right & said).astype(np.float64), right.astype(np.float64) + said

        def statistic(weights: Floats) -> Floats:
            hits, marks = 2 * weights @ both, weights @ either
            f1 = np.divide(hits, marks, out=np.zeros_like(hits), where=marks > 0)
            return np.asarray(f1.sum(axis=1) / (marks > 0).sum(axis=1))

        return statistic


def cells_of(*answers: Classified) -> tuple[list[Classified], Classes]:
    """Documents that were answered alike, as one: each run's answers by cell, and the cell of each document.

    answers: of one or several runs on the same documents, in the same order. For `stats.bootstrap`.
    """
    columns = np.stack([column for each in answers for column in (each.right, each.said)])
    distinct, cells = np.unique(columns, axis=1, return_inverse=True)
    pairs = distinct.reshape(len(answers), 2, -1)
    return [Classified(right, said) for right, said in pairs], np.asarray(cells.reshape(-1), dtype=np.intp)
