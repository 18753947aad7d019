"""The statistics, against statsmodels, scipy, brute force and definitions written out by hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import binom, norm, permutation_test, t
from scipy.stats import bootstrap as bootstrap_of_scipy
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import normal_power
from statsmodels.stats.proportion import proportion_confint

from harness.stats import (
    ALPHA,
    RESAMPLES,
    Estimate,
    Floats,
    bootstrap,
    clusters,
    detectable,
    estimate,
    holm,
    macro,
    macro_one_sided,
    mcnemar,
    mcnemar_less,
    one_sided,
    paired,
    power,
    sign_flip,
    sign_flip_less,
    verdict,
)

N_CASES = 200

# Two ways to add up the same numbers in floating point.
ROUNDING = 1e-12


def draws(name: str, n: int = N_CASES) -> Iterator[np.random.Generator]:
    """Random cases, the same at each run: one test each would cost more than what is tested."""
    for case in range(n):
        yield np.random.default_rng([case, *name.encode()])


def alone(n: int) -> list[str]:
    """No document shares a passage."""
    return [""] * n


# ---------------------------------------------------------------- McNemar


def test_mcnemar_is_the_exact_one_of_statsmodels() -> None:
    for draw in draws("mcnemar"):
        gained, lost = (int(count) for count in draw.integers(0, draw.choice([4, 40, 400]), size=2))
        if gained + lost == 0:
            gained = 1
        table = [[draw.integers(0, 50), gained], [lost, draw.integers(0, 50)]]
        # Two implementations of the binomial distribution.
        assert mcnemar(gained, lost) == pytest.approx(mcnemar_of_statsmodels(table, exact=True).pvalue, rel=1e-9)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 32),
        (6, 0, 2 / 64),
        (1, 5, 2 * (1 + 6) / 64),
        (3, 3, 1.0),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
    ],
)
def test_mcnemar_is_a_fair_coin_on_the_discordant_pairs(gained: int, lost: int, p: float) -> None:
    # scipy's binomial against a quotient of whole numbers.
    assert mcnemar(gained, lost) == pytest.approx(p, rel=1e-12)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


def test_one_sided_mcnemar_is_a_binomial_tail() -> None:
    for draw in draws("less"):
        gained, lost = (int(count) for count in draw.integers(0, draw.choice([4, 40, 400]), size=2))
        wanted = binom.cdf(gained, gained + lost, 0.5) if gained + lost else 1.0
        assert mcnemar_less(gained, lost) == pytest.approx(wanted, rel=1e-9)


# ---------------------------------------------------------------- sign-flip


def flipped_every_way(sums: list[int]) -> float:
    """The share of all 2^n sign flips whose sum is at least as far from 0."""
    seen = abs(sum(sums))
    flips = list(product((1, -1), repeat=len(sums)))
    return sum(abs(sum(sign * part for sign, part in zip(flip, sums, strict=True))) >= seen for flip in flips) / len(
        flips
    )


def exact_sign_flip(sums: list[int]) -> float:
    """The same from the distribution of the flipped sum, added up one cluster at a time; for any n."""
    ways = Counter({0: 1})
    for part in sums:
        after: Counter[int] = Counter()
        for total, count in ways.items():
            after[total + part] += count
            after[total - part] += count
        ways = after
    far = sum(count for total, count in ways.items() if abs(total) >= abs(sum(sums)))
    return float(Fraction(far, 2 ** len(sums)))


def test_sign_flip_of_few_clusters_is_that_of_all_flips() -> None:
    for draw in draws("few"):
        sums = [int(part) for part in draw.integers(-8, 9, size=int(draw.integers(2, 11)))]
        # Eighths are exact in binary, so that ties are ties.
        assert sign_flip(np.asarray(sums) / 8) == pytest.approx(flipped_every_way(sums), abs=ROUNDING)


def test_ties_that_floating_point_blurs_still_count_as_ties() -> None:
    for draw in draws("ties"):
        sums = [int(part) for part in draw.integers(-3, 4, size=int(draw.integers(2, 11)))]
        sums[0] += 1 if sum(sums) == 0 else 0
        # 0.1 + 0.2 isn't 0.3: tenths and thirds of scores make such sums.
        assert sign_flip(np.asarray(sums) / 10) == pytest.approx(exact_sign_flip(sums), abs=ROUNDING)
        assert sign_flip(np.asarray(sums) / 3) == pytest.approx(exact_sign_flip(sums), abs=ROUNDING)


@pytest.mark.parametrize("n", [2, 7, 13])
@pytest.mark.parametrize("gained", [0, 1, 2])
def test_sign_flip_of_whole_steps_is_the_sign_test(n: int, gained: int) -> None:
    sums = np.asarray([1.0] * gained + [-1.0] * (n - gained))
    wanted = min(1.0, 2 * binom.cdf(min(gained, n - gained), n, 0.5))
    assert sign_flip(sums) == pytest.approx(wanted, abs=ROUNDING)
    assert sign_flip(sums) == pytest.approx(mcnemar(gained, n - gained), abs=ROUNDING)


def test_sign_flip_of_many_clusters_is_near_the_exact_one() -> None:
    for draw in draws("many", 20):
        sums = [int(part) for part in draw.integers(-5, 7, size=int(draw.integers(14, 60)))]
        exact = exact_sign_flip(sums)
        # Five standard errors of a share of RESAMPLES draws (the seed is fixed: no luck at a later run),
        # and twice the draw that counts the data themselves among the flips.
        margin = 5 * math.sqrt(exact * (1 - exact) / RESAMPLES) + 2 / RESAMPLES
        assert sign_flip(np.asarray(sums, dtype=float)) == pytest.approx(exact, abs=margin)


def test_sign_flip_is_that_of_scipy() -> None:
    for case, draw in enumerate(draws("scipy")):
        # All flips of few clusters: both are exact. Eighths, so that ties are ties in both.
        sums = draw.integers(-8, 9, size=int(draw.integers(2, 11))) / 8
        if case % 10 == 0:
            # Many different ones: both draw.
            sums = draw.normal(0.3, 1, size=int(draw.integers(20, 40)))
        for alternative, ours in (("two-sided", sign_flip), ("less", sign_flip_less)):
            theirs = permutation_test(
                (sums,),
                lambda values, axis: values.mean(axis=axis).round(12),
                permutation_type="samples",
                vectorized=True,
                n_resamples=RESAMPLES,
                alternative=alternative,
                rng=draw,
            ).pvalue
            margin = 5 * math.sqrt(2 * theirs * (1 - theirs) / RESAMPLES) + 2 / RESAMPLES if case % 10 == 0 else 1e-12
            assert ours(sums) == pytest.approx(theirs, abs=margin)


@pytest.mark.parametrize("n", [40, 200])
def test_equal_and_different_sums_are_flipped_alike(n: int) -> None:
    for draw in draws("alike", 10):
        sums = draw.integers(-2, 3, size=n).astype(float)
        sums[0] = 1.0
        # Moved apart by nothing that counts, each sum is a draw of its own.
        apart = sums + draw.uniform(1e-8, 2e-8, size=n)
        p = sign_flip_less(sums)
        margin = 5 * math.sqrt(2 * p * (1 - p) / RESAMPLES) + 2 / RESAMPLES
        # Ties of whole sums are broken there: half of them count.
        tied = float((abs(_totals(sums) - sums.sum()) < 0.5).mean())
        assert p - tied - margin <= sign_flip_less(apart) <= p + margin


def _totals(sums: np.ndarray) -> np.ndarray:
    return (np.random.default_rng(5).choice([-1, 1], size=(20_000, len(sums))) * sums).sum(axis=1)


def test_one_sided_p_is_half_of_the_story() -> None:
    for draw in draws("sides", 50):
        sums = draw.integers(-8, 9, size=int(draw.integers(2, 11))) / 8
        less, more = sign_flip_less(sums), sign_flip_less(-sums)
        assert min(1.0, 2 * min(less, more)) == pytest.approx(sign_flip(sums), abs=ROUNDING)


def test_sign_flip_gives_the_same_p_each_time() -> None:
    sums = next(draws("same")).normal(0.2, 1, size=50)
    assert sign_flip(sums) == sign_flip(sums)


def test_sampled_p_is_never_zero() -> None:
    assert sign_flip(np.ones(60)) == pytest.approx(1 / (RESAMPLES + 1), abs=ROUNDING)


def test_sign_flip_takes_no_side() -> None:
    for draw in draws("side", 50):
        sums = draw.integers(-8, 9, size=int(draw.integers(2, 12))) / 8
        assert sign_flip(-sums) == pytest.approx(sign_flip(sums), abs=ROUNDING)


# ---------------------------------------------------------------- clusters


def test_documents_of_a_passage_share_a_cluster_and_the_rest_stand_alone() -> None:
    assert clusters(["a", "", "a", "b", "", "b"]).tolist() == [0, 1, 0, 2, 3, 2]
    assert clusters(["", "", ""]).tolist() == [0, 1, 2]


def test_passage_never_shares_a_cluster_with_a_lone_document_whatever_its_name() -> None:
    assert len({*clusters(["i1", "", "i0", "g", "gi1", "0"]).tolist()}) == 6


# ---------------------------------------------------------------- clustered standard errors and intervals


def grouped(draw: np.random.Generator, n: int) -> list[str]:
    """Passages of unlike sizes, at least two."""
    numbers = draw.integers(0, max(2, n // 3), size=n)
    numbers[:2] = 0, 1
    return [f"passage {number}" for number in numbers]


def by_statsmodels(values: np.ndarray, groups: list[str]) -> tuple[float, tuple[float, float]]:
    """Standard error and interval of a mean: a regression on a constant, clustered.

    Its small-sample correction is C/(C-1) · (n-1)/(n-k) with k = 1 column, which is ours: C/(C-1).
    """
    fit = sm.OLS(values, np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": clusters(groups)}, use_t=True
    )
    low, high = fit.conf_int()[0]
    return float(fit.bse[0]), (float(low), float(high))


def test_clustered_interval_of_a_mean_is_that_of_statsmodels() -> None:
    for case, draw in enumerate(draws("estimate")):
        n = int(draw.integers(3, 80))
        groups = grouped(draw, n)
        values = draw.beta(2, 2, size=n) if case % 2 else draw.integers(0, 2, size=n).astype(float)
        stderr, (low, high) = by_statsmodels(values, groups)
        found = estimate(values, groups)
        assert found.mean == pytest.approx(values.mean(), abs=ROUNDING)
        assert found.stderr == pytest.approx(stderr, abs=ROUNDING)
        if len(set(groups)) < n:
            # A score stays in [0,1].
            assert found.ci95 == pytest.approx((max(0.0, low), min(1.0, high)), abs=1e-9)


def test_clustered_interval_of_a_difference_is_that_of_statsmodels() -> None:
    for draw in draws("paired"):
        n = int(draw.integers(3, 80))
        groups = grouped(draw, n)
        base, cand = draw.beta(2, 2, size=(2, n))
        stderr, (low, high) = by_statsmodels(cand - base, groups)
        found = paired(base, cand, groups)
        assert found.stderr == pytest.approx(stderr, abs=ROUNDING)
        assert found.ci95 == pytest.approx((max(-1.0, low), min(1.0, high)), abs=1e-9)
        assert found.n_clusters == len(set(groups))


def test_clustered_error_of_lone_documents_is_the_usual_one() -> None:
    for draw in draws("alone", 20):
        base, cand = draw.beta(2, 2, size=(2, int(draw.integers(2, 60))))
        usual = (cand - base).std(ddof=1) / math.sqrt(len(base))
        found = paired(base, cand, alone(len(base)))
        assert found.stderr == pytest.approx(usual, abs=ROUNDING)
        half = t.ppf(0.975, len(base) - 1) * usual
        assert found.ci95 == pytest.approx((max(-1, found.delta - half), min(1, found.delta + half)), abs=1e-9)


def test_clustered_error_worked_out_by_hand() -> None:
    # Sums of the centred passages: +1 and -1. sqrt(2/1 · (1 + 1)) / 4 documents.
    found = estimate(np.asarray([1.0, 1.0, 0.0, 0.0]), ["p", "p", "q", "q"])
    assert found == Estimate(0.5, 0.5, (0.0, 1.0), 2)


def test_answers_of_one_passage_that_go_together_widen_the_interval() -> None:
    base = np.zeros(12)
    cand = np.asarray([1.0] * 6 + [0.0] * 6)
    together = paired(base, cand, [f"p{number // 3}" for number in range(12)])
    apart = paired(base, cand, alone(12))
    assert together.stderr is not None
    assert apart.stderr is not None
    assert together.stderr > 1.5 * apart.stderr
    # Two passages of four, both gained: 2 · 1/2^2; six documents of six: 2 · 1/2^6.
    assert together.p == pytest.approx(0.5)
    assert apart.p == pytest.approx(2 / 64)


def test_interval_of_independent_right_and_wrong_answers_is_wilsons() -> None:
    for draw in draws("wilson"):
        n = int(draw.integers(2, 300))
        values = (draw.random(n) < draw.choice([0.0, 0.02, 0.5, 0.97, 1.0])).astype(float)
        found = estimate(values, alone(n))
        wanted = proportion_confint(int(values.sum()), n, alpha=ALPHA, method="wilson")
        assert found.ci95 == pytest.approx(wanted, abs=ROUNDING)
        assert found.stderr == pytest.approx(values.std(ddof=1) / math.sqrt(n), abs=ROUNDING)


@pytest.mark.parametrize("groups", [["p"], [""], ["p", "p", "p"]])
def test_mean_of_a_single_cluster_has_no_interval(groups: list[str]) -> None:
    values = np.linspace(0.2, 0.4, len(groups))
    assert estimate(values, groups) == Estimate(float(values.mean()), None, None, 1)


# ---------------------------------------------------------------- paired


@pytest.mark.parametrize(
    ("base", "cand", "groups", "test"),
    [
        ([0, 1, 0], [1, 1, 0], ["", "", ""], "mcnemar"),
        ([0, 1, 0], [1, 1, 0], ["a", "b", "c"], "mcnemar"),
        ([0, 1, 0], [1, 1, 0], ["a", "a", "b"], "sign-flip"),
        ([0.5, 1, 0], [1, 1, 0], ["", "", ""], "sign-flip"),
        ([0, 1, 0], [0.5, 1, 0], ["", "", ""], "sign-flip"),
        ([0.5, 0.5], [0.5, 0.5], ["a", "a"], "none"),
    ],
)
def test_test_is_chosen_by_scores_and_passages(
    base: list[float], cand: list[float], groups: list[str], test: str
) -> None:
    assert paired(np.asarray(base, dtype=float), np.asarray(cand, dtype=float), groups).test == test


@pytest.mark.parametrize("n", [1, 2, 50])
@pytest.mark.parametrize("passage", ["", "p"])
def test_runs_without_a_difference_have_none(n: int, passage: str) -> None:
    scores = np.linspace(0, 1, n)
    found = paired(scores, scores.copy(), [passage] * n)
    assert (found.delta, found.stderr, found.ci95, found.p, found.mde) == (0.0, 0.0, (0.0, 0.0), 1.0, None)


def test_p_of_right_and_wrong_answers_is_the_mcnemar_of_their_changes() -> None:
    for draw in draws("changes", 50):
        base, cand = draw.integers(0, 2, size=(2, int(draw.integers(2, 60)))).astype(float)
        base[:2], cand[:2] = (0, 1), (1, 1)
        cells = [[int(((base == a) & (cand == b)).sum()) for b in (1, 0)] for a in (1, 0)]
        found = paired(base, cand, alone(len(base)))
        # Two implementations of the binomial distribution.
        assert found.p == pytest.approx(mcnemar_of_statsmodels(cells, exact=True).pvalue, rel=1e-9)
        assert found.delta == pytest.approx((cells[1][0] - cells[0][1]) / len(base), abs=ROUNDING)


def test_p_of_passages_flips_their_sums() -> None:
    for draw in draws("passages", 50):
        n = int(draw.integers(4, 30))
        groups = [f"p{number}" for number in [0, 1, *draw.integers(0, 9, size=n - 2)]]
        base, cand = draw.integers(0, 9, size=(2, n))
        cand[0] = base[0] + 1
        sums = [sum(int(cand[i] - base[i]) for i in range(n) if groups[i] == group) for group in dict.fromkeys(groups)]
        found = paired(base / 8, cand / 8, groups)
        assert found.p == pytest.approx(flipped_every_way(sums), abs=ROUNDING)


def test_exchanging_base_and_candidate_turns_the_signs_alone() -> None:
    for case, draw in enumerate(draws("exchange", 30)):
        n = int(draw.integers(3, 12))
        groups = grouped(draw, n) if case % 2 else alone(n)
        base, cand = draw.integers(0, 9, size=(2, n)) / 8
        base[0], cand[0] = 0.25, 0.5
        there, back = paired(base, cand, groups), paired(cand, base, groups)
        assert there.delta == -back.delta
        assert there.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]), abs=ROUNDING)
        assert there.p == pytest.approx(back.p, abs=ROUNDING)
        assert (there.test, there.stderr, there.mde) == (back.test, back.stderr, back.mde)


def test_order_of_documents_changes_nothing() -> None:
    for draw in draws("order", 30):
        n = int(draw.integers(3, 12))
        groups = grouped(draw, n)
        base, cand = draw.integers(0, 9, size=(2, n)) / 8
        base[0], cand[0] = 0.25, 0.5
        turned = draw.permutation(n)
        one, two = paired(base, cand, groups), paired(base[turned], cand[turned], [groups[i] for i in turned])
        assert (one.delta, one.stderr, one.p) == pytest.approx((two.delta, two.stderr, two.p), abs=ROUNDING)


def test_difference_as_large_as_detectable_is_found_in_80_percent() -> None:
    for draw in draws("mde", 30):
        base, cand = draw.beta(2, 2, size=(2, 40))
        found = paired(base, cand, alone(40))
        assert found.mde is not None
        assert found.stderr is not None
        away = found.mde / found.stderr
        power = norm.sf(1.959964 - away) + norm.cdf(-1.959964 - away)
        # The quantiles 1.96 and 0.84 are rounded to two digits.
        assert power == pytest.approx(0.80, abs=0.001)


# ---------------------------------------------------------------- bootstrap


def mean_of(values: Floats) -> Callable[[Floats], Floats]:
    """The mean of the documents drawn, as a statistic of their weights."""
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1))


def test_bootstrap_of_a_mean_has_the_error_and_interval_of_scipys() -> None:
    for draw in draws("bootstrap", 5):
        values = draw.gamma(2.0, size=80)
        found = bootstrap(mean_of(values), alone(80))
        theirs = bootstrap_of_scipy((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=draw)
        assert found.ci95 is not None
        assert found.value == pytest.approx(values.mean(), abs=ROUNDING)
        # Two draws of 9,999: a tail's quantile has an error of .027 standard errors in each.
        close = 5 * 0.027 * math.sqrt(2) * theirs.standard_error
        assert found.ci95 == pytest.approx(tuple(theirs.confidence_interval), abs=close)
        # The error of a mean of n draws is known: the population's deviation by √n. Ours of it: 1/√(2 · 9,999).
        assert found.stderr == pytest.approx(values.std() / math.sqrt(80), rel=5 / math.sqrt(2 * RESAMPLES))


def test_bootstrap_of_right_and_wrong_answers_is_binomial() -> None:
    for case, draw in enumerate(draws("binomial")):
        n = int(draw.integers(20, 120))
        values = (draw.random(n) < draw.uniform(0.2, 0.8)).astype(float)
        # As many are drawn as there are, each right with the share that is: no draw of ours is needed to know it.
        law = binom(n, values.mean())
        cells = values.astype(np.intp)
        # Document by document takes longer.
        every = [bootstrap(mean_of(values), alone(n))] if case < 20 else []
        by_cell = bootstrap(mean_of(np.unique(values)), alone(n), np.unique(cells, return_inverse=True)[1])
        for found in (*every, by_cell):
            assert found.ci95 is not None
            assert found.value == pytest.approx(values.mean(), abs=ROUNDING)
            assert found.stderr == pytest.approx(law.std() / n, rel=5 / math.sqrt(2 * RESAMPLES), abs=ROUNDING)
            # A quantile of 9,999 draws lies between those of levels five standard errors away.
            for end, level in zip(found.ci95, (0.025, 0.975), strict=True):
                near = 5 * math.sqrt(0.025 * 0.975 / RESAMPLES)
                assert law.ppf(level - near) <= round(end * n, 6) <= law.ppf(level + near)


def test_cells_in_passages_are_drawn_as_their_documents() -> None:
    for draw in draws("cells", 10):
        n = int(draw.integers(12, 60))
        groups, values = grouped(draw, n), draw.integers(0, 3, size=n) / 2
        distinct, cells = np.unique(values, return_inverse=True)
        # The same draws of passages: the same to the last bit but for the order of adding.
        every, by_cell = bootstrap(mean_of(values), groups), bootstrap(mean_of(distinct), groups, cells)
        assert by_cell.ci95 == pytest.approx(every.ci95, abs=ROUNDING)
        assert (by_cell.p, by_cell.n_clusters) == (every.p, every.n_clusters)


def test_bootstrap_draws_passages_whole_and_as_many_as_there_are() -> None:
    groups = ["a", "", "b", "a", "b", "a", ""]

    def statistic(weights: Floats) -> Floats:
        assert (weights[:, [3, 5]] == weights[:, [0]]).all()
        assert (weights[:, 4] == weights[:, 2]).all()
        # Of the passages a and b and the two lone documents four are drawn.
        assert len(weights) == 1 or (weights[:, [0, 1, 2, 6]].sum(axis=1) == 4).all()
        return np.asarray(weights[:, 0])

    assert bootstrap(statistic, groups).n_clusters == 4


def test_bootstrap_of_one_passage_has_no_interval() -> None:
    found = bootstrap(mean_of(np.array([1.0, 0.0])), ["a", "a"])
    assert (found.value, found.stderr, found.ci95, found.p) == (0.5, None, None, 1.0)


def test_bootstrap_p_is_small_far_from_zero_and_never_zero() -> None:
    assert bootstrap(mean_of(np.full(20, 0.5)), alone(20)).p == 2 / (RESAMPLES + 1)
    assert bootstrap(mean_of(np.zeros(20)), alone(20)).p == 1.0


def test_bootstrap_p_of_a_mean_is_near_that_of_a_normal_test() -> None:
    for draw in draws("bootstrap p", 10):
        values = draw.normal(0.15, size=400)
        normal = 2 * norm.sf(abs(values.mean()) / (values.std() / math.sqrt(400)))
        # A p of 9,999 draws comes in steps of two of them, and has their error.
        error = 2 / RESAMPLES + 10 * math.sqrt(normal / 2 / RESAMPLES)
        assert bootstrap(mean_of(values), alone(400)).p == pytest.approx(normal, rel=0.15, abs=error)


def test_bootstrap_says_the_same_each_time() -> None:
    values = np.arange(30.0)
    assert bootstrap(mean_of(values), alone(30)) == bootstrap(mean_of(values), alone(30))


# ---------------------------------------------------------------- many tests at once


def holm_by_definition(p_values: list[float]) -> list[float]:
    """p̃(i) = max over j ≤ i of min(1, (m - j + 1) p(j)), in the order of the p-values."""
    m = len(p_values)
    order = sorted(range(m), key=lambda index: p_values[index])
    adjusted = [0.0] * m
    for place, index in enumerate(order):
        adjusted[index] = max(min(1.0, (m - before) * p_values[order[before]]) for before in range(place + 1))
    return adjusted


def test_holm_is_that_of_its_definition_and_of_statsmodels() -> None:
    for case, draw in enumerate(draws("holm")):
        p_values = [float(p) for p in draw.beta(0.4, 2, size=int(draw.integers(1, 12))).round(int(draw.integers(1, 6)))]
        assert holm(p_values) == pytest.approx(holm_by_definition(p_values), abs=ROUNDING)
        # Fewer: statsmodels collects garbage at each call, a tenth of a second beside all of pytest.
        if case < 5:
            assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=ROUNDING)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.5], [1.0, 1.0]),
        ([0.0, 1.0], [0.0, 1.0]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
    ],
)
def test_holm_worked_out_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted, abs=ROUNDING)


@pytest.mark.parametrize(
    ("deltas", "stderrs", "delta", "half", "p"),
    [
        # sqrt(.03² + .04²) / 2 = .025, z = 1.6.
        ([0.1, -0.02], [0.03, 0.04], 0.04, 0.025 * 1.959964, 0.109599),
        # One task is itself: z = 2.
        ([0.06], [0.03], 0.06, 0.03 * 1.959964, 0.045500),
        # A task without a difference counts as one, and has no error: .03 / 2, z = 2.
        ([0.06, 0.0], [0.03, 0.0], 0.03, 0.015 * 1.959964, 0.045500),
        ([-0.1, -0.02], [0.03, 0.04], -0.06, 0.025 * 1.959964, 0.016395),
    ],
)
def test_macro_average_worked_out_by_hand(
    deltas: list[float], stderrs: list[float], delta: float, half: float, p: float
) -> None:
    # The normal table has six digits.
    assert macro(deltas, stderrs) == pytest.approx((delta, delta - half, delta + half, p), abs=1e-6)


def test_macro_average_of_tasks_without_a_difference_is_none() -> None:
    assert macro([0.0, 0.0], [0.0, 0.0]) == (0.0, 0.0, 0.0, 1.0)


def test_each_task_weighs_the_same_in_the_macro_average() -> None:
    for draw in draws("macro", 20):
        n = int(draw.integers(1, 8))
        deltas, stderrs = draw.normal(0, 0.1, size=n), draw.uniform(0.01, 0.1, size=n)
        delta, low, high, p = macro(deltas.tolist(), stderrs.tolist())
        # A regression of nothing but a constant, its errors known: weights 1/n, variance Σ s² / n².
        stderr = math.sqrt(sum((stderrs / n) ** 2))
        wanted = norm(loc=deltas.mean(), scale=stderr).interval(0.95)
        assert delta == pytest.approx(deltas.mean(), abs=ROUNDING)
        assert (low, high) == pytest.approx(wanted, abs=ROUNDING)
        assert p == pytest.approx(2 * norm.cdf(-abs(deltas.mean()), scale=stderr), abs=ROUNDING)


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("p", "ci95", "delta", "higher_is_better", "said"),
    [
        (0.049, (0.001, 0.2), 0.1, True, "better"),
        (0.049, (-0.2, -0.001), -0.1, True, "worse"),
        (0.049, (0.001, 0.2), 0.1, False, "worse"),
        (0.049, (-0.2, -0.001), -0.1, False, "better"),
        # Sure and small is still a difference.
        (0.001, (0.001, 0.003), 0.002, True, "better"),
        (0.05, (0.0, 0.2), 0.1, True, "unclear"),
        (0.5, (-0.02, 0.02), 0.0, True, "same"),
        (0.5, (-0.0299, 0.0299), 0.0, True, "same"),
        (0.5, (-0.03, 0.02), -0.005, True, "unclear"),
        (0.5, (-0.02, 0.03), 0.005, True, "unclear"),
        (0.5, (-0.02, 0.2), 0.09, True, "unclear"),
        (0.5, (-0.2, 0.02), -0.09, False, "unclear"),
        (1.0, (0.0, 0.0), 0.0, True, "same"),
        (1.0, (0.0, 0.0), 0.0, False, "same"),
    ],
)
def test_verdict_is_that_of_the_table(
    p: float, ci95: tuple[float, float], delta: float, higher_is_better: bool, said: str
) -> None:
    assert verdict(p, ci95, delta, 0.03, higher_is_better) == said


# ---------------------------------------------------------------- one-sided, and power


def test_one_sided_test_is_the_half_of_the_paired_one_that_looks_down() -> None:
    for case, draw in enumerate(draws("one-sided")):
        n = int(draw.integers(4, 60))
        groups = grouped(draw, n) if case % 2 else alone(n)
        base, cand = (draw.integers(0, 2, size=(2, n)) if case % 3 else draw.beta(2, 2, size=(2, n))).astype(float)
        found, both = one_sided(base, cand, groups), paired(base, cand, groups)
        assert (found.delta, found.stderr, found.n_clusters) == (both.delta, both.stderr, both.n_clusters)
        if not (cand - base).any():
            assert (found.p, found.lower, found.mde) == (1.0, 0.0, None)
            continue
        assert found.stderr is not None
        assert found.lower == pytest.approx(found.delta - t.ppf(0.95, found.n_clusters - 1) * found.stderr, abs=1e-12)
        assert found.bound(0.05) == pytest.approx(found.lower, abs=1e-12)
        assert found.bound(0.01) < found.lower
        if both.test == "mcnemar":
            gained, lost = int((cand > base).sum()), int((cand < base).sum())
            assert found.p == pytest.approx(binom.cdf(gained, gained + lost, 0.5), rel=1e-9)
        # Both sides together are the two-sided test, but for ties in the middle and the draws.
        other = one_sided(cand, base, groups)
        twice = min(1.0, 2 * min(found.p, other.p))
        assert twice == pytest.approx(both.p, abs=10 * math.sqrt(both.p / RESAMPLES) + 4 / RESAMPLES)


def test_single_passage_proves_no_fall() -> None:
    found = one_sided(np.ones(4), np.zeros(4), ["p"] * 4)
    assert (found.stderr, found.lower, found.mde) == (None, -1.0, None)
    assert found.p >= 0.5
    assert found.bound(0.2) == -1.0


def test_average_of_one_task_is_that_task() -> None:
    found = one_sided(np.asarray([1.0, 0.0, 1.0]), np.asarray([0.0, 0.0, 1.0]), alone(3))
    assert macro_one_sided([found]) == found


def test_one_sided_average_is_the_lower_half_of_the_two_sided_one() -> None:
    for draw in draws("macro", 50):
        parts = [
            one_sided(*draw.beta(2, 2, size=(2, int(n))), alone(int(n)))
            for n in draw.integers(5, 40, size=int(draw.integers(2, 8)))
        ]
        found = macro_one_sided(parts)
        delta, low, high, p = macro([part.delta for part in parts], [part.stderr for part in parts])
        assert found.delta == pytest.approx(delta, abs=1e-12)
        assert found.stderr == pytest.approx((high - low) / 2 / norm.ppf(0.975), abs=1e-12)
        assert found.lower == pytest.approx(delta - norm.ppf(0.95) * found.stderr, abs=1e-12)
        assert min(found.p, 1 - found.p) == pytest.approx(p / 2, abs=1e-9)
        assert (found.p < 0.5) == (delta < 0)


def test_power_is_that_of_statsmodels() -> None:
    for draw in draws("power"):
        effect, stderr = float(draw.uniform(0.001, 0.2)), float(draw.uniform(0.002, 0.1))
        for one, alternative in ((False, "two-sided"), (True, "larger")):
            theirs = normal_power(effect, 1, 0.05, alternative=alternative, sigma=stderr)
            assert power(effect, stderr, one_sided=one) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("one", [False, True])
def test_detectable_difference_is_found_four_times_in_five(one: bool) -> None:
    for draw in draws("detectable", 20):
        sd, n = float(draw.uniform(0.1, 0.6)), int(draw.integers(50, 3000))
        found = detectable(sd, n, one_sided=one)
        # The factors are rounded: 1.96 + .84, 1.64 + .84.
        assert power(found, sd / math.sqrt(n), one_sided=one) == pytest.approx(0.8, abs=0.002)


def test_passages_make_a_larger_difference_detectable_by_their_design_effect() -> None:
    assert detectable(0.4, 1000, size=5, icc=0.3) == pytest.approx(detectable(0.4, 1000) * math.sqrt(2.2))
    assert detectable(0.4, 1000, size=5, icc=0.0) == detectable(0.4, 1000)
