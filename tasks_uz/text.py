"""Uzbek text: apostrophes, three alphabets, folding, answers.

One word, three alphabets: oʻgʻil (Latin of 1995, U+02BB), ўғил (Cyrillic), öğil (the Latin alphabet
passed in 2026). People type the marks of oʻ, gʻ and ʼ in six ways: U+0027 ' U+2018 ‘ U+2019 ’ U+02BB ʻ
U+02BC ʼ U+0060 `.

Transliteration is alifbo's (https://github.com/azakapro/alifbo), which takes the 1995 alphabet too. What letters
alone can't tell is added here: loans whose Cyrillic has ц or ь (cyrillic.tsv), a t and an s or an sh and a ch that
meet between a stem and its ending (aytsa is айтса, not айца; ishchi is ишчи, not ищи), and Roman numerals.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import alifbo

ORTHOGRAPHIES = ("latin", "cyrillic", "latin2026")
"""The alphabets a task can be asked in; "latin" is the one of 1995."""

TASK_SUFFIX = {"latin": "", "cyrillic": "_cyrl", "latin2026": "_2026"}
"""What an orthography adds to a task's name."""

LETTERS = "ABCD"

_CYRILLIC = re.compile(r"[\u0400-\u04ff]")
_CYRILLIC_WORD = re.compile(r"[\u0400-\u04ff]+")
_LATIN_WORD = re.compile(r"[A-Za-z](?:[A-Za-zʻʼ'‘’`]*[A-Za-zʻʼ])?|[^A-Za-z]+")
# XIX asr: two letters and more; a single one may be anything.
_ROMAN = re.compile(r"\b((?=[IVXLCDM]{2,}\b)M*(?:C[MD]|D?C{0,3})(?:X[CL]|L?X{0,3})(?:I[XV]|V?I{0,3}))\b")
# Where a stem ends in t or sh and an ending begins with s or ch: ayt-sa, mehnat-siz, ish-chi. Elsewhere ts is ц.
_JOINT = re.compile(r"(?<=t)(?=s(?:a(?:m|ng|k|ngiz|lar)?\b|iz|oz|in(?:lar)?\b))|(?<=sh)(?=ch)", re.IGNORECASE)
_JOINER = "\u2060"
_LATIN_2026 = re.compile(r"[öğşçÖĞŞÇ]")
# A word keeps its marks (oʻzbek, maʼno) and its hyphens (asta-sekin); digits count as words.
# ʻ and ʼ are letters to Unicode, and to us only inside a word or after its o or g.
_WORD = re.compile(r"[^\W_ʻʼ]+(?:[ʻʼ-][^\W_ʻʼ]+|(?<=[og])ʻ)*")
# ‘Toshkent’ is quoted, not spelt with a mark: the marks of words have a letter on their left.
_QUOTED = re.compile(r"(?<!\w)['‘’`](?=\w)(.+?)(?<=\w)['‘’`](?![\w-])")
# А В С in Cyrillic look like A B C and are meant so; Б, Г, Д are not: nobody can tell which was meant.
_CYRILLIC_LETTERS = str.maketrans("АВСавс", "ABCabc")
# A capital standing alone, or a small letter that is the whole answer or has a bracket: "a" is also a word.
# A mark binds a letter to a word (Aʼlo) where a letter follows it; else it is a quote ('A').
_LETTER_ALONE = re.compile(r"(?<![\w-])(?<!\w['ʻʼ‘’`])(?:([A-D])(?![\w-]|['ʻʼ‘’`]\w)|([a-d])(?=\)))|^\s*([a-d])[\s.]*$")


def normalize_apostrophes(text: str) -> str:
    """Makes one letter of six characters: ʻ (U+02BB) after o and g, ʼ (U+02BC) elsewhere.

    Never strips them: without marks 110 of UzLiB's 1,861 items have equal options.
    """
    return alifbo.normalize_apostrophes(text)


@lru_cache(maxsize=8192)
def convert(text: str, orthography: str) -> str:
    """Text of the 1995 Latin alphabet in another orthography; "latin" returns it unchanged.

    Raises ValueError for an unknown orthography.
    """
    # ngʻ is n + gʻ (Bulungʻur): the digraph ng would swallow the g and leave the mark behind.
    if orthography == "latin":
        return text
    if orthography == "cyrillic":
        parts = _ROMAN.split(text)
        parts[::2] = [_LATIN_WORD.sub(_cyrillic_word, part) for part in parts[::2]]
        return "".join(parts)
    if orthography == "latin2026":
        return alifbo.to_new_latin(text, ng_as_digraph=False).text
    raise ValueError(f"orthography {orthography!r} is unknown; there are {', '.join(ORTHOGRAPHIES)}")


def _cyrillic_word(found: re.Match[str]) -> str:
    word = found[0]
    listed = _listed(word, *_lexicon()[0])
    if listed is not None:
        stem, rest = listed
        # Behind a letter, an ending is not read as the beginning of a word.
        return stem + (_to_cyrillic(f"b{rest}")[1:] if rest else "")
    return _to_cyrillic(word)


def _to_cyrillic(text: str) -> str:
    return alifbo.to_cyrillic(_JOINT.sub(_JOINER, text), ng_as_digraph=False).text.replace(_JOINER, "")


def to_latin(text: str) -> str:
    """Text of any of the three alphabets, or a mixture, in the 1995 Latin alphabet.

    >>> to_latin("Ўзбекистон"), to_latin("Özbekiston"), to_latin("O'zbekiston")
    ('Oʻzbekiston', 'Oʻzbekiston', 'Oʻzbekiston')
    """
    if _CYRILLIC.search(text):
        text = _CYRILLIC_WORD.sub(_latin_stem, text)
        # Answers come in `backticks`, which alifbo would take for code and leave in Cyrillic.
        text = alifbo.from_cyrillic(text, ng_as_digraph=False, protect_spans=False).text
    if _LATIN_2026.search(text):
        text = alifbo.to_old_latin(text, ng_as_digraph=False, protect_spans=False).text
    return normalize_apostrophes(text)


def _latin_stem(found: re.Match[str]) -> str:
    """A Cyrillic word as it is, or, where its stem is listed, that in Latin and its ending still in Cyrillic."""
    listed = _listed(found[0], *_lexicon()[1])
    return "".join(listed) if listed is not None else found[0]


def _listed(word: str, stems: dict[str, str], words: dict[str, str]) -> tuple[str, str] | None:
    """A word's listed part in the other alphabet, and the rest of it; None where it isn't listed."""
    lower = word.lower()
    if lower in words:
        return _cased(words[lower], word), ""
    for length in range(len(word), 2, -1):
        if lower[:length] in stems:
            return _cased(stems[lower[:length]], word), word[length:]
    return None


def _cased(text: str, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return text.upper()
    return text[:1].upper() + text[1:] if like[:1].isupper() else text


Stems = tuple[dict[str, str], dict[str, str]]
"""Listed stems, and listed whole words, of one alphabet to the other's."""


@lru_cache(maxsize=1)
def _lexicon() -> tuple[Stems, Stems]:
    """From Latin to Cyrillic, and back."""
    to_cyrillic: Stems = {}, {}
    to_latin: Stems = {}, {}
    for line in Path(__file__).with_name("cyrillic.tsv").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            latin, cyrillic, kind = line.split("\t")
            which = ("stem", "word").index(kind)
            to_cyrillic[which][latin] = cyrillic
            to_latin[which][cyrillic] = latin
    return to_cyrillic, to_latin


def fold(text: str) -> str:
    """What two spellings of the same answer share: 1995 Latin, NFC, lower case, single spaces.

    Not for tasks about spelling: there the difference is the answer.
    """
    return " ".join(to_latin(unicodedata.normalize("NFC", text)).lower().split())


def words(text: str) -> list[str]:
    """The words of folded text, marks and hyphens inside words kept, punctuation dropped.

    >>> words("Oʻzbekiston — 1991-yil, sentabr!")
    ['oʻzbekiston', '1991-yil', 'sentabr']
    """
    return _WORD.findall(fold(_QUOTED.sub(r" \1 ", text)))


def answer_letter(text: str, n_choices: int = 4) -> str | None:
    """The letter A–D that an answer names first, or None where it names none.

    Cyrillic А В С count as A B C; Б, Г and Д stay unread. Letters inside words don't count.

    >>> answer_letter("Javob: В)"), answer_letter("Б) ikkinchisi"), answer_letter("Albatta")
    ('B', None, None)
    """
    for match in _LETTER_ALONE.finditer(text.translate(_CYRILLIC_LETTERS)):
        letter = next(group for group in match.groups() if group).upper()
        if LETTERS.index(letter) < n_choices:
            return letter
    return None


def answer_choice(text: str, choices: Sequence[str]) -> int | None:
    """The index of the choice that an answer names, or None where it names none or two.

    Whole words, longest choice first: toʻgʻri stands inside notoʻgʻri.
    """
    said = f" {' '.join(words(text))} "
    wanted = [f" {' '.join(words(choice))} " for choice in choices]
    found: list[int] = []
    for name in sorted(filter(str.strip, dict.fromkeys(wanted)), key=len, reverse=True):
        if name in said:
            # Choices that differ by case or punctuation alone are both named.
            found += [index for index, other in enumerate(wanted) if other == name]
            said = said.replace(name, "  ")
    return found[0] if len(found) == 1 else None


def has_any(text: str, accepted: Iterable[str]) -> bool:
    """Whether folded text, without its punctuation, equals one of the accepted answers."""
    said = words(text)
    return any(said == words(answer) for answer in accepted)


def token_f1(text: str, answer: str) -> float:
    """Token F1 of folded words, in [0,1]; 1.0 where both are empty.

    Source: SQuAD's evaluation (Rajpurkar et al. 2016), with Uzbek folding in the place of its
    English articles and punctuation.
    """
    said, wanted = words(text), words(answer)
    if not said or not wanted:
        return float(said == wanted)
    left = list(wanted)
    shared = 0
    for word in said:
        if word in left:
            left.remove(word)
            shared += 1
    return 2 * shared / (len(said) + len(wanted))
