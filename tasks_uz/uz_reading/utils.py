"""uz_reading: a question on a passage, four choices, answered by letter.

Three questions share a passage (`group`), so they aren't independent. An item, as items.jsonl has it:
{"id": "reading-001-1", "group": "reading-001", "passage": "…", "question": "…", "choices": ["…", "…", "…", "…"],
 "answer": 2, "slice": "xulosa"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks_uz.data import embedded
from tasks_uz.prompts import Prompt, render
from tasks_uz.text import LETTERS, convert


def load(orthography: str = "latin", **_: Any) -> dict[str, Any]:
    return embedded(Path(__file__).parent, orthography, document)


def document(item: dict[str, Any]) -> dict[str, Any]:
    return dict(item)


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    # The letters stay Latin in every alphabet; all else is transliterated.
    options = "\n".join(f"{letter}) {choice}" for letter, choice in zip(LETTERS, doc["choices"], strict=True))
    passage, ask = (convert(word, doc["orthography"]) for word in ("Matn", "Savol"))
    question = Prompt(
        instruction="Matnni oʻqib, savolning toʻgʻri javobini toping. Faqat toʻgʻri javobning harfini yozing.",
        input=f"{passage}: {doc['passage']}\n\n{ask}: {doc['question']}\n{options}",
        cue="Javob:",
    )
    return render(question.in_orthography(doc["orthography"]), prompt_format)
