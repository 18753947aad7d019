"""uz_open: a request as people type them, answered freely; it has no right answer and is scored by a judge alone.

An item, as items.jsonl has it:
{"id": "open-003", "instruction": "…", "input": "", "slice": "tushuntirish", "notes": "…", "answer_in": "uz"}

`notes` says what a good answer holds and is shown to the judge, never to the model; `answer_in` is the language that is
asked for. Code and foreign words stand in
some of the items, which another alphabet would spoil: they are asked in the Latin of 1995 alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks_uz.answers import in_alphabet, is_cut_off, is_empty, is_uzbek
from tasks_uz.data import embedded
from tasks_uz.judged import Judged
from tasks_uz.prompts import Prompt, render
from tasks_uz.text import convert

CUE = "Javob:"


def load(orthography: str = "latin", prompt: str = "p1", **_: Any) -> dict[str, Any]:
    return embedded(Path(__file__).parent, document, orthography=orthography, prompt=prompt, form="words")


def document(item: dict[str, Any]) -> dict[str, Any]:
    return {"id": item["id"], "group": "", **{key: value for key, value in item.items() if key != "id"}}


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    return render(Prompt(doc["instruction"], doc["input"], convert(CUE, doc["orthography"])), prompt_format)


def doc_to_target(doc: dict[str, Any]) -> str:
    """Of the worked examples; an item has no answer."""
    return doc.get("answer") or ""


def judged(doc: dict[str, Any]) -> Judged:
    return Judged(doc["instruction"], doc["input"], notes=doc["notes"])


def process_results(doc: dict[str, Any], results: list[str | None]) -> dict[str, float]:
    """What an answer is like, whatever it says: how good it is, a judge says later.

    No answer at all (None) is unscored, not wrong.
    """
    said = results[0]
    if said is None:
        return {"unscored": 1.0}
    foreign = doc["answer_in"] != "uz"
    found = {
        "uzbek": None if foreign else is_uzbek(said),
        "alphabet": None if foreign else in_alphabet(said, doc["orthography"]),
        "empty": is_empty(said),
        "cut_off": is_cut_off(said),
        "unscored": 0.0,
    }
    return {metric: value for metric, value in found.items() if value is not None}
