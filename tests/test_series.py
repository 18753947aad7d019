"""Several runs in a row: the curve, and a gain split into the prompt format and the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness import stats
from harness.comparison import compare
from harness.errors import UnpairedError
from harness.records import MACRO, Series
from harness.runs import RunDirectory
from harness.series import series, split
from tests.synthetic import Asked, Asker, made_run

PLAIN = Asker(name="base")
IN_FORMAT = Asker(name="base", prompt_format="alpaca")
TUNED = Asker(name="base", adapter="adapters/uz", prompt_format="alpaca")

TOPIC = {"plain": [1, 0, 0, 0, 1, 0, 0, 1], "alpaca": [1, 1, 0, 0, 1, 0, 0, 0], "tuned": [1, 1, 1, 1, 1, 0, 1, 0]}
SUMM = {"plain": [0.2, 0.3, 0.1, 0.4], "alpaca": [0.2, 0.2, 0.1, 0.2], "tuned": [0.5, 0.3, 0.2, 0.1]}


def three(folder: Path, topic: dict[str, list[float | None]] | None = None) -> list[RunDirectory]:
    return [
        made_run(
            folder / name,
            Asked({"acc": (topic or TOPIC)[name]}, asked_as=by.prompt_format),
            Asked({"chrf": SUMM[name]}, task="uz_summ", groups=["a", "a", "b", "c"], asked_as=by.prompt_format),
            by=by,
        )
        for name, by in (("plain", PLAIN), ("alpaca", IN_FORMAT), ("tuned", TUNED))
    ]


def in_a_row(runs: list[RunDirectory]) -> Series:
    return series(runs, [compare(runs[0], run) for run in runs[1:]])


def test_each_run_has_a_point_for_each_task_and_the_average(tmp_path: Path) -> None:
    runs = three(tmp_path)
    found = in_a_row(runs)
    assert [(point.side, point.task) for point in found.points] == [
        (side, task) for side in range(3) for task in ("uz_topic", "uz_summ", MACRO)
    ]
    topic = [point.value for point in found.points if point.task == "uz_topic"]
    assert topic == pytest.approx([np.mean(TOPIC[name]) for name in ("plain", "alpaca", "tuned")])
    macro = [point.value for point in found.points if point.task == MACRO]
    assert macro == pytest.approx(
        [(np.mean(TOPIC[name]) + np.mean(SUMM[name])) / 2 for name in ("plain", "alpaca", "tuned")]
    )


def test_points_carry_the_comparison_with_the_first_run(tmp_path: Path) -> None:
    runs = three(tmp_path)
    found = in_a_row(runs)
    comparison = compare(runs[0], runs[2])
    (row,) = (row for row in comparison.rows if row.primary and row.task == "uz_topic")
    (point,) = (point for point in found.points if point.side == 2 and point.task == "uz_topic")
    assert (point.delta, point.delta_ci95, point.p) == (row.delta, row.ci95, row.p)
    (point,) = (point for point in found.points if point.side == 2 and point.task == MACRO)
    assert (point.delta, point.delta_ci95) == (comparison.overall["latin"].delta, comparison.overall["latin"].ci95)
    assert all(point.delta is None for point in found.points if point.side == 0)


def test_gain_is_the_format_and_the_rest(tmp_path: Path) -> None:
    (found,) = in_a_row(three(tmp_path)).splits
    for row in found.rows:
        assert row.total == pytest.approx(row.format + row.rest, abs=1e-12)
    topic = found.rows[0]
    one, two, three_ = (np.asarray(TOPIC[name], dtype=float) for name in ("plain", "alpaca", "tuned"))
    assert topic.format == pytest.approx((two - one).mean())
    assert topic.rest == pytest.approx((three_ - two).mean())
    # Each part has the interval of its own pairing.
    assert topic.rest_ci95 == stats.paired(two, three_, [""] * 8).ci95
    assert topic.total_ci95 == stats.paired(one, three_, [""] * 8).ci95


def test_passages_are_what_is_independent_in_a_split_too(tmp_path: Path) -> None:
    (found,) = in_a_row(three(tmp_path)).splits
    (row,) = (row for row in found.rows if row.task == "uz_summ")
    two, three_ = (np.asarray(SUMM[name]) for name in ("alpaca", "tuned"))
    assert row.rest_ci95 == stats.paired(two, three_, ["a", "a", "b", "c"]).ci95


def test_average_of_a_split_weighs_tasks_alike(tmp_path: Path) -> None:
    (found,) = in_a_row(three(tmp_path)).splits
    *tasks, macro = found.rows
    assert (macro.task, macro.n_pairs) == (MACRO, 2)
    for part in ("total", "format", "rest"):
        assert getattr(macro, part) == pytest.approx(np.mean([getattr(row, part) for row in tasks]))


def test_document_that_one_of_three_left_unscored_is_in_no_part(tmp_path: Path) -> None:
    topic = {**TOPIC, "alpaca": [None, *TOPIC["alpaca"][1:]]}
    (found,) = in_a_row(three(tmp_path, topic)).splits
    assert found.rows[0].n_pairs == 7
    assert found.rows[0].total == pytest.approx(np.mean(np.subtract(TOPIC["tuned"], TOPIC["plain"])[1:]))


def test_runs_in_one_format_have_nothing_to_split(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name, Asked({"acc": TOPIC[name]}), by=Asker(name=name)) for name in ("plain", "alpaca")]
    assert in_a_row(runs).splits == ()


def test_other_model_in_the_format_is_not_the_base(tmp_path: Path) -> None:
    runs = three(tmp_path)
    stranger = made_run(
        tmp_path / "stranger",
        *(
            Asked({metric: values}, task=task, groups=groups, asked_as="alpaca")
            for metric, values, task, groups in (
                ("acc", TOPIC["alpaca"], "uz_topic", None),
                ("chrf", SUMM["alpaca"], "uz_summ", ["a", "a", "b", "c"]),
            )
        ),
        by=Asker(name="stranger", prompt_format="alpaca"),
    )
    assert in_a_row([runs[0], stranger, runs[2]]).splits == ()


def test_order_of_the_documents_changes_nothing(tmp_path: Path) -> None:
    runs = three(tmp_path)
    back = list(range(7, -1, -1))
    turned = made_run(
        tmp_path / "turned",
        Asked({"acc": [TOPIC["tuned"][i] for i in back]}, docs=[f"{i:03d}" for i in back], asked_as="alpaca"),
        Asked({"chrf": SUMM["tuned"]}, task="uz_summ", groups=["a", "a", "b", "c"], asked_as="alpaca"),
        by=TUNED,
    )
    assert split(runs[0], runs[1], turned).rows == split(*runs).rows


def test_runs_of_other_documents_are_refused(tmp_path: Path) -> None:
    runs = three(tmp_path)
    shorter = made_run(tmp_path / "shorter", Asked({"acc": [1.0, 0.0]}, asked_as="alpaca"), by=TUNED)
    with pytest.raises(UnpairedError, match="different tasks"):
        split(runs[0], runs[1], shorter)


def test_series_comes_back_equal_from_its_json(tmp_path: Path) -> None:
    found = in_a_row(three(tmp_path))
    assert Series.from_dict(found.to_dict()) == found


def test_average_of_scores_without_an_error_is_their_mean(tmp_path: Path) -> None:
    runs = [
        made_run(tmp_path / name, Asked({"acc": [1.0] * 8}), Asked({"acc": [0.0] * 8}, task="uz_qa"), by=Asker(name))
        for name in ("base", "cand")
    ]
    (value,) = {point.value for point in in_a_row(runs).points if point.task == MACRO}
    assert value == pytest.approx(0.5)
