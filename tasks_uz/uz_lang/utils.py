"""uz_lang: knowledge of Uzbek, four choices: meaning, synonyms, proverbs, idioms, suffixes, spelling.

An item, as items.jsonl has it:
{"id": "lang-007", "question": "“Yiqila ….” Gapni tugallang.", "choices": ["…", "…", "…", "…"], "answer": 3,
 "slice": "qoʻshimcha"}
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
        ask="Oʻzbek tiliga oid savolning toʻgʻri javobini toping.",
        letters="Faqat toʻgʻri javobning harfini yozing.",
        named="Oʻzbek tiliga oid savolning toʻgʻri javobini quyida berilgan variantlardan topib, oʻzgartirmasdan "
        "yozing.",
        cue="Javob:",
    ),
    "p2": Wording(
        ask="Ona tili boʻyicha test topshirigʻini bajaring.",
        letters="Javob sifatida toʻgʻri variantning harfini koʻrsating.",
        named="Ona tili boʻyicha test topshirigʻini bajaring. Berilgan javoblardan toʻgʻrisini koʻchirib yozing.",
        cue="Toʻgʻri javob:",
    ),
    "p3": Wording(
        ask="Savolni diqqat bilan oʻqing va unga javob bering.",
        letters="Toʻrt variantdan eng mosini tanlab, harfini yozing.",
        named="Savolni diqqat bilan oʻqing va toʻrt variantdan eng mosini tanlab, uni aynan keltiring.",
        cue="Savolning javobi:",
    ),
}


def load(orthography: str = "latin", prompt: str = "p1", form: str = "letters", **_: Any) -> dict[str, Any]:
    return embedded(Path(__file__).parent, document, orthography=orthography, prompt=prompt, form=form)


def document(item: dict[str, Any]) -> dict[str, Any]:
    return {"id": item["id"], "group": "", **{key: value for key, value in item.items() if key != "id"}}


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    # The choices stand below the question in both forms: many a question is about them.
    return asked(doc, WORDINGS, with_options(titled(doc, "Savol", doc["question"]), doc), prompt_format)
