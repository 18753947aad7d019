"""A base in shards, over two processes that accelerate starts: what one process comes to is the oracle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from harness.errors import ModelError, UsageError
from train import qlora, train
from train.planning import Plan
from train.recipe import Recipe
from train.sharded import check_shardable, sharded_plan
from train.team import Team

ROOT = Path(__file__).parent.parent
STARTER = ROOT / "train" / "data" / "starter_uz.jsonl"

SCRIPT = """
import json, sys, torch
from train import Recipe, qlora

shard = qlora.shard


def told(model):
    shard(model)
    held = sum(each.to_local().nbytes for each in model.parameters() if not each.requires_grad)
    print(json.dumps({"held": held}), flush=True)


qlora.shard = told
qlora.train(Recipe.from_dict(json.loads(sys.argv[1])), progress=False)
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny: Path) -> Recipe:
    """Steps of three rows, one process mostly has a pass, the other one two; the last of an epoch has one row."""
    lines = sorted(STARTER.read_text(encoding="utf-8").splitlines(), key=len)[:13]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return Recipe(
        str(tiny), str(tmp_path / "rows.jsonl"), str(tmp_path / "alone"), epochs=2, batch_size=3,
        gradient_accumulation=1, lora_rank=4, lora_alpha=8, learning_rate=1e-3, micro_batch_tokens=60, save_steps=1,
    )  # fmt: skip


def changed(recipe: Recipe, **values: Any) -> Recipe:
    return Recipe.from_dict({**recipe.to_dict(), **values})


def launched(recipe: Recipe) -> subprocess.Popen[str]:
    """The recipe in two processes, as the first line of fsdp.yaml has it."""
    script = Path(recipe.data).with_name("run.py")
    script.write_text(SCRIPT, encoding="utf-8")
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "train" / "accelerate" / "fsdp.yaml")]
    command = [*launch, "--num_processes", "2", "--main_process_port", "0", str(script), json.dumps(recipe.to_dict())]
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9 of a launcher and of what it has started, which outlives it."""
    for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        each.kill()
    process.communicate()


def killed(recipe: Recipe, step: int) -> None:
    """Starts a run and kills its processes when a checkpoint of a step is there."""
    process = launched(recipe)
    deadline = time.monotonic() + 120
    try:
        while not list(Path(recipe.out + ".checkpoints").glob(f"*/checkpoint-{step}/state.json")):
            assert process.poll() is None, "it was done before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        kill(process)


def ended(process: subprocess.Popen[str]) -> list[dict[str, int]]:
    """What each process of a run said when it has ended."""
    try:
        out, error = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    assert process.returncode == 0, error[-2000:]
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def assert_same_training(recipe: Recipe, other: Recipe) -> None:
    losses, others = (
        json.loads((Path(each.out) / "uzbench_manifest.json").read_text(encoding="utf-8"))["losses"]
        for each in (recipe, other)
    )
    assert len(losses) == 10
    for (step, loss), (other_step, other_loss) in zip(losses, others, strict=True):
        assert step == other_step
        assert loss == pytest.approx(other_loss, abs=1e-4)
    adapter, other_adapter = (load_file(Path(each.out) / "adapter_model.safetensors") for each in (recipe, other))
    assert adapter.keys() == other_adapter.keys()
    for name, tensor in adapter.items():
        # AdamW divides a gradient by its own size: near 0, what is left of it is the order of summing.
        assert torch.allclose(tensor, other_adapter[name], rtol=0, atol=1e-5), name


def test_two_shards_come_to_what_one_process_does_though_killed_on_the_way(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, progress=False)
    both = changed(recipe, out=str(tmp_path / "both"))
    killed(both, step=4)
    assert not Path(both.out).exists()
    said = ended(launched(both))
    assert_same_training(both, recipe)
    base = AutoModelForCausalLM.from_pretrained(recipe.model, dtype=torch.float32)
    whole = sum(parameter.nbytes for parameter in base.parameters())
    assert len(said) == 2
    assert all(abs(each["held"] / whole - 0.5) < 0.01 for each in said)


def test_shards_of_an_nf4_base_come_to_what_one_process_does(recipe: Recipe, tmp_path: Path) -> None:
    alone = changed(recipe, quantization="nf4", recompute_layers=2)
    train(alone, progress=False)
    both = changed(alone, out=str(tmp_path / "both"))
    ended(launched(both))
    assert_same_training(both, alone)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"quantization": "int8"}, "quantization: int8 can't be sharded. Try: quantization=nf4"),
        ({"quantization": "fp8"}, "quantization: fp8 can't be sharded. Try: quantization=nf4"),
        ({"eval_steps": 10}, "eval_steps: a base in shards can't be asked on the way"),
    ],
)
def test_what_shards_cannot_do_is_refused(tiny: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_shardable(Recipe(str(tiny), "rows", "out", **values), AutoConfig.from_pretrained(tiny))


def test_dpo_is_refused_in_several_processes(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    team = Team()
    team.n = 2
    monkeypatch.setattr(qlora, "make_team", lambda: team)
    with pytest.raises(UsageError, match="method: dpo runs in one process"):
        train(changed(recipe, method="dpo", micro_batch_tokens=0), progress=False)


def test_architecture_whose_layers_are_not_known_is_refused(tiny: Path) -> None:
    with pytest.raises(ModelError, match="architecture gpt2"):
        check_shardable(Recipe(str(tiny), "rows", "out"), AutoConfig.for_model("gpt2"))


def test_layers_are_computed_twice_unless_the_recipe_says_otherwise(tiny: Path) -> None:
    config = AutoConfig.from_pretrained(tiny)
    assert sharded_plan(Recipe(str(tiny), "rows", "out"), config) == Plan(4096, recompute=4)
    chosen = Recipe(str(tiny), "rows", "out", recompute_layers=1, micro_batch_tokens=700)
    assert sharded_plan(chosen, config) == Plan(700, recompute=1)
