"""uz_uzlib: spelling, word choice and meaning, four choices (UzLiB).

The options are shown as they are: in 110 of the 1,861 items they differ by an apostrophe alone.
A row, as the hub has it (https://huggingface.co/datasets/tahrirchi/uzlib):
{"question": "Avval salom, baʼdaz kalom.\\n\\nbaʼdaz — bu...", "option_a": "Keyin, soʻng", …, "answer": "A",
 "type": "meaning_in_context"}
"""

from __future__ import annotations

from typing import Any

from tasks_uz.ask import Wording, asked, with_options
from tasks_uz.ask import offered as doc_to_choice  # noqa: F401
from tasks_uz.choices import process_results  # noqa: F401
from tasks_uz.data import Source, from_hub
from tasks_uz.text import LETTERS

SOURCES = (Source("tahrirchi/uzlib", "default", ("test",)),)
TRIED = "Tried from a mirror in the hub's own columns; reading from the hub itself could not be tried here."

WORDINGS = {
    "p1": Wording(
        ask="Oʻzbek tiliga oid savolning toʻgʻri javobini toping.",
        letters="Faqat toʻgʻri javobning harfini yozing.",
        cue="Javob:",
    ),
    "p2": Wording(
        ask="Ona tili boʻyicha test topshirigʻini bajaring.",
        letters="Javob sifatida A, B, C yoki D harfini koʻrsating.",
        cue="Toʻgʻri javob:",
    ),
    "p3": Wording(
        ask="Savolni diqqat bilan oʻqing va unga javob bering.",
        letters="Toʻrt variantdan eng mosini tanlab, harfini yozing.",
        cue="Savolning javobi:",
    ),
}


def load(mirror: str | None = None, prompt: str = "p1", form: str = "letters", **_: Any) -> dict[str, Any]:
    return from_hub(SOURCES[0], {"test": "test"}, document, mirror=mirror, prompt=prompt, form=form)


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
    return asked(doc, WORDINGS, with_options(doc["question"], doc), prompt_format)
