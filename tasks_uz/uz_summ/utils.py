"""uz_summ: an article told in two or three sentences, held against two independent references.

An item, as items.jsonl has it:
{"id": "summ-001", "article": "…", "summaries": ["…", "…"], "headlines": ["…", "…"], "slice": "yangilik"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks_uz.answers import is_cut_off
from tasks_uz.ask import Wording, asked, titled
from tasks_uz.data import embedded
from tasks_uz.judged import Judged
from tasks_uz.overlap import compared
from tasks_uz.text import convert

WORDINGS = {
    "p1": Wording("Maqolaning asosiy mazmunini ikki-uch gapda bayon qiling.", "Qisqacha mazmuni:"),
    "p2": Wording("Quyidagi maqolani oʻqing va mazmunini ikki-uch gapga sigʻdirib yozing.", "Maqolaning qisqa bayoni:"),
    "p3": Wording("Bu maqolada eng muhimi nima? Ikki-uch gap bilan yozing.", "Eng muhimi:"),
}


def load(orthography: str = "latin", prompt: str = "p1", **_: Any) -> dict[str, Any]:
    return embedded(Path(__file__).parent, document, orthography=orthography, prompt=prompt, form="words")


def document(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": item["id"],
        "group": "",
        "article": item["article"],
        "references": item["summaries"],
        "slice": item["slice"],
    }


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    return asked(doc, WORDINGS, titled(doc, "Maqola", doc["article"]), prompt_format)


def doc_to_target(doc: dict[str, Any]) -> str:
    return doc["references"][0]


def judged(doc: dict[str, Any]) -> Judged:
    wording = WORDINGS[doc["prompt"]].ask
    return Judged(convert(wording, doc["orthography"]), doc["article"], tuple(doc["references"]))


def process_results(doc: dict[str, Any], results: list[str | None]) -> dict[str, float]:
    """How much of the references a summary has, and what it is like.

    No answer at all (None) is unscored, not wrong.
    """
    said = results[0]
    if said is None:
        return {"unscored": 1.0}
    return {
        **compared(said, doc["references"], doc["article"], doc["orthography"]),
        "cut_off": is_cut_off(said),
        "unscored": 0.0,
    }
