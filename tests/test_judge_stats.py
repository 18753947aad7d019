"""The judge's own statistics, against independent oracles and against simulations whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from harness.judge.agreement import agreement_slice, corrected_difference, corrected_rate, kappa, share
from harness.judge.preferences import bootstrap_win_rates, bradley_terry, field_win_rates, length_controlled
from harness.judge.records import Share

DRAWS = 2_000


def drawn(random: np.random.Generator, rate: float, n: int) -> Share:
    return share(int(random.binomial(n, rate)), n)


# ---------------------------------------------------------------- agreement


def test_kappa_is_scikit_learns() -> None:
    from sklearn.metrics import cohen_kappa_score

    random = np.random.default_rng(1)
    for _ in range(50):
        people = random.integers(1, 6, 80)
        judge = np.where(random.random(80) < 0.6, people, random.integers(1, 6, 80))
        for weights in (None, "quadratic"):
            found = kappa(people.tolist(), judge.tolist(), weights=weights)
            assert found is not None
            assert found[0] == pytest.approx(cohen_kappa_score(people, judge, weights=weights))
            assert found[1][0] <= found[0] <= found[1][1]


def test_weights_go_by_the_distance_of_grades_also_where_one_between_was_never_given() -> None:
    from sklearn.metrics import cohen_kappa_score

    people, judge = [1, 1, 5, 5, 2, 2, 1, 5], [1, 2, 5, 2, 2, 5, 1, 5]
    found = kappa(people, judge, weights="quadratic")
    assert found is not None
    assert found[0] == pytest.approx(cohen_kappa_score(people, judge, labels=[1, 2, 3, 4, 5], weights="quadratic"))


def test_kappas_interval_covers_the_truth() -> None:
    random, covered = np.random.default_rng(2), 0
    # Both say yes to half; they agree on 80 %: κ = (0.8 - 0.5) / 0.5.
    for _ in range(DRAWS):
        people = random.integers(0, 2, 200)
        judge = np.where(random.random(200) < 0.8, people, 1 - people)
        found = kappa(people.tolist(), judge.tolist())
        assert found is not None
        covered += found[1][0] <= 0.6 <= found[1][1]
    assert 0.935 <= covered / DRAWS <= 0.965


@pytest.mark.parametrize(("people", "judge"), [([], []), ([1], [1]), ([1, 1, 1], [1, 0, 1]), ([1, 0, 1], [1, 1, 1])])
def test_kappa_that_is_not_defined_is_none(people: list[int], judge: list[int]) -> None:
    assert kappa(people, judge) is None


def test_slice_without_a_kappa_still_says_how_many_agree() -> None:
    found = agreement_slice("matn", [1, 1, 1, 1], [1, 1, 1, 0])
    assert (found.agreed, found.kappa, found.n) == (0.75, None, 4)


# ---------------------------------------------------------------- the judge's error in a rate


CASES = [
    # share of good answers, sensitivity, specificity, answers, labels of each kind
    (0.6, 0.90, 0.80, 200, 50),
    (0.3, 0.85, 0.70, 500, 75),
    (0.9, 0.90, 0.90, 150, 50),
    (0.1, 0.90, 0.90, 150, 50),
    (0.5, 0.95, 0.60, 400, 100),
]


@pytest.mark.parametrize(("truth", "q1", "q0", "n", "n_labels"), CASES)
def test_corrected_interval_covers_the_truth_and_the_naive_one_does_not(
    truth: float, q1: float, q0: float, n: int, n_labels: int
) -> None:
    random = np.random.default_rng(3)
    corrected = naive = 0
    for _ in range(DRAWS):
        passed = int(random.binomial(n, truth * q1 + (1 - truth) * (1 - q0)))
        found = corrected_rate(passed / n, n, drawn(random, q1, n_labels), drawn(random, q0, n_labels))
        assert not isinstance(found, str)
        corrected += found[1][0] <= truth <= found[1][1]
        interval = binomtest(passed, n).proportion_ci(method="wilson")
        naive += interval.low <= truth <= interval.high
    assert 0.935 <= corrected / DRAWS <= 0.965
    assert naive / DRAWS < 0.935


def test_corrected_rate_is_rogan_and_gladens() -> None:
    found = corrected_rate(0.5, 100, share(90, 100), share(80, 100))
    assert not isinstance(found, str)
    assert found[0] == pytest.approx((0.5 + 0.8 - 1) / (0.9 + 0.8 - 1))


def test_perfect_judge_is_corrected_to_what_it_said_with_a_wider_interval() -> None:
    found = corrected_rate(0.4, 500, share(200, 200), share(200, 200))
    assert not isinstance(found, str)
    assert found[0] == pytest.approx(0.4)
    naive = binomtest(200, 500).proportion_ci(method="wilson")
    assert found[1][1] - found[1][0] > naive.high - naive.low


@pytest.mark.parametrize(
    ("sensitivity", "specificity", "why"),
    [
        (share(0, 0), share(5, 10), "no answer that people accept"),
        (share(5, 10), share(0, 0), "no answer that people refuse"),
        (share(50, 100), share(50, 100), "no better than chance|better than chance"),
        (share(3, 4), share(3, 4), "better than chance"),
    ],
)
def test_rate_that_labels_can_not_correct_says_why(sensitivity: Share, specificity: Share, why: str) -> None:
    found = corrected_rate(0.5, 100, sensitivity, specificity)
    assert isinstance(found, str)
    assert why.split("|")[-1] in found
    assert isinstance(corrected_difference(0.1, 0.02, sensitivity, specificity), str)


def test_corrected_difference_covers_the_truth_and_the_judged_one_does_not() -> None:
    random, q1, q0, n, n_labels, truth = np.random.default_rng(4), 0.85, 0.75, 600, 100, 0.15
    corrected = naive = 0
    for _ in range(DRAWS):
        good = random.random(n) < 0.5
        better = good | (random.random(n) < truth / 0.5) & ~good
        before, after = (np.where(each, random.random(n) < q1, random.random(n) > q0) for each in (good, better))
        differences = after.astype(float) - before
        delta, stderr = float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(n))
        found = corrected_difference(delta, stderr, drawn(random, q1, n_labels), drawn(random, q0, n_labels))
        assert not isinstance(found, str)
        corrected += found[1][0] <= truth <= found[1][1]
        naive += abs(delta - truth) <= 1.96 * stderr
    assert 0.935 <= corrected / DRAWS <= 0.965
    assert naive / DRAWS < 0.6


# ---------------------------------------------------------------- preferences


def preferences(random: np.random.Generator, n: int, quality: float, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Preferences of a judge that likes length, and how much longer the candidate's answers are."""
    longer = random.normal(120, 100, n)
    at = quality + length * np.tanh(longer / longer.std())
    return (random.random(n) < 1 / (1 + np.exp(-at))).astype(float), longer


def test_win_rate_at_equal_length_is_what_a_judge_without_the_bias_would_have_said() -> None:
    random, quality, covered, raw = np.random.default_rng(5), -0.3, 0, []
    truth = 1 / (1 + np.exp(-quality))
    for _ in range(400):
        got, longer = preferences(random, 300, quality, 1.5)
        found = length_controlled(got, longer, [""] * 300)
        assert not isinstance(found, str)
        covered += found[1][0] <= truth <= found[1][1]
        raw.append(got.mean())
    assert 0.92 <= covered / 400 <= 0.98
    # A worse model looks better for being longer.
    assert truth < 0.45 < 0.55 < np.mean(raw)


def test_length_controlled_win_rate_is_the_mean_where_length_does_not_matter() -> None:
    random = np.random.default_rng(6)
    got = (random.random(4000) < 0.6).astype(float)
    found = length_controlled(got, random.normal(0, 50, 4000), [""] * 4000)
    assert not isinstance(found, str)
    assert found[0] == pytest.approx(got.mean(), abs=0.01)


def test_ties_count_half() -> None:
    found = length_controlled(np.array([0.5, 1.0] * 50), np.array([1.0, -1.0, -1.0, 1.0] * 25), [""] * 100)
    assert not isinstance(found, str)
    assert found[0] == pytest.approx(0.75, abs=1e-6)


@pytest.mark.parametrize(
    ("got", "longer", "why"),
    [
        ([1.0] * 10, range(10), "fewer than 20 pairs"),
        ([1.0] * 30, range(30), "every pair ended the same"),
        ([1.0, 0.0] * 15, [0] * 30, "all answers are of one length"),
        ([1.0, 0.0] * 15, [5, -5] * 15, "length alone decides every pair"),
    ],
)
def test_where_length_can_not_be_controlled_for_it_says_why(got: list[float], longer: list[int], why: str) -> None:
    assert length_controlled(np.array(got), np.array(list(longer), dtype=float), [""] * len(got)) == why


def test_bradley_terry_is_the_logistic_regression_of_who_met_whom() -> None:
    import statsmodels.api as sm

    random = np.random.default_rng(7)
    for _ in range(10):
        wins = random.integers(1, 40, (5, 5)).astype(float)
        np.fill_diagonal(wins, 0)
        rows, got, weight = [], [], []
        for one in range(5):
            for two in range(one + 1, 5):
                row = np.zeros(5)
                row[one], row[two] = 1, -1
                # Half a win for both, as ours adds.
                total = wins[one, two] + wins[two, one] + 1
                rows.append(row[1:])
                got.append((wins[one, two] + 0.5) / total)
                weight.append(total)
        fitted = sm.GLM(np.array(got), np.array(rows), family=sm.families.Binomial(), freq_weights=np.array(weight))
        oracle = np.append(0, fitted.fit().params)
        assert bradley_terry(wins) == pytest.approx(oracle - oracle.mean(), abs=1e-5)


def test_model_that_always_wins_has_a_finite_strength_and_field_rates_average_a_half() -> None:
    wins = np.array([[0, 30, 30], [0, 0, 15], [0, 15, 0]], dtype=float)
    strengths = bradley_terry(wins)
    assert np.isfinite(strengths).all()
    rates = field_win_rates(strengths)
    assert rates[0] > 0.95
    assert rates.mean() == pytest.approx(0.5)
    assert rates[1] == pytest.approx(rates[2])


def test_bootstrap_of_win_rates_covers_the_truth() -> None:
    random, strengths = np.random.default_rng(8), np.array([0.8, 0.0, -0.8])
    truth, covered, n = field_win_rates(strengths), 0, 0
    for _ in range(60):
        games = [
            (one, two, float(random.random() < 1 / (1 + np.exp(strengths[two] - strengths[one]))), str(question))
            for question in range(150)
            for one, two in ((0, 1), (0, 2), (1, 2))
        ]
        found = bootstrap_win_rates(games, 3, resamples=200, seed=int(random.integers(10**6)))
        low, high = np.quantile(found, (0.025, 0.975), axis=0)
        covered += int(((low <= truth) & (truth <= high)).sum())
        n += 3
    assert 0.88 <= covered / n <= 0.99
