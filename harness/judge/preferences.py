"""From verdicts on pairs to win rates: with ties, at equal lengths, and over many models.

Length control: Dubois, Galambosi, Liang and Hashimoto 2024, "Length-Controlled AlpacaEval" (arXiv 2404.04475): a
logistic regression of the preference on the difference in length; what is left at no difference is the win rate. Over
many models: Bradley and Terry 1952, fitted as Hunter 2004 does, with the questions drawn anew for the intervals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness import stats

FEWEST_TO_CONTROL = 20
"""Pairs below which a regression on length says nothing."""

Floats = npt.NDArray[np.float64]


def length_controlled(
    preferences: Floats, lengths: Floats, groups: Sequence[str]
) -> tuple[float, tuple[float, float]] | str:
    """The win rate at equal lengths with its 95 % interval; or why it can't be told.

    preferences: of the candidate, 0, ½ or 1, shape (n,). lengths: characters of its answers less those of the base's,
    shape (n,). groups: the passage of each pair.
    """
    n = len(preferences)
    if n < FEWEST_TO_CONTROL:
        return f"fewer than {FEWEST_TO_CONTROL} pairs"
    if len(set(preferences)) < 2:
        return "every pair ended the same"
    spread = float(lengths.std())
    if not spread:
        return "all answers are of one length"
    import warnings

    import statsmodels.api as sm
    from statsmodels.tools.sm_exceptions import PerfectSeparationError, PerfectSeparationWarning

    # Tanh: an answer ten times as long is hardly more favoured than one twice as long.
    x = np.column_stack([np.ones(n), np.tanh(lengths / spread)])
    clusters = stats.clusters(groups)
    kind = {"cov_type": "cluster", "cov_kwds": {"groups": clusters}} if clusters.max() + 1 < n else {"cov_type": "HC1"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", PerfectSeparationWarning)
        warnings.simplefilter("error", RuntimeWarning)
        try:
            found = sm.GLM(preferences, x, family=sm.families.Binomial()).fit(**kind)
        except (PerfectSeparationError, PerfectSeparationWarning, RuntimeWarning, np.linalg.LinAlgError):
            return "length alone decides every pair"
    at, error = float(found.params[0]), float(found.bse[0])
    if not np.isfinite(error) or abs(found.params).max() > 15:
        return "length alone decides every pair"
    low, mid, high = (float(1 / (1 + np.exp(-value))) for value in (at - 1.96 * error, at, at + 1.96 * error))
    return mid, (low, high)


def bradley_terry(wins: Floats) -> Floats:
    """Log-strengths of models, shape (m,), mean 0, from wins[i, j]: how often i beat j, a tie half for both.

    Half a win is added on both sides of each pair that met: a model that always wins has a finite strength.
    """
    met = (wins + wins.T) > 0
    played = wins + met / 2
    games = played + played.T
    won = played.sum(axis=1)
    strength = np.ones(len(wins))
    for _ in range(10_000):
        pairs = games / (strength[:, None] + strength[None, :])
        renewed = won / pairs.sum(axis=1)
        renewed /= np.exp(np.log(renewed).mean())
        done = np.abs(np.log(renewed) - np.log(strength)).max() < 1e-10
        strength = renewed
        if done:
            break
    return np.asarray(np.log(strength))


def field_win_rates(log_strengths: Floats) -> Floats:
    """Of each model, its expected win rate against the others, shape (m,)."""
    against = 1 / (1 + np.exp(log_strengths[None, :] - log_strengths[:, None]))
    np.fill_diagonal(against, 0.0)
    return np.asarray(against.sum(axis=1) / (len(log_strengths) - 1))


def bootstrap_win_rates(
    games: Sequence[tuple[int, int, float, str]], n_models: int, *, resamples: int = 1000, seed: int = stats.SEED
) -> Floats:
    """Win rates of resampled questions, shape (resamples, m).

    games: (i, j, what i got of 1, question). All pairs of one question are drawn together: they share it.
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(question for *_, question in games))}
    table = np.zeros((len(names), n_models, n_models))
    for one, two, got, question in games:
        table[names[question], one, two] += got
        table[names[question], two, one] += 1 - got
    random = np.random.default_rng(seed)
    found = np.empty((resamples, n_models))
    for number in range(resamples):
        weights = np.bincount(random.integers(0, len(names), len(names)), minlength=len(names))
        found[number] = field_win_rates(bradley_terry(np.tensordot(weights.astype(float), table, axes=1)))
    return found
