"""uz_flores_en_uz: a sentence translated from English into Uzbek (FLORES+, devtest).

A row of one language, as the hub has it (https://huggingface.co/datasets/openlanguagedata/flores_plus), shortened:
{"id": 0, "iso_639_3": "uzn", "iso_15924": "Latn", "text": "…", "url": "https://…", "domain": "wikinews"}
The same id in two languages is the same sentence.
"""

from __future__ import annotations

from typing import Any

from tasks_uz.answers import in_alphabet, is_empty, is_uzbek, length_ratio
from tasks_uz.ask import Wording, asked, titled
from tasks_uz.data import Source, parallel
from tasks_uz.overlap import chrf

SOURCES = tuple(
    Source("openlanguagedata/flores_plus", language, ("devtest", "dev")) for language in ("eng_Latn", "uzn_Latn")
)
TRIED = (
    "Columns as the data set's card has them. The data could not be tried here for want of a network, and the hub "
    "wants its terms accepted; a fixture of the same columns is tested."
)

WORDINGS = {
    "p1": Wording("Quyidagi inglizcha gapni oʻzbek tiliga tarjima qiling. Faqat tarjimani yozing.", "Oʻzbekcha:"),
    "p2": Wording("Gapning oʻzbekcha tarjimasini bering.", "Tarjima:"),
    "p3": Wording(
        "Bu gapni oʻzbek tilida qanday aytish mumkin? Javobda faqat tarjimaning oʻzi boʻlsin.", "Oʻzbek tilida:"
    ),
}


def load(mirror: str | None = None, prompt: str = "p1", **_: Any) -> dict[str, Any]:
    return parallel(SOURCES, {"test": "devtest", "shots": "dev"}, document, mirror=mirror, prompt=prompt)


def document(given: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"flores-{given['id']}",
        "group": "",
        "text": given["text"],
        "references": [wanted["text"]],
        "slice": str(given.get("domain", "")),
    }


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    return asked(doc, WORDINGS, titled(doc, "Inglizcha", doc["text"]), prompt_format)


def doc_to_target(doc: dict[str, Any]) -> str:
    return doc["references"][0]


def process_results(doc: dict[str, Any], results: list[str | None]) -> dict[str, float]:
    """chrF++ of a translation, and what it is like. No answer at all (None) is unscored, not wrong."""
    said = results[0]
    if said is None:
        return {"unscored": 1.0}
    found = {
        "chrf": chrf(said, doc["references"]),
        "length_ratio": length_ratio(said, doc["references"]),
        "uzbek": is_uzbek(said),
        "alphabet": in_alphabet(said, doc["orthography"]),
        "empty": is_empty(said),
        "unscored": 0.0,
    }
    return {metric: value for metric, value in found.items() if value is not None}
