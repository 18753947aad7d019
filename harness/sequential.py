"""A gate that stops early: documents are asked in a seeded order, and looked at several times on the way.

After each look two questions have a boundary of their own, whose errors over all looks add up to the policy's alpha:

    regression   some task, or the macro average, fell: Holm over them, with the boundaries of this look
    pass         the macro average did not fall by the margin, nor a task by a margin of its own

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

_FIRST = 1e-9
"""The place of what is asked at the first look whatever its share: above 0, below any share."""

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
    first: items that are asked before all others, at the first look, however many they are.
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
    place = {name: _FIRST if name in ahead else number / len(rank) for name, number in rank.items()}
    return np.asarray([place[name] for name in names])


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
    """The tests of one orthography after a look: of each task, and of the macro average.

    n_tests: of the whole family, those of tasks included that have no score yet. p_pass: one-sided, that the average
    fell by the margin, or a task by a margin of its own; 1 while a task has no score.
    """

    names: Sequence[str]
    tests: Sequence[stats.OneSided]
    effects: Sequence[float]
    macro: stats.OneSided
    n_pairs: int
    n_tests: int
    p_pass: float


def looked(tasks: Sequence[TaskPairs], policy: Policy) -> Seen:
    """Tests the scores that are there, of the tasks of one orthography."""
    counted = [task for task in tasks if not policy.rule(task.name, task.suite).ignore]
    scored = [task for task in counted if len(task.base)]
    tests = [task.tested() for task in scored]
    rules = [policy.rule(task.name, task.suite) for task in scored]
    effects = [rule.min_effect or 0.0 for rule in rules]
    p_pass = 1.0
    if scored and len(scored) == len(counted):
        own = [
            p_margin([task], [test], rule.margin)
            for task, test, rule in zip(scored, tests, rules, strict=True)
            if rule.margin is not None
        ]
        p_pass = max([p_margin(scored, tests, policy.margin), *own])
    macro = stats.macro_one_sided(tests) if tests else stats.OneSided(0.0, None, 0, 1.0, -1.0, None)
    names = [task.name for task in scored]
    if len(tests) > 1:
        names, tests, effects = [*names, MACRO], [*tests, macro], [*effects, policy.min_effect]
    n_tests = len(counted) + 1 if len(counted) > 1 else 1
    return Seen(names, tests, effects, macro, sum(len(task.base) for task in scored), n_tests, p_pass)


def look(
    tasks: Sequence[TaskPairs], shares: tuple[float, ...], number: int, policy: Policy, orthography: str = "latin"
) -> Look:
    """Holds the scores of one orthography against the boundaries of a look; number: of the look, from 0."""
    seen = looked(tasks, policy)
    fell, z_fallen, boundary = _fallen(seen, shares, number, policy)
    z_pass = _z(seen.p_pass)
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
        z, boundary = _z(test.p), boundaries(shares, policy.alpha / (seen.n_tests - step))[number]
        if step == 0:
            z_first, boundary_first = z, boundary
        if z < boundary:
            break
        if test.delta < 0 and round(-test.delta, 12) >= seen.effects[index]:
            return seen.names[index], z, boundary
    return "", z_first, boundary_first


def p_margin(tasks: Sequence[TaskPairs], tests: Sequence[stats.OneSided], margin: float) -> float:
    """One-sided p that the mean over tasks fell by the margin or more; small where it did not.

    tests: of each task. No task is taken to vary less than a fall by the margin would make it.
    """
    from scipy.stats import norm, t

    if any(test.stderr is None for test in tests):
        return 1.0
    sizes = [test.n_clusters for test in tests]
    if not any(test.stderr for test in tests):
        return _p_untouched(sizes, margin)
    variance = 0.0
    for task, test in zip(tasks, tests, strict=True):
        variance += max((test.stderr or 0.0) ** 2, task.least_variance(test, margin))
    statistic = (float(np.mean([test.delta for test in tests])) + margin) * len(tests) / math.sqrt(variance)
    degrees = sum(sizes) - 1
    return float(t.sf(statistic, degrees) if degrees < 1000 else norm.sf(statistic))


def _p_untouched(sizes: Sequence[int], margin: float) -> float:
    """How likely no document differs at most, were the mean over tasks of these sizes to fall by the margin.

    A task that falls by d has a difference in each document with at least that probability: Π (1 - d)^size is largest
    where the smallest tasks fall most, 1 - d in proportion to the size.
    """
    fall, ordered = margin * len(sizes), sorted(sizes)
    for number in range(1, len(ordered) + 1):
        if number <= fall:
            continue
        level = sum(ordered[:number]) / (number - fall)
        if number == len(ordered) or level <= ordered[number]:
            break
    return math.prod((size / level) ** size for size in ordered[:number])


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
        if not self._counted():
            raise UsageError("The policy ignores every task of these runs: nothing is left to decide on.")
        golden = {name: {each.item for each in self.policy.golden if each.task == name} for name in self._names()}
        self.places = [places(task, self.seed, golden[task.record.task]) for task in self.tasks]
        sizes = [
            sum(len(task.items) for task in self._counted() if task.record.orthography == orthography)
            for orthography in self._orthographies()
        ]
        self.shares = shares_of(min(sizes))

    def _names(self) -> list[str]:
        return [task.record.task for task in self.tasks]

    def _counted(self) -> list[AskedTask]:
        return [task for task in self.tasks if not self.policy.rule(task.record.task, task.suite).ignore]

    def _orthographies(self) -> list[str]:
        return list(dict.fromkeys(task.record.orthography for task in self._counted()))

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
    from harness.evaluate import PARTS, run_in_parts

    base = base if isinstance(base, RunDirectory) else open_run(base)
    if base.run.source != "uzbench":
        raise UsageError(f"{base.path} was imported: what it was asked can't be asked again. Make a base: uzbench run")
    if base.run.subset == PARTS:
        raise UsageError(f"{base.path} was itself asked by a sequential gate, in parts. Make a whole base: uzbench run")
    check_allowed(base, None, False, policy)
    tasks = asked_tasks(pair(base, base).tasks, base.samples_at)
    watch = Watch(tasks, policy, seed)
    # What the policy names and isn't there is said before anything is asked.
    check_tasks(tasks, policy)
    golden_checks(tasks, policy)
    known: list[AskedTask] = []

    def more(found: RunDirectory | None) -> dict[str, list[int]] | None:
        nonlocal known
        if found is not None:
            pairing = pair(base, found, partial=True)
            check_allowed(base, None, pairing.asked_differently, policy)
            asked = {task.record.key: task for task in asked_tasks(pairing.tasks, base.samples_at)}
            known = [asked.get(task.record.key) or _unasked(task) for task in tasks]
            watch.look(known)
        if watch.is_over:
            return None
        return {
            task.record.lm_eval_task: [int(number) for number in np.flatnonzero(fresh)]
            for task, fresh in zip(tasks, watch.fresh(), strict=True)
        }

    cand = run_in_parts(spec, more, adapter=adapter, out=out, mirror=mirror, gpus=gpus, progress=progress)
    return _result(watch, known, base, cand), cand


def _unasked(task: AskedTask) -> AskedTask:
    """A task of the base of which the candidate was asked nothing so far."""
    nothing = np.full(len(task.items), np.nan)
    return replace(task, metrics={name: Scored(each.base, nothing) for name, each in task.metrics.items()})


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
    pairs = {(task.record.task, task.record.orthography): task.pairs for task in seen}
    _, nominal = decide(list(pairs.values()), policy)
    checks = [
        _by_boundary(check, last[check.orthography], watch, pairs.get((check.name, check.orthography)))
        if check.kind in ("suite", "task")
        else check
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


def _by_boundary(check: Check, last: Look, watch: Watch, task: TaskPairs | None) -> Check:
    """A check of a gate that looked once, as the boundaries see it. task: None for the macro average."""
    if not check.n_pairs:
        return check
    if task is not None:
        # What a task's own p says is nominal.
        margin = watch.policy.rule(task.name, task.suite).margin
        verdict, message = "pass", "no fall that reaches the boundary"
        if last.fell == check.name:
            verdict, message = "regression", f"fell by {-(check.delta or 0.0):.3f}"
        elif margin is not None:
            z = _z(p_margin([task], [task.tested()], margin))
            if check.orthography not in watch.passed and z < last.boundary_pass:
                verdict = "inconclusive"
            message = f"z against a fall by {margin:.3f} {z:.2f}, boundary {last.boundary_pass:.2f}"
        return replace(check, verdict=verdict, message=message)
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
