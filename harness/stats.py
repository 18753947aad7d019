"""The statistics of scores: intervals, paired tests, detectable differences.

All scores are in [0,1] and aligned by document. Where documents share a passage (`groups`), the passages are
what is independent. SciPy is imported where it is needed: it takes a second.

Sources: Miller 2024, Adding Error Bars to Evals (arXiv 2411.00640) for clustered standard errors, pairing and
power; McNemar 1947; Holm 1979.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

RESAMPLES = 9999
SEED = 20260922
ALPHA = 0.05
POWER_TWO_SIDED = 1.96 + 0.84


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its standard error and 95 % interval; stderr and ci95 are None below 2 clusters."""

    mean: float
    stderr: float | None
    ci95: tuple[float, float] | None
    n_clusters: int


@dataclass(frozen=True, slots=True)
class Paired:
    """The mean difference of paired scores (candidate - base).

    test: "mcnemar", "sign-flip", or "none" where no document differs. mde: the difference that a two-sided
    test at .05 finds 80 % of the time, None where no document differs.
    """

    delta: float
    stderr: float | None
    ci95: tuple[float, float]
    p: float
    test: str
    n_clusters: int
    mde: float | None


def clusters(groups: Sequence[str]) -> npt.NDArray[np.intp]:
    """Cluster numbers, shape (n,): documents of one group share one, those without a group stand alone."""
    numbers: dict[str, int] = {}
    found = []
    for index, group in enumerate(groups):
        found.append(numbers.setdefault(f"g{group}" if group else f"i{index}", len(numbers)))
    return np.asarray(found, dtype=np.intp)


def estimate(values: Floats, groups: Sequence[str]) -> Estimate:
    """Mean of scores with a clustered-t interval; a Wilson interval where all are 0 or 1 and independent.

    values: shape (n,), n at least 1. groups: the passage of each, "" where it stands alone.
    """
    mean = float(values.mean())
    numbers = clusters(groups)
    n_clusters = int(numbers.max()) + 1
    stderr = _clustered_stderr(values - mean, numbers, n_clusters)
    if stderr is None:
        return Estimate(mean, None, None, n_clusters)
    if n_clusters == len(values) and _is_binary(values):
        from scipy.stats import binomtest

        low, high = binomtest(int(values.sum()), len(values)).proportion_ci(method="wilson")
        return Estimate(mean, stderr, (float(low), float(high)), n_clusters)
    half = _t_quantile(n_clusters) * stderr
    return Estimate(mean, stderr, (max(0.0, mean - half), min(1.0, mean + half)), n_clusters)


def paired(base: Floats, cand: Floats, groups: Sequence[str]) -> Paired:
    """Compares two runs on the same documents.

    base, cand: shape (n,), aligned; NaN not allowed; n at least 1. groups: as in `estimate`.
    Binary and independent: exact McNemar. Else: sign-flip permutation of the clusters' sums.
    """
    differences = cand - base
    delta = float(differences.mean())
    numbers = clusters(groups)
    n_clusters = int(numbers.max()) + 1
    if not differences.any():
        return Paired(0.0, 0.0, (0.0, 0.0), 1.0, "none", n_clusters, None)
    stderr = _clustered_stderr(differences - delta, numbers, n_clusters)
    if stderr is not None and stderr < 1e-12:
        # All differ alike, which few documents easily do: one more without a difference is imagined.
        stderr = abs(delta) / (n_clusters + 1)
    if n_clusters == len(differences) and _is_binary(base) and _is_binary(cand):
        p, test = mcnemar(int((differences > 0).sum()), int((differences < 0).sum())), "mcnemar"
    else:
        sums = np.bincount(numbers, weights=differences, minlength=n_clusters).astype(np.float64)
        p, test = sign_flip(sums), "sign-flip"
    if stderr is None:
        return Paired(delta, None, (-1.0, 1.0), p, test, n_clusters, None)
    half = _t_quantile(n_clusters) * stderr
    interval = (max(-1.0, delta - half), min(1.0, delta + half))
    return Paired(delta, stderr, interval, p, test, n_clusters, POWER_TWO_SIDED * stderr)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided McNemar p: the discordant pairs against a fair coin."""
    if gained + lost == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue)


def sign_flip(sums: Floats) -> float:
    """Two-sided p of a mean of 0, by flipping signs: all 2^n flips where they are few, else 9,999 seeded ones."""
    if len(sums) < 2:
        return 1.0  # Both flips of a single cluster are as far from 0.
    from scipy.stats import permutation_test

    result = permutation_test(
        (sums,),
        # Rounded, so that sums which are equal on paper are equal: 0.1 + 0.2 isn't 0.3.
        lambda values, axis: values.mean(axis=axis).round(12),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, 10_000_000 // len(sums)),
        rng=np.random.default_rng(SEED),
    )
    return float(result.pvalue)


@dataclass(frozen=True, slots=True)
class Resampled:
    """A statistic of all documents with its percentile interval; stderr and ci95 are None below 2 clusters.

    p: two-sided, that the statistic is 0.
    """

    value: float
    stderr: float | None
    ci95: tuple[float, float] | None
    p: float
    n_clusters: int


def bootstrap(statistic: Callable[[Floats], Floats], groups: Sequence[str]) -> Resampled:
    """Bootstraps a statistic over documents, whole passages where they share them.

    statistic: from weights, shape (resamples, n), to values, shape (resamples,); a weight is how often a document
    was drawn. Sources: Efron and Tibshirani 1993, chapter 13; p by inverting the percentile interval, one resample
    added to each side.
    """
    numbers = clusters(groups)
    n_clusters = int(numbers.max()) + 1
    value = float(statistic(np.ones((1, len(numbers))))[0])
    if n_clusters < 2:
        return Resampled(value, None, None, 1.0, n_clusters)
    draw = np.random.default_rng(SEED)
    size = max(1, 4_000_000 // len(numbers))
    found: list[Floats] = []
    for start in range(0, RESAMPLES, size):
        drawn = draw.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=min(size, RESAMPLES - start))
        found.append(statistic(drawn[:, numbers].astype(np.float64)))
    values = np.concatenate(found)
    low, high = np.quantile(values, [ALPHA / 2, 1 - ALPHA / 2])
    tail = min((values <= 0).sum(), (values >= 0).sum()) + 1
    p = min(1.0, 2 * float(tail) / (len(values) + 1))
    return Resampled(value, float(values.std(ddof=1)), (float(low), float(high)), p, n_clusters)


def paired_statistic(
    base: Callable[[Floats], Floats], cand: Callable[[Floats], Floats], changed: Bools, groups: Sequence[str]
) -> Paired:
    """Compares two runs in a statistic that all documents have together, by paired bootstrap.

    base, cand: as in `bootstrap`; each draw of documents is the same for both. changed: shape (n,), the documents
    that the two answered differently. The guards of few documents are those of `paired`: p is never below what
    flipping the signs of the clusters that changed could give.
    """
    found = bootstrap(lambda weights: cand(weights) - base(weights), groups)
    if not changed.any():
        return Paired(0.0, 0.0, (0.0, 0.0), 1.0, "none", found.n_clusters, None)
    n_changed = len(np.unique(clusters(groups)[changed]))
    p = max(found.p, 2.0 ** (1 - n_changed))
    if found.stderr is None or found.ci95 is None:
        return Paired(found.value, None, (-1.0, 1.0), p, "bootstrap", found.n_clusters, None)
    stderr, interval = found.stderr, found.ci95
    if stderr < 1e-12:
        stderr = abs(found.value) / (found.n_clusters + 1)
        half = _t_quantile(found.n_clusters) * stderr
        interval = max(-1.0, found.value - half), min(1.0, found.value + half)
    return Paired(found.value, stderr, interval, p, "bootstrap", found.n_clusters, POWER_TWO_SIDED * stderr)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given."""
    if not p_values:
        return []
    # statsmodels has it, and takes a second to import and a tenth at each call; ours is held
    # against its definition by the tests.
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(p) for p in adjusted]


def macro(deltas: Sequence[float], stderrs: Sequence[float | None]) -> tuple[float, float, float, float]:
    """The mean of independent tasks' differences: (delta, low, high, two-sided p), normal approximation.

    A task none of whose documents differ has a standard error of 0. Where a task's error is unknown (None: a
    single cluster), so is the mean's: (delta, -1, 1, 1).
    """
    from scipy.stats import norm

    delta = float(np.mean(deltas))
    if any(value is None for value in stderrs):
        return delta, -1.0, 1.0, 1.0
    stderr = float(np.sqrt(np.sum(np.square(np.asarray(stderrs, dtype=np.float64)))) / len(deltas))
    if stderr == 0.0:
        return 0.0, 0.0, 0.0, 1.0
    half = float(norm.ppf(1 - ALPHA / 2)) * stderr
    return delta, delta - half, delta + half, float(2 * norm.sf(abs(delta) / stderr))


def verdict(p: float, ci95: tuple[float, float], delta: float, margin: float, higher_is_better: bool = True) -> str:
    """better or worse where p < .05, same where the interval lies inside ± margin, else unclear."""
    if p < ALPHA:
        return "better" if (delta > 0) == higher_is_better else "worse"
    low, high = ci95
    return "same" if -margin < low and high < margin else "unclear"


def _is_binary(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _clustered_stderr(centred: Floats, numbers: npt.NDArray[np.intp], n_clusters: int) -> float | None:
    """sqrt(C/(C-1) · Σ_c (Σ_i d_i)²) / n, with d centred; the usual standard error where clusters are single."""
    if n_clusters < 2:
        return None
    sums = np.bincount(numbers, weights=centred, minlength=n_clusters)
    return float(np.sqrt(n_clusters / (n_clusters - 1) * np.square(sums).sum()) / len(centred))


def _t_quantile(n_clusters: int) -> float:
    from scipy.stats import t

    return float(t.ppf(1 - ALPHA / 2, n_clusters - 1))
