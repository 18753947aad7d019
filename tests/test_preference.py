"""Preference tuning: pairs, the loss of DPO against one computed by hand, kills and reloads.

Tests marked `model` tune SmolLM2 for a few steps.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.engine.identity import locate_adapter
from harness.engine.packaged import SMOLLM2
from harness.errors import DataError, ModelError, UsageError
from harness.files import write_json
from harness.manifest import read_manifest
from tasks_uz.data import ROOT, read_items
from tasks_uz.text import words
from train.data import IGNORED, Row, TokenRow
from train.pairs import PairData, read_pairs, tokenize_pairs
from train.recipe import Recipe, read_recipe

TRAIN = Path(__file__).parent.parent / "train"
EMBEDDED = TRAIN / "data" / "preference_uz.jsonl"
RECIPE = TRAIN / "recipes" / "dpo_cpu.yaml"

GOOD = {"prompt": "Poytaxtni ayting.", "chosen": "Toshkent", "rejected": "Samarqand"}
ASKED = {"instruction": "Poytaxtni ayting.", "chosen": "Toshkent", "rejected": "Samarqand"}


def written(path: Path, *lines: Any) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


# ---------------------------------------------------------------- pairs


@pytest.mark.parametrize(
    ("lines", "line", "reason"),
    [
        ([""], None, "empty"),
        ([GOOD, "{'prompt': 1}"], 2, "not JSON"),
        ([GOOD, "", "[1]"], 3, "saw list"),
        ([{"chosen": "a", "rejected": "b"}], 1, "neither of the keys 'prompt' and 'instruction'"),
        ([{**GOOD, **ASKED}], 1, "both of the keys 'prompt' and 'instruction'"),
        ([{**GOOD, "input": "Matn"}], 1, "'input' beside 'prompt'"),
        ([GOOD, {"prompt": "a", "chosen": "b"}], 2, "'rejected' is missing"),
        ([{"prompt": "a", "rejected": "b"}], 1, "'chosen' is missing"),
        ([{**GOOD, "chosen": ["Toshkent"]}], 1, "'chosen' isn't text"),
        ([{**GOOD, "prompt": None}], 1, "'prompt' isn't text"),
        ([{**ASKED, "input": None}], 1, "'input' isn't text"),
        ([{**GOOD, "prompt": " \n"}], 1, "'prompt' is empty"),
        ([{**GOOD, "rejected": ""}], 1, "'rejected' is empty"),
        ([{**GOOD, "rejected": " Toshkent\n"}], 1, "are the same answer"),
        ([{**GOOD, "prompt": "### Instruction:\nAyting.\n\n### Response:\n"}], 1, "expected the question alone"),
        (['{"prompt": "a", "chosen": "\\ud83d", "rejected": "b"}'], 1, "surrogate"),
    ],
)
def test_fault_in_a_pair_names_line_and_reason(tmp_path: Path, lines: list[Any], line: int | None, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        read_pairs(written(tmp_path / "pairs.jsonl", *lines))
    assert caught.value.line == line
    assert reason in caught.value.reason


def test_question_may_stand_as_prompt_or_as_instruction_and_input_and_other_keys_are_ignored(tmp_path: Path) -> None:
    lines = [{"id": 7, "judge": {"winner": 1}, **GOOD}, ASKED, {**ASKED, "input": "Oʻzbekiston"}]
    one, two, three = read_pairs(written(tmp_path / "pairs.jsonl", *lines))
    assert one.chosen == Row(1, "Poytaxtni ayting.", "", "Toshkent")
    assert one.rejected == Row(1, "Poytaxtni ayting.", "", "Samarqand")
    assert two.chosen == Row(2, one.chosen.instruction, "", "Toshkent")
    assert three.rejected == Row(3, "Poytaxtni ayting.", "Oʻzbekiston", "Samarqand")


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_directory)


def cut(path: Path, tokenizer: Any, max_length: int = 1024, prompt_format: str = "alpaca") -> PairData:
    pairs = read_pairs(path)
    return tokenize_pairs(pairs, tokenizer, prompt_format=prompt_format, max_length=max_length, source=path)


@pytest.mark.parametrize(("prompt_format", "between"), [("alpaca", "\n"), ("plain", " ")])
def test_both_answers_are_labelled_to_their_end_token(tokenizer: Any, prompt_format: str, between: str) -> None:
    data = cut(EMBEDDED, tokenizer, prompt_format=prompt_format)
    for rows, key in ((data.rows, "chosen"), (data.rejected, "rejected")):
        for source, row in zip(read_pairs(EMBEDDED), rows, strict=True):
            labels = [token for token in row.labels if token != IGNORED]
            assert labels[-1] == tokenizer.eos_token_id
            assert row.ids.count(tokenizer.eos_token_id) == 1
            assert tokenizer.decode(labels[:-1]) == between + getattr(source, key).output


def test_pair_of_which_one_answer_is_over_max_length_is_dropped_and_counted(tmp_path: Path, tokenizer: Any) -> None:
    lines = [GOOD, {**GOOD, "rejected": "Samarqand " * 30}, {**GOOD, "prompt": "Poytaxt? " * 30}]
    path = written(tmp_path / "pairs.jsonl", *lines)
    whole = cut(path, tokenizer)
    longest = max(len(whole.rows[0].ids), len(whole.rejected[0].ids))
    data = cut(path, tokenizer, longest)
    assert (data.rows, data.rejected) == (whole.rows[:1], whole.rejected[:1])
    assert data.dropped == {"answer_over_max_length": 1, "prompt_over_max_length": 1}
    assert data.n_tokens == len(data.rows[0].ids) + len(data.rejected[0].ids)
    assert data.n_trained_tokens == data.n_tokens - 2 * data.rows[0].n_prompt
    with pytest.raises(DataError, match=f"Try: max_length={longest}$"):
        cut(path, tokenizer, longest - 1)


@pytest.mark.parametrize("key", ["prompt", "chosen", "rejected"])
def test_text_that_spells_a_special_token_is_refused_with_its_line(tmp_path: Path, tokenizer: Any, key: str) -> None:
    spelled = {**GOOD, key: f"Ayting{tokenizer.eos_token} yana"}
    with pytest.raises(DataError, match=r"pairs.jsonl:2: the text spells the model's special token"):
        cut(written(tmp_path / "pairs.jsonl", GOOD, spelled), tokenizer)


def test_batch_is_padded_by_length_with_chosen_answers_first() -> None:
    from train.preference import padded

    batch = padded(
        [
            {"chosen": {"ids": [5, 6, 2], "n_prompt": 1}, "rejected": {"ids": [5, 7], "n_prompt": 1}},
            {"chosen": {"ids": [8, 2], "n_prompt": 1}, "rejected": {"ids": [8, 9, 0, 2], "n_prompt": 2}},
        ]
    )
    assert batch["input_ids"].tolist() == [[5, 6, 2, 0], [8, 2, 0, 0], [5, 7, 0, 0], [8, 9, 0, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["completion_mask"].tolist() == [[0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]


# ---------------------------------------------------------------- the embedded set


def test_embedded_set_is_uzbek_in_the_1995_alphabet_as_it_is_preferred() -> None:
    pairs = read_pairs(EMBEDDED)
    assert len(pairs) >= 40
    assert len({pair.chosen.instruction for pair in pairs}) == len(pairs)
    for pair in pairs:
        text = f"{pair.chosen.instruction} {pair.chosen.input} {pair.chosen.output}"
        assert not set("'`‘’") & set(text)
        assert not [letter for letter in text if "Ѐ" <= letter <= "ӿ"]
        for at, letter in enumerate(text):
            assert letter != "ʻ" or text[at - 1] in "oOgG"


def test_embedded_set_shares_no_words_in_a_row_with_what_is_asked() -> None:
    from tasks_uz.check import shared_runs

    rows = [
        {"id": f"pair {pair.chosen.line}", "text": [pair.chosen.instruction, pair.chosen.output, pair.rejected.output]}
        for pair in read_pairs(EMBEDDED)
    ]
    asked = [row for name in ("items", "shots") for path in ROOT.glob(f"*/{name}.jsonl") for row in read_items(path)]
    assert shared_runs(asked, rows) == []
    questions = {" ".join(words(str(row.get("question", "")))) for row in asked}
    assert not [pair for pair in read_pairs(EMBEDDED) if " ".join(words(pair.chosen.instruction)) in questions]


def test_recipe_prefers_over_the_embedded_set() -> None:
    recipe = read_recipe(RECIPE)
    assert (recipe.method, Path(recipe.data)) == ("dpo", EMBEDDED)


# ---------------------------------------------------------------- tuning


@pytest.fixture
def recipe(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]) -> Recipe:
    """Seven pairs in steps of four: the second step of an epoch has three, in batches of two and one."""
    lines = [
        {"prompt": f"{number}-savol?", "chosen": "Ha. " * (number % 3 + 1), "rejected": "Yoʻq. " * (number % 4 + 1)}
        for number in range(7)
    ]
    return Recipe(
        model=str(tiny),
        data=str(written(tmp_path / "pairs.jsonl", *lines)),
        out=str(tmp_path / "preferred"),
        adapter=str(adapters[0]),
        method="dpo",
        batch_size=2,
        gradient_accumulation=2,
        max_steps=4,
        learning_rate=1e-2,
        warmup_ratio=0.0,
        schedule="constant",
        lora_rank=4,
        beta=0.3,
    )


def changed(recipe: Recipe, **values: Any) -> Recipe:
    return Recipe.from_dict({**recipe.to_dict(), **values})


def weights(adapter: Path | str) -> bytes:
    return (Path(adapter) / "adapter_model.safetensors").read_bytes()


def log_probability(model: Any, row: TokenRow) -> Any:
    """Of a row's trained tokens, alone and unpadded."""
    import torch

    with torch.no_grad():
        scores = model(torch.tensor([row.ids])).logits[0, :-1].log_softmax(-1)  # (T - 1, V)
    return sum(scores[at - 1, row.ids[at]] for at in range(row.n_prompt, len(row.ids)))


def by_hand(recipe: Recipe, tokenizer: Any, policy: Path | str, step: int) -> tuple[float, float]:
    """Loss and margin of a step's pairs, of an adapter against what the recipe starts from."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from train.packing import Schedule

    data = cut(Path(recipe.data), tokenizer)
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(recipe.model), policy).eval()
    start = AutoModelForCausalLM.from_pretrained(recipe.model).eval()
    if recipe.adapter:
        start = PeftModel.from_pretrained(start, recipe.adapter).eval()
    schedule = Schedule(len(data.rows), recipe.rows_per_step, recipe.epochs, recipe.max_steps, recipe.seed)
    margins = [
        recipe.beta
        * (
            (log_probability(tuned, data.rows[row]) - log_probability(start, data.rows[row]))
            - (log_probability(tuned, data.rejected[row]) - log_probability(start, data.rejected[row]))
        )
        for row in schedule.rows(step)
    ]
    return -torch.nn.functional.logsigmoid(torch.stack(margins)).mean().item(), torch.stack(margins).mean().item()


@pytest.mark.parametrize(("start", "steps"), [("adapter", 1), ("base", 2)])
def test_loss_is_log_2_where_it_starts_and_then_the_one_computed_by_hand(
    recipe: Recipe, tokenizer: Any, tmp_path: Path, start: str, steps: int
) -> None:
    from train import train

    # After one step comes the uneven end of an epoch, after two the beginning of another epoch.
    if start == "base":
        recipe = changed(recipe, adapter=None)
    losses = train(changed(recipe, max_steps=steps + 1), progress=False).manifest.losses
    assert losses[0] == (1, pytest.approx(math.log(2), abs=1e-6))
    before = train(changed(recipe, max_steps=steps, out=str(tmp_path / "before")), progress=False)
    loss, margin = by_hand(recipe, tokenizer, before.adapter, steps)
    assert abs(margin) > 1e-3
    assert losses[steps] == (steps + 1, pytest.approx(loss, abs=1e-5))


def test_margin_grows_the_start_stays_and_the_adapter_reloads_to_the_same_logits(
    recipe: Recipe,
    tokenizer: Any,
    adapters: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from train import preference, qlora

    before = {path.name: path.read_bytes() for path in adapters[0].iterdir()}
    ids, seen = torch.tensor([[5, 6, 7, 8, 9]]), {}
    real = preference.train_preference

    def spy(prepared: Any, model: Any, folder: Path, **choices: Any) -> Any:
        done = real(prepared, model, folder, **choices)
        with torch.no_grad():
            seen["logits"] = model.eval()(ids).logits
        return done

    monkeypatch.setattr(preference, "train_preference", spy)
    result = qlora.train(changed(recipe, max_steps=6), progress=False)
    assert capfd.readouterr().out == ""
    made = result.manifest
    assert read_manifest(result.adapter) == made
    margins = [margin for _, margin in made.margins]
    assert margins[0] == 0
    assert margins[-2] > margins[2] > 0.05  # whole steps of the second and the third epoch
    assert (made.recipe["method"], made.recipe["beta"], made.recipe["adapter"]) == ("dpo", 0.3, str(adapters[0]))
    assert made.adapter_digest == locate_adapter(str(adapters[0])).weights
    assert (made.n_rows, made.steps, len(made.losses)) == (7, 6, 6)
    names = {path.name for path in result.adapter.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "uzbench_manifest.json"}
    assert not Path(recipe.out + ".checkpoints").exists()
    assert {path.name: path.read_bytes() for path in adapters[0].iterdir()} == before

    base = AutoModelForCausalLM.from_pretrained(recipe.model)
    with torch.no_grad():
        again = PeftModel.from_pretrained(base, result.adapter).eval()(ids).logits
    assert torch.equal(again, seen["logits"])


@pytest.mark.parametrize("start", ["adapter", "base"])
def test_killed_run_goes_on_in_order_to_the_same_adapter_bytes(recipe: Recipe, tmp_path: Path, start: str) -> None:
    from train import train

    recipe = changed(recipe, max_steps=5, schedule="cosine", adapter=recipe.adapter if start == "adapter" else None)
    whole = train(recipe, progress=False)
    lost = changed(recipe, out=str(tmp_path / "lost"), save_steps=1)
    code = f"from train import Recipe, train; train(Recipe.from_dict({lost.to_dict()!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(Path(lost.out + ".checkpoints").glob("*/checkpoint-3/uzbench_whole.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not Path(lost.out).exists()

    resumed = train(lost, progress=False)
    assert resumed.resumed_from >= 3
    assert resumed.manifest.losses == whole.manifest.losses
    assert resumed.manifest.margins == whole.manifest.margins
    assert weights(lost.out) == weights(recipe.out)
    assert not Path(lost.out + ".checkpoints").exists()


def test_older_checkpoints_go_only_when_a_newer_one_is_whole(tmp_path: Path) -> None:
    from train.preference import WHOLE, Watcher, found

    for step in (8, 9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (8, 9):
        write_json(tmp_path / f"checkpoint-{step}" / WHOLE, {"step": step, "seconds": 1.0})
    args = SimpleNamespace(output_dir=str(tmp_path))
    assert found(tmp_path)[-1].name == "checkpoint-9"
    Watcher(2, False).on_save(args, SimpleNamespace(global_step=10), None)
    assert [each.name for each in found(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert not (tmp_path / "checkpoint-8").exists()


def test_loss_that_is_no_number_stops_the_run_with_a_lower_learning_rate() -> None:
    from train.preference import Watcher

    state, args = SimpleNamespace(global_step=7), SimpleNamespace(learning_rate=0.1)
    with pytest.raises(ModelError, match=r"loss of step 7 is nan.*learning_rate=0.025"):
        Watcher(2, False).on_log(args, state, None, logs={"loss": math.nan})


@pytest.mark.parametrize(
    "choice",
    [
        {"lora_dropout": 0.1},
        {"micro_batch_tokens": 64},
        {"eval_steps": 5},
        {"trackers": ["tensorboard"]},
        {"quantization": "fp8"},
    ],
)
def test_choice_that_has_no_effect_is_refused_by_its_name(recipe: Recipe, choice: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(choice))}"):
        changed(recipe, **choice)
    changed(recipe, method="sft", **choice)


def manifest_of(adapter: Path, base: Path, **values: Any) -> Callable[[], None]:
    """Writes the manifest of an adapter; returns what takes it away."""
    from harness.engine.identity import locate_model
    from harness.manifest import Manifest, write_manifest

    made: dict[str, Any] = {
        "base_model": str(base),
        "base_revision": None,
        "base_digest": locate_model(str(base)).weights,
        "quantization": "none",
        "dtype": "float32",
        "prompt_format": "alpaca",
        "data": "rows.jsonl",
        "data_sha256": "0",
        "n_rows": 1,
        "n_dropped": {},
        "n_tokens": 2,
        "n_trained_tokens": 1,
        "steps": 1,
        "seconds": 1.0,
        "created": "2026-01-01T00:00:00+00:00",
        "recipe": {},
    }
    return write_manifest(adapter, Manifest(**{**made, **values})).unlink


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        ({"prompt_format": "plain"}, UsageError, "was trained in plain. Try: prompt_format=plain"),
        ({"quantization": "nf4"}, UsageError, "was trained in nf4. Try: quantization=nf4"),
        ({"base_digest": "0" * 64}, ModelError, "was trained on"),
    ],
)
def test_adapter_that_was_made_otherwise_is_refused_before_anything_is_loaded(
    recipe: Recipe, tiny: Path, made: dict[str, Any], error: type[Exception], message: str
) -> None:
    from train.qlora import prepare

    assert recipe.adapter
    remove = manifest_of(Path(recipe.adapter), tiny, **made)
    try:
        with pytest.raises(error, match=message):
            prepare(recipe)
    finally:
        remove()


def test_adapter_is_never_written_over_by_the_one_that_starts_from_it(
    recipe: Recipe, adapters: tuple[Path, Path]
) -> None:
    from train import train

    with pytest.raises(UsageError, match=r"is the adapter that it starts from. Try: out=ANOTHER"):
        train(changed(recipe, out=f"{adapters[0]}/../{adapters[0].name}"), progress=False)


def test_checkpoint_of_another_starting_adapter_is_not_picked_up(recipe: Recipe, adapters: tuple[Path, Path]) -> None:
    from train.qlora import _run_key, prepare

    keys = {_run_key(prepare(changed(recipe, adapter=start))) for start in (*map(str, adapters), None)}
    assert len(keys) == 3
    again = f"{adapters[0]}/../{adapters[0].name}"
    assert _run_key(prepare(changed(recipe, adapter=again))) in keys


@pytest.mark.model
def test_real_model_on_a_quantized_base_starts_at_log_2_and_reloads_to_the_same_logits(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import PeftModel

    from train import preference, qlora

    shortest = sorted(EMBEDDED.read_text(encoding="utf-8").splitlines(), key=len)[:4]
    pairs = written(Path(recipe.data), *shortest)
    first = changed(
        recipe, model=SMOLLM2.name, adapter=None, data=str(pairs), quantization="nf4", max_steps=3, learning_rate=1e-3
    )
    made = qlora.train(first, progress=False)
    losses = [loss for _, loss in made.manifest.losses]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < losses[0] - 0.05

    ids, seen = torch.tensor([[5, 6, 7, 8, 9]]), {}
    real = preference.train_preference

    def spy(prepared: Any, model: Any, folder: Path, **choices: Any) -> Any:
        done = real(prepared, model, folder, **choices)
        with torch.no_grad():
            seen["logits"] = model.eval()(ids).logits
        return done

    monkeypatch.setattr(preference, "train_preference", spy)
    second = changed(first, adapter=str(made.adapter), out=recipe.out + "-again", max_steps=2)
    result = qlora.train(second, progress=False)
    # TRL would round what is trained to bfloat16, and it would start apart from its own copy.
    assert result.manifest.losses[0][1] == pytest.approx(math.log(2), abs=1e-6)
    base = qlora._load(qlora.prepare(changed(second, out=recipe.out + "-third")))
    with torch.no_grad():
        again = PeftModel.from_pretrained(base, result.adapter).eval()(ids).logits
    assert torch.equal(again, seen["logits"])


def test_pair_that_holds_an_eval_item_is_refused_unless_its_task_is_named() -> None:
    from tasks_uz.data import ROOT, read_items
    from train.data import Row
    from train.pairs import Pair, check_pairs

    own = [Pair(Row(1, "Qoʻshiq nima?", "", "Kuyga solingan sheʼr."), Row(1, "Qoʻshiq nima?", "", "Taom."))]
    check_pairs(own, "pairs.jsonl")
    item = read_items(ROOT / "uz_topic" / "items.jsonl")[0]
    question = f"Mavzuni ayting. {item['text']}"
    pairs = [*own, Pair(Row(2, question, "", item["label"]), Row(2, question, "", "boshqa"))]
    with pytest.raises(DataError, match=r"pairs.jsonl:2: holds item topic-\d+ of uz_topic"):
        check_pairs(pairs, "pairs.jsonl")
    check_pairs(pairs, "pairs.jsonl", ["uz_topic"])
    check_pairs(read_pairs(EMBEDDED), EMBEDDED)
