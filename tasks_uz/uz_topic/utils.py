"""uz_topic: which of eight topics a short text is about.

An item, as items.jsonl has it:
{"id": "topic-003", "text": "Davlat hokimiyati uch tarmoqqa boʻlinadi: …", "label": "siyosat", "slice": "maktab"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks_uz.data import embedded
from tasks_uz.prompts import Prompt, render
from tasks_uz.text import convert

LABELS = ("siyosat", "iqtisodiyot", "sport", "taʼlim", "sogʻliq", "texnologiya", "madaniyat", "tabiat")


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
        instruction="Matn qaysi mavzuga oid? Quyidagi mavzulardan birini tanlab, faqat uning nomini yozing: "
        f"{', '.join(LABELS)}.",
        input=f"{convert('Matn', doc['orthography'])}: {doc['text']}",
        cue="Mavzu:",
    )
    return render(question.in_orthography(doc["orthography"]), prompt_format)
