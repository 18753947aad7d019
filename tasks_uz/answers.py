"""What a written answer is like, whatever it says: its language and alphabet, what it repeats or copies, its length.

All are in [0,1]. They tell an answer that is bad from one that is none: a model that falls back to English, answers
Cyrillic in Latin, runs in circles, or hands the article back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from tasks_uz.text import words

MIN_LETTERS = 20
"""Letters from which a text's language can be told."""

_LATIN = re.compile(r"[A-Za-z]")
_CYRILLIC = re.compile(r"[\u0400-\u04ff]")
_NEW_LETTERS = re.compile(r"[öğşçÖĞŞÇ]")
_OLD_LETTERS = re.compile(r"[oOgG][ʻʼ'‘’`]|[sScC][hH]")
_SENTENCE_END = re.compile(r"[.!?…][”»\")\]]*\s*$")


def alphabets(text: str) -> frozenset[str]:
    """The orthographies that a text can be in; empty where it has no letters or mixes them.

    A Latin text without oʻ, gʻ, sh, ch and ö, ğ, ş, ç is in both Latin alphabets. A few Latin letters in a Cyrillic
    text, such as the letter of an answer or a unit, don't make it mixed.
    """
    n_latin, n_cyrillic = len(_LATIN.findall(text)), len(_CYRILLIC.findall(text))
    if n_cyrillic > 9 * n_latin:
        return frozenset({"cyrillic"})
    if n_latin <= 9 * n_cyrillic:
        return frozenset()
    new, old = len(_NEW_LETTERS.findall(text)), len(_OLD_LETTERS.findall(text))
    if new and old:
        return frozenset()
    return frozenset({"latin2026"} if new else {"latin"} if old else {"latin", "latin2026"})


def in_alphabet(text: str, orthography: str) -> float | None:
    """1.0 where a text is in the orthography asked for, 0.0 where it isn't, None where it has no letters."""
    if not (_LATIN.search(text) or _CYRILLIC.search(text)):
        return None
    return float(orthography in alphabets(text))


def is_uzbek(text: str) -> float | None:
    """1.0 where a text is in Uzbek, in any alphabet, 0.0 where it isn't, None where it is too short to tell.

    Source: CLD2 (https://github.com/CLD2Owners/cld2), which found Uzbek in 599, 600 and 595 of 600 sentences in
    Latin, Cyrillic and the Latin of 2026.
    """
    if len(_LATIN.findall(text)) + len(_CYRILLIC.findall(text)) < MIN_LETTERS:
        return None
    import pycld2

    try:
        _, _, found = pycld2.detect(text.encode("utf-8", "ignore"), bestEffort=True)
    except pycld2.error:
        return 0.0  # Bytes that are no text.
    return float(found[0][1] == "uz")


def repetition(text: str) -> float:
    """The share of a text's runs of four words that stood in it before; 0.0 for a text of less than five words."""
    found = words(text)
    runs = [tuple(found[start : start + 4]) for start in range(len(found) - 3)]
    return 1 - len(set(runs)) / len(runs) if len(runs) > 1 else 0.0


def copied(text: str, source: str) -> float:
    """The longest run of words that a text takes over from its source, as a share of the text's words."""
    said, given = words(text), words(source)
    if not said:
        return 0.0
    return SequenceMatcher(None, said, given, autojunk=False).find_longest_match().size / len(said)


def length_ratio(text: str, references: Sequence[str]) -> float:
    """How near a text's length in words is to that of its nearest reference: the shorter's to the longer's."""
    said = len(words(text))
    lengths = [len(words(reference)) for reference in references]
    return max(min(said, length) / max(said, length, 1) for length in lengths)


def is_empty(text: str) -> float:
    """1.0 where a text has no word."""
    return float(not words(text))


def is_cut_off(text: str) -> float:
    """1.0 where a text ends in the middle of a sentence; an empty one is not cut off."""
    return float(bool(words(text)) and not _SENTENCE_END.search(text))
