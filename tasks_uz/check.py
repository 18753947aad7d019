"""What would bend a score: python -m tasks_uz.check [TRAINING.jsonl ...]

Prints of every embedded task its likest pair of items, the balance of its keys, its baselines, and how many runs of
eight words its items share with worked examples and with the training rows named.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from tasks_uz import baselines, catalog
from tasks_uz.data import ROOT, read_items
from tasks_uz.text import words

ALIKE = 0.6
"""Share of common words above which two questions count as the same one asked twice."""

SHARED_RUN = 8
"""Words in a row that two texts written apart don't share; the longest idioms and label lists are shorter."""

Row = Mapping[str, Any]
Run = tuple[str, ...]


def texts(row: Row) -> list[str]:
    """All that a person reads of a row: not its names."""
    return [text for key, value in row.items() if key not in ("id", "group", "slice") for text in strings(value)]


def strings(value: Any) -> Iterator[str]:
    """Every string of a value, those in lists too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


def runs(text: str, n: int = SHARED_RUN) -> set[Run]:
    """Every run of n folded words."""
    found = words(text)
    return {tuple(found[start : start + n]) for start in range(len(found) - n + 1)}


_QUESTIONS = (("question", "choices"), ("article",), ("instruction", "input"), ("text",))
"""Where a row has its question, by the kind of row: the first key says which kind."""


def own_words(row: Row) -> frozenset[str]:
    """The folded words of the question itself and its choices, without the passage it is asked on."""
    keys = next(keys for keys in _QUESTIONS if keys[0] in row)
    return frozenset(words(" ".join(text for key in keys for text in strings(row.get(key, "")))))


def jaccard(one: frozenset[str], two: frozenset[str]) -> float:
    """Common words as a share of all words of two questions."""
    return len(one & two) / len(one | two)


def likest(rows: Sequence[Row]) -> tuple[float, str, str]:
    """The two items that are most alike: (share of common words, id, id)."""
    asked = [(str(row["id"]), own_words(row)) for row in rows]
    return max((jaccard(one, two), a, b) for (a, one), (b, two) in combinations(asked, 2))


def key_of(row: Row) -> str | int:
    """The class that a task is balanced by: the label, the place of the right choice, or the kind of the item."""
    if "label" in row:
        return str(row["label"])
    return row["answer"] if isinstance(row.get("answer"), int) else str(row["slice"])


def shared_runs(rows: Iterable[Row], others: Iterable[Row]) -> list[tuple[str, str, str]]:
    """Runs of words that stand in both: (id, other's id or number, the words)."""
    known = {run: str(row["id"]) for row in rows for text in texts(row) for run in runs(text)}
    return [
        (known[run], str(other.get("id", f"row {number}")), " ".join(run))
        for number, other in enumerate(others, 1)
        for text in texts(other)
        for run in sorted(runs(text))
        if run in known
    ]


def main(arguments: Sequence[str]) -> int:
    """Prints the findings; returns 1 where a pair is too alike or a run is shared."""
    parser = argparse.ArgumentParser(prog="python -m tasks_uz.check", description=__doc__.splitlines()[0])
    parser.add_argument("training", nargs="*", type=Path, help="JSONL of instruction, input, output rows")
    training: list[Path] = parser.parse_args(arguments).training
    for path in training:
        if not path.is_file():
            parser.error(f"{path}: no such file; expected JSONL, such as train/data/demo_uz.jsonl")
    rows_of_training = [row for path in training for row in read_items(path)]
    failed = False
    for folder in sorted(path.parent for path in ROOT.glob("*/items.jsonl")):
        rows, shots = read_items(folder / "items.jsonl"), read_items(folder / "shots.jsonl")
        share, one, two = likest(rows)
        shared = {"worked examples": shared_runs(rows, shots), "training rows": shared_runs(rows, rows_of_training)}
        failed |= share > ALIKE or any(shared.values())
        print(f"{folder.name}: {len(rows)} items, {len(shots)} worked examples, {len(rows_of_training)} training rows")
        print(f"  likest pair: {share:.2f} ({one}, {two}); above {ALIKE} is refused")
        keys = Counter(key_of(row) for row in rows)
        print("  keys: " + ", ".join(f"{key} {n} ({n / len(rows):.3f})" for key, n in sorted(keys.items(), key=str)))
        for what, found in shared.items():
            print(f"  runs of {SHARED_RUN} words shared with {what}: {len(found)}")
            for item, other, run in found:
                print(f"    {item}, {other}: {run}")
    for name, measured in baselines.measured().items():
        chance = catalog.tasks()[name].chance
        print(f"{name}, chance {chance}: " + ", ".join(f"{each} {value:.4f}" for each, value in measured.items()))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
