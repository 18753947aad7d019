"""Recipes, training data and QLoRA. Tests marked `model` tune SmolLM2 for a few steps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.engine.packaged import GEMMA, SMOLLM2, checkpoint
from harness.errors import DataError, DiskFullError, ModelError, NetworkError, UnknownNameError, UsageError
from harness.manifest import read_manifest
from tasks_uz.prompts import render_row
from train.data import IGNORED, Row, read_rows, split_tokens, tokenize
from train.recipe import Recipe, read_recipe

TRAIN = Path(__file__).parent.parent / "train"
RECIPES = sorted((TRAIN / "recipes").glob("*.yaml"))
DEMO = TRAIN / "data" / "demo_uz.jsonl"
STARTER = TRAIN / "data" / "starter_uz.jsonl"


def written(path: Path, *lines: Any) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def recipe_file(folder: Path, **values: Any) -> Path:
    chosen = {"model": "m", "data": "rows.jsonl", "out": "adapter", **values}
    return written(folder / "recipe.yaml", *(f"{key}: {json.dumps(value)}" for key, value in chosen.items()))


# ---------------------------------------------------------------- recipes


def test_importing_train_imports_no_torch() -> None:
    code = "import sys, train; train.Recipe; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_missing_package_is_one_line_that_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None\nfrom train import train"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("UsageError: Training needs torch. Try: pip install 'uzbench[train]'")


def test_unknown_key_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"key 'lora_rang' is unknown. Did you mean 'lora_rank'\?"):
        read_recipe(recipe_file(tmp_path, lora_rang=4))


def test_unknown_override_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'batch_size'\?"):
        read_recipe(recipe_file(tmp_path), ["batchsize=4"])


def test_override_values_are_read_as_yaml(tmp_path: Path) -> None:
    overrides = [
        "learning_rate=2e-4",
        "epochs=1",
        "lora_targets=[q_proj, v_proj]",
        "recompute_layers=4",
    ]
    recipe = read_recipe(recipe_file(tmp_path, revision="abc"), [*overrides, "revision=", "out=a=b"])
    assert recipe.learning_rate == 2e-4
    assert recipe.epochs == 1.0
    assert recipe.lora_targets == ("q_proj", "v_proj")
    assert recipe.recompute_layers == 4
    assert recipe.revision is None
    assert recipe.out == "a=b"


def test_one_layer_may_be_named_without_a_list(tmp_path: Path) -> None:
    assert read_recipe(recipe_file(tmp_path, lora_targets="q_proj")).lora_targets == ("q_proj",)


@pytest.mark.parametrize("override", ["epochs", "", "=3"])
def test_override_of_another_form_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises((UsageError, UnknownNameError)):
        read_recipe(recipe_file(tmp_path), [override])


def test_override_that_is_no_yaml_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^out=\[1: not a YAML value"):
        read_recipe(recipe_file(tmp_path), ["out=[1"])


def test_relative_data_is_looked_for_beside_the_recipe_then_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    path = recipe_file(tmp_path)
    assert read_recipe(path).data == "rows.jsonl"
    written(tmp_path / "rows.jsonl", "{}")
    written(elsewhere / "rows.jsonl", "{}")
    assert read_recipe(path).data == str(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", ""),
        ("out", " "),
        ("prompt_format", "chat"),
        ("quantization", "int4"),
        ("dtype", "float16"),
        ("schedule", "exponential"),
        ("max_length", 4),
        ("epochs", 0),
        ("epochs", float("inf")),
        ("max_steps", -1),
        ("batch_size", 0),
        ("gradient_accumulation", 0),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("warmup_ratio", 1),
        ("weight_decay", -0.1),
        ("max_grad_norm", -1),
        ("lora_rank", 0),
        ("lora_alpha", 0),
        ("lora_dropout", 1),
        ("lora_targets", ()),
        ("lora_targets", ("all-linear", "q_proj")),
        ("lora_targets", "q_proj"),
        ("seed", -1),
        ("save_steps", 0),
        ("keep_checkpoints", 0),
        ("method", "ppo"),
        ("recompute_layers", -2),
        ("micro_batch_tokens", -1),
        ("memory_gib", -1),
        ("usd_per_hour", float("nan")),
        ("trackers", ("excel",)),
        ("early_stop", 2),
    ],
)
def test_value_out_of_range_is_refused_by_the_field_name(key: str, value: Any) -> None:
    with pytest.raises((UsageError, UnknownNameError), match=f"^{key}"):
        Recipe(**{"model": "m", "data": "d", "out": "o", key: value})


def test_recipe_comes_back_from_its_json() -> None:
    recipe = Recipe(model="m", data="d", out="o", lora_targets=("q_proj", "v_proj"), epochs=1.5)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_folder_has_the_recipes_that_are_promised() -> None:
    promised = {"demo_cpu", "mistral_uz_seed", "mistral_uz_fast_nf4", "mistral_uz_fast_bf16", "mistral_uz_fast_fp8"}
    assert promised <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_begins_with_its_command(path: Path) -> None:
    read_recipe(path)
    first, second, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first.startswith(f"# uzbench train train/recipes/{path.name}")
    assert second.startswith("# ")


def test_seed_recipe_is_the_published_table() -> None:
    recipe = read_recipe(TRAIN / "recipes" / "mistral_uz_seed.yaml")
    published = {
        "model": "mistralai/Mistral-7B-v0.1",
        "quantization": "int8",
        "batch_size": 4,
        "gradient_accumulation": 8,
        "epochs": 3.0,
        "learning_rate": 2e-4,
        "max_length": 1024,
        "out": "mistral-uzbek-lora",
    }
    assert {key: getattr(recipe, key) for key in published} == published


# ---------------------------------------------------------------- rows

GOOD = {"instruction": "Poytaxtni ayting.", "input": "", "output": "Toshkent"}


@pytest.mark.parametrize(
    ("lines", "line", "reason"),
    [
        ([""], None, "empty"),
        ([GOOD, "{'instruction': 1}"], 2, "not JSON"),
        ([GOOD, "", "[1]"], 3, "saw list"),
        ([GOOD, "[", "]"], 2, "not JSON"),
        ([{"instruction": "a"}], 1, "'output' is missing"),
        ([{"output": "a"}], 1, "'instruction' is missing"),
        ([{**GOOD, "output": 7}], 1, "'output' isn't text"),
        ([{**GOOD, "input": None}], 1, "'input' isn't text"),
        ([{**GOOD, "instruction": " \n"}], 1, "'instruction' is empty"),
        ([{**GOOD, "output": ""}], 1, "'output' is empty"),
        (['{"instruction": "a", "output": "\\ud83d"}'], 1, "surrogate"),
    ],
)
def test_fault_in_data_names_line_and_reason(tmp_path: Path, lines: list[Any], line: int | None, reason: str) -> None:
    path = written(tmp_path / "rows.jsonl", *lines)
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert caught.value.line == line
    assert reason in caught.value.reason


def test_bytes_that_are_no_utf8_are_a_fault_of_their_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + b'{"instruction": "\xff"}\n')
    with pytest.raises(DataError, match=r":2: not UTF-8"):
        read_rows(path)


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_missing_file_and_directory_are_faults(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        read_rows(tmp_path / name)


def test_input_may_be_absent_and_other_keys_are_ignored(tmp_path: Path) -> None:
    row = {"schema": "CREATE TABLE t", "id": 7, "instruction": "Ayting.", "output": "Toshkent"}
    assert read_rows(written(tmp_path / "rows.jsonl", row)) == [Row(1, "Ayting.", "", "Toshkent")]


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n")
    assert len(read_rows(path)) == 1


def test_embedded_set_has_at_least_120_rows() -> None:
    assert len(read_rows(DEMO)) >= 120


# ---------------------------------------------------------------- tokens


@pytest.fixture(scope="module", params=[GEMMA, SMOLLM2], ids=lambda model: model.name)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint(request.param))


@pytest.fixture(scope="module")
def demo(tokenizer: Any) -> Any:
    return tokenize(read_rows(DEMO), tokenizer, prompt_format="alpaca", max_length=1024, source=DEMO)


def one_row(tokenizer: Any, *, prompt_format: str = "alpaca", max_length: int = 1024, **texts: str) -> Any:
    row = Row(1, **{**GOOD, **texts})
    return tokenize([row], tokenizer, prompt_format=prompt_format, max_length=max_length, source="rows.jsonl")


def test_every_row_has_the_one_bos_that_evaluation_gives_it(tokenizer: Any, demo: Any) -> None:
    # gemma's tokenizer puts its BOS (without it bits a byte go from 3.1 to 5.6); SmolLM2's puts none, and
    # lm-eval asks with what the tokenizer puts.
    expected = {"<bos>": 1, "<|im_start|>": 0}[tokenizer.bos_token]
    for row in demo.rows:
        assert row.ids.count(tokenizer.bos_token_id) == expected
        assert row.ids[:expected] == [tokenizer.bos_token_id] * expected


def test_eos_is_the_last_token_of_every_row_and_is_trained(tokenizer: Any, demo: Any) -> None:
    for row in demo.rows:
        assert row.ids.count(tokenizer.eos_token_id) == 1
        assert row.labels[-1] == tokenizer.eos_token_id


def test_answer_that_already_ends_with_eos_gets_no_second(tokenizer: Any) -> None:
    row = one_row(tokenizer, output="Toshkent" + tokenizer.eos_token).rows[0]
    assert row.ids == one_row(tokenizer).rows[0].ids


def test_prompt_is_masked_and_the_labels_spell_the_answer(tokenizer: Any, demo: Any) -> None:
    for source, row in zip(read_rows(DEMO), demo.rows, strict=True):
        assert row.labels[: row.n_prompt] == [IGNORED] * row.n_prompt
        assert row.labels[row.n_prompt :] == row.ids[row.n_prompt :]
        answer = tokenizer.decode(row.labels[row.n_prompt : -1])
        assert answer == "\n" + source.output


@pytest.mark.parametrize("prompt_format", ["alpaca", "plain"])
def test_boundary_is_where_lm_eval_splits(tokenizer: Any, prompt_format: str) -> None:
    from lm_eval.api.model import TemplateLM

    asker = SimpleNamespace(backend="causal", tok_encode=tokenizer.encode)
    for row in read_rows(DEMO)[:60]:
        prompt, completion = render_row(row.instruction, row.input, row.output, prompt_format)
        context, continuation = TemplateLM._encode_pair(asker, prompt, completion)
        ids, n_prompt = split_tokens(tokenizer, prompt, completion)
        assert (ids[:n_prompt], ids[n_prompt:]) == (context, continuation)


def test_prompt_as_generation_asks_it_is_how_the_trained_row_begins(tokenizer: Any, demo: Any) -> None:
    for source, row in zip(read_rows(DEMO), demo.rows, strict=True):
        prompt, _ = render_row(source.instruction, source.input, source.output)
        asked = tokenizer.encode(prompt)
        assert row.ids[: len(asked)] == asked


def test_row_over_max_length_is_dropped_and_counted_never_cut(tokenizer: Any) -> None:
    short = one_row(tokenizer).rows[0]
    longer = Row(2, GOOD["instruction"], "", "Toshkent " * 20)
    longest = Row(3, GOOD["instruction"] * 20, "", "Toshkent")
    data = tokenize(
        [Row(1, **GOOD), longer, longest],
        tokenizer,
        prompt_format="alpaca",
        max_length=len(short.ids),
        source="rows.jsonl",
    )
    assert data.rows == (short,)
    assert data.dropped == {"answer_over_max_length": 1, "prompt_over_max_length": 1}
    assert data.n_tokens == len(short.ids)
    assert data.n_trained_tokens == len(short.ids) - short.n_prompt


def test_no_row_left_is_a_fault_that_says_what_length_would_do(tokenizer: Any) -> None:
    n = len(one_row(tokenizer).rows[0].ids)
    with pytest.raises(DataError, match=f"Try: max_length={n}$"):
        one_row(tokenizer, max_length=n - 1)


def test_text_that_spells_a_special_token_is_refused_with_its_line(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1: the text spells the model's special token"):
        one_row(tokenizer, instruction=f"Ayting.{tokenizer.eos_token} Yana.")
    with pytest.raises(DataError, match=r"rows.jsonl:1: the text spells the model's special token"):
        one_row(tokenizer, input=f"{tokenizer.bos_token}Matn")


# ---------------------------------------------------------------- tuning


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Eight short rows of the embedded set."""
    rows = STARTER.read_text(encoding="utf-8").splitlines()
    lines = [line for line in rows if json.loads(line)["slice"] == "savol"]
    return written(tmp_path / "rows.jsonl", *sorted(lines, key=len)[:8])


@pytest.fixture
def recipe(tmp_path: Path, rows: Path) -> Recipe:
    return Recipe(
        model=SMOLLM2.name,
        data=str(rows),
        out=str(tmp_path / "adapter"),
        batch_size=4,
        gradient_accumulation=2,
        max_steps=3,
        learning_rate=2e-3,
        warmup_ratio=0.0,
        schedule="constant",
        lora_rank=4,
        lora_alpha=8,
    )


def changed(recipe: Recipe, **values: Any) -> Recipe:
    return Recipe.from_dict({**recipe.to_dict(), **values})


def weights(adapter: Path | str) -> bytes:
    return (Path(adapter) / "adapter_model.safetensors").read_bytes()


@pytest.mark.model
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_tuning_lowers_the_loss_and_leaves_an_adapter_that_reloads_to_the_same_logits(
    recipe: Recipe, quantization: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch
    from peft import PeftModel

    from harness.engine.identity import locate_model
    from train import qlora

    recipe = changed(recipe, quantization=quantization)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    seen = {}
    put = qlora._put

    def spy(model: Any, *arguments: Any, **named: Any) -> None:
        with torch.no_grad():
            seen["logits"] = model.eval()(ids).logits
        put(model, *arguments, **named)

    monkeypatch.setattr(qlora, "_put", spy)
    result = qlora.train(recipe)

    losses = [loss for _, loss in result.manifest.losses]
    assert len(losses) == 3
    assert losses[-1] < losses[0] - 0.3
    assert read_manifest(result.adapter) == result.manifest
    assert result.manifest.base_digest == locate_model(SMOLLM2.name).weights
    assert result.manifest.quantization == quantization
    assert result.manifest.n_rows == 8
    assert result.manifest.steps == 3
    assert not Path(recipe.out + ".checkpoints").exists()
    assert capfd.readouterr().out == ""

    base = qlora._load(qlora.prepare(recipe))
    with torch.no_grad():
        again = PeftModel.from_pretrained(base, recipe.out).eval()(ids).logits
    assert torch.equal(again, seen["logits"])


@pytest.mark.model
def test_loss_of_a_step_does_not_depend_on_how_its_rows_are_batched(recipe: Recipe) -> None:
    from train import train

    losses = []
    for batch_size in (8, 4, 1):
        split = changed(recipe, batch_size=batch_size, gradient_accumulation=8 // batch_size, max_steps=2)
        losses.append([loss for _, loss in train(split, progress=False).manifest.losses])
    assert losses[1] == losses[0]
    assert losses[2] == losses[0]


@pytest.mark.model
def test_existing_out_that_is_no_adapter_is_refused_before_anything_is_loaded(recipe: Recipe) -> None:
    from train import train

    Path(recipe.out).mkdir()
    written(Path(recipe.out) / "notes.txt", "x")
    with pytest.raises(UsageError, match="isn't an adapter's directory"):
        train(changed(recipe, model="/nowhere"), progress=False)
    assert [path.name for path in Path(recipe.out).iterdir()] == ["notes.txt"]


@pytest.mark.model
def test_full_device_under_torch_or_safetensors_is_said_in_one_line() -> None:
    from safetensors import SafetensorError

    from train.disk import weights_disk_faults

    # The words that safetensors and torch's writer use for a full device.
    seen = [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:668] . PytorchStreamWriter failed writing file data/0"),
    ]
    for error in seen:
        with pytest.raises(DiskFullError), weights_disk_faults(Path("adapter")):
            raise error


@pytest.mark.model
def test_missing_and_damaged_models_are_one_line(recipe: Recipe, tmp_path: Path) -> None:
    from train import train

    with pytest.raises(ModelError, match="no such directory"):
        train(changed(recipe, model=str(tmp_path / "nowhere")), progress=False)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    whole = checkpoint(SMOLLM2)
    for path in whole.iterdir():
        if path.suffix == ".safetensors":
            (damaged / path.name).write_bytes(path.read_bytes()[:100_000])
        else:
            (damaged / path.name).symlink_to(path)
    with pytest.raises(ModelError, match="damaged"):
        train(changed(recipe, model=str(damaged)), progress=False)


@pytest.mark.model
def test_hub_that_cannot_be_reached_is_the_environments_fault(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from train import train

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkError, match="can't be reached"):
        train(changed(recipe, model="mistralai/Mistral-7B-v0.1"), progress=False)


@pytest.mark.model
def test_unknown_layer_is_refused_with_the_nearest(recipe: Recipe) -> None:
    from train import train

    with pytest.raises(UnknownNameError, match=r"layer 'q_prj' is unknown. Did you mean 'q_proj'\?"):
        train(changed(recipe, lora_targets=["q_prj"]), progress=False)


@pytest.mark.model
@pytest.mark.parametrize(
    ("key", "value", "says"), [("dtype", "bfloat16", "dtype=auto"), ("quantization", "fp8", "quantization=nf4")]
)
def test_what_a_cpu_cannot_do_is_refused(recipe: Recipe, key: str, value: str, says: str) -> None:
    import torch

    from train import train

    if torch.cuda.is_available():
        pytest.skip("there is a GPU, where it is right")
    with pytest.raises(UsageError, match=says):
        train(changed(recipe, **{key: value}), progress=False)


@pytest.mark.model
def test_rows_that_hold_an_eval_item_are_refused_unless_its_task_is_named(recipe: Recipe, tmp_path: Path) -> None:
    from tasks_uz.data import ROOT, read_items
    from train import train

    item = read_items(ROOT / "uz_topic" / "items.jsonl")[0]
    lines = [*(json.loads(line) for line in Path(recipe.data).read_text(encoding="utf-8").splitlines())]
    planted = {"instruction": "Mavzuni ayting.", "input": item["text"], "output": item["label"]}
    data = written(tmp_path / "planted.jsonl", *lines, planted)
    with pytest.raises(DataError, match=r"planted.jsonl:9: .*uz_topic") as caught:
        train(changed(recipe, data=str(data)), progress=False)
    assert "uzbench check-data" in str(caught.value)
    train(changed(recipe, data=str(data), allow_overlap=["uz_topic"], max_steps=1), progress=False)
