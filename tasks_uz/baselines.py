"""What is scored without understanding: the number that a model's score has to be held against.

Chance; always the most frequent answer; always one letter; the longest choice; the choice that shares most words with
the passage or question; for written answers the beginning of the text. All are computed from the items alone, in the
Latin alphabet where a task has several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from tasks_uz import catalog
from tasks_uz.ask import OPTION_LETTERS
from tasks_uz.catalog import TaskInfo
from tasks_uz.data import read_items, transliterate
from tasks_uz.text import words

Document = Mapping[str, Any]


def measured() -> dict[str, dict[str, float]]:
    """Each embedded task's baselines in its primary metric, in [0,1], measured anew."""
    return {task.name: of_task(task) for task in catalog.base_tasks() if task.suite == "uz_core"}


def of_task(task: TaskInfo) -> dict[str, float]:
    """One embedded task's baselines, by name."""
    items = read_items(catalog.items_folder(task) / "items.jsonl")
    return of_documents(task, [transliterate(_utils(task).document(item), "latin") for item in items])


def of_documents(task: TaskInfo, documents: Sequence[Document]) -> dict[str, float]:
    """The baselines of a task on some of its documents, by name; empty where there are no documents."""
    if not documents:
        return {}
    if "choices" in documents[0]:
        found = of_choices(documents)
    else:
        found = _of_texts(documents, _utils(task).process_results, task.primary)
    return {name: round(value, 4) for name, value in found.items()}


def _utils(task: TaskInfo) -> Any:
    return import_module(f"tasks_uz.{task.path.parent.name}.utils")


def of_choices(documents: Sequence[Document]) -> dict[str, float]:
    """Baselines of documents with `choices` and `answer`, in accuracy."""
    n = len(documents)
    answers = Counter(doc["answer"] for doc in documents)

    def share(say: Callable[[Document], int]) -> float:
        return sum(say(doc) == doc["answer"] for doc in documents) / n

    found = {"chance": sum(1 / len(doc["choices"]) for doc in documents) / n}
    same_choices = len({tuple(doc["choices"]) for doc in documents}) == 1
    # The place of a choice is something to go by only where it is shown.
    lettered = documents[0].get("form", "letters") == "letters"
    if same_choices or lettered:
        found["majority"] = max(answers.values()) / n
    if not same_choices and lettered:
        for number, letter in enumerate(OPTION_LETTERS[: len(documents[0]["choices"])]):
            found[f"always {letter}"] = answers[number] / n
    if not same_choices:
        found["longest choice"] = share(longest_choice)
    found["word overlap"] = share(overlapping_choice)
    return found


def longest_choice(doc: Document) -> int:
    """The number of the longest choice, the first of equals."""
    lengths = [len(choice) for choice in doc["choices"]]
    return lengths.index(max(lengths))


def overlapping_choice(doc: Document) -> int:
    """The number of the choice whose words stand most in passage and question, as a share of its words."""
    text = " ".join(str(doc.get(key, "")) for key in ("passage", "question", "text"))
    there = set(words(text))

    def shared(choice: str) -> float:
        found = words(choice)
        return sum(word in there for word in found) / len(found) if found else 0.0

    shares = [shared(choice) for choice in doc["choices"]]
    return shares.index(max(shares))


def _of_texts(
    documents: Sequence[Document], score: Callable[..., Mapping[str, float]], primary: str
) -> dict[str, float]:
    """Baselines of documents that want a written answer, in the primary metric."""

    def mean(say: Callable[[Document], str]) -> float:
        return sum(score(doc, [say(doc)]).get(primary, 0.0) for doc in documents) / len(documents)

    if "answers" in documents[0]:
        ((answer, _),) = Counter(doc["answers"][0] for doc in documents).most_common(1)
        return {f"always “{answer}”": mean(lambda doc: answer)}
    if "article" in documents[0]:
        return {
            "first sentence": mean(lambda doc: _sentences(doc["article"])[0]),
            "first two sentences": mean(lambda doc: " ".join(_sentences(doc["article"])[:2])),
        }
    return {"the text itself": mean(lambda doc: doc["text"])}


def _sentences(text: str) -> list[str]:
    """Sentences, cut behind . ! ? and a space; good enough for a baseline."""
    found, start = [], 0
    for at, character in enumerate(text):
        if character in ".!?" and text[at + 1 : at + 2] in ("", " ", "\n"):
            found.append(text[start : at + 1].strip())
            start = at + 1
    return [*found, *([text[start:].strip()] if text[start:].strip() else [])] or [text]
