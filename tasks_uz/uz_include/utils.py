"""uz_include: regional knowledge from exams, four choices (INCLUDE, Uzbek).

A row, as the hub has it (https://huggingface.co/datasets/CohereForAI/include-base-44), shortened:
{"question": "…", "option_a": "…", …, "option_d": "…", "answer": 2, "domain": "STEM", "subject": "Biology"}
"""

from __future__ import annotations

from typing import Any

from tasks_uz.ask import KNOWLEDGE, asked, titled, with_options
from tasks_uz.ask import offered as doc_to_choice  # noqa: F401
from tasks_uz.choices import process_results  # noqa: F401
from tasks_uz.data import Source, from_hub

SOURCES = (Source("CohereForAI/include-base-44", "Uzbek", ("test", "validation")),)
TRIED = (
    "Columns as lm-eval's own tasks include_base_44_uzbek read them. The data could not be tried here for want of a "
    "network; a fixture of the same columns is tested."
)


def load(mirror: str | None = None, prompt: str = "p1", form: str = "letters", **_: Any) -> dict[str, Any]:
    splits = {"test": "test", "shots": "validation"}
    return from_hub(SOURCES[0], splits, document, mirror=mirror, prompt=prompt, form=form)


def document(number: int, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"include-{number + 1:04d}",
        "group": "",
        "question": row["question"].strip(),
        "choices": [row[f"option_{letter}"] for letter in "abcd"],
        "answer": int(row["answer"]),
        "slice": row["domain"],
    }


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    return asked(doc, KNOWLEDGE, with_options(titled(doc, "Savol", doc["question"]), doc), prompt_format)
