"""uz_sib200: the topic of a sentence, seven classes (SIB-200, uzn_Latn).

A row, as the hub has it (https://huggingface.co/datasets/Davlan/sib200):
{"index_id": 1523, "category": "science/technology", "text": "Mutatsiya yangi genetik …"}
"""

from __future__ import annotations

from typing import Any

from tasks_uz.data import from_hub
from tasks_uz.prompts import Prompt, render

LABELS = {
    "science/technology": "fan va texnologiya",
    "travel": "sayohat",
    "politics": "siyosat",
    "sports": "sport",
    "health": "salomatlik",
    "entertainment": "koʻngilochar soha",
    "geography": "geografiya",
}


def load(mirror: str | None = None, **_: Any) -> dict[str, Any]:
    splits = {"test": "test", "shots": "train"}
    return from_hub("Davlan/sib200", "uzn_Latn", splits, document, mirror=mirror, mixed=tuple(splits))


def document(number: int, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"sib200-{row['index_id']}",
        "group": "",
        "text": row["text"],
        "choices": list(LABELS.values()),
        "answer": list(LABELS).index(row["category"]),
        "slice": row["category"],
    }


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    question = Prompt(
        instruction="Matn qaysi mavzuga oid? Quyidagi mavzulardan birini tanlab, faqat uning nomini yozing: "
        f"{', '.join(LABELS.values())}.",
        input=f"Matn: {doc['text']}",
        cue="Mavzu:",
    )
    return render(question, prompt_format)
