"""Tuning: a recipe in, an adapter directory out, whole or not at all.

out/adapter_model.safetensors, adapter_config.json     PEFT's
out/uzbench_manifest.json                              what it was made of (harness.manifest)
out.checkpoints/<16 hex digits>/checkpoint-<step>/     while it runs; the digits name recipe, data and base
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import logging as transformers_logging

from harness.engine.identity import Located, locate_model
from harness.engine.load import one_line, quantization_config
from harness.errors import ModelError, UsageError, disk_faults
from harness.manifest import Manifest, write_manifest
from harness.provenance import file_digest, git_commit, hardware, now, package_versions
from harness.records import digest
from train.data import read_rows, tokenize
from train.recipe import Recipe
from train.trainer import Tuner, Watcher, last_whole, make_tuner, quiet


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What training left. resumed_from: the step of the checkpoint it went on from, 0 for a fresh start."""

    adapter: Path
    manifest: Manifest
    resumed_from: int


def train(recipe: Recipe, *, progress: bool = True) -> TrainResult:
    """Trains an adapter and puts it, with its manifest, at recipe.out.

    After a kill or Ctrl-C the same recipe on the same data goes on from its last checkpoint, in order.
    progress: a bar on stderr. Nothing is written to stdout.
    Raises DataError, ModelError, NetworkError, UsageError, DiskFullError.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    out = Path(recipe.out)
    _check_out(out)
    dtype = _dtype(recipe)
    base = locate_model(recipe.model, recipe.revision)
    rows = read_rows(recipe.data)
    data_sha256 = file_digest(Path(recipe.data))
    with one_line(recipe.model), _disk(out):
        tokenizer = AutoTokenizer.from_pretrained(base.path, revision=base.revision)
    data = tokenize(
        rows, tokenizer, prompt_format=recipe.prompt_format, max_length=recipe.max_length, source=recipe.data
    )
    checkpoints = out.with_name(f"{out.name}.checkpoints") / _run_key(recipe, base, data_sha256, dtype)
    resumable, resumed_from = last_whole(checkpoints), 0
    with one_line(recipe.model), _disk(out):
        model = _load(recipe, base, dtype)
    watcher = Watcher(progress)
    with watcher, quiet(), _in_memory(recipe), _disk(checkpoints):
        if data.dropped:
            watcher.say(f"Rows left out: {data.dropped}. Rows kept: {len(data.rows)}.")
        tuner = make_tuner(recipe, model, tokenizer, data, checkpoints, watcher)
        if resumable:
            resumed_from = watcher.go_on_from(resumable)
        tuner.train(resume_from_checkpoint=str(resumable) if resumable else None)
        seconds = round(watcher.seconds, 1)
    manifest = Manifest(
        base_model=recipe.model,
        base_revision=base.revision,
        base_digest=base.weights if base.directory else None,
        quantization=recipe.quantization,
        dtype=str(dtype).removeprefix("torch."),
        prompt_format=recipe.prompt_format,
        data=recipe.data,
        data_sha256=data_sha256,
        n_rows=len(data.rows),
        n_dropped=data.dropped,
        n_tokens=data.n_tokens,
        n_trained_tokens=data.n_trained_tokens,
        steps=tuner.state.global_step,
        seconds=seconds,
        created=now(),
        recipe=recipe.to_dict(),
        losses=tuple((log["step"], log["loss"]) for log in tuner.state.log_history if "loss" in log),
        git_commit=git_commit(),
        versions=package_versions(),
        hardware=hardware(),
    )
    with _disk(out):
        _put_adapter(tuner, manifest, out)
    shutil.rmtree(checkpoints, ignore_errors=True)
    with suppress(OSError):  # Another recipe's checkpoints stay.
        checkpoints.parent.rmdir()
    return TrainResult(out, manifest, resumed_from)


def _check_out(out: Path) -> None:
    empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty and not (out / "adapter_config.json").is_file():
        raise UsageError(f"{out} exists and isn't an adapter's directory; it is left alone. Try: out=ANOTHER")


def _dtype(recipe: Recipe) -> torch.dtype:
    if torch.cuda.device_count() > 1:
        raise UsageError("Training takes one GPU and sees several. Try: export CUDA_VISIBLE_DEVICES=0")
    cuda = torch.cuda.is_available()
    if recipe.dtype == "bfloat16" and not cuda:
        raise UsageError("dtype: bfloat16 runs over 100 times slower than float32 on a CPU. Try: dtype=auto")
    name = recipe.dtype if recipe.dtype != "auto" else "bfloat16" if cuda else "float32"
    return getattr(torch, name)


def _run_key(recipe: Recipe, base: Located, data_sha256: str, dtype: torch.dtype) -> str:
    """What a checkpoint belongs to: all that changes what is learned, and nothing else."""
    choices = {key: value for key, value in recipe.to_dict().items() if key not in ("out", "data", "save_steps")}
    return digest({"recipe": choices, "data": data_sha256, "base": base.weights, "dtype": str(dtype)})[:16]


def _load(recipe: Recipe, base: Located, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        base.path,
        revision=base.revision,
        dtype=dtype,
        quantization_config=quantization_config(recipe.quantization, dtype),
        device_map={"": 0 if torch.cuda.is_available() else "cpu"},
    )


def _put_adapter(tuner: Tuner, manifest: Manifest, out: Path) -> None:
    """Writes the adapter beside `out`, which takes it when it is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    old = part.with_suffix(".old")
    try:
        tuner.model.save_pretrained(part)
        (part / "README.md").unlink(missing_ok=True)  # PEFT's card is a form that nobody filled in.
        write_manifest(part, manifest)
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o777 & ~mask)  # mkdtemp's are private.
        # No call replaces a directory that isn't empty: the old adapter steps aside for the new.
        if out.exists():
            os.replace(out, old)
        try:
            os.replace(part, out)
        except OSError:
            if old.exists():
                os.replace(old, out)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _in_memory(recipe: Recipe) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _no_memory(recipe) from error


def _no_memory(recipe: Recipe) -> ModelError:
    rows = recipe.batch_size * recipe.gradient_accumulation
    return ModelError(
        f"Training {recipe.model} doesn't fit the device's memory. "
        f"Try: batch_size=1 gradient_accumulation={rows}, gradient_checkpointing=true or quantization=nf4"
    )


@contextmanager
def _disk(place: Path) -> Iterator[None]:
    """disk_faults, also for torch and safetensors, whose errors for a full device are their own."""
    with disk_faults(place):
        try:
            yield
        except (RuntimeError, SafetensorError) as error:
            if "No space left" in str(error) or "PytorchStreamWriter failed writing" in str(error):
                raise OSError(ENOSPC, os.strerror(ENOSPC)) from error
            raise
