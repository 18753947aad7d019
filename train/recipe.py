"""A recipe: everything a person chooses about one training run, in one YAML file.

    model: mistralai/Mistral-7B-v0.1
    data: uzbek_23k.jsonl
    out: mistral-uzbek-lora
    quantization: int8
    batch_size: 4
    gradient_accumulation: 8
    epochs: 3
    learning_rate: 2e-4

Keys that are left out take the defaults below; a key that doesn't exist is refused with the nearest name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import build, read_yaml
from harness.errors import UnknownNameError, UsageError
from harness.records import QUANTIZATIONS, Record

PROMPT_FORMATS = ("alpaca", "plain")
"""Formats that can be trained: `chat` would need the roles that a tokenizer's own template puts around it."""

DTYPES = ("auto", "float32", "bfloat16")
SCHEDULES = ("linear", "cosine", "constant")
ALL_LINEAR = "all-linear"


@dataclass(frozen=True, slots=True)
class Recipe(Record):
    """One training run.

    model: directory, packaged model's name or hub id of the base. revision: hub commit or branch.
    data: JSONL file of instruction, input and output.
    out: directory that the adapter takes, whole or not at all.
    prompt_format: how a row is written out, and how the adapter is asked later.
    quantization: of the frozen base; fewer bits take less memory and lose some precision.
    dtype: of arithmetic; auto is float32 on a CPU and bfloat16 on a GPU.
    max_length: tokens a row may have, prompt, answer and end token; a longer row is dropped, never cut.
    epochs: passes over the data, fractions allowed; more learn it better and generalise worse.
    max_steps: optimizer steps to stop at instead, 0 for by epochs.
    batch_size: rows computed at once; more take more memory.
    gradient_accumulation: batches summed into one optimizer step; its rows are the product of the two.
    learning_rate: the schedule's highest. warmup_ratio: share of steps in [0,1) on which it rises to that.
    schedule: how it falls from there to 0 (linear, cosine), or that it stays (constant).
    weight_decay: pull of the LoRA weights to 0 at each step.
    max_grad_norm: a longer gradient is scaled down to it, 0 for never.
    lora_rank: inner width of the adapter; more learns more and weighs more.
    lora_alpha: the adapter counts alpha / rank times; more learns faster and less steadily.
    lora_dropout: share of the adapter's inputs in [0,1) that is set to 0 at random.
    lora_targets: names of the linear layers that get an adapter, or all-linear: all but the output head.
    gradient_checkpointing: computes activations twice, to keep fewer in memory; about 30 % slower.
    packing: several rows in one sequence; refused for now.
    seed: of the LoRA weights, the order of rows and dropout.
    save_steps: optimizer steps between checkpoints; a kill loses at most so many.
    """

    model: str
    data: str
    out: str
    revision: str | None = None
    prompt_format: str = "alpaca"
    quantization: str = "none"
    dtype: str = "auto"
    max_length: int = 1024
    epochs: float = 3.0
    max_steps: int = 0
    batch_size: int = 4
    gradient_accumulation: int = 8
    learning_rate: float = 2e-4
    warmup_ratio: float = 0.03
    schedule: str = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = (ALL_LINEAR,)
    gradient_checkpointing: bool = False
    packing: bool = False
    seed: int = 1234
    save_steps: int = 100

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "learning_rate",
            "warmup_ratio",
            "weight_decay",
            "max_grad_norm",
            "lora_alpha",
        ):
            # 3 and 3.0 are one recipe: a resumed run is known by its digest.
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("model", "data", "out"):
            if not getattr(self, name).strip():
                raise UsageError(f"{name} is empty. Try: {name}=PATH")
        _one_of("prompt_format", self.prompt_format, PROMPT_FORMATS)
        _one_of("quantization", self.quantization, QUANTIZATIONS)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("schedule", self.schedule, SCHEDULES)
        for name in ("batch_size", "gradient_accumulation", "lora_rank", "save_steps"):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        self._check("max_length", self.max_length >= 8, "8 tokens or more")
        for name in ("max_steps", "seed"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in ("epochs", "learning_rate", "lora_alpha"):
            self._check(name, 0 < getattr(self, name) < math.inf, "a number above 0")
        for name in ("weight_decay", "max_grad_norm"):
            self._check(name, 0 <= getattr(self, name) < math.inf, "a number of 0 or more")
        for name in ("warmup_ratio", "lora_dropout"):
            self._check(name, 0 <= getattr(self, name) < 1, "a fraction of at least 0 and below 1")
        targets = self.lora_targets
        named = isinstance(targets, tuple) and len(targets) > 0 and ALL_LINEAR not in targets
        self._check("lora_targets", named or targets == (ALL_LINEAR,), f"({ALL_LINEAR!r},) or layers' names")
        if self.packing:
            # Under SDPA packed rows see each other once a mask is passed or a cache kept (|Δlogit| 19, where
            # 3e-5 is noise), and packing changes what a step is: 32 bins of 1024 tokens hold some 128 rows.
            raise UsageError("packing=true isn't possible yet; rows of like length share a batch. Try: packing=false")

    def _check(self, name: str, good: bool, expected: str) -> None:
        if not good:
            raise UsageError(f"{name}: {getattr(self, name)!r}, expected {expected}.")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UnknownNameError(name, value, known, f"One of: {', '.join(known)}.")


def read_recipe(path: Path | str, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe file, with "key=value" overrides whose values are read as YAML.

    A relative `data` is looked for beside the recipe file, then in the working directory.
    Raises DataError, UnknownNameError, UsageError.
    """
    path = Path(path)
    values = read_yaml(path)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UsageError(f"{override!r} isn't of the form key=value. Try: {override}=VALUE")
        values[key.strip()] = _yaml_value(key.strip(), text)
    if isinstance(values.get("lora_targets"), str):
        values["lora_targets"] = [values["lora_targets"]]
    if isinstance(values.get("data"), str):
        beside = path.parent / values["data"]
        if beside.is_file():
            values["data"] = str(beside.resolve())
    return build(Recipe, values, source=path)


def _yaml_value(key: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or "it can't be parsed"
        raise UsageError(f"{key}={text}: not a YAML value ({reason}). Try quotes: {key}='\"…\"'") from None
