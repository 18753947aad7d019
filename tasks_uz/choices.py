"""What the likelihoods of a document's choices are worth: accuracy, accuracy by bytes, and macro-F1.

By bytes and never by tokens: a tokenizer cuts one Uzbek word in two and another in five.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks_uz.ask import offered

Likelihoods = Sequence[tuple[float, bool]]
"""(log-likelihood in nats, whether it is the greedy answer) of each choice."""


def process_results(doc: Mapping[str, Any], results: Likelihoods) -> dict[str, float]:
    """acc: the likeliest choice is the right one. acc_bytes: so is the likeliest by byte. Ties go to the first."""
    choices, right = offered(doc), doc["answer"]
    scores = [score for score, _ in results]
    by_byte = [score / len(choice.encode()) for score, choice in zip(scores, choices, strict=True)]
    return {"acc": float(_largest(scores) == right), "acc_bytes": float(_largest(by_byte) == right)}


def process_classes(doc: Mapping[str, Any], results: Likelihoods) -> dict[str, Any]:
    """The same where every document has the same choices, which are classes; and the pair macro_f1 is made of."""
    said = _largest([score for score, _ in results])
    return {**process_results(doc, results), "macro_f1": (doc["answer"], said)}


def _largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def macro_f1(pairs: Iterable[tuple[int, int]]) -> float:
    """The mean over classes of F1, in [0,1]; a class that is neither right nor said anywhere doesn't count.

    pairs: (right class, class said).
    """
    pairs = list(pairs)
    scores = []
    for each in sorted({label for pair in pairs for label in pair}):
        both = sum(right == said == each for right, said in pairs)
        one = sum((right == each) + (said == each) for right, said in pairs)
        scores.append(2 * both / one)
    return sum(scores) / len(scores) if scores else 0.0
