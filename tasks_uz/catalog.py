"""What can be asked: every task of this folder, read from its YAML alone (lm-eval is not imported).

A task's own YAML says what it is (suite, type, primary metric, chance); a variant's YAML only includes it and
names its orthography or prompt:

    include: uz_topic.yaml
    task: uz_topic_cyrl
    metadata: {version: 1.0, orthography: cyrillic}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from tasks_uz.data import ROOT

DEMO = "uz_demo"
"""The name of the fixed subset of uz_core that the demo and quick checks ask."""


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One task as lm-eval knows it.

    name: lm-eval's name; base: the name without orthography and prompt, which records carry.
    n: test items, shots not counted. chance: the score of guessing, in [0,1].
    """

    name: str
    base: str
    orthography: str
    prompt: str
    suite: str
    type: str
    primary: str
    chance: float
    n: int
    source: str
    licence: str
    version: float
    path: Path


class _Loader(yaml.SafeLoader):
    """YAML with `!function`, which is kept as its name."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore[arg-type]


def read_yaml(path: Path) -> dict[str, Any]:
    """A task's YAML with what it includes; metadata are merged, as lm-eval doesn't do."""
    config: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    if "include" not in config:
        return config
    base = read_yaml(path.parent / config.pop("include"))
    metadata = {**base.get("metadata", {}), **config.get("metadata", {})}
    return {**base, **config, "metadata": metadata, "base": base.get("base", base["task"])}


@lru_cache(maxsize=1)
def tasks() -> dict[str, TaskInfo]:
    """Every task by lm-eval's name, variants included, sorted by name."""
    found = {}
    for path in sorted(ROOT.glob("*/*.yaml")):
        config = read_yaml(path)
        metadata = config["metadata"]
        items = path.parent / "items.jsonl"
        found[config["task"]] = TaskInfo(
            name=config["task"],
            base=config.get("base", config["task"]),
            orthography=metadata["orthography"],
            prompt=metadata.get("prompt", "p1"),
            suite=metadata["suite"],
            type=metadata["type"],
            primary=metadata["primary"],
            chance=metadata["chance"],
            n=metadata["n"] if "n" in metadata else _count_lines(items),
            source=metadata["source"],
            licence=metadata["licence"],
            version=metadata["version"],
            path=path,
        )
    return found


@lru_cache(maxsize=1)
def groups() -> dict[str, tuple[str, ...]]:
    """Every group by name, with the names of its tasks, groups inside groups opened."""
    direct = {}
    for path in sorted(ROOT.glob("*.yaml")):
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        direct[config["group"]] = config["task"]

    def opened(name: str) -> Iterator[str]:
        for member in direct[name]:
            if member in direct:
                yield from opened(member)
            else:
                yield member

    return {name: tuple(opened(name)) for name in direct}


def base_tasks() -> list[TaskInfo]:
    """One row a base task: the one whose name is its base."""
    return [task for task in tasks().values() if task.name == task.base]


def demo_items() -> dict[str, list[str]]:
    """The item ids of `uz_demo`, by base task; they stay as they are while the suite grows."""
    document: dict[str, list[str]] = json.loads((ROOT / f"{DEMO}.json").read_text(encoding="utf-8"))
    return document


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())
