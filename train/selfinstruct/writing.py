"""What a model is asked to write: the settings, the seeds, and a prompt of six of them and two rows that it wrote."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from harness.config import build, read_yaml
from harness.errors import DataError, UsageError
from harness.files import read_jsonl
from harness.openai_client import Request
from harness.prices import ENGLISH, likely_tokens
from harness.records import digest
from tasks_uz.text import convert
from train.selfinstruct.filters import Candidate
from train.selfinstruct.plan import AXES, Cell

FOLDER = Path(__file__).parent
SEEDS, SETTINGS = FOLDER / "seeds.jsonl", FOLDER / "settings.yaml"

TEXTS = ("instruction", "input", "output")
"""What a row is made of."""

SCHEMA = {
    "type": "object",
    "properties": {
        "tasks": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {key: {"type": "string"} for key in TEXTS},
                "required": list(TEXTS),
                "additionalProperties": False,
            },
        }
    },
    "required": ["tasks"],
    "additionalProperties": False,
}

LIKELY_WORDS = {"short": 12, "medium": 45, "long": 120}
"""Words of an answer, for the estimate; instruction and input have about as many again."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for and how, as settings.yaml has it."""

    temperature: float
    max_tokens: int
    rows_per_call: int
    seeds_per_prompt: int
    generated_per_prompt: int
    types: dict[str, float]
    topics: tuple[str, ...]
    registers: dict[str, float]
    alphabets: dict[str, float]
    lengths: dict[str, float]
    instruction_rouge: float
    output_rouge: float
    longest_words: int
    system: str
    user: str
    wordings: dict[str, dict[str, str]]
    quality: str
    quality_at_least: int

    @property
    def digest(self) -> str:
        """The prompt version: SHA-256 of all settings."""
        return digest({field.name: getattr(self, field.name) for field in fields(self)})

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """The weights of each axis."""
        topics = dict.fromkeys(self.topics, 1.0)
        found = (self.types, topics, self.registers, self.alphabets, self.lengths)
        return dict(zip(AXES, found, strict=True))


def read_settings(path: Path | None = None) -> Wanted:
    """The settings that ship, or a file of their form.

    Raises DataError, UsageError, UnknownNameError.
    """
    source = path or SETTINGS
    settings = build(Wanted, read_yaml(source), source=source)
    for key in ("types", "registers", "alphabets", "lengths"):
        weights = getattr(settings, key).values()
        if not weights or min(weights) <= 0:
            raise DataError(source, f"{key}: expected names and their weights, above 0")
    try:
        settings.user.format(examples="", n=1, **dict.fromkeys(AXES, ""))
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(source, f"user: {error} is no gap that can be filled; a brace is written twice") from None
    if settings.rows_per_call < 1 or not 0 < settings.instruction_rouge < 1 or not 0 < settings.output_rouge < 1:
        raise UsageError(f"{source}: expected rows_per_call of 1 or more and ROUGE thresholds between 0 and 1.")
    return settings


@dataclass(frozen=True, slots=True)
class Seed:
    """A task written by people of this project."""

    id: str
    type: str
    topic: str
    register: str
    instruction: str
    input: str
    output: str


def read_seeds(path: Path = SEEDS) -> list[Seed]:
    """The seeds of a file.

    Raises DataError, RecordError, UsageError.
    """
    found = []
    for line, row in read_jsonl(path):
        values = {key: row.get(key) for key in Seed.__dataclass_fields__}
        if not all(isinstance(value, str) for value in values.values()):
            raise DataError(path, f"expected texts: {', '.join(values)}", line=line)
        found.append(Seed(**values))  # type: ignore[arg-type]
    if len(found) < 8:
        raise DataError(path, f"{len(found)} seeds, expected 8 or more")
    return found


def texts_of(row: Seed | Candidate) -> dict[str, str]:
    """The three texts of a row, whoever wrote it."""
    return {key: getattr(row, key) for key in TEXTS}


def compose(
    wanted: Wanted, cell: Cell, seeds: Sequence[Seed], written: Sequence[Mapping[str, str]], chance: random.Random
) -> list[tuple[str, str]]:
    """The messages of one request: seeds, of the type that is asked for among them, and rows that the model wrote."""
    values = dict(zip(AXES, cell, strict=True))
    alike = [seed for seed in seeds if seed.type == values["type"]]
    others = [seed for seed in seeds if seed.type != values["type"]]
    n_alike = min(len(alike), (wanted.seeds_per_prompt + 1) // 2)
    drawn = chance.sample(alike, n_alike)
    drawn += chance.sample(others, min(len(others), wanted.seeds_per_prompt - n_alike))
    shown = [*map(texts_of, drawn), *chance.sample(written, min(len(written), wanted.generated_per_prompt))]
    chance.shuffle(shown)
    examples = "\n".join(json.dumps(_in_alphabet(each, values["alphabet"]), ensure_ascii=False) for each in shown)
    said = {axis: wanted.wordings.get(axis, {}).get(value, value.replace("_", " ")) for axis, value in values.items()}
    return [("system", wanted.system), ("user", wanted.user.format(examples=examples, n=wanted.rows_per_call, **said))]


def _in_alphabet(row: Mapping[str, str], alphabet: str) -> dict[str, str]:
    return {key: convert(row[key], alphabet) if alphabet != "latin" else row[key] for key in TEXTS}


def as_request(wanted: Wanted, number: int, cell: Cell, messages: Sequence[tuple[str, str]], salt: str) -> Request:
    """A composed prompt as it is sent. salt: of the run, so that two runs never share an answer."""
    length = cell[AXES.index("length")]
    n_words = 2 * LIKELY_WORDS.get(length, 45) + 15
    texts = dict(messages)
    # Of Uzbek words, with the blank behind them, one has about eight letters.
    likely_output = wanted.rows_per_call * (likely_tokens("o" * 8 * n_words) + 15)
    return Request(
        messages=tuple(messages),
        max_tokens=wanted.max_tokens,
        temperature=wanted.temperature,
        schema=SCHEMA,
        likely_input=len(texts["system"]) / ENGLISH + likely_tokens(texts["user"]) + 60,
        likely_output=likely_output,
        salt=f"{salt}:{number}",
        tag=number,
    )


def candidates(rows: Sequence[Mapping[str, Any]], number: int, cell: Cell) -> list[Candidate | None]:
    """The rows of an answer; None for one that has other keys or no texts."""
    values = dict(zip(AXES, cell, strict=True))
    found: list[Candidate | None] = []
    for place, row in enumerate(rows):
        texts = [row.get(key) for key in TEXTS]
        if set(row) != set(TEXTS) or not all(isinstance(text, str) for text in texts):
            found.append(None)
        else:
            instruction, given, output = (str(text).strip() for text in texts)
            found.append(Candidate(number, place, instruction, given, output, **values))
    return found
