"""The statistics of scores: intervals, paired tests, detectable differences.

All scores are in [0,1] and aligned by document. Where documents share a passage (`groups`), the passages are
what is independent. SciPy is imported where it is needed: it takes a second.

Sources: Miller 2024, Adding Error Bars to Evals (arXiv 2411.00640) for clustered standard errors, pairing and
power; McNemar 1947; Holm 1979; Phipson and Smyth 2010 for the p of drawn permutations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Cells = npt.NDArray[np.intp]

RESAMPLES = 9999
SEED = 20260922
ALPHA = 0.05
POWER_TWO_SIDED, POWER_ONE_SIDED = 1.96 + 0.84, 1.64 + 0.84
EXACT_FLIPS = 13
"""Clusters up to which all sign flips are counted: 2^13 are fewer than RESAMPLES."""


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
    if not any(groups):
        return np.arange(len(groups), dtype=np.intp)
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
    stderr = _difference_stderr(differences, numbers, n_clusters)
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


def mcnemar_less(gained: int, lost: int) -> float:
    """Exact one-sided McNemar p, that as much was gained as lost, or more: small where more was lost."""
    if gained + lost == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, alternative="less").pvalue)


def sign_flip(sums: Floats) -> float:
    """Two-sided p of a mean of 0, by flipping signs: all 2^n flips where they are few, else 9,999 seeded ones."""
    totals, seen, exact = _flips(sums)
    return _share(int((np.abs(totals) >= abs(seen)).sum()), len(totals), exact)


def sign_flip_less(sums: Floats) -> float:
    """One-sided p of a mean of 0 or more, by flipping signs as `sign_flip` does: small where the mean is below 0."""
    totals, seen, exact = _flips(sums)
    return _share(int((totals <= seen).sum()), len(totals), exact)


def _share(far: int, n: int, exact: bool) -> float:
    # What was seen is one of the flips: drawn ones count it too, or a p of 0 could come out.
    return far / n if exact else (far + 1) / (n + 1)


def _flips(sums: Floats) -> tuple[Floats, float, bool]:
    """Totals under flipped signs, shape (flips,); the total that was seen; whether all flips are there.

    scipy.stats.permutation_test says the same, 20 times slower: a gate is simulated thousands of times.
    """
    # A cluster without a difference has no sign to flip.
    moved = sums[sums != 0]
    n = len(moved)
    if n <= EXACT_FLIPS:
        signs = 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1) - 1
        totals = signs @ moved
    else:
        sizes, counts = np.unique(np.abs(moved).round(12), return_counts=True)
        draw, totals = np.random.default_rng(SEED), np.empty(RESAMPLES)
        few = 8 * len(sizes) < n
        rows = max(1, 4_000_000 // (len(sizes) if few else n))
        for start in range(0, RESAMPLES, rows):
            part = totals[start : start + rows]
            if few:
                # Clusters that differ by as much are one draw: how many of them fall on the plus side.
                part[:] = (2 * draw.binomial(counts, 0.5, size=(len(part), len(sizes))) - counts) @ sizes
            else:
                bits = np.frombuffer(draw.bytes(len(part) * -(-n // 8)), dtype=np.uint8).reshape(len(part), -1)
                # Σ ± x = 2 Σ⁺ x - Σ x: bits serve as they are.
                part[:] = 2 * (np.unpackbits(bits, axis=1, count=n).astype(np.float64) @ moved) - moved.sum()
    # Rounded, so that totals which are equal on paper are equal: 0.1 + 0.2 isn't 0.3.
    return totals.round(9), float(moved.sum().round(9)), n <= EXACT_FLIPS


@dataclass(frozen=True, slots=True)
class OneSided:
    """Whether a candidate's scores fell: the mean difference (candidate - base), more is better.

    p: one-sided, that the difference is 0 or more; small where the candidate fell. lower: one-sided 95 % bound below
    the difference. mde: the fall that the test finds 80 % of the time, None where no document differs. stderr: None
    where there is a single cluster; lower is then -1.
    """

    delta: float
    stderr: float | None
    n_clusters: int
    p: float
    lower: float
    mde: float | None

    def bound(self, alpha: float) -> float:
        """The one-sided lower bound of another level than 95 %."""
        if self.stderr is None:
            return -1.0
        return self.delta - _t_quantile(self.n_clusters, 2 * alpha) * self.stderr if self.stderr else self.delta


def one_sided(base: Floats, cand: Floats, groups: Sequence[str]) -> OneSided:
    """Tests whether a candidate fell below its base on the same documents.

    base, cand, groups: as in `paired`, more is better. The tests are those of `paired`, one-sided.
    """
    differences = cand - base
    delta = float(differences.mean())
    numbers = clusters(groups)
    n_clusters = int(numbers.max()) + 1
    if not differences.any():
        return OneSided(0.0, 0.0, n_clusters, 1.0, 0.0, None)
    stderr = _difference_stderr(differences, numbers, n_clusters)
    if n_clusters == len(differences) and _is_binary(base) and _is_binary(cand):
        p = mcnemar_less(int((differences > 0).sum()), int((differences < 0).sum()))
    else:
        p = sign_flip_less(np.bincount(numbers, weights=differences, minlength=n_clusters).astype(np.float64))
    if stderr is None:
        return OneSided(delta, None, n_clusters, p, -1.0, None)
    lower = delta - _t_quantile(n_clusters, 2 * ALPHA) * stderr
    return OneSided(delta, stderr, n_clusters, p, lower, POWER_ONE_SIDED * stderr)


def macro_one_sided(parts: Sequence[OneSided]) -> OneSided:
    """The mean over independent tasks, normal approximation; of a single task that task itself.

    n_clusters: the sum of the tasks'. Where a task's error is unknown, so is the mean's.
    """
    if len(parts) == 1:
        return parts[0]
    from scipy.stats import norm

    delta = float(np.mean([part.delta for part in parts]))
    n_clusters = sum(part.n_clusters for part in parts)
    if any(part.stderr is None for part in parts):
        return OneSided(delta, None, n_clusters, 1.0, -1.0, None)
    stderr = float(np.sqrt(sum((part.stderr or 0.0) ** 2 for part in parts)) / len(parts))
    if stderr == 0.0:
        return OneSided(0.0, 0.0, n_clusters, 1.0, 0.0, None)
    lower = delta - float(norm.ppf(1 - ALPHA)) * stderr
    return OneSided(delta, stderr, n_clusters, float(norm.cdf(delta / stderr)), lower, POWER_ONE_SIDED * stderr)


def detectable(sd: float, n: int, *, size: float = 1.0, icc: float = 0.0, one_sided: bool = False) -> float:
    """Before anything is asked: the difference that n documents would find 80 % of the time at .05.

    sd: of the differences of single documents (binary answers: the square root of the share that changes, less the
    squared difference). size: documents a passage; icc: the correlation of differences within one.
    Source: Miller 2024, section 5; the design effect 1 + (size - 1) icc of Kish 1965.
    """
    factor = POWER_ONE_SIDED if one_sided else POWER_TWO_SIDED
    return float(factor * sd * np.sqrt((1 + (size - 1) * icc) / n))


def power(effect: float, stderr: float, *, one_sided: bool = False) -> float:
    """How often a test at .05 finds a true difference, given its standard error; normal approximation."""
    from scipy.stats import norm

    if stderr <= 0:
        return 1.0 if effect else 0.0
    shift = abs(effect) / stderr
    if one_sided:
        return float(norm.sf(norm.ppf(1 - ALPHA) - shift))
    critical = norm.ppf(1 - ALPHA / 2)
    return float(norm.sf(critical - shift) + norm.cdf(-critical - shift))


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


def bootstrap(statistic: Callable[[Floats], Floats], groups: Sequence[str], cells: Cells | None = None) -> Resampled:
    """Bootstraps a statistic over documents, whole passages where they share them.

    statistic: from weights, shape (resamples, n_cells), to values, shape (resamples,); a weight is how many documents
    of a cell were drawn. cells: shape (n,), the cell of each document, from 0 without a gap; documents of one cell are
    the same to the statistic. None: each is a cell of its own. Sources: Efron and Tibshirani 1993, chapter 13; p by
    inverting the percentile interval, one resample added to each side.
    """
    numbers = clusters(groups)
    n, n_clusters = len(numbers), int(numbers.max()) + 1
    counts = np.ones(n) if cells is None else np.bincount(cells).astype(np.float64)
    value = float(statistic(counts[None])[0])
    if n_clusters < 2:
        return Resampled(value, None, None, 1.0, n_clusters)
    draw = np.random.default_rng(SEED)
    # Documents that stand alone are drawn by cell, which is the same and far less: cells are few where answers are.
    alone = n_clusters == n
    shares = counts / n if alone else np.full(n_clusters, 1 / n_clusters)
    content = None
    if cells is not None and not alone:
        content = np.zeros((n_clusters, len(counts)))
        np.add.at(content, (numbers, cells), 1.0)
    size = max(1, 4_000_000 // max(len(shares), len(counts)))
    found: list[Floats] = []
    for start in range(0, RESAMPLES, size):
        drawn = draw.multinomial(n_clusters, shares, size=min(size, RESAMPLES - start)).astype(np.float64)
        found.append(statistic(drawn if alone else drawn[:, numbers] if content is None else drawn @ content))
    values = np.concatenate(found)
    low, high = np.quantile(values, [ALPHA / 2, 1 - ALPHA / 2])
    tail = min((values <= 0).sum(), (values >= 0).sum()) + 1
    p = min(1.0, 2 * float(tail) / (len(values) + 1))
    return Resampled(value, float(values.std(ddof=1)), (float(low), float(high)), p, n_clusters)


def paired_statistic(
    base: Callable[[Floats], Floats],
    cand: Callable[[Floats], Floats],
    changed: Bools,
    groups: Sequence[str],
    cells: Cells | None = None,
) -> Paired:
    """Compares two runs in a statistic that all documents have together, by paired bootstrap.

    base, cand, cells: as in `bootstrap`; each draw of documents is the same for both. changed: shape (n,), the
    documents that the two answered differently. The guards of few documents are those of `paired`: p is never below
    what flipping the signs of the clusters that changed could give.
    """
    found = bootstrap(lambda weights: cand(weights) - base(weights), groups, cells)
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
        return delta, delta, delta, 1.0
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


def _difference_stderr(differences: Floats, numbers: npt.NDArray[np.intp], n_clusters: int) -> float | None:
    """The clustered standard error of a mean difference that isn't 0 everywhere."""
    delta = float(differences.mean())
    stderr = _clustered_stderr(differences - delta, numbers, n_clusters)
    if stderr is not None and stderr < 1e-12:
        # All differ alike, which few documents easily do: one more without a difference is imagined.
        return abs(delta) / (n_clusters + 1)
    return stderr


def _clustered_stderr(centred: Floats, numbers: npt.NDArray[np.intp], n_clusters: int) -> float | None:
    """sqrt(C/(C-1) · Σ_c (Σ_i d_i)²) / n, with d centred; the usual standard error where clusters are single."""
    if n_clusters < 2:
        return None
    sums = np.bincount(numbers, weights=centred, minlength=n_clusters)
    return float(np.sqrt(n_clusters / (n_clusters - 1) * np.square(sums).sum()) / len(centred))


def _t_quantile(n_clusters: int, alpha: float = ALPHA) -> float:
    """The two-sided quantile: of a one-sided test at a, ask for 2 a."""
    from scipy.stats import t

    return float(t.ppf(1 - alpha / 2, n_clusters - 1))
