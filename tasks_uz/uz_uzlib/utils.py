"""uz_uzlib: spelling, word choice and meaning, four choices (UzLiB).

The options are shown as they are: in 110 of the 1,861 items they differ by an apostrophe alone.
A row, as the hub has it (https://huggingface.co/datasets/tahrirchi/uzlib):
{"question": "Avval salom, baʼdaz kalom.\\n\\nbaʼdaz — bu...", "option_a": "Keyin, soʻng", …, "answer": "A",
 "type": "meaning_in_context"}
"""

from __future__ import annotations

from typing import Any

from tasks_uz.data import from_hub
from tasks_uz.prompts import Prompt, render
from tasks_uz.text import LETTERS


def load(mirror: str | None = None, **_: Any) -> dict[str, Any]:
    return from_hub("tahrirchi/uzlib", "default", {"test": "test"}, document, mirror=mirror)


def document(number: int, row: dict[str, Any]) -> dict[str, Any]:
    # The hub's rows have no id and 37 groups of them repeat: the row's place is its name.
    return {
        "id": f"uzlib-{number + 1:04d}",
        "group": "",
        "question": row["question"],
        "choices": [row[f"option_{letter.lower()}"] for letter in LETTERS],
        "answer": LETTERS.index(row["answer"]),
        "slice": row["type"],
    }


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    options = "\n".join(f"{letter}) {choice}" for letter, choice in zip(LETTERS, doc["choices"], strict=True))
    question = Prompt(
        instruction="Oʻzbek tiliga oid savolning toʻgʻri javobini toping. Faqat toʻgʻri javobning harfini yozing.",
        input=f"{doc['question']}\n{options}",
        cue="Javob:",
    )
    return render(question, prompt_format)
