"""What a run is said to take before it starts. `python -m train.bench` holds it against what a GPU then takes."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.engine.shapes import SHAPES
from harness.errors import ModelError
from train import memory
from train.recipe import Recipe

GIB = 2**30


def recipe_of(**values: Any) -> Recipe:
    return Recipe(**{"model": "m", "data": "d", "out": "o", **values})


def shape_of(shape: str = "mistral-7b", **values: Any) -> memory.Shape:
    from transformers import AutoConfig

    found = memory.Shape.of(AutoConfig.for_model(**SHAPES[shape]), recipe_of(**values))
    assert found is not None
    return found


def steps(n: int = 20, rows: int = 32) -> list[tuple[list[int], list[int]]]:
    rng = random.Random(1)
    found = []
    for _ in range(n):
        lengths = [max(40, min(1024, int(rng.lognormvariate(5.4, 0.6)))) for _ in range(rows)]
        found.append((lengths, [length * 6 // 10 for length in lengths]))
    return found


def test_parameters_are_those_of_the_model() -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**SHAPES["tiny"])
    model = AutoModelForCausalLM.from_config(config)
    for targets in (("all-linear",), ("q_proj", "v_proj"), ("down_proj",)):
        shape = memory.Shape.of(config, recipe_of(lora_rank=4, lora_targets=targets))
        assert shape is not None
        names = "all-linear" if targets == ("all-linear",) else list(targets)
        peft = get_peft_model(model, LoraConfig(r=4, target_modules=names, task_type="CAUSAL_LM"))
        assert shape.n_adapter == sum(each.numel() for each in peft.parameters() if each.requires_grad)
        model = peft.unload()
    layers = model.model.layers.parameters()
    assert shape.n_linear == sum(each.numel() for each in layers if each.dim() == 2)


def test_what_was_measured_on_an_h100_is_reckoned_within_a_hundredth() -> None:
    # `python -m train.bench … --shape mistral-7b`, the largest pass of each: tokens, trained, layers unpacked, peak.
    for base, targets, unpacked, measured in (
        ("none", ("all-linear",), 0, 49.1),
        ("nf4", ("all-linear",), 32, 52.9),
        ("fp8", ("all-linear",), 0, 62.1),
        ("int8", ("q_proj", "v_proj"), 32, 55.1),
    ):
        rank = 8 if base == "int8" else 16
        shape = shape_of(quantization=base, lora_rank=rank, lora_targets=targets)
        found = memory.peak_bytes(shape, 10347, 6200, 0, unpacked) / GIB
        assert found == pytest.approx(measured, rel=0.01), base


def test_less_memory_takes_shorter_passes_then_activations_computed_twice() -> None:
    shape, recipe = shape_of(quantization="nf4"), recipe_of(quantization="nf4")
    plans = [memory.planned(shape, steps(), gib * GIB, recipe) for gib in (80, 48, 24, 12)]
    for gib, (tokens, recompute, unpacked) in zip((80, 48, 24, 12), plans, strict=True):
        assert memory.peak_bytes(shape, tokens, tokens * 6 // 10, recompute, unpacked) <= gib * GIB
    assert plans[0][1:] == (0, 32)
    assert plans[0][0] >= max(sum(lengths) for lengths, _ in steps())
    assert plans[2][2] == 0
    assert plans[3][1] > 0
    assert [plan[0] for plan in plans] == sorted((plan[0] for plan in plans), reverse=True)


def test_a_row_that_fits_nowhere_is_refused_with_what_would() -> None:
    with pytest.raises(ModelError, match=r"The longest row, \d+ tokens, takes .* Try: quantization=nf4"):
        memory.planned(shape_of(), steps(), 10 * GIB, recipe_of())


def test_what_a_person_asks_for_is_planned() -> None:
    shape, recipe = shape_of(), recipe_of(micro_batch_tokens=2048, recompute_layers=5)
    assert memory.planned(shape, steps(), 80 * GIB, recipe) == (2048, 5, 0)


def test_more_of_anything_takes_more_memory() -> None:
    shape = shape_of()
    peak = memory.peak_bytes(shape, 4000, 2000, 3)
    assert memory.peak_bytes(shape, 4500, 2000, 3) > peak
    assert memory.peak_bytes(shape, 4000, 2500, 3) > peak
    assert memory.peak_bytes(shape, 4000, 2000, 2) > peak
    assert memory.fixed_bytes(replace(shape, base="nf4")) < memory.fixed_bytes(replace(shape, base="int8"))
    assert memory.fixed_bytes(replace(shape, base="int8")) < memory.fixed_bytes(shape)


def test_estimate_counts_tokens_steps_and_disk(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from harness.cli import app
    from train import estimate as module
    from train.estimate import estimate, known_rate

    rows = Path(__file__).parent.parent / "train" / "data" / "starter_uz.jsonl"
    lines = sorted(rows.read_text(encoding="utf-8").splitlines(), key=len)[:21]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    recipe = recipe_of(
        model=str(tiny), data=str(tmp_path / "rows.jsonl"), out=str(tmp_path / "out"), batch_size=2, epochs=2.5,
        gradient_accumulation=2, keep_checkpoints=1, usd_per_hour=3.0, lora_rank=64,
    )  # fmt: skip
    monkeypatch.setattr(module, "known_rate", lambda quantization: None)
    found = estimate(recipe)
    assert found.steps == 15
    assert found.n_rows == 21
    assert found.minutes is None
    assert "time unknown on this device" in found.line
    assert found.disk_mib == pytest.approx(7 * found.adapter_mib, rel=0.1)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.checkpoints").exists()

    monkeypatch.setattr(module, "known_rate", lambda quantization: 1e9)
    timed = estimate(recipe)
    assert timed.minutes > 0
    assert timed.usd == pytest.approx(timed.minutes / 20, abs=0.01)
    assert known_rate("nf4") is None or known_rate("nf4") > 0

    file = tmp_path / "recipe.yaml"
    file.write_text(f"model: {tiny}\ndata: {tmp_path}/rows.jsonl\nout: {tmp_path}/out\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["train", str(file), "--dry-run", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["steps"] == 3
    assert not (tmp_path / "out").exists()


def test_rate_of_a_device_is_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from transformers import AutoConfig

    from train import estimate as module
    from train.planning import Plan

    monkeypatch.setenv("UZBENCH_CACHE", str(tmp_path))
    prepared: Any = SimpleNamespace(
        config=AutoConfig.for_model(**SHAPES["tiny"]), recipe=recipe_of(), work_per_token=lambda shape: 100.0
    )
    module.remember_rate(prepared, Plan(2048), 1_000, 100.0)
    assert module.known_rate("none") is None
    module.remember_rate(prepared, Plan(2048), 50_000, 100.0)
    assert module.known_rate("none") == pytest.approx(50_000)
    (tmp_path / "training_rates.json").write_text("damaged", encoding="utf-8")
    assert module.known_rate("none") is None
