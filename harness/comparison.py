"""Comparing: two runs in, one Comparison out; paired by document, refused where they don't pair.

Within an orthography runs pair by (task, prompt, doc_hash, occurrence); across orthographies by item id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike

import numpy as np
import numpy.typing as npt

from harness import stats
from harness.columns import Columns, TaskKey
from harness.corpus import Classified, cells_of
from harness.errors import UnpairedError, UsageError
from harness.judge.agreement import corrected_difference
from harness.judge.records import PASS, read_judgings
from harness.metrics import by_metric, first_prompts, item_means, prompt_families, prompt_spread
from harness.records import Comparison, JudgedDifference, Overall, PromptRow, Row, Side, SliceRow, TaskRecord
from harness.runs import RunDirectory, open_run

MARGIN = 0.03
"""Differences inside ± 3 points count as the same."""

FEWEST_BY_LENGTH = 30
"""Documents that a task has at least, to be cut into thirds by length."""

RunLike = RunDirectory | str | PathLike[str]


@dataclass(frozen=True, slots=True)
class _Compared:
    row: Row
    stderr: float | None


def compare(base: RunLike, cand: RunLike, *, margin: float = MARGIN) -> Comparison:
    """Compares a candidate with its base, document by document.

    margin: in [0,1]. Raises UnpairedError naming what differs, RecordError, UsageError.
    """
    if not 0 < margin < 1:
        raise UsageError(f"--margin {margin}: expected a fraction between 0 and 1, such as 0.03.")
    base = base if isinstance(base, RunDirectory) else open_run(base)
    cand = cand if isinstance(cand, RunDirectory) else open_run(cand)
    pairing = pair(base, cand)
    compared: list[_Compared] = []
    slices: list[SliceRow] = []
    unscored = []
    for task in pairing.tasks:
        first = task.base.primary() if task.is_first else None
        for metric, name in task.base.values:
            pairs = task.scores(metric, name)
            if pairs.base.size:
                compared.append(_compared(task.task, metric, name, pairs, margin, primary=(metric, name) == first))
            elif (metric, name) == first:
                unscored.append(
                    f"{task_name(task.task.key)}: no document was scored in both runs; it is in no average."
                )
        for metric in task.task.corpus_metrics:
            each = _corpus_compared(task, metric, margin)
            compared += [each] if each is not None else []
        slices += _slice_rows(task) if first is not None else []
    if not compared:
        raise UnpairedError(f"{base.path} and {cand.path} have no document that both scored.")
    adjusted, overall = _adjusted(compared, margin)
    return Comparison(
        base=Side.of(base.run),
        cand=Side.of(cand.run),
        margin=margin,
        rows=tuple(adjusted),
        overall={each.orthography: each for each in overall},
        prompt_rows=tuple(_prompt_rows(base, cand, margin)),
        orthography_gaps={"base": tuple(base.orthography_gaps), "cand": tuple(cand.orthography_gaps)},
        slices=tuple(slices),
        judged=tuple(_judged_differences(base, compared)),
        asked_differently=pairing.asked_differently,
        limited=base.run.limited or cand.run.limited,
        notes=(*provenance_notes(base, cand), *unscored),
    )


# Pairing.


@dataclass(frozen=True, slots=True)
class Pairs:
    """The scores of documents that both runs scored, shape (n,), and how many they did not."""

    base: stats.Floats
    cand: stats.Floats
    groups: list[str]
    n_unscored: int

    def gained_lost(self, higher_is_better: bool) -> tuple[int, int]:
        """How many documents did better, and how many worse."""
        up, down = int((self.cand > self.base).sum()), int((self.cand < self.base).sum())
        return (up, down) if higher_is_better else (down, up)


@dataclass(frozen=True, slots=True)
class PairedTask:
    """One task of two runs. order: of each document of the base, its place in the candidate, -1 where it has none.

    is_first: whether its prompt stands for the task; only then has it a primary row.
    """

    base: Columns
    cand: Columns
    order: npt.NDArray[np.intp]
    is_first: bool

    @property
    def task(self) -> TaskRecord:
        return self.base.task

    def of_cand(self, metric: str, name: str) -> stats.Floats:
        """The candidate's scores in the base's order; NaN where a document has none."""
        found = self.cand.values.get((metric, name))
        if found is None:
            return np.full(len(self.order), np.nan)
        # Behind the last: what -1 takes.
        return np.append(found, np.nan)[self.order]

    def scores(self, metric: str, name: str, among: npt.NDArray[np.bool_] | None = None) -> Pairs:
        """The pairs under a metric as a filter read it, among some of the base's documents or all."""
        one, two = self.base.values[metric, name], self.of_cand(metric, name)
        scored = ~(np.isnan(one) | np.isnan(two))
        wanted = np.ones(len(one), dtype=bool) if among is None else among
        groups = self.base.groups
        return Pairs(
            one[scored & wanted],
            two[scored & wanted],
            [groups[number] for number in np.flatnonzero(scored & wanted)],
            int((wanted & ~scored).sum()),
        )


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two runs of the same tasks and documents. asked_differently: in different prompt formats."""

    tasks: list[PairedTask]
    asked_differently: bool


def pair(base: RunDirectory, cand: RunDirectory, *, partial: bool = False) -> Pairing:
    """Pairs two runs by document.

    partial: the candidate may have been asked fewer tasks and documents than the base; what it lacks has no score.
    Raises UnpairedError naming what differs: tasks, versions, shots, metrics, documents, prompts.
    """
    mine, theirs = ({task.key: task for task in run.run.tasks} for run in (base, cand))
    if partial and set(theirs) <= set(mine):
        mine = {key: mine[key] for key in mine if key in theirs}
    check_tasks(base, mine, cand, theirs)
    differently = asked_differently(base, cand)
    firsts = {task.key for task in first_prompts(base.run.tasks)}
    tasks = []
    for key in mine:
        columns = base.columns[key], cand.columns[key]
        order = _order(*columns, base, cand, partial)
        if not differently:
            _check_prompts(*columns, order)
        tasks.append(PairedTask(*columns, order, key in firsts))
    return Pairing(tasks, differently)


def check_tasks(
    base: RunDirectory,
    mine: Mapping[TaskKey, TaskRecord],
    cand: RunDirectory,
    theirs: Mapping[TaskKey, TaskRecord],
    which: str = "both",
) -> None:
    """Refuses runs whose records say that they asked something else.

    which: what a message calls the runs, "both" or "all". Raises UnpairedError.
    """
    if set(mine) != set(theirs):
        parts = [
            f"only {run.path} has {listed(task_name(key) for key in keys)}"
            for run, keys in ((base, set(mine) - set(theirs)), (cand, set(theirs) - set(mine)))
            if keys
        ]
        raise UnpairedError(f"The runs asked different tasks: {'; '.join(parts)}. Run the same --tasks for {which}.")
    for key, task in mine.items():
        other = theirs[key]
        for what, one, two in (
            ("version", task.version, other.version),
            ("number of shots", task.n_shot, other.n_shot),
            ("primary metric", task.primary, other.primary),
        ):
            if one != two:
                raise UnpairedError(
                    f"{task_name(key)}: the {what} differs, {one} in {base.path} and {two} in {cand.path}. "
                    f"Run {which} with the same uzbench and options."
                )
        for metric in task.judges.keys() & other.judges.keys():
            if task.judges[metric] != other.judges[metric]:
                raise UnpairedError(
                    f"{task_name(key)}: {metric} is of different judges, {task.judges[metric]} in {base.path} and "
                    f"{other.judges[metric]} in {cand.path}. Judge {which} with the same --judge and --rubric."
                )


def asked_differently(one: RunDirectory, two: RunDirectory) -> bool:
    """Whether both runs name the prompt format that they were asked in, and these differ."""
    known = one.run.source == two.run.source == "uzbench"
    return known and one.run.spec.prompt_format != two.run.spec.prompt_format


def _order(one: Columns, two: Columns, base: RunDirectory, cand: RunDirectory, partial: bool) -> npt.NDArray[np.intp]:
    if one.keys == two.keys:
        return np.arange(len(one.keys))
    places = {key: number for number, key in enumerate(two.keys)}
    only_base, only_cand = set(one.keys) - places.keys(), places.keys() - set(one.keys)
    if only_cand or (only_base and not partial):
        raise UnpairedError(
            f"{task_name(one.task.key)}: the documents differ (doc_hash): {len(only_base)} only in {base.path}, "
            f"{len(only_cand)} only in {cand.path}. Run both with the same --limit and data."
        )
    return np.asarray([places.get(key, -1) for key in one.keys], dtype=np.intp)


def _check_prompts(one: Columns, two: Columns, order: npt.NDArray[np.intp]) -> None:
    # A record without prompt hashes can't be held to them.
    differing = sum(
        bool(place >= 0 and mine and two.prompt_hashes[place] and mine != two.prompt_hashes[place])
        for mine, place in zip(one.prompt_hashes, order, strict=True)
    )
    if differing:
        raise UnpairedError(
            f"{task_name(one.task.key)}: the prompts differ (prompt_hash) on {differing} of {len(order)} documents, "
            "though neither run says that it was asked in another prompt format. Run both with the same "
            "--prompt-format, --shots and uzbench."
        )


def task_name(key: TaskKey) -> str:
    """A task as a message names it: with its alphabet and prompt where these aren't the usual ones."""
    task, orthography, prompt_id = key
    parts = (task, orthography if orthography != "latin" else "", prompt_id if prompt_id != "p1" else "")
    return " ".join(part for part in parts if part)


def listed(names: Iterable[str]) -> str:
    """Names in one line, five at most."""
    shown = sorted(names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


# Comparing.


def _compared(
    task: TaskRecord, metric: str, filter_name: str, pairs: Pairs, margin: float, *, primary: bool
) -> _Compared:
    found = stats.paired(pairs.base, pairs.cand, pairs.groups)
    higher = task.metrics.get(metric, True)
    gained, lost = pairs.gained_lost(higher)
    row = Row(
        task=task.task,
        orthography=task.orthography,
        prompt_id=task.prompt_id,
        metric=metric,
        filter=filter_name,
        primary=primary,
        base=float(pairs.base.mean()),
        cand=float(pairs.cand.mean()),
        delta=found.delta,
        ci95=found.ci95,
        p=found.p,
        p_adjusted=None,
        n_pairs=len(pairs.groups),
        n_unscored=pairs.n_unscored,
        n_clusters=found.n_clusters,
        mde=found.mde,
        gained=gained,
        lost=lost,
        test=found.test,
        chance=task.chance if primary else None,
        higher_is_better=higher,
        verdict=stats.verdict(found.p, found.ci95, found.delta, margin, higher),
        baselines=task.baselines if primary else {},
    )
    return _Compared(row, found.stderr)


def _corpus_compared(task: PairedTask, metric: str, margin: float) -> _Compared | None:
    """A metric of all documents together; None where no document was answered in both runs, or one lacks it."""
    if metric not in task.cand.task.corpus_metrics:
        return None
    right, said = (np.asarray(each, dtype=np.intp) for each in (task.base.right, task.base.said))
    both = [Classified(right, said)]
    right, said = (np.asarray(each, dtype=np.intp)[task.order] for each in (task.cand.right, task.cand.said))
    both.append(Classified(right, said))
    answered = (both[0].right >= 0) & (both[1].right >= 0)
    if not answered.any():
        return None
    one, two = (each.at(answered) for each in both)
    groups = [task.base.groups[number] for number in np.flatnonzero(answered)]
    distinct, cells = cells_of(one, two)
    before, after = (each.macro_f1() for each in distinct)
    found = stats.paired_statistic(before, after, one.said != two.said, groups, cells)
    everything = np.bincount(cells).astype(np.float64)[None]
    is_right = one.said == one.right, two.said == two.right
    row = Row(
        task=task.task.task,
        orthography=task.task.orthography,
        prompt_id=task.task.prompt_id,
        metric=metric,
        primary=False,
        base=float(before(everything)[0]),
        cand=float(after(everything)[0]),
        delta=found.delta,
        ci95=found.ci95,
        p=found.p,
        p_adjusted=None,
        n_pairs=len(groups),
        n_unscored=int((~answered).sum()),
        n_clusters=found.n_clusters,
        mde=found.mde,
        gained=int((is_right[1] & ~is_right[0]).sum()),
        lost=int((is_right[0] & ~is_right[1]).sum()),
        test=found.test,
        chance=None,
        higher_is_better=True,
        verdict=stats.verdict(found.p, found.ci95, found.delta, margin),
    )
    return _Compared(row, found.stderr)


def _slice_rows(task: PairedTask) -> list[SliceRow]:
    """The primary metric on parts of a task, where it has several."""
    key = task.base.primary()
    assert key is not None
    kinds = np.asarray(task.base.slices)
    parts = [("type", name, kinds == name) for name in sorted(set(task.base.slices)) if name]
    parts = parts if len(parts) > 1 else []
    lengths = np.asarray(task.base.lengths)
    if len(lengths) >= FEWEST_BY_LENGTH:
        # Ties of length stay together, so that the thirds aren't quite equal.
        short, long = (int(each) for each in np.quantile(lengths, [1 / 3, 2 / 3]))
        parts += [
            ("length", f"up to {short:,} characters", lengths <= short),
            ("length", f"to {long:,}", (short < lengths) & (lengths <= long)),
            ("length", f"over {long:,}", lengths > long),
        ]
    rows = []
    for by, name, among in parts:
        pairs = task.scores(*key, among)
        if pairs.base.size:
            rows.append(_slice_row(task.task, by, name, pairs))
    return rows


def _slice_row(task: TaskRecord, by: str, name: str, pairs: Pairs) -> SliceRow:
    found = stats.paired(pairs.base, pairs.cand, pairs.groups)
    higher = task.metrics[task.primary]
    gained, lost = pairs.gained_lost(higher)
    return SliceRow(
        task=task.task,
        orthography=task.orthography,
        prompt_id=task.prompt_id,
        metric=task.primary,
        by=by,
        name=name,
        base=float(pairs.base.mean()),
        cand=float(pairs.cand.mean()),
        delta=found.delta,
        ci95=found.ci95,
        p=found.p,
        n_pairs=len(pairs.groups),
        n_clusters=found.n_clusters,
        gained=gained,
        lost=lost,
        higher_is_better=higher,
    )


def _judged_differences(base: RunDirectory, compared: Sequence[_Compared]) -> Iterator[JudgedDifference]:
    """Of what a judge passed in both runs, the difference behind its errors, where people's labels tell of them."""
    judgings = {
        (rate.task, rate.orthography, rate.prompt_id): judging
        for judging in read_judgings(base.path)
        for rate in judging.rates
    }
    for each in compared:
        row = each.row
        judging = judgings.get((row.task, row.orthography, row.prompt_id))
        if row.metric != PASS or judging is None:
            continue
        agreed = judging.agreement
        found: tuple[float, tuple[float, float]] | str = "no human labels (uzbench judge --calibrate)"
        if agreed is not None:
            found = corrected_difference(row.delta, each.stderr or 0.0, agreed.sensitivity, agreed.specificity)
        corrected, interval = (None, None) if isinstance(found, str) else found
        yield JudgedDifference(
            task=row.task,
            orthography=row.orthography,
            prompt_id=row.prompt_id,
            judge=judging.name,
            judged=row.delta,
            judged_ci95=row.ci95,
            corrected=corrected,
            corrected_ci95=interval,
            why_not=found if isinstance(found, str) else None,
        )


def _adjusted(compared: Sequence[_Compared], margin: float) -> tuple[list[Row], list[Overall]]:
    """Holm and the macro average over the primary metrics of each orthography; other rows stay descriptive."""
    rows = [each.row for each in compared]
    overall = []
    for orthography in dict.fromkeys(row.orthography for row in rows):
        family = [index for index, row in enumerate(rows) if row.orthography == orthography and row.primary]
        if not family:
            continue
        for index, p in zip(family, stats.holm([rows[index].p for index in family]), strict=True):
            row = rows[index]
            decided = stats.verdict(p, row.ci95, row.delta, margin, row.higher_is_better)
            rows[index] = replace(row, p_adjusted=p, verdict=decided)
        members = [rows[index] for index in family]
        delta, low, high, p = stats.macro(
            [row.delta if row.higher_is_better else -row.delta for row in members],
            [compared[index].stderr for index in family],
        )
        overall.append(
            Overall(
                orthography=orthography,
                n_tasks=len(members),
                # Of a metric where less is better, what it lacks of 1 counts.
                base=float(np.mean([row.base if row.higher_is_better else 1 - row.base for row in members])),
                cand=float(np.mean([row.cand if row.higher_is_better else 1 - row.cand for row in members])),
                delta=delta,
                ci95=(low, high),
                p=p,
                verdict=stats.verdict(p, (low, high), delta, margin),
            )
        )
    return rows, overall


def _prompt_rows(base: RunDirectory, cand: RunDirectory, margin: float) -> list[PromptRow]:
    """Tasks asked in several prompts, paired by document: each document is the mean of its prompts."""
    families = prompt_families(base.run.tasks)
    # The scores of documents one by one are read where somebody asked in several prompts.
    scores = (by_metric(base.scores), by_metric(cand.scores)) if families else ()
    rows = []
    for family in families:
        one, two = (item_means(family, each) for each in scores)
        # The same documents on both sides, in one order.
        both = [item for item in one if item in two]
        one, two = ({item: each[item] for item in both} for each in (one, two))
        spreads = prompt_spread(family, one), prompt_spread(family, two)
        if spreads[0] is None or spreads[1] is None:
            continue
        means = [np.asarray([values for values, _ in each.values()]).mean(axis=1) for each in (one, two)]
        found = stats.paired(means[0], means[1], [group for _, group in one.values()])
        deltas = [after - before for before, after in zip(spreads[0].values, spreads[1].values, strict=True)]
        higher = spreads[0].higher_is_better
        rows.append(
            PromptRow(
                base=spreads[0],
                cand=spreads[1],
                delta=found.delta,
                ci95=found.ci95,
                p=found.p,
                low=min(deltas),
                high=max(deltas),
                n_pairs=len(both),
                verdict=stats.verdict(found.p, found.ci95, found.delta, margin, higher),
            )
        )
    return rows


def provenance_notes(base: RunDirectory, cand: RunDirectory) -> list[str]:
    """What a reader should know of how two runs were asked, where it differs or is less than whole."""
    notes = []
    one, two = base.run.spec, cand.run.spec
    if asked_differently(base, cand):
        notes.append(
            f"Asked differently: the base in the format {one.prompt_format}, the candidate in {two.prompt_format}. "
            "Part of the difference is the format, not the model."
        )
    if base.run.limited or cand.run.limited:
        which = base.run.subset or "a --limit"
        notes.append(f"Limited: the tasks were asked on a part of their documents ({which}).")
    if base.run.model_key == cand.run.model_key and base.run.source == "uzbench":
        notes.append("Both runs are of the same model.")
    if one.quantization != two.quantization:
        notes.append(f"Quantized differently: base {one.quantization}, candidate {two.quantization}.")
    return notes
