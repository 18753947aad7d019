"""Model cards: what is in them, and that nothing another wrote becomes markup, metadata or code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import HOSTILE, visible
from test_reports import cells, kinds, parsed, sections, tables, two_runs

from harness.cli import run_command
from harness.manifest import Difference, Manifest, Merged, write_manifest, write_merged
from harness.records import MACRO
from reports.card import LOSSES, Evaluation, Published, render_card
from reports.format import interval

TRAINED = Manifest(
    base_model="google/gemma-3-270m",
    base_revision="abc123",
    base_digest="d" * 64,
    quantization="nf4",
    dtype="float32",
    prompt_format="alpaca",
    data="folder/rows.jsonl",
    data_sha256="e" * 64,
    n_rows=23_000,
    n_dropped={"answer_over_max_length": 12},
    n_tokens=1_000_000,
    n_trained_tokens=300_000,
    steps=2157,
    seconds=28_800.0,
    created="2026-09-14T10:11:12Z",
    recipe={
        "model": "google/gemma-3-270m",
        "out": "/tmp/x",
        "lora_rank": 16,
        "lora_targets": ["q_proj"],
        "eval": "/x/y",
    },
    losses=tuple((step, 3.0 - step / 2157) for step in range(1, 2158)),
    git_commit="abc",
    versions={"torch": "2.13.0"},
    hardware={"processor": "P", "cores": 2, "memory_gib": 8},
)
MERGED = Merged(
    adapter="adapter",
    adapter_digest="a" * 64,
    base_model="google/gemma-3-270m",
    base_revision="abc123",
    base_digest="b" * 64,
    quantization="nf4",
    dtype="bfloat16",
    difference=Difference(128, 0.49, 0.024, 0.00026, 0.984),
    rounding=0.16,
    activations=0.0,
    created="2026-09-14T10:11:12Z",
    trained=TRAINED,
    notes=("A note.",),
)


def metadata(card: str) -> dict[str, Any]:
    head, mark, _ = card.removeprefix("---\n").partition("\n---\n")
    assert card.startswith("---\n")
    assert mark
    return dict(yaml.safe_load(head))


def body(card: str) -> str:
    return card.removeprefix("---\n").partition("\n---\n")[2]


def table_below(card: str, heading: str) -> dict[str, str]:
    """The rows of the two columns that stand under a heading."""
    text = body(card).partition(f"## {heading}\n")[2]
    return dict(cells(tables(text)[0])[1:])


# ---------------------------------------------------------------- what is in it


def test_metadata_is_what_the_hub_reads() -> None:
    found = metadata(render_card(TRAINED, "uz-lora", published=Published("gemma", dataset="owner/rows")))
    assert found == {
        "language": ["uz"],
        "license": "gemma",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["uzbek", "uzbench", "lora"],
        "base_model": "google/gemma-3-270m",
        "base_model_relation": "adapter",
        "datasets": ["owner/rows"],
    }
    assert metadata(render_card(MERGED, "uz"))["library_name"] == "transformers"
    assert metadata(render_card(MERGED, "uz"))["base_model_relation"] == "finetune"


@pytest.mark.parametrize("path", ["/data/models/gemma", "models/gemma"])
def test_base_in_a_directory_is_named_without_its_path_and_left_out_of_the_metadata(path: str) -> None:
    made = replace(TRAINED, base_model=path, base_revision=None)
    card = render_card(made, "uz-lora")
    assert "base_model" not in metadata(card)
    assert "models" not in card
    assert "BASE is gemma." in card
    named = render_card(made, "uz-lora", published=Published(base_model="google/gemma-3-270m"))
    assert metadata(named)["base_model"] == "google/gemma-3-270m"


def test_card_has_its_sections_in_order() -> None:
    assert sections(body(render_card(TRAINED, "uz-lora"))) == [
        "uz-lora",
        "Use",
        "Data",
        "Recipe",
        "Training",
        "Evaluation",
        "Limits",
        "Licence",
    ]
    assert "Merge" in sections(body(render_card(MERGED, "uz")))
    assert sections(body(render_card(replace(MERGED, trained=None), "uz"))) == [
        "uz",
        "Use",
        "Merge",
        "Evaluation",
        "Limits",
        "Licence",
    ]


def test_data_recipe_and_training_are_the_manifests() -> None:
    card = render_card(TRAINED, "uz-lora", published=Published(usd=8.4))
    assert table_below(card, "Data") == {
        "file": "rows.jsonl",
        "SHA-256": "e" * 64,
        "rows trained on": "23,000",
        "rows left out": "12 answer over max length",
        "tokens of one pass": "1,000,000, of which 300,000 are answers and trained",
    }
    assert table_below(card, "Recipe") == {"lora_rank": "16", "lora_targets": "q_proj", "eval": "y"}
    training = table_below(card, "Training")
    assert training["quantization of the base"] == "nf4"
    assert training["time"] == "8 h 0 min"
    assert training["cost"] == "8.40 USD"
    assert training["machine"] == "P, 2 cores, 8 GiB"
    assert training["steps"] == "2,157"


def test_loss_curve_is_a_few_points_with_the_first_and_the_last() -> None:
    curve = cells(tables(body(render_card(TRAINED, "uz-lora")))[3])
    assert len(curve[0]) == LOSSES + 1
    assert (curve[0][1], curve[0][-1]) == ("1", "2,157")
    assert (curve[1][1], curve[1][-1]) == ("3.000", "2.000")
    few = replace(TRAINED, losses=((1, 3.0), (2, 2.5)))
    assert cells(tables(body(render_card(few, "uz-lora")))[3]) == [["step", "1", "2"], ["loss", "3.000", "2.500"]]
    assert "Loss in nats" not in render_card(replace(TRAINED, losses=()), "uz-lora")


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
@pytest.mark.parametrize("prompt_format", ["alpaca", "plain", "chat"])
@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_snippet_is_python_and_loads_the_base_as_it_was_trained(
    quantization: str, prompt_format: str, kind: str
) -> None:
    trained = replace(TRAINED, quantization=quantization, prompt_format=prompt_format)
    made: Any = trained if kind == "adapter" else replace(MERGED, trained=trained)
    fences = [token for token in parsed(body(render_card(made, "uz"))) if token.type == "fence"]
    assert [fence.info for fence in fences] == ["", "python"]
    compile(fences[1].content, "card", "exec")
    assert ("BitsAndBytesConfig" in fences[1].content) == (quantization != "none" and kind == "adapter")
    assert ("### Response:" in fences[1].content) == (prompt_format == "alpaca")
    assert f"--prompt-format {prompt_format}" in fences[0].content


def test_merged_card_says_how_far_it_is_from_its_adapter() -> None:
    card = render_card(MERGED, "uz")
    assert "quantized to nf4 and dequantized, and the sum rounded to bfloat16" in card
    assert "0.024 apart on average, 0.49 at most" in card
    assert "A note." in card


def test_evaluation_has_its_intervals_both_sides_and_a_sample_of_answers(tmp_path: Path) -> None:
    base, cand, comparison = two_runs(tmp_path)
    card = render_card(TRAINED, "uz-lora", Evaluation(comparison, base, cand, samples=4))
    primary = [row for row in comparison.rows if row.primary]
    assert primary
    for row in primary:
        assert interval(row.ci95) in card
    for overall in comparison.overall.values():
        assert interval(overall.ci95) in card
    for gap in comparison.orthography_gaps["cand"]:
        assert gap.task == MACRO or interval(gap.ci95) in card
    assert str(tmp_path) not in card
    answers = tables(body(card).partition("## Answers\n")[2])[0]
    assert len(answers) == 5
    assert "4 of 24 items" in card


def test_what_it_got_worse_at_stands_among_its_limits(tmp_path: Path) -> None:
    base, cand, comparison = two_runs(tmp_path)
    rows = tuple(replace(row, verdict="worse" if row.orthography == "cyrillic" else "same") for row in comparison.rows)
    card = render_card(TRAINED, "uz-lora", Evaluation(replace(comparison, rows=rows, limited=True), base, cand))
    limits = body(card).partition("## Limits\n")[2]
    assert "worse than its base at: uz&#95;topic (Cyrillic)" in limits
    assert "on a part of their documents" in limits
    assert "not been measured" in render_card(TRAINED, "uz-lora")


# ---------------------------------------------------------------- what another wrote


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_becomes_neither_markup_nor_metadata_nor_code(text: str, tmp_path: Path) -> None:
    trained = replace(
        TRAINED,
        base_model=text,
        base_revision=text,
        quantization=text,
        dtype=text,
        prompt_format=text,
        data=text,
        data_sha256=text,
        n_dropped={text: 1},
        recipe={text: text, "list": [text]},
        created=text,
        git_commit=text,
        versions={text: text},
        hardware={"processor": text, "cores": text, "memory_gib": text, "gpu": text, "gpus": text},
    )
    runs = two_runs(tmp_path, hostile=text, n=2)
    evaluation = Evaluation(runs[2], runs[0], runs[1])
    published = Published(licence=text, dataset=text)
    for made in (trained, replace(MERGED, base_model=text, dtype=text, notes=(text,), trained=trained)):
        card = render_card(made, text, evaluation, published)
        card.encode("utf-8")
        found = metadata(card)
        assert found["license"] == visible(text).replace("\n", " ")
        assert set(found) <= {*metadata(render_card(TRAINED, "uz")), "datasets"}
        tokens = parsed(body(card))
        assert not kinds(tokens) & {"html_block", "html_inline", "link_open", "image", "code_block"}
        fences = [token.content for token in tokens if token.type == "fence"]
        assert len(fences) == 2
        compile(fences[1], "card", "exec")
        assert sections(body(card))[1:4] == ["Use", "Data", "Recipe"]
        assert all(len({len(row) for row in rows}) == 1 for rows in tables(body(card)))


# ---------------------------------------------------------------- the command


def test_command_writes_the_card_beside_the_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = tmp_path / "uz-lora"
    adapter.mkdir()
    write_manifest(adapter, TRAINED)
    two_runs(tmp_path)
    command = ["card", str(adapter), str(tmp_path / "base"), str(tmp_path / "cand"), "--licence", "gemma"]
    assert run_command([*command, "--samples", "3"]) == 0
    assert capsys.readouterr().out == f"{adapter / 'README.md'}\n"
    card = (adapter / "README.md").read_text(encoding="utf-8")
    assert metadata(card)["license"] == "gemma"
    assert "3 of 24 items" in card
    assert sections(body(card))[0] == "uz-lora"


def test_command_writes_the_card_of_merged_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_merged(tmp_path, MERGED)
    assert run_command(["card", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == [str(tmp_path / "README.md")]
    assert metadata((tmp_path / "README.md").read_text(encoding="utf-8"))["library_name"] == "transformers"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["nowhere"], "no such directory"), (["."], "no manifest of ours"), ([".", "runs/base"], "takes two runs")],
)
def test_card_of_nothing_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["card", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
