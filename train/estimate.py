"""What a run will take, before a model is loaded: memory, tokens, steps, disk, and time where a rate is known.

Memory is reckoned by train.memory. Time is work over the rate that this device reached before: this machine's own
runs first, then train/rates.yaml. A device that neither knows has no time.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.config import cache_dir
from harness.errors import UzBenchError
from harness.files import read_json, write_json
from harness.provenance import hardware
from harness.records import Record
from train import memory
from train.packing import passes
from train.planning import free_bytes, written_out
from train.recipe import Recipe

if TYPE_CHECKING:
    from train.planning import Plan
    from train.qlora import Prepared

MANY_TOKENS = 20_000
"""Tokens of a run below which its rate says little of the next one's."""

RATES = Path(__file__).parent / "rates.yaml"


@dataclass(frozen=True, slots=True)
class Estimate(Record):
    """What a run will take.

    n_rows, n_dropped: rows trained on and left out. n_tokens: of all epochs together, without padding.
    pass_tokens: computed at once at most; recompute_layers and unpacked_layers: as train.loop.Plan has them.
    peak_gib, free_gib: of the GPU; None on a CPU, or for an architecture whose passes aren't written out.
    adapter_mib, disk_mib: of what is left, and of it with the checkpoints on the way. minutes, usd: None if unknown.
    """

    model: str
    device: str
    quantization: str
    n_rows: int
    n_dropped: int
    n_tokens: int
    steps: int
    rows_per_step: int
    pass_tokens: int
    recompute_layers: int
    unpacked_layers: int
    peak_gib: float | None
    free_gib: float | None
    adapter_mib: float | None
    disk_mib: float | None
    minutes: float | None
    usd: float | None

    @property
    def line(self) -> str:
        """The most of it in one line."""
        parts = [
            f"{self.n_rows:,} rows, {self.steps:,} steps of {self.rows_per_step}, {self.n_tokens:,} tokens",
            f"about {self.minutes:,.1f} min" if self.minutes is not None else "time unknown on this device",
        ]
        if self.peak_gib is not None:
            parts.append(f"peak {self.peak_gib:.1f} of {self.free_gib:.1f} GiB")
        if self.usd is not None:
            parts.append(f"about ${self.usd:.2f}")
        return "; ".join(parts) + "."


def estimate(recipe: Recipe, *, progress: bool = False) -> Estimate:
    """What a run of the recipe would take on this machine; no weight is loaded and nothing is written.

    Raises DataError, ModelError, NetworkError, UsageError.
    """
    from train.qlora import prepare

    prepared = prepare(recipe, progress=progress)
    return estimate_of(prepared, prepared.plan())


def estimate_of(prepared: Prepared, plan: Plan) -> Estimate:
    """What a run that goes by a plan will take."""
    recipe, schedule, data = prepared.recipe, prepared.schedule, prepared.data
    shape = memory.Shape.of(prepared.config, recipe)
    lengths = [len(row.ids) for row in data.rows]
    n_tokens = sum(lengths[row] for step in range(schedule.steps) for row in schedule.rows(step))
    peak, free = None, None
    if shape is not None and written_out(prepared.config, prepared.dtype):
        free = free_bytes(recipe)
        trained = [len(row.ids) - row.n_prompt for row in data.rows]
        peak = max(
            memory.peak_bytes(
                shape,
                sum(lengths[row] for row in part),
                sum(trained[row] for row in part),
                plan.recompute,
                plan.unpacked,
            )
            for part in _largest(prepared, lengths, plan.most_tokens)
        )
    rate = known_rate(recipe.quantization)
    minutes = None
    if rate is not None and shape is not None:
        minutes = n_tokens * prepared.work_per_token(shape) * memory.slowdown(shape, plan.recompute) / rate / 60
    adapter = 4 * shape.n_adapter / 2**20 if shape is not None else None
    return Estimate(
        model=recipe.model,
        device=device_name(),
        quantization=recipe.quantization,
        n_rows=len(data.rows),
        n_dropped=sum(data.dropped.values()),
        n_tokens=n_tokens,
        steps=schedule.steps,
        rows_per_step=recipe.rows_per_step,
        pass_tokens=plan.most_tokens,
        recompute_layers=plan.recompute,
        unpacked_layers=plan.unpacked,
        peak_gib=round(peak / 2**30, 2) if peak is not None else None,
        free_gib=round(free / 2**30, 2) if free is not None else None,
        adapter_mib=round(adapter, 1) if adapter is not None else None,
        # Weights and two moments a checkpoint; a new one is written before the oldest goes.
        disk_mib=round(adapter * (1 + 3 * (recipe.keep_checkpoints + 1)), 1) if adapter is not None else None,
        minutes=round(minutes, 2) if minutes is not None else None,
        usd=round(minutes / 60 * recipe.usd_per_hour, 2) if minutes is not None and recipe.usd_per_hour else None,
    )


def _largest(prepared: Prepared, lengths: list[int], most_tokens: int) -> list[list[int]]:
    """The largest pass of each step of an epoch."""
    found = []
    for step in range(min(prepared.schedule.steps, prepared.schedule.steps_per_epoch)):
        rows = prepared.schedule.rows(step)
        parts = passes([lengths[row] for row in rows], most_tokens)
        found.append([rows[at] for at in max(parts, key=lambda part: sum(lengths[rows[at]] for at in part))])
    return found


def device_name() -> str:
    """What trains here: the GPU's name, or the processor's and how many cores."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    found = hardware()
    return f"{found['processor']}, {found['cores']} cores"


def known_rate(quantization: str) -> float | None:
    """Operations a second that training reached on such a device, or None."""
    own = _own_rates().get(f"{device_name()}|{quantization}")
    if own:
        return float(own)
    named = _packaged_rates().get(device_name(), {}).get(quantization)
    return named * 1e12 if named else None


def remember_rate(prepared: Prepared, plan: Plan, n_tokens: int, seconds: float) -> None:
    """Keeps what a finished run reached, for the next estimate; a cache that can't be written costs nothing else."""
    shape = memory.Shape.of(prepared.config, prepared.recipe)
    if shape is None or seconds < 60 or n_tokens < MANY_TOKENS:  # mostly starting up
        return
    rate = n_tokens * prepared.work_per_token(shape) * memory.slowdown(shape, plan.recompute) / seconds
    rates = {**_own_rates(), f"{device_name()}|{prepared.recipe.quantization}": rate}
    with suppress(OSError, UzBenchError):
        write_json(cache_dir() / "training_rates.json", {"rates": rates})


def _own_rates() -> dict[str, float]:
    path = cache_dir() / "training_rates.json"
    try:
        return dict(read_json(path)["rates"]) if path.is_file() else {}
    except (UzBenchError, KeyError, OSError, json.JSONDecodeError):
        return {}  # A damaged cache is made anew.


@lru_cache(maxsize=1)
def _packaged_rates() -> dict[str, dict[str, float]]:
    import yaml

    return dict(yaml.safe_load(RATES.read_text(encoding="utf-8")))
