"""How much of a reference text an answer has: chrF++ and ROUGE-L, on folded Uzbek.

rouge_score's own tokenizer keeps only a–z and 0–9: it splits oʻzbek in two and finds no words at all in
Cyrillic, so it is given ours (https://github.com/google-research/google-research/tree/master/rouge).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tasks_uz.text import fold, words


def chrf(answer: str, references: Sequence[str]) -> float:
    """chrF++ of one answer in [0,1], the best over the references.

    Source: sacrebleu's chrF with word_order=2 (Popović 2017), on folded text.
    """
    metric = _chrf()
    return max(metric.sentence_score(fold(answer), [fold(text)]).score for text in references) / 100


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """ROUGE-L F1 of one answer in [0,1], the best over the references (Lin 2004)."""
    metric = _rouge()
    return float(max(metric.score(text, answer)["rougeL"].fmeasure for text in references))


@lru_cache(maxsize=1)
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(word_order=2)


@lru_cache(maxsize=1)
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


class _Words:
    def tokenize(self, text: str) -> list[str]:
        return words(text)
