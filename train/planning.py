"""How a run's steps are computed on this machine: decided once, before the first, and kept beside its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from harness.files import read_json, write_json
from train import memory
from train.data import TokenRow
from train.packing import Schedule, divided
from train.recipe import Recipe

PLAN = "plan.json"

CPU_TOKENS = 2048
"""Tokens of a pass where nothing is known of memory: on a CPU a longer one is no faster."""

WRITTEN_OUT = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""config.model_type of the decoders that train.fused has written out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a step is computed; other passes are other bits.

    most_tokens: of one pass. recompute: layers, from the first, whose activations are computed twice. unpacked:
    layers, from the first, whose quantized weights are also kept in 16 bits.
    """

    most_tokens: int
    recompute: int = 0
    unpacked: int = 0


def written_out(config: Any, dtype: torch.dtype) -> bool:
    """Whether a base's passes are those of train.fused here."""
    return (
        torch.cuda.is_available()
        and config.model_type in WRITTEN_OUT
        and config.hidden_act == "silu"
        and dtype in (torch.bfloat16, torch.float16)
    )


def free_bytes(recipe: Recipe) -> int:
    """Memory of the GPU that a run may take, what it has taken already included."""
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    return min(free, int(recipe.memory_gib * 2**30)) if recipe.memory_gib else free


def step_tokens(
    rows: Sequence[TokenRow], schedule: Schedule, n_processes: int = 1
) -> list[tuple[list[int], list[int]]]:
    """Of each optimizer step of an epoch, a process's rows' tokens, and how many of them are trained."""
    found = []
    for step in range(min(schedule.steps, schedule.steps_per_epoch)):
        chosen = [rows[number] for number in schedule.rows(step)]
        for share in divided([len(row.ids) for row in chosen], n_processes):
            found.append(
                ([len(chosen[at].ids) for at in share], [len(chosen[at].ids) - chosen[at].n_prompt for at in share])
            )
    return found


def plan_of(
    config: Any, recipe: Recipe, dtype: torch.dtype, rows: Sequence[TokenRow], schedule: Schedule, n_processes: int = 1
) -> Plan:
    """Passes that fit into memory.

    Raises ModelError where the longest row doesn't.
    """
    shape = memory.Shape.of(config, recipe)
    if shape is None or not written_out(config, dtype):
        return Plan(recipe.micro_batch_tokens or CPU_TOKENS, max(0, recipe.recompute_layers))
    return Plan(*memory.planned(shape, step_tokens(rows, schedule, n_processes), free_bytes(recipe), recipe))


def kept_plan(folder: Path) -> Plan | None:
    """The plan of a run that was begun, or None."""
    if not (folder / PLAN).is_file():
        return None
    kept = read_json(folder / PLAN)
    return Plan(kept["most_tokens"], kept["recompute"], kept["unpacked"])


def keep_plan(folder: Path, plan: Plan) -> None:
    """Writes a plan where a resumed run looks for it."""
    write_json(folder / PLAN, asdict(plan))
