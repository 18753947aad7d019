"""uz_sentiment: whether a remark or review is positive, negative or neutral.

An item, as items.jsonl has it:
{"id": "sentiment-003", "text": "Onam oshxonalarning mantisini yoqtirmaydi, …", "label": "ijobiy", "slice": "ovqat"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks_uz.data import embedded
from tasks_uz.prompts import Prompt, render
from tasks_uz.text import convert

LABELS = ("ijobiy", "salbiy", "betaraf")


def load(orthography: str = "latin", **_: Any) -> dict[str, Any]:
    return embedded(Path(__file__).parent, orthography, document)


def document(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": item["id"],
        "group": "",
        "text": item["text"],
        "choices": list(LABELS),
        "answer": LABELS.index(item["label"]),
        "slice": item["slice"],
    }


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    question = Prompt(
        instruction="Matn muallifining munosabati qanday: ijobiy, salbiy yoki betaraf? Bir soʻz bilan javob bering.",
        input=f"{convert('Matn', doc['orthography'])}: {doc['text']}",
        cue="Munosabat:",
    )
    return render(question.in_orthography(doc["orthography"]), prompt_format)
