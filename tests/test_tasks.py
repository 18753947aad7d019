"""Every task as lm-eval sees it: loaded by stock lm-eval in a process of its own, its functions resolved.

lm-eval leaves a YAML that it can't read out of its index without a word: the index is held against the files.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks_uz import catalog
from tasks_uz.data import MIRROR_VARIABLE
from tasks_uz.text import ORTHOGRAPHIES, TASK_SUFFIX

TASKS_UZ = Path(__file__).parent.parent / "tasks_uz"
MIRROR = Path(__file__).parents[2] / "shared" / "mirror"
# Rows of our own in the columns that the hub has: what a mirror of it would hold.
FIXTURES = Path(__file__).parent / "fixtures" / "mirror"

CORE = sorted(task.name for task in catalog.tasks().values() if task.suite == "uz_core")
JUDGED = sorted(task.name for task in catalog.tasks().values() if task.suite == "uz_judged")
HUB = sorted(task.name for task in catalog.tasks().values() if task.suite == "uz_hub")
MIRRORED = ("uz_sib200", "uz_uzlib")
"""Hub tasks whose own data a mirror beside this checkout has; the others are held to FIXTURES."""
BASES = sorted(task.name for task in catalog.base_tasks() if task.suite == "uz_core")

# Prints what stock lm-eval finds below each of the named directories: its index, and what each task gives.
CHECK = """
import json, sys
from pathlib import Path
from lm_eval.tasks import TaskManager

def looked_at(task):
    docs = list(task.eval_docs)
    found = {
        "n": len(docs),
        "ids": [doc["id"] for doc in docs],
        "n_shots": len(list(task.fewshot_docs() or ())) if task.config.fewshot_split else 0,
        "type": task.OUTPUT_TYPE,
        "version": task.VERSION,
        "metrics": [each["metric"] for each in task.config.metric_list],
        "prompts": [task.doc_to_text(doc) for doc in docs],
        "targets": [task.doc_to_target(doc) for doc in docs],
        "groups": [doc["group"] for doc in docs],
    }
    if task.OUTPUT_TYPE == "multiple_choice":
        found["choices"] = [task.doc_to_choice(doc) for doc in docs]
    else:
        found["right"] = [task.process_results(doc, [task.doc_to_target(doc)]) for doc in docs]
        found["silent"] = task.process_results(docs[0], [None])
        found["until"] = task.config.generation_kwargs["until"]
    return found

def check(root, names):
    manager = TaskManager(include_path=str(root), include_defaults=False)
    index = manager.task_index
    indexed = {Path(entry.yaml_path) for entry in index.values()}
    unread = sorted(str(path.relative_to(root)) for path in root.glob("**/*.yaml") if path not in indexed)
    tasks, groups, errors = {}, {}, {}
    for name in manager.all_subtasks:
        if names and name not in names:
            continue
        try:
            tasks[name] = looked_at(manager.load([name])["tasks"][name])
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
    for name in manager.all_groups:
        members = index[name].cfg["task"]
        groups[name] = members
        absent = [member for member in members if member not in index]
        if absent:
            errors[name] = f"no such task: {absent}"
    index = manager.all_subtasks
    return {"unread": unread, "errors": errors, "index": index, "tasks": tasks, "groups": groups}

request = json.loads(sys.argv[1])
answer = {root: check(Path(root), names) for root, names in request.items()}
Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")
"""

Loaded = dict[str, Any]


def _replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def _function(root: Path) -> None:
    _replaced(root / "uz_sentiment" / "uz_sentiment.yaml", "utils.doc_to_text", "utils.doc_to_txt")


def _module(root: Path) -> None:
    _replaced(root / "uz_sentiment" / "uz_sentiment.yaml", "!function utils.load", "!function util.load")


def _syntax(root: Path) -> None:
    _replaced(root / "uz_sentiment" / "uz_sentiment_cyrl.yaml", "metadata:", "metadata: {")


def _include(root: Path) -> None:
    _replaced(root / "uz_sentiment" / "uz_sentiment_cyrl.yaml", "uz_sentiment.yaml", "sentiment.yaml")


def _label(root: Path) -> None:
    _replaced(root / "uz_sentiment" / "items.jsonl", '"salbiy"', '"salbi"')


def _group(root: Path) -> None:
    _replaced(root / "uz_core.yaml", "uz_sentiment", "uz_sentimental")


BREAKS: dict[str, Callable[[Path], None]] = {
    "function": _function,
    "module": _module,
    "syntax": _syntax,
    "include": _include,
    "label": _label,
    "group": _group,
}


def one_mirror(folder: Path) -> Path:
    """The fixtures and the mirror beside the checkout, where there is one, as one mirror."""
    for mirror in (FIXTURES, MIRROR):
        for path in mirror.rglob("*.jsonl"):
            link = folder / path.relative_to(mirror)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loaded]:
    """What stock lm-eval finds in tasks_uz ("ours"), in a sound part of it ("copy"), and in broken ones."""
    folder = tmp_path_factory.mktemp("tasks")
    roots = {"ours": TASKS_UZ}
    for name, damage in {"copy": lambda root: None, **BREAKS}.items():
        root = folder / name
        root.mkdir()
        shutil.copytree(TASKS_UZ / "uz_sentiment", root / "uz_sentiment")
        (root / "uz_core.yaml").write_text("group: uz_core\ntask:\n  - uz_sentiment\n", encoding="utf-8")
        damage(root)
        roots[name] = root
    # All that the mirror beside the checkout isn't needed for, where there is none; an empty list stands for all.
    there = [name for name, task in catalog.tasks().items() if MIRROR.is_dir() or task.base not in MIRRORED]
    request = {str(root): there if name == "ours" else [] for name, root in roots.items()}
    report = folder / "report.json"
    done = subprocess.run(
        [sys.executable, "-c", CHECK, json.dumps(request), str(report)],
        cwd=folder,
        env={
            **{key: value for key, value in os.environ.items() if key != MIRROR_VARIABLE},
            "HF_HUB_OFFLINE": "1",
            MIRROR_VARIABLE: str(one_mirror(folder / "mirror")),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(report.read_text(encoding="utf-8"))
    return {name: answer[str(root)] for name, root in roots.items()}


def one(loaded: dict[str, Loaded], name: str) -> Loaded:
    """What lm-eval found of one of our tasks; skipped where it needs a mirror that isn't there."""
    if catalog.tasks()[name].base in MIRRORED and not MIRROR.is_dir():
        pytest.skip("no mirror of the hub beside this checkout")
    found: Loaded = loaded["ours"]["tasks"][name]
    return found


# ---------------------------------------------------------------- loading


def test_stock_lm_eval_loads_every_yaml_with_its_functions(loaded: dict[str, Loaded]) -> None:
    ours = loaded["ours"]
    assert ours["unread"] == []
    assert ours["errors"] == {}


def test_check_lets_a_sound_copy_pass(loaded: dict[str, Loaded]) -> None:
    copy = loaded["copy"]
    assert (copy["unread"], copy["errors"]) == ([], {})
    assert copy["tasks"]["uz_sentiment"] == loaded["ours"]["tasks"]["uz_sentiment"]


@pytest.mark.parametrize(
    ("damage", "where", "what"),
    [
        ("function", "uz_sentiment", "no function 'doc_to_txt'"),
        ("module", "uz_sentiment", "Cannot import module 'util'"),
        ("label", "uz_sentiment", "ValueError"),
        ("group", "uz_core", "uz_sentimental"),
    ],
)
def test_check_finds_a_broken_task(loaded: dict[str, Loaded], damage: str, where: str, what: str) -> None:
    assert what in loaded[damage]["errors"][where]


@pytest.mark.parametrize("damage", ["syntax", "include"])
def test_check_finds_a_yaml_that_lm_eval_passes_over(loaded: dict[str, Loaded], damage: str) -> None:
    assert loaded[damage]["unread"] == ["uz_sentiment/uz_sentiment_cyrl.yaml"]


def test_catalog_and_lm_eval_know_the_same_tasks(loaded: dict[str, Loaded]) -> None:
    assert sorted(catalog.tasks()) == loaded["ours"]["index"]


def test_catalog_and_lm_eval_open_groups_alike(loaded: dict[str, Loaded]) -> None:
    direct = loaded["ours"]["groups"]

    def opened(name: str) -> list[str]:
        return [task for member in direct[name] for task in (opened(member) if member in direct else [member])]

    assert {name: list(members) for name, members in catalog.groups().items()} == {
        name: opened(name) for name in direct
    }


@pytest.mark.parametrize("name", sorted(catalog.tasks()))
def test_catalog_says_of_a_task_what_lm_eval_finds(loaded: dict[str, Loaded], name: str) -> None:
    info, found = catalog.tasks()[name], one(loaded, name)
    if info.suite != "uz_hub" or info.base in MIRRORED:
        assert found["n"] == info.n
    assert found["version"] == info.version
    # What only a judge can give, no YAML promises.
    assert (info.primary in found["metrics"]) == (info.suite != "uz_judged")
    if found["type"] == "multiple_choice":
        # chance is written with four digits.
        assert {round(1 / len(choices), 4) for choices in found["choices"]} == {info.chance}
    else:
        assert info.chance == 0


@pytest.mark.parametrize("name", sorted(catalog.tasks()))
def test_documents_have_ids_of_their_own_a_prompt_and_an_answer_among_the_choices(
    loaded: dict[str, Loaded], name: str
) -> None:
    found = one(loaded, name)
    assert len(set(found["ids"])) == found["n"]
    # Sentences of a minimal pair are scored by themselves.
    assert all(prompt == prompt.strip() for prompt in found["prompts"])
    assert all(found["prompts"]) or name == "uz_multiblimp"
    if found["type"] == "multiple_choice":
        for target, choices in zip(found["targets"], found["choices"], strict=True):
            assert target in range(len(choices))
            assert len(set(choices)) == len(choices)
    else:
        assert all(found["targets"]) or name in JUDGED


@pytest.mark.parametrize("name", [name for name in CORE if catalog.tasks()[name].chance == 0])
def test_wanted_answer_scores_one_in_every_alphabet_and_silence_is_unscored(
    loaded: dict[str, Loaded], name: str
) -> None:
    found = one(loaded, name)
    # chrF is a quotient of floats.
    worst = min(each[catalog.tasks()[name].primary] for each in found["right"])
    assert worst == pytest.approx(1.0, abs=1e-9)
    assert {each["unscored"] for each in found["right"]} == {0.0}
    assert found["silent"] == {"unscored": 1.0}
    # An answer that holds a stop string could never be given whole.
    assert [target for target in found["targets"] for stop in found["until"] if stop in target] == []


# ---------------------------------------------------------------- variants


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("orthography", ORTHOGRAPHIES)
def test_every_embedded_task_is_asked_in_every_alphabet(base: str, orthography: str) -> None:
    info = catalog.tasks()[f"{base}{TASK_SUFFIX[orthography]}"]
    assert (info.base, info.orthography) == (base, orthography)


@pytest.mark.parametrize("name", sorted(catalog.tasks()))
def test_variant_includes_its_base_and_changes_only_name_and_metadata(name: str) -> None:
    info = catalog.tasks()[name]
    assert info.path.stem == name
    base = catalog.tasks()[info.base]
    assert base.base == base.name
    # Answers of different lengths are compared by byte where they are written out.
    primary = "acc_bytes" if info.prompt.startswith("cloze") else base.primary
    assert (info.suite, info.type, info.primary, info.chance, info.n, info.version) == (
        base.suite,
        base.type,
        primary,
        base.chance,
        base.n,
        base.version,
    )
    if name == info.base:
        return
    # The loader of PyYAML knows no !function: a variant names none.
    raw = yaml.safe_load(info.path.read_text(encoding="utf-8"))
    assert raw["include"] == f"{info.base}.yaml"
    assert set(raw) == {"include", "task", "metadata"}
    assert name.startswith(info.base)


@pytest.mark.parametrize("base", BASES)
def test_variants_ask_the_same_items_in_the_same_order(loaded: dict[str, Loaded], base: str) -> None:
    variants = [one(loaded, f"{base}{suffix}") for suffix in TASK_SUFFIX.values()]
    for key in ("ids", "groups", "n_shots", "type", "metrics"):
        assert variants[0][key] == variants[1][key] == variants[2][key]
    assert len({variant["prompts"][0] for variant in variants}) == 3


def without_letters_and_numerals(prompt: str) -> str:
    return re.sub(r"(?m)^[A-H]\) |\b[IVX]+\b", "", prompt)


FOREIGN = {"latin": "[\u0400-\u04fföğşç]", "cyrillic": "[A-Za-zʻʼ]", "latin2026": "[\u0400-\u04ffʻ]"}


@pytest.mark.parametrize("name", CORE)
def test_prompt_is_wholly_in_its_alphabet(loaded: dict[str, Loaded], name: str) -> None:
    found, foreign = one(loaded, name), FOREIGN[catalog.tasks()[name].orthography]
    # Letters that name options stay Latin, so none is named in a sentence that is converted.
    assert not [prompt for prompt in found["prompts"] if re.search(r"\b[АБВСД], ", prompt)]
    # Options are lettered A B C D, and Roman numerals written, in every alphabet.
    strange = {
        word
        for prompt in found["prompts"]
        for word in without_letters_and_numerals(prompt).split()
        if re.search(foreign, word)
    }
    assert strange == set()


# ---------------------------------------------------------------- the list of tasks


def test_tasks_json_has_the_documented_keys(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness", "tasks", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    document = json.loads(done.stdout)
    assert list(document) == ["schema", "tasks"]
    assert document["schema"] == 1
    keys = ["task", "suite", "type", "n", "orthographies", "metric", "chance", "source", "licence"]
    assert all(list(row) == keys for row in document["tasks"])
    rows = {row["task"]: row for row in document["tasks"]}
    assert sorted(rows) == sorted(task.name for task in catalog.base_tasks())
    for name, row in rows.items():
        assert row["suite"] in ("uz_core", "uz_hub", "uz_judged")
        hub = ["latin", "cyrillic"] if name == "uz_tumlu" else ["latin"]
        assert row["orthographies"] == (hub if name in HUB else ["latin"] if name in JUDGED else list(ORTHOGRAPHIES))
        assert 0 <= row["chance"] < 1
        assert row["licence"]
        assert row["source"]
    # Shots are not counted.
    assert rows["uz_topic"]["n"] == len((TASKS_UZ / "uz_topic" / "items.jsonl").read_bytes().splitlines())


# ---------------------------------------------------------------- stock lm-eval, from question to number


@pytest.mark.model
def test_stock_lm_eval_gives_every_embedded_task_a_number(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lm_eval", "run", "--include_path", str(TASKS_UZ), "--tasks", "uz_core"]
    command += ["--model", "dummy", "--limit", "4", "--output_path", str(tmp_path / "out")]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(path.read_text(encoding="utf-8"))
    for name in BASES:
        value = results["results"][name][f"{catalog.tasks()[name].primary},none"]
        assert math.isfinite(value)
        assert 0 <= value <= 1
        assert results["n-samples"][name] == {"original": catalog.tasks()[name].n, "effective": 4}
        # The table of stock lm-eval shows the name that a person can type.
        assert results["results"][name]["alias"].strip(" -") == name
