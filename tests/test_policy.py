"""A policy file: defaults, rules of tasks and suites, limits, golden items, and what is refused, with its file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.errors import DataError, UnknownNameError, UsageError, UzBenchError
from harness.policy import DEFAULT_LIMITS, Golden, Limit, Policy, TaskRule, read_policy

EXAMPLE = """
margin: 0.02
alpha: 0.01
allow_limited: true
tasks:
  uz_reading: {margin: 0.05}
  uz_hub: {ignore: true, min_effect: 0.04}
  uz_sib200: {ignore: false}
artefacts:
  wrong_alphabet: 0
  cut_off: {limit: 0.25, absolute: true}
  copied: null
golden:
  - uz_qa/qa-002
  - {task: uz_lang, items: [lang-001, lang-014]}
  - uz_qa/qa-002
"""


def policy_of(tmp_path: Path, text: str) -> Policy:
    (tmp_path / "gate.yaml").write_text(text, encoding="utf-8")
    return read_policy(tmp_path / "gate.yaml")


def test_policy_without_a_file_is_the_one_of_the_design() -> None:
    policy = Policy()
    assert (policy.margin, policy.min_effect, policy.alpha) == (0.03, 0.01, 0.05)
    assert not policy.allow_limited
    assert not policy.allow_prompt_format
    assert policy.artefacts == DEFAULT_LIMITS
    assert policy.golden == ()


def test_file_fills_in_what_it_leaves_out(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, EXAMPLE)
    assert (policy.margin, policy.min_effect, policy.alpha) == (0.02, 0.01, 0.01)
    assert policy.artefacts == {
        **DEFAULT_LIMITS,
        "wrong_alphabet": Limit(0.0),
        "cut_off": Limit(0.25, absolute=True),
        "copied": None,
    }
    assert policy.golden == (Golden("uz_qa", "qa-002"), Golden("uz_lang", "lang-001"), Golden("uz_lang", "lang-014"))


def test_policy_survives_the_way_through_json(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, EXAMPLE)
    assert Policy.from_dict(policy.to_dict()) == policy


def test_rule_of_a_task_comes_before_that_of_its_suite_and_that_before_the_policys(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, EXAMPLE)
    assert policy.rule("uz_reading", "uz_core") == TaskRule(margin=0.05, min_effect=0.01, ignore=False)
    assert policy.rule("uz_uzlib", "uz_hub") == TaskRule(margin=None, min_effect=0.04, ignore=True)
    assert policy.rule("uz_sib200", "uz_hub") == TaskRule(margin=None, min_effect=0.04, ignore=False)
    assert policy.rule("mine") == TaskRule(margin=None, min_effect=0.01, ignore=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("margn: 0.02", "key 'margn' is unknown. Did you mean 'margin'?"),
        ("margin: 3", "margin: 3.0, expected a fraction above 0"),
        ("margin: .nan", "margin: nan, expected"),
        ("margin: 0", "margin: 0.0, expected"),
        ("min_effect: -0.01", "min_effect: -0.01, expected"),
        ("alpha: 0.5", "alpha: 0.5, expected"),
        ("alpha: five", "alpha: expected float, saw 'five'"),
        ("max_unscored: 2", "max_unscored: 2.0, expected"),
        ("allow_limited: maybe", "allow_limited: expected bool, saw 'maybe'"),
        ("tasks: [uz_qa]", "tasks: expected keys and values, saw ['uz_qa']"),
        ("tasks: {uz_qa: 0.03}", "tasks.uz_qa: expected keys and values, saw 0.03"),
        ("tasks: {uz_qa: {margin: 3}}", "tasks.uz_qa: margin: 3.0, expected"),
        ("tasks: {uz_qa: {min_efect: 0.1}}", "tasks.uz_qa: key 'min_efect' is unknown. Did you mean 'min_effect'?"),
        ("artefacts: {emty: 0.1}", "artefacts: artefact 'emty' is unknown. Did you mean 'empty'?"),
        ("artefacts: {empty: 5}", "artefacts.empty: limit: 5.0, expected a fraction between 0 and 1"),
        ("artefacts: {empty: {absolute: true}}", "artefacts.empty: key 'limit' is missing"),
        ("artefacts: {empty: {limit: 0.1, absolut: true}}", "Did you mean 'absolute'?"),
        ("golden: uz_qa/qa-002", "golden: expected a list of task/item, saw 'uz_qa/qa-002'"),
        ("golden: [qa-002]", "golden: 'qa-002', expected task/item"),
        ("golden: [/qa-002]", "golden: '/qa-002', expected task/item"),
        ("golden: [{task: uz_qa}]", "golden: key 'items' is missing"),
        ("golden: [{task: uz_qa, items: qa-002}]", "golden: items: expected a list, saw 'qa-002'"),
        ("- margin", "expected keys and values, saw list"),
        ("margin: [", "not YAML"),
    ],
)
def test_mistake_is_told_in_one_line_that_names_the_file(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UzBenchError, match=re.escape(said)) as caught:
        policy_of(tmp_path, text)
    assert isinstance(caught.value, (UsageError, UnknownNameError, DataError))
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "gate.yaml"))
    assert message.count("gate.yaml") == 1
    assert "\n" not in message


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.yaml: no such file"):
        read_policy(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("record", [Policy, TaskRule, Limit])
def test_every_field_is_documented(record: type) -> None:
    text = record.__doc__ or ""
    assert [name for name in record.__dataclass_fields__ if not re.search(rf"\b{name}: ", text)] == []
