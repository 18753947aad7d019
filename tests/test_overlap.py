"""chrF++, ROUGE-1 and ROUGE-L on folded Uzbek, against sacrebleu and rouge_score called directly.

Cases by hand: cases/overlap.json.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from tasks_uz.data import ROOT, read_items
from tasks_uz.overlap import chrf, rouge
from tasks_uz.text import convert, fold


def rouge_1(answer: str, references: list[str]) -> float:
    return rouge(answer, references)["rouge_1"]


def rouge_l(answer: str, references: list[str]) -> float:
    return rouge(answer, references)["rouge_l"]


CASES = json.loads((Path(__file__).parent / "cases" / "overlap.json").read_text(encoding="utf-8"))
SUMMARIES = [item["summaries"] for item in read_items(ROOT / "uz_summ" / "items.jsonl")[:12]]

# Letters that rouge_score's own tokenizer keeps whole, and that folding leaves as they are.
PLAIN_WORDS = ["kitob", "stol", "ustida", "turibdi", "bola", "uni", "olib", "berdi", "dars", "boshlandi"]


def plain_pairs(n: int) -> list[tuple[str, str]]:
    draw = random.Random(7)
    return [(" ".join(draw.choices(PLAIN_WORDS, k=9)), " ".join(draw.choices(PLAIN_WORDS, k=7))) for _ in range(n)]


@pytest.mark.parametrize("case", CASES["rouge_l"], ids=lambda case: case["answer"] or "empty")
def test_rouge_l_is_that_worked_out_by_hand(case: dict[str, Any]) -> None:
    # One rounding of a quotient of small numbers.
    assert rouge_l(case["answer"], case["references"]) == pytest.approx(case["value"], abs=1e-15)


@pytest.mark.parametrize("case", CASES["rouge_1"], ids=lambda case: case["answer"] or "empty")
def test_rouge_1_is_that_worked_out_by_hand(case: dict[str, Any]) -> None:
    assert rouge_1(case["answer"], case["references"]) == pytest.approx(case["value"], abs=1e-15)


@pytest.mark.parametrize("case", CASES["chrf"], ids=lambda case: case["why"])
def test_chrf_is_that_worked_out_by_hand(case: dict[str, Any]) -> None:
    # sacrebleu reckons in percent: a few roundings of the last bit.
    assert chrf(case["answer"], case["references"]) == pytest.approx(case["value"], abs=1e-12)


@pytest.mark.parametrize(("one", "two"), SUMMARIES)
def test_chrf_is_that_of_sacrebleu_on_folded_text(one: str, two: str) -> None:
    direct = sacrebleu.sentence_chrf(fold(one), [fold(two)], word_order=2).score
    assert chrf(one, [two]) == direct / 100


def test_chrf_is_chrf_plus_plus_with_two_word_orders() -> None:
    one, two = SUMMARIES[0]
    plain = sacrebleu.sentence_chrf(fold(one), [fold(two)], word_order=0).score / 100
    assert chrf(one, [two]) != plain


@pytest.mark.parametrize(("one", "two"), plain_pairs(25))
def test_rouge_is_that_of_rouge_score_where_its_tokenizer_works(one: str, two: str) -> None:
    direct = RougeScorer(["rouge1", "rougeL"]).score(two, one)
    assert rouge_1(one, [two]) == direct["rouge1"].fmeasure
    assert rouge_l(one, [two]) == direct["rougeL"].fmeasure


@pytest.mark.parametrize("measure", [chrf, rouge_1, rouge_l])
def test_best_reference_counts_in_any_order(measure: Any) -> None:
    first, second = SUMMARIES[0][1], SUMMARIES[1][0]
    answer = SUMMARIES[0][0]
    best = max(measure(answer, [first]), measure(answer, [second]))
    assert measure(answer, [first, second]) == measure(answer, [second, first]) == best


@pytest.mark.parametrize("measure", [chrf, rouge_1, rouge_l])
@pytest.mark.parametrize("orthography", ["cyrillic", "latin2026"])
@pytest.mark.parametrize(("one", "two"), SUMMARIES)
def test_answer_in_another_alphabet_scores_as_its_latin_twin(
    measure: Any, orthography: str, one: str, two: str
) -> None:
    # An answer that shares something with the reference, however freely the two are told.
    one = f"{one} {two[:60]}"
    latin = measure(one, [two])
    assert latin > 0
    assert measure(convert(one, orthography), [two]) == latin
    assert measure(one, [convert(two, orthography)]) == latin


@pytest.mark.parametrize("measure", [chrf, rouge_1, rouge_l])
@pytest.mark.parametrize("mark", ["\u0027", "\u2018", "\u2019", "\u02bc", "\u0060"])
def test_apostrophe_that_an_answer_is_typed_with_costs_nothing(measure: Any, mark: str) -> None:
    wanted = "Oʻzbek tilida maʼno va soʻz"
    assert measure(wanted.replace("ʻ", mark).replace("ʼ", mark), [wanted]) == 1.0


@pytest.mark.parametrize("measure", [chrf, rouge_1, rouge_l])
@pytest.mark.parametrize(("one", "two"), SUMMARIES[:4])
def test_overlap_is_a_fraction_and_whole_only_for_the_text_itself(measure: Any, one: str, two: str) -> None:
    assert measure(one, [one]) == 1.0
    assert 0 < measure(one, [two]) < 1


def test_default_tokenizer_of_rouge_score_finds_no_words_in_cyrillic() -> None:
    text = "Тошкент Ўзбекистон пойтахти"
    assert RougeScorer(["rougeL"]).score(text, text)["rougeL"].fmeasure == 0.0
    assert rouge_l(text, [text]) == 1.0


def test_default_tokenizer_of_rouge_score_takes_two_words_for_one_where_oʻ_splits_them() -> None:
    # "oʻt" (grass) falls apart into o and t, so that "o t" would be worth as much.
    assert RougeScorer(["rougeL"]).score("oʻt", "o t")["rougeL"].fmeasure == 1.0
    assert rouge_l("o t", ["oʻt"]) == 0.0
