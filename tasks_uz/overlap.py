"""How much of a reference text an answer has: chrF++, ROUGE-1 and ROUGE-L, on folded Uzbek.

rouge_score's own tokenizer keeps only a–z and 0–9: it splits oʻzbek in two and finds no words at all in
Cyrillic, so it is given ours (https://github.com/google-research/google-research/tree/master/rouge).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tasks_uz.answers import copied, in_alphabet, is_empty, is_uzbek, length_ratio, repetition
from tasks_uz.text import fold, words


def compared(answer: str, references: Sequence[str], source: str, orthography: str) -> dict[str, float]:
    """What a summary or headline is worth beside its references, and what it is like; what can't be told is left out.

    source: the text it was made of. orthography: the one that was asked for.
    """
    found = {
        "chrf": chrf(answer, references),
        **rouge(answer, references),
        "length_ratio": length_ratio(answer, references),
        "copied": copied(answer, source),
        "repetition": repetition(answer),
        "uzbek": is_uzbek(answer),
        "alphabet": in_alphabet(answer, orthography),
        "empty": is_empty(answer),
    }
    return {metric: value for metric, value in found.items() if value is not None}


def chrf(answer: str, references: Sequence[str]) -> float:
    """chrF++ of one answer in [0,1], the best over the references.

    Source: sacrebleu's chrF with word_order=2 (Popović 2017), on folded text.
    """
    metric = _chrf()
    return max(metric.sentence_score(fold(answer), [fold(text)]).score for text in references) / 100


def rouge(answer: str, references: Sequence[str]) -> dict[str, float]:
    """ROUGE-1 and ROUGE-L F1 of one answer in [0,1], each the best over the references (Lin 2004)."""
    found = [_rouge().score(text, answer) for text in references]
    return {ours: float(max(each[theirs].fmeasure for each in found)) for ours, theirs in _ROUGE.items()}


_ROUGE = {"rouge_1": "rouge1", "rouge_l": "rougeL"}
"""Our names of the variants to rouge_score's."""


@lru_cache(maxsize=1)
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(word_order=2)


@lru_cache(maxsize=1)
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(_ROUGE.values()), tokenizer=_Words())


class _Words:
    def tokenize(self, text: str) -> list[str]:
        return words(text)
