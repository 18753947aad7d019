"""uz_sib200: the topic of a sentence, seven classes (SIB-200, uzn_Latn).

A row, as the hub has it (https://huggingface.co/datasets/Davlan/sib200):
{"index_id": 1523, "category": "science/technology", "text": "Mutatsiya yangi genetik …"}
"""

from __future__ import annotations

from typing import Any

from tasks_uz.ask import Wording, asked, titled, with_options
from tasks_uz.ask import offered as doc_to_choice  # noqa: F401
from tasks_uz.choices import macro_f1  # noqa: F401
from tasks_uz.choices import process_classes as process_results  # noqa: F401
from tasks_uz.data import Source, from_hub

SOURCES = (Source("Davlan/sib200", "uzn_Latn", ("test", "train")),)
TRIED = "Tried from a mirror in the hub's own columns; reading from the hub itself could not be tried here."

LABELS = {
    "science/technology": "fan va texnologiya",
    "travel": "sayohat",
    "politics": "siyosat",
    "sports": "sport",
    "health": "salomatlik",
    "entertainment": "koʻngilochar soha",
    "geography": "geografiya",
}

WORDINGS = {
    "p1": Wording(
        ask="Matn qaysi mavzuga oid?",
        letters="Faqat toʻgʻri javobning harfini yozing.",
        named="Matn qaysi mavzuga oid? Quyidagi mavzulardan birini tanlab, faqat uning nomini yozing: {labels}.",
        cue="Mavzu:",
    ),
    "p2": Wording(
        ask="Quyidagi gapning mavzusini aniqlang.",
        letters="Mos variantning harfini koʻrsating.",
        named="Quyidagi gapning mavzusini aniqlang. Mavzular: {labels}. Javobda bitta mavzu nomini keltiring.",
        cue="Gap mavzusi:",
    ),
    "p3": Wording(
        ask="Ushbu gap qaysi sohaga tegishli maqoladan olingan boʻlishi mumkin?",
        letters="Bitta variantni tanlab, harfini yozing.",
        named="Ushbu gap qaysi sohaga tegishli maqoladan olingan boʻlishi mumkin? Sohalar: {labels}. Faqat bittasini "
        "ayting.",
        cue="Soha:",
    ),
}


def load(mirror: str | None = None, prompt: str = "p1", form: str = "named", **_: Any) -> dict[str, Any]:
    splits = {"test": "test", "shots": "train"}
    # The hub's order is by class.
    return from_hub(SOURCES[0], splits, document, mirror=mirror, prompt=prompt, form=form, mixed=tuple(splits))


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
    text = titled(doc, "Matn", doc["text"])
    if doc["form"] == "letters":
        text = with_options(text, doc)
    return asked(doc, WORDINGS, text, prompt_format, labels=", ".join(LABELS.values()))
