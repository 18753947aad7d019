"""The embedded items and the demo's training rows: form, spelling, balance, likeness, overlap.

Read straight from the JSONL files. What an item says can't be tested; what would bend a score can.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tasks_uz import catalog
from tasks_uz.check import ALIKE, jaccard, key_of, likest, own_words, runs, shared_runs, strings, texts
from tasks_uz.prompts import Prompt, render
from tasks_uz.text import words

ROOT = Path(__file__).parent.parent
TASKS_UZ = ROOT / "tasks_uz"
PAIRS = ROOT / "train" / "data" / "preference_uz.jsonl"
TRAINING_FILES = sorted(path for path in PAIRS.parent.glob("*.jsonl") if path != PAIRS)
MIRROR = Path(__file__).parents[2] / "shared" / "mirror"

Row = dict[str, Any]

SCHEMA: dict[str, dict[str, type]] = {
    "uz_topic": {"id": str, "text": str, "label": str, "slice": str},
    "uz_sentiment": {"id": str, "text": str, "label": str, "slice": str},
    "uz_reading": {
        "id": str,
        "group": str,
        "passage": str,
        "question": str,
        "choices": list,
        "answer": int,
        "slice": str,
    },
    "uz_lang": {"id": str, "question": str, "choices": list, "answer": int, "slice": str},
    "uz_qa": {"id": str, "passage": str, "question": str, "answers": list, "slice": str},
    "uz_summ": {"id": str, "article": str, "summaries": list, "headlines": list, "slice": str},
    "uz_open": {"id": str, "instruction": str, "input": str, "slice": str, "notes": str, "answer_in": str},
}
TASKS = tuple(sorted(path.parent.name for path in TASKS_UZ.glob("*/items.jsonl")))
MAY_BE_EMPTY = {("uz_qa", "passage"), ("uz_open", "input")}
ANSWERED_SHOTS = ("uz_open",)
"""Tasks whose items have no answer, so that only the worked examples carry one."""

# Written here once more: a label that an item and its task misspell alike would otherwise pass.
LABELS = {
    "uz_topic": (
        "siyosat",
        "iqtisodiyot",
        "sport",
        "taʼlim",
        "sogʻliq",
        "texnologiya",
        "madaniyat",
        "tabiat",
    ),
    "uz_sentiment": ("ijobiy", "salbiy", "betaraf"),
    "uz_reading": (0, 1, 2, 3),
    "uz_lang": (0, 1, 2, 3),
    "uz_qa": ("matn", "bilim"),
}
"""The classes a task is balanced by: its labels, the place of the right choice, the kind of a question."""


def jsonl(path: Path) -> list[Row]:
    # Not splitlines(): it would cut a row at U+2028.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@cache
def items(task: str) -> tuple[Row, ...]:
    return tuple(jsonl(TASKS_UZ / task / "items.jsonl"))


@cache
def shots(task: str) -> tuple[Row, ...]:
    return tuple(jsonl(TASKS_UZ / task / "shots.jsonl"))


@cache
def training_rows() -> tuple[Row, ...]:
    """Every training row of the package, the demo's and the starter set's."""
    return tuple(row for path in TRAINING_FILES for row in jsonl(path))


def preferred() -> tuple[Row, ...]:
    """The questions of the pairs and the answers to prefer; the others are wrong on purpose, in their alphabet too."""
    keys = ("id", "prompt", "instruction", "input", "chosen")
    return tuple({key: row[key] for key in keys if key in row} for row in jsonl(PAIRS))


# ---------------------------------------------------------------- form


@pytest.mark.parametrize("task", TASKS)
def test_rows_have_the_same_keys_in_the_same_order_and_of_the_right_type(task: str) -> None:
    wanted = SCHEMA.get(task, {key: type(value) for key, value in items(task)[0].items()})
    wrong = [
        row.get("id")
        for row in items(task) + shots(task)
        if [key for key in row if key != "answer" or "-shot-" not in row["id"] or task not in ANSWERED_SHOTS]
        != list(wanted)
        or any(type(row[key]) is not kind for key, kind in wanted.items())
        or any(not isinstance(part, str) for value in row.values() if isinstance(value, list) for part in value)
    ]
    assert wrong == []


@pytest.mark.parametrize("task", TASKS)
def test_no_text_is_empty(task: str) -> None:
    empty = [
        (row["id"], key)
        for row in items(task) + shots(task)
        for key, value in row.items()
        if (task, key) not in MAY_BE_EMPTY and (value == [] or any(not text for text in strings(value)))
    ]
    assert empty == []


@pytest.mark.parametrize("task", TASKS)
def test_files_are_utf8_without_escapes_blank_lines_or_a_byte_order_mark(task: str) -> None:
    for name in ("items.jsonl", "shots.jsonl"):
        content = (TASKS_UZ / task / name).read_bytes()
        assert b"\\u" not in content
        assert b"\r" not in content
        assert not content.startswith(b"\xef\xbb\xbf")
        assert content.endswith(b"}\n")
        assert b"\n\n" not in content


@pytest.mark.parametrize("task", TASKS)
def test_ids_are_unique_and_name_their_task(task: str) -> None:
    names = [row["id"] for row in items(task) + shots(task)]
    assert len(set(names)) == len(names)
    stem = task.removeprefix("uz_")
    assert [name for name in names if not re.fullmatch(rf"{stem}(-shot)?-\d+(-\d)?", name)] == []
    assert [row["id"] for row in shots(task) if "-shot-" not in row["id"]] == []
    assert [row["id"] for row in items(task) if "-shot-" in row["id"]] == []


# ---------------------------------------------------------------- spelling

FORBIDDEN = re.compile(
    "['‘’`´ʹʽˈ′＇\"«»„]"  # Any apostrophe or quotation mark but ʻ ʼ “ ”.
    "|[\u0400-\u052f]"  # Cyrillic.
    "|[öğşçÖĞŞÇ]"  # The alphabet of 2026.
    "|[\u00a0\u00ad\u200b-\u200f\u2028-\u202f\u2060\ufeff\ufffd]"  # Spaces and marks that nobody sees.
)
MISPLACED = re.compile("(?<![oOgG])ʻ|(?<=[oOgG])ʼ|ʻʼ|ʻʻ|ʼʼ|ʼʻ")


def spelling_faults(text: str) -> list[str]:
    faults = [f"U+{ord(found[0]):04X}" for found in FORBIDDEN.finditer(text)]
    faults += [f"mark out of place: {text[max(0, m.start() - 8) : m.end() + 8]}" for m in MISPLACED.finditer(text)]
    if text != unicodedata.normalize("NFC", text):
        faults.append("not NFC")
    if text != text.strip() or "  " in text or "\t" in text or re.search(r" \n|\n | [,.;?!](?:\s|$)", text):
        faults.append("stray space")
    return faults


@pytest.mark.parametrize(
    "text",
    [
        "o'zbek",
        "oʼzbek",
        "maʻno",
        "ma’no",
        "гап",
        "özbek",
        "o\u0306zbek",
        "ikki  boʻsh joy",
        " bosh",
        "oxiri ",
        "bor , yoʻq",
        "yumshoq\u00adlik",
        "«gap»",
    ],
)
def test_spelling_check_finds_a_planted_fault(text: str) -> None:
    assert spelling_faults(text)


def test_spelling_check_lets_good_uzbek_pass() -> None:
    assert spelling_faults("“Gʻoyat maʼnoli soʻz, — dedi u. — Oʻ! Taʼlim...”\nMoʻjiza: 2023-yil.") == []


def without_code_and_russian(row: Row) -> Row:
    """An open request may carry code, and ask about a Russian saying or formula."""
    kept = {key: value for key, value in row.items() if (row["slice"], key) != ("kod", "input")}
    return {key: re.sub("[Ѐ-ӿ][Ѐ-ӿ, -]*", "", value) for key, value in kept.items()}


@pytest.mark.parametrize("task", [*TASKS, "training", "preferred"])
def test_texts_are_spelled_in_the_latin_alphabet_of_1995(task: str) -> None:
    rows = training_rows() if task == "training" else preferred() if task == "preferred" else items(task) + shots(task)
    if task == "uz_open":
        rows = tuple(without_code_and_russian(row) for row in rows)
    # "slice" of the demo's rows is Uzbek too.
    faults = [(row["id"], fault) for row in rows for text in texts(row) for fault in spelling_faults(text)]
    assert faults == []


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("task", sorted(LABELS))
def test_labels_are_known_and_all_are_used(task: str) -> None:
    for rows in (items(task), shots(task)):
        assert {key_of(row) for row in rows} <= set(LABELS[task])
    assert {key_of(row) for row in items(task)} == set(LABELS[task])


@pytest.mark.parametrize("task", ["uz_reading", "uz_lang"])
def test_choices_are_four_and_distinct_after_folding(task: str) -> None:
    for row in items(task) + shots(task):
        # Spelling is asked by choices that differ in a capital, a mark or a hyphen alone.
        told = {choice if row["slice"] == "imlo" else tuple(words(choice)) for choice in row["choices"]}
        assert len(told) == len(row["choices"]) == 4, row["id"]
        assert row["answer"] in range(4), row["id"]


@pytest.mark.parametrize("task", ["uz_reading", "uz_lang"])
def test_right_choice_is_the_longest_in_at_most_a_third(task: str) -> None:
    rows = items(task)
    longest = sum(
        len(row["choices"][row["answer"]]) > max(len(c) for i, c in enumerate(row["choices"]) if i != row["answer"])
        for row in rows
    )
    assert 3 * longest <= len(rows)


def test_passage_of_reading_has_three_questions_in_a_row_named_after_it() -> None:
    by_group: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(items("uz_reading")):
        by_group[row["group"]].append(place)
    for group, places in by_group.items():
        rows = [items("uz_reading")[place] for place in places]
        assert places == list(range(places[0], places[0] + 3))
        assert [row["id"] for row in rows] == [f"{group}-{number}" for number in (1, 2, 3)]
        assert len({row["passage"] for row in rows}) == 1
    assert len({row["passage"] for row in items("uz_reading")}) == len(by_group)


def test_question_on_a_text_has_a_passage_that_holds_its_answer_and_one_of_knowledge_has_none() -> None:
    for row in items("uz_qa") + shots("uz_qa"):
        assert bool(row["passage"]) == (row["slice"] == "matn"), row["id"]
        if row["passage"]:
            # Any accepted form: the passage may say "behi koʻchati" where the question wants "behi".
            passage = f" {' '.join(words(row['passage']))} "
            assert any(" ".join(words(answer)) in passage for answer in row["answers"]), row["id"]


def test_accepted_answers_of_a_question_are_all_different_after_folding() -> None:
    for row in items("uz_qa") + shots("uz_qa"):
        folded = [tuple(words(answer)) for answer in row["answers"]]
        assert len(set(folded)) == len(folded), row["id"]
        assert all(folded), row["id"]


def test_summaries_are_two_shorter_than_the_article_and_two_headlines_shorter_still() -> None:
    for row in items("uz_summ") + shots("uz_summ"):
        assert len(set(row["summaries"])) == len(set(row["headlines"])) == 2, row["id"]
        assert max(map(len, row["summaries"])) < len(row["article"]) / 2, row["id"]
        assert max(map(len, row["headlines"])) < min(map(len, row["summaries"])), row["id"]


# ---------------------------------------------------------------- balance


@pytest.mark.parametrize("task", sorted(LABELS))
def test_each_class_has_its_share_within_a_fifth(task: str) -> None:
    counts = Counter(key_of(row) for row in items(task))
    share = len(items(task)) / len(LABELS[task])
    assert {label: n for label, n in counts.items() if not 0.8 * share <= n <= 1.2 * share} == {}


def test_language_items_are_as_many_of_each_kind_and_in_every_prefix_of_forty_too() -> None:
    kinds = ("maʼno", "sinonim", "maqol", "ibora", "qoʻshimcha", "imlo")
    rows = items("uz_lang")
    assert Counter(row["slice"] for row in rows) == dict.fromkeys(kinds, len(rows) // len(kinds))
    for n in range(40, len(rows), 40):
        prefix = Counter(row["slice"] for row in rows[:n])
        assert [kind for kind in kinds if abs(prefix[kind] - n / len(kinds)) > 2] == []


@pytest.mark.parametrize("task", sorted(LABELS))
def test_classes_are_balanced_in_every_prefix_of_forty(task: str) -> None:
    """--limit 40, 80, … asks each label of uz_topic and uz_sentiment, each kind of uz_qa and each place of the right
    choice of uz_reading and uz_lang about as often as the whole task does."""
    rows = items(task)
    whole = Counter(key_of(row) for row in rows)
    uneven = {}
    for n in range(40, len(rows), 40):
        prefix = Counter(key_of(row) for row in rows[:n])
        for label in LABELS[task]:
            share = n * whole[label] / len(rows)
            # A class can't have a fraction of an item, and questions of one passage stay together.
            if abs(prefix[label] - share) > 2:
                uneven[n, label] = (prefix[label], share)
    assert uneven == {}


def test_demo_subset_names_existing_items_with_balanced_classes() -> None:
    subset: dict[str, list[str]] = json.loads((TASKS_UZ / "uz_demo.json").read_text(encoding="utf-8"))
    sizes = {"uz_topic": 48, "uz_sentiment": 48, "uz_reading": 24, "uz_qa": 24, "uz_summ": 8}
    assert {task: len(names) for task, names in subset.items()} == sizes
    for task, names in subset.items():
        rows = {row["id"]: row for row in items(task)}
        assert len(set(names)) == len(names)
        assert set(names) <= set(rows)
        if task in LABELS:
            counts = Counter(key_of(rows[name]) for name in names)
            assert counts == dict.fromkeys(LABELS[task], sizes[task] // len(LABELS[task]))
    # A passage with one question left out would be a smaller cluster than in the whole task.
    groups = Counter(name.rpartition("-")[0] for name in subset["uz_reading"])
    assert set(groups.values()) == {3}


# ---------------------------------------------------------------- likeness


@pytest.mark.parametrize("task", TASKS)
def test_no_two_items_are_alike(task: str) -> None:
    share, one, two = likest(items(task))
    assert share <= ALIKE, (one, two)


@pytest.mark.parametrize("task", TASKS)
def test_worked_examples_are_never_among_the_items(task: str) -> None:
    questions = [(row["id"], own_words(row)) for row in items(task)]
    alike = [
        (shot["id"], name)
        for shot in shots(task)
        for name, asked in questions
        if jaccard(asked, own_words(shot)) > ALIKE
    ]
    assert alike == []
    assert shared_runs(items(task), shots(task)) == []


def test_likeness_of_a_question_asked_twice_is_over_the_threshold() -> None:
    row = items("uz_topic")[0]
    changed = {**row, "text": row["text"].replace("Markaziy", "Milliy").upper()}
    assert changed["text"] != row["text"]
    assert jaccard(own_words(row), own_words(changed)) > ALIKE


# ---------------------------------------------------------------- the demo's training rows


def test_demo_rows_have_one_form() -> None:
    rows = training_rows()
    assert len(rows) >= 120
    assert {tuple(row) for row in rows} == {("id", "instruction", "input", "output", "slice")}
    assert len({row["id"] for row in rows}) == len(rows)
    assert [row["id"] for row in rows if not row["instruction"].strip() or not row["output"].strip()] == []


def test_demo_rows_repeat_no_question() -> None:
    asked = Counter(tuple(words(f"{row['instruction']} {row['input']}")) for row in training_rows())
    assert [question for question, n in asked.items() if n > 1] == []


def test_demo_rows_share_no_eight_words_in_a_row_with_any_item() -> None:
    assert shared_runs([row for task in TASKS for row in items(task) + shots(task)], training_rows()) == []


def test_demo_rows_ask_no_question_of_the_tasks() -> None:
    asked = {
        tuple(words(row[key])): row["id"]
        for task in TASKS
        for row in items(task) + shots(task)
        for key in ("text", "question", "article")
        if key in row
    }
    repeated = [
        (row["id"], asked[said])
        for row in training_rows()
        for text in (row["instruction"], row["input"], f"{row['instruction']} {row['input']}")
        for line in (text, *text.split("\n"))
        if (said := tuple(words(line))) in asked
    ]
    assert repeated == []


def test_demo_instructions_are_not_the_prompts_of_the_tasks() -> None:
    """An adapter that was tuned on the very words of the question would gain by knowing the prompt."""
    prompts = set()
    for task in catalog.tasks().values():
        if task.suite == "uz_core" and task.orthography == "latin":
            metadata = catalog.read_yaml(task.path)["metadata"]
            utils = import_module(f"tasks_uz.{task.path.parent.name}.utils")
            asked = {"prompt": metadata["prompt"], "form": metadata["form"], "orthography": "latin"}
            for name in ("items.jsonl", "shots.jsonl"):
                for row in jsonl(catalog.items_folder(task) / name)[:6]:
                    prompts.add(utils.doc_to_text({**utils.document(row), **asked}, prompt_format="chat"))
    known = {run for prompt in prompts for run in runs(prompt)}
    assert known
    shared = [(row["id"], " ".join(run)) for row in training_rows() for run in runs(row["instruction"]) if run in known]
    assert shared == []
    # Some instructions are shorter than eight words: none stands whole in a row's.
    instructions = {" ".join(words(prompt.partition("\n\n")[0])) for prompt in prompts}
    repeated = [
        (row["id"], instruction)
        for row in training_rows()
        for instruction in instructions
        if f" {instruction} " in f" {' '.join(words(row['instruction']))} "
    ]
    assert repeated == []


def test_overlap_check_finds_a_planted_copy_in_another_spelling() -> None:
    text = items("uz_summ")[0]["article"]
    copied = " ".join(text.split()[3:15]).replace("ʻ", "'").upper()
    row = {"instruction": "Davom ettiring.", "input": f"Avval {copied} keyin", "output": "x"}
    prompt = render(Prompt(row["instruction"], row["input"]), "alpaca")
    assert runs(prompt) & runs(text)


@pytest.mark.parametrize("name", ["Davlan/sib200/uzn_Latn/test.jsonl", "tahrirchi/uzlib/default/test.jsonl"])
def test_demo_rows_share_no_eight_words_in_a_row_with_hub_data(name: str) -> None:
    path = MIRROR / name
    if not path.is_file():
        pytest.skip(f"no mirror of {name} beside this checkout")
    known = {run for row in jsonl(path) for text in texts(row) for run in runs(text)}
    assert known
    shared = [row["id"] for row in training_rows() for text in texts(row) if runs(text) & known]
    assert shared == []
