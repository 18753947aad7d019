"""What texts share, by their runs of letters and of words, whatever their alphabet, marks, case and punctuation.

    Oʻzbekiston — 1991-yil    Ўзбекистон 1991 йил    Özbekiston, 1991 YIL    O'zbekiston (1991-yil)

all have one skeleton, `ozbekiston 1991 il`: what the alphabets write apart (yo, ts, the marks) is left out, so nothing
has to be transliterated, which takes milliseconds a row. Two words that differ only there have one skeleton too: it
finds texts that are alike, and never says that they are equal.

All texts of a chunk stand in one array, and hashes are made of all of them at once.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

LONGEST_GRAM = 10
"""Letters of a run that fit into 64 bits."""

_BORDER, _SPACE = 0, ord(" ")
_BASE = np.uint64(0x9E3779B97F4A7C15)
_BASE_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))


class _Letters(dict[int, str]):
    """For str.translate: each character's letters a–z and digits; a space for what is neither."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        base = unicodedata.normalize("NFKD", character)[0]
        if unicodedata.combining(character):
            letters = ""
        elif not base.isalnum():
            letters = " "
        elif base.isascii():
            letters = base.lower()
        else:
            # Another script's: any letter will do, as long as it is always the same.
            letters = chr(ord("a") + ord(base) % 26)
        self[code] = letters
        return letters


_LETTERS = _Letters({_BORDER: chr(_BORDER)})
for _from, _to in (
    ("'‘’ʻʼ`´′ʹ‛＇ъь", [""] * 13),
    ("öğşçw", ["o", "g", "sh", "ch", "v"]),
    ("абвгдезийклмнопрстуфхцыэўқғҳ", "abvgdeziyklmnoprstufxsieoqgh"),
    ("ёжчшщюя", ["yo", "j", "ch", "sh", "sh", "yu", "ya"]),
):
    _LETTERS.update({ord(_character): _letters for _character, _letters in zip(_from, _to, strict=True)})
_VOWELS = np.isin(np.arange(256), [ord(letter) for letter in "aeiou"])
# Six bits a letter: a space is 0, letters and digits follow, 63 is a border, which no run of one text holds.
_CODES = np.full(256, 63, np.uint64)
_CODES[_SPACE] = 0
for _place, _letter in enumerate("abcdefghijklmnopqrstuvwxyz0123456789", 1):
    _CODES[ord(_letter)] = _place


class Texts:
    """The skeletons of several texts. letters: all of them, each followed by a border. starts: where each begins."""

    def __init__(self, texts: Iterable[str]):
        joined = "".join(f"{text}\0" for text in texts)
        raw = unicodedata.normalize("NFC", joined).lower().translate(_LETTERS).encode("ascii")
        letters = np.frombuffer(raw, np.uint8)
        following = np.append(letters[1:], np.uint8(_BORDER))
        # Europe is Yevropa or Европа, the constitution konstitutsiya or конституция.
        silent = ((letters == ord("y")) & _VOWELS[following]) | ((letters == ord("t")) & (following == ord("s")))
        letters = letters[~silent]
        gap = letters <= _SPACE
        after_gap = np.append(True, gap[:-1])
        letters = letters[~((letters == _SPACE) & after_gap)]
        before_border = np.append(letters[1:] == _BORDER, False)
        self.letters = letters[~((letters == _SPACE) & before_border)]
        borders = np.flatnonzero(self.letters == _BORDER)
        self.starts: Places = np.append(0, borders + 1)[: len(borders)]
        self._ends: Places = borders
        self._owners = np.repeat(np.arange(len(borders)), borders + 1 - self.starts)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> str:
        return self.letters[self.starts[index] : self._ends[index]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def owners(self, places: Places) -> Places:
        """The index of the text that each place stands in."""
        return self._owners[places]

    def grams(self, n: int) -> Hashes:
        """The run of n letters that begins at each place, as a number that no other run has; n ≤ LONGEST_GRAM."""
        codes = _CODES[self.letters]
        found = np.zeros(max(0, len(codes) - n + 1), np.uint64)
        for offset in range(n):
            found = (found << np.uint64(6)) | codes[offset : offset + len(found)]
        return found

    def words(self) -> Places:
        """How many words each text has."""
        firsts, _ = self._words()
        return np.bincount(self.owners(firsts), minlength=len(self))

    def runs(self, n: int) -> tuple[Hashes, Places]:
        """Hashes of every run of n words, and each run's text; a shorter text is one run, one without words none."""
        firsts, lasts = self._words()
        owners = self.owners(firsts)
        counts = np.bincount(owners, minlength=len(self))
        # The place of a word in its own text.
        nth = np.arange(len(firsts)) - np.repeat(np.cumsum(counts) - counts, counts)
        left = np.repeat(counts, counts) - nth
        begins = np.flatnonzero((left >= n) | (nth == 0))
        ends = begins + np.minimum(left[begins], n) - 1
        return _segment_hashes(self.letters, firsts[begins], lasts[ends]), owners[begins]

    def _words(self) -> tuple[Places, Places]:
        """Where each word begins, and where it has ended."""
        gap = self.letters <= _SPACE
        after_gap = np.append(True, gap[:-1])[: len(gap)]
        return np.flatnonzero(~gap & after_gap), np.flatnonzero(gap & ~after_gap)


def _segment_hashes(letters: NDArray[np.uint8], firsts: Places, lasts: Places) -> Hashes:
    """Hashes of letters[first:last]: a polynomial modulo 2^64, from sums over all letters before a place."""
    # A power of two of them: chunks of about one length find them ready.
    power, inverse = _powers(1 << len(letters).bit_length())
    sums = np.append(np.uint64(0), np.cumsum(_CODES[letters] * power[: len(letters)]))
    return mixed((sums[lasts] - sums[firsts]) * inverse[firsts])


@lru_cache(maxsize=8)
def _powers(n: int) -> tuple[Hashes, Hashes]:
    def powers(base: np.uint64) -> Hashes:
        return np.cumprod(np.append(np.uint64(1), np.full(n - 1, base)), dtype=np.uint64)

    return powers(_BASE), powers(_BASE_INVERSE)


def mixed(hashes: Hashes) -> Hashes:
    """Each bit of a hash made to depend on all of them (the finalizer of MurmurHash3)."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(factor)
    found: Hashes = hashes ^ (hashes >> np.uint64(33))
    return found
