"""How often the gate is wrong: runs with a known difference, drawn many times, each put before `harness.gate.decide`.

A second table is of the sequential gate (`harness.sequential.look`), and says how many documents it asked.

    python -m harness.gate_simulation
    python -m harness.gate_simulation --runs 200 --seed 7

In an A/A case both runs are draws of one model, and every regression is a false alarm; any fall counts there
(min_effect 0). Elsewhere the policy is the default. Churn is the share of documents whose answer changes; in passages,
the differences of two documents are correlated by the intraclass correlation (ICC).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.gate import DEFAULT, TaskPairs, decide
from harness.policy import Policy
from harness.sequential import look, shares_of

CHURN = 0.15
ACCURACY = 0.6
ANY_FALL = replace(DEFAULT, min_effect=0.0)
WIDE = replace(ANY_FALL, margin=0.04)


@dataclass(frozen=True, slots=True)
class Shape:
    """A task that is drawn. size: documents a passage. graded: scores in degrees, not right or wrong."""

    n: int
    size: int = 1
    icc: float = 0.3
    graded: bool = False


SUITE = (
    Shape(160),
    Shape(150),
    Shape(150, size=3),
    Shape(150),
    Shape(100),
    Shape(50, graded=True),
    Shape(50, graded=True),
)
"""The sizes of uz_core."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is drawn, and what is claimed of the share that the gate calls a regression.

    fall: the candidate's true loss, a fraction; None where the candidate is the base's own run again.
    """

    name: str
    tasks: tuple[Shape, ...]
    at_least: float
    at_most: float
    fall: float | None = 0.0
    policy: Policy = DEFAULT


CASES = (
    Case("A/A", (Shape(2000),), 0.035, 0.06, policy=ANY_FALL),
    Case("A/A, passages of 5", (Shape(2000, size=5),), 0.035, 0.06, policy=ANY_FALL),
    Case("A/A, 7 tasks", (Shape(2000),) * 7, 0.0, 0.06, policy=ANY_FALL),
    Case("A/A, the sizes of uz_core", SUITE, 0.0, 0.06, policy=ANY_FALL),
    Case("the same run again", SUITE, 0.0, 0.0, fall=None),
    Case("3 points worse", (Shape(2000),), 0.8, 1.0, fall=0.03),
    Case("3 points worse, passages of 5", (Shape(2500, size=5),), 0.8, 1.0, fall=0.03),
)


@dataclass(frozen=True, slots=True)
class SequentialCase:
    """What is drawn for the sequential gate, and what is claimed of a verdict's share and of the documents asked.

    wrong: the verdict that would be an error, None where either is fair. asked: the largest mean share; None: reported.
    """

    name: str
    task: Shape
    fall: float
    wrong: str | None
    at_most: float
    asked: float | None = None
    policy: Policy = WIDE


SEQUENTIAL_CASES = (
    SequentialCase("equal", Shape(2000), 0.0, "regression", 0.06, 0.40),
    SequentialCase("worse by the margin", Shape(2000), 0.04, "pass", 0.06),
    SequentialCase("6 points worse", Shape(2000), 0.06, "pass", 0.06, 0.30),
    SequentialCase("equal, passages of 5", Shape(2500, size=5), 0.0, "regression", 0.06),
    SequentialCase("worse by the margin, passages of 5", Shape(2500, size=5), 0.04, "pass", 0.06),
    SequentialCase("6 points worse, passages of 5", Shape(2500, size=5), 0.06, "pass", 0.06),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the gate said of one case, as shares of the runs drawn. asked: mean share of the documents."""

    case: Case | SequentialCase
    shares: dict[str, float]
    seconds: float
    asked: float = 1.0

    @property
    def holds(self) -> bool:
        if isinstance(self.case, Case):
            return self.case.at_least <= self.shares["regression"] <= self.case.at_most
        wrong = self.shares[self.case.wrong] if self.case.wrong else 0.0
        return wrong <= self.case.at_most and (self.case.asked is None or self.asked <= self.case.asked)


def simulate(case: Case, runs: int, seed: int) -> Outcome:
    """Draws a case many times and counts the gate's verdicts."""
    draw, start = np.random.default_rng(seed), time.perf_counter()
    groups = [_groups(shape) for shape in case.tasks]
    counts: Counter[str] = Counter()
    for _ in range(runs):
        tasks = [
            TaskPairs(f"task {number}", "latin", "acc", *_scores(shape, case.fall, draw), groups[number])
            for number, shape in enumerate(case.tasks)
        ]
        counts[decide(tasks, case.policy)[0]] += 1
    shares = {verdict: counts[verdict] / runs for verdict in ("regression", "pass", "inconclusive")}
    return Outcome(case, shares, time.perf_counter() - start)


def simulate_sequential(case: SequentialCase, runs: int, seed: int) -> Outcome:
    """Draws a case many times and lets the sequential gate look until it decides."""
    draw, start = np.random.default_rng(seed), time.perf_counter()
    shape, groups, shares = case.task, _groups(case.task), shares_of(case.task.n)
    counts: Counter[str] = Counter()
    asked = 0.0
    for _ in range(runs):
        base, cand = _scores(shape, case.fall, draw)
        verdict = "inconclusive"
        for number, share in enumerate(shares):
            n = round(share * shape.n / shape.size) * shape.size
            part = TaskPairs("task", "latin", "acc", base[:n], cand[:n], groups[:n])
            verdict = look([part], shares, number, case.policy).verdict
            if verdict != "inconclusive":
                break
        counts[verdict] += 1
        asked += share / runs
    found = {verdict: counts[verdict] / runs for verdict in ("regression", "pass", "inconclusive")}
    return Outcome(case, found, time.perf_counter() - start, asked)


def _groups(shape: Shape) -> list[str]:
    return [f"passage {index // shape.size}" if shape.size > 1 else "" for index in range(shape.n)]


def _scores(shape: Shape, fall: float | None, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The scores of a base and a candidate, shape (n,)."""
    if shape.graded:
        level = draw.beta(2, 6, shape.n)
        base, cand = (np.clip(level + draw.normal(0, 0.08, shape.n), 0, 1) for _ in range(2))
        return base, base if fall is None else np.clip(cand - fall, 0, 1)
    right = (draw.random(shape.n) < ACCURACY).astype(np.float64)
    if fall is None:
        return right, right
    differences = _differences(shape, fall, draw)
    # Where the answer changes, which run is right follows from the difference.
    base = np.where(differences == 0, right, (differences < 0).astype(np.float64))
    return base, base + differences


def _differences(shape: Shape, fall: float, draw: np.random.Generator) -> np.ndarray:
    """Candidate - base in {-1, 0, 1}, mean -fall, correlated by icc within a passage."""

    def drawn(n: int) -> np.ndarray:
        chance = draw.random(n)
        lost = (CHURN + fall) / 2
        return np.where(chance < lost, -1.0, np.where(chance < CHURN, 1.0, 0.0))

    if shape.size == 1:
        return drawn(shape.n)
    passages = np.arange(shape.n) // shape.size
    # A document takes its passage's draw or its own: two take the same one with probability icc.
    shared = draw.random(shape.n) < np.sqrt(shape.icc)
    return np.where(shared, drawn(int(passages[-1]) + 1)[passages], drawn(shape.n))


def rendered_sequential(outcomes: Sequence[Outcome]) -> str:
    """The outcomes of the sequential gate as a Markdown table; shares are fractions."""
    lines = [
        "| sequential case | documents | regression | pass | inconclusive | asked | claimed | holds | s |",
        "| --- | --: | --: | --: | --: | --: | --- | --- | --: |",
    ]
    for outcome in outcomes:
        case = outcome.case
        assert isinstance(case, SequentialCase)
        shares = " | ".join(f"{outcome.shares[verdict]:.3f}" for verdict in ("regression", "pass", "inconclusive"))
        claims = [f"{case.wrong} ≤ {case.at_most:.2f}"] if case.wrong else []
        claims += [f"asked ≤ {case.asked:.2f}"] if case.asked is not None else []
        holds = "yes" if outcome.holds else "no"
        lines.append(
            f"| {case.name} | {case.task.n:,} | {shares} | {outcome.asked:.3f} | {', '.join(claims)} | {holds} | "
            f"{outcome.seconds:.0f} |"
        )
    return "\n".join(lines)


def rendered(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a Markdown table; shares are fractions."""
    lines = [
        "| case | tasks | documents | regression | pass | inconclusive | claimed of regression | holds | s |",
        "| --- | --: | --: | --: | --: | --: | --- | --- | --: |",
    ]
    for outcome in outcomes:
        case = outcome.case
        assert isinstance(case, Case)
        shares = " | ".join(f"{outcome.shares[verdict]:.3f}" for verdict in ("regression", "pass", "inconclusive"))
        claim = f"{case.at_least:.3f} to {case.at_most:.3f}"
        n = sum(shape.n for shape in case.tasks)
        holds = "yes" if outcome.holds else "no"
        lines.append(
            f"| {case.name} | {len(case.tasks)} | {n:,} | {shares} | {claim} | {holds} | {outcome.seconds:.0f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Draws every case and prints a table; returns 1 where a claim doesn't hold."""
    parser = argparse.ArgumentParser(prog="python -m harness.gate_simulation", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000, help="draws of each case (2000)")
    parser.add_argument("--seed", type=int, default=20260922, help="of the draws (20260922)")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error(f"--runs {options.runs}: expected 1 or more")
    outcomes = [simulate(case, options.runs, options.seed + number) for number, case in enumerate(CASES)]
    print(rendered(outcomes), flush=True)
    looked = [
        simulate_sequential(case, options.runs, options.seed + 100 + number)
        for number, case in enumerate(SEQUENTIAL_CASES)
    ]
    print(f"\n{rendered_sequential(looked)}")
    return 0 if all(outcome.holds for outcome in [*outcomes, *looked]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
