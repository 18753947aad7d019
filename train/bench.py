"""How fast training is beside plain TRL, and how much memory it takes: the same rows, one run, one machine.

    python -m train.bench train/recipes/mistral_uz_fast_bf16.yaml train/recipes/mistral_uz_seed.yaml
    python -m train.bench trl:train/recipes/mistral_uz_seed.yaml train/recipes/mistral_uz_seed.yaml --shape mistral-7b
    python -m train.bench train/recipes/mistral_uz_fast_nf4.yaml --shape mistral-7b --set memory_gib=24
    accelerate launch --config_file train/accelerate/ddp.yaml -m train.bench RECIPE --here --shape mistral-7b

A case is a recipe; behind `trl:` as TRL's SFTTrainer runs it with its defaults, behind `unsloth:` as Unsloth does on
packed rows, where it is installed. Each has a process to itself. Weights are random; rows have lognormal lengths (5.4,
0.6) between 40 and 1,024 tokens, the last 60 % of each trained. Tokens are real ones, never padding. The limit is the
arithmetic of frozen weights (4 operations a parameter and token; the head only where a token is trained), of attention
and of the adapters, at the speed at which this device multiplies two large matrices.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SEED_ROWS = 69_000
"""Rows of the seed's whole run: 23,000, three times."""

STEPS = 12

WARM_UP = 10
"""Steps that don't count: the first ones fetch kernels from a cold disk."""


def rows(n: int, vocabulary: int) -> list[Any]:
    """Token rows, always the same."""
    from train.data import TokenRow

    rng = random.Random(3)
    found = []
    for _ in range(n):
        length = max(40, min(1024, int(rng.lognormvariate(5.4, 0.6))))
        # Rare and frequent tokens, so that there is something to learn.
        ids = [int(vocabulary ** rng.random()) for _ in range(length)]
        found.append(TokenRow(ids, max(20, int(0.4 * length))))
    return found


def measure(case: str, shape: str, settings: Sequence[str], steps: int) -> dict[str, Any]:
    """One case, in this process."""
    if case.startswith("unsloth:"):
        import unsloth  # noqa: F401, it changes the others as they are imported
    import torch

    from harness.engine.shapes import SHAPES, matmul_flops, random_model, shape_config
    from train import memory
    from train.data import TokenData
    from train.recipe import read_recipe
    from train.team import make_team

    peer, _, path = case.rpartition(":")
    team = make_team()
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    recipe = read_recipe(path, [f"max_steps={WARM_UP + steps}", "model=random", *settings])
    data = TokenData(tuple(rows(recipe.rows_per_step * (WARM_UP + steps), SHAPES[shape]["vocab_size"])), {})
    share, length = data.n_trained_tokens / data.n_tokens, data.n_tokens / len(data.rows)
    flops = matmul_flops(device, dtype)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        if recipe.memory_gib:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, recipe.memory_gib * 2**30 / total))
    dimensions = memory.Shape.of(shape_config(shape), recipe)
    assert dimensions is not None  # all shapes are of that family
    limit = flops / dimensions.flops_per_token(share, length)
    if peer == "unsloth":
        found = _by_unsloth(shape, recipe, data, steps)
    else:
        model = random_model(shape, dtype, recipe.quantization, device)
        ours = peer == ""
        found = _by_ours(model, recipe, data, steps, dimensions, team) if ours else _by_trl(model, recipe, data, steps)
    team.close()
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    rate = found.pop("rate")
    return {
        "case": case,
        "base": recipe.quantization,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "tokens_per_s": round(rate),
        "rows_per_s": round(rate / length, 1),
        "gpus": team.n,
        "of_limit": round(rate / limit / team.n, 3),
        "matmul_tflops": round(flops / 1e12),
        "peak_gib": round(peak, 1) if peak else None,
        "work_per_token": round(dimensions.work_per_token(share, length)),
        "seed_minutes": round(SEED_ROWS * length / rate / 60, 1),
        **found,
    }


def _by_ours(model: Any, recipe: Any, data: Any, steps: int, dimensions: Any, team: Any) -> dict[str, Any]:
    import torch

    from train import memory
    from train.loop import Loop
    from train.packing import Schedule
    from train.planning import plan_of
    from train.qlora import add_adapter, make_learner

    tuned = add_adapter(model.requires_grad_(False), recipe)
    learner = make_learner(tuned, recipe)
    cuda = tuned.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    schedule = Schedule(len(data.rows), recipe.rows_per_step, recipe.epochs, recipe.max_steps, recipe.seed)
    plan = plan_of(tuned.get_base_model().config, recipe, model.dtype, data.rows, schedule, team.n)
    clock: list[tuple[float, int]] = []

    def passed(loop: Loop, step: int) -> bool:
        if step in (WARM_UP, WARM_UP + steps):
            if cuda:
                torch.cuda.synchronize()
            clock.append((time.perf_counter(), loop.log.tokens))
        return False

    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(recipe, tuned, learner, data, Path(folder), plan, team=team, passed=passed)
        losses = loop.run().losses
    predicted = None
    if cuda:
        largest = max(
            (
                sum(loop.lengths[row] for row in part),
                sum(len(data.rows[row].ids) - data.rows[row].n_prompt for row in part),
            )
            for step in range(loop.schedule.steps)
            for part in loop.parts(loop.schedule.rows(step))
        )
        predicted = round(memory.peak_bytes(dimensions, *largest, plan.recompute, plan.unpacked) / 2**30, 1)
    (start, before), (end, after) = clock
    return {
        "rate": (after - before) / (end - start),
        "predicted_gib": predicted,
        "pass_tokens": plan.most_tokens,
        "recompute_layers": plan.recompute,
        "unpacked_layers": plan.unpacked,
        "losses": [round(loss, 4) for _, loss in losses],
    }


def _by_trl(model: Any, recipe: Any, data: Any, steps: int) -> dict[str, Any]:
    """TRL's defaults, the recipe's batch."""
    from peft import LoraConfig

    from harness.engine.bench import word_tokenizer
    from train.recipe import ALL_LINEAR

    every = recipe.lora_targets == (ALL_LINEAR,)
    lora = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=ALL_LINEAR if every else list(recipe.lora_targets),
        task_type="CAUSAL_LM",
    )
    batch = {
        "per_device_train_batch_size": recipe.batch_size,
        "gradient_accumulation_steps": recipe.gradient_accumulation,
    }
    return _by_trainer(model, word_tokenizer(model.config.vocab_size), recipe, data, steps, batch, peft_config=lora)


def _by_unsloth(shape: str, recipe: Any, data: Any, steps: int) -> dict[str, Any]:
    """Unsloth at its fastest: about a step's tokens at once, packed, nothing computed twice."""
    import torch
    from unsloth import FastLanguageModel

    from harness.engine.bench import word_tokenizer
    from harness.engine.shapes import random_model

    with tempfile.TemporaryDirectory() as folder:
        base = random_model(shape, torch.bfloat16, "none", "cuda")
        base.save_pretrained(folder)
        word_tokenizer(base.config.vocab_size).save_pretrained(folder)
        del base
        torch.cuda.empty_cache()
        model, tokenizer = FastLanguageModel.from_pretrained(
            folder,
            max_seq_length=recipe.max_length,
            dtype=torch.bfloat16,
            load_in_4bit=recipe.quantization == "nf4",
            local_files_only=True,
        )
    model = FastLanguageModel.get_peft_model(
        model,
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        use_gradient_checkpointing=False,
    )
    batch = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "packing": True}
    return _by_trainer(model, tokenizer, recipe, data, steps, batch)


def _by_trainer(
    model: Any, tokenizer: Any, recipe: Any, data: Any, steps: int, batch: dict[str, Any], **more: Any
) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

    clock, counted = Clock(), []
    given = [
        {"input_ids": row.ids, "completion_mask": [0] * row.n_prompt + [1] * (len(row.ids) - row.n_prompt)}
        for row in data.rows
    ]
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(),
            max_steps=WARM_UP + steps,
            learning_rate=recipe.learning_rate,
            max_length=recipe.max_length,
            completion_only_loss=True,
            bf16=model.dtype == torch.bfloat16,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            **batch,
        ),
        train_dataset=Dataset.from_list(given),
        processing_class=tokenizer,
        callbacks=[clock],
        **more,
    )
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    collate = trainer.data_collator

    def count(features: Any) -> Any:
        found = collate(features)
        counted.append(int(found["attention_mask"].sum()) if "attention_mask" in found else found["input_ids"].numel())
        return found

    trainer.data_collator = count
    trainer.train()
    parts = batch["gradient_accumulation_steps"]
    seconds = clock.ends[WARM_UP + steps - 1] - clock.ends[WARM_UP - 1]
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return {"rate": sum(counted[WARM_UP * parts : (WARM_UP + steps) * parts]) / seconds, "losses": losses}


def main(arguments: Sequence[str]) -> int:
    """Measures the cases named, each in a process of its own; prints a line of JSON each, then a table."""
    parser = argparse.ArgumentParser(
        prog="python -m train.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="+", metavar="[trl:|unsloth:]RECIPE.yaml")
    parser.add_argument("--shape", default="tiny", help="of the random weights")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=STEPS, help="measured, after some to warm up")
    parser.add_argument("--here", action="store_true", help="one case in this process, as accelerate launches it")
    options = parser.parse_args(arguments)
    if options.here:
        line = json.dumps(measure(options.cases[0], options.shape, options.settings, options.steps))
        if os.environ.get("RANK", "0") == "0":
            print(line)
        return 0
    found = []
    for case in options.cases:
        command = [sys.executable, "-m", "train.bench", case, "--here", "--shape", options.shape]
        command += ["--steps", str(options.steps), *(f"--set={setting}" for setting in options.settings)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        if done.returncode:
            print(f"{case} failed", file=sys.stderr)
            continue
        line = done.stdout.strip().splitlines()[-1]
        print(line, file=sys.stderr, flush=True)
        found.append(json.loads(line))
    print("| recipe | base | tokens/s | rows/s | of the limit | peak GiB | predicted | 69,000 rows |")
    print("| --- | --- | --: | --: | --: | --: | --: | --: |")
    for row in found:
        cells = (
            row["case"], row["base"], f"{row['tokens_per_s']:,}", row["rows_per_s"], f"{row['of_limit']:.0%}",
            row["peak_gib"] or "", row.get("predicted_gib") or "", f"{row['seed_minutes']} min",
        )  # fmt: skip
        print(f"| {' | '.join(map(str, cells))} |")
    return 0 if len(found) == len(options.cases) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
