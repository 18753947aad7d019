"""The training loop: which rows a step takes, what it computes, and what a killed run goes on from.

TRL is the oracle of a step, transformers of the schedule; tiny models are killed and resumed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.engine.packaged import SMOLLM2
from harness.errors import DiskFullError, ModelError
from train import checkpoints
from train.data import TokenData, TokenRow
from train.loop import Loop
from train.packing import Packed, Schedule, divided, passes
from train.plain import PlainLearner, RowAttention
from train.planning import Plan
from train.recipe import Recipe

STARTER = Path(__file__).parent.parent / "train" / "data" / "starter_uz.jsonl"

# ---------------------------------------------------------------- rows of a step


def test_rows_lie_behind_one_another_with_positions_of_their_own() -> None:
    packed = Packed.of([TokenRow([7, 8, 9, 2], 2), TokenRow([5, 6, 2], 1), TokenRow([4, 2], 0)])
    assert packed.ids.tolist() == [7, 8, 9, 2, 5, 6, 2, 4, 2]
    assert packed.positions.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1]
    assert packed.lengths.tolist() == [4, 3, 2]
    assert packed.predictors.tolist() == [1, 2, 4, 5, 7]
    assert packed.targets.tolist() == [9, 2, 6, 2, 2]  # the first token of a row is predicted by nothing


def test_every_epoch_has_every_row_once_and_its_last_step_the_rest() -> None:
    schedule = Schedule(n_rows=103, rows_per_step=8, epochs=2.5, max_steps=0, seed=1)
    assert schedule.steps_per_epoch == 13
    assert schedule.steps == 33
    for epoch in (0, 1):
        steps = [schedule.rows(epoch * 13 + step) for step in range(13)]
        assert sorted(row for step in steps for row in step) == list(range(103))
        assert [len(step) for step in steps] == [8] * 12 + [7]


def test_order_follows_from_seed_and_epoch_alone() -> None:
    order = [Schedule(50, 7, 3, 0, seed).rows(3) for seed in (1, 1, 2)]
    assert order[0] == order[1] != order[2]
    assert Schedule(50, 7, 3, 0, 1).rows(0) != Schedule(50, 7, 3, 0, 1).rows(8)


def test_passes_hold_every_row_once_and_no_more_tokens_than_they_may() -> None:
    rng = random.Random(4)
    for _ in range(200):
        lengths = [rng.randint(1, 300) for _ in range(rng.randint(1, 40))]
        most = rng.randint(1, 2000)
        parts = passes(lengths, most)
        assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
        for part in parts:
            assert len(part) == 1 or sum(lengths[row] for row in part) <= most


def test_processes_share_a_steps_tokens_about_evenly() -> None:
    rng = random.Random(5)
    lengths = [rng.randint(40, 400) for _ in range(32)]
    loads = [sum(lengths[row] for row in part) for part in divided(lengths, 2)]
    assert max(loads) - min(loads) <= min(lengths)
    assert divided([5, 6], 4) == [[1], [0]]


# ---------------------------------------------------------------- what a step computes


def token_rows(n: int, vocabulary: int = 400, seed: int = 3) -> tuple[TokenRow, ...]:
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        length = rng.randint(6, 40)
        rows.append(TokenRow([rng.randrange(3, vocabulary) for _ in range(length)], rng.randint(0, length - 2)))
    return tuple(rows)


def recipe_of(model: Path | str, **values: Any) -> Recipe:
    usual = {"data": "rows", "out": "out", "lora_rank": 4, "lora_alpha": 8, "learning_rate": 5e-3, "batch_size": 4}
    return Recipe(**{"model": str(model), "gradient_accumulation": 1, "max_steps": 6, **usual, **values})


def tuned(model: Path | str, recipe: Recipe) -> Any:
    from transformers import AutoModelForCausalLM

    from train.qlora import add_adapter

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return add_adapter(base.requires_grad_(False), recipe)


def loop_of(model: Path | str, folder: Path, most_tokens: int = 10**6, n_rows: int = 24, **values: Any) -> Loop:
    recipe = recipe_of(model, **values)
    peft = tuned(model, recipe)
    return Loop(recipe, peft, PlainLearner(peft), TokenData(token_rows(n_rows), {}), folder, Plan(most_tokens))


def weights(loop: Loop) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in loop.parameters])


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3_text", "qwen3", "phi3", "gpt2"])
def test_packed_loss_and_gradient_are_those_of_rows_alone(kind: str, tmp_path: Path, tokenizer_directory: Path) -> None:
    from tests.conftest import save_tiny

    model = save_tiny(tmp_path / kind, tokenizer_directory, kind)
    recipe = recipe_of(model)
    peft = tuned(model, recipe)
    for module in peft.modules():
        if isinstance(module, torch.nn.Dropout):  # GPT-2's own
            module.p = 0.0
    learner = PlainLearner(peft)
    assert learner.packs is (kind != "gpt2")
    rows = token_rows(5)
    together = learner.loss(Packed.of(rows), seed=1)
    together.backward()
    gradient = {name: each.grad.clone() for name, each in peft.named_parameters() if each.grad is not None}
    peft.zero_grad()
    alone = sum(learner.loss(Packed.of([row]), seed=1) for row in rows)
    alone.backward()
    assert together.item() == pytest.approx(alone.item(), rel=1e-6)
    for name, each in peft.named_parameters():
        if each.grad is not None:
            assert torch.allclose(each.grad, gradient[name], atol=1e-4 * gradient[name].abs().max()), name


def test_a_row_sees_nothing_of_its_neighbours() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, 8) for heads in (4, 2, 2))
    for window in (None, 3):
        whole = RowAttention(np.array([4, 5]))(0, query, key, value, 0.3, window)
        changed = key.clone()
        changed[:, :, :4] += 10
        again = RowAttention(np.array([4, 5]))(0, query, changed, value, 0.3, window)
        assert torch.equal(whole[:, :, 4:], again[:, :, 4:])
        assert not torch.equal(whole[:, :, :4], again[:, :, :4])


def test_steps_are_the_same_however_they_are_divided_into_passes(tiny: Path, tmp_path: Path) -> None:
    logs = [loop_of(tiny, tmp_path, most).run().losses for most in (10**6, 60, 1)]
    for other in logs[1:]:
        for (step, loss), (step_too, loss_too) in zip(logs[0], other, strict=True):
            assert step == step_too
            assert loss == pytest.approx(loss_too, abs=1e-5)


def test_computing_activations_twice_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    once, twice = loop_of(tiny, tmp_path), loop_of(tiny, tmp_path)
    twice.plan = Plan(10**6, recompute=3)
    assert once.run().losses == twice.run().losses
    assert torch.equal(weights(once), weights(twice))


def trl_losses(model: Path | str, recipe: Recipe, rows: tuple[TokenRow, ...], schedule: Schedule) -> list[float]:
    """What TRL's SFTTrainer reports on the very rows of each step, in their order."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from train.qlora import quiet

    order = [row for step in range(schedule.steps) for row in schedule.rows(step)]
    given = [
        {
            "input_ids": rows[at].ids,
            "completion_mask": [int(n >= max(rows[at].n_prompt, 1)) for n in range(len(rows[at].ids))],
        }
        for at in order
    ]

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    with quiet():
        peft = tuned(model, recipe)
        trainer = InOrder(
            model=peft,
            args=SFTConfig(
                output_dir=recipe.out,
                per_device_train_batch_size=recipe.batch_size,
                gradient_accumulation_steps=recipe.gradient_accumulation,
                max_steps=schedule.steps,
                num_train_epochs=1,
                learning_rate=recipe.learning_rate,
                lr_scheduler_type=recipe.schedule,
                warmup_steps=recipe.warmup_ratio,
                max_grad_norm=recipe.max_grad_norm,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                max_length=None,
                completion_only_loss=True,  # rows that come in tokens are trained on whole unless it is said
                logging_steps=1,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_list(given),
            processing_class=AutoTokenizer.from_pretrained(model),
        )
        trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def test_hundred_steps_are_trls(tiny: Path, tmp_path: Path) -> None:
    values = {"max_steps": 100, "gradient_accumulation": 2, "schedule": "cosine", "warmup_ratio": 0.1, "batch_size": 3}
    loop = loop_of(tiny, tmp_path, n_rows=600, **values)
    ours = [loss for _, loss in loop.run().losses]
    theirs = trl_losses(tiny, recipe_of(tiny, out=str(tmp_path / "trl"), **values), loop.data.rows, loop.schedule)
    assert len(ours) == len(theirs) == 100
    assert ours[-1] < ours[0] - 0.05
    assert max(abs(one - two) for one, two in zip(ours, theirs, strict=True)) < 1e-4


@pytest.mark.model
def test_hundred_steps_of_a_real_model_are_trls_packed_or_not(tmp_path: Path) -> None:
    from harness.engine.packaged import checkpoint
    from train.qlora import prepare

    values = {"max_steps": 100, "batch_size": 1, "gradient_accumulation": 2, "learning_rate": 1e-3, "lora_rank": 8}
    lines = sorted(STARTER.read_text(encoding="utf-8").splitlines(), key=len)[:60]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(lines), encoding="utf-8")
    recipe = recipe_of(SMOLLM2.name, **{**values, "data": str(data), "out": str(tmp_path / "out")})
    rows = prepare(recipe).data
    model = checkpoint(SMOLLM2)
    peft = tuned(model, recipe)
    learner = PlainLearner(peft)
    loop = Loop(recipe, peft, learner, rows, tmp_path, Plan(10**6))
    learn, packed_or_not = learner.learn, []

    def both(packed: Packed, *, seed: int, n_trained: int) -> torch.Tensor:
        loss = learn(packed, seed=seed, n_trained=n_trained)
        if loop.step % 5 == 0:  # on the very same weights, each row by itself
            alone = [Packed.of([rows.rows[row]]) for row in loop.schedule.rows(loop.step)]
            with torch.no_grad():
                unpacked = sum(learner.loss(each, seed=seed).item() for each in alone)
            packed_or_not.append(abs(loss.item() - unpacked / n_trained))
        return loss

    learner.learn = both  # type: ignore[method-assign]
    ours = [loss for _, loss in loop.run().losses]
    theirs = trl_losses(model, recipe, rows.rows, loop.schedule)
    apart = max(abs(one - two) for one, two in zip(ours, theirs, strict=True))
    print(f"packed and unpacked {max(packed_or_not):.1e}, ours and TRL's {apart:.1e}, {ours[0]:.3f} → {ours[-1]:.3f}")
    assert len(packed_or_not) == 20
    assert max(packed_or_not) < 1e-5
    assert apart < 1e-4


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_learning_rate_is_transformers_own(schedule: str, tiny: Path, tmp_path: Path) -> None:
    from transformers import get_scheduler

    loop = loop_of(tiny, tmp_path, schedule=schedule, warmup_ratio=0.15, max_steps=37, learning_rate=3e-4)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, optimizer, num_warmup_steps=6, num_training_steps=37)
    for step in range(37):
        assert loop.learning_rate(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-15)
        optimizer.step()
        theirs.step()


def test_loss_that_is_no_number_stops_the_run_with_a_lower_learning_rate(tiny: Path, tmp_path: Path) -> None:
    loop = loop_of(tiny, tmp_path, learning_rate=0.1)
    learner = loop.learner
    loss = learner.loss

    def runaway(packed: Packed, *, seed: int) -> torch.Tensor:
        return loss(packed, seed=seed) * (float("nan") if loop.step == 2 else 1.0)

    learner.loss = runaway  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"loss of step 3 is nan.*learning_rate=0.025"):
        loop.run()


def test_step_that_does_not_fit_is_done_again_in_smaller_passes(tiny: Path, tmp_path: Path) -> None:
    loop, undisturbed = loop_of(tiny, tmp_path), loop_of(tiny, tmp_path)
    learner, asked = loop.learner.loss, []

    def loss(packed: Packed, *, seed: int) -> torch.Tensor:
        asked.append(len(packed))
        if len(packed) > 60:
            raise torch.OutOfMemoryError("planted")
        return learner(packed, seed=seed)

    loop.learner.loss = loss  # type: ignore[method-assign]
    loop._replan = lambda plan: Plan(min(60, plan.most_tokens))
    found = loop.run().losses
    assert asked[0] > 60 >= max(asked[1:])
    for (_, one), (_, two) in zip(found, undisturbed.run().losses, strict=True):
        assert one == pytest.approx(two, abs=1e-5)


# ---------------------------------------------------------------- going on


@pytest.fixture
def short(tmp_path: Path, tiny: Path) -> Recipe:
    """A few steps on a tiny model, with dropout."""
    lines = sorted(STARTER.read_text(encoding="utf-8").splitlines(), key=len)[:21]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return recipe_of(
        tiny, data=str(tmp_path / "rows.jsonl"), out=str(tmp_path / "whole"), epochs=6, max_steps=0, batch_size=2,
        gradient_accumulation=2, lora_dropout=0.1, save_steps=1,
    )  # fmt: skip


def adapter_bytes(out: str) -> bytes:
    return (Path(out) / "adapter_model.safetensors").read_bytes()


def killed(recipe: Recipe, step: int) -> None:
    """Starts a run and kills it when a checkpoint of a step is there."""
    code = f"from train import Recipe, train; train(Recipe.from_dict({recipe.to_dict()!r}))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 300
    while not any(int(path.parent.name.split("-")[1]) >= step for path in found_states(recipe)):
        assert process.poll() is None, "it was done before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def found_states(recipe: Recipe) -> list[Path]:
    return list(Path(recipe.out + ".checkpoints").glob("*/checkpoint-*/state.json"))


def test_run_killed_five_times_ends_in_the_same_bytes(short: Recipe, tmp_path: Path) -> None:
    from train import train

    whole = train(short, progress=False)
    assert whole.manifest.steps == 36
    cut = Recipe.from_dict({**short.to_dict(), "out": str(tmp_path / "cut")})
    steps = sorted(random.Random(11).sample(range(1, 34), 5))
    for step in steps:
        killed(cut, step)
        assert not Path(cut.out).exists()
    resumed = train(cut, progress=False)
    assert resumed.resumed_from >= steps[-1]
    assert adapter_bytes(cut.out) == adapter_bytes(short.out)
    assert resumed.manifest.losses == whole.manifest.losses
    assert not Path(cut.out + ".checkpoints").exists()


def test_newest_checkpoints_are_kept_and_one_cut_off_is_not_there(tiny: Path, tmp_path: Path) -> None:
    loop = loop_of(tiny, tmp_path, save_steps=1, keep_checkpoints=2)
    (tmp_path / ".checkpoint-9.part").mkdir()
    loop.run()
    assert [path.name for path in checkpoints.found(tmp_path)] == ["checkpoint-4", "checkpoint-5"]
    assert checkpoints.found(tmp_path / "absent") == []


def test_full_disk_leaves_the_last_checkpoint_as_it_was(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    from train.disk import weights_disk_faults

    loop = loop_of(tiny, tmp_path, save_steps=2)
    save, written = checkpoints.save_file, []

    def full(tensors: Any, path: Path) -> None:
        if written:
            path.write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        written.append(path)
        save(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(DiskFullError), weights_disk_faults(tmp_path):
        loop.run()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["checkpoint-2"]
    again = loop_of(tiny, tmp_path, save_steps=100)
    assert again.go_on_from(tmp_path / "checkpoint-2") == 2
    again.run()
    undisturbed = loop_of(tiny, tmp_path / "other", save_steps=100)
    undisturbed.run()
    assert torch.equal(weights(again), weights(undisturbed))


def test_checkpoint_belongs_to_what_changes_the_adapter_and_nothing_else(short: Recipe) -> None:
    from train.qlora import _run_key, prepare

    def key(**values: Any) -> str:
        return _run_key(prepare(Recipe.from_dict({**short.to_dict(), **values})))

    assert key() == key(save_steps=7, out="elsewhere", keep_checkpoints=5)
    assert key() != key(learning_rate=1e-3)
    assert key() != key(lora_dropout=0.2)
    lines = Path(short.data).read_text(encoding="utf-8").splitlines()
    before = key()
    Path(short.data).write_text("\n".join(lines[1:]), encoding="utf-8")
    assert key() != before


def test_two_processes_come_to_the_curve_of_one(short: Recipe, tmp_path: Path) -> None:
    from train import train

    alone = train(Recipe.from_dict({**short.to_dict(), "lora_dropout": 0.0}), progress=False)
    both = Recipe.from_dict({**short.to_dict(), "lora_dropout": 0.0, "out": str(tmp_path / "both")})
    code = (
        "import os\nfrom train import Recipe, train\n"
        f"open({str(tmp_path)!r} + '/rank' + os.environ['RANK'], 'w')\n"
        f"train(Recipe.from_dict({both.to_dict()!r}))"
    )
    (tmp_path / "run.py").write_text(code, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    configured = str(Path(__file__).parent.parent / "train" / "accelerate" / "ddp.yaml")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", configured]
    launch += ["--num_processes", "2", "--main_process_port", "0"]
    done = subprocess.run([*launch, str(tmp_path / "run.py")], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "rank0").exists()
    assert (tmp_path / "rank1").exists()
    manifest = json.loads((tmp_path / "both" / "uzbench_manifest.json").read_text(encoding="utf-8"))
    assert [step for step, _ in manifest["losses"]] == [step for step, _ in alone.manifest.losses]
    for (_, one), (_, two) in zip(manifest["losses"], alone.manifest.losses, strict=True):
        assert one == pytest.approx(two, abs=1e-4)
