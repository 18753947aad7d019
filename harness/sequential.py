"""A gate that stops early: documents are asked in a seeded order, and looked at several times on the way.

After each look two questions have a boundary of their own, whose errors over all looks add up to the policy's alpha:

    regression   some task, or the macro average, fell: Holm over them, with the boundaries of this look
    pass         the macro average did not fall by the margin

What is decided first stands; after the last look without a decision the verdict is inconclusive. The two are tested
apart from each other, as if the other had no boundary, which only makes their errors smaller.

Sources: Lan and DeMets 1983, alpha spending, with their Pocock-type function a ln(1 + (e - 1) t); Armitage, McPherson
and Rowe 1969 for the boundaries; Maurer and Bretz 2013 for Holm's procedure at each look.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from harness import stats
from harness.comparison import RunLike, pair
from harness.errors import UsageError
from harness.gate import (
    DEFAULT,
    AskedTask,
    Scored,
    TaskPairs,
    artefact_checks,
    asked_tasks,
    check_allowed,
    check_tasks,
    decide,
    golden_checks,
    notes_of,
    warnings,
    worst,
)
from harness.policy import Policy
from harness.records import MACRO, Check, GateResult, Look, RunSpec, Side
from harness.runs import RunDirectory, open_run

N_LOOKS = 20
FEWEST = 100
"""Documents before the first look: with fewer, a normal approximation says little."""

SEED = 20260922

_GRID = 2001
"""Points of the grid on which the paths that have not stopped are followed."""


# Boundaries.


def spent(share: float, alpha: float) -> float:
    """The error that may have been made once a share of all documents is asked: Lan and DeMets' Pocock type."""
    return alpha * math.log(1 + (math.e - 1) * min(1.0, share))


@lru_cache(maxsize=256)
def boundaries(shares: tuple[float, ...], alpha: float) -> tuple[float, ...]:
    """The z that a one-sided test has to reach at each look, so that the errors of all looks add up to alpha.

    shares: rising, in (0, 1], of the information at each look. Under the hypothesis z √share is a Brownian motion,
    which is followed from look to look on a grid of the paths that have not stopped.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    found: list[float] = []
    grid, weights, before = np.zeros(0), np.zeros(0), 0.0
    for share in shares:
        error, step = spent(share, alpha) - spent(before, alpha), math.sqrt(share - before)
        bound = brentq(_excess, -1.0, 12.0, args=(error, share, step, grid, weights), xtol=1e-9)
        found.append(float(bound))
        # The density of the paths below the boundary, by the trapezoidal rule.
        fresh = np.linspace(-9.0 * math.sqrt(share), bound * math.sqrt(share), _GRID)
        if len(grid):
            density = (weights @ norm.pdf((fresh[None] - grid[:, None]) / step)) / step
        else:
            density = norm.pdf(fresh / step) / step
        weights = density * (fresh[1] - fresh[0])
        weights[[0, -1]] /= 2
        grid, before = fresh, share
    return tuple(found)


def _excess(z: float, error: float, share: float, step: float, grid: stats.Floats, weights: stats.Floats) -> float:
    """How likely a path reaches z at this look and no boundary before, less the error that it may."""
    from scipy.stats import norm

    if not len(grid):
        return float(norm.sf(z)) - error
    return float(weights @ norm.sf((z * math.sqrt(share) - grid) / step)) - error


# The order of the documents.


def places(asked: AskedTask, seed: int = SEED, first: Collection[str] = ()) -> stats.Floats:
    """Where each document stands in the seeded order of its task, in (0, 1]; passages stay whole.

    The order hangs on seed, task and passage or item alone: it is the same in each alphabet and in each run.
    first: items that are asked before all others.
    """
    names = [group or item for group, item in zip(asked.groups, asked.items, strict=True)]
    ahead = {name for name, item in zip(names, asked.items, strict=True) if item in first}
    drawn = {
        name: (
            name not in ahead,
            hashlib.sha256(f"{seed}\0{asked.record.task}\0{name}".encode("utf-8", "surrogatepass")).digest(),
        )
        for name in dict.fromkeys(names)
    }
    rank = {name: number for number, name in enumerate(sorted(drawn, key=drawn.__getitem__), 1)}
    return np.asarray([rank[name] / len(rank) for name in names])


def prefix(asked: AskedTask, until: stats.Bools) -> AskedTask:
    """The documents that have been asked."""
    kept = [int(number) for number in np.flatnonzero(until)]
    return replace(
        asked,
        groups=[asked.groups[number] for number in kept],
        items=[asked.items[number] for number in kept],
        letters=[asked.letters[number] for number in kept] if asked.letters else (),
        metrics={name: Scored(each.base[kept], each.cand[kept]) for name, each in asked.metrics.items()},
    )


def shares_of(n_documents: int) -> tuple[float, ...]:
    """The looks, as shares of the documents: twenty, without those before the first hundred documents."""
    every = [number / N_LOOKS for number in range(1, N_LOOKS + 1)]
    return tuple(share for share in every if share == 1 or share * n_documents >= FEWEST)


# Looking.


@dataclass(frozen=True, eq=False, slots=True)
class Seen:
    """The tests of one orthography after a look: of each task, and of the macro average."""

    names: Sequence[str]
    tests: Sequence[stats.OneSided]
    effects: Sequence[float]
    macro: stats.OneSided
    n_pairs: int


def looked(tasks: Sequence[TaskPairs], policy: Policy) -> Seen:
    """Tests the scores that are there, of the tasks of one orthography."""
    scored = [task for task in tasks if len(task.base) and not policy.rule(task.name, task.suite).ignore]
    tests = [task.tested() for task in scored]
    effects = [policy.rule(task.name, task.suite).min_effect or 0.0 for task in scored]
    macro = stats.macro_one_sided(tests) if tests else stats.OneSided(0.0, None, 0, 1.0, -1.0, None)
    names = [task.name for task in scored]
    if len(tests) > 1:
        names, tests, effects = [*names, MACRO], [*tests, macro], [*effects, policy.min_effect]
    return Seen(names, tests, effects, macro, sum(len(task.base) for task in scored))


def look(
    tasks: Sequence[TaskPairs], shares: tuple[float, ...], number: int, policy: Policy, orthography: str = "latin"
) -> Look:
    """Holds the scores of one orthography against the boundaries of a look; number: of the look, from 0."""
    seen = looked(tasks, policy)
    fell, z_fallen, boundary = _fallen(seen, shares, number, policy)
    z_pass = _z(_p_margin(seen.macro, policy.margin))
    of_pass = boundaries(shares, policy.alpha)[number]
    verdict = "regression" if fell else "pass" if z_pass >= of_pass else "inconclusive"
    return Look(
        orthography=orthography,
        n_pairs=seen.n_pairs,
        share=shares[number],
        delta=seen.macro.delta,
        z_regression=z_fallen,
        boundary_regression=boundary,
        z_pass=z_pass,
        boundary_pass=of_pass,
        verdict=verdict,
        fell=fell,
    )


def _fallen(seen: Seen, shares: tuple[float, ...], number: int, policy: Policy) -> tuple[str, float, float]:
    """What fell, or an empty string; the largest z, and the boundary that it was held against.

    Holm: the largest z against the boundary of alpha / m, the next against that of alpha / (m - 1), …; one that
    reaches its boundary and fell by too little doesn't stop the gate, and the next is looked at.
    """
    order = sorted(range(len(seen.tests)), key=lambda index: seen.tests[index].p)
    z_first, boundary_first = 0.0, boundaries(shares, policy.alpha)[number]
    for step, index in enumerate(order):
        test = seen.tests[index]
        z, boundary = _z(test.p), boundaries(shares, policy.alpha / (len(order) - step))[number]
        if step == 0:
            z_first, boundary_first = z, boundary
        if z < boundary:
            break
        if test.delta < 0 and round(-test.delta, 12) >= seen.effects[index]:
            return seen.names[index], z, boundary
    return "", z_first, boundary_first


def _p_margin(macro: stats.OneSided, margin: float) -> float:
    """One-sided p that the macro average fell by the margin or more; small where it did not."""
    from scipy.stats import norm, t

    if macro.stderr is None:
        return 1.0
    if macro.stderr == 0.0:
        # No document differs: were the fall as large as the margin, each would, with at least that probability.
        return float((1 - margin) ** macro.n_clusters)
    statistic = (macro.delta + margin) / macro.stderr
    degrees = macro.n_clusters - 1
    return float(t.sf(statistic, degrees) if degrees < 1000 else norm.sf(statistic))


def _z(p: float) -> float:
    from scipy.stats import norm

    return float(norm.isf(min(max(p, 1e-300), 1 - 1e-16)))


@dataclass(eq=False)
class Watch:
    """Follows two runs from look to look until one decides: a regression in one alphabet, or a pass in each.

    tasks: the base's; seed: of the order. passed: alphabets that passed at some look, which stands.
    """

    tasks: Sequence[AskedTask]
    policy: Policy
    seed: int = SEED
    number: int = -1
    looks: list[Look] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)
    verdict: str = "inconclusive"

    def __post_init__(self) -> None:
        golden = {name: {each.item for each in self.policy.golden if each.task == name} for name in self._names()}
        self.places = [places(task, self.seed, golden[task.record.task]) for task in self.tasks]
        sizes = [
            sum(len(task.items) for task in self.tasks if task.record.orthography == orthography)
            for orthography in self._orthographies()
        ]
        if not sizes:
            raise UsageError("These runs have no task to gate on.")
        self.shares = shares_of(min(sizes))

    def _names(self) -> list[str]:
        return [task.record.task for task in self.tasks]

    def _orthographies(self) -> list[str]:
        return list(dict.fromkeys(task.record.orthography for task in self.tasks))

    @property
    def share(self) -> float:
        """How far the documents are asked at this look."""
        return self.shares[self.number] if self.number >= 0 else 0.0

    @property
    def is_over(self) -> bool:
        return self.verdict != "inconclusive" or self.number + 1 == len(self.shares)

    def fresh(self) -> list[stats.Bools]:
        """The documents of each task that the next look wants and none before it had."""
        return [(self.share < place) & (place <= self.shares[self.number + 1]) for place in self.places]

    def seen(self, tasks: Sequence[AskedTask]) -> list[AskedTask]:
        """Of tasks with both runs' scores the documents asked so far."""
        return [prefix(task, place <= self.share) for task, place in zip(tasks, self.places, strict=True)]

    def look(self, tasks: Sequence[AskedTask]) -> None:
        """Takes the next look. tasks: as the base's, with the candidate's scores where they are known."""
        self.number += 1
        seen = self.seen(tasks)
        found = [
            look(
                [task.pairs for task in seen if task.record.orthography == orthography],
                self.shares,
                self.number,
                self.policy,
                orthography,
            )
            for orthography in self._orthographies()
        ]
        self.looks += found
        self.passed |= {each.orthography for each in found if each.verdict == "pass"}
        if any(each.fell for each in found):
            self.verdict = "regression"
        elif self.passed.issuperset(self._orthographies()):
            self.verdict = "pass"


def replayed(base: RunLike, cand: RunLike, policy: Policy = DEFAULT, *, seed: int = SEED) -> GateResult:
    """What a sequential gate would have decided on two finished runs.

    Raises what `gate` does.
    """
    base = base if isinstance(base, RunDirectory) else open_run(base)
    cand = cand if isinstance(cand, RunDirectory) else open_run(cand)
    pairing = pair(base, cand)
    check_allowed(base, cand, pairing.asked_differently, policy)
    tasks = asked_tasks(pairing.tasks, base.samples_at)
    watch = Watch(tasks, policy, seed)
    while not watch.is_over:
        watch.look(tasks)
    return _result(watch, tasks, base, cand)


def asked_live(
    base: RunLike,
    spec: RunSpec,
    policy: Policy = DEFAULT,
    *,
    adapter: str | None = None,
    seed: int = SEED,
    out: Path = Path("runs"),
    mirror: Path | None = None,
    gpus: str = "1",
    progress: bool = True,
) -> tuple[GateResult, RunDirectory]:
    """Asks a candidate the base's documents until the verdict stands; leaves a run of what was asked.

    spec: of the candidate, as `candidate_spec` makes it. A gate that was killed goes on where it was.
    Raises what `gate` and `evaluate.run` do.
    """
    from harness.evaluate import run_in_parts

    base = base if isinstance(base, RunDirectory) else open_run(base)
    if base.run.source != "uzbench":
        raise UsageError(f"{base.path} was imported: what it was asked can't be asked again. Make a base: uzbench run")
    tasks = asked_tasks(pair(base, base).tasks, base.samples_at)
    watch = Watch(tasks, policy, seed)
    known: list[AskedTask] = []

    def more(found: RunDirectory | None) -> dict[str, list[int]] | None:
        nonlocal known
        if found is not None:
            pairing = pair(base, found, partial=True)
            check_allowed(base, None, pairing.asked_differently, policy)
            known = asked_tasks(pairing.tasks, base.samples_at)
            watch.look(known)
        if watch.is_over:
            return None
        return {
            task.record.lm_eval_task: [int(number) for number in np.flatnonzero(fresh)]
            for task, fresh in zip(tasks, watch.fresh(), strict=True)
        }

    check_allowed(base, None, False, policy)
    cand = run_in_parts(spec, more, adapter=adapter, out=out, mirror=mirror, gpus=gpus, progress=progress)
    return _result(watch, known, base, cand), cand


def candidate_spec(base: RunDirectory, model: str | None, **changes: object) -> RunSpec:
    """The base's spec for another model: the same tasks, shots, limit and settings.

    changes: other fields of the spec that are to differ; those that are None stay.
    """
    wanted = {name: value for name, value in changes.items() if value is not None}
    if model is not None and model != base.run.spec.model:
        wanted |= {"model": model, "revision": changes.get("revision")}
    return replace(base.run.spec, adapter=None, prompts="default", **wanted)  # type: ignore[arg-type]


def _result(watch: Watch, tasks: Sequence[AskedTask], base: RunDirectory, cand: RunDirectory) -> GateResult:
    """The checks at the last look: the boundaries decide, not the levels of a gate that looks once."""
    policy, seen = watch.policy, watch.seen(tasks)
    unknown = check_tasks(seen, policy)
    last = {each.orthography: each for each in watch.looks[-len(watch._orthographies()) :]}
    _, nominal = decide([task.pairs for task in seen], policy)
    checks = [
        _by_boundary(check, last[check.orthography], watch) if check.kind in ("suite", "task") else check
        for check in nominal
    ]
    checks += [*artefact_checks(seen, policy), *golden_checks(seen, policy)]
    n_seen, n_all = sum(len(task.items) for task in seen), sum(len(task.items) for task in watch.tasks)
    return GateResult(
        base=Side.of(base.run),
        cand=Side.of(cand.run),
        verdict=worst(checks),
        checks=tuple(checks),
        policy=policy.to_dict(),
        looks=tuple(watch.looks),
        share_asked=n_seen / n_all if n_all else None,
        notes=(
            f"Sequential: stopped after look {watch.number + 1} of {len(watch.shares)}, with {n_seen} of {n_all} "
            "documents.",
            *notes_of(base, cand),
            *unknown,
            *warnings(seen, checks, policy),
        ),
    )


def _by_boundary(check: Check, last: Look, watch: Watch) -> Check:
    """A check of a gate that looked once, as the boundaries see it."""
    if check.kind == "task":
        # A task by itself is tested for a fall alone; what its own p says is nominal.
        fell = last.fell == check.name
        message = f"fell by {-(check.delta or 0.0):.3f}" if fell else "no fall that reaches the boundary"
        return replace(check, verdict="regression" if fell else "pass", message=message)
    verdict = "inconclusive"
    if last.fell == MACRO:
        verdict = "regression"
    elif check.orthography in watch.passed:
        verdict = "pass"
    message = (
        f"z of the clearest fall {last.z_regression:.2f}, boundary {last.boundary_regression:.2f}; z against a fall by "
        f"the margin {last.z_pass:.2f}, boundary {last.boundary_pass:.2f}"
    )
    return replace(check, verdict=verdict, message=message)
