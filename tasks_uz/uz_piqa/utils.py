"""uz_piqa: which of two endings is right, of things and customs (Global PIQA, non-parallel, uzn_latn).

A row, as the hub has it (https://huggingface.co/datasets/mrlbenchmarks/global-piqa-nonparallel), shortened:
{"prompt": "Osh damlanganda …", "solution0": "…", "solution1": "…", "label": 1}
"""

from __future__ import annotations

from typing import Any

from tasks_uz.ask import Wording, asked, titled
from tasks_uz.ask import offered as doc_to_choice  # noqa: F401
from tasks_uz.choices import process_results  # noqa: F401
from tasks_uz.data import Source, from_hub

SOURCES = (Source("mrlbenchmarks/global-piqa-nonparallel", "uzn_latn", ("test",)),)
TRIED = (
    "Columns as lm-eval's own task global_piqa_nonparallel_cloze_uzn_latn reads them. The data could not be tried here "
    "for want of a network; a fixture of the same columns is tested."
)

WORDINGS = {
    "p1": Wording("Gapni mazmunan toʻgʻri davom ettiring.", "Davomi:"),
    "p2": Wording("Boshlangan fikrni hayotiy tajribaga tayanib yakunlang.", "Yakuni:"),
    "p3": Wording("Quyidagi fikr qanday davom etsa, amalda toʻgʻri boʻladi?", "Toʻgʻri davomi:"),
}


def load(mirror: str | None = None, prompt: str = "p1", form: str = "cloze", **_: Any) -> dict[str, Any]:
    return from_hub(SOURCES[0], {"test": "test"}, document, mirror=mirror, prompt=prompt, form=form)


def document(number: int, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"piqa-{number + 1:04d}",
        "group": "",
        "text": row["prompt"].strip(),
        "choices": [row["solution0"], row["solution1"]],
        "answer": int(row["label"]),
        "slice": "",
    }


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    return asked(doc, WORDINGS, titled(doc, "Boshlanishi", doc["text"]), prompt_format)
