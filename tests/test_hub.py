"""Hub tasks that lm-eval has tasks of its own for: the same data, the same columns, the same answers.

The rows are fixtures of our own, in the columns that lm-eval's YAML reads.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import pytest
import yaml

from tasks_uz.ask import offered

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
        choices = rendered(theirs["doc_to_choice"], row)
        assert len(choices) == len(document["choices"])
        if choices != ["A", "B", "C", "D"]:
            assert utils.doc_to_choice(document) == choices
        else:
            assert offered(document) == choices
