"""Which texts are new: ROUGE-L against every text that was kept, exact, in time that grows about as n to 1.5.

ROUGE-L F1 of two texts of m and n words with a longest common subsequence of L is 2L / (m + n) (Lin 2004). It is above
a threshold t only where more than t (m + n) / 2 words are common at all; so, the words of both sorted by one order,
the rarest first, one of the first m - o + 1 must stand among the first n - o' + 1 of the other (the prefix filter of
Chaudhuri, Ganti and Kaushik 2006). Texts are looked up by those words alone, and only what is found is compared, word
by word as code points, by rapidfuzz. The decision is made in whole numbers.

Words are compared by their skeletons (train.shingles), in which the alphabets and the ways to write oʻ and gʻ are one.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from train.shingles import Texts

Words = Sequence[str]

FIRST_REBUILD = 1_000
"""Kept texts at which the order of words is set anew; then at each doubling."""


class Novelty:
    """The texts that were kept. threshold: of ROUGE-L F1 in [0,1], above which a text isn't new.

    Memory: about 300 bytes a text of 14 words.
    """

    def __init__(self, threshold: float = 0.7) -> None:
        self.threshold = Fraction(str(threshold))
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold {threshold}, expected a number between 0 and 1")
        self._numbers: dict[str, int] = {}
        self._counts: Counter[int] = Counter()
        self._rank: dict[int, int] = {}
        self._texts: list[str] = []
        self._lengths = array("i")
        self._lists: dict[tuple[int, int], array[int]] = {}
        self._rebuild_at = FIRST_REBUILD

    def __len__(self) -> int:
        return len(self._texts)

    def likest(self, text: Words) -> tuple[int, float] | None:
        """The kept text that is most like this one, if it is more so than the threshold: (its number, ROUGE-L F1)."""
        return self._likest(self._coded(text))

    def add(self, text: Words) -> int:
        """Keeps a text; returns its number."""
        coded = self._coded(text)
        number = len(self._texts)
        self._texts.append(coded)
        self._lengths.append(len(coded))
        self._counts.update(map(ord, coded))
        if len(self._texts) >= self._rebuild_at:
            self._rebuild_at *= 2
            self._rebuild()
        else:
            self._index(number, coded)
        return number

    def keep_if_new(self, text: Words) -> tuple[int, float] | None:
        """What makes a text old, as in `likest`; None where it is new, and is kept."""
        found = self.likest(text)
        if found is None:
            self.add(text)
        return found

    # Words as code points.

    def _coded(self, found: Iterable[str]) -> str:
        """Words as characters, one each, so that a library for strings compares them."""
        numbers = self._numbers
        return "".join(chr(numbers.setdefault(word, _code_point(len(numbers)))) for word in found)

    def _order(self, coded: str) -> list[tuple[int, int, int]]:
        """(rank, word, which occurrence) of a text's words, the rarest first.

        A word that stands twice is two: the common words of two texts are counted as often as both have them.
        """
        seen: Counter[int] = Counter()
        found = []
        for mark in map(ord, coded):
            # A word that was never counted is rarer than all that were.
            found.append((self._rank.get(mark, -mark), mark, seen[mark]))
            seen[mark] += 1
        return sorted(found)

    def _prefix(self, coded: str) -> list[tuple[int, int]]:
        """The words by which a text is looked up: one of them stands in the prefix of every text that is like it."""
        n = len(coded)
        # The shortest text that can be like this one has n t / (2 - t) words, and more words than that are common.
        over, under = self.threshold.numerator, self.threshold.denominator
        fewest = over * n // (2 * under - over) + 1
        return [(word, occurrence) for _, word, occurrence in self._order(coded)[: max(0, n - fewest + 1)]]

    def _longest(self, n: int, common: int) -> int:
        """The most words of a text that is like one of n words where so many are common at most."""
        # 2 common > t (n + m), in whole numbers.
        return (2 * common * self.threshold.denominator - 1) // self.threshold.numerator - n

    # The index.

    def _index(self, number: int, coded: str) -> None:
        for key in self._prefix(coded):
            found = self._lists.get(key)
            if found is None:
                found = self._lists[key] = array("i")
            found.append(number)

    def _rebuild(self) -> None:
        """Orders words by how many kept texts have now, and looks texts up by that order from here on."""
        ordered = sorted(self._counts.items(), key=lambda each: (each[1], each[0]))
        self._rank = {word: rank for rank, (word, _) in enumerate(ordered)}
        self._lists.clear()
        for number, coded in enumerate(self._texts):
            self._index(number, coded)

    def _likest(self, coded: str) -> tuple[int, float] | None:
        n = len(coded)
        if not n:
            return None
        lengths = np.frombuffer(self._lengths, dtype=np.int32)
        lists = []
        for place, key in enumerate(self._prefix(coded)):
            listed = self._lists.get(key)
            if listed is not None:
                numbers = np.frombuffer(listed, dtype=np.int32)
                # This word the first in common, n - place words are common at most: of longer texts that is too few.
                lists.append(numbers[lengths[numbers] <= self._longest(n, n - place)])
        if not lists:
            return None
        found = np.unique(np.concatenate(lists))
        lengths = lengths[found]
        t = float(self.threshold)
        # A little wide, as floats are; the decision below is exact.
        near = lengths >= n * t / (2 - t) - 1
        found, lengths = found[near], lengths[near]
        if not len(found):
            return None
        common = _common(coded, [self._texts[number] for number in found])
        over = 2 * common * self.threshold.denominator > (lengths + n) * self.threshold.numerator
        if not over.any():
            return None
        found, shares = found[over], (2 * common / (lengths + n))[over]
        best = int(shares.argmax())
        return int(found[best]), float(shares[best])


def _common(text: str, others: Sequence[str]) -> NDArray[np.int64]:
    """The longest common subsequence of a text with each of the others, in words."""
    return cdist([text], others, scorer=LCSseq.similarity, dtype=np.int32)[0].astype(np.int64)


def _code_point(number: int) -> int:
    """A character for each word: none of the surrogates, which are no characters."""
    return number + 1 if number + 1 < 0xD800 else number + 1 + 0x800


def folded(texts: Iterable[str]) -> list[list[str]]:
    """The words of texts as they are compared."""
    return [text.split() for text in Texts(texts)]


def rouge_l(one: Words, two: Words) -> Fraction:
    """ROUGE-L F1 of two texts in [0,1], by its definition; 0 where one has no words."""
    if not one or not two:
        return Fraction(0)
    row = [0] * (len(two) + 1)
    for word in one:
        above = 0
        for place, other in enumerate(two, 1):
            above, row[place] = row[place], above + 1 if word == other else max(row[place], row[place - 1])
    return Fraction(2 * row[-1], len(one) + len(two))
