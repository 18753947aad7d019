"""Uzbek text: apostrophes, three alphabets, folding, answers. Cases by hand: cases/text.json."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks_uz.data import ROOT
from tasks_uz.text import (
    ORTHOGRAPHIES,
    TASK_SUFFIX,
    answer_choice,
    answer_letter,
    convert,
    fold,
    has_any,
    normalize_apostrophes,
    to_latin,
    token_f1,
    words,
)

CASES = json.loads((Path(__file__).parent / "cases" / "text.json").read_text(encoding="utf-8"))
UZLIB = Path(__file__).parents[2] / "shared" / "data" / "uzlib" / "test.jsonl"

# U+0027 U+2018 U+2019 U+02BB U+02BC U+0060: what people type for the marks of oʻ, gʻ and ʼ.
APOSTROPHES = ("\u0027", "\u2018", "\u2019", "\u02bb", "\u02bc", "\u0060")
EMBEDDED = sorted([*ROOT.glob("*/items.jsonl"), *ROOT.glob("*/shots.jsonl")])
# Open requests hold code and Russian, and are asked in the Latin of 1995 alone.
CONVERTED = [path for path in EMBEDDED if path.parent.name != "uz_open"]
OTHER_ALPHABETS = [name for name in ORTHOGRAPHIES if name != "latin"]


def named(mark: str) -> str:
    return f"U+{ord(mark):04X}"


def strings(value: Any) -> Iterator[str]:
    """Every text of an item; its id, group and slice are never transliterated."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)
    elif isinstance(value, dict):
        for key, part in value.items():
            if key not in ("id", "group", "slice"):
                yield from strings(part)


def embedded_strings(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").split("\n")
    # Questions on one passage repeat it.
    return list(dict.fromkeys(text for line in lines if line for text in strings(json.loads(line))))


# ---------------------------------------------------------------- apostrophes


@pytest.mark.parametrize("mark", APOSTROPHES, ids=named)
def test_every_apostrophe_becomes_turned_comma_after_o_and_g_and_apostrophe_elsewhere(mark: str) -> None:
    typed = f"o{mark}g{mark}il O{mark}G{mark}IL ma{mark}no san{mark}at"
    assert normalize_apostrophes(typed) == "oʻgʻil OʻGʻIL maʼno sanʼat"


@pytest.mark.parametrize("mark", APOSTROPHES, ids=named)
def test_normalizing_apostrophes_twice_changes_nothing_more(mark: str) -> None:
    once = normalize_apostrophes(f"to{mark}g{mark}ri ma{mark}no")
    assert normalize_apostrophes(once) == once


@pytest.mark.parametrize("mark", APOSTROPHES, ids=named)
def test_marks_are_mapped_and_never_stripped(mark: str) -> None:
    assert normalize_apostrophes(f"qo{mark}r") != normalize_apostrophes("qor")
    assert len(normalize_apostrophes(f"qo{mark}r")) == len("qoʻr")


@pytest.mark.parametrize("mark", APOSTROPHES, ids=named)
def test_answer_matches_whatever_apostrophe_it_is_typed_with(mark: str) -> None:
    assert has_any(f"Bulung{mark}ur", ["Bulungʻur"])
    assert has_any(f"ma{mark}no", ["maʼno"])
    assert answer_choice(f"noto{mark}g{mark}ri", ["toʻgʻri", "notoʻgʻri"]) == 1
    assert token_f1(f"o{mark}g{mark}il bola", "oʻgʻil bola") == 1.0


def test_normalizing_apostrophes_never_merges_two_options_of_uzlib() -> None:
    if not UZLIB.is_file():
        pytest.skip("the shared data sets aren't beside this checkout")
    rows = [json.loads(line) for line in UZLIB.read_text(encoding="utf-8").split("\n") if line]
    merged = [row["id"] for row in rows if len({*map(normalize_apostrophes, row["choices"])}) < 4]
    assert len(rows) == 1861
    assert merged == []


def test_stripping_apostrophes_would_merge_options_of_110_items_of_uzlib() -> None:
    if not UZLIB.is_file():
        pytest.skip("the shared data sets aren't beside this checkout")
    gone = str.maketrans("", "", "".join(APOSTROPHES))
    rows = [json.loads(line) for line in UZLIB.read_text(encoding="utf-8").split("\n") if line]
    assert sum(len({choice.translate(gone) for choice in row["choices"]}) < 4 for row in rows) == 110


# ---------------------------------------------------------------- three alphabets


@pytest.mark.parametrize("case", CASES["alphabets"], ids=lambda case: case["latin"])
@pytest.mark.parametrize("orthography", ORTHOGRAPHIES)
def test_word_is_written_in_each_alphabet_as_the_table_says(case: dict[str, str], orthography: str) -> None:
    assert convert(case["latin"], orthography) == case[orthography]


@pytest.mark.parametrize("case", CASES["alphabets"], ids=lambda case: case["latin"])
@pytest.mark.parametrize("orthography", ORTHOGRAPHIES)
def test_each_alphabet_comes_back_to_the_latin_of_1995(case: dict[str, str], orthography: str) -> None:
    assert to_latin(case[orthography]) == case["latin"]


@pytest.mark.parametrize("orthography", OTHER_ALPHABETS)
@pytest.mark.parametrize("path", CONVERTED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_embedded_text_comes_back_exactly_from_another_alphabet(path: Path, orthography: str) -> None:
    texts = embedded_strings(path)
    lost = [text for text in texts if to_latin(convert(text, orthography)) != text]
    assert texts
    assert lost == []


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_embedded_texts_are_written_with_the_two_letters_of_1995_and_composed(path: Path) -> None:
    texts = embedded_strings(path)
    assert [text for text in texts if normalize_apostrophes(text) != text] == []
    assert [text for text in texts if not unicodedata.is_normalized("NFC", text)] == []


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_embedded_text_keeps_a_letter_of_1995_in_the_alphabet_of_2026(path: Path) -> None:
    for text in embedded_strings(path):
        assert "ʻ" not in convert(text, "latin2026"), text


def test_embedded_items_are_there_to_be_tested() -> None:
    assert {path.name for path in EMBEDDED} == {"items.jsonl", "shots.jsonl"}
    assert len({path.parent for path in EMBEDDED}) >= 5


def test_unknown_orthography_is_refused_and_the_known_ones_named() -> None:
    with pytest.raises(ValueError, match="orthography 'arabic' is unknown; there are latin, cyrillic, latin2026"):
        convert("soʻz", "arabic")


def test_each_orthography_has_a_task_suffix_of_its_own() -> None:
    assert set(TASK_SUFFIX) == set(ORTHOGRAPHIES)
    assert len(set(TASK_SUFFIX.values())) == len(ORTHOGRAPHIES)


# ---------------------------------------------------------------- folding and words


@pytest.mark.parametrize(("text", "folded"), CASES["folds"])
def test_text_folds_as_the_table_says(text: str, folded: str) -> None:
    assert fold(text) == folded


@pytest.mark.parametrize("case", CASES["alphabets"], ids=lambda case: case["latin"])
def test_cyrillic_and_latin_spelling_fold_to_same_answer(case: dict[str, str]) -> None:
    assert fold(case["cyrillic"]) == fold(case["latin"]) == fold(case["latin2026"])
    assert fold(case["cyrillic"].upper()) == fold(case["latin"])


def test_folding_keeps_apart_words_that_a_mark_keeps_apart() -> None:
    # oʻt is grass and ot a horse, toʻr a net and tor narrow, sanʼat is art and sanat "make count".
    assert fold("oʻt") != fold("ot")
    assert fold("toʻr") != fold("tor")
    assert fold("sanʼat") != fold("sanat")


@pytest.mark.parametrize(("text", "found"), CASES["words"])
def test_words_are_those_of_the_table(text: str, found: list[str]) -> None:
    assert words(text) == found


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(("text", "letter"), CASES["letters"])
def test_answer_letter_is_that_of_the_table(text: str, letter: str | None) -> None:
    assert answer_letter(text) == letter


@pytest.mark.parametrize(("cyrillic", "latin"), [("А", "A"), ("В", "B"), ("С", "C")])
@pytest.mark.parametrize("frame", ["{}", "{})", "({})", "{}.", "Жавоб: {}", "{}) бу"])
def test_cyrillic_letters_that_look_latin_count_as_latin(cyrillic: str, latin: str, frame: str) -> None:
    assert cyrillic != latin
    assert answer_letter(frame.format(cyrillic)) == latin
    assert answer_letter(frame.format(latin)) == latin


@pytest.mark.parametrize("letter", ["Б", "Г", "Д", "б", "г", "д"])
@pytest.mark.parametrize("frame", ["{}", "{})", "({})", "{}.", "Жавоб: {}"])
def test_cyrillic_letters_that_could_mean_two_things_are_unread(letter: str, frame: str) -> None:
    assert answer_letter(frame.format(letter)) is None


@pytest.mark.parametrize(
    ("n_choices", "letters"),
    [(1, ["A", None, None, None]), (2, ["A", "B", None, None]), (3, ["A", "B", "C", None])],
)
def test_letter_beyond_the_choices_is_no_answer(n_choices: int, letters: list[str | None]) -> None:
    assert [answer_letter(letter, n_choices) for letter in "ABCD"] == letters


def test_letter_beyond_the_choices_does_not_hide_a_later_one() -> None:
    assert answer_letter("D emas, B", 2) == "B"


@pytest.mark.parametrize(("text", "index"), CASES["choices"])
def test_right_and_not_right_are_told_apart(text: str, index: int | None) -> None:
    assert answer_choice(text, ["toʻgʻri", "notoʻgʻri"]) == index
    turned = None if index is None else 1 - index
    assert answer_choice(text, ["notoʻgʻri", "toʻgʻri"]) == turned


@pytest.mark.parametrize(
    ("text", "choices", "index"),
    [
        ("Bu yangi Toshkent shahri.", ["Toshkent", "Toshkent shahri"], 1),
        ("Toshkent", ["Toshkent", "Toshkent shahri"], 0),
        ("Toshkent shahri va Toshkent", ["Toshkent", "Toshkent shahri"], None),
        ("Juma kuni, ertalab", ["juma kuni ertalab", "juma kuni kechqurun"], 0),
        ("sport yoki tabiat", ["sport", "tabiat"], None),
        ("sportchi", ["sport", "tabiat"], None),
        ("Жавоб: табиат", ["sport", "tabiat"], 1),
        ("sport", ["спорт", "табиат"], 0),
        ("anything", ["", "?"], None),
    ],
)
def test_choice_is_named_by_whole_words_longest_first(text: str, choices: list[str], index: int | None) -> None:
    assert answer_choice(text, choices) == index


@pytest.mark.parametrize("said", ["Nukus", "nukus.", "«Nukus»", "“NUKUS”!", "Нукус", "  Nukus\n"])
def test_accepted_answer_counts_in_any_case_alphabet_and_punctuation(said: str) -> None:
    assert has_any(said, ["Xiva", "Nukus"])


@pytest.mark.parametrize("said", ["", "Nukus shahri", "Nuku", "Nukusda", "Nukus yoki Xiva"])
def test_answer_that_says_more_or_less_is_not_accepted(said: str) -> None:
    assert not has_any(said, ["Nukus", "Xiva"])


def test_no_accepted_answer_accepts_nothing() -> None:
    assert not has_any("Nukus", [])


@pytest.mark.parametrize(("said", "wanted", "value"), CASES["f1"])
def test_token_f1_is_that_worked_out_by_hand(said: str, wanted: str, value: float) -> None:
    # One rounding of a quotient of small numbers, at most.
    assert token_f1(said, wanted) == pytest.approx(value, abs=1e-15)
    assert token_f1(wanted, said) == pytest.approx(value, abs=1e-15)
