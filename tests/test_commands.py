"""What compare and a sequential gate write, print and return, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import run_command
from harness.records import Comparison, GateResult, Series
from tests.synthetic import Asked, Asker, made_run

N = 400


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """A base, the same again in an adapter's format, a tuned model, and one that lost everything."""
    right = [float(number % 2) for number in range(N)]
    better = [1.0 if number % 4 < 2 else value for number, value in enumerate(right)]
    values = {"base": right, "same": right, "tuned": better, "ruined": [0.0] * N}
    formats = {"base": "plain", "same": "alpaca", "tuned": "alpaca", "ruined": "plain"}
    return {
        name: made_run(
            tmp_path / name,
            Asked({"acc": each}, asked_as=formats[name]),
            by=Asker(
                name="base" if name != "ruined" else name,
                adapter="adapter" if name == "tuned" else None,
                prompt_format=formats[name],
            ),
        ).path
        for name, each in values.items()
    }


def printed(capsys: pytest.CaptureFixture[str]) -> list[Path]:
    return [Path(line) for line in capsys.readouterr().out.splitlines()]


def test_comparison_of_two_is_written_as_record_page_and_text(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["compare", str(runs["base"]), str(runs["same"])]) == 0
    paths = printed(capsys)
    assert [path.name for path in paths] == ["comparison.json", "report.md", "report.html"]
    assert all(path.parent == runs["same"] / "against-base" for path in paths)
    Comparison.from_dict(json.loads(paths[0].read_text()))


def test_several_candidates_are_a_series(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["compare", *(str(runs[name]) for name in ("base", "same", "tuned")), "--out", str(out)]
    assert run_command(command) == 0
    found = {path.relative_to(out).as_posix() for path in printed(capsys)}
    assert found == {
        *(f"{name}/{file}" for name in ("same", "tuned") for file in ("comparison.json", "report.md", "report.html")),
        "series.json",
        "series.md",
    }
    (split,) = Series.from_dict(json.loads((out / "series.json").read_text())).splits
    assert split.rows[0].format == 0
    assert split.rows[0].rest == pytest.approx(0.25)
    assert "Format and the rest" in (out / "tuned" / "report.html").read_text()


def test_json_of_several_holds_the_comparisons_and_the_series(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(runs["tuned"].rglob("*"))
    assert run_command(["compare", *(str(runs[name]) for name in ("base", "same", "tuned")), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], len(document["comparisons"])) == (1, 2)
    Series.from_dict(document["series"])
    assert sorted(runs["tuned"].rglob("*")) == before


@pytest.mark.parametrize(
    ("base", "cand", "options", "code"),
    [
        ("base", "base", [], 0),
        ("base", "ruined", [], 1),
        # A margin of a hundredth needs more equal answers than there are.
        ("base", "base", ["--policy", "strict.yaml"], 2),
        ("base", "tuned", [], 3),
        ("base", "nowhere", [], 3),
    ],
)
def test_verdict_of_a_sequential_gate_is_its_exit_code(
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    base: str,
    cand: str,
    options: list[str],
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strict.yaml").write_text("margin: 0.001\n")
    assert run_command(["gate", base, cand, "--sequential", *options]) == code
    assert capsys.readouterr().err


def test_sequential_gate_says_where_it_stopped(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["gate", str(runs["base"]), str(runs["ruined"]), "--sequential", "--out", str(tmp_path / "gate")]
    assert run_command([*command, "--summary", str(tmp_path / "gate.md"), "--json"]) == 1
    said = capsys.readouterr()
    result = GateResult.from_dict(json.loads(said.out))
    assert result == GateResult.from_dict(json.loads((tmp_path / "gate" / "gate.json").read_text()))
    assert result.share_asked is not None
    assert result.share_asked < 1
    assert f"stopped after look {len(result.looks)} of" in said.err
    table = (tmp_path / "gate.md").read_text().partition("| look |")[2].splitlines()
    assert table[0].endswith("| boundary | z of a pass | boundary | verdict |")
    assert {line.count("|") for line in table[1 : 2 + len(result.looks)]} == {table[0].count("|") + 2}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["base"], "No candidate is named"),
        (["base", "--sequential"], "No candidate is named"),
        (["base", "--model", "x"], "add --sequential"),
        (["base", "same", "--sequential", "--adapter", "x"], "Either a run"),
        (["base", "--sequential", "--model", "./nowhere"], "nowhere"),
        (["base", "same", "--gpus", "2"], "--gpus is for a candidate to ask"),
        (["base", "base", "--seed", "2"], "add --sequential"),
    ],
)
def test_sequential_gate_needs_somebody_to_ask(
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["gate", *arguments]) == 3
    found = capsys.readouterr()
    assert found.out == ""
    assert said in found.err
    assert len(found.err.strip().splitlines()) == 1


@pytest.mark.parametrize("run_id", ["../../elsewhere", "/elsewhere", "..", "a\\b", ""])
def test_run_whose_id_is_no_name_writes_nowhere(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], run_id: str
) -> None:
    path = runs["same"] / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "run_id": run_id}))
    before = sorted(tmp_path.rglob("*"))
    assert run_command(["compare", str(runs["base"]), str(runs["same"])]) == 2
    assert "isn't the name of a directory" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_note_of_a_comparison_moves_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [
        str(made_run(tmp_path / name, Asked({"acc": [1.0, 0.0]}), by=Asker(name, subset="\x1b[2J")).path)
        for name in ("base", "cand")
    ]
    assert run_command(["compare", *paths]) == 0
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "⟨U+001B⟩[2J" in said


@pytest.mark.parametrize(("command", "code"), [("compare", 2), ("gate", 3)])
def test_error_that_holds_names_of_others_moves_no_cursor(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, code: int
) -> None:
    hostile = made_run(tmp_path / "hostile", Asked({"acc": [1.0, 0.0]}, task="uz_\x1b[2Jtopic\u202e"))
    assert run_command([command, str(runs["base"]), str(hostile.path)]) == code
    said = capsys.readouterr().err
    assert "⟨U+001B⟩[2Jtopic⟨U+202E⟩" in said
    assert "\x1b" not in said
