"""What a judge is shown of a document beside the answer: the question, what it is about, what is known of it.

A task that can be judged has a function `judged` in its utils.py, from a document to a Judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from tasks_uz.catalog import TaskInfo, items_folder
from tasks_uz.data import embedded_rows


@dataclass(frozen=True, slots=True)
class Judged:
    """One question, in the alphabet that it was asked in.

    input: the text that it is about, or empty. references: accepted answers, none for open questions.
    notes: what a good answer holds, for the judge alone.
    """

    question: str
    input: str = ""
    references: tuple[str, ...] = ()
    notes: str = ""


def judged_documents(task: TaskInfo) -> dict[str, Judged]:
    """Every document of a task by its id; empty where the task isn't made to be judged."""
    utils = import_module(f"tasks_uz.{task.path.parent.name}.utils")
    if not hasattr(utils, "judged"):
        return {}
    rows = embedded_rows(items_folder(task) / "items.jsonl", task.orthography, utils.document)
    prompt = task.prompt.rpartition("_")[2]
    return {row["id"]: utils.judged({**row, "prompt": prompt}) for row in rows}
