"""uz_flores_uz_en: a sentence translated from Uzbek into English (FLORES+, devtest).

A row of one language, as the hub has it (https://huggingface.co/datasets/openlanguagedata/flores_plus), shortened:
{"id": 0, "iso_639_3": "uzn", "iso_15924": "Latn", "text": "…", "url": "https://…", "domain": "wikinews"}
The same id in two languages is the same sentence.
"""

from __future__ import annotations

from typing import Any

from tasks_uz.answers import is_empty, length_ratio
from tasks_uz.ask import Wording, asked, titled
from tasks_uz.data import Source, parallel
from tasks_uz.overlap import chrf
from tasks_uz.uz_flores_en_uz.utils import doc_to_target, document  # noqa: F401

SOURCES = tuple(
    Source("openlanguagedata/flores_plus", language, ("devtest", "dev")) for language in ("uzn_Latn", "eng_Latn")
)
TRIED = (
    "Columns as the data set's card has them. The data could not be tried here for want of a network, and the hub "
    "wants its terms accepted; a fixture of the same columns is tested."
)

WORDINGS = {
    "p1": Wording("Quyidagi oʻzbekcha gapni ingliz tiliga tarjima qiling. Faqat tarjimani yozing.", "Inglizcha:"),
    "p2": Wording("Gapning inglizcha tarjimasini bering.", "Tarjima:"),
    "p3": Wording(
        "Bu gapni ingliz tilida qanday aytish mumkin? Javobda faqat tarjimaning oʻzi boʻlsin.", "Ingliz tilida:"
    ),
}


def load(mirror: str | None = None, prompt: str = "p1", **_: Any) -> dict[str, Any]:
    return parallel(SOURCES, {"test": "devtest", "shots": "dev"}, document, mirror=mirror, prompt=prompt)


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    return asked(doc, WORDINGS, titled(doc, "Oʻzbekcha", doc["text"]), prompt_format)


def process_results(doc: dict[str, Any], results: list[str | None]) -> dict[str, float]:
    """chrF++ of a translation, and what it is like. No answer at all (None) is unscored, not wrong."""
    said = results[0]
    if said is None:
        return {"unscored": 1.0}
    found = {
        "chrf": chrf(said, doc["references"]),
        "length_ratio": length_ratio(said, doc["references"]),
        "empty": is_empty(said),
        "unscored": 0.0,
    }
    return {metric: value for metric, value in found.items() if value is not None}
