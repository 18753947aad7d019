"""Preference tuning: TRL's DPOTrainer over pairs that come in tokens.

    loss of a pair = -log sigmoid(beta * ((log p(chosen) - log q(chosen)) - (log p(rejected) - log q(rejected))))

p is the model that learns, q the one that it starts from: the base, or the base with the recipe's adapter, of which
TRL keeps a frozen copy beside the trained one; the base itself is loaded once. Source: Rafailov 2023, equation 7
(https://arxiv.org/abs/2305.18290). None of TRL's own preparation (templates, end tokens, truncation) is run.

out.checkpoints/<16 hex digits>/checkpoint-<step>/     transformers', marked when whole

Letters: P pairs of a batch, T tokens of its longest answer with its prompt.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from datasets import Dataset
from peft import PeftModel
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer import utils

from harness.errors import ModelError, UsageError
from harness.files import read_json, write_json
from train.loop import Log
from train.packing import Schedule
from train.pairs import PairData
from train.qlora import Prepared
from train.recipe import Recipe

WHOLE = "uzbench_whole.json"
"""Written last into a checkpoint; one without it was cut off by a kill and is passed over."""


class Preferrer(DPOTrainer):
    """DPOTrainer in our order of pairs, with a step's loss the mean over its pairs."""

    # transformers (5.23, trainer.py, training_step) would divide by the batches of a step, whatever their sizes.
    loss_is_scaled_for_ga = True

    def __init__(self, schedule: Schedule, **arguments: Any):
        self._schedule = schedule
        super().__init__(**arguments)

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        return EpochOrder(self._schedule)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, torch.Tensor]], device: Any) -> int:
        """The pairs of a step."""
        return sum(_n_pairs(batch) for batch in batch_samples)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one batch, as its share of the step's mean."""
        return super().compute_loss(model, inputs) * (_n_pairs(inputs) / num_items_in_batch)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The trained adapter alone: what it started from lies where it lay."""
        self.model.save_pretrained(output_dir, selected_adapters=["default"])

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: a checkpoint is no publication."""

    def _send_telemetry(self) -> None:
        """None: TRL would tell the hub of each run."""


class EpochOrder(torch.utils.data.Sampler):
    """A schedule's rows as a sampler; accelerate tells it the epoch."""

    def __init__(self, schedule: Schedule):
        self._schedule, self._epoch = schedule, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._schedule.n_rows

    def __iter__(self) -> Iterator[int]:
        steps = self._schedule.steps_per_epoch
        for step in range(self._epoch * steps, (self._epoch + 1) * steps):
            yield from self._schedule.rows(step)


class Watcher(TrainerCallback):
    """The bar, the clock, a stop where the loss is no number, and the mark on whole checkpoints.

    keep: checkpoints that are kept, the newest.
    """

    def __init__(self, keep: int, progress: bool):
        self._bar = tqdm(desc="preferring", unit="step", file=sys.stderr, disable=not progress)
        self._keep, self._before, self._started = keep, 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training, those before a kill included as far as a checkpoint knows them."""
        return self._before + time.monotonic() - self._started

    def go_on_from(self, checkpoint: Path) -> int:
        """Takes up a checkpoint's clock; returns its step."""
        mark = read_json(checkpoint / WHOLE)
        self._before = mark["seconds"]
        self.say(f"Going on from step {mark['step']}: {checkpoint}")
        return int(mark["step"])

    def say(self, line: str) -> None:
        """A line on stderr, where there is a bar."""
        if not self._bar.disable:
            self._bar.write(line, file=sys.stderr)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._started = time.monotonic()
        self._bar.reset(total=state.max_steps)
        self._bar.initial = self._bar.n = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise ModelError(
                f"The loss of step {state.global_step} is {logs['loss']}: training ran away. "
                f"Try: learning_rate={args.learning_rate / 4:.2g}"
            )
        preferred = f"{logs['rewards/accuracies']:.0%}"
        self._bar.set_postfix(loss=f"{logs['loss']:.3f}", preferred=preferred, refresh=False)
        self._bar.update()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir)
        mark = {"step": state.global_step, "seconds": self.seconds}
        write_json(folder / f"checkpoint-{state.global_step}" / WHOLE, mark)
        for old in found(folder)[: -self._keep]:
            (old / WHOLE).unlink()  # A kill may come before the rest is gone.
            shutil.rmtree(old, ignore_errors=True)


def found(folder: Path) -> list[Path]:
    """The checkpoints of a folder that were written to their end, the oldest first."""
    whole = [mark.parent for mark in folder.glob(f"checkpoint-*/{WHOLE}")]
    return sorted(whole, key=lambda each: int(each.name.split("-")[1]))


def train_preference(prepared: Prepared, model: PeftModel, folder: Path, *, progress: bool) -> tuple[int, Log, int]:
    """Trains a model's adapter on pairs: (step it came to, what happened, step of the checkpoint it went on from).

    folder: of the checkpoints. progress: a bar on stderr. Nothing is written to stdout.
    The model is left with the trained adapter alone.
    Raises ModelError, UsageError.
    """
    watcher, whole, resumed_from = Watcher(prepared.recipe.keep_checkpoints, progress), found(folder), 0
    with watcher:
        data = prepared.data
        if data.dropped:
            watcher.say(f"Pairs left out: {data.dropped}. Pairs kept: {len(data.rows)}.")
        preferrer = make_preferrer(prepared, model, folder, watcher)
        if whole:
            resumed_from = watcher.go_on_from(whole[-1])
        # Without Triton TRL puts every position through the output head (1.16, trainer/utils.py, `compact`): most of
        # the work of a small model with a vocabulary of 262k. Here only what predicts a labelled token goes through.
        with patch.object(utils, "_use_triton", lambda device: True, create=True):
            preferrer.train(resume_from_checkpoint=str(whole[-1]) if whole else None)
    if prepared.adapter:
        model.delete_adapter("ref")
    steps = [each for each in preferrer.state.log_history if "loss" in each]
    log = Log(
        losses=[(each["step"], each["loss"]) for each in steps],
        margins=[(each["step"], each["rewards/margins"]) for each in steps],
        seconds=watcher.seconds,
        tokens=sum(each["num_tokens"] for each in steps[-1:]),
    )
    return preferrer.state.global_step, log, resumed_from


def make_preferrer(prepared: Prepared, model: PeftModel, folder: Path, watcher: Watcher) -> Preferrer:
    """A trainer that is ready to run; the model that it starts from is frozen in it.

    Raises UsageError where several GPUs are seen.
    """
    recipe, cuda = prepared.recipe, model.device.type == "cuda"
    if torch.cuda.device_count() > 1:
        raise UsageError("Method dpo takes one GPU and sees several. Try: export CUDA_VISIBLE_DEVICES=0")
    assert isinstance(prepared.data, PairData)  # as the recipe's method has it
    # TRL makes what is trained bfloat16 on a quantized base: it would start apart from its own copy, and the steps of
    # a falling learning rate would be rounded away. What is frozen it leaves as it is.
    model.requires_grad_(False)
    preferrer = Preferrer(
        prepared.schedule,
        model=model,
        args=_config(recipe, folder, cuda=cuda, bf16=prepared.dtype == torch.bfloat16),
        train_dataset=_dataset(prepared.data),
        processing_class=prepared.tokenizer,
        data_collator=padded,
        callbacks=[watcher],
    )
    preferrer.remove_callback(PrinterCallback)  # it prints to stdout
    preferrer.processing_class = None  # else each checkpoint holds a copy of the tokenizer
    if not prepared.adapter:
        # A new adapter changes nothing yet: TRL takes the base itself where there is no copy.
        model.delete_adapter("ref")
    model.set_adapter("default")
    return preferrer


def _config(recipe: Recipe, folder: Path, *, cuda: bool, bf16: bool) -> DPOConfig:
    return DPOConfig(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_ratio,  # below 1 it is a share of the steps
        lr_scheduler_type="constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule,
        optim="adamw_torch",
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        beta=recipe.beta,
        # TRL recomputes all layers or none; as memory demands is all of them on a GPU, none beside a CPU's memory.
        gradient_checkpointing=recipe.recompute_layers > 0 or (recipe.recompute_layers < 0 and cuda),
        seed=recipe.seed,
        data_seed=recipe.seed,
        bf16=bf16,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        max_length=None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=recipe.save_steps,
        disable_tqdm=True,
        report_to="none",
    )


def _dataset(data: PairData) -> Dataset:
    both = zip(data.rows, data.rejected, strict=True)
    return Dataset.from_list(
        [
            {name: {"ids": row.ids, "n_prompt": row.n_prompt} for name, row in (("chosen", one), ("rejected", other))}
            for one, other in both
        ]
    )


def padded(pairs: list[dict[str, dict[str, Any]]]) -> dict[str, torch.Tensor]:
    """Pairs as (2P, T) tensors, chosen answers first, padded on the right; padding is masked by length, never by id."""
    rows = [pair[name] for name in ("chosen", "rejected") for pair in pairs]
    shape = len(rows), max(len(row["ids"]) for row in rows)
    batch = {name: torch.zeros(shape, dtype=torch.long) for name in ("input_ids", "attention_mask", "completion_mask")}
    for at, row in enumerate(rows):
        n = len(row["ids"])
        batch["input_ids"][at, :n] = torch.tensor(row["ids"])
        batch["attention_mask"][at, :n] = 1
        batch["completion_mask"][at, row["n_prompt"] : n] = 1
    return batch


def _n_pairs(batch: dict[str, torch.Tensor]) -> int:
    return len(batch["input_ids"]) // 2
