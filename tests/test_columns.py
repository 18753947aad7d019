"""A run by column says what its records say, and refuses what isn't of the run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from harness.corpus import classes
from harness.errors import DataError, RecordError
from harness.files import dumps
from harness.runs import RunDirectory, open_run
from tests.synthetic import Asked, made_run

LETTERS = ("A", "B", "C")


def made(folder: Path) -> RunDirectory:
    run = made_run(
        folder,
        Asked(
            {"acc": [1.0, 0.0, None], "acc_bytes": [0.5, 0.25, 1.0]},
            choices=LETTERS,
            targets=["A", "B", "C"],
            responses=["A", "C", None],
            groups=["one", "one", ""],
            # A lone surrogate and a line separator, as a model or a data set may have them.
            prompts=["savol", "\ud800\u2028", "uch"],
            docs=["x", "x", "y"],
        ),
        Asked({"f1": [0.1, 0.9]}, task="uz_qa"),
    )
    return open_run(run.path)


def test_columns_say_what_the_records_say(tmp_path: Path) -> None:
    run = made(tmp_path)
    for key, columns in run.columns.items():
        samples = [each for each in run.samples if (each.task, each.orthography, each.prompt_id) == key]
        assert columns.keys == [(each.doc_hash, each.occurrence) for each in samples]
        assert columns.item_ids == [each.item_id for each in samples]
        assert columns.groups == [each.group for each in samples]
        assert columns.prompt_hashes == [each.prompt_hash for each in samples]
        assert columns.lengths == [len(each.prompt) for each in samples]
        for (metric, name), values in columns.values.items():
            scores = [each for each in run.scores if each.task_key == key and each.metric == metric]
            assert all(each.filter == name for each in scores)
            assert [None if math.isnan(value) else value for value in values] == [each.value for each in scores]


def test_sample_is_found_again_at_its_place(tmp_path: Path) -> None:
    run = made(tmp_path)
    places = [place for columns in run.columns.values() for place in columns.places]
    assert list(run.samples_at(places)) == run.samples
    assert list(run.samples_at(reversed(places))) == run.samples[::-1]


def test_classes_are_kept_where_they_are_wanted(tmp_path: Path) -> None:
    topic, qa = made(tmp_path).columns.values()
    assert (topic.right, topic.said) == ([0, 1, -1], [0, 2, -1])
    assert (qa.right, qa.said) == ([], [])


@pytest.mark.parametrize(
    ("target", "response", "logprobs", "found"),
    [
        ("B", "A", (), (1, 0)),
        # What was said is the likeliest, whatever the primary metric takes for the answer.
        ("B", "A", (-3.0, -2.0, -1.0), (1, 2)),
        ("B", "A", (-1.0, -1.0, -1.0), (1, 0)),
        ("D", "A", (), (-1, -1)),
        ("B", "D", (), (-1, -1)),
        ("B", None, (), (-1, -1)),
    ],
)
def test_class_of_an_answer(
    target: str, response: str | None, logprobs: tuple[float, ...], found: tuple[int, int]
) -> None:
    assert classes(target, LETTERS, response, logprobs) == found


def test_primary_metric_is_that_of_its_first_filter(tmp_path: Path) -> None:
    topic, qa = made(tmp_path).columns.values()
    assert topic.primary() == ("acc", "none")
    assert qa.primary() == ("f1", "none")


@pytest.mark.parametrize("name", ["samples.jsonl", "scores.jsonl"])
@pytest.mark.parametrize(
    ("line", "error", "said"),
    [
        ("{oops", DataError, "not JSON"),
        ('["a list"]', DataError, "expected a JSON object"),
        ('{"task": "uz_topic"}', RecordError, "of this run"),
        ('{"schema": 99}', RecordError, "schema 99"),
        (dumps({"task": "other", "orthography": "latin", "prompt_id": "p1", "metric": "acc"}), RecordError, "other"),
    ],
)
def test_line_that_is_no_record_of_the_run_is_refused_by_number(
    tmp_path: Path, name: str, line: str, error: type[Exception], said: str
) -> None:
    run = made(tmp_path)
    path = run.path / name
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, line]) + "\n")
    with pytest.raises(error, match=said) as found:
        _ = open_run(run.path).columns
    assert f":{len(lines) + 1}" in str(found.value)


@pytest.mark.parametrize("value", [1.5, -0.1, '"one"'])
def test_score_outside_its_range_is_refused(tmp_path: Path, value: object) -> None:
    run = made(tmp_path)
    path = run.path / "scores.jsonl"
    path.write_text(
        path.read_text().replace('"value":0.9', f'"value":{value}').replace('"value": 0.9', f'"value": {value}')
    )
    with pytest.raises(RecordError, match=r"scores\.jsonl:"):
        _ = open_run(run.path).columns


def test_missing_file_is_named(tmp_path: Path) -> None:
    run = made(tmp_path)
    (run.path / "samples.jsonl").unlink()
    with pytest.raises(RecordError, match=r"samples\.jsonl: no such file"):
        _ = open_run(run.path).columns
