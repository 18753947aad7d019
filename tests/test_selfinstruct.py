"""Self-Instruct: seeds, what is new and what is refused, and whole runs against a server that plays GPT-4o."""

from __future__ import annotations

import html
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hostile import HOSTILE
from openai_server import OpenAIServer
from test_items import spelling_faults
from uzbek_bank import PLANTED_BY_LIKENESS, PLANTED_EXACT, Bank, Given

from harness.errors import DataError, RecordError, UsageError, UzBenchError
from harness.openai_client import BudgetError
from tasks_uz.text import convert
from train.contamination import Index, eval_index
from train.selfinstruct.filters import REASONS, Candidate, Filters, read_tasks
from train.selfinstruct.generating import Choices, Generated, diversity, generate, split
from train.selfinstruct.novelty import Novelty, folded, rouge_l
from train.selfinstruct.plan import AXES, Plan, length_of
from train.selfinstruct.writing import SETTINGS, as_request, candidates, compose, read_seeds, read_settings

ROOT = Path(__file__).parent.parent
SEEDS = read_seeds()
WANTED = read_settings()


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("UZBENCH_MIRROR", raising=False)


@pytest.fixture(scope="module")
def index() -> Index:
    return eval_index()[0]


# ---------------------------------------------------------------- seeds


def test_there_are_175_seeds_of_every_type_topic_and_register() -> None:
    assert [seed.id for seed in SEEDS] == [f"seed-{number:03d}" for number in range(1, 176)]
    counts = Counter(seed.type for seed in SEEDS)
    assert set(counts) == set(WANTED.types)
    assert min(counts.values()) >= 13
    assert {seed.topic for seed in SEEDS} == set(WANTED.topics)
    assert {seed.register for seed in SEEDS} == set(WANTED.registers)
    assert 0.4 <= sum(bool(seed.input) for seed in SEEDS) / len(SEEDS) <= 0.6


def test_seeds_are_spelled_in_the_latin_alphabet_of_1995() -> None:
    foreign = re.compile("[\u0400-\u04ff]")
    faults = []
    for seed in SEEDS:
        for text in (seed.instruction, seed.input, seed.output):
            # Translations hold Russian and English; JSON and English have marks of their own.
            if seed.type == "translation" or text.lstrip().startswith(("{", "[")) or foreign.search(text):
                continue
            faults += [(seed.id, fault) for fault in spelling_faults(text) if fault != "U+0022"]
    assert faults == []


def test_no_two_seeds_ask_alike() -> None:
    asked = folded(seed.instruction for seed in SEEDS)
    likest = max(
        (rouge_l(one, two), SEEDS[a].id, SEEDS[b].id) for a, one in enumerate(asked) for b, two in enumerate(asked[:a])
    )
    assert likest[0] <= Fraction(6, 10), likest


def test_seeds_hold_no_eval_item_and_pass_the_filters_that_generated_rows_meet(index: Index) -> None:
    filters = Filters(index)
    rows = [
        Candidate(0, 0, seed.instruction, seed.input, seed.output, seed.type, seed.topic, seed.register, "latin",
                  length_of(len(seed.output.split())))
        for seed in SEEDS
    ]  # fmt: skip
    refused = [
        (seed.id, each.reason, each.detail) for seed, each in zip(SEEDS, filters.look(rows), strict=True) if each
    ]
    assert refused == []


# ---------------------------------------------------------------- what is new


def changed(text: list[str], chance: random.Random, vocabulary: list[str]) -> list[str]:
    """A text with some words replaced, put in or left out."""
    found = list(text)
    for _ in range(chance.randint(0, 9)):
        place = chance.randrange(len(found))
        kind = chance.random()
        if kind < 0.4:
            found[place] = chance.choice(vocabulary)
        elif kind < 0.7:
            found.insert(place, chance.choice(vocabulary))
        elif len(found) > 2:
            found.pop(place)
    return found


def test_decisions_are_those_of_the_plain_definition_on_2000_random_candidates() -> None:
    chance = random.Random(1)
    base = folded(seed.instruction for seed in SEEDS[:60])
    vocabulary = [word for text in base for word in text]
    novelty, kept, n_refused = Novelty(0.7), [], 0
    for _ in range(2000):
        text = changed(chance.choice(base), chance, vocabulary)
        # Words that stand twice, and texts of very different lengths, too.
        text = text * chance.choice((1, 1, 1, 2)) if chance.random() < 0.3 else text
        plain = any(rouge_l(text, other) > Fraction(7, 10) for other in kept)
        found = novelty.keep_if_new(text)
        assert (found is not None) == plain
        if found is None:
            kept.append(text)
        else:
            assert found[1] == pytest.approx(float(max(rouge_l(text, other) for other in kept)))
            n_refused += 1
    assert 300 < n_refused < 1700
    assert len(novelty) == len(kept)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9, 0.95])
def test_other_thresholds_decide_as_the_definition_too(threshold: float) -> None:
    chance = random.Random(2)
    base = folded(seed.output for seed in SEEDS[:25])
    vocabulary = [word for text in base for word in text]
    novelty, kept = Novelty(threshold), []
    for _ in range(250):
        text = changed(chance.choice(base), chance, vocabulary)
        plain = any(rouge_l(text, other) > Fraction(str(threshold)) for other in kept)
        assert (novelty.keep_if_new(text) is not None) == plain
        if not plain:
            kept.append(text)


def test_rebuilding_the_index_changes_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    from train.selfinstruct import novelty as module

    def decisions(rebuild_at: int) -> list[Any]:
        monkeypatch.setattr(module, "FIRST_REBUILD", rebuild_at)
        chance, found = random.Random(3), Novelty(0.7)
        base = folded(seed.instruction for seed in SEEDS)
        vocabulary = [word for text in base for word in text]
        return [found.keep_if_new(changed(chance.choice(base), chance, vocabulary)) for _ in range(1500)]

    assert decisions(10) == decisions(10**9)


def test_rouge_l_is_rouge_scores_with_our_words() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    class Words:
        def tokenize(self, text: str) -> list[str]:
            return text.split()

    scorer, chance = RougeScorer(["rougeL"], tokenizer=Words()), random.Random(4)
    texts = folded(seed.output for seed in SEEDS)
    for _ in range(300):
        one, two = chance.sample(texts, 2)
        oracle = scorer.score(" ".join(one), " ".join(two))["rougeL"].fmeasure
        assert float(rouge_l(one, two)) == pytest.approx(oracle)


def test_same_words_in_another_alphabet_or_with_other_marks_are_not_new() -> None:
    novelty = Novelty(0.7)
    (text,) = folded(["Oʻzbekiston poytaxti haqida qisqa maʼlumot bering."])
    novelty.add(text)
    for other in (
        "Ўзбекистон пойтахти ҳақида қисқа маълумот беринг.",
        "O'zbekiston poytaxti haqida qisqa ma'lumot bering",
    ):
        (words,) = folded([other])
        assert novelty.likest(words) == (0, 1.0)


def test_text_without_words_is_like_none() -> None:
    novelty = Novelty(0.7)
    novelty.add(["a"])
    assert novelty.likest([]) is None


# ---------------------------------------------------------------- what is refused

GOOD = {
    "instruction": "Uyga kelgan mehmonga choy quyish odobini bolalarga tushuntiring.",
    "input": "",
    "output": "Choy piyolaga toʻldirib emas, yarmigacha quyiladi. Piyola oʻng qoʻl bilan, tabassum bilan uzatiladi.",
}


def row(**texts: Any) -> Candidate:
    rest = {"type": "qa", "topic": "family", "register": "neutral", "alphabet": "latin", "length": "medium"}
    return Candidate(**{"request": 1, "place": 0, **GOOD, **rest, **texts})


@pytest.fixture
def filters(index: Index) -> Filters:
    return Filters(index)


def test_good_rows_are_kept_in_both_alphabets(filters: Filters) -> None:
    other = row(
        instruction="Дўконга кирган харидор билан қандай муомала қилиш кераклигини айтинг.",
        output="Сотувчи аввал салом беради, кейин харидор нима излаётганини сўраб, шошилмасдан кўрсатади.",
        alphabet="cyrillic",
    )
    assert filters.look([row(), other]) == [None, None]


LONG = " ".join(f"soʻz{number}" for number in range(500))


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ({"output": ""}, "schema"),
        ({"output": "Kechirasiz, men bunga javob bera olmayman."}, "refusal"),
        ({"output": "Кечирасиз, мен бунга жавоб бера олмайман."}, "refusal"),
        ({"output": "К сожалению, я не могу помочь с этим."}, "refusal"),
        ({"output": "I'm sorry, but I can't help with that."}, "refusal"),
        ({"output": "Hurmatli [ism], taklifingiz uchun rahmat."}, "left_over"),
        ({"output": "### Response:\nChoy yarmigacha quyiladi."}, "left_over"),
        ({"output": "Mana kod:\n```python\nprint(1)"}, "markup"),
        ({"output": "**Muhim: choy issiq boʻlsin."}, "markup"),
        ({"output": "<b>Choy yarmigacha quyiladi."}, "markup"),
        ({"output": "Choy yarmigacha quyiladi.</div>"}, "markup"),
        ({"output": "Choy\u200b yarmigacha quyiladi."}, "invisible"),
        ({"output": "Choy yarmigacha quyiladi, Аlbatta."}, "mixed_letters"),
        ({"output": "Yozing: aziza.k@example.uz"}, "personal_data"),
        ({"output": "Qoʻngʻiroq qiling: +998 90 123-45-67"}, "personal_data"),
        ({"output": "Qoʻngʻiroq qiling: 90 123 45 67"}, "personal_data"),
        ({"input": "Karta: 8600 1234 5678 9012"}, "personal_data"),
        ({"input": "Pasport AA1234567"}, "personal_data"),
        ({"input": "JSHSHIR 31234567890123"}, "personal_data"),
        ({"instruction": "Tushuntiring."}, "too_short"),
        ({"output": LONG}, "too_long"),
        ({"output": "Choy yarmigacha quyiladi. Keyin mehmonga uzatiladi va yana bir"}, "cut"),
        ({"output": convert(GOOD["output"], "cyrillic")}, "alphabet"),
        ({"output": "The tea is poured to the half and handed over with the right hand and a smile."}, "language"),
        ({"output": GOOD["instruction"]}, "copied"),
        ({"output": "Uyga kelgan mehmonga choy quyish odobini bolalarga tushuntiring, albatta."}, "copied"),
    ],
)  # fmt: skip
def test_row_is_refused_with_its_reason(texts: dict[str, str], reason: str, filters: Filters) -> None:
    (found,) = filters.look([row(**texts)])
    assert found is not None
    assert found.reason == reason
    assert reason in REASONS
    assert filters.counts == {reason: 1}


@pytest.mark.parametrize(
    "texts",
    [
        {"output": "1. Choynak\n2. Piyola\n3. Patnis"},
        {"output": "Hurmatli mehmon!\nXush kelibsiz.\nHurmat bilan,\nAziza"},
        {"output": "ijobiy"},
        {"output": "Narxi 90 000 soʻm, jami 1 200 500 soʻm boʻladi."},
        {"output": "```python\nprint(1)\n```"},
        {"output": "<b>Choy</b> yarmigacha quyiladi.<br>Tamom."},
        {"type": "translation", "output": "Pour the tea to the half and hand it over with a smile, please."},
        {"input": "Мирзо Улуғбек — буюк олим ва ҳукмдор бўлган.", "type": "translation"},
    ],
)
def test_lists_labels_letters_code_and_translations_are_not_taken_for_faults(
    texts: dict[str, str], filters: Filters
) -> None:
    assert filters.look([row(**texts)]) == [None]


def test_row_that_holds_an_eval_item_is_refused_in_every_alphabet(filters: Filters) -> None:
    from tasks_uz.data import ROOT as TASKS
    from tasks_uz.data import read_items

    item = read_items(TASKS / "uz_open" / "items.jsonl")[2]
    for alphabet in ("latin", "cyrillic"):
        texts = {key: convert(text, alphabet) for key, text in {**GOOD, "instruction": item["instruction"]}.items()}
        (found,) = filters.look([row(**texts, alphabet=alphabet)])
        assert found is not None
        assert (found.reason, found.detail) == ("contaminated", f"item {item['id']} of uz_open")


def test_near_answers_are_refused_and_short_ones_may_come_again(filters: Filters) -> None:
    asked = ("Mehmon kutishda piyola qanday uzatiladi?", "Choyxonada xizmat qilish tartibi haqida yozing.")
    found = filters.look([row(), row(instruction=asked[0], output=GOOD["output"].replace("oʻng", "chap"))])
    assert [each and each.reason for each in found] == [None, "near_output"]
    labels = [row(instruction=text, output="ijobiy") for text in asked]
    assert filters.look(labels) == [None, None]


# ---------------------------------------------------------------- reading and planning


TASKS = (
    '{"tasks": [{"instruction": "a", "input": "", "output": "b"}, {"instruction": "c", "input": "", "output": "d"}]}'
)


def test_answer_is_read_and_what_was_whole_before_a_cut_is_kept() -> None:
    assert read_tasks(TASKS, cut=False) == (json.loads(TASKS)["tasks"], None)
    assert read_tasks(f"```json\n{TASKS}\n```", cut=False)[1] is None
    rows, fault = read_tasks(TASKS[:-20], cut=True)
    assert ([each["instruction"] for each in rows], fault) == (["a"], "cut")
    assert read_tasks("Albatta! Mana:", cut=False) == ([], "malformed")
    assert read_tasks('{"tasks": [1, 2]}', cut=False) == ([], "malformed")
    assert read_tasks('{"tasks": [' + "[" * 5000, cut=False) == ([], "malformed")


def test_rows_of_another_form_are_no_candidates() -> None:
    cell = ("qa", "food", "neutral", "latin", "short")
    rows = [{"instruction": " a ", "input": "", "output": "b"}, {"instruction": "a", "output": "b"},
            {"instruction": "a", "input": None, "output": "b"}]  # fmt: skip
    found = candidates(rows, 7, cell)
    assert found[0] == Candidate(7, 0, "a", "", "b", *cell)
    assert found[1:] == [None, None]


def test_plan_asks_for_what_is_missing_and_says_what_is() -> None:
    plan, chance = Plan({**WANTED.shares, "type": {"qa": 3, "school": 1}}), random.Random(1)
    for number in range(2000):
        values = dict(zip(AXES, plan.draw(chance, 2000), strict=True))
        # Half of the rows of one type are refused.
        if values["type"] != "school" or number % 2:
            plan.keep(values)
    n = sum(plan.kept["type"].values())
    assert plan.kept["type"]["school"] / n == pytest.approx(0.25, abs=0.07)
    assert plan.kept["alphabet"]["cyrillic"] / n == pytest.approx(0.15, abs=0.02)
    empty = Plan({"type": {"qa": 1, "school": 1}, **{axis: {"x": 1} for axis in AXES[1:]}})
    for _ in range(400):
        empty.keep({"type": "qa", **dict.fromkeys(AXES[1:], "x")})
    assert empty.off_balance() == [
        "type qa: 100.0% of the rows, 50.0% wanted",
        "type school: 0.0% of the rows, 50.0% wanted",
    ]


def test_prompt_shows_six_seeds_and_two_written_rows_in_the_alphabet_that_is_asked_for() -> None:
    written = [{"instruction": f"yangi {n}", "input": "", "output": f"javob {n}"} for n in range(5)]
    cell = ("reasoning", "food", "neutral", "cyrillic", "long")
    messages = compose(WANTED, cell, SEEDS, written, random.Random(1))
    text = messages[1][1]
    shown = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert len(shown) == 8
    assert sum(each["instruction"].startswith("янги") for each in shown) == 2
    assert all(re.search("[\u0400-\u04ff]", each["instruction"]) for each in shown)
    assert "Kind: reasoning" in text
    assert "Cyrillic" in text
    assert "81 to 250 words" in text
    one, two = (as_request(WANTED, number, cell, messages, "run") for number in (1, 2))
    assert one.salt != two.salt
    assert one.schema is not None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("temperature: 1.0", "temprature: 1.0", "Did you mean 'temperature'"),
        ("  qa: 10", "  qa: -10", "types: expected names and their weights"),
        ("{examples}", "{exampels}", "is no gap that can be filled"),
        ("instruction_rouge: 0.7", "instruction_rouge: 7", "ROUGE thresholds between 0 and 1"),
        ("rows_per_call: 4", "rows_per_call: four", "expected int"),
        ("topics: [", "topics: [[", "not YAML"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(old: str, new: str, said: str, tmp_path: Path) -> None:
    text = SETTINGS.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "settings.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UzBenchError, match=re.escape(said)) as caught:
        read_settings(path)
    assert "\n" not in str(caught.value)


def test_wrong_seeds_are_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"id": "a", "instruction": 3}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"seeds.jsonl:1: expected texts"):
        read_seeds(path)


# ---------------------------------------------------------------- whole runs


PLANTED = dict.fromkeys((*PLANTED_EXACT, *PLANTED_BY_LIKENESS), 0.02) | {"cut": 0.0}


def choices(out: Path, server: OpenAIServer, n: int, **more: Any) -> Choices:
    return Choices(out=out, n=n, base_url=server.url, **{"max_usd": 50.0, "backoff_s": 0.02, "concurrency": 8, **more})


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Every row of a set; a small one of few patterns may have none to validate with."""
    return [each for name in ("train.jsonl", "validation.jsonl") if (out / name).is_file() for each in read(out / name)]


def outcome(bank: Bank, out: Path) -> Counter[tuple[str, str]]:
    """(kind, what became of it) of every row that was given out."""
    kept = {(each["instruction"], each["output"]) for each in rows_of(out)}
    refused = {
        (each["candidate"]["instruction"], each["candidate"]["output"]): each["reason"]
        for each in read(out / "rejects.jsonl")
        if each["candidate"]
    }

    def became(given: Given) -> str:
        if given.key not in kept:
            return refused.get(given.key, "unread")
        # Of two that are alike the one that came first is kept, whichever the bank made of which.
        return "kept" if given.of is None or given.of.key in kept else "pair refused"

    return Counter((given.kind, became(given)) for given in bank.given)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bank, Path, Generated, OpenAIServer]:
    bank, out = Bank(1, PLANTED), tmp_path_factory.mktemp("generated") / "rows"
    turn = iter(range(10**6))
    faults = {3: "cut", 11: 500, 17: 429, 23: "malformed", 31: "length"}
    with OpenAIServer(bank.answer, faults=lambda document: faults.get(next(turn) % 60)) as server:
        made = generate(choices(out, server, 600))
    return bank, out, made, server


def test_what_was_planted_is_refused_and_what_is_good_is_kept(done: tuple[Bank, Path, Generated, OpenAIServer]) -> None:
    bank, out, made, _ = done
    found = outcome(bank, out)
    for kind in PLANTED:
        n = sum(count for (name, became), count in found.items() if name == kind and became != "unread")
        kept = found[kind, "kept"]
        assert n == 0 or kept <= (0.01 if kind in PLANTED_EXACT else 0.05) * n, (kind, found)
    good = sum(count for (name, became), count in found.items() if name == "good" and became != "unread")
    lost = sum(count for (name, became), count in found.items() if name == "good" and became not in ("kept", "unread"))
    assert lost <= 0.01 * good + 1
    assert made.complete
    assert set(made.rejected) >= {"malformed", "schema", "refusal", "contaminated", "near_instruction"}


def test_rows_have_texts_provenance_and_ids_of_their_own(done: tuple[Bank, Path, Generated, OpenAIServer]) -> None:
    _, out, made, server = done
    rows = rows_of(out)
    assert len(rows) == made.n_kept == 600
    assert len({each["id"] for each in rows}) == 600
    keys = ["schema", "id", "instruction", "input", "output", *AXES, "model", "prompt", "usd"]
    assert all(list(each) == keys for each in rows)
    assert made.answered_by == ("gpt-4o",)
    assert 0 < sum(each["usd"] for each in rows) <= made.usd
    # The server's own bill: cut and stalled answers were made too.
    assert made.usd >= server.usd(2.5, 10.0) - 1e-6
    assert made.usd == pytest.approx(server.usd(2.5, 10.0), rel=0.1)
    assert len(read(out / "responses.jsonl")) == made.n_requests - made.n_failed


def test_set_is_balanced(done: tuple[Bank, Path, Generated, OpenAIServer]) -> None:
    made = done[2]
    assert made.off_balance == ()
    assert set(made.cells["type"]) == set(WANTED.types)
    assert made.cells["alphabet"]["cyrillic"] / 600 == pytest.approx(0.15, abs=0.05)


def test_validation_shares_no_request_and_no_near_instruction_with_training(index: Index) -> None:
    chance = random.Random(5)
    kept = []
    for number in range(1, 401):
        text = (
            f"{SEEDS[number % 175].instruction} {chance.random()}"
            if number % 50 == 24 and number % 100 == 24
            else " ".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=14))
        )
        kept.append((row(request=number // 2 + 1, place=number % 2, instruction=text), "m", 0.0))
    train, validation = split(kept)
    assert 2 <= len(validation) <= 12
    assert len(train) + len(validation) == 400
    assert not {each.request for each, *_ in train} & {each.request for each, *_ in validation}
    asked = folded(each.instruction for each, *_ in train)
    for words in folded(each.instruction for each, *_ in validation):
        assert max(rouge_l(words, other) for other in asked) <= Fraction(1, 2)


def test_row_that_goes_back_to_training_takes_those_along_that_are_near_it() -> None:
    # Requests 25 and 75 are held apart; b is near a, which is near a row of training, and nothing else is.
    words = [f"soʻz{number}" for number in range(12)]
    a = " ".join([*words[:8], "a1", "a2"])
    b = " ".join([*words[4:8], "a1", "a2", "b1", "b2"])
    texts = {1: " ".join([*words[:8], "c1", "c2"]), 26: b, 76: a}
    kept = [
        (row(request=number, instruction=texts.get(number, f"x{number} y{number} z{number} w{number}")), "m", 0.0)
        for number in range(1, 101)
    ]
    one, two, three = folded([texts[1], a, b])
    assert rouge_l(one, two) > Fraction(1, 2)
    assert rouge_l(two, three) > Fraction(1, 2)
    assert rouge_l(one, three) <= Fraction(1, 2)
    train, validation = split(kept)
    assert len(train) == 100
    assert validation == []


def test_datasets_loads_the_set_and_training_takes_it(done: tuple[Bank, Path, Generated, OpenAIServer]) -> None:
    from datasets import load_dataset

    from train import check_data
    from train.data import read_rows

    _, out, made, _ = done
    found = load_dataset(str(out), cache_dir=str(out.parent / "cache"))
    assert found["train"].num_rows == made.n_train
    assert found.num_rows.get("validation", 0) == made.n_validation
    assert len(read_rows(out / "train.jsonl")) == made.n_train
    report = check_data(out / "train.jsonl", progress=False)
    assert report.errors == () if hasattr(report, "errors") else not report.refused


def test_typed_again_it_asks_nothing_and_writes_the_same(done: tuple[Bank, Path, Generated, OpenAIServer]) -> None:
    bank, out, _, _ = done
    before = {path.name: path.read_bytes() for path in out.glob("*.jsonl")}
    assert set(before) >= {"train.jsonl", "rejects.jsonl", "responses.jsonl"}
    with OpenAIServer(bank.answer) as server:
        # The address is part of what was asked: the same server, elsewhere, would be another run.
        with pytest.raises(RecordError, match="Name another: --out DIR"):
            generate(choices(out, server, 600))
        assert server.requests == []
    assert {name: (out / name).read_bytes() for name in before} == before


def test_more_rows_go_on_from_those_that_are_there(tmp_path: Path) -> None:
    bank = Bank(2)
    with OpenAIServer(bank.answer) as server:
        generate(choices(tmp_path, server, 40))
        first, n = read(tmp_path / "train.jsonl"), len(server.requests)
        generate(choices(tmp_path, server, 40))
        assert len(server.requests) == n
        assert read(tmp_path / "train.jsonl") == first
        made = generate(choices(tmp_path, server, 80))
        assert made.n_kept == 80
        assert len(server.requests) < 2.5 * n
    rows = rows_of(tmp_path)
    assert {each["id"] for each in first} <= {each["id"] for each in rows}


def test_killed_three_times_it_loses_no_paid_answer_and_ends_with_all_rows(tmp_path: Path) -> None:
    bank, out = Bank(3, {"duplicate": 0.05, "refusal": 0.05}), tmp_path / "rows"
    with OpenAIServer(bank.answer, delay_s=0.03) as server:
        command = [sys.executable, "-m", "harness", "generate", "--out", str(out), "--n", "240", "--concurrency", "4"]
        command += ["--base-url", server.url]
        for n in (15, 35, 60):
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while len(server.requests) < n:
                assert process.poll() is None
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        last = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert last.returncode == 0, last.stderr
        made = json.loads((out / "generated.json").read_text(encoding="utf-8"))
        assert made["n_kept"] == 240
        # Of each kill four calls at most were under way and asked again.
        assert len(server.requests) <= made["n_requests"] + 3 * 4
        assert len(read(out / "responses.jsonl")) == made["n_requests"]
        before = (out / "train.jsonl").read_bytes()
        again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert again.returncode == 0, again.stderr
        assert (out / "train.jsonl").read_bytes() == before
    names = [Path(line).name for line in last.stdout.splitlines()]
    assert [name for name in names if name != "validation.jsonl"] == ["train.jsonl", "dataset_card.md", "index.html"]


def test_cap_ends_a_run_with_what_was_kept_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    bank = Bank(4)
    with OpenAIServer(bank.answer) as server:
        with pytest.raises(BudgetError, match=r"--max-usd 0.4 is reached"):
            generate(choices(tmp_path, server, 300, max_usd=0.4))
        assert server.usd(2.5, 10.0) <= 0.4
        made = json.loads((tmp_path / "generated.json").read_text(encoding="utf-8"))
        assert not made["complete"]
        assert 20 < made["n_kept"] < 300
        assert generate(choices(tmp_path, server, 100, max_usd=5.0)).complete


def test_estimate_is_near_what_it_comes_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with OpenAIServer(Bank(5).answer) as server:
        made = generate(choices(tmp_path, server, 400))
    found = re.search(r"about ([\d.]+) US dollars", capsys.readouterr().err)
    assert found is not None
    # Of good rows a quarter more are kept than the estimate goes by.
    assert 0.75 * float(found[1]) == pytest.approx(made.usd, rel=0.15)


def test_batch_writes_as_many_rows_for_half_the_price(tmp_path: Path) -> None:
    with OpenAIServer(Bank(6).answer) as server:
        made = generate(choices(tmp_path, server, 60, batch=True, poll_s=0.02))
        assert made.complete
        assert len(server.batches) >= 1
        assert made.usd == pytest.approx(server.usd(1.25, 5.0))


def test_rows_that_the_model_grades_low_are_taken_out(tmp_path: Path) -> None:
    bank, n_graded = Bank(7), 0

    def answer(request: Any) -> str:
        nonlocal n_graded
        if request["messages"][0]["content"] != WANTED.quality:
            return bank.answer(request)
        n_graded += 1
        text = json.loads(request["messages"][1]["content"])["instruction"]
        return json.dumps(
            {"explanation": "x", "instruction": 5, "input": 5, "output": 2 if "Toʻgarakda" in text else 5}
        )

    with OpenAIServer(answer) as server:
        made = generate(choices(tmp_path, server, 60, quality=True))
        rows = rows_of(tmp_path)
        assert len(rows) == 60
        assert not [each for each in rows if "Toʻgarakda" in each["instruction"]]
        assert made.rejected["quality"] > 0
        before = n_graded
        generate(choices(tmp_path, server, 60, quality=True))
        assert n_graded == before


def test_model_that_writes_nothing_usable_is_stopped_early(tmp_path: Path) -> None:
    with OpenAIServer(lambda request: "Kechirasiz, yordam bera olmayman.") as server:
        with pytest.raises(UsageError, match="of the last 400 rows 0 were kept, 400 were refused as 'malformed'"):
            generate(choices(tmp_path, server, 2000))
        assert len(server.requests) < 1200


def test_unknown_price_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--prices FILE"):
        generate(Choices(out=tmp_path, n=5, model="unknown", base_url="https://example.org/v1"))


# ---------------------------------------------------------------- card and page


def hostile_set() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rows = [
        {"id": f"r{n}", "instruction": text, "input": text, "output": text, "type": "qa", "topic": text,
         "register": "x", "alphabet": "latin", "length": "short", "model": text, "prompt": "p", "usd": 0.0}
        for n, text in enumerate(HOSTILE.values())
    ]  # fmt: skip
    found = diversity([row(instruction=text) for text in HOSTILE.values()])
    aims = {axis: {"<script>alert(1)</script>": 1.0} for axis in AXES}
    made = Generated(
        model="<script>alert(1)</script>", answered_by=tuple(HOSTILE.values()), settings="s" * 64, seeds="t" * 64,
        created="2026-11-26", complete=False, n_wanted=100, n_kept=len(rows), n_train=len(rows), n_validation=0,
        n_requests=3, n_failed=1, rejected={"refusal": 3}, cells={axis: {} for axis in AXES}, aims=aims,
        off_balance=("type <script>alert(1)</script>",), diversity=found, usd=1.0, usd_unsettled=0.0, batch=True,
        quality=True, unread_tasks={"<script>alert(1)</script>": "a | b"},
    )  # fmt: skip
    return made.to_dict(), rows


def test_card_and_page_escape_what_a_model_wrote() -> None:
    from reports.dataset import render_card, render_page

    made, rows = hostile_set()
    card, page = render_card(made, rows), render_page(made, rows)
    assert "<script>" not in card.split("---", 2)[2]
    assert page.count("<script") == 0
    assert 'onerror="' not in page


def test_card_has_what_the_hub_reads_and_what_a_reader_must_know(
    done: tuple[Bank, Path, Generated, OpenAIServer],
) -> None:
    import yaml

    from reports.dataset import write_dataset

    _, out, made, _ = done
    paths = write_dataset(made.to_dict(), read(out / "train.jsonl"), out)
    card = html.unescape(paths[0].read_text(encoding="utf-8"))
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["language"], front["size_categories"]) == ("cc-by-4.0", ["uz"], ["n<1K"])
    for part in (
        "OpenAI's terms",
        "near_instruction",
        "distinct pairs of words",
        "classification",
        "written by gpt-4o",
    ):
        assert part in card
    page = paths[1].read_text(encoding="utf-8")
    assert page.count("<svg") >= 12
    assert "50 rows, drawn by chance" in page


def test_diversity_finds_the_verb_and_what_it_is_asked_of() -> None:
    found = diversity(
        [row(instruction="Menga xat yozib bering. Qisqa boʻlsin."), row(instruction="Sheʼr yozib bering!")]
    )
    assert found["verbs"] == {"bering": {"yozib": 2}}
    assert found["with_input"] == 0.0
    assert diversity([])["distinct_1"] is None
