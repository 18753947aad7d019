"""uz_reading: a question on a passage, four choices, answered by letter.

Three questions share a passage (`group`), so they aren't independent. An item, as items.jsonl has it:
{"id": "reading-001-1", "group": "reading-001", "passage": "…", "question": "…", "choices": ["…", "…", "…", "…"],
 "answer": 2, "slice": "xulosa"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks_uz.ask import Wording, asked, titled, with_options
from tasks_uz.ask import offered as doc_to_choice  # noqa: F401
from tasks_uz.choices import process_results  # noqa: F401
from tasks_uz.data import embedded

WORDINGS = {
    "p1": Wording(
        ask="Matnni oʻqib, savolning toʻgʻri javobini toping.",
        letters="Faqat toʻgʻri javobning harfini yozing.",
        cue="Javob:",
    ),
    "p2": Wording(
        ask="Quyidagi matn asosida savolga javob bering.",
        letters="Javob sifatida toʻgʻri variantning harfini koʻrsating.",
        cue="Toʻgʻri javob:",
    ),
    "p3": Wording(
        ask="Matn bilan tanishib chiqing va undan keyingi savolga javob toping.",
        letters="Toʻrt variantdan eng mosini tanlab, harfini yozing.",
        cue="Matnga mos javob:",
    ),
}


def load(orthography: str = "latin", prompt: str = "p1", form: str = "letters", **_: Any) -> dict[str, Any]:
    return embedded(Path(__file__).parent, document, orthography=orthography, prompt=prompt, form=form)


def document(item: dict[str, Any]) -> dict[str, Any]:
    return dict(item)


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    question = with_options(titled(doc, "Savol", doc["question"]), doc)
    return asked(doc, WORDINGS, f"{titled(doc, 'Matn', doc['passage'])}\n\n{question}", prompt_format)
