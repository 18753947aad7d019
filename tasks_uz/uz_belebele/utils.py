"""uz_belebele: a question on a passage, four choices (Belebele, uzn_Latn).

A row, as the hub has it (https://huggingface.co/datasets/facebook/belebele), shortened:
{"link": "https://…", "question_number": 1, "flores_passage": "…", "question": "…", "mc_answer1": "…", …,
 "mc_answer4": "…", "correct_answer_num": "3", "dialect": "uzn_Latn"}
"""

from __future__ import annotations

import hashlib
from typing import Any

from tasks_uz.ask import asked, titled, with_options
from tasks_uz.ask import offered as doc_to_choice  # noqa: F401
from tasks_uz.choices import process_results  # noqa: F401
from tasks_uz.data import Source, from_hub
from tasks_uz.uz_reading.utils import WORDINGS

SOURCES = (Source("facebook/belebele", "uzn_Latn", ("test",)),)
TRIED = (
    "Columns as lm-eval's own task belebele_uzn_Latn reads them. The data could not be tried here for want of a "
    "network; a fixture of the same columns is tested."
)


def load(mirror: str | None = None, prompt: str = "p1", form: str = "letters", **_: Any) -> dict[str, Any]:
    return from_hub(SOURCES[0], {"test": "test"}, document, mirror=mirror, prompt=prompt, form=form)


def document(number: int, row: dict[str, Any]) -> dict[str, Any]:
    # One to four questions share a passage, so they aren't independent.
    passage = hashlib.sha256(row["flores_passage"].encode()).hexdigest()[:12]
    return {
        "id": f"belebele-{passage}-{row['question_number']}",
        "group": f"belebele-{passage}",
        "passage": row["flores_passage"],
        "question": row["question"],
        "choices": [row[f"mc_answer{number}"] for number in range(1, 5)],
        "answer": int(row["correct_answer_num"]) - 1,
        "slice": "",
    }


def doc_to_text(doc: dict[str, Any], prompt_format: str = "plain") -> str:
    question = with_options(titled(doc, "Savol", doc["question"]), doc)
    return asked(doc, WORDINGS, f"{titled(doc, 'Matn', doc['passage'])}\n\n{question}", prompt_format)
