"""TRL's SFTTrainer over rows that come in tokens, with labels.

None of its own preparation (templates, end tokens, truncation) is run.
Shapes: B rows of a batch, T tokens of its longest row, N trained tokens of the batch, V vocabulary.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from harness.errors import ModelError, UnknownNameError
from harness.files import read_json, write_json
from train.data import IGNORED, TokenData, epoch_order
from train.recipe import ALL_LINEAR, Recipe

WHOLE = "uzbench_whole.json"
"""Written last into a checkpoint; one without it was cut off by a kill and is passed over."""

LOGITS_BYTES = 2**30
"""The most that a batch's logits may take on a CPU before TRL computes them in pieces."""


class Tuner(SFTTrainer):
    """SFTTrainer in our order of rows, with the output head only where something is learned."""

    # The loss is summed over trained tokens and divided by those of the whole accumulated batch: by TRL
    # (trl 1.16, trainer/sft_trainer.py, compute_loss) and below. transformers (5.23, trainer.py) counts them
    # over the labels of all parts, shifted by one (_get_num_items_in_batch), and doesn't divide again by the
    # number of parts, as long as the model's forward takes keyword arguments (training_step).

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one batch, as its share of the accumulated batch's mean."""
        labels = inputs["labels"]  # (B, T)
        predicts = torch.zeros_like(labels, dtype=torch.bool)
        predicts[:, :-1] = labels[:, 1:] != IGNORED
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        fits = 4 * int(predicts.sum()) * head.weight.shape[0] <= LOGITS_BYTES
        if labels.device.type != "cpu" or not fits or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # Without Triton TRL puts every position through the head (1.16, trainer/utils.py, `compact`): most
        # of the work of a small model with a vocabulary of 262k. Here only what predicts a trained token goes
        # through, (B, T, hidden) → (1, N, hidden); soft caps and scales are the model's own forward's.
        handle = head.register_forward_pre_hook(lambda _, given: (given[0][predicts][None], *given[1:]))
        try:
            logits = model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            ).logits[0]  # (N, V)
        finally:
            handle.remove()
        targets = labels[:, 1:][predicts[:, :-1]]  # (N,)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
        return loss / num_items_in_batch

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
        return EpochOrder(lengths, self.args.per_device_train_batch_size, self.args.seed)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: a checkpoint is no publication."""

    def _send_telemetry(self) -> None:
        """None: TRL would tell the hub of each run."""


class EpochOrder(torch.utils.data.Sampler):
    """train.data.epoch_order as a sampler; accelerate tells it the epoch."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int):
        self._lengths, self._batch_size, self._seed, self._epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self._lengths, batch_size=self._batch_size, seed=self._seed, epoch=self._epoch))


class Watcher(TrainerCallback):
    """The bar, the clock, a stop where the loss is no number, and the mark on whole checkpoints."""

    def __init__(self, progress: bool):
        self._bar = tqdm(desc="training", unit="step", file=sys.stderr, disable=not progress)
        self._before, self._started = 0.0, time.monotonic()

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
        self._bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
        self._bar.update()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_json(folder / WHOLE, {"step": state.global_step, "seconds": self.seconds})


def last_whole(checkpoints: Path) -> Path | None:
    """The newest checkpoint that was written to its end, or None."""
    whole = [mark.parent for mark in checkpoints.glob(f"checkpoint-*/{WHOLE}")]
    return max(whole, key=lambda folder: int(folder.name.split("-")[1]), default=None)


def make_tuner(
    recipe: Recipe, model: Any, tokenizer: Any, data: TokenData, checkpoints: Path, watcher: Watcher
) -> Tuner:
    """A trainer that is ready to run.

    Raises UnknownNameError for a layer that the model doesn't have.
    """
    cuda = model.device.type == "cuda"
    pad_id = _pad_id(tokenizer)
    rows = [{"input_ids": row.ids, "labels": row.labels} for row in data.rows]
    config = SFTConfig(
        output_dir=str(checkpoints),
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_ratio,  # below 1 it is a share of the steps
        lr_scheduler_type="constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        gradient_checkpointing=recipe.gradient_checkpointing,
        seed=recipe.seed,
        data_seed=recipe.seed,
        bf16=model.dtype == torch.bfloat16,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=recipe.save_steps,
        save_total_limit=2,  # the older goes before the newer is marked whole
        disable_tqdm=True,
        report_to="none",
    )
    tuner = Tuner(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=lambda rows: padded(rows, pad_id),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=recipe.lora_rank,
            lora_alpha=recipe.lora_alpha,
            lora_dropout=recipe.lora_dropout,
            target_modules=_targets(model, recipe.lora_targets),
        ),
        callbacks=[watcher],
    )
    tuner.remove_callback(PrinterCallback)  # it prints to stdout
    tuner.processing_class = None  # else each checkpoint holds a copy of the tokenizer
    if not cuda:
        # TRL makes LoRA weights bfloat16 on a quantized base. On a CPU that is 3 times slower, and the
        # adapter, which PEFT reloads as float32, would give other logits than it had.
        for parameter in tuner.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return tuner


def padded(rows: list[dict[str, list[int]]], pad_id: int) -> dict[str, torch.Tensor]:
    """Rows as (B, T) tensors, padded on the right; padding is masked by length, never by id."""
    width = max(len(row["input_ids"]) for row in rows)
    batch = {
        "input_ids": torch.full((len(rows), width), pad_id),
        "attention_mask": torch.zeros((len(rows), width), dtype=torch.long),
        "labels": torch.full((len(rows), width), IGNORED),
    }
    for at, row in enumerate(rows):
        n = len(row["input_ids"])
        batch["input_ids"][at, :n] = torch.tensor(row["input_ids"])
        batch["attention_mask"][at, :n] = 1
        batch["labels"][at, :n] = torch.tensor(row["labels"])
    return batch


def _pad_id(tokenizer: Any) -> int:
    # Never EOS, though padding carries no label here: who masks EOS as padding by id never learns to stop.
    candidates = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, 0, 1)
    return next(token for token in candidates if token is not None and token != tokenizer.eos_token_id)


def _targets(model: Any, names: tuple[str, ...]) -> str | list[str]:
    if names == (ALL_LINEAR,):
        return ALL_LINEAR
    head = model.get_output_embeddings()
    modules = model.named_modules()
    layers = [name for name, module in modules if isinstance(module, torch.nn.Linear) and module is not head]
    for name in names:
        if not any(layer == name or layer.endswith(f".{name}") for layer in layers):
            known = sorted({layer.rsplit(".", 1)[-1] for layer in layers})
            raise UnknownNameError("lora_targets: layer", name, known, f"Layers: {', '.join(known)}.")
    return list(names)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of other packages that a person can do nothing about."""
    with warnings.catch_warnings():
        # trl 1.16 asks transformers 5.23 by names that it has renamed.
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing` is deprecated")
        # bitsandbytes says for every layer that int8 casts its input; it always does.
        warnings.filterwarnings("ignore", message="MatMul8bitLt")
        yield
