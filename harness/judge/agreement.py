"""How far a judge can be believed: its agreement with people, and what its errors do to a rate.

A judge that accepts a share q1 of what people accept (sensitivity) and refuses q0 of what they refuse (specificity)
passes p = θ q1 + (1 - θ)(1 - q0) of answers of which θ are good; Rogan and Gladen 1978 turn that round. The interval
carries three uncertainties, of the test set and of both calibration samples: Lee, Zeng, Zou, Lee and Kang 2025, "How
to Correctly Report LLM-as-a-Judge Evaluations" (arXiv 2511.21140).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.judge.records import AgreementSlice, Share

Z = 1.959964


def share(n_yes: int, n: int) -> Share:
    """A share with its Wilson interval."""
    if not n:
        return Share(0, 0, None, None)
    from scipy.stats import binomtest

    interval = binomtest(n_yes, n).proportion_ci(method="wilson")
    return Share(n, n_yes, n_yes / n, (float(interval.low), float(interval.high)))


def kappa(
    people: Sequence[int], judge: Sequence[int], *, weights: str | None = None
) -> tuple[float, tuple[float, float]] | None:
    """Cohen's κ with its 95 % interval; weights: None, or "quadratic" for grades.

    None where it isn't defined: below two labels, or where one side says the same of all.
    """
    if len(people) < 2 or len(set(people)) < 2 or len(set(judge)) < 2:
        return None
    from statsmodels.stats.inter_rater import cohens_kappa

    grades = sorted({*people, *judge})
    table = np.zeros((len(grades), len(grades)))
    for one, two in zip(people, judge, strict=True):
        table[grades.index(one), grades.index(two)] += 1
    # Weighted by how far the grades are apart, also where one between them was never given.
    wt = np.subtract.outer(grades, grades).astype(float) ** 2 if weights == "quadratic" else None
    found = cohens_kappa(table, weights=wt)
    low, high = (float(np.clip(bound, -1, 1)) for bound in (found.kappa_low, found.kappa_upp))
    return float(found.kappa), (low, high)


def agreement_slice(name: str, people: Sequence[int], judge: Sequence[int]) -> AgreementSlice:
    """Agreement on one part of the labels."""
    found = kappa(people, judge)
    agreed = sum(one == two for one, two in zip(people, judge, strict=True))
    return AgreementSlice(
        name, len(people), agreed / len(people), found[0] if found else None, found[1] if found else None
    )


def corrected_rate(
    judged: float, n: float, sensitivity: Share, specificity: Share
) -> tuple[float, tuple[float, float]] | str:
    """The share of good answers behind the share that a judge passed, with a 95 % interval; or why it can't be told.

    judged: the share passed. n: answers judged; where they share passages, as many independent ones as they are worth.
    """
    known = _believed(sensitivity, specificity)
    if isinstance(known, str):
        return known
    (q1, v1), (q0, v0) = known
    slope = q1 + q0 - 1
    raw = (judged + _value(specificity) - 1) / (_value(sensitivity) + _value(specificity) - 1)
    n_more = n + Z**2
    p = (n * judged + Z**2 / 2) / n_more
    theta = (p + q0 - 1) / slope
    shift = 2 * Z**2 * (theta * v1 - (1 - theta) * v0)
    spread = Z * math.sqrt(p * (1 - p) / n_more + (1 - theta) ** 2 * v0 + theta**2 * v1) / slope
    low, high = (float(np.clip(theta + shift + sign * spread, 0, 1)) for sign in (-1, 1))
    return float(np.clip(raw, 0, 1)), (low, high)


def corrected_difference(
    delta: float, stderr: float, sensitivity: Share, specificity: Share
) -> tuple[float, tuple[float, float]] | str:
    """The difference between two models' shares of good answers behind a judged one; or why it can't be told.

    delta, stderr: of the judged shares, paired. A judge's errors pull two models together: the true difference is
    larger than the judged by 1 / (sensitivity + specificity - 1), which is itself known with an error.
    """
    known = _believed(sensitivity, specificity)
    if isinstance(known, str):
        return known
    (q1, v1), (q0, v0) = known
    slope = q1 + q0 - 1
    found = delta / slope
    spread = Z * math.sqrt(stderr**2 + found**2 * (v1 + v0)) / slope
    return float(np.clip(found, -1, 1)), (float(max(-1, found - spread)), float(min(1, found + spread)))


def _believed(sensitivity: Share, specificity: Share) -> tuple[tuple[float, float], tuple[float, float]] | str:
    """Sensitivity and specificity, each with its variance; or why a judge of such can't be corrected."""
    if not sensitivity.n or not specificity.n:
        return "the labels have no answer that people " + ("accept" if not sensitivity.n else "refuse")
    (q1, v1), (q0, v0) = _adjusted(sensitivity), _adjusted(specificity)
    if q1 + q0 - 1 - Z * math.sqrt(v1 + v0) <= 0:
        return "the judge doesn't surely tell right from wrong better than chance"
    return (q1, v1), (q0, v0)


def _adjusted(found: Share) -> tuple[float, float]:
    """A share drawn a little to the middle, one yes and one no added, and its variance."""
    value = (found.n_yes + 1) / (found.n + 2)
    return value, value * (1 - value) / (found.n + 2)


def _value(found: Share) -> float:
    return found.n_yes / found.n
