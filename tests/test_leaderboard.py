"""Runs in, one Leaderboard out: scores, ranks and their intervals, wins, what is refused and what is shown."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, norm
from synthetic import Asked, Asker, made_run

from harness import stats
from harness.cli import run_command
from harness.comparison import compare
from harness.errors import RecordError, UnpairedError, UsageError
from harness.files import read_json
from harness.imports import import_runs
from harness.leaderboard import MIN_CLUSTERS, leaderboard, rank_interval, ranks, resampled
from harness.records import MACRO, Leaderboard, Standing
from harness.runs import RunDirectory
from reports.leaderboard import headline, render, render_page, scores_table, standings_table, write_leaderboard

UZLIB = Path(__file__).parents[2] / "shared" / "data" / "uzlib_responses"

# Two ways to add up the same numbers in floating point.
ROUNDING = 1e-12

Values = Sequence[float | None]


def made(folder: Path, models: dict[str, Asked | list[Asked]], **by: Any) -> list[Path]:
    """A run directory for each model, by name."""
    paths = []
    for number, (name, tasks) in enumerate(models.items()):
        asked = tasks if isinstance(tasks, list) else [tasks]
        paths.append(made_run(folder / f"run-{number}", *asked, by=Asker(name, **by)).path)
    return paths


def acc(values: Values, **others: Any) -> Asked:
    return Asked({"acc": values}, **others)


def right(n_right: int, n: int = 40, start: int = 0) -> list[float]:
    """n answers, of which those from `start` on are right."""
    return [float(start <= number < start + n_right) for number in range(n)]


def models_of(board: Leaderboard, task: str = "uz_topic", orthography: str = "latin") -> dict[str, Standing]:
    rows = [row for row in board.rows if (row.task, row.orthography, row.kind) == (task, orthography, "model")]
    return {row.model: row for row in rows}


# ---------------------------------------------------------------- scores and ranks


def test_models_are_ranked_by_score_best_first(tmp_path: Path) -> None:
    board = leaderboard(made(tmp_path, {"b": acc(right(20)), "c": acc(right(4)), "a": acc(right(36))}))
    assert [(row.model, row.rank, row.score) for row in board.rows if row.kind == "model"] == [
        ("a", 1, 0.9),
        ("b", 2, 0.5),
        ("c", 3, 0.1),
    ]


def test_score_and_interval_are_those_of_the_model_alone(tmp_path: Path) -> None:
    values, groups = right(13), [f"passage {number // 4}" for number in range(40)]
    for group in (None, groups):
        paths = made(tmp_path / str(bool(group)), {"a": acc(values, groups=group), "b": acc(right(9), groups=group)})
        row = models_of(leaderboard(paths))["a"]
        alone = stats.estimate(np.asarray(values), group or [""] * 40)
        assert (row.score, row.ci95, row.n, row.n_unscored) == (alone.mean, alone.ci95, 40, 0)


def test_less_is_better_where_the_metric_says_so(tmp_path: Path) -> None:
    paths = made(tmp_path, {"a": acc(right(36), higher=False), "b": acc(right(4), higher=False)})
    rows = models_of(leaderboard(paths))
    assert [(row.model, row.rank, row.rank_ci95) for row in rows.values()] == [("b", 1, (1, 1)), ("a", 2, (2, 2))]
    assert (rows["b"].wins, rows["b"].losses, rows["a"].losses) == (1, 0, 1)
    assert not rows["a"].higher_is_better


def test_equal_scores_share_the_better_rank(tmp_path: Path) -> None:
    models = {"a": acc(right(20)), "b": acc(right(20, start=10)), "c": acc(right(10)), "d": acc(right(30))}
    rows = models_of(leaderboard(made(tmp_path, dict(models))))
    assert {name: row.rank for name, row in rows.items()} == {"d": 1, "a": 2, "b": 2, "c": 4}


def test_identical_models_tie_in_every_draw(tmp_path: Path) -> None:
    graded = [number / 39 for number in range(40)]
    for number, values in enumerate((right(20), graded)):
        rows = models_of(leaderboard(made(tmp_path / str(number), dict.fromkeys("abc", acc(values)))))
        assert {(row.rank, row.rank_ci95, row.wins, row.losses) for row in rows.values()} == {(1, (1, 1), 0, 0)}


def test_models_far_apart_have_intervals_of_one_rank(tmp_path: Path) -> None:
    rows = models_of(
        leaderboard(made(tmp_path, {name: acc(right(n)) for name, n in zip("abc", (4, 20, 36), strict=True)}))
    )
    assert {name: row.rank_ci95 for name, row in rows.items()} == {"a": (3, 3), "b": (2, 2), "c": (1, 1)}


def test_models_that_the_data_cannot_tell_apart_share_an_interval(tmp_path: Path) -> None:
    rows = models_of(leaderboard(made(tmp_path, {"a": acc(right(20)), "b": acc(right(21, start=15))})))
    assert {row.rank_ci95 for row in rows.values()} == {(1, 2)}


def test_one_run_is_first(tmp_path: Path) -> None:
    (row,) = models_of(leaderboard(made(tmp_path, {"a": acc(right(20))}))).values()
    assert (row.rank, row.rank_ci95, row.wins, row.losses) == (1, (1, 1), 0, 0)


def test_prompt_of_a_task_that_stands_for_it_is_ranked_and_no_other(tmp_path: Path) -> None:
    tasks = [acc(right(30), prompt_id="p2"), acc(right(10))]
    paths = made(tmp_path, {"a": tasks, "b": [replace(tasks[0]), acc(right(20))]})
    assert [(row.model, row.score) for row in leaderboard(paths).rows if row.kind == "model"] == [
        ("b", 0.5),
        ("a", 0.25),
    ]


def test_documents_pair_whatever_the_order_that_each_run_was_asked_in(tmp_path: Path) -> None:
    docs = [f"{number:02d}" for number in range(40)]
    asked = {"a": acc(right(20), docs=docs), "b": acc(right(30), docs=docs)}
    turned = {"a": asked["a"], "b": acc(right(30)[::-1], docs=docs[::-1])}
    boards = [leaderboard(made(tmp_path / name, dict(each))) for name, each in (("one", asked), ("two", turned))]
    assert boards[0].rows == boards[1].rows


# ---------------------------------------------------------------- the bootstrap, against independent ones

DRAWS = 20_000
# Four standard errors of a share of DRAWS.
NOISE = 4 * math.sqrt(0.25 / DRAWS)


def shares(drawn: np.ndarray) -> dict[float, float]:
    return {value: count / len(drawn) for value, count in Counter(drawn.round(9).tolist()).items()}


def close(one: dict[Any, float], two: dict[Any, float]) -> bool:
    return all(abs(one.get(key, 0) - two.get(key, 0)) < NOISE for key in one.keys() | two.keys())


@pytest.mark.parametrize(
    "scores",
    [
        [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]],
        [[0.3, 0.1, 0.2], [0.25, 0.5, 0.2], [0.0, 0.4, 1.0], [0.7, 0.2, 0.1]],
    ],
    ids=["binary", "graded"],
)
def test_draws_of_documents_are_those_of_every_possible_draw(scores: list[list[float]]) -> None:
    values = np.asarray(scores, dtype=np.float64)
    every = np.asarray([values[list(chosen)].mean(axis=0) for chosen in product(range(4), repeat=4)])
    drawn = resampled(values, np.arange(4), seed=1, resamples=DRAWS)
    assert drawn.shape == (DRAWS, 3)
    for model in range(3):
        assert close(shares(drawn[:, model]), shares(every[:, model]))
        # All models see the same documents: their ranks together are right too.
        assert close(shares(ranks(drawn)[:, model]), shares(ranks(every)[:, model]))


def test_equal_documents_are_drawn_together_in_the_same_distribution() -> None:
    values = np.asarray([[1.0, 0.0]] * 16 + [[0.0, 1.0]] * 24)
    drawn = resampled(values, np.arange(40), seed=1, resamples=DRAWS)
    assert np.allclose(drawn.sum(axis=1), 1)
    expected = {round(k / 40, 9): float(binom.pmf(k, 40, 16 / 40)) for k in range(41)}
    assert close(shares(drawn[:, 0]), expected)


def test_passages_are_drawn_whole() -> None:
    values = np.asarray([[1.0], [0.0], [0.0], [0.0]])
    drawn = resampled(values, np.asarray([0, 1, 1, 1]), seed=1, resamples=DRAWS)
    # Twice the passage of one document, one of each, twice the passage of three.
    assert shares(drawn[:, 0]).keys() == {1.0, 0.25, 0.0}
    assert close(shares(drawn[:, 0]), {1.0: 0.25, 0.25: 0.5, 0.0: 0.25})


def test_few_passages_make_wider_rank_intervals_than_as_many_single_documents(tmp_path: Path) -> None:
    # One model knows 9 passages, the other the rest.
    a = [float(number % 5 < 3) for number in range(15) for _ in range(8)]
    b = [1 - value for value in a]
    groups = [f"passage {number // 8}" for number in range(120)]
    # P(rank 2), a binomial of p = .6: of 120 below 60, of 15 below 8.
    assert binom.cdf(59, 120, 0.6) < 0.015
    assert binom.cdf(7, 15, 0.6) > 0.2
    alone = models_of(leaderboard(made(tmp_path / "alone", {"a": acc(a), "b": acc(b)})))
    grouped = models_of(
        leaderboard(made(tmp_path / "grouped", {"a": acc(a, groups=groups), "b": acc(b, groups=groups)}))
    )
    assert alone["a"].rank_ci95 == (1, 1)
    assert grouped["a"].rank_ci95 == (1, 2)


def test_rank_intervals_are_those_of_a_plain_bootstrap(tmp_path: Path) -> None:
    source = np.random.default_rng(5)
    values = (source.random((60, 5)) < [0.3, 0.42, 0.5, 0.55, 0.8]).astype(float)
    rows = models_of(leaderboard(made(tmp_path, {f"m{at}": acc(values[:, at].tolist()) for at in range(5)})))
    drawn = []
    for _ in range(4000):
        scores = values[source.integers(60, size=60)].mean(axis=0).tolist()
        drawn.append([1 + sum(other > score for other in scores) for score in scores])
    for at in range(5):
        column = sorted(each[at] for each in drawn)
        low, high = rows[f"m{at}"].rank_ci95 or (0, 0)
        # What lies outside is at most 2.5 % on each side, and with one rank less it would be more.
        below, above = (sum(rank < low for rank in column) / 4000, sum(rank > high for rank in column) / 4000)
        assert max(below, above) <= 0.025 + 0.01
        assert low == rows[f"m{at}"].rank or sum(rank <= low for rank in column) / 4000 >= 0.025 - 0.01
        assert high == rows[f"m{at}"].rank or sum(rank >= high for rank in column) / 4000 >= 0.025 - 0.01


def test_rank_interval_covers_the_true_rank() -> None:
    """100 draws of five models on 80 documents: 500 intervals, of which 95 % should hold the true rank."""
    source = np.random.default_rng(11)
    abilities = np.asarray([0.35, 0.45, 0.55, 0.65, 0.8])
    covered = []
    for repeat in range(100):
        # What is hard for one is hard for all.
        shift = source.normal(0, 0.15, size=(80, 1))
        values = (source.random((80, 5)) < np.clip(abilities + shift, 0, 1)).astype(float)
        drawn, seen = ranks(resampled(values, np.arange(80), seed=repeat, resamples=1000)), ranks(values.mean(axis=0))
        for at, true in enumerate((5, 4, 3, 2, 1)):
            low, high = rank_interval(drawn[:, at], 5, int(seen[at]))
            covered.append(low <= true <= high)
    # 0.95 less three standard errors of 100 independent draws.
    assert np.mean(covered) >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 100)


@pytest.mark.parametrize(
    ("counts", "rank", "expected"),
    [
        ([0, 1000, 0, 0], 1, (1, 1)),
        ([0, 25, 975, 0], 2, (1, 2)),
        ([0, 24, 976, 0], 2, (2, 2)),
        ([0, 0, 975, 25], 2, (2, 2)),
        ([0, 0, 974, 26], 2, (2, 3)),
        # A rank that draws seldom give is in its interval all the same.
        ([0, 1000, 0, 0], 3, (1, 3)),
    ],
)
def test_rank_interval_leaves_at_most_two_and_a_half_percent_on_each_side(
    counts: list[int], rank: int, expected: tuple[int, int]
) -> None:
    drawn = np.repeat(np.arange(4), counts)
    assert rank_interval(drawn, 3, rank) == expected


def test_memory_of_a_bootstrap_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((50, 3))
    whole = resampled(values, np.arange(50), seed=1, resamples=100)
    home = resampled.__globals__
    monkeypatch.setitem(home, "CELLS", 50 * 7)
    assert np.allclose(resampled(values, np.arange(50), seed=1, resamples=100), whole, atol=ROUNDING)


@pytest.mark.parametrize("n", [1, MIN_CLUSTERS - 1])
def test_too_few_documents_say_nothing_of_ranks(tmp_path: Path, n: int) -> None:
    board = leaderboard(made(tmp_path, {"a": acc([1.0] * n), "b": acc([0.0] * n)}))
    assert {row.rank_ci95 for row in models_of(board).values()} == {(1, 2)}
    assert "uz_topic: fewer than 6 independent documents; they can't tell ranks apart." in board.notes


def test_two_passages_are_few_documents(tmp_path: Path) -> None:
    groups = ["one"] * 20 + ["two"] * 20
    board = leaderboard(made(tmp_path, {"a": acc([1.0] * 40, groups=groups), "b": acc([0.0] * 40, groups=groups)}))
    assert {row.rank_ci95 for row in models_of(board).values()} == {(1, 2)}


# ---------------------------------------------------------------- wins and losses


def test_wins_and_losses_are_paired_tests_with_holm_over_the_pairs(tmp_path: Path) -> None:
    source = np.random.default_rng(3)
    groups = [f"passage {number // 2}" for number in range(80)]
    binary = (source.random((80, 5)) < [0.2, 0.4, 0.5, 0.6, 0.85]).astype(float)
    graded = np.clip(source.normal([0.3, 0.32, 0.4, 0.45, 0.5], 0.15, (80, 5)), 0, 1)
    for name, values, of in (("alone", binary, [""] * 80), ("passages", binary, groups), ("graded", graded, [""] * 80)):
        paths = made(tmp_path / name, {f"m{at}": acc(values[:, at].tolist(), groups=of) for at in range(5)})
        rows = models_of(leaderboard(paths))
        pairs = list(combinations(range(5), 2))
        tests = [stats.paired(values[:, one], values[:, two], of) for one, two in pairs]
        wins, losses = Counter[str](), Counter[str]()
        for (one, two), found, p in zip(pairs, tests, stats.holm([each.p for each in tests]), strict=True):
            if p < 0.05:
                wins[f"m{two if found.delta > 0 else one}"] += 1
                losses[f"m{one if found.delta > 0 else two}"] += 1
        assert 0 < sum(wins.values()) < len(pairs), "the case tells nothing"
        assert {model: (row.wins, row.losses) for model, row in rows.items()} == {
            f"m{at}": (wins[f"m{at}"], losses[f"m{at}"]) for at in range(5)
        }


def test_difference_that_one_pair_would_show_is_not_shown_by_many(tmp_path: Path) -> None:
    # 6 of 6 changed documents: p = .031, which three pairs make .094.
    a, b, c = right(20), right(26), right(23)
    two = models_of(leaderboard(made(tmp_path / "two", {"a": acc(a), "b": acc(b)})))
    three = models_of(leaderboard(made(tmp_path / "three", {"a": acc(a), "b": acc(b), "c": acc(c)})))
    assert (two["b"].wins, three["b"].wins) == (1, 0)


# ---------------------------------------------------------------- macro average


def two_tasks(topic: Values, summ: Values, **others: Any) -> list[Asked]:
    return [acc(topic), Asked({"chrf": summ}, task="uz_summ", **others)]


def test_macro_average_counts_each_task_the_same(tmp_path: Path) -> None:
    source = np.random.default_rng(7)
    topic = (source.random((30, 3)) < [0.3, 0.5, 0.9]).astype(float)
    summ = source.random((12, 3)) * [0.5, 0.6, 0.9]
    paths = made(tmp_path, {f"m{at}": two_tasks(topic[:, at].tolist(), summ[:, at].tolist()) for at in range(3)})
    board = leaderboard(paths)
    assert [row.task for row in board.rows if row.kind == "model"] == [MACRO] * 3 + ["uz_topic"] * 3 + ["uz_summ"] * 3
    rows = models_of(board, MACRO)
    p_values, deltas = [], []
    for one, two in combinations(range(3), 2):
        parts = [stats.paired(values[:, one], values[:, two], [""] * len(values)) for values in (topic, summ)]
        deltas.append(sum(part.delta for part in parts) / 2)
        stderr = math.sqrt(sum((part.stderr or 0) ** 2 for part in parts)) / 2
        p_values.append(2 * norm.sf(abs(deltas[-1]) / stderr))
    wins = Counter[str]()
    for pair, delta, p in zip(combinations(range(3), 2), deltas, stats.holm(p_values), strict=True):
        if p < 0.05:
            wins[f"m{pair[delta > 0]}"] += 1
    for at in range(3):
        row = rows[f"m{at}"]
        parts = [stats.estimate(values[:, at], [""] * len(values)) for values in (topic, summ)]
        score = sum(part.mean for part in parts) / 2
        half = norm.ppf(0.975) * math.sqrt(sum((part.stderr or 0) ** 2 for part in parts)) / 2
        assert row.score == pytest.approx(score, abs=ROUNDING)
        assert row.ci95 == pytest.approx((score - half, score + half), abs=ROUNDING)
        assert (row.n, row.metric, row.wins) == (2, "", wins[f"m{at}"])


def test_tasks_of_a_macro_average_are_drawn_independently(tmp_path: Path) -> None:
    # The same documents in both tasks: a joint draw would give the single task's interval of ranks.
    a, b = [1.0] * 13 + [0.0] * 7, [0.0] * 13 + [1.0] * 7
    tasks = {name: [acc(values), acc(values, task="uz_sentiment")] for name, values in (("a", a), ("b", b))}
    board = leaderboard(made(tmp_path, dict(tasks)))
    single, whole = models_of(board)["a"], models_of(board, MACRO)["a"]
    # P(rank 2), a binomial of p = .65: of 20 below 10, of 40 below 20.
    assert binom.cdf(9, 20, 0.65) > 0.045
    assert binom.cdf(19, 40, 0.65) < 0.02
    assert (single.rank_ci95, whole.rank_ci95) == ((1, 2), (1, 1))


def test_task_where_less_is_better_enters_the_macro_average_turned(tmp_path: Path) -> None:
    def tasks(good: int, bad: int) -> list[Asked]:
        return [acc(right(good)), Asked({"error": right(bad)}, task="uz_error", higher=False, chance=0.5)]

    board = leaderboard(made(tmp_path, {"a": tasks(30, 10), "b": tasks(20, 30)}))
    rows = models_of(board, MACRO)
    assert {name: row.score for name, row in rows.items()} == {"a": 0.75, "b": 0.375}
    assert (rows["a"].rank, rows["a"].wins) == (1, 1)
    assert "In the macro average uz_error, where less is better, enters as 1 - score." in board.notes


def test_alphabets_are_ranked_apart(tmp_path: Path) -> None:
    def tasks(latin: int, cyrillic: int) -> list[Asked]:
        return [
            acc(right(n), orthography=name, task=task)
            for name, n in (("latin", latin), ("cyrillic", cyrillic))
            for task in ("uz_topic", "uz_sentiment")
        ]

    board = leaderboard(made(tmp_path, {"a": tasks(30, 5), "b": tasks(20, 10)}))
    order = list(dict.fromkeys((row.orthography, row.task) for row in board.rows))
    assert order == [(name, task) for name in ("latin", "cyrillic") for task in (MACRO, "uz_topic", "uz_sentiment")]
    firsts = {(row.orthography, row.task): row.model for row in board.rows if row.rank == 1}
    assert {key: firsts[key] for key in order} == {key: "a" if key[0] == "latin" else "b" for key in order}


def test_single_task_has_no_macro_average(tmp_path: Path) -> None:
    assert MACRO not in {row.task for row in leaderboard(made(tmp_path, {"a": acc(right(3))})).rows}


# ---------------------------------------------------------------- baselines


def baselines_of(board: Leaderboard, task: str) -> dict[str, float]:
    return {row.model: row.score for row in board.rows if row.kind == "baseline" and row.task == task}


def test_chance_and_the_best_other_baseline_are_lines_without_a_rank(tmp_path: Path) -> None:
    known = {"chance": 0.2, "majority": 0.3, "always A": 0.35, "longest choice": 0.1}
    board = leaderboard(made(tmp_path, {"a": acc(right(20), baselines=known), "b": acc(right(9), baselines=known)}))
    assert baselines_of(board, "uz_topic") == {"chance": 0.2, "always A": 0.35}
    for row in board.rows:
        if row.kind == "baseline":
            assert (row.rank, row.rank_ci95, row.ci95, row.run_id, row.n) == (None, None, None, "", 40)
            assert (row.wins, row.losses) == (0, 0)


def test_best_baseline_where_less_is_better_is_the_lowest(tmp_path: Path) -> None:
    task = acc(right(20), higher=False, baselines={"majority": 0.3, "empty": 0.1}, chance=None)
    assert baselines_of(leaderboard(made(tmp_path, {"a": task})), "uz_topic") == {"empty": 0.1}


def test_chance_of_the_task_stands_in_where_no_baseline_was_measured(tmp_path: Path) -> None:
    assert baselines_of(leaderboard(made(tmp_path, {"a": acc(right(20), chance=0.25)})), "uz_topic") == {"chance": 0.25}


def test_macro_average_has_a_chance_where_every_task_has_one(tmp_path: Path) -> None:
    tasks = [acc(right(20), chance=0.25), acc(right(20), task="uz_sentiment", chance=0.5)]
    assert baselines_of(leaderboard(made(tmp_path / "all", {"a": tasks})), MACRO) == {"chance": 0.375}
    some = [tasks[0], replace(tasks[1], chance=None)]
    assert baselines_of(leaderboard(made(tmp_path / "some", {"a": some})), MACRO) == {}


def test_baselines_are_taken_from_the_first_run_that_knows_them(tmp_path: Path) -> None:
    paths = made(tmp_path, {"a": acc(right(20), chance=None), "b": acc(right(20), baselines={"majority": 0.4})})
    assert baselines_of(leaderboard(paths), "uz_topic") == {"chance": 0.25, "majority": 0.4}


# ---------------------------------------------------------------- unscored


def test_score_is_over_a_models_own_documents_and_tests_over_those_of_both(tmp_path: Path) -> None:
    a: Values = [None, None, *right(28, 38)]
    b: Values = [*right(19, 38), None, None]
    board = leaderboard(made(tmp_path, {"a": acc(a), "b": acc(b)}))
    rows = models_of(board)
    assert (rows["a"].score, rows["a"].n, rows["a"].n_unscored) == (28 / 38, 38, 2)
    assert (rows["b"].score, rows["b"].n, rows["b"].n_unscored) == (0.5, 38, 2)
    both = np.asarray([(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None])
    assert (stats.paired(both[:, 0], both[:, 1], [""] * 36).p < 0.05) == (rows["a"].wins == 1)
    (note,) = board.notes
    assert note.startswith("uz_topic: unscored documents (a 2, b 2 of 40). ")


def test_failure_is_never_a_score_of_zero(tmp_path: Path) -> None:
    rows = models_of(leaderboard(made(tmp_path, {"a": acc([1.0] * 20), "b": acc([1.0] * 10 + [None] * 10)})))
    assert {row.score for row in rows.values()} == {1.0}
    assert {row.rank for row in rows.values()} == {1}


def test_task_that_a_model_never_answered_is_not_ranked_and_said(tmp_path: Path) -> None:
    other = acc(right(10), task="uz_sentiment")
    board = leaderboard(made(tmp_path, {"a": [acc(right(20)), other], "b": [acc([None] * 40), other]}))
    assert {row.task for row in board.rows} == {"uz_sentiment"}
    assert board.notes == ("uz_topic: nothing of b was scored; the task isn't ranked.",)


def test_runs_without_anything_to_rank_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnpairedError, match=r"nothing to rank\. uz_topic: no document was scored for every model"):
        leaderboard(made(tmp_path, {"a": acc([1.0, None]), "b": acc([None, 1.0])}))


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "uz_qa"}, r"^The runs asked different tasks: only .*run-0 has uz_topic; only .*run-1 has uz_qa\. "),
        ({"version": "1.1"}, r"^uz_topic: the version differs, 1\.0 in .*run-0 and 1\.1 in .*run-1\. "),
        ({"n_shot": 5}, r"^uz_topic: the number of shots differs, 0 in .*run-0 and 5 in .*run-1\. "),
        ({"values": {"f1": right(9)}}, r"^uz_topic: the primary metric differs, acc in .*run-0 and f1 in .*run-1\. "),
        (
            {"docs": [f"other {number}" for number in range(40)]},
            r"^uz_topic: the documents differ \(doc_hash\): 40 only in .*run-0, 40 only in .*run-1\. .*--limit",
        ),
        (
            {"docs": ["000"] * 40},
            r"^uz_topic: the documents differ \(doc_hash\): 39 only in .*run-0, 39 only in .*run-1\. ",
        ),
        (
            {"asked_as": "differently"},
            r"^uz_topic: the prompts differ \(prompt_hash\) on 40 of 40 documents between .*run-0 and .*run-1, ",
        ),
        ({"orthography": "cyrillic"}, r"^The runs asked different tasks: .* has uz_topic; .* has uz_topic cyrillic\. "),
        ({"prompt_id": "p2"}, r"^The runs asked different tasks: .* has uz_topic; .* has uz_topic p2\. "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_runs_that_do_not_pair_are_refused_and_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    task = acc(right(20))
    with pytest.raises(UnpairedError, match=message):
        leaderboard(made(tmp_path, {"a": task, "b": replace(task, **changes)}))


def test_last_of_many_runs_is_held_to_the_first(tmp_path: Path) -> None:
    models: dict[str, Asked | list[Asked]] = {f"m{number}": acc(right(20)) for number in range(4)}
    models["m3"] = acc(right(20), version="2.0")
    with pytest.raises(UnpairedError, match=r"1\.0 in .*run-0 and 2\.0 in .*run-3"):
        leaderboard(made(tmp_path, models))


def test_run_named_twice_is_refused(tmp_path: Path) -> None:
    paths = made(tmp_path, {"a": acc(right(20)), "b": acc(right(9))})
    (tmp_path / "link").symlink_to(paths[0])
    for again in (paths[0], tmp_path / "run-1" / ".." / "run-0", tmp_path / "link"):
        with pytest.raises(UsageError, match=r"named twice\. Name each run once"):
            leaderboard([*paths, again])


def test_no_run_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match=r"No run is named\. Try: uzbench leaderboard"):
        leaderboard([])


def test_run_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    run = made_run(tmp_path / "half", acc(right(20)), by=Asker(complete=False))
    with pytest.raises(RecordError, match="cut off before its end"):
        leaderboard([run.path])


def test_limited_runs_are_refused_unless_they_are_allowed(tmp_path: Path) -> None:
    paths = made(tmp_path, {"a": acc(right(20), n_all=160), "b": acc(right(30), n_all=160)})
    with pytest.raises(UsageError, match=r"^Limited, .*run-0, .*run-1\. .*: --allow-limited$"):
        leaderboard(paths)
    board = leaderboard(paths, allow_limited=True)
    assert board.notes == ("Limited: a, b asked on a part of the documents.",)
    assert all(side.limited for side in board.sides)


def test_fixed_subset_is_limited(tmp_path: Path) -> None:
    paths = made(tmp_path, {"a": acc(right(20))}, subset="uz_demo")
    with pytest.raises(UsageError, match="--allow-limited"):
        leaderboard(paths)


# ---------------------------------------------------------------- prompt formats


def asked_in(folder: Path, formats: dict[str, tuple[str, str]], source: str = "uzbench") -> list[Path]:
    """A run a name, each of (prompt format, what its prompt hashes come from)."""
    return [
        made_run(
            folder / name, acc(right(20), asked_as=hashed), by=Asker(name, prompt_format=prompts, source=source)
        ).path
        for name, (prompts, hashed) in formats.items()
    ]


def test_another_prompt_format_is_ranked_and_said(tmp_path: Path) -> None:
    board = leaderboard(asked_in(tmp_path, {"a": ("plain", ""), "b": ("alpaca", "alpaca"), "c": ("plain", "")}))
    assert board.notes == (
        "Asked differently: a, c in the format plain; b in the format alpaca. "
        "Part of a difference is the format, not the model.",
    )


def test_another_format_of_one_run_excuses_no_other_run(tmp_path: Path) -> None:
    formats = {"a": ("alpaca", "alpaca"), "b": ("plain", ""), "c": ("plain", "differently")}
    with pytest.raises(UnpairedError, match=r"prompt_hash\) on 40 of 40 documents between .*b and .*c, "):
        leaderboard(asked_in(tmp_path, formats))


def test_prompts_of_imported_runs_have_no_format_to_differ_in(tmp_path: Path) -> None:
    formats = {"a": ("plain", ""), "b": ("alpaca", "alpaca")}
    with pytest.raises(UnpairedError, match="prompt_hash"):
        leaderboard(asked_in(tmp_path, formats, source="lm-eval"))


# ---------------------------------------------------------------- names, order, records


def test_models_of_one_name_are_told_apart_by_their_runs(tmp_path: Path) -> None:
    paths = [made_run(tmp_path / name, acc(right(n)), by=Asker("same")).path for name, n in (("x", 20), ("y", 30))]
    board = leaderboard(paths)
    assert [(row.model, row.run_id) for row in board.rows if row.kind == "model"] == [
        ("same (y)", "y"),
        ("same (x)", "x"),
    ]
    assert {side.model_name for side in board.sides} == {"same"}
    assert "Runs of the same model: same (x), same (y)." in board.notes


def test_copies_of_a_run_are_told_apart(tmp_path: Path) -> None:
    paths = [made_run(tmp_path / place / "x", acc(right(20)), by=Asker("same")).path for place in ("one", "two")]
    assert models_of(leaderboard(paths)).keys() == {"same (x), 1", "same (x), 2"}


def test_another_quantization_is_said(tmp_path: Path) -> None:
    one = made_run(tmp_path / "one", acc(right(20)), by=Asker("a"))
    two = made_run(tmp_path / "two", acc(right(20)), by=Asker("b", quantization="nf4"))
    assert leaderboard([one, two]).notes == ("Quantized differently: a none; b nf4.",)


def test_same_runs_give_the_same_leaderboard_in_any_order(tmp_path: Path) -> None:
    source = np.random.default_rng(2)
    models: dict[str, Asked | list[Asked]] = {
        f"m{at}": two_tasks((source.random(30) < 0.5).astype(float).tolist(), source.random(30).tolist())
        for at in range(4)
    }
    paths = made(tmp_path, models)
    first = replace(leaderboard(paths), created="")
    assert replace(leaderboard(paths), created="") == first
    assert replace(leaderboard(paths[::-1]), created="") == first


def test_ranks_of_a_task_do_not_depend_on_the_other_tasks(tmp_path: Path) -> None:
    source = np.random.default_rng(2)
    tasks = {
        f"m{at}": two_tasks((source.random(30) < 0.5).astype(float).tolist(), source.random(30).tolist())
        for at in (0, 1)
    }
    both = leaderboard(made(tmp_path / "both", dict(tasks)))
    alone = leaderboard(made(tmp_path / "alone", {name: each[1] for name, each in tasks.items()}))
    assert models_of(both, "uz_summ") == models_of(alone, "uz_summ")


def test_record_survives_json(tmp_path: Path) -> None:
    task = acc(right(20), baselines={"majority": 0.3})
    board = leaderboard(made(tmp_path, {"a": task, "b": [acc(right(9))][0]}))
    assert Leaderboard.from_dict(json.loads(json.dumps(board.to_dict()))) == board


def test_files_hold_the_leaderboard(tmp_path: Path) -> None:
    board = leaderboard(made(tmp_path, {"a": acc(right(20)), "b": acc(right(9))}))
    paths = write_leaderboard(board, tmp_path / "out")
    assert [path.name for path in paths] == ["leaderboard.json", "leaderboard.md", "leaderboard.html"]
    document = read_json(paths[0])
    assert document["schema"] == 1
    assert Leaderboard.from_dict(document) == board
    assert {"model", "task", "metric", "score", "ci95", "rank", "rank_ci95", "n"} <= document["rows"][0].keys()


def test_function_of_the_package_is_not_hidden_by_its_module() -> None:
    from harness import leaderboard as of_the_package

    # The module of this name has been imported above.
    assert of_the_package is leaderboard


# ---------------------------------------------------------------- what is shown

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "picture": '<img src=x onerror="alert(1)">',
    "end of a cell": "</td></tr></table></svg>",
    "link": "[x](javascript:alert(1)) https://evil.example",
    "pipes": "a | b || c",
    "emphasis": "*a* **b** _c_ `d`",
    "mention": "@org/team #1",
    "new lines": "a\n# b\r\n> c",
    "right to left": "\u202eevil\u202c",
    "controls": "a\x00b\x1b[31mred",
    "surrogate": "a\ud800b",
    "quote": "\"'><b>",
    "long": "x" * 5000,
}

markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py, which rich brings along, isn't installed")


class Page(HTMLParser):
    """The tags, attributes and text of an HTML document."""

    def __init__(self, document: str):
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.cells: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def shown_board(folder: Path, names: tuple[str, str]) -> Leaderboard:
    tasks = [
        acc(right(20), baselines={"chance": 0.25, "majority": 0.3}),
        acc(right(12), task="uz_sentiment", baselines={"majority": 0.4}),
    ]
    other = [replace(tasks[0], values={"acc": right(30)}), replace(tasks[1], values={"acc": right(20)})]
    return leaderboard(made(folder, {names[0]: list(tasks), names[1]: list(other)}))


@pytest.fixture
def tame(tmp_path: Path) -> Leaderboard:
    return shown_board(tmp_path / "tame", ("base", "tuned"))


def kinds(text: str) -> Counter[str]:
    parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = parser.parse(text)
    return Counter([token.type for token in tokens] + [each.type for token in tokens for each in token.children or ()])


@pytest.mark.parametrize("name", HOSTILE)
def test_name_of_a_model_is_never_markup(name: str, tmp_path: Path, tame: Leaderboard) -> None:
    board = shown_board(tmp_path, ("base", HOSTILE[name]))
    wanted, found = kinds(render(tame)), kinds(render(board))
    # Texts may be cut in pieces by entities; nothing else differs.
    for each in (wanted, found):
        for piece in ("text", "text_special", "entity"):
            each.pop(piece, None)
    assert found == wanted
    one, two = Page(render_page(tame)), Page(render_page(board))
    assert two.tags == one.tags
    assert two.attributes == one.attributes
    assert "\x1b" not in headline(board) + render_page(board)
    assert "\u202e" not in render(board) + render_page(board)


def test_markdown_is_short_enough_for_a_readme(tame: Leaderboard) -> None:
    text = render(tame)
    assert text.count("| ---") == 2
    assert len(text.splitlines()) < 30
    assert "## Latin: macro average of 2 tasks" in text


def test_single_task_is_one_table(tmp_path: Path) -> None:
    text = render(leaderboard(made(tmp_path, {"a": acc(right(20)), "b": acc(right(9))})))
    assert text.count("| ---") == 1
    assert "## Latin: uz&#95;topic, acc" in text


def test_line_of_a_model_says_rank_score_and_intervals(tame: Leaderboard) -> None:
    rows = [row for row in tame.rows if row.task == "uz_topic"]
    assert standings_table(rows).splitlines()[2:] == [
        "| tuned | 1 [1–1] | 75.0 % | [59.8, 85.8] | 1 | 0 | 40 |",
        "| base | 2 [2–2] | 50.0 % | [35.2, 64.8] | 0 | 1 | 40 |",
        "| *majority* | — | *30.0 %* | — | — | — | — |",
        "| *chance* | — | *25.0 %* | — | — | — | — |",
    ]


def test_baseline_stands_where_its_score_is(tmp_path: Path) -> None:
    tasks = {"good": acc(right(30)), "poor": acc(right(5))}
    board = leaderboard(made(tmp_path, dict(tasks)))
    assert [line.split("|")[1].strip() for line in standings_table(board.rows).splitlines()[2:]] == [
        "good",
        "*chance*",
        "poor",
    ]


def test_scores_by_task_stand_in_the_order_of_the_macro_average(tame: Leaderboard) -> None:
    tasks = [[row for row in tame.rows if row.task == task] for task in (MACRO, "uz_topic", "uz_sentiment")]
    assert scores_table(tasks).splitlines()[2:] == [
        "| tuned | 62.5 % | 75.0 % | 50.0 % |",
        "| base | 40.0 % | 50.0 % | 30.0 % |",
        "| *chance* | *25.0 %* | *25.0 %* | *25.0 %* |",
        "| *best without reading* | — | *30.0 % majority* | *40.0 % majority* |",
    ]


def test_notes_are_shown(tmp_path: Path) -> None:
    paths = made(tmp_path, {"a": acc(right(20), n_all=80)})
    board = leaderboard(paths, allow_limited=True)
    assert "> Limited: a asked on a part of the documents." in render(board)
    assert "Limited: a asked on a part of the documents." in render_page(board)


def test_page_draws_scores_twice_for_screen_and_phone(tame: Leaderboard) -> None:
    page = Page(render_page(tame))
    assert page.tags["svg"] == 2
    assert page.tags["script"] == 0


# ---------------------------------------------------------------- the command


def test_command_writes_three_files_and_prints_their_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = made(tmp_path, {"a": acc(right(20)), "b": acc(right(30))})
    monkeypatch.chdir(tmp_path)
    assert run_command(["leaderboard", *map(str, paths)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [f"leaderboard/leaderboard.{kind}" for kind in ("json", "md", "html")]
    assert all((tmp_path / line).is_file() for line in printed.out.splitlines())
    assert "| b | 1 [1–1] | 75.0 % |" in printed.err


def test_command_prints_json_and_writes_only_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(path) for path in made(tmp_path, {"a": acc(right(20)), "b": acc(right(30))})]
    monkeypatch.chdir(tmp_path)
    assert run_command(["leaderboard", *paths, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert [row["model"] for row in document["rows"]] == ["b", "a", "chance"]
    assert not (tmp_path / "leaderboard").exists()
    assert run_command(["leaderboard", *paths, "--json", "--out", "there"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == read_json(tmp_path / "there" / "leaderboard.json")["rows"]
    assert (tmp_path / "there" / "leaderboard.html").is_file()


def test_command_refuses_in_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limited = made(tmp_path, {"a": acc(right(20), n_all=80)})[0]
    other = made_run(tmp_path / "other", acc(right(20), task="uz_qa")).path
    monkeypatch.chdir(tmp_path)
    for arguments, said in (
        ([limited], "--allow-limited"),
        ([other, other], "named twice"),
        ([tmp_path], "isn't a run directory"),
        ([limited, other, "--allow-limited"], "different tasks"),
        ([], "Missing argument 'RUN...'"),
    ):
        assert run_command(["leaderboard", *map(str, arguments)]) == 2
        printed = capsys.readouterr()
        assert (printed.out, printed.err.count("\n")) == ("", 1)
        assert said in printed.err
    assert not (tmp_path / "leaderboard").exists()
    assert run_command(["leaderboard", str(limited), "--allow-limited"]) == 0
    assert "Limited: a asked on a part of the documents." in capsys.readouterr().err


def test_name_of_a_model_is_no_command_to_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = made(tmp_path, {"a\x1b[31m\x07": acc(right(20), n_all=80)})
    monkeypatch.chdir(tmp_path)
    assert run_command(["leaderboard", *map(str, paths), "--allow-limited"]) == 0
    printed = capsys.readouterr()
    assert "\x1b" not in printed.err
    assert printed.err.count("a⟨U+001B⟩[31m⟨U+0007⟩") == 2


# ---------------------------------------------------------------- imported runs, real answers


def lm_eval_folder(path: Path, model: str, answers: list[dict[str, Any]]) -> None:
    """What stock lm-eval writes for UzLiB: results and samples, a null answer scored 0."""
    stamp = "2026-02-20T00-00-00.000000"
    path.mkdir(parents=True)
    n = {"original": len(answers), "effective": len(answers)}
    results = {
        "results": {"uzlib": {"alias": "uzlib", "acc,none": 0.0, "acc_stderr,none": 0.0}},
        "configs": {"uzlib": {"task": "uzlib", "output_type": "generate_until", "num_fewshot": 0}},
        "versions": {"uzlib": 1.0},
        "n-shot": {"uzlib": 0},
        "higher_is_better": {"uzlib": {"acc": True}},
        "n-samples": {"uzlib": n},
        "config": {"model": "local-chat-completions", "limit": None},
        "model_name": model,
        "date": 1771545600.0,
    }
    (path / f"results_{stamp}.json").write_text(json.dumps(results), encoding="utf-8")
    lines = []
    for number, answer in enumerate(answers):
        doc = {"id": answer["item"], "type": answer["type"]}
        said = answer["answer"] or ""
        sample = {
            "doc_id": number,
            "doc": doc,
            "target": answer["gold"],
            "arguments": {"gen_args_0": {"arg_0": answer["item"], "arg_1": {"until": ["\n"]}}},
            "resps": [[said]],
            "filtered_resps": [said],
            "filter": "none",
            "metrics": ["acc"],
            "doc_hash": hashlib.sha256(json.dumps(doc).encode()).hexdigest(),
            "prompt_hash": hashlib.sha256(answer["item"].encode()).hexdigest(),
            "acc": float(answer["correct"]),
        }
        lines.append(json.dumps(sample))
    (path / f"samples_uzlib_{stamp}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def uzlib(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    """14 real models on UzLiB, imported as runs."""
    files = sorted(UZLIB.glob("*.jsonl"))
    if not files:
        pytest.skip("the shared data sets aren't beside this checkout")
    folder = tmp_path_factory.mktemp("uzlib")
    for path in files:
        answers = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lm_eval_folder(folder / "lm" / path.stem, path.stem, answers)
    return {run.run.model_name: run for run in import_runs(folder / "lm", out=folder / "runs")}


def test_fourteen_real_models_are_ranked_with_intervals(uzlib: dict[str, RunDirectory]) -> None:
    board = leaderboard([run.path for run in uzlib.values()])
    assert len(board.rows) == len(uzlib) == 14
    assert board.notes == ()
    assert [row.rank for row in board.rows] == list(range(1, 15))
    for row in board.rows:
        answers = [json.loads(line) for line in (UZLIB / f"{row.model}.jsonl").read_text("utf-8").splitlines()]
        assert row.score == pytest.approx(sum(each["correct"] for each in answers) / 1861, abs=ROUNDING)
        assert (row.n, row.n_unscored) == (1861, 0)
        assert row.rank_ci95 is not None
        assert row.rank_ci95[0] <= (row.rank or 0) <= row.rank_ci95[1]
        # What Holm says of a pair bounds the rank from both sides.
        assert row.wins <= 14 - (row.rank or 0)
        assert row.losses <= (row.rank or 0) - 1
    ends = {row.model: row.rank_ci95 for row in board.rows}
    assert ends["Llama-4-Maverick-17B-128E-Instruct"] == (14, 14)
    assert ends["Mistral-Nemo-Instruct-Uz"][1] > ends["Mistral-Nemo-Instruct-Uz"][0]  # type: ignore[index]


def test_uzbek_mistral_nemo_is_worse_than_its_base_by_three_points(uzlib: dict[str, RunDirectory]) -> None:
    base, tuned = uzlib["Mistral-Nemo-Instruct-2407"], uzlib["Mistral-Nemo-Instruct-Uz"]
    (row,) = compare(base, tuned).rows
    assert round(100 * row.delta, 2) == -2.96
    # Published to one digit from another computation of the same paired t interval.
    assert row.ci95 == pytest.approx((-0.058, -0.001), abs=0.002)


def test_real_models_are_shown(uzlib: dict[str, RunDirectory]) -> None:
    text = render(leaderboard(list(uzlib.values())))
    assert "| NeuronAI-Uzbek | 1 [1–" in text
    assert len(text.splitlines()) < 25
