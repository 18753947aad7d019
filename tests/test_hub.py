"""Hub tasks that lm-eval has tasks of its own for: the same data, the same columns, the same answers.

The rows are fixtures of our own, in the columns that lm-eval's YAML reads.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import pytest
import yaml

from harness.errors import UsageError
from harness.evaluate import load_tasks
from harness.records import RunSpec
from tasks_uz.ask import offered
from tasks_uz.data import MirrorError

FIXTURES = Path(__file__).parent / "fixtures" / "mirror"
LM_EVAL = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks"  # type: ignore[union-attr,arg-type]

THEIRS = {
    "uz_belebele": "belebele/belebele_uzn_Latn.yaml",
    "uz_include": "include/few_shot_og/Uzbek/include_base_44_uzbek_stem.yaml",
    "uz_multiblimp": "multiblimp/multiblimp_uzb.yaml",
    "uz_piqa": "global_piqa/nonparallel_cloze/uzn_latn.yaml",
}


class Loader(yaml.SafeLoader):
    """YAML with `!function`, which is kept as its name."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore[no-untyped-call]


def their_config(path: Path) -> dict[str, Any]:
    config = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    if "include" not in config:
        return dict(config)
    include = path.parent / config["include"]
    return {**their_config(include if include.suffix or include.exists() else include.with_suffix(".yaml")), **config}


def rendered(template: Any, row: dict[str, Any]) -> Any:
    """What lm-eval makes of a field of its YAML for one row; a column that isn't there is an error."""
    if not isinstance(template, str):
        return template
    if template in row:
        return row[template]
    text = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(template).render(row)
    return yaml.safe_load(text) if text[:1] in "[0123456789" and text else text


def columns_of_choices(theirs: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """The columns of a row that hold its choices, in the order of lm-eval's templates."""
    text = "".join(str(theirs[field]) for field in ("doc_to_text", "doc_to_choice"))
    names = [name for name in row if re.match(r"(mc_answer|option_|solution)\w$|(wrong_)?sen$", name)]
    places = {name: match.start() for name in names if (match := re.search(rf"\b{name}\b", text))}
    assert len(places) >= 2
    return sorted(places, key=places.__getitem__)


def fixture(task: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(row, our document) of each row of a task's test split."""
    utils = importlib.import_module(f"tasks_uz.{task}.utils")
    (source,) = utils.SOURCES
    path = FIXTURES / source.name / source.config / f"{source.splits[0]}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    documents = list(utils.load(mirror=str(FIXTURES))["test"])
    assert len(documents) == len(rows) > 0
    return list(zip(rows, documents, strict=True))


@pytest.mark.parametrize("task", THEIRS)
def test_data_set_configuration_and_split_are_lm_evals(task: str) -> None:
    theirs = their_config(LM_EVAL / THEIRS[task])
    (source,) = importlib.import_module(f"tasks_uz.{task}.utils").SOURCES
    assert (source.name, source.config, source.splits[0]) == (
        theirs["dataset_path"],
        theirs["dataset_name"],
        theirs["test_split"],
    )


@pytest.mark.parametrize("task", THEIRS)
def test_lm_eval_reads_the_same_question_choices_and_answer_from_a_row(task: str) -> None:
    theirs = their_config(LM_EVAL / THEIRS[task])
    utils = importlib.import_module(f"tasks_uz.{task}.utils")
    for row, document in fixture(task):
        assert int(rendered(theirs["doc_to_target"], row)) == document["answer"]
        asked = utils.doc_to_text(document)
        prompt = rendered(theirs["doc_to_text"], row)
        # Theirs is in English around the same words.
        columns = jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(theirs["doc_to_text"]))
        assert [column for column in columns or () if str(row[column]).strip() not in asked] == []
        assert columns or not prompt or prompt in asked
        # Columns in the order in which theirs has them: the right one is named by its place.
        texts = [str(row[name]) for name in columns_of_choices(theirs, row)]
        assert document["choices"] == texts
        choices = rendered(theirs["doc_to_choice"], row)
        assert len(choices) == len(document["choices"])
        if choices != ["A", "B", "C", "D"]:
            assert utils.doc_to_choice(document) == choices
        else:
            assert offered(document) == choices


# ---------------------------------------------------------------- rows that aren't what they should be


def mirror_with(folder: Path, source: Any, split: str, rows: list[dict[str, Any]]) -> Path:
    """The fixtures with one file written anew."""
    shutil.copytree(FIXTURES, folder, dirs_exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / source.name / source.config / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_row_with_an_empty_choice_is_refused_before_anything_is_asked(tmp_path: Path, empty: str | None) -> None:
    utils = importlib.import_module("tasks_uz.uz_include.utils")
    (source,) = utils.SOURCES
    rows = [row for row, _ in fixture("uz_include")]
    mirror = mirror_with(tmp_path, source, "test", [rows[0], {**rows[1], "option_d": empty}])
    with pytest.raises(MirrorError, match=r"row 2 isn't what was expected: a choice is empty"):
        utils.load(mirror=str(mirror))


def flores() -> tuple[Any, Any, list[dict[str, Any]]]:
    utils = importlib.import_module("tasks_uz.uz_flores_en_uz.utils")
    source = next(source for source in utils.SOURCES if source.config == "uzn_Latn")
    path = FIXTURES / source.name / source.config / "devtest.jsonl"
    return utils, source, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_sentence_without_its_translation_is_named(tmp_path: Path) -> None:
    utils, source, rows = flores()
    mirror = mirror_with(tmp_path, source, "devtest", rows[1:])
    with pytest.raises(MirrorError, match=rf"1 rows .* have no counterpart, such as id {rows[0]['id']}"):
        utils.load(mirror=str(mirror))


def test_translation_without_its_column_is_named(tmp_path: Path) -> None:
    utils, source, rows = flores()
    mirror = mirror_with(tmp_path, source, "devtest", [{"id": row["id"], "sentence": "Salom"} for row in rows])
    with pytest.raises(MirrorError, match="has no column 'text'"):
        utils.load(mirror=str(mirror))


@pytest.mark.parametrize("task", ["uz_belebele", "uz_multiblimp", "uz_piqa"])
def test_shots_are_refused_where_a_set_has_none_apart_from_its_test(task: str) -> None:
    with pytest.raises(UsageError, match=f"--shots 2: task {task} has 0 worked examples"):
        load_tasks([task], RunSpec(model="m", n_shot=2), FIXTURES)
