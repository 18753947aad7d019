"""Gating: two runs and a policy in, one verdict out: pass, regression or inconclusive.

In each orthography, over the primary metrics of the first prompts:

    regression      a task, or the macro average, fell: p, one-sided and adjusted by Holm, < alpha, and by min_effect
                    or more; an artefact rose over its limit; a golden item that the base answers fails
    pass            the lower bound of the macro average is above -margin
    inconclusive    else: the data can't tell

The verdict is the worst of all checks. What breaks a guard never passes, but is a regression only where the candidate
is worse than its base: a run held against itself can't regress. An artefact over its limit whose rise chance explains
(p ≥ alpha), or that the base has as much of, is inconclusive; so is a golden item that the base fails as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness import stats
from harness.comparison import PairedTask, RunLike, pair, provenance_notes
from harness.errors import UnknownNameError, UsageError
from harness.policy import Golden, Limit, Policy, TaskRule
from harness.records import MACRO, Check, GateResult, Sample, Side, TaskRecord
from harness.runs import RunDirectory, open_run
from harness.scoring import CHOICES
from tasks_uz import catalog
from tasks_uz.ask import OPTION_LETTERS

DEFAULT = Policy()

SEVERITY = ("pass", "inconclusive", "regression")

ARTEFACT_METRICS = {
    "wrong_language": ("uzbek", True),
    "wrong_alphabet": ("alphabet", True),
    "empty": ("empty", False),
    "repetition": ("repetition", False),
    "cut_off": ("cut_off", False),
    "copied": ("copied", False),
}
"""Artefacts that a task logs for each document: its metric, and whether the artefact is what that lacks of 1."""

EXCHANGES = 1999
"""Random exchanges of the two runs' answers that a rise of letter bias is held against."""


@dataclass(frozen=True, eq=False, slots=True)
class TaskPairs:
    """One task's primary metric in both runs.

    base, cand: scores in [0,1], shape (n,), aligned by document, n may be 0; NaN not allowed. groups: the passage of
    each, "" where it stands alone. n_unscored: documents beside these that lack a score in one of the runs.
    """

    name: str
    orthography: str
    metric: str
    base: stats.Floats
    cand: stats.Floats
    groups: Sequence[str]
    n_unscored: int = 0
    higher_is_better: bool = True
    suite: str = ""

    def tested(self) -> stats.OneSided:
        """The one-sided test of a fall, which is a rise where less is better."""
        if self.higher_is_better:
            return stats.one_sided(self.base, self.cand, self.groups)
        return stats.one_sided(self.cand, self.base, self.groups)

    def least_variance(self, test: stats.OneSided, margin: float) -> float:
        """The variance of the mean difference that a fall by a margin brings at least.

        Few differences say little of how much they vary, and such a fall changes that share of the documents: those
        without a difference are taken to vary as much as they would then. test: as `tested` gives it.
        """
        same = float((self.base == self.cand).mean())
        return same * margin * (1 - margin) / test.n_clusters


def gate(base: RunLike, cand: RunLike, policy: Policy = DEFAULT) -> GateResult:
    """Decides whether a candidate may take its base's place.

    Raises UsageError for what the policy doesn't allow or a golden item that isn't there, UnpairedError, RecordError.
    """
    base = base if isinstance(base, RunDirectory) else open_run(base)
    cand = cand if isinstance(cand, RunDirectory) else open_run(cand)
    pairing = pair(base, cand)
    check_allowed(base, cand, pairing.asked_differently, policy)
    asked = asked_tasks(pairing.tasks, base.samples_at)
    unknown = check_tasks(asked, policy)
    _, checks = decide([each.pairs for each in asked], policy)
    checks += (*artefact_checks(asked, policy), *golden_checks(asked, policy))
    return GateResult(
        base=Side.of(base.run),
        cand=Side.of(cand.run),
        verdict=worst(checks),
        checks=checks,
        policy=policy.to_dict(),
        notes=(*notes_of(base, cand), *unknown, *warnings(asked, checks, policy)),
    )


def worst(checks: Iterable[Check]) -> str:
    """The worst verdict of several checks."""
    return max((check.verdict for check in checks), key=SEVERITY.index)


def check_allowed(base: RunDirectory, cand: RunDirectory | None, asked_differently: bool, policy: Policy) -> None:
    """Refuses runs that the policy doesn't take.

    cand: None where it is still being asked. Raises UsageError.
    """
    limited = [str(run.path) for run in (base, cand) if run is not None and run.run.limited]
    if limited and not policy.allow_limited:
        raise UsageError(
            f"{' and '.join(limited)} asked a part of the documents. Run without --limit on whole tasks, or write "
            "allow_limited: true into the policy."
        )
    if asked_differently and not policy.allow_prompt_format:
        other = f", the candidate in {cand.run.spec.prompt_format}" if cand is not None else " and the candidate not"
        raise UsageError(
            f"The base was asked in the format {base.run.spec.prompt_format}{other}: part of a difference is the "
            "format. Run both with the same --prompt-format, or write allow_prompt_format: true into the policy."
        )


def notes_of(base: RunDirectory, cand: RunDirectory) -> list[str]:
    """What a reader should know of how two runs were made."""
    notes = provenance_notes(base, cand)
    one, two = base.run.spec.gen_kwargs, cand.run.spec.gen_kwargs
    if one != two:
        own = "the tasks' own"
        notes.append(f"Generated differently (--gen-kwargs): base {one or own}, candidate {two or own}.")
    return notes


# The statistics, on arrays alone.


def decide(tasks: Sequence[TaskPairs], policy: Policy = DEFAULT) -> tuple[str, tuple[Check, ...]]:
    """The verdict on scores, and its checks: of each orthography the macro average first, then every task.

    The tests of one orthography are one family for Holm: its tasks, and the average where there are several.
    Raises UsageError where no task is left to decide on.
    """
    rules = {(task.name, task.suite): policy.rule(task.name, task.suite) for task in tasks}
    counted = [task for task in tasks if not rules[task.name, task.suite].ignore]
    if not counted:
        raise UsageError("The policy ignores every task of these runs: nothing is left to decide on.")
    checks: list[Check] = []
    for orthography in dict.fromkeys(task.orthography for task in counted):
        family = [task for task in counted if task.orthography == orthography]
        checks += _family(orthography, family, [rules[task.name, task.suite] for task in family], policy)
    return worst(checks), tuple(checks)


def _family(orthography: str, tasks: Sequence[TaskPairs], rules: Sequence[TaskRule], policy: Policy) -> Iterator[Check]:
    scored = [task for task in tasks if len(task.base)]
    tests = [task.tested() for task in scored]
    family = [*tests, stats.macro_one_sided(tests)] if len(tests) > 1 else tests
    adjusted = stats.holm([test.p for test in family])
    nothing = "no document was scored in both runs"
    if family:
        yield _suite(orthography, scored, tests, family[-1], adjusted[-1], policy)
    else:
        yield Check("suite", MACRO, orthography, "inconclusive", nothing, limit=policy.margin)
    of_tests = iter(zip(tests, adjusted, strict=False))
    for task, rule in zip(tasks, rules, strict=True):
        if len(task.base):
            yield _task(task, rule, *next(of_tests), policy)
        else:
            message, n = f"{nothing}: it is in no average", task.n_unscored
            yield Check("task", task.name, orthography, "inconclusive", message, limit=rule.min_effect, n_unscored=n)
    for task in tasks:
        n = len(task.base) + task.n_unscored
        if len(task.base) and task.n_unscored > policy.max_unscored * n:
            share = task.n_unscored / n
            yield Check(
                "artefact",
                f"{task.name}: unscored in either run",
                orthography,
                "inconclusive",
                f"{task.n_unscored} of {n} documents lack a score: what the others say may not hold for all",
                cand=share,
                limit=policy.max_unscored,
                n_pairs=n,
                n_unscored=task.n_unscored,
            )


def _suite(
    orthography: str,
    tasks: Sequence[TaskPairs],
    tests: Sequence[stats.OneSided],
    found: stats.OneSided,
    p_adjusted: float,
    policy: Policy,
) -> Check:
    bound = _bound(found, policy)
    if _fell(found, p_adjusted, policy.min_effect, policy):
        verdict, message = "regression", _said_fall(found, p_adjusted, policy.min_effect)
    else:
        verdict, message = _held(found, tasks, tests, policy.margin, policy)
    # Of a metric where less is better, what it lacks of 1 counts.
    values = [
        [float(scores.mean()) if task.higher_is_better else 1 - float(scores.mean()) for task, scores in side]
        for side in ([(task, task.base) for task in tasks], [(task, task.cand) for task in tasks])
    ]
    return Check(
        kind="suite",
        name=MACRO,
        orthography=orthography,
        verdict=verdict,
        message=message,
        base=float(np.mean(values[0])),
        cand=float(np.mean(values[1])),
        delta=found.delta,
        bound=bound,
        limit=policy.margin,
        p=found.p,
        p_adjusted=p_adjusted,
        mde=found.mde,
        n_pairs=sum(len(task.base) for task in tasks),
        n_unscored=sum(task.n_unscored for task in tasks),
    )


def _task(task: TaskPairs, rule: TaskRule, found: stats.OneSided, p_adjusted: float, policy: Policy) -> Check:
    min_effect, bound = rule.min_effect or 0.0, _bound(found, policy)
    verdict, message, limit = (
        "pass",
        f"no fall of {min_effect:.3f} or more is shown (adjusted p {_p(p_adjusted)})",
        min_effect,
    )
    if _fell(found, p_adjusted, min_effect, policy):
        verdict, message = "regression", _said_fall(found, p_adjusted, min_effect)
    elif rule.margin is not None:
        limit = rule.margin
        verdict, message = _held(found, [task], [found], rule.margin, policy)
    return Check(
        kind="task",
        name=task.name,
        orthography=task.orthography,
        verdict=verdict,
        message=message,
        base=float(task.base.mean()),
        cand=float(task.cand.mean()),
        delta=found.delta,
        bound=bound,
        limit=limit,
        p=found.p,
        p_adjusted=p_adjusted,
        mde=found.mde,
        n_pairs=len(task.base),
        n_unscored=task.n_unscored,
    )


def _bound(found: stats.OneSided, policy: Policy) -> float:
    return found.lower if policy.alpha == stats.ALPHA else found.bound(policy.alpha)


def _held(
    found: stats.OneSided,
    tasks: Sequence[TaskPairs],
    tests: Sequence[stats.OneSided],
    margin: float,
    policy: Policy,
) -> tuple[str, str]:
    """Whether a fall by a margin is ruled out, and how that is said.

    found: of the mean over the tasks, tests: of each. The bound has to hold, too, with the least variance that a fall
    by the margin would bring. Runs that differ nowhere pass.
    """
    bound = cautious = _bound(found, policy)
    if found.stderr:
        least = sum(task.least_variance(test, margin) for task, test in zip(tasks, tests, strict=True))
        stderr = float(np.sqrt(least)) / len(tasks)
        cautious = min(bound, replace(found, stderr=stderr).bound(policy.alpha))
    if cautious > -margin:
        return "pass", f"a fall of {margin:.3f} or more is ruled out: it is above {bound:+.3f}"
    if bound > -margin:
        return "inconclusive", f"a fall of {margin:.3f} or more isn't ruled out: too few answers differ to tell"
    return (
        "inconclusive",
        f"a fall of {margin:.3f} or more isn't ruled out: all that is sure is {bound:+.3f} or better",
    )


def _fell(found: stats.OneSided, p_adjusted: float, min_effect: float, policy: Policy) -> bool:
    # Rounded: 0.3 - 0.2 isn't 0.1. A fall there must be, also where any counts.
    return p_adjusted < policy.alpha and found.delta < 0 and round(-found.delta, 12) >= min_effect


def _said_fall(found: stats.OneSided, p_adjusted: float, min_effect: float) -> str:
    return f"fell by {-found.delta:.3f}, where {min_effect:.3f} counts (adjusted p {_p(p_adjusted)})"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


# Runs, paired.


@dataclass(frozen=True, eq=False, slots=True)
class Scored:
    """One metric of one task in both runs, shape (n,), aligned by document; NaN where a document has no score."""

    base: stats.Floats
    cand: stats.Floats

    @property
    def both(self) -> stats.Bools:
        """The documents that have a score in both runs."""
        return ~(np.isnan(self.base) | np.isnan(self.cand))


@dataclass(frozen=True, eq=False, slots=True)
class AskedTask:
    """One task in one orthography, as both runs were asked it in its first prompt.

    groups, items: the passage and the id of each document. metrics: by name, as their first filters read them.
    letters: the right letter of each document; empty where answers aren't letters.
    """

    record: TaskRecord
    suite: str
    groups: Sequence[str]
    items: Sequence[str]
    metrics: dict[str, Scored]
    letters: Sequence[str] = ()

    @property
    def primary(self) -> Scored:
        nothing = np.full(len(self.items), np.nan)
        return self.metrics.get(self.record.primary, Scored(nothing, nothing))

    @property
    def pairs(self) -> TaskPairs:
        scored = self.primary
        both = scored.both
        return TaskPairs(
            name=self.record.task,
            orthography=self.record.orthography,
            metric=self.record.primary,
            base=scored.base[both],
            cand=scored.cand[both],
            groups=_among(self.groups, both),
            n_unscored=int((~both).sum()),
            higher_is_better=self.record.metrics.get(self.record.primary, True),
            suite=self.suite,
        )

    def passages(self, among: stats.Bools) -> list[str]:
        """The groups of some documents, told from those of other tasks."""
        return [f"{self.record.task}\0{group}" if group else "" for group in _among(self.groups, among)]


def asked_tasks(
    tasks: Iterable[PairedTask], samples_at: Callable[[Iterable[int]], Iterable[Sample]]
) -> list[AskedTask]:
    """What a gate looks at of two runs: the first prompt of each task and orthography.

    samples_at: of the base, by the places of its columns.
    """
    suites = {task.name: task.suite for task in catalog.base_tasks()}
    found = []
    for task in tasks:
        if not task.is_first:
            continue
        metrics: dict[str, Scored] = {}
        for (metric, name), mine in task.base.values.items():
            metrics.setdefault(metric, Scored(mine, task.of_cand(metric, name)))
        items = [item or doc for item, (doc, _) in zip(task.base.item_ids, task.base.keys, strict=True)]
        letters = _letters(samples_at(task.base.places)) if task.task.output_type == CHOICES else []
        found.append(AskedTask(task.task, suites.get(task.task.task, ""), task.base.groups, items, metrics, letters))
    return found


def _letters(samples: Iterable[Sample]) -> list[str]:
    """The right letters; none where some document has other choices than letters."""
    found = []
    for sample in samples:
        if len(sample.choices) < 2 or sample.choices != tuple(OPTION_LETTERS[: len(sample.choices)]):
            return []
        found.append(sample.target)
    return found


def _among(values: Sequence[str], wanted: stats.Bools) -> list[str]:
    return [value for value, each in zip(values, wanted, strict=True) if each]


# Guards.


def artefact_checks(asked: Sequence[AskedTask], policy: Policy = DEFAULT) -> list[Check]:
    """One check for each artefact and orthography that logs it; documents of all its tasks count the same."""
    counted = [each for each in asked if not policy.rule(each.record.task, each.suite).ignore]
    checks = []
    for orthography in dict.fromkeys(each.record.orthography for each in counted):
        family = [each for each in counted if each.record.orthography == orthography]
        for name, limit in policy.artefacts.items():
            if limit is None:
                continue
            found = _letter_bias(family) if name == "letter_bias" else _rate(name, family)
            if found is not None:
                checks.append(_artefact(name, orthography, found, limit, policy))
    return checks


@dataclass(frozen=True, slots=True)
class _Found:
    """An artefact in both runs.

    p: one-sided, that it didn't rise. n_unscored: documents that can't tell, n_lost of them in the candidate alone.
    """

    base: float
    cand: float
    p: float
    n_pairs: int
    n_unscored: int = 0
    n_lost: int = 0


def _rate(name: str, family: Sequence[AskedTask]) -> _Found | None:
    before, after, passages, n_unscored, n_lost = [], [], [], 0, 0
    for each in family:
        if name == "unscored":
            told = np.ones(len(each.items), dtype=bool)
            base, cand = (np.isnan(side).astype(np.float64) for side in (each.primary.base, each.primary.cand))
        else:
            metric, lacking = ARTEFACT_METRICS[name]
            if metric not in each.metrics:
                continue
            scored = each.metrics[metric]
            told = scored.both
            base, cand = (1 - side if lacking else side for side in (scored.base, scored.cand))
        before.append(base[told])
        after.append(cand[told])
        passages += each.passages(told)
        n_unscored += int((~told).sum())
        n_lost += int((~told & ~np.isnan(base)).sum())
    if not before:
        return None
    if not passages:
        return _Found(0.0, 0.0, 1.0, 0, n_unscored, n_lost)
    one, two = np.concatenate(before), np.concatenate(after)
    # More is better to the test.
    p = stats.one_sided(1 - one, 1 - two, passages).p
    return _Found(float(one.mean()), float(two.mean()), p, len(passages), n_unscored, n_lost)


def _letter_bias(family: Sequence[AskedTask]) -> _Found | None:
    """p: by exchanging the two runs' answers, passage by passage."""
    tasks = [each for each in family if each.letters]
    if not tasks:
        return None
    right = np.asarray([letter for each in tasks for letter in each.letters])
    # An answer that can't be read found no letter.
    base = np.concatenate([np.nan_to_num(each.primary.base) for each in tasks])
    cand = np.concatenate([np.nan_to_num(each.primary.cand) for each in tasks])
    every = [each.passages(np.ones(len(each.items), dtype=bool)) for each in tasks]
    numbers = stats.clusters([passage for passages in every for passage in passages])
    # (n, letters): the share of a letter's documents that one of them is.
    share = (right[:, None] == np.unique(right)[None, :]).astype(np.float64)
    share /= share.sum(axis=0)
    before, after = base @ share, cand @ share
    moved = base != cand
    # Of a passage what one run gives and the other takes, (passages, letters); most give nothing.
    passages, places = np.unique(numbers[moved], return_inverse=True)
    given = np.zeros((len(passages), share.shape[1]))
    np.add.at(given, places, (cand - base)[moved, None] * share[moved])
    # (exchanges, letters), some exchanges at a time: all of 100,000 documents would take 2 GB.
    draw, shift = np.random.default_rng(stats.SEED), np.empty((EXCHANGES, share.shape[1]))
    rows = max(1, 4_000_000 // max(1, len(passages)))
    for start in range(0, EXCHANGES, rows):
        size = min(rows, EXCHANGES - start)
        shift[start : start + size] = (draw.random((size, len(passages))) < 0.5).astype(np.float64) @ given
    rises = ((after - shift).std(axis=1) - (before + shift).std(axis=1)).round(12)
    rise = round(float(after.std() - before.std()), 12)
    p = float((rises >= rise).sum() + 1) / (EXCHANGES + 1)
    return _Found(float(before.std()), float(after.std()), p, len(right))


def _artefact(name: str, orthography: str, found: _Found, limit: Limit, policy: Policy) -> Check:
    rise = found.cand - found.base
    measured = found.cand if limit.absolute else rise
    # Rounded: 0.3 - 0.2 isn't 0.1.
    over = round(measured, 12) > limit.limit
    which = "the limit" if limit.absolute else "the limit of a rise"
    if not found.n_pairs:
        # Answers that are too short to tell are no worse where the base's are, too.
        verdict, message = "inconclusive" if found.n_lost else "pass", "can't be told of any document in both runs"
    elif not over:
        verdict, message = "pass", f"{measured:+.3f}, {which} is {limit.limit:.3f}"
    elif rise <= 0:
        verdict, message = (
            "inconclusive",
            f"{measured:+.3f}, {which} is {limit.limit:.3f}; the base has as much or more",
        )
    elif found.p >= policy.alpha:
        verdict, message = (
            "inconclusive",
            f"{measured:+.3f}, {which} is {limit.limit:.3f}; chance may do it (p {_p(found.p)})",
        )
    else:
        verdict, message = "regression", f"{measured:+.3f}, {which} is {limit.limit:.3f} (p {_p(found.p)})"
    return Check(
        kind="artefact",
        name=name,
        orthography=orthography,
        verdict=verdict,
        message=message,
        base=found.base if found.n_pairs else None,
        cand=found.cand if found.n_pairs else None,
        delta=-rise if found.n_pairs else None,
        limit=limit.limit,
        p=found.p if found.n_pairs else None,
        n_pairs=found.n_pairs,
        n_unscored=found.n_unscored,
    )


def golden_checks(asked: Sequence[AskedTask], policy: Policy = DEFAULT) -> list[Check]:
    """One check for each golden item and orthography; in it an item fails that isn't right or has no score.

    Raises UnknownNameError, UsageError for an item that isn't there or a task whose answers aren't right or wrong.
    """
    checks = []
    for golden in policy.golden:
        named = [each for each in asked if each.record.task == golden.task]
        if not named:
            known = sorted({each.record.task for each in asked})
            raise UnknownNameError("golden: task", golden.task, known, f"These runs asked: {', '.join(known)}.")
        found = [(each, _places(each, golden)) for each in named]
        if not any(places for _, places in found):
            known = sorted({item for each in named for item in each.items})
            raise UnknownNameError(
                "golden: item", str(golden), [f"{golden.task}/{item}" for item in known], "These runs didn't ask it."
            )
        checks += [_golden(each, golden, places) for each, places in found if places]
    return checks


def _places(asked: AskedTask, golden: Golden) -> list[int]:
    return [index for index, item in enumerate(asked.items) if item == golden.item]


def _golden(asked: AskedTask, golden: Golden, places: Sequence[int]) -> Check:
    task, column = asked.record, asked.primary
    for side in (column.base, column.cand):
        if not np.isin(side[~np.isnan(side)], (0.0, 1.0)).all():
            raise UsageError(
                f"golden: {golden}: {task.task} is scored by {task.primary}, in degrees; a golden item is right or "
                "wrong. Name items of tasks such as uz_qa or uz_lang."
            )
    full = 1.0 if task.metrics.get(task.primary, True) else 0.0
    base, cand = (bool((side[list(places)] == full).all()) for side in (column.base, column.cand))
    verdict = "pass" if cand else "regression" if base else "inconclusive"
    message = {
        "pass": "right" if base else "right, where the base fails",
        "regression": "fails, where the base is right",
        "inconclusive": "fails, as the base does",
    }[verdict]
    return Check(
        kind="golden",
        name=str(golden),
        orthography=task.orthography,
        verdict=verdict,
        message=message,
        base=float(base),
        cand=float(cand),
        delta=float(cand) - float(base),
        n_pairs=len(places),
    )


# What a verdict doesn't say.


def check_tasks(asked: Sequence[AskedTask], policy: Policy) -> list[str]:
    """Refuses rules of tasks that don't exist; says which aren't in these runs."""
    here = {name for each in asked for name in (each.record.task, each.suite)}
    existing = {name for task in catalog.base_tasks() for name in (task.name, task.suite)}
    notes = []
    for name in policy.tasks:
        if name not in here | existing:
            known = sorted(filter(None, here | existing))
            raise UnknownNameError("policy: task", name, known, "Name a task or suite; all tasks: uzbench tasks")
        if name not in here:
            notes.append(f"The policy has a rule for {name}, which these runs didn't ask.")
    return notes


def warnings(asked: Sequence[AskedTask], checks: Iterable[Check], policy: Policy = DEFAULT) -> list[str]:
    """What a reader of the verdict should know: ignored tasks, artefacts not told, falls too small to be seen."""
    ignored: dict[str, None] = {}
    for each in asked:
        if policy.rule(each.record.task, each.suite).ignore:
            ignored[each.record.task] = None
    notes = [f"Ignored by the policy: {', '.join(ignored)}."] if ignored else []
    by_orthography: dict[str, list[Check]] = defaultdict(list)
    for check in checks:
        by_orthography[check.orthography].append(check)
    for orthography, family in by_orthography.items():
        for check in family:
            if check.kind == "suite" and check.mde is not None and check.mde > policy.margin:
                notes.append(
                    f"{orthography}: a fall of the macro average by {check.mde:.3f} is found four times in five, one "
                    f"by the margin, {policy.margin:.3f}, less often. More documents would show it."
                )
            if check.kind == "artefact" and check.verdict == "pass" and not check.n_pairs:
                notes.append(f"{orthography}: {check.name} can't be told of any document in both runs.")
    return notes
