"""uz_lrsum: a news article told in a sentence or two (LR-Sum, uzb).

A row, as the hub has it (https://huggingface.co/datasets/bltlab/lr-sum), shortened:
{"id": "uzb_…", "url": "https://…", "title": "…", "summary": "…", "text": "…"}
"""

from __future__ import annotations

from typing import Any

from tasks_uz.ask import asked, titled
from tasks_uz.data import Source, from_hub
from tasks_uz.text import normalize_apostrophes
from tasks_uz.uz_summ.utils import WORDINGS, doc_to_target, process_results  # noqa: F401

SOURCES = (Source("bltlab/lr-sum", "uzb", ("test",)),)
TRIED = (
    "Columns as the data set's card has them. The data could not be tried here for want of a network; a fixture of the "
    "same columns is tested."
)


def load(mirror: str | None = None, prompt: str = "p1", **_: Any) -> dict[str, Any]:
    return from_hub(SOURCES[0], {"test": "test"}, document, mirror=mirror, prompt=prompt, form="words")


def document(number: int, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"lrsum-{row['id']}",
        "group": "",
        "article": normalize_apostrophes(row["text"]).strip(),
        "references": [normalize_apostrophes(row["summary"]).strip()],
        "slice": "",
    }


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    return asked(doc, WORDINGS, titled(doc, "Maqola", doc["article"]), prompt_format)
