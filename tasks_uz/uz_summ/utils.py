"""uz_summ: an article told in two or three sentences, held against two independent references.

An item, as items.jsonl has it:
{"id": "summ-001", "article": "…", "summaries": ["…", "…"], "headlines": ["…", "…"], "slice": "yangilik"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks_uz.data import embedded
from tasks_uz.overlap import chrf, rouge_l
from tasks_uz.prompts import Prompt, render
from tasks_uz.text import convert


def load(orthography: str = "latin", **_: Any) -> dict[str, Any]:
    return embedded(Path(__file__).parent, orthography, document)


def document(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": item["id"],
        "group": "",
        "article": item["article"],
        "summaries": item["summaries"],
        "slice": item["slice"],
    }


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    question = Prompt(
        instruction="Maqolaning asosiy mazmunini ikki-uch gapda bayon qiling.",
        input=f"{convert('Maqola', doc['orthography'])}: {doc['article']}",
        cue="Qisqacha mazmuni:",
    )
    return render(question.in_orthography(doc["orthography"]), prompt_format)


def doc_to_target(doc: dict[str, Any]) -> str:
    return doc["summaries"][0]


def process_results(doc: dict[str, Any], results: list[str | None]) -> dict[str, float]:
    """chrF++ and ROUGE-L of folded text, each the best over the references.

    No answer at all (None) is unscored, not wrong.
    """
    said = results[0]
    if said is None:
        return {"unscored": 1.0}
    return {"chrf": chrf(said, doc["summaries"]), "rouge_l": rouge_l(said, doc["summaries"]), "unscored": 0.0}
