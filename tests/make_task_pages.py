"""Writes the README of every task from the task itself: python tests/make_task_pages.py

What stands there can't drift: tests/test_task_pages.py holds it against this script's output.
"""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from typing import Any

from tasks_uz import catalog
from tasks_uz.catalog import TaskInfo
from tasks_uz.data import read_items, transliterate
from tasks_uz.text import ORTHOGRAPHIES


def page(task: TaskInfo) -> str:
    """The README of one base task."""
    utils = import_module(f"tasks_uz.{task.path.parent.name}.utils")
    variants = [other for other in catalog.tasks().values() if other.base == task.name]
    alphabets = [name for name in ORTHOGRAPHIES if any(other.orthography == name for other in variants)]
    what = (utils.__doc__ or "").split("\n\n")[0].split(": ", 1)[1]
    lines = [f"# {task.name}", "", what[:1].upper() + what[1:], ""]
    lines += [
        f"- Suite `{task.suite}`, {task.type}, {task.n} items; version {task.version}.",
        f"- Asked in: {', '.join(alphabets)} (`{'`, `'.join(other.name for other in variants)}`).",
        f"- Primary metric `{task.primary}`, chance {task.chance:.4g}.",
        f"- Source: {task.source}. Licence: {task.licence}.",
    ]
    items = task.path.parent / "items.jsonl"
    if items.is_file():
        lines += _embedded(utils, read_items(items), read_items(items.with_name("shots.jsonl")))
    else:
        lines += [
            f"- Data: https://huggingface.co/datasets/{task.source.split(' ')[0]}, or a mirror (`--mirror DIR`). Tried "
            "here from a mirror in the hub's own columns; reading from the hub itself could not be tried.",
        ]
    return "\n".join(lines) + "\n"


def _embedded(utils: Any, items: list[dict[str, Any]], shots: list[dict[str, Any]]) -> list[str]:
    documents = [utils.document(item) for item in items]
    lines = [f"- Worked examples (`--shots`): up to {len(shots)}, never among the items."]
    if "answer" in documents[0]:
        most = Counter(document["answer"] for document in documents).most_common(1)[0][1]
        lines.append(f"- Majority baseline: {most / len(documents):.4f} (always the most frequent answer).")
    if isinstance(items[0].get("answer"), int):
        longest = sum(
            max(range(4), key=lambda index, item=item: len(item["choices"][index])) == item["answer"] for item in items
        )
        lines.append(f"- Shortcut: always the longest choice scores {longest / len(items):.4f}.")
    slices = ", ".join(f"{name} {count}" for name, count in sorted(Counter(item["slice"] for item in items).items()))
    lines += [f"- Slices: {slices}.", "", "One question as it is asked:", ""]
    for orthography in ("latin", "cyrillic"):
        asked = utils.doc_to_text(transliterate(documents[0], orthography))
        lines += ["```text", asked, "```", ""]
    return lines[:-1]


def main() -> None:
    for task in catalog.base_tasks():
        (task.path.parent / "README.md").write_text(page(task), encoding="utf-8")


if __name__ == "__main__":
    main()
