"""What can be asked: every task of this folder, read from its YAML alone (lm-eval is not imported).

A task's own YAML says what it is (suite, type, primary metric, chance); a variant's YAML only includes it and
names its orthography, form and prompt (tasks_uz.make writes them):

    include: uz_topic.yaml
    task: uz_topic_cyrl_cloze_p2
    metadata: {version: 2.0, orthography: cyrillic, form: cloze, prompt: p2}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from tasks_uz.data import ROOT, Source

DEMO = "uz_demo"
"""The name of the fixed subset of uz_core that the demo and quick checks ask."""


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One task as lm-eval knows it.

    name: lm-eval's name; base: the name without orthography, form and prompt, which records carry.
    prompt: "p1" where it is asked as its base is, else the form and prompt that differ ("p2", "cloze", "cloze_p2").
    n: test items, shots not counted, None where the hub alone knows. chance: the score of guessing, in [0,1].
    """

    name: str
    base: str
    orthography: str
    prompt: str
    suite: str
    type: str
    primary: str
    chance: float
    n: int | None
    source: str
    licence: str
    version: float
    path: Path


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML with `!function`, which is kept as its name."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


@lru_cache(maxsize=64)
def _read(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """A task's YAML with what it includes; metadata are merged, as lm-eval doesn't do."""
    config = _read(path)
    if "include" not in config:
        return config
    base = read_yaml(path.parent / config["include"])
    own = {key: value for key, value in config.items() if key != "include"}
    metadata = {**base.get("metadata", {}), **own.get("metadata", {})}
    return {**base, **own, "metadata": metadata, "base": base.get("base", base["task"]), "base_form": _form(base)}


def _form(config: dict[str, Any]) -> str:
    return str(config.get("base_form") or config["metadata"].get("form", ""))


@lru_cache(maxsize=1)
def tasks() -> dict[str, TaskInfo]:
    """Every task by lm-eval's name, variants included, sorted by name."""
    found = {}
    for path in sorted(ROOT.glob("*/*.yaml")):
        config = read_yaml(path)
        metadata = config["metadata"]
        form, prompt = metadata.get("form", ""), metadata.get("prompt", "p1")
        parts = [form] * (form != _form(config)) + [prompt] * (prompt != "p1")
        folder = _items_folder(path, metadata)
        found[config["task"]] = TaskInfo(
            name=config["task"],
            base=config.get("base", config["task"]),
            orthography=metadata["orthography"],
            prompt="_".join(parts) or "p1",
            suite=metadata["suite"],
            type=metadata["type"],
            primary=metadata["primary"],
            chance=metadata["chance"],
            n=metadata["n"] if "n" in metadata else _count_lines(folder / "items.jsonl"),
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


def sources(task: TaskInfo) -> tuple[Source, ...]:
    """The hub data that a task reads; none where it ships with the package."""
    found: tuple[Source, ...] = getattr(import_module(f"tasks_uz.{task.path.parent.name}.utils"), "SOURCES", ())
    return found


def items_folder(task: TaskInfo) -> Path:
    """Where an embedded task's items are: its own folder, or that of the task it shares them with."""
    return _items_folder(task.path, read_yaml(task.path)["metadata"])


def _items_folder(path: Path, metadata: dict[str, Any]) -> Path:
    return ROOT / metadata["items"] if "items" in metadata else path.parent


def demo_items() -> dict[str, list[str]]:
    """The item ids of `uz_demo`, by base task; they stay as they are while the suite grows."""
    document: dict[str, list[str]] = json.loads((ROOT / f"{DEMO}.json").read_text(encoding="utf-8"))
    return document


@lru_cache(maxsize=64)
def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())
