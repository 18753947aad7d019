"""A gate's policy: what counts as a regression, in one YAML file. Every key has a default.

    margin: 0.03
    min_effect: 0.01
    allow_limited: true
    tasks:
      uz_reading: {margin: 0.05}
      uz_hub: {ignore: true}
    artefacts:
      wrong_alphabet: 0.02
      cut_off: {limit: 0.25, absolute: true}
      copied: null
    golden:
      - uz_qa/qa-002
      - {task: uz_lang, items: [lang-001, lang-014]}

Fractions are in [0,1]; a key that doesn't exist is refused with the nearest name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from harness.config import build, read_yaml
from harness.errors import UnknownNameError, UsageError
from harness.records import Record


def _check(name: str, value: float, good: bool, expected: str) -> None:
    if not good:
        raise UsageError(f"{name}: {value!r}, expected {expected}.")


@dataclass(frozen=True, slots=True)
class TaskRule(Record):
    """What is different for one task, or for each task of a suite; None is what holds otherwise.

    margin: fraction; the task by itself has to be shown to fall by less, or the gate can't pass. Smaller is stricter.
    min_effect: fraction; the smallest fall of the task that is a regression. Smaller is stricter.
    ignore: the task counts in no test, no average and no artefact; its golden items do.
    """

    margin: float | None = None
    min_effect: float | None = None
    ignore: bool | None = None

    def __post_init__(self) -> None:
        if self.margin is not None:
            _check("margin", self.margin, 0 < self.margin < 1, "a fraction above 0 and below 1")
        if self.min_effect is not None:
            _check("min_effect", self.min_effect, 0 <= self.min_effect < 1, "a fraction of at least 0 and below 1")


@dataclass(frozen=True, slots=True)
class Limit(Record):
    """How much of an artefact is borne. Smaller is stricter.

    limit: fraction; the largest rise over the base that is borne. absolute: the limit is of the candidate's own value.
    """

    limit: float
    absolute: bool = False

    def __post_init__(self) -> None:
        _check("limit", self.limit, 0 <= self.limit <= 1, "a fraction between 0 and 1")


@dataclass(frozen=True, slots=True)
class Golden(Record):
    """An item that must never fail."""

    task: str
    item: str

    def __str__(self) -> str:
        return f"{self.task}/{self.item}"


DEFAULT_LIMITS: dict[str, Limit | None] = {
    "unscored": Limit(0.02),
    "letter_bias": Limit(0.10),
    "wrong_language": Limit(0.05),
    "wrong_alphabet": Limit(0.05),
    "empty": Limit(0.02),
    "repetition": Limit(0.10),
    "cut_off": Limit(0.10),
    "copied": Limit(0.20),
}
"""Artefacts, each in [0,1] and the fewer the better, over the documents of one orthography.

unscored: share of documents without a score, an answer that can't be read among them. letter_bias: standard deviation
over the letters A, B, C, … of how often the right letter is found. wrong_language, wrong_alphabet, empty, cut_off:
share of written answers that aren't in Uzbek, not in the alphabet of the question, without a word, without an end.
repetition, copied: mean share of an answer that stood in it before, that is the longest piece of its source.
"""


@dataclass(frozen=True, slots=True)
class Policy(Record):
    """What a gate holds a candidate against.

    margin: fraction; to pass, the macro average has to be shown to fall by less. Smaller is stricter.
    min_effect: fraction; a fall that is smaller is no regression, however sure it is. Smaller is stricter.
    alpha: fraction; a fall is shown where its p, adjusted by Holm, is below; bounds are one-sided at 1 - alpha.
    Larger finds more and is wrong more often.
    tasks: rules by task or suite; a task's own come before those of its suite.
    allow_prompt_format: takes runs that were asked in different prompt formats.
    allow_limited: takes runs of a part of the documents (--limit, uz_demo).
    max_unscored: fraction of a task's documents that may lack a score in one of the runs; with more, no pass.
    artefacts: limits by name, see DEFAULT_LIMITS; what is None or isn't named is not looked at.
    golden: items that must never fail.
    """

    margin: float = 0.03
    min_effect: float = 0.01
    alpha: float = 0.05
    tasks: dict[str, TaskRule] = field(default_factory=dict)
    allow_prompt_format: bool = False
    allow_limited: bool = False
    max_unscored: float = 0.05
    artefacts: dict[str, Limit | None] = field(default_factory=DEFAULT_LIMITS.copy)
    golden: tuple[Golden, ...] = ()

    def __post_init__(self) -> None:
        _check("margin", self.margin, 0 < self.margin < 1, "a fraction above 0 and below 1, such as 0.03")
        _check("min_effect", self.min_effect, 0 <= self.min_effect < 1, "a fraction of at least 0 and below 1")
        _check("alpha", self.alpha, 0 < self.alpha < 0.5, "a fraction above 0 and below 0.5, such as 0.05")
        _check("max_unscored", self.max_unscored, 0 <= self.max_unscored <= 1, "a fraction between 0 and 1")
        for name in self.artefacts:
            _known_artefact("", name)

    def rule(self, task: str, suite: str = "") -> TaskRule:
        """What holds for a task: its own rule, then its suite's, then the policy's.

        Its margin stays None where only the average is held to one.
        """
        own, of_suite = self.tasks.get(task, TaskRule()), self.tasks.get(suite, TaskRule())
        return TaskRule(
            margin=_first(own.margin, of_suite.margin),
            min_effect=_first(own.min_effect, of_suite.min_effect, self.min_effect),
            ignore=_first(own.ignore, of_suite.ignore, False),
        )


def read_policy(path: Path | str) -> Policy:
    """A policy file; what it leaves out, single artefacts too, takes the defaults.

    Raises DataError, UnknownNameError, UsageError, each naming the file.
    """
    document = read_yaml(Path(path))
    readers: dict[str, Callable[[Any, str], Any]] = {"tasks": _tasks, "artefacts": _artefacts, "golden": _golden}
    policy = _built(Policy, {key: each for key, each in document.items() if key not in readers}, str(path))
    nested = {key: read(document[key], f"{path}: {key}") for key, read in readers.items() if key in document}
    return dataclasses.replace(policy, **nested)


def _tasks(value: Any, where: str) -> dict[str, TaskRule]:
    return {name: _built(TaskRule, rule, f"{where}.{name}") for name, rule in _mapping(value, where).items()}


def _artefacts(value: Any, where: str) -> dict[str, Limit | None]:
    found = DEFAULT_LIMITS.copy()
    for name, limit in _mapping(value, where).items():
        _known_artefact(f"{where}:", name)
        values = limit if isinstance(limit, Mapping) else {"limit": limit}
        found[name] = None if limit is None else _built(Limit, values, f"{where}.{name}")
    return found


def _golden(value: Any, where: str) -> tuple[Golden, ...]:
    if not isinstance(value, list):
        raise UsageError(f"{where}: expected a list of task/item, saw {value!r}.")
    found = []
    for each in value:
        if isinstance(each, str):
            task, _, item = each.partition("/")
            if not (task and item):
                raise UsageError(f"{where}: {each!r}, expected task/item, such as uz_qa/qa-002.")
            found.append(Golden(task, item))
        else:
            listed = _built(_GoldenItems, each, where)
            found += [Golden(listed.task, item) for item in listed.items]
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class _GoldenItems:
    task: str
    items: tuple[str, ...]


T = TypeVar("T")


def _built(cls: type[T], values: Any, where: str) -> T:
    try:
        return build(cls, _mapping(values, where), source=where)
    except UsageError as error:
        # What a record says of its values doesn't name the file.
        raise UsageError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise UsageError(f"{where}: expected keys and values, saw {value!r}.")
    return value


def _known_artefact(kind: str, name: str) -> None:
    if name not in DEFAULT_LIMITS:
        raise UnknownNameError(
            f"{kind} artefact".strip(), name, DEFAULT_LIMITS, f"All: {', '.join(sorted(DEFAULT_LIMITS))}."
        )


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
