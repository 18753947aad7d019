"""uz_sentiment: whether a remark or review is positive, negative or neutral.

An item, as items.jsonl has it:
{"id": "sentiment-003", "text": "Onam oshxonalarning mantisini yoqtirmaydi, …", "label": "ijobiy", "slice": "ovqat"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks_uz.ask import Wording, asked, titled, with_options
from tasks_uz.ask import offered as doc_to_choice  # noqa: F401
from tasks_uz.choices import macro_f1  # noqa: F401
from tasks_uz.choices import process_classes as process_results  # noqa: F401
from tasks_uz.data import embedded

LABELS = ("ijobiy", "salbiy", "betaraf")

WORDINGS = {
    "p1": Wording(
        ask="Matn muallifining munosabati qanday?",
        letters="Faqat toʻgʻri javobning harfini yozing.",
        named="Matn muallifining munosabati qanday: ijobiy, salbiy yoki betaraf? Bir soʻz bilan javob bering.",
        cue="Munosabat:",
    ),
    "p2": Wording(
        ask="Quyidagi fikrning ohangini aniqlang.",
        letters="Mos variantning harfini koʻrsating.",
        named="Quyidagi fikrning ohangini aniqlang. U ijobiy, salbiy yoki betaraf boʻlishi mumkin; bittasini yozing.",
        cue="Ohangi:",
    ),
    "p3": Wording(
        ask="Bu matnni yozgan kishi oʻzi tilga olgan narsani qanday baholaydi?",
        letters="Bitta variantni tanlab, harfini yozing.",
        named="Bu matnni yozgan kishi oʻzi tilga olgan narsani qanday baholaydi? U mamnun boʻlsa, “ijobiy”, norozi "
        "boʻlsa, “salbiy”, baho bermagan boʻlsa, “betaraf” deb yozing. Faqat shu soʻzning oʻzi boʻlsin.",
        cue="Bahosi:",
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
    return asked(doc, WORDINGS, with_options(text, doc) if doc["form"] == "letters" else text, prompt_format)
