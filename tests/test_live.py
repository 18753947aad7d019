"""Evaluation while training: a tiny model is asked on the way, and trained on as if nothing had been asked."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import save_tiny

from harness.errors import UnknownNameError, UsageError
from harness.evaluate import run, run_live
from harness.files import read_json
from harness.records import Overall, RunSpec
from harness.runs import RunDirectory, find_runs
from reports.plots import steps
from train.recipe import Recipe
from train.trackers import check_trackers

ROOT = Path(__file__).resolve().parent.parent
ROWS = (ROOT / "train" / "data" / "demo_uz.jsonl").read_text(encoding="utf-8").splitlines()[:8]
BYTES = ("samples.jsonl", "scores.jsonl", "result.json")


@pytest.fixture
def recipe(tmp_path: Path, tiny: Path) -> Recipe:
    """Three steps of two rows, a look at each; what a step does doesn't depend on how many there are."""
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(ROWS) + "\n", encoding="utf-8")
    return Recipe(
        model=str(tiny),
        data=str(data),
        out=str(tmp_path / "mine"),
        max_steps=3,
        batch_size=2,
        gradient_accumulation=1,
        learning_rate=2e-2,
        schedule="constant",
        warmup_ratio=0.0,
        lora_rank=4,
        lora_dropout=0.1,
        save_steps=1,
        eval_steps=1,
        eval_tasks=("uz_topic",),
        eval_limit=4,
    )


def changed(recipe: Recipe, **values: Any) -> Recipe:
    return dataclasses.replace(recipe, **values)


def trained(recipe: Recipe, **options: Any) -> Any:
    from train.qlora import train

    return train(recipe, progress=False, **options)


def weights(adapter: Path | str) -> bytes:
    return (Path(adapter) / "adapter_model.safetensors").read_bytes()


def answers(found: RunDirectory) -> list[bytes]:
    return [(found.path / name).read_bytes() for name in BYTES]


def runs_of(recipe: Recipe) -> dict[str, RunDirectory]:
    """The runs of a training by the end of their names, the base's ""."""
    return {found.run.model_name.partition("@")[2]: found for found in find_runs(Path(f"{recipe.out}.eval") / "runs")}


def written(folder: Path, recipe: Recipe) -> Path:
    usual, chosen = Recipe("m", "d", "o").to_dict(), recipe.to_dict()
    path = folder / "recipe.yaml"
    lines = [f"{key}: {value!r}\n" for key, value in chosen.items() if value != usual[key]]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def scored(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """Makes evaluations give these scores, one after the other."""
    from train import live

    planned = iter(scores)
    written = live._overall

    def overall(*given: Any) -> Overall:
        return dataclasses.replace(written(*given), cand=next(planned))

    monkeypatch.setattr(live, "_overall", overall)


# ---------------------------------------------------------------- asking


def test_live_model_answers_as_its_saved_adapter_does_to_the_byte(recipe: Recipe, tmp_path: Path) -> None:
    recipe = changed(recipe, max_steps=1, eval_tasks=("uz_topic", "uz_qa"), eval_limit=3)
    trained(recipe)
    spec = RunSpec(recipe.model, tasks=recipe.eval_tasks, limit=3, prompt_format="alpaca")
    base, tuned = run(spec, adapters=[recipe.out], out=tmp_path / "runs", progress=False)
    live = runs_of(recipe)
    assert answers(live[""]) == answers(base)
    assert answers(live["1"]) == answers(tuned)
    assert answers(base) != answers(tuned)
    assert live["1"].run.model_name == "tiny+mine@1"


def test_no_step_is_answered_for_by_another(recipe: Recipe) -> None:
    trained(recipe)
    found = runs_of(recipe)
    assert sorted(found) == ["", "1", "2", "3"]
    assert len({each.run.model_key for each in found.values()}) == 4
    for each in found.values():
        assert each.run.requests["reused"] == 0
        assert each.run.requests["asked"] == each.run.requests["distinct"]


def test_training_with_evaluations_gives_the_adapter_of_one_without(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, 0.1, 0.2, 0.3)
    looked = trained(recipe)
    plain = trained(changed(recipe, out=f"{recipe.out}-2", eval_steps=0))
    assert looked.manifest.losses == plain.manifest.losses
    assert weights(looked.adapter) == weights(plain.adapter)
    assert plain.manifest.scores == ()
    assert plain.manifest.best_step is None


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_gradient_after_an_evaluation_is_the_one_before(kind: str, tmp_path: Path, tokenizer_directory: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.engine.identity import Located, locate_model
    from train.data import TokenRow
    from train.packing import Packed
    from train.plain import PlainLearner

    path = save_tiny(tmp_path / kind, tokenizer_directory, kind)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, lora_dropout=0.1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(path), config)
    learner = PlainLearner(model)
    packed = Packed.of([TokenRow((5, 6, 7, 8, 9), 2), TokenRow((9, 8, 7), 1)])

    def gradient() -> list[torch.Tensor]:
        model.zero_grad(set_to_none=True)
        learner.loss(packed, seed=1).backward()
        return [each.grad.clone() for each in model.parameters() if each.requires_grad]

    def state() -> tuple[Any, ...]:
        modes = [module.training for module in model.modules()]
        own = [name for name, module in model.named_modules() if "forward" in vars(module)]
        return modes, own, [name for name, each in model.named_parameters() if each.requires_grad]

    before, was = gradient(), state()
    spec = RunSpec(str(path), tasks=("uz_topic", "uz_qa"), limit=1)
    tokenizer = AutoTokenizer.from_pretrained(path)
    for adapter in (None, Located("mine@1", None, "digest")):
        run_live(
            spec, model, tokenizer, locate_model(str(path)), adapter=adapter, out=tmp_path / "runs", progress=False
        )
        assert state() == was
        assert all(torch.equal(one, two) for one, two in zip(before, gradient(), strict=True))


def test_kernels_are_taken_out_of_a_model_again(tiny: Path) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.models.llama import modeling_llama

    from harness.engine import fused

    model, written = AutoModelForCausalLM.from_pretrained(tiny), modeling_llama.apply_rotary_pos_emb
    with fused.fuse(model.model):
        assert modeling_llama.apply_rotary_pos_emb is not written
        assert any("forward" in vars(module) for module in model.modules())
    assert modeling_llama.apply_rotary_pos_emb is written
    assert not any("forward" in vars(module) for module in model.modules())


# ---------------------------------------------------------------- deciding


def test_best_adapter_is_left_and_the_manifest_says_whose_it_is(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, 0.2, 0.5, 0.5)
    found = trained(recipe)
    assert found.manifest.best_step == 2
    assert found.manifest.steps == 3
    assert [score for _, score in found.manifest.scores[1:]] == [0.2, 0.5, 0.5]
    assert found.manifest.scores[0][0] == 0
    second = trained(changed(recipe, out=f"{recipe.out}-2", eval_steps=0, max_steps=2))
    assert weights(found.adapter) == weights(second.adapter)
    assert not Path(f"{recipe.out}.checkpoints").exists()


def test_training_stops_after_so_many_evaluations_without_a_better_one(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, 0.3, 0.4, 0.4, 0.1)
    found = trained(changed(recipe, max_steps=9, early_stop=2))
    assert (found.manifest.steps, found.manifest.best_step) == (4, 2)


def test_last_step_is_looked_at_whatever_its_number(recipe: Recipe) -> None:
    found = trained(changed(recipe, eval_steps=2))
    assert [step for step, _ in found.manifest.scores] == [0, 2, 3]


def test_step_without_a_score_is_no_better_one_and_training_goes_on(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.errors import UnpairedError
    from train import live

    def nothing(*_: Any) -> Overall:
        raise UnpairedError("nothing was scored")

    monkeypatch.setattr(live, "_overall", nothing)
    found = trained(changed(recipe, early_stop=2))
    assert found.manifest.steps == 2
    assert (found.manifest.scores, found.manifest.best_step) == ((), None)
    assert weights(found.adapter)


def test_report_is_given_the_base_and_every_step_so_far(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.cli import _write_curve

    scored(monkeypatch, 0.2, 0.3, 0.1)
    given = []

    def report(*parts: Any) -> None:
        given.append((len(parts[0]), len(parts[1]), parts[2]))
        _write_curve(*parts)

    trained(recipe, report=report)
    assert given == [(2, 1, 0), (3, 2, 1), (4, 3, 1)]
    folder = Path(f"{recipe.out}.eval")
    names = [side["model_name"] for side in read_json(folder / "series.json")["sides"]]
    assert steps(names) == [0, 1, 2, 3]
    assert read_json(folder / "comparison.json")["cand"]["model_name"] == "tiny+mine@2"
    assert "tiny+mine@2" in (folder / "report.html").read_text(encoding="utf-8")


def test_command_prints_the_adapter_its_card_and_the_page_and_nothing_else(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.cli import run_command

    assert run_command(["train", str(written(tmp_path, changed(recipe, max_steps=1)))]) == 0
    paths = [recipe.out, f"{recipe.out}/README.md", f"{recipe.out}.eval/report.html"]
    assert capsys.readouterr().out.split() == paths


def test_base_of_other_steps_is_no_step_of_theirs() -> None:
    assert steps(["m", "m+a@5", "m+a@10"]) == [0, 5, 10]
    assert steps(["m", "n+a@5", "n+a@10"]) is None
    assert steps(["m", "m+a@5", "m+b@10"]) is None


# ---------------------------------------------------------------- a kill


def stored(out: Path) -> tuple[int, int]:
    """How many models have answers, and how many answers there are."""
    path = out / "runs" / "store.sqlite"
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) as database:
            return database.execute("SELECT COUNT(DISTINCT model_key), COUNT(*) FROM answers").fetchone()
    except sqlite3.OperationalError:
        return 0, 0


def test_kill_in_an_evaluation_ends_in_the_adapter_and_scores_of_an_undisturbed_run(
    recipe: Recipe, tmp_path: Path
) -> None:
    # Two kinds of requests: the kill falls between them.
    recipe = changed(recipe, eval_tasks=("uz_topic", "uz_qa"), eval_limit=3)
    calm = trained(changed(recipe, out=str(tmp_path / "calm")))
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "train", str(written(tmp_path, recipe))],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while stored(Path(f"{recipe.out}.eval"))[0] < 3 and process.poll() is None:  # the base, step 1, a part of step 2
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    models, kept = stored(Path(f"{recipe.out}.eval"))
    assert models == 3
    again = trained(recipe)
    assert again.resumed_from == 1
    assert again.manifest.scores == calm.manifest.scores
    assert again.manifest.best_step == calm.manifest.best_step
    assert weights(again.adapter) == weights(calm.adapter)
    runs = runs_of(recipe)
    assert runs[""].run.requests["asked"] == 0
    asked = sum(each.run.requests["distinct"] for each in runs.values())
    assert stored(Path(f"{recipe.out}.eval"))[1] == asked
    assert runs["2"].run.requests["reused"] == kept - 2 * runs[""].run.requests["distinct"]
    for name, each in runs_of(changed(recipe, out=str(tmp_path / "calm"))).items():
        assert answers(runs[name]) == answers(each)


# ---------------------------------------------------------------- what is refused


def test_tasks_that_cannot_be_asked_are_told_before_a_model_is_looked_for(recipe: Recipe) -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'uz_topic'\?"):
        trained(changed(recipe, model="nowhere", eval_tasks=("uz_topik",)))
    with pytest.raises(UsageError, match=r"^eval_tasks are in several alphabets \(cyrillic, latin\)"):
        trained(changed(recipe, model="nowhere", eval_tasks=("uz_topic", "uz_topic_cyrl")))


def test_tracker_that_is_not_installed_is_told_before_a_model_is_looked_for(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.trackers.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^trackers: wandb isn't installed. Try: pip install wandb$"):
        trained(changed(recipe, model="nowhere", trackers=("wandb",)))


# ---------------------------------------------------------------- trackers


def test_tensorboard_holds_every_loss_and_every_score(recipe: Recipe) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = trained(changed(recipe, trackers=("tensorboard",)))
    events = EventAccumulator(f"{recipe.out}.logs")
    events.Reload()

    def curve(name: str) -> list[tuple[int, float]]:
        return [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]

    assert list(found.manifest.losses) == curve("loss")
    assert list(found.manifest.scores[1:]) == curve("score")
    assert [step for step, _ in curve("learning_rate")] == [1, 2, 3]
    assert {"base", "delta", "delta_low", "delta_high", "tokens_per_second"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_service_is_begun_told_and_ended_and_prints_nothing_to_stdout(
    name: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Any, ...]] = []

    def log(values: dict[str, float], step: int) -> None:
        print("logged")
        calls.append((step, set(values)))

    def init(**settings: Any) -> None:
        print("* Run initialized")
        calls.append(("init", settings["project"], settings["resume"], "mode" in settings))

    service = SimpleNamespace(init=init, log=log, finish=lambda: calls.append(("finish",)))
    monkeypatch.setitem(sys.modules, name, service)
    monkeypatch.setattr("train.trackers.find_spec", lambda name: service)
    trained(changed(recipe, trackers=(name,), max_steps=2, eval_steps=2))
    # WANDB_MODE is the person's: no mode is given.
    assert calls[0] == ("init", "uzbench", "allow", False)
    assert calls[-1] == ("finish",)
    told = calls[1:-1]
    assert [step for step, names in told if "loss" in names] == [1, 2]
    assert [step for step, names in told if "score" in names] == [2]
    assert capsys.readouterr().out == ""


def test_service_that_does_not_start_is_one_line(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    class Error(Exception):
        pass

    def init(**_: Any) -> None:
        raise Error("api_key not configured (no-tty). call wandb.login(key=[your_api_key])\nmore")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Error=Error))
    monkeypatch.setattr("train.trackers.find_spec", lambda name: True)
    with pytest.raises(UsageError, match=r"^trackers: wandb doesn't start: api_key not configured[^\n]*$"):
        trained(changed(recipe, trackers=("wandb",), eval_steps=0))


def test_no_tracker_needs_nothing() -> None:
    check_trackers(())


# ---------------------------------------------------------------- a real model


@pytest.mark.model
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_small_real_model_is_asked_on_the_way_as_its_saved_adapter_is(
    quantization: str, recipe: Recipe, tmp_path: Path
) -> None:
    recipe = changed(
        recipe, model="SmolLM2-135M-Instruct", quantization=quantization, max_steps=2, eval_steps=2, eval_limit=2
    )
    found = trained(recipe)
    plain = trained(changed(recipe, out=f"{recipe.out}-2", eval_steps=0))
    assert found.manifest.losses == plain.manifest.losses
    spec = RunSpec(recipe.model, tasks=recipe.eval_tasks, limit=2, prompt_format="alpaca", quantization=quantization)
    base, tuned = run(spec, adapters=[recipe.out], out=tmp_path / "runs", progress=False)
    live = runs_of(recipe)
    assert answers(live[""]) == answers(base)
    assert answers(live["2"]) == answers(tuned)


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="no CUDA device")
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_on_a_gpu_training_goes_on_as_if_nothing_had_been_asked(
    quantization: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, 0.1, 0.2, 0.3)
    recipe = changed(recipe, quantization=quantization)
    looked = trained(recipe)
    plain = trained(changed(recipe, out=f"{recipe.out}-2", eval_steps=0))
    assert looked.manifest.losses == plain.manifest.losses
    assert weights(looked.adapter) == weights(plain.adapter)
