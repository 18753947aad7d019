"""What a killed run goes on from: one directory a checkpoint, whole or not there.

    checkpoint-200/state.safetensors   adapter weights and AdamW's moments, float32
    checkpoint-200/state.json          step, seconds, losses, scores

Order of rows, learning rate and dropout are functions of the step's number: there is no more to keep.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from harness.files import read_json, write_json

STATE, TENSORS = "state.json", "state.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save(
    folder: Path, step: int, model: Any, optimizer: torch.optim.Optimizer, log: Mapping[str, Any], keep: int
) -> Path:
    """Writes checkpoint-<step> into a folder, then lets go of all but the newest `keep`; returns its path.

    Raises OSError, SafetensorError where the disk is full; earlier checkpoints are as they were.
    """
    final, part = folder / f"checkpoint-{step}", folder / f".checkpoint-{step}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        tensors = {}
        for name, parameter in _trained(model).items():
            tensors[f"weight.{name}"] = parameter.detach()
            for moment in MOMENTS:
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part / TENSORS)
        with (part / TENSORS).open("rb") as file:
            os.fsync(file.fileno())
        write_json(part / STATE, {"step": step, **log})
        shutil.rmtree(final, ignore_errors=True)
        os.replace(part, final)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for old in found(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def found(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the oldest first."""
    whole = [mark.parent for mark in folder.glob(f"checkpoint-*/{STATE}")]
    return sorted(whole, key=lambda each: int(each.name.split("-")[1]))


def load(checkpoint: Path, model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Puts weights and moments back where they were; returns what state.json says."""
    log = read_json(checkpoint / STATE)
    tensors = load_file(checkpoint / TENSORS)
    known = optimizer.state_dict()
    with torch.no_grad():
        for number, (name, parameter) in enumerate(_trained(model).items()):
            parameter.copy_(tensors[f"weight.{name}"])
            known["state"][number] = {
                "step": torch.tensor(float(log["step"])),
                **{moment: tensors[f"{moment}.{name}"] for moment in MOMENTS},
            }
    optimizer.load_state_dict(known)
    return log


def save_adapter(model: Any, directory: Path) -> None:
    """Writes an adapter as PEFT does, without the card that is a form nobody filled in."""
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)


def _trained(model: Any) -> dict[str, torch.Tensor]:
    """The parameters that learn, in the optimizer's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
