"""uz_qa: a question answered in a few words, from a passage ("matn") or from knowledge ("bilim").

An item, as items.jsonl has it:
{"id": "qa-002", "passage": "", "question": "Qoraqalpogʻiston Respublikasining poytaxti qaysi shahar?",
 "answers": ["Nukus", "Nukus shahri"], "slice": "bilim"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks_uz.answers import in_alphabet, is_empty
from tasks_uz.ask import Wording, asked, titled
from tasks_uz.data import embedded
from tasks_uz.judged import Judged
from tasks_uz.text import has_any, token_f1

WITH_PASSAGE = {
    "p1": Wording("Matnga tayanib, savolga qisqa, uch soʻzdan oshirmay javob bering.", "Javob:"),
    "p2": Wording("Quyidagi matndan savolning javobini toping va uni koʻpi bilan uch soʻzda yozing.", "Qisqa javob:"),
    "p3": Wording("Matnni oʻqing. Undan keyingi savolga imkon qadar qisqa javob yozing.", "Matndagi javob:"),
}
FROM_KNOWLEDGE = {
    "p1": Wording("Savolga qisqa, uch soʻzdan oshirmay javob bering.", "Javob:"),
    "p2": Wording("Quyidagi savolning javobini koʻpi bilan uch soʻzda yozing.", "Qisqa javob:"),
    "p3": Wording("Savolni oʻqing va unga imkon qadar qisqa javob yozing.", "Toʻgʻri javob:"),
}


def load(orthography: str = "latin", prompt: str = "p1", **_: Any) -> dict[str, Any]:
    return embedded(Path(__file__).parent, document, orthography=orthography, prompt=prompt, form="words")


def document(item: dict[str, Any]) -> dict[str, Any]:
    return {"id": item["id"], "group": "", **{key: value for key, value in item.items() if key != "id"}}


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    question = titled(doc, "Savol", doc["question"])
    if not doc["passage"]:
        return asked(doc, FROM_KNOWLEDGE, question, prompt_format)
    return asked(doc, WITH_PASSAGE, f"{titled(doc, 'Matn', doc['passage'])}\n\n{question}", prompt_format)


def doc_to_target(doc: dict[str, Any]) -> str:
    return doc["answers"][0]


def judged(doc: dict[str, Any]) -> Judged:
    return Judged(doc["question"], doc["passage"], tuple(doc["answers"]))


def process_results(doc: dict[str, Any], results: list[str | None]) -> dict[str, float]:
    """Exact match and token F1 of folded text, each the best over the accepted answers, and what the answer is like.

    An answer counts in any of the three alphabets. No answer at all (None) is unscored, not wrong.
    """
    said = results[0]
    if said is None:
        return {"unscored": 1.0}
    found = {
        "exact_match": float(has_any(said, doc["answers"])),
        "f1": max(token_f1(said, answer) for answer in doc["answers"]),
        "alphabet": in_alphabet(said, doc["orthography"]),
        "empty": is_empty(said),
        "unscored": 0.0,
    }
    return {metric: value for metric, value in found.items() if value is not None}
