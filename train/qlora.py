"""Tuning: a recipe in, an adapter directory out, whole or not at all.

out/adapter_model.safetensors, adapter_config.json     PEFT's
out/uzbench_manifest.json                              what it was made of (harness.manifest)
out.checkpoints/<16 hex digits>/checkpoint-<step>/     while it runs; the digits name recipe, data and base
out.eval/                                              its evaluations on the way (train.live)
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.distributed.fsdp import FSDPModule
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers import logging as transformers_logging

from harness.engine.identity import Located, adapter_manifest, check_adapter, locate_adapter, locate_model
from harness.engine.load import one_line, quantization_config, settled
from harness.engine.shapes import matmul_flops
from harness.errors import ModelError, UnknownNameError, UsageError
from harness.files import atomic_directory
from harness.manifest import Manifest, write_manifest
from harness.provenance import file_digest, git_commit, hardware, now, package_versions
from harness.records import digest
from train import checkpoints, memory
from train.check import check_data
from train.data import TokenData, read_rows, tokenize
from train.disk import weights_disk_faults
from train.estimate import estimate_of, remember_rate
from train.live import BEST, Live, Report, best_step, live_spec
from train.loop import Learner, Log, Loop
from train.packing import Schedule
from train.pairs import check_pairs, read_pairs, tokenize_pairs
from train.plain import PlainLearner
from train.planning import Plan, keep_plan, kept_plan, plan_of, written_out
from train.recipe import ALL_LINEAR, Recipe
from train.sharded import ShardedLearner, check_shardable, shard, sharded_plan
from train.team import Team, make_team
from train.trackers import Trackers, check_trackers, tracking

Passed = Callable[[Loop, int], bool]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What training left. resumed_from: the step of the checkpoint it went on from, 0 for a fresh start."""

    adapter: Path
    manifest: Manifest
    resumed_from: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known before a model is loaded. adapter: the one to go on from."""

    recipe: Recipe
    base: Located
    adapter: Located | None
    tokenizer: Any
    config: Any
    data: TokenData
    data_sha256: str
    dtype: torch.dtype

    @property
    def schedule(self) -> Schedule:
        recipe = self.recipe
        return Schedule(len(self.data.rows), recipe.rows_per_step, recipe.epochs, recipe.max_steps, recipe.seed)

    def plan(self, team: Team | None = None) -> Plan:
        """Passes that fit into memory."""
        team = team or Team()
        if team.sharded:
            return sharded_plan(self.recipe, self.config)
        return plan_of(self.config, self.recipe, self.dtype, self.data.rows, self.schedule, team.n)

    def flops_per_token(self, shape: memory.Shape) -> float:
        """Arithmetic of a token of these rows."""
        return shape.flops_per_token(*self._mean())

    def work_per_token(self, shape: memory.Shape) -> float:
        """What the time of a token of these rows goes by."""
        return shape.work_per_token(*self._mean())

    def _mean(self) -> tuple[float, float]:
        """The share of tokens that are trained, and the tokens of a row."""
        return self.data.n_trained_tokens / self.data.n_tokens, self.data.n_tokens / len(self.data.rows)


def train(recipe: Recipe, *, progress: bool = True, report: Report | None = None) -> TrainResult:
    """Trains an adapter and puts it, with its manifest, at recipe.out; of evaluations on the way, the best one.

    After a kill or Ctrl-C the same recipe on the same data goes on from its last checkpoint, to the same bits.
    progress: a bar on stderr. report: writes pages of the evaluations. Nothing is written to stdout.
    Started by `accelerate launch`, every process returns the same; the first of them writes.
    Raises DataError, ModelError, NetworkError, UsageError, DiskFullError.
    """
    out = Path(recipe.out)
    _check_out(out)
    check_trackers(recipe.trackers)
    if recipe.eval_steps:
        live_spec(recipe)  # Tasks that don't exist are told before anything is loaded.
    with closing(make_team()) as team:
        if recipe.method == "dpo" and team.n > 1:
            raise UsageError("method: dpo runs in one process. Try it without `accelerate launch`.")
        leads = team.number == 0
        prepared = prepare(recipe, progress=progress and leads)
        if team.sharded:
            check_shardable(recipe, prepared.config)
        key = _run_key(prepared)
        folder = out.with_name(f"{out.name}.checkpoints") / key
        with quiet(), one_line(recipe.model), weights_disk_faults(out):
            model = add_adapter(_load(prepared, sharded=team.sharded), recipe)
            if team.sharded:
                shard(model)
        with quiet(), _in_memory(recipe), weights_disk_faults(folder):
            learn = _prefer if recipe.method == "dpo" else _learn
            step, log, resumed_from = learn(prepared, model, folder, team, progress and leads, report)
        manifest = _manifest(prepared, step, log)
        if leads:
            _put(model, manifest, folder, best=best_step(log) is not None)
        team.wait()
    return TrainResult(out, manifest, resumed_from)


Done = tuple[int, Log, int]
"""The last step, what happened, and the step it went on from."""


def _learn(
    prepared: Prepared, model: PeftModel, folder: Path, team: Team, progress: bool, report: Report | None
) -> Done:
    with tracking(prepared.recipe, folder.name, leads=team.number == 0) as trackers:
        learner = make_learner(model, prepared.recipe)
        live = _live(prepared, folder, trackers, report, progress)
        loop = _loop(prepared, model, learner, folder, team, progress, _watched(trackers, live))
        loop.say(estimate_of(prepared, loop.plan).line)
        whole = checkpoints.found(folder)
        resumed_from = loop.go_on_from(whole[-1]) if whole else 0
        if prepared.data.dropped:
            loop.say(f"Rows left out: {prepared.data.dropped}. Rows kept: {len(prepared.data.rows)}.")
        if live:
            live.start(loop)
        log = loop.run()
        trackers.passed(loop, loop.step)  # The last loss is read when all is done.
    if not live and not resumed_from and team.n == 1:
        remember_rate(prepared, loop.plan, log.tokens, log.seconds)
    return loop.step, log, resumed_from


def _prefer(
    prepared: Prepared, model: PeftModel, folder: Path, team: Team, progress: bool, report: Report | None
) -> Done:
    from train.preference import train_preference  # TRL takes seconds to load

    return train_preference(prepared, model, folder, progress=progress)


def _put(model: PeftModel, manifest: Manifest, folder: Path, *, best: bool) -> None:
    """Leaves the adapter, the best of the evaluated ones or the last, and lets go of the checkpoints."""
    out = Path(manifest.recipe["out"])
    with weights_disk_faults(out), atomic_directory(out) as part:
        if best:
            shutil.copytree(folder / BEST, part, dirs_exist_ok=True)
        else:
            checkpoints.save_adapter(model, part)
        write_manifest(part, manifest)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # Another recipe's checkpoints stay.
        folder.parent.rmdir()


def prepare(recipe: Recipe, *, progress: bool = False) -> Prepared:
    """Finds the base, checks, reads and tokenizes the data.

    Raises DataError, ModelError, NetworkError, UsageError.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    dtype = _dtype(recipe)
    base = locate_model(recipe.model, recipe.revision)
    adapter = _started_from(recipe, base)
    with one_line(recipe.model):
        tokenizer = AutoTokenizer.from_pretrained(base.path, revision=base.revision)
        config = AutoConfig.from_pretrained(base.path, revision=base.revision)
    data = _data(recipe, tokenizer, progress)
    return Prepared(recipe, base, adapter, tokenizer, config, data, file_digest(Path(recipe.data)), dtype)


def _started_from(recipe: Recipe, base: Located) -> Located | None:
    """The recipe's adapter, if it goes on as it was made."""
    if not recipe.adapter:
        return None
    adapter = locate_adapter(recipe.adapter)
    if adapter.directory and adapter.directory.resolve() == Path(recipe.out).resolve():
        raise UsageError(f"out: {recipe.out} is the adapter that it starts from. Try: out=ANOTHER")
    check_adapter(adapter, base, recipe.adapter)
    manifest = adapter_manifest(adapter)
    for key in ("quantization", "prompt_format") if manifest else ():
        made, wanted = getattr(manifest, key), getattr(recipe, key)
        if made != wanted:
            raise UsageError(f"{key}: {wanted}, but adapter {recipe.adapter} was trained in {made}. Try: {key}={made}")
    return adapter


def _data(recipe: Recipe, tokenizer: Any, progress: bool) -> TokenData:
    cut: dict[str, Any] = {
        "prompt_format": recipe.prompt_format,
        "max_length": recipe.max_length,
        "source": recipe.data,
    }
    if recipe.method == "dpo":
        pairs = read_pairs(recipe.data)
        check_pairs(pairs, recipe.data, recipe.allow_overlap)
        return tokenize_pairs(pairs, tokenizer, **cut)
    checked = check_data(recipe.data, allow=recipe.allow_overlap, progress=progress)
    if (error := checked.error()) is not None:
        raise error
    if progress and checked.warnings:
        found = ", ".join(f"{finding.what} ({finding.n:,})" for finding in checked.warnings)
        print(f"Taken all the same: {found}. More of it: uzbench check-data {recipe.data}", file=sys.stderr)
    return tokenize(read_rows(recipe.data), tokenizer, **cut)


def _check_out(out: Path) -> None:
    empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty and not (out / "adapter_config.json").is_file():
        raise UsageError(f"{out} exists and isn't an adapter's directory; it is left alone. Try: out=ANOTHER")


def _dtype(recipe: Recipe) -> torch.dtype:
    cuda = torch.cuda.is_available()
    if recipe.dtype == "bfloat16" and not cuda:
        raise UsageError("dtype: bfloat16 runs over 100 times slower than float32 on a CPU. Try: dtype=auto")
    if recipe.quantization == "fp8" and (not cuda or torch.cuda.get_device_capability() < (8, 9)):
        raise UsageError(
            "quantization: fp8 needs a GPU that multiplies it (Hopper, Ada or newer). Try: quantization=nf4"
        )
    name = recipe.dtype if recipe.dtype != "auto" else "bfloat16" if cuda else "float32"
    return getattr(torch, name)


def _run_key(prepared: Prepared) -> str:
    """What a checkpoint belongs to: all that changes what is learned, and nothing else."""
    apart = {"out", "data", "save_steps", "keep_checkpoints", "trackers", "usd_per_hour"}
    choices = {key: value for key, value in prepared.recipe.to_dict().items() if key not in apart}
    parts = {"data": prepared.data_sha256, "base": prepared.base.weights, "dtype": str(prepared.dtype)}
    if prepared.adapter:
        choices["adapter"] = prepared.adapter.weights
    return digest({"recipe": choices, **parts})[:16]


def _load(prepared: Prepared, *, sharded: bool = False) -> Any:
    """The frozen base, on the process's device, or in the machine's memory to be sharded."""
    recipe, cuda = prepared.recipe, torch.cuda.is_available()
    if cuda and recipe.memory_gib:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, recipe.memory_gib * 2**30 / total))
    quantization = quantization_config(recipe.quantization, prepared.dtype)
    if sharded and quantization is not None:
        # Older versions of torch shard floats alone; four weights then lie in one, bit by bit.
        quantization.bnb_4bit_quant_storage = prepared.dtype
    model = AutoModelForCausalLM.from_pretrained(
        prepared.base.path,
        revision=prepared.base.revision,
        dtype=prepared.dtype,
        quantization_config=quantization,
        device_map={"": torch.cuda.current_device() if cuda and not sharded else "cpu"},
    )
    return settled(model, recipe.quantization).requires_grad_(False)


def add_adapter(model: Any, recipe: Recipe) -> PeftModel:
    """The model with a new adapter, or with the recipe's, in float32."""
    if recipe.adapter:
        tuned = PeftModel.from_pretrained(model, recipe.adapter, is_trainable=True)
    else:
        torch.manual_seed(recipe.seed)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=recipe.lora_rank,
            lora_alpha=recipe.lora_alpha,
            lora_dropout=recipe.lora_dropout,
            target_modules=_targets(model, recipe.lora_targets),
        )
        tuned = get_peft_model(model, config)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            # In 16 bits the steps of a falling learning rate would be rounded away.
            parameter.data = parameter.data.float()
    return tuned


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


def make_learner(model: PeftModel, recipe: Recipe) -> Learner:
    """What computes a model's losses here: written out where that is known, else as transformers and PEFT do it.

    Raises ModelError.
    """
    causal = model.get_base_model()
    if isinstance(causal, FSDPModule):
        return ShardedLearner(model)
    if written_out(causal.config, causal.dtype):
        from train.fused import FusedLearner, usual  # Triton's kernels

        if usual(model):
            return FusedLearner(model, fp8=recipe.quantization == "fp8")
    if recipe.quantization == "fp8":
        raise ModelError(
            f"fp8 isn't written for the architecture {causal.config.model_type}, or not for such an adapter. "
            "Try: quantization=nf4"
        )
    return PlainLearner(model)


def _live(prepared: Prepared, folder: Path, trackers: Trackers, report: Report | None, progress: bool) -> Live | None:
    if not prepared.recipe.eval_steps:
        return None
    return Live(
        prepared.recipe, prepared.base, prepared.tokenizer, folder,
        report=report, scored=trackers.scored, progress=progress,
    )  # fmt: skip


def _watched(trackers: Trackers, live: Live | None) -> Passed:
    """What is done after each optimizer step."""

    def passed(loop: Loop, step: int) -> bool:
        trackers.passed(loop, step)
        return live is not None and live(loop, step)

    return passed


def _loop(
    prepared: Prepared, model: PeftModel, learner: Learner, folder: Path, team: Team, progress: bool, passed: Passed
) -> Loop:
    plan = kept_plan(folder) or prepared.plan(team)
    team.wait()  # until all have read what was kept
    if team.number == 0:
        keep_plan(folder, plan)
    limit, shape = None, memory.Shape.of(prepared.config, prepared.recipe)
    if progress and shape is not None and torch.cuda.is_available():
        # What this card gives to a large product, over the arithmetic of a token: the most that could be.
        limit = matmul_flops(model.device, prepared.dtype) / prepared.flops_per_token(shape)

    def replan(old: Plan) -> Plan:
        longest = max(len(row.ids) for row in prepared.data.rows)
        if old.most_tokens <= longest:
            raise _no_memory(prepared.recipe)
        new = Plan(max(longest, old.most_tokens // 2), old.recompute, old.unpacked)
        keep_plan(folder, new)
        return new

    return Loop(
        prepared.recipe, model, learner, prepared.data, folder, plan,
        team=team, progress=progress, limit=limit, passed=passed, replan=replan,
    )  # fmt: skip


def _manifest(prepared: Prepared, step: int, log: Log) -> Manifest:
    recipe, data = prepared.recipe, prepared.data
    return Manifest(
        base_model=recipe.model,
        base_revision=prepared.base.revision,
        base_digest=prepared.base.weights if prepared.base.directory else None,
        quantization=recipe.quantization,
        dtype=str(prepared.dtype).removeprefix("torch."),
        prompt_format=recipe.prompt_format,
        data=recipe.data,
        data_sha256=prepared.data_sha256,
        n_rows=len(data.rows),
        n_dropped=data.dropped,
        n_tokens=data.n_tokens,
        n_trained_tokens=data.n_trained_tokens,
        steps=step,
        seconds=round(log.seconds, 1),
        created=now(),
        recipe=recipe.to_dict(),
        adapter_digest=prepared.adapter.weights if prepared.adapter else None,
        losses=tuple(log.losses),
        scores=tuple(log.scores),
        best_step=best_step(log),
        margins=tuple(log.margins),
        git_commit=git_commit(),
        versions=package_versions(),
        hardware=hardware(),
    )


@contextmanager
def _in_memory(recipe: Recipe) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _no_memory(recipe) from error


def _no_memory(recipe: Recipe) -> ModelError:
    smaller = {
        "sft": f"micro_batch_tokens={recipe.max_length}",
        "dpo": f"batch_size=1 gradient_accumulation={recipe.rows_per_step}",
    }
    return ModelError(
        f"Training {recipe.model} doesn't fit the device's memory. "
        f"Try: {smaller[recipe.method]}, recompute_layers=1000 or quantization=nf4"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of other packages that a person can do nothing about."""
    with warnings.catch_warnings():
        # transformers 5.23 names the same thing anew; older ones know only the old name.
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated")
        # bitsandbytes says for every layer that int8 casts its input; it always does.
        warnings.filterwarnings("ignore", message="MatMul8bitLt")
        yield
