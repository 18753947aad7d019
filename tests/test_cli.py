"""What a person sees who typed something wrong: one line, the right exit code, and nothing left behind.

2 is what the person can fix, 3 the environment; a message says what was seen and what to type next.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from synthetic import Asked, Asker, made_run
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from harness.cli import app
from tasks_uz.data import MIRROR_VARIABLE

ROOT = Path(__file__).parent.parent
STAMP = "2026-09-14T10-11-12.345678"


def uzbench(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command line in a directory, with no hub, no mirror and a cache of its own."""
    home = place.parent / "home"
    inherited = {key: value for key, value in os.environ.items() if key != MIRROR_VARIABLE}
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "hub"), "UZBENCH_CACHE": str(home / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=place,
        env={**inherited, **offline},
        capture_output=True,
        text=True,
    )


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() if path.is_file() else b"" for path in place.rglob("*")}


def refused(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    """One line on stderr that says all of it, nothing on stdout, and the exit code."""
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("uzbench")
    assert [part for part in said if part not in done.stderr] == [], done.stderr
    assert done.stdout == ""
    assert done.returncode == code


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with things that are not what a command wants."""
    place = tmp_path / "work"
    for name in ("empty", "adapter", "noweights", "badweights", "lm", "lm-parent/model"):
        (place / name).mkdir(parents=True)
    (place / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    (place / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    (place / "noweights" / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (place / "model.gguf").write_bytes(b"GGUF")
    for name in ("lm", "lm-parent/model"):
        (place / name / f"results_{STAMP}.json").write_text('{"results": {}}', encoding="utf-8")
    scores = {"acc": [1.0, 0.0, 0.0, 1.0]}
    made_run(place / "base", Asked(scores))
    made_run(place / "half", Asked(scores), by=Asker(complete=False))
    made_run(place / "other", Asked(scores, task="uz_sentiment"))
    return place


ASK = ("run", "--model", "empty")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        # Names.
        (
            (*ASK, "--tasks", "uz_topik"),
            2,
            ["'uz_topik' is unknown", "Did you mean 'uz_topic'?", "uzbench tasks"],
        ),
        (
            (*ASK, "--orthography", "latin,cyrilic"),
            2,
            ["'cyrilic' is unknown", "Did you mean 'cyrillic'?", "latin2026"],
        ),
        ((*ASK, "--backend", "enjine"), 2, ["'enjine' is unknown", "Did you mean 'engine'?", "engine, hf"]),
        ((*ASK, "--quantization", "int4"), 2, ["'int4' is unknown", "One of: none, int8, nf4"]),
        ((*ASK, "--dtype", "fp8"), 2, ["'fp8' is unknown", "One of: auto, float32, bfloat16, float16"]),
        (
            (*ASK, "--prompt-format", "alpca"),
            2,
            ["'alpca' is unknown", "Did you mean 'alpaca'?", "plain, alpaca, chat"],
        ),
        ((*ASK, "--prompts", "some"), 2, ["'some' is unknown", "One of: default, all"]),
        # What contradicts itself or can't be.
        ((*ASK, "--prompt-format", "plain", "--chat-template"), 2, ["--chat-template", "contradict"]),
        ((*ASK, "--tasks", "uz_demo,uz_qa"), 2, ["uz_demo is a fixed subset"]),
        (
            (*ASK, "--tasks", "uz_sib200", "--orthography", "cyrillic"),
            2,
            ["uz_sib200 isn't asked in cyrillic", "latin"],
        ),
        ((*ASK, "--limit", "0"), 2, ["--limit 0: expected 1 or more"]),
        ((*ASK, "--limit", "many"), 2, ["--limit", "integer", "uzbench run --help"]),
        ((*ASK, "--shots", "-1"), 2, ["--shots -1: expected 0 or more"]),
        ((*ASK, "--tasks", " , "), 2, ["No task is named", "uzbench tasks"]),
        ((*ASK, "--orthography", ""), 2, ["No orthography is named"]),
        (("run", "--model", ""), 2, ["No model is named", "uzbench run --model"]),
        (
            (*ASK, "--gen-kwargs", "temperature"),
            2,
            ["--gen-kwargs 'temperature'", "expected K=V", "temperature=0.7"],
        ),
        ((*ASK, "--gen-kwargs", "top_p=0.9,=3"), 2, ["--gen-kwargs '=3'", "expected K=V"]),
        ((*ASK, "--gen-kwargs", "until=[1"), 2, ["--gen-kwargs 'until=[1'"]),
        # The command line itself.
        (("run",), 2, ["Missing option '--model'", "uzbench run --help"]),
        (("run", "--model"), 2, ["'--model' requires an argument"]),
        (("runn",), 2, ["No such command 'runn'", "uzbench --help"]),
        ((*ASK, "--limt", "3"), 2, ["No such option: --limt", "--limit", "uzbench run --help"]),
        (("compare", "base"), 2, ["Missing argument 'CAND...'", "uzbench compare --help"]),
        (("tasks", "uz_topic"), 2, ["unexpected extra argument", "uzbench tasks --help"]),
        # Models.
        (("run", "--model", "empty"), 2, ["empty isn't a model directory", "config.json"]),
        (
            ("run", "--model", "adapter"),
            2,
            ["adapter isn't a model directory", "It is an adapter: --adapter"],
        ),
        (("run", "--model", "noweights"), 2, ["noweights has no weights", "safetensors"]),
        (("run", "--model", "model.gguf"), 2, ["model.gguf is a file", "directory"]),
        (("run", "--model", "./models/mine"), 2, ["'./models/mine'", "no such directory"]),
        (
            ("run", "--model", "gemma-3-270n"),
            3,
            ["'gemma-3-270n'", "Did you mean 'gemma-3-270m'?", "can't be reached"],
        ),
        (
            ("run", "--model", "someone/uz-7b"),
            3,
            ["'someone/uz-7b'", "hub can't be reached", "Name a directory"],
        ),
        ((*ASK, "--adapter", "someone/uz-lora"), 3, ["'someone/uz-lora'", "hub can't be reached"]),
        (
            (*ASK, "--adapter", "noweights"),
            2,
            ["noweights isn't an adapter directory", "It is a whole model: --model"],
        ),
        # Run directories.
        (("compare", "base", "nowhere"), 2, ["nowhere isn't a run directory", "run.json", "uzbench runs"]),
        (("compare", "empty", "base"), 2, ["empty isn't a run directory"]),
        (("compare", "lm", "base"), 2, ["lm is what lm-eval wrote", "uzbench import lm"]),
        (
            ("compare", "base", "lm-parent"),
            2,
            ["lm-parent is what lm-eval wrote", "uzbench import lm-parent"],
        ),
        (("compare", "base", "half"), 2, ["half was cut off", "uzbench run"]),
        (("compare", "base", "other"), 2, ["different tasks", "uz_sentiment", "uz_topic"]),
        (("compare", "base", "base", "--margin", "3"), 2, ["--margin 3.0", "fraction between 0 and 1"]),
        (("runs", "nowhere"), 2, ["nowhere: no such directory", "uzbench run"]),
        (("import", "empty"), 2, ["empty holds no results_*.json", "--log_samples"]),
        (("import", "lm"), 2, [f"results_{STAMP}.json", "'configs'"]),
        # Recipes.
        (("train", "nowhere.yaml"), 2, ["nowhere.yaml: no such file"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_mistake_gets_one_line_and_leaves_nothing(
    place: Path, arguments: tuple[str, ...], code: int, said: list[str]
) -> None:
    before = contents(place)
    refused(uzbench(place, *arguments), code, *said)
    assert contents(place) == before


def test_command_without_arguments_shows_the_help_page_and_fails(place: Path) -> None:
    done = uzbench(place)
    assert done.returncode == 2
    assert "Usage: uzbench" in done.stderr
    assert done.stdout == ""


# ---------------------------------------------------------------- damaged runs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema": 1, "run_id": ', ["run.json:1: not JSON"]),
        ('{"schema": 2}', ["run.json: schema 2", "pip install -U uzbench"]),
        ("[]", ["run.json", "expected a JSON object"]),
        ('{"schema": 1}', ["run.json", "not a Run record"]),
    ],
    ids=["cut", "newer", "list", "keys"],
)
def test_damaged_run_is_named_by_compare_and_left_out_by_runs(place: Path, text: str, said: list[str]) -> None:
    (place / "bad").mkdir()
    (place / "bad" / "run.json").write_text(text, encoding="utf-8")
    refused(uzbench(place, "compare", "base", "bad"), 2, "bad", *said)
    listed = uzbench(place, "runs", ".", "--json")
    assert listed.returncode == 0, listed.stderr
    assert {each["run_id"] for each in json.loads(listed.stdout)["runs"]} == {"base", "half", "other"}


# ---------------------------------------------------------------- hub data; the tokenizer is read first


@pytest.fixture
def model(place: Path) -> Path:
    """A directory that counts as a model until its weights are read, which these tests never come to."""
    model = place / "tiny"
    model.mkdir()
    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 8,
        "vocab_size": 4,
    }
    config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "architectures": ["LlamaForCausalLM"]}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    vocabulary = {"<s>": 0, "</s>": 1, "[UNK]": 2, "a": 3}
    Tokenizer(WordLevel(vocabulary, unk_token="[UNK]")).save(str(model / "tokenizer.json"))
    marks = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (model / "tokenizer_config.json").write_text(json.dumps(marks), encoding="utf-8")
    (model / "model.safetensors").write_bytes(b"")
    return model


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (
            ["--tasks", "uz_sib200"],
            3,
            ["Davlan/sib200", "can't be reached", "--mirror DIR or UZBENCH_MIRROR=DIR"],
        ),
        (
            ["--tasks", "uz_uzlib", "--mirror", "empty"],
            2,
            ["Mirror empty has no tahrirchi/uzlib/default/test.jsonl"],
        ),
        (["--tasks", "uz_uzlib", "--mirror", "nowhere"], 2, ["--mirror nowhere: no such directory"]),
    ],
    ids=["no mirror", "mirror without the file", "mirror that isn't there"],
)
def test_missing_hub_data_are_said_in_one_line_and_no_run_is_begun(
    place: Path, model: Path, options: list[str], code: int, said: list[str]
) -> None:
    before = contents(place)
    refused(uzbench(place, "run", "--model", model.name, *options), code, *said)
    # The store of answers is there from the start, whole and empty.
    added = set(contents(place)) - set(before)
    assert added <= {"runs", "runs/store.sqlite"}


# ---------------------------------------------------------------- messages


def test_every_command_that_a_message_tells_to_type_exists() -> None:
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    named = {}
    for room in ("harness", "reports", "tasks_uz", "train"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for text, line in spoken(ast.parse(path.read_text(encoding="utf-8"))):
                # "Try: uzbench runs", or a line of its own in a help page.
                for found in re.finditer(r"(?m)(?:: |^ +)uzbench ([a-z-]+)", text):
                    named[found[1]] = f"{path.relative_to(ROOT)}:{line}"
    assert {"run", "runs", "tasks", "import", "train"} <= set(named)
    assert {name: where for name, where in named.items() if name not in known} == {}


def spoken(tree: ast.Module) -> list[tuple[str, int]]:
    """Every string that isn't a docstring, and the docstrings of commands, which are their help."""
    silent = {
        id(node.body[0].value)  # type: ignore[attr-defined]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and ast.get_docstring(node)
        and not getattr(node, "decorator_list", None)
    }
    return [
        (node.value, node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent
    ]
