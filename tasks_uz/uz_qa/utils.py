"""uz_qa: a question answered in a few words, from a passage ("matn") or from knowledge ("bilim").

An item, as items.jsonl has it:
{"id": "qa-002", "passage": "", "question": "Qoraqalpogʻiston Respublikasining poytaxti qaysi shahar?",
 "answers": ["Nukus", "Nukus shahri"], "slice": "bilim"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks_uz.data import embedded
from tasks_uz.prompts import Prompt, render
from tasks_uz.text import convert, has_any, token_f1


def load(orthography: str = "latin", **_: Any) -> dict[str, Any]:
    return embedded(Path(__file__).parent, orthography, document)


def document(item: dict[str, Any]) -> dict[str, Any]:
    return {"id": item["id"], "group": "", **{key: value for key, value in item.items() if key != "id"}}


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    passage, ask = (convert(word, doc["orthography"]) for word in ("Matn", "Savol"))
    if doc["passage"]:
        instruction = "Matnga tayanib, savolga qisqa, uch soʻzdan oshirmay javob bering."
        text = f"{passage}: {doc['passage']}\n\n{ask}: {doc['question']}"
    else:
        instruction = "Savolga qisqa, uch soʻzdan oshirmay javob bering."
        text = f"{ask}: {doc['question']}"
    question = Prompt(instruction=instruction, input=text, cue="Javob:")
    return render(question.in_orthography(doc["orthography"]), prompt_format)


def doc_to_target(doc: dict[str, Any]) -> str:
    return doc["answers"][0]


def process_results(doc: dict[str, Any], results: list[str | None]) -> dict[str, float]:
    """Exact match and token F1 of folded text, each the best over the accepted answers.

    An answer counts in any of the three alphabets. No answer at all (None) is unscored, not wrong.
    """
    said = results[0]
    if said is None:
        return {"unscored": 1.0}
    return {
        "exact_match": float(has_any(said, doc["answers"])),
        "f1": max(token_f1(said, answer) for answer in doc["answers"]),
        "unscored": 0.0,
    }
