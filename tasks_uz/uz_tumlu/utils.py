"""uz_tumlu: school knowledge in the subjects' own words, four choices, in Latin and in Cyrillic (TUMLU-mini).

A row, as the hub has it (https://huggingface.co/datasets/jafarisbarov/TUMLU-mini), shortened; `choices` is a list, or
a list written out as text:
{"subject": "Biology", "question": "…", "choices": "['…', '…', '…', '…']", "answer": "B"}
"""

from __future__ import annotations

import ast
from typing import Any

from tasks_uz.ask import KNOWLEDGE, OPTION_LETTERS, asked, titled, with_options
from tasks_uz.ask import offered as doc_to_choice  # noqa: F401
from tasks_uz.choices import process_results  # noqa: F401
from tasks_uz.data import Source, from_hub

SOURCES = (
    Source("jafarisbarov/TUMLU-mini", "uzbek", ("test", "dev")),
    Source("jafarisbarov/TUMLU-mini", "uzbek-cyrillic", ("test", "dev")),
)
TRIED = (
    "Columns as the data set's card and its readers have them, the name of the Cyrillic configuration among them. The "
    "data could not be tried here for want of a network; a fixture of the same columns is tested."
)


def load(
    mirror: str | None = None, orthography: str = "latin", prompt: str = "p1", form: str = "letters", **_: Any
) -> dict[str, Any]:
    source = SOURCES[orthography == "cyrillic"]
    splits = {"test": "test", "shots": "dev"}
    return from_hub(source, splits, document, mirror=mirror, orthography=orthography, prompt=prompt, form=form)


def document(number: int, row: dict[str, Any]) -> dict[str, Any]:
    choices = row["choices"]
    choices = list(ast.literal_eval(choices)) if isinstance(choices, str) else list(choices)
    return {
        # The same place in both alphabets is the same question.
        "id": f"tumlu-{number + 1:04d}",
        "group": "",
        "question": row["question"].strip(),
        "choices": [str(choice) for choice in choices],
        "answer": OPTION_LETTERS.index(row["answer"].strip().upper()),
        "slice": row["subject"],
    }


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    return asked(doc, KNOWLEDGE, with_options(titled(doc, "Savol", doc["question"]), doc), prompt_format)
