"""uz_topic: which of eight topics a short text is about.

An item, as items.jsonl has it:
{"id": "topic-003", "text": "Davlat hokimiyati uch tarmoqqa boʻlinadi: …", "label": "siyosat", "slice": "maktab"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks_uz.ask import Wording, asked, titled, with_options
from tasks_uz.ask import offered as doc_to_choice  # noqa: F401
from tasks_uz.choices import macro_f1  # noqa: F401
from tasks_uz.choices import process_classes as process_results  # noqa: F401
from tasks_uz.data import embedded

LABELS = ("siyosat", "iqtisodiyot", "sport", "taʼlim", "sogʻliq", "texnologiya", "madaniyat", "tabiat")

WORDINGS = {
    "p1": Wording(
        ask="Matn qaysi mavzuga oid?",
        letters="Faqat toʻgʻri javobning harfini yozing.",
        named="Matn qaysi mavzuga oid? Quyidagi mavzulardan birini tanlab, faqat uning nomini yozing: {labels}.",
        cue="Mavzu:",
    ),
    "p2": Wording(
        ask="Quyidagi matnning mavzusini aniqlang.",
        letters="Mos variantning harfini koʻrsating.",
        named="Quyidagi matnning mavzusini aniqlang. Mavzular: {labels}. Javobda bitta mavzu nomini keltiring.",
        cue="Matn mavzusi:",
    ),
    "p3": Wording(
        ask="Ushbu matnni gazetaning qaysi ruknida chop etgan boʻlardingiz?",
        letters="Bitta variantni tanlab, harfini yozing.",
        named="Ushbu matnni gazetaning qaysi ruknida chop etgan boʻlardingiz? Ruknlar: {labels}. "
        "Faqat bittasini ayting.",
        cue="Rukn:",
    ),
}


def load(orthography: str = "latin", prompt: str = "p1", form: str = "named", **_: Any) -> dict[str, Any]:
    return embedded(Path(__file__).parent, document, orthography=orthography, prompt=prompt, form=form)


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
    text = titled(doc, "Matn", doc["text"])
    if doc["form"] == "letters":
        text = with_options(text, doc)
    return asked(doc, WORDINGS, text, prompt_format, labels=", ".join(LABELS))
