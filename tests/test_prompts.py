"""The one renderer of prompts: what it writes in each format, for training as for evaluation."""

from __future__ import annotations

import importlib
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tasks_uz.data import ROOT
from tasks_uz.prompts import FORMATS, STOP, TARGET_DELIMITER, Prompt, render, render_row
from tasks_uz.text import LETTERS, ORTHOGRAPHIES, convert

EMBEDDED = sorted(path.parent.name for path in ROOT.glob("*/items.jsonl"))
TRAINING_ROWS = Path(__file__).parent.parent / "train" / "data" / "demo_uz.jsonl"

WITH_INPUT = Prompt("Matn qaysi mavzuga oid?", "Matn: Poyezd bugun kechikdi.", "Mavzu:")
WITHOUT_INPUT = Prompt("Poytaxt qaysi shahar?", cue="Javob:")


def documents(task: str, orthography: str, n: int, **asked: str) -> list[dict[str, Any]]:
    """The first documents of a task, as lm-eval gets them."""
    splits = importlib.import_module(f"tasks_uz.{task}.utils").load(orthography=orthography, **asked)
    return list(splits["test"].select(range(n)))


def asked(task: str, document: dict[str, Any], prompt_format: str) -> str:
    text = importlib.import_module(f"tasks_uz.{task}.utils").doc_to_text(document, prompt_format)
    assert isinstance(text, str)
    return text


# ---------------------------------------------------------------- one question, three formats


@pytest.mark.parametrize(
    ("prompt", "prompt_format", "written"),
    [
        (WITH_INPUT, "plain", "Matn qaysi mavzuga oid?\n\nMatn: Poyezd bugun kechikdi.\nMavzu:"),
        (WITHOUT_INPUT, "plain", "Poytaxt qaysi shahar?\nJavob:"),
        (Prompt("Ayting.", "Matn"), "plain", "Ayting.\n\nMatn"),
        (Prompt("Ayting."), "plain", "Ayting."),
        (
            WITH_INPUT,
            "alpaca",
            "### Instruction:\nMatn qaysi mavzuga oid?\n\n### Input:\nMatn: Poyezd bugun kechikdi.\n\n### Response:\n",
        ),
        (WITHOUT_INPUT, "alpaca", "### Instruction:\nPoytaxt qaysi shahar?\n\n### Response:\n"),
        (WITH_INPUT, "chat", "Matn qaysi mavzuga oid?\n\nMatn: Poyezd bugun kechikdi."),
        (WITHOUT_INPUT, "chat", "Poytaxt qaysi shahar?"),
    ],
)
def test_prompt_is_written_as_its_format_says(prompt: Prompt, prompt_format: str, written: str) -> None:
    assert render(prompt, prompt_format) == written


def test_plain_is_the_format_where_none_is_named() -> None:
    assert render(WITH_INPUT) == render(WITH_INPUT, "plain")


@pytest.mark.parametrize("prompt_format", ["", "Alpaca", "chatml"])
def test_unknown_format_is_refused_and_the_known_ones_named(prompt_format: str) -> None:
    with pytest.raises(ValueError, match=r"prompt format '.*' is unknown; there are plain, alpaca, chat"):
        render(WITH_INPUT, prompt_format)


def test_every_format_says_what_stands_before_an_answer_and_where_it_ends() -> None:
    assert set(TARGET_DELIMITER) == set(STOP) == set(FORMATS)


@pytest.mark.parametrize("prompt_format", FORMATS)
def test_answer_never_runs_into_the_prompt(prompt_format: str) -> None:
    # The chat template of a tokenizer puts its own mark before the answer.
    before = render(WITH_INPUT, prompt_format) + TARGET_DELIMITER[prompt_format]
    assert prompt_format == "chat" or before[-1].isspace()
    # Two spaces at the border would cut the answer's first token in two.
    assert not before.endswith("  ")


# ---------------------------------------------------------------- training and evaluation


@pytest.mark.parametrize("prompt_format", FORMATS)
@pytest.mark.parametrize("text", ["Matn: Poyezd bugun kechikdi.", ""])
def test_training_row_asks_exactly_what_evaluation_asks(prompt_format: str, text: str) -> None:
    prompt, completion = render_row("Qaysi mavzu?", text, "transport", prompt_format)
    assert prompt == render(Prompt("Qaysi mavzu?", text), prompt_format)
    assert completion == TARGET_DELIMITER[prompt_format] + "transport"


def test_training_row_in_alpaca_is_that_of_stanford_without_its_english_sentences() -> None:
    assert render_row("Tarjima qiling.", "Hello", "Salom") == (
        "### Instruction:\nTarjima qiling.\n\n### Input:\nHello\n\n### Response:\n",
        "Salom",
    )


@pytest.mark.parametrize("prompt_format", FORMATS)
def test_row_is_not_rewritten_whatever_it_contains(prompt_format: str) -> None:
    instruction, text, output = "  Ayting:\n{x} %s ", "### Input:\n\\n «a»", " bir\nikki \n"
    prompt, completion = render_row(instruction, text, output, prompt_format)
    assert instruction in prompt
    assert text in prompt
    assert completion.endswith(output)


def test_stop_string_of_alpaca_ends_an_answer_that_goes_on_to_the_next_question() -> None:
    answer = "Nukus\n\n" + render(WITH_INPUT, "alpaca")
    assert min(answer.index(stop) for stop in STOP["alpaca"]) == len("Nukus\n\n")


@pytest.mark.skipif(not TRAINING_ROWS.is_file(), reason="the training rows aren't in this checkout")
def test_no_training_answer_is_cut_by_the_stop_string_of_its_format() -> None:
    lines = TRAINING_ROWS.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    assert rows
    assert [row["output"] for row in rows if any(stop in row["output"] for stop in STOP["alpaca"])] == []


# ---------------------------------------------------------------- orthographies


def test_only_instruction_and_cue_are_transliterated() -> None:
    turned = WITH_INPUT.in_orthography("cyrillic")
    assert turned == Prompt("Матн қайси мавзуга оид?", "Matn: Poyezd bugun kechikdi.", "Мавзу:")


def test_prompt_in_the_latin_of_1995_is_itself() -> None:
    assert WITH_INPUT.in_orthography("latin") == WITH_INPUT


@pytest.mark.parametrize("orthography", ORTHOGRAPHIES)
def test_headings_of_alpaca_are_the_same_in_every_orthography(orthography: str) -> None:
    written = render(WITH_INPUT.in_orthography(orthography), "alpaca")
    assert re.findall(r"^### .*$", written, re.M) == ["### Instruction:", "### Input:", "### Response:"]


# ---------------------------------------------------------------- the embedded tasks


@pytest.mark.parametrize("orthography", ORTHOGRAPHIES)
@pytest.mark.parametrize("task", EMBEDDED)
def test_every_task_asks_the_same_question_in_each_format(task: str, orthography: str) -> None:
    for document in documents(task, orthography, 8):
        plain, alpaca, chat = (asked(task, document, name) for name in ("plain", "alpaca", "chat"))
        # The plain format adds a cue line to what chat says, alpaca two or three headings.
        assert re.fullmatch(re.escape(chat) + r"\n[^\n]+:", plain)
        assert re.sub(r"### (Instruction|Input|Response):\n", "", alpaca).rstrip("\n") == chat


@pytest.mark.parametrize("task", EMBEDDED)
def test_question_in_cyrillic_is_the_latin_one_transliterated(task: str) -> None:
    pairs = zip(documents(task, "latin", 20), documents(task, "cyrillic", 20), strict=True)
    for latin, cyrillic in pairs:
        # The letters of the options stay Latin; the rest is what converting the whole question gives.
        wanted = convert(asked(task, latin, "plain"), "cyrillic")
        for letter in LETTERS:
            wanted = wanted.replace(f"\n{convert(letter, 'cyrillic')}) ", f"\n{letter}) ")
        assert asked(task, cyrillic, "plain") == wanted


@pytest.mark.parametrize("orthography", ORTHOGRAPHIES)
def test_options_are_lettered_in_latin_code_points_in_every_alphabet(orthography: str) -> None:
    for document in documents("uz_reading", orthography, 20):
        text = asked("uz_reading", document, "plain")
        letters = re.findall(r"^(\w)\) ", text, re.M)
        assert [unicodedata.name(letter) for letter in letters] == [f"LATIN CAPITAL LETTER {x}" for x in LETTERS]
