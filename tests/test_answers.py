"""What a written answer is like: language, alphabet, repetition, copying, length. Cases by hand: cases/answers.json."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tasks_uz import answers
from tasks_uz.data import ROOT, read_items
from tasks_uz.text import ORTHOGRAPHIES, convert, words

CASES = json.loads((Path(__file__).parent / "cases" / "answers.json").read_text(encoding="utf-8"))
ITEMS = read_items(ROOT / "uz_summ" / "items.jsonl")

# One rounding of a quotient of small numbers.
ROUNDING = 1e-15


def of(name: str) -> list[Any]:
    return [pytest.param(*case, id=f"{number} {str(case[0])[:30]}") for number, case in enumerate(CASES[name])]


@pytest.mark.parametrize(("text", "wanted"), of("alphabets"))
def test_alphabets_that_a_text_can_be_in(text: str, wanted: list[str]) -> None:
    assert answers.alphabets(text) == set(wanted)


@pytest.mark.parametrize(("text", "orthography", "wanted"), of("in_alphabet"))
def test_text_is_in_the_alphabet_asked_for_or_not(text: str, orthography: str, wanted: float | None) -> None:
    assert answers.in_alphabet(text, orthography) == wanted


@pytest.mark.parametrize(("text", "wanted"), of("is_uzbek"))
def test_uzbek_is_told_from_its_neighbours(text: str, wanted: float | None) -> None:
    assert answers.is_uzbek(text) == wanted


@pytest.mark.parametrize("case", CASES["repetition"], ids=lambda case: case[0][:30])
def test_repetition_is_that_worked_out_by_hand(case: list[Any]) -> None:
    assert answers.repetition(case[0]) == pytest.approx(case[1], abs=ROUNDING)


@pytest.mark.parametrize("case", CASES["copied"], ids=lambda case: case[0][:30])
def test_share_copied_is_that_worked_out_by_hand(case: list[Any]) -> None:
    assert answers.copied(case[0], case[1]) == pytest.approx(case[2], abs=ROUNDING)


@pytest.mark.parametrize(("text", "references", "wanted"), of("length_ratio"))
def test_length_ratio_is_that_worked_out_by_hand(text: str, references: list[str], wanted: float) -> None:
    assert answers.length_ratio(text, references) == pytest.approx(wanted, abs=ROUNDING)


@pytest.mark.parametrize(("text", "wanted"), of("is_empty"))
def test_empty_answer_has_no_word(text: str, wanted: float) -> None:
    assert answers.is_empty(text) == wanted


@pytest.mark.parametrize(("text", "wanted"), of("is_cut_off"))
def test_cut_off_answer_ends_inside_a_sentence(text: str, wanted: float) -> None:
    assert answers.is_cut_off(text) == wanted


# ---------------------------------------------------------------- on the suite's own texts


@pytest.mark.parametrize("orthography", ORTHOGRAPHIES)
def test_articles_of_the_suite_are_uzbek_and_in_their_alphabet(orthography: str) -> None:
    texts = [convert(item["article"], orthography) for item in ITEMS]
    assert {answers.is_uzbek(text) for text in texts} == {1.0}
    assert {answers.in_alphabet(text, orthography) for text in texts} == {1.0}
    others = [other for other in ORTHOGRAPHIES if other != orthography]
    assert {answers.in_alphabet(text, other) for text in texts for other in others} == {0.0}


def longest_shared_run(said: list[str], given: list[str]) -> int:
    """By trying every run: slow and plain."""
    runs = {tuple(given[i:j]) for i in range(len(given)) for j in range(i + 1, len(given) + 1)}
    return max(
        (j - i for i in range(len(said)) for j in range(i + 1, len(said) + 1) if tuple(said[i:j]) in runs), default=0
    )


@pytest.mark.parametrize("seed", range(20))
def test_share_copied_is_the_longest_run_found_by_trying_all(seed: int) -> None:
    draw = random.Random(seed)
    said, given = (draw.choices(["olma", "nok", "uzum"], k=draw.randint(1, 14)) for _ in range(2))
    wanted = longest_shared_run(said, given) / len(said)
    assert answers.copied(" ".join(said), " ".join(given)) == wanted


def test_references_of_the_suite_copy_little_and_the_articles_themselves_all() -> None:
    copied = [answers.copied(text, item["article"]) for item in ITEMS for text in item["summaries"]]
    assert max(copied) < 0.5
    assert {answers.copied(item["article"], item["article"]) for item in ITEMS} == {1.0}


def test_references_of_the_suite_are_whole_and_repeat_nothing() -> None:
    texts = [text for item in ITEMS for text in item["summaries"]]
    assert [text for text in texts if answers.is_cut_off(text) or answers.repetition(text) > 0] == []
    assert all(words(text) for text in texts)
