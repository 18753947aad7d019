"""uz_headline: a headline for an article, held against two independent references.

The articles are those of uz_summ, whose items.jsonl has the headlines too.
"""

from __future__ import annotations

from typing import Any

from tasks_uz.ask import Wording, asked, titled
from tasks_uz.data import ROOT, embedded
from tasks_uz.judged import Judged
from tasks_uz.overlap import compared
from tasks_uz.text import convert

WORDINGS = {
    "p1": Wording("Maqolaga qisqa va aniq sarlavha toping. Faqat sarlavhani yozing.", "Sarlavha:"),
    "p2": Wording("Quyidagi matnni nashrga tayyorlayapsiz. Unga bitta mos sarlavha yozing.", "Matn sarlavhasi:"),
    "p3": Wording("Bu maqola gazetada qanday sarlavha bilan chiqishi kerak? Javobda faqat sarlavhaning oʻzi boʻlsin.",
                  "Gazetadagi sarlavha:"),
}  # fmt: skip


def load(orthography: str = "latin", prompt: str = "p1", **_: Any) -> dict[str, Any]:
    return embedded(ROOT / "uz_summ", document, orthography=orthography, prompt=prompt, form="words")


def document(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": item["id"].replace("summ-", "headline-"),
        "group": "",
        "article": item["article"],
        "references": item["headlines"],
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
    """How much of the references a headline has, and what it is like.

    No answer at all (None) is unscored, not wrong.
    """
    said = results[0]
    if said is None:
        return {"unscored": 1.0}
    return {**compared(said, doc["references"], doc["article"], doc["orthography"]), "unscored": 0.0}
