"""uz_multiblimp: a sentence and the same with broken agreement: which is likelier (MultiBLiMP, uzb).

Nothing is asked: whole sentences are scored. A row, as the hub has it
(https://huggingface.co/datasets/jumelet/multiblimp), shortened:
{"sen": "Bolalar kitob oʻqidilar.", "wrong_sen": "Bolalar kitob oʻqidim.", "phenomenon": "SV-P"}
"""

from __future__ import annotations

from typing import Any

from tasks_uz.choices import process_results  # noqa: F401
from tasks_uz.data import Source, from_hub

SOURCES = (Source("jumelet/multiblimp", "uzb", ("train",)),)
TRIED = (
    "Columns as lm-eval's own task multiblimp_uzb reads them. The data could not be tried here for want of a network; "
    "a fixture of the same columns is tested."
)


def load(mirror: str | None = None, **_: Any) -> dict[str, Any]:
    return from_hub(SOURCES[0], {"test": "train"}, document, mirror=mirror, form="cloze")


def document(number: int, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"multiblimp-{number + 1:04d}",
        "group": "",
        "choices": [row["sen"], row["wrong_sen"]],
        "answer": 0,
        "slice": str(row.get("phenomenon", "")),
    }


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    """Nothing: a sentence stands by itself; in chat, behind an empty question."""
    return ""


def doc_to_choice(doc: dict[str, Any]) -> list[str]:
    return list(doc["choices"])
