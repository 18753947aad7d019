"""Records: JSON and back, what they refuse, and what their hashes depend on."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import math
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from harness.errors import RecordError, UnknownNameError, UsageError, UzBenchError
from harness.files import SCHEMA, dumps, read_json, read_jsonl, write_json, write_jsonl
from harness.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from harness.policy import Limit
from harness.records import (
    BACKENDS,
    DTYPES,
    QUANTIZATIONS,
    VERDICTS,
    Comparison,
    Metric,
    Record,
    Row,
    Run,
    RunSpec,
    Sample,
    Score,
    Side,
    TaskRecord,
    digest,
)
from harness.runs import find_runs, open_run
from tasks_uz.prompts import FORMATS
from tasks_uz.text import ORTHOGRAPHIES

ROOT = Path(__file__).parent.parent
ROOMS = ("harness", "tasks_uz", "train", "reports")


def record_classes() -> list[type[Record]]:
    """Every class of our source that is written down as a Record, without importing all of the source."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            names = [
                node.name
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.ClassDef)
                and any(isinstance(base, ast.Name) and base.id == "Record" for base in node.bases)
            ]
            if names:
                module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
                found += [getattr(module, name) for name in names]
    return found


RECORDS = record_classes()
NAMES = [cls.__name__ for cls in RECORDS]

# A lone surrogate, a line separator, NUL and quotes: what a model may say.
TEXT = "oʻzbek ўзбек \ud800 \u2028 \x00 \"'`"
CHOSEN: dict[str, Any] = {
    "model": "a/model",
    "quantization": "nf4",
    "dtype": "bfloat16",
    "backend": "hf",
    "prompt_format": "alpaca",
    "prompts": "all",
    "orthographies": ("latin", "cyrillic"),
    "verdict": "unclear",
}
"""Values of the fields that don't take just any."""

CHOSEN_OF: dict[str, dict[str, Any]] = {
    "Check": {"verdict": "regression"},
    "GateResult": {"verdict": "inconclusive"},
    "Policy": {"artefacts": {"empty": Limit(1 / 3), "cut_off": None}},
    # Here the prompts that were asked, in a RunSpec which to ask.
    "PromptSpread": {"prompts": ("p1", "p2")},
    "Recipe": {
        "data": "rows.jsonl",
        "out": "adapter",
        "max_length": 64,
        "schedule": "linear",
        "method": "sft",
        "eval_steps": 5,
        "trackers": ("tensorboard",),
    },
}
"""The same, of one record."""


def made(cls: type[Record], *, bare: bool) -> Record:
    """A record with a value in each field; bare: None, empty or the default wherever that is allowed."""
    hints = typing.get_type_hints(cls)
    chosen = CHOSEN | CHOSEN_OF.get(cls.__name__, {})
    values = {}
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required or not bare:
            known = item.name in chosen
            values[item.name] = chosen[item.name] if known else made_value(hints[item.name], bare=bare)
    if cls is Score:
        # A score has a value or a reason, never both.
        values["unscored_reason"] = "no answer" if bare else None
    return cls(**values)


def made_value(hint: Any, *, bare: bool) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (wanted,) = (part for part in arguments if part is not type(None))
        return None if bare else made_value(wanted, bare=bare)
    if origin is tuple and arguments[1] is Ellipsis:
        return () if bare else (made_value(arguments[0], bare=bare),) * 2
    if origin is tuple:
        return tuple(made_value(part, bare=bare) for part in arguments)
    if origin is dict:
        return {} if bare else {TEXT: made_value(arguments[1], bare=bare), "": made_value(arguments[1], bare=bare)}
    if hint is Any:
        return {"nested": [1, 2.5, None, True, TEXT], "": {}}
    if isinstance(hint, type) and issubclass(hint, Record):
        return made(hint, bare=bare)
    plain: dict[Any, Any] = {str: "" if bare else TEXT, int: 3, float: 1 / 3, bool: True}
    return plain[hint]


def document(cls: type[Record], **changes: Any) -> dict[str, Any]:
    """The JSON of a record with a value in each field."""
    return {**made(cls, bare=False).to_dict(), **changes}


# ---------------------------------------------------------------- JSON and back


def test_the_records_of_the_design_are_among_those_found() -> None:
    assert {RunSpec, TaskRecord, Run, Sample, Score, Metric, Row, Side, Comparison, Manifest} <= set(RECORDS)


@pytest.mark.parametrize("bare", [False, True], ids=["full", "bare"])
@pytest.mark.parametrize("cls", RECORDS, ids=NAMES)
def test_record_comes_back_equal_from_its_json(cls: type[Record], bare: bool) -> None:
    record = made(cls, bare=bare)
    back = cls.from_dict(json.loads(dumps(record.to_dict())))
    assert back == record
    # Equality takes 1 for 1.0 and a list for nothing: the JSON has to be the same too.
    assert dumps(back.to_dict()) == dumps(record.to_dict())


@pytest.mark.parametrize("cls", RECORDS, ids=NAMES)
def test_record_comes_back_equal_from_a_file_and_a_line(cls: type[Record], tmp_path: Path) -> None:
    record = made(cls, bare=False)
    assert cls.from_dict(read_json(write_json(tmp_path / "one.json", record.to_dict()))) == record
    lines = write_jsonl(tmp_path / "many.jsonl", [record.to_dict()] * 3)
    assert [cls.from_dict(row) for _, row in read_jsonl(lines)] == [record] * 3


@pytest.mark.parametrize("cls", RECORDS, ids=NAMES)
def test_json_of_a_record_holds_every_field_by_name(cls: type[Record]) -> None:
    assert list(made(cls, bare=True).to_dict()) == [item.name for item in dataclasses.fields(cls)]  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", RECORDS, ids=NAMES)
def test_record_is_frozen_and_takes_no_other_attribute(cls: type[Record]) -> None:
    record = made(cls, bare=True)
    name = dataclasses.fields(cls)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, name, None)
    # Python 3.11's frozen slots raise TypeError for a name that is no slot.
    with pytest.raises((AttributeError, TypeError)):
        record.brand_new = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("cls", RECORDS, ids=NAMES)
def test_key_of_a_later_version_is_left_out(cls: type[Record]) -> None:
    assert cls.from_dict(document(cls, not_yet_thought_of=1)) == made(cls, bare=False)


@pytest.mark.parametrize("cls", RECORDS, ids=NAMES)
def test_missing_keys_are_refused_and_named(cls: type[Record]) -> None:
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            lacking = document(cls)
            del lacking[item.name]
            with pytest.raises(RecordError, match=f"not a {cls.__name__} record: .*'{item.name}'"):
                cls.from_dict(lacking)


@pytest.mark.parametrize("cls", RECORDS, ids=NAMES)
def test_record_written_before_a_field_was_thought_of_is_read(cls: type[Record]) -> None:
    record = made(cls, bare=True)
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        if item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING:
            older = record.to_dict()
            if cls is Score and item.name == "unscored_reason":
                older["value"] = 0.5
            del older[item.name]
            assert getattr(cls.from_dict(older), item.name) == (
                item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            )


def test_whole_number_in_json_is_read_as_the_float_it_stands_for() -> None:
    read = Metric.from_dict(document(Metric, value=1, ci95=[0, 1]))
    assert (repr(read.value), repr(read.ci95)) == ("1.0", "(0.0, 1.0)")


# ---------------------------------------------------------------- schema


@pytest.mark.parametrize("schema", [SCHEMA + 1, 99, "1", None, 1.5])
def test_newer_or_strange_schema_is_refused_with_what_to_type(tmp_path: Path, schema: Any) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**document(Run), "schema": schema}), encoding="utf-8")
    message = rf"run\.json: schema {schema!r}, this uzbench reads up to {SCHEMA}\. Try: pip install -U uzbench"
    with pytest.raises(RecordError, match=message):
        read_json(path)


def test_newer_schema_of_one_line_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "scores.jsonl", [document(Score)] * 2)
    with path.open("a") as file:
        file.write(json.dumps({**document(Score), "schema": SCHEMA + 1}) + "\n")
    with pytest.raises(RecordError, match=rf"scores\.jsonl:3: schema {SCHEMA + 1}, this uzbench reads up to {SCHEMA}"):
        list(read_jsonl(path))


def test_newer_run_directory_is_refused_when_it_is_opened_and_passed_over_when_runs_are_listed(
    tmp_path: Path,
) -> None:
    run = document(Run, complete=True)
    write_json(tmp_path / "mine" / "run.json", run)
    newer = tmp_path / "newer" / "run.json"
    newer.parent.mkdir()
    newer.write_text(json.dumps({**run, "schema": SCHEMA + 1}), encoding="utf-8")
    with pytest.raises(RecordError, match="Try: pip install -U uzbench"):
        open_run(newer.parent)
    assert [found.path.name for found in find_runs(tmp_path)] == ["mine"]


def test_document_without_schema_counts_as_the_first(tmp_path: Path) -> None:
    path = tmp_path / "metric.json"
    path.write_text(json.dumps(document(Metric)), encoding="utf-8")
    assert Metric.from_dict(read_json(path)) == made(Metric, bare=False)


def test_schema_is_the_first_key_of_what_is_written(tmp_path: Path) -> None:
    path = write_json(tmp_path / "metric.json", document(Metric))
    assert next(iter(json.loads(path.read_text(encoding="utf-8")))) == "schema"


# ---------------------------------------------------------------- Score


@pytest.mark.parametrize(("value", "reason"), [(None, None), (0.5, "no answer"), (0.0, "no answer")])
def test_score_needs_a_value_or_a_reason_and_not_both(value: float | None, reason: str | None) -> None:
    with pytest.raises(RecordError, match="a value or a reason why it has none, and not both"):
        Score.from_dict(document(Score, value=value, unscored_reason=reason))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_score_that_is_no_finite_number_is_refused(value: float) -> None:
    with pytest.raises(RecordError, match="isn't a finite number"):
        Score.from_dict(document(Score, value=value, unscored_reason=None))


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_score_of_zero_is_a_value_and_needs_no_reason(value: float) -> None:
    assert Score.from_dict(document(Score, value=value, unscored_reason=None)).value == value


def test_row_with_a_verdict_nobody_knows_is_refused() -> None:
    with pytest.raises(RecordError, match="verdict 'great' isn't one of"):
        Row.from_dict(document(Row, verdict="great"))
    assert {Row.from_dict(document(Row, verdict=name)).verdict for name in VERDICTS} == set(VERDICTS)


# ---------------------------------------------------------------- RunSpec


@pytest.mark.parametrize(
    ("field", "said", "meant"),
    [
        ("quantization", "nf", "nf4"),
        ("quantization", "int4", "int8"),
        ("dtype", "float23", "float32"),
        ("dtype", "bfloat", "bfloat16"),
        ("backend", "engin", "engine"),
        ("prompt_format", "alpacca", "alpaca"),
        ("prompts", "defualt", "default"),
        ("orthographies", "cyrilic", "cyrillic"),
        ("orthographies", "latin2025", "latin2026"),
    ],
)
def test_misspelt_choice_is_refused_with_the_nearest_name(field: str, said: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"'{said}' is unknown\. Did you mean '{meant}'\? One of: ") as caught:
        RunSpec(model="m", **{field: (said,) if field == "orthographies" else said})
    assert caught.value.nearest == meant
    assert caught.value.exit_code == 2


def test_choice_like_nothing_known_is_refused_without_a_guess() -> None:
    with pytest.raises(UnknownNameError, match=r"^quantization 'zzz' is unknown\. One of: none, int8, nf4, fp8\.$"):
        RunSpec(model="m", quantization="zzz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "No model is named"),
        ({"tasks": ()}, "No task is named"),
        ({"orthographies": ()}, "No orthography is named"),
        ({"n_shot": -1}, r"--shots -1: expected 0 or more"),
        ({"limit": 0}, r"--limit 0: expected 1 or more"),
        ({"limit": -5}, r"--limit -5: expected 1 or more"),
    ],
)
def test_spec_that_asks_nothing_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        RunSpec(**{"model": "m", **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        *({"quantization": name} for name in QUANTIZATIONS),
        *({"dtype": name} for name in DTYPES),
        *({"backend": name} for name in BACKENDS),
        *({"prompt_format": name} for name in FORMATS),
        *({"orthographies": (name,)} for name in (*ORTHOGRAPHIES, "all")),
        {"n_shot": 0},
        {"limit": 1},
        {"prompts": "all"},
    ],
    ids=str,
)
def test_every_known_choice_is_taken(changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        assert getattr(RunSpec(model="m", **changes), name) == value


def test_refusals_read_from_a_file_are_one_line_too() -> None:
    with pytest.raises(UzBenchError, match=r"Did you mean 'nf4'\?"):
        RunSpec.from_dict(document(RunSpec, quantization="nf5"))


@pytest.mark.parametrize("item", dataclasses.fields(RunSpec), ids=lambda item: item.name)
def test_spec_hash_depends_on_every_field(item: dataclasses.Field[Any]) -> None:
    spec = RunSpec(model="m")
    others: dict[str, Any] = {
        "revision": "r",
        "adapter": "a",
        "tasks": ("uz_qa",),
        "n_shot": 2,
        "limit": 2,
        "seed": 2,
        "gen_kwargs": {"temperature": 0.5},
        "trust_remote_code": True,
        "base_url": "http://127.0.0.1:8000/v1",
    }
    other = dataclasses.replace(spec, **{item.name: others.get(item.name, CHOSEN.get(item.name))})
    assert other.spec_hash != spec.spec_hash


# ---------------------------------------------------------------- digest, run, manifest


def test_digest_is_sha256_of_the_json_with_sorted_keys() -> None:
    # printf '%s' '{"a": [1, null], "b": "ʻ"}' | sha256sum
    wanted = "5bf36871cf746132624ac7fda0cce6291f264ac4226bf81bb93edb1bdfe5803e"
    assert digest({"b": "ʻ", "a": (1, None)}) == wanted
    assert digest({"a": [1, None], "b": "ʻ"}) == wanted


@pytest.mark.parametrize(
    ("one", "two"), [([1, 2], [2, 1]), ({"a": 1}, {"a": "1"}), (["a", "b"], ["ab"]), (None, ""), ("o'", "oʻ")]
)
def test_digest_tells_different_values_apart(one: Any, two: Any) -> None:
    assert digest(one) != digest(two)


def test_digest_takes_text_that_utf8_cannot_hold() -> None:
    assert digest("\ud800") != digest("\ud801")


@pytest.mark.parametrize(
    ("n", "n_all", "subset", "limited"), [(5, 5, None, False), (4, 5, None, True), (5, 5, "uz_demo", True)]
)
def test_run_on_a_part_of_its_documents_is_limited(n: int, n_all: int, subset: str | None, limited: bool) -> None:
    whole, part = (TaskRecord.from_dict(document(TaskRecord, n=count, n_all=n_all)) for count in (n_all, n))
    run = dataclasses.replace(Run.from_dict(document(Run)), tasks=(whole, part), subset=subset)
    assert run.limited is limited
    assert Side.of(run).limited is limited


def test_manifest_is_read_from_the_adapter_that_it_was_written_into(tmp_path: Path) -> None:
    manifest = made(Manifest, bare=False)
    assert isinstance(manifest, Manifest)
    assert write_manifest(tmp_path, manifest) == tmp_path / MANIFEST
    assert read_manifest(tmp_path) == manifest


def test_adapter_made_elsewhere_has_no_manifest(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
