"""What a person types often starts at once: help, lists and comparisons load no model library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import Asked, made_run

from harness.cli import app

HEAVY = ("torch", "transformers", "lm_eval", "peft", "trl", "datasets")
STATISTICS = ("scipy", "statsmodels")

# The last line of stdout: the exit code, and which packages the command has imported.
DRIVER = """
import json, sys
from harness.cli import run_command
code = run_command(sys.argv[2:])
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([code, sorted(loaded & set(sys.argv[1].split(",")))]))
"""

COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)


def imported(names: tuple[str, ...], *arguments: str, cwd: Path, driver: str = DRIVER, exit_code: int = 0) -> list[str]:
    """Which of the named packages a command line has imported when it has done its work."""
    done = subprocess.run(
        [sys.executable, "-c", driver, ",".join(names), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    code, found = json.loads(done.stdout.splitlines()[-1])
    assert code == exit_code, done.stderr
    return list(found)


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_imports_neither_models_nor_statistics(arguments: list[str], tmp_path: Path) -> None:
    assert imported(HEAVY + STATISTICS, *arguments, cwd=tmp_path) == []


@pytest.mark.parametrize("arguments", [["tasks"], ["tasks", "--json"]], ids=" ".join)
def test_list_of_tasks_imports_neither_models_nor_statistics(arguments: list[str], tmp_path: Path) -> None:
    assert imported(HEAVY + STATISTICS, *arguments, cwd=tmp_path) == []


@pytest.mark.parametrize("arguments", [["runs"], ["runs", "--json"]], ids=" ".join)
def test_list_of_runs_imports_neither_models_nor_statistics(arguments: list[str], tmp_path: Path) -> None:
    made_run(tmp_path / "runs" / "base", Asked({"acc": [1.0, 0.0]}))
    assert imported(HEAVY + STATISTICS, *arguments, cwd=tmp_path) == []


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["report", "json"])
def test_compare_imports_no_model_library(options: list[str], tmp_path: Path) -> None:
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    made_run(base, Asked({"acc": [1.0] * 12 + [0.0] * 28}))
    made_run(tuned, Asked({"acc": [1.0] * 32 + [0.0] * 8}))
    assert imported(HEAVY, "compare", str(base), str(tuned), *options, cwd=tmp_path) == []
    assert (tuned / "against-base" / "report.md").is_file() == (not options)


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["files", "json"])
def test_leaderboard_imports_no_model_library(options: list[str], tmp_path: Path) -> None:
    for name, n in (("base", 12), ("tuned", 32)):
        made_run(tmp_path / name, Asked({"acc": [1.0] * n + [0.0] * (40 - n)}))
    found = imported((*HEAVY, "pandas", "statsmodels"), "leaderboard", "base", "tuned", *options, cwd=tmp_path)
    assert found == []
    assert (tmp_path / "leaderboard" / "leaderboard.html").is_file() == (not options)


@pytest.mark.parametrize("options", [[], ["--json"], ["--junit", "gate.xml", "--summary", "gate.md"]], ids=" ".join)
def test_gate_imports_no_model_library(options: list[str], tmp_path: Path) -> None:
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    made_run(base, Asked({"acc": [1.0] * 12 + [0.0] * 28}))
    made_run(tuned, Asked({"acc": [1.0] * 32 + [0.0] * 8}))
    found = imported((*HEAVY, "pandas", "statsmodels"), "gate", str(base), str(tuned), *options, cwd=tmp_path)
    assert found == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--model", "empty", "--tasks", "uz_topik"],
        ["run", "--model", "empty", "--limit", "0"],
        ["run", "--model", "empty"],
        ["compare", "empty", "empty"],
        ["import", "empty"],
        ["check-data", "nowhere.jsonl"],
        ["train", "nowhere.yaml"],
        ["train", "recipe.yaml", "epoch=1"],
    ],
    ids=" ".join,
)
def test_mistake_is_told_before_a_model_library_is_imported(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "recipe.yaml").write_text("model: m\ndata: d\nout: o\n", encoding="utf-8")
    assert imported(HEAVY, *arguments, cwd=tmp_path, exit_code=2) == []


def test_heavy_import_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "trl.py").write_text("", encoding="utf-8")
    found = imported(HEAVY, "--help", cwd=tmp_path, driver=f"import trl\n{DRIVER}")
    assert found == ["trl"]
