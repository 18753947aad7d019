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

METHODS = ("sft", "dpo")
DTYPES = ("auto", "float32", "bfloat16")
TRACKERS = ("tensorboard", "wandb", "trackio")
SCHEDULES = ("linear", "cosine", "constant")
ALL_LINEAR = "all-linear"

_NOT_OF_DPO = {"lora_dropout": 0.0, "micro_batch_tokens": 0, "eval_steps": 0, "trackers": ()}
"""Keys that have no effect on dpo, as they are when nobody chose. (Dropout would move it from where it starts.)"""

_LISTS = ("lora_targets", "allow_overlap", "eval_tasks", "trackers")
"""Keys that take a list; one name may stand alone."""


@dataclass(frozen=True, slots=True)
class Recipe(Record):
    """One training run.

    What it is made of
    model: directory, packaged model's name or hub id of the base. revision: hub commit or branch.
    adapter: of that base, to go on from; none starts a new one.
    data: JSONL of instruction, input and output (sft), or of prompt, chosen and rejected (dpo).
    out: directory that the adapter takes, whole or not at all.
    method: sft learns the answers given, dpo to prefer one answer to another (Rafailov 2023).
    prompt_format: how a row is written out, and how the adapter is asked later.
    allow_overlap: tasks whose items may stand in the data; rows that hold any other task's are refused.

    The base
    quantization: of the frozen base: none, int8, nf4 or fp8; fewer bits take less memory and lose some precision.
    dtype: of arithmetic; auto is float32 on a CPU and bfloat16 on a GPU.

    How much, how fast
    max_length: tokens a row may have, prompt, answer and end token; a longer row is dropped, never cut.
    epochs: passes over the data, fractions allowed; more learn it better and generalise worse.
    max_steps: optimizer steps to stop at instead, 0 for by epochs.
    batch_size, gradient_accumulation: an optimizer step takes their product of rows, however they are computed.
    learning_rate: the schedule's highest. warmup_ratio: share of steps in [0,1) on which it rises to that.
    schedule: how it falls from there to 0 (linear, cosine), or that it stays (constant).
    weight_decay: pull of the LoRA weights to 0 at each step.
    max_grad_norm: a longer gradient is scaled down to it, 0 for never.
    beta: of dpo; more keeps closer to the model that it starts from.

    The adapter
    lora_rank: inner width of the adapter; more learns more and weighs more.
    lora_alpha: the adapter counts alpha / rank times; more learns faster and less steadily.
    lora_dropout: share of the adapter's inputs in [0,1) that is set to 0 at random.
    lora_targets: names of the linear layers that get an adapter, or all-linear: all but the output head.

    The machine
    micro_batch_tokens: tokens computed at once, 0 for found by measuring; more take more memory.
    recompute_layers: layers whose activations are computed twice instead of kept, -1 for as memory demands.
    memory_gib: of the GPU, at most so much of it is taken; 0 for all that is free.
    seed: of the LoRA weights, the order of rows and dropout.
    save_steps: optimizer steps between checkpoints; a kill loses at most so many.
    keep_checkpoints: how many are kept, the newest.
    usd_per_hour: price of the machine, for the cost in manifest and card; 0 for unknown.

    On the way
    eval_steps: optimizer steps between evaluations on tasks, 0 for never.
    eval_tasks: tasks and groups, as uzbench run takes them. eval_limit: documents of each, 0 for all.
    early_stop: evaluations in a row without a better score before it stops, 0 for never; the best adapter is left.
    trackers: where losses and scores go beside the terminal: tensorboard, wandb, trackio, where installed.
    """

    model: str
    data: str
    out: str
    revision: str | None = None
    adapter: str | None = None
    method: str = "sft"
    prompt_format: str = "alpaca"
    allow_overlap: tuple[str, ...] = ()
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
    beta: float = 0.1
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = (ALL_LINEAR,)
    micro_batch_tokens: int = 0
    recompute_layers: int = -1
    memory_gib: float = 0.0
    seed: int = 1234
    save_steps: int = 100
    keep_checkpoints: int = 2
    usd_per_hour: float = 0.0
    eval_steps: int = 0
    eval_tasks: tuple[str, ...] = ("uz_core",)
    eval_limit: int = 0
    early_stop: int = 0
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "learning_rate",
            "warmup_ratio",
            "weight_decay",
            "max_grad_norm",
            "lora_alpha",
            "lora_dropout",
            "beta",
            "usd_per_hour",
            "memory_gib",
        ):
            # 3 and 3.0 are one recipe: a resumed run is known by its digest.
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("model", "data", "out"):
            if not getattr(self, name).strip():
                raise UsageError(f"{name} is empty. Try: {name}=PATH")
        _one_of("prompt_format", self.prompt_format, PROMPT_FORMATS)
        _one_of("method", self.method, METHODS)
        _one_of("quantization", self.quantization, QUANTIZATIONS)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("schedule", self.schedule, SCHEDULES)
        for name in ("batch_size", "gradient_accumulation", "lora_rank", "save_steps", "keep_checkpoints"):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        self._check("max_length", self.max_length >= 8, "8 tokens or more")
        for name in ("max_steps", "seed", "micro_batch_tokens", "eval_steps", "eval_limit", "early_stop"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        self._check("recompute_layers", self.recompute_layers >= -1, "-1 (as memory demands), 0 or more")
        for name in ("epochs", "learning_rate", "lora_alpha", "beta"):
            self._check(name, 0 < getattr(self, name) < math.inf, "a number above 0")
        for name in ("weight_decay", "max_grad_norm", "usd_per_hour", "memory_gib"):
            self._check(name, 0 <= getattr(self, name) < math.inf, "a number of 0 or more")
        for name in ("warmup_ratio", "lora_dropout"):
            self._check(name, 0 <= getattr(self, name) < 1, "a fraction of at least 0 and below 1")
        targets = self.lora_targets
        named = isinstance(targets, tuple) and len(targets) > 0 and ALL_LINEAR not in targets
        self._check("lora_targets", named or targets == (ALL_LINEAR,), f"({ALL_LINEAR!r},) or layers' names")
        for tracker in self.trackers:
            _one_of("trackers", tracker, TRACKERS)
        if self.early_stop and not self.eval_steps:
            raise UsageError("early_stop needs evaluations to look at. Try: eval_steps=100")
        if self.method == "dpo":
            for name, unchosen in _NOT_OF_DPO.items():
                if getattr(self, name) != unchosen:
                    raise UsageError(f"{name} has no effect with method dpo. Leave it out.")
            if self.quantization == "fp8":
                raise UsageError("quantization: fp8 isn't written for method dpo. Try: quantization=nf4")

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimizer step."""
        return self.batch_size * self.gradient_accumulation

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
    for name in _LISTS:
        if isinstance(values.get(name), str):
            values[name] = [values[name]]
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
