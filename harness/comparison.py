"""Comparing: two runs in, one Comparison out; paired by document, refused where they don't pair.

Within an orthography runs pair by (task, prompt, doc_hash, occurrence); across orthographies by item id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike

import numpy as np

from harness import stats
from harness.corpus import Classified
from harness.errors import UnpairedError, UsageError
from harness.metrics import by_metric, by_task, first_prompts, item_means, prompt_families, prompt_spread
from harness.records import Comparison, Overall, PromptRow, Row, Sample, Score, Side, TaskRecord
from harness.runs import RunDirectory, open_run

MARGIN = 0.03
"""Differences inside ± 3 points count as the same."""

TaskKey = tuple[str, str, str]
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
    asked_differently = _check_pairing(base, cand)
    scores = by_metric(base.scores), by_metric(cand.scores)
    firsts = first_prompts(base.run.tasks)
    asked = by_task(base.samples), by_task(cand.samples)
    compared, unscored = [], []
    for task in base.run.tasks:
        of_task = scores[0].get(task.key, {})
        # A task read by several filters has one primary row, that of the first; so has one asked in several prompts.
        first = next((key for key in of_task if key[0] == task.primary), None) if task in firsts else None
        for metric, name in of_task:
            pairs = _pairs(task, of_task[metric, name], scores[1][task.key].get((metric, name), []))
            if pairs.base.size:
                compared.append(_compared(task, metric, name, pairs, margin, primary=(metric, name) == first))
            elif (metric, name) == first:
                unscored.append(f"{_names([task.key])}: no document was scored in both runs; it is in no average.")
        for metric in task.corpus_metrics:
            each = _corpus_compared(task, metric, asked[0][task.key], asked[1][task.key], margin)
            compared += [each] if each is not None else []
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
        asked_differently=asked_differently,
        limited=base.run.limited or cand.run.limited,
        notes=(*_notes(base, cand), *unscored),
    )


# Pairing.


def _check_pairing(base: RunDirectory, cand: RunDirectory) -> bool:
    """Refuses runs that don't pair; returns whether they were asked in different prompt formats."""
    mine, theirs = ({task.key: task for task in run.run.tasks} for run in (base, cand))
    if set(mine) != set(theirs):
        missing = _names(set(mine) - set(theirs))
        extra = _names(set(theirs) - set(mine))
        parts = [f"only {base.path} has {missing}"] if missing else []
        parts += [f"only {cand.path} has {extra}"] if extra else []
        raise UnpairedError(f"The runs asked different tasks: {'; '.join(parts)}. Run the same --tasks for both.")
    formats = base.run.spec.prompt_format, cand.run.spec.prompt_format
    known = base.run.source == cand.run.source == "uzbench"
    asked_differently = known and formats[0] != formats[1]
    hashes = [_hashes(run) for run in (base, cand)]
    for key, task in mine.items():
        other = theirs[key]
        name = _names([key])
        for what, one, two in (
            ("version", task.version, other.version),
            ("number of shots", task.n_shot, other.n_shot),
            ("primary metric", task.primary, other.primary),
        ):
            if one != two:
                raise UnpairedError(
                    f"{name}: the {what} differs, {one} in {base.path} and {two} in {cand.path}. "
                    "Run both with the same uzbench and options."
                )
        one_docs, two_docs = (set(each[key]) for each in hashes)
        if one_docs != two_docs:
            raise UnpairedError(
                f"{name}: the documents differ (doc_hash): {len(one_docs - two_docs)} only in {base.path}, "
                f"{len(two_docs - one_docs)} only in {cand.path}. Run both with the same --limit and data."
            )
        if not asked_differently:
            differing = [doc for doc, prompt in hashes[0][key].items() if prompt != hashes[1][key][doc]]
            # A record without prompt hashes can't be held to them.
            differing = [doc for doc in differing if hashes[0][key][doc] and hashes[1][key][doc]]
            if differing:
                raise UnpairedError(
                    f"{name}: the prompts differ (prompt_hash) on {len(differing)} of {len(one_docs)} documents, "
                    "though neither run says that it was asked in another prompt format. Run both with the same "
                    "--prompt-format, --shots and uzbench."
                )
    return asked_differently


def _hashes(run: RunDirectory) -> dict[TaskKey, dict[tuple[str, int], str]]:
    found: dict[TaskKey, dict[tuple[str, int], str]] = defaultdict(dict)
    for sample in run.samples:
        key = sample.task, sample.orthography, sample.prompt_id
        found[key][sample.doc_hash, sample.occurrence] = sample.prompt_hash
    return found


def _names(keys: Iterable[TaskKey]) -> str:
    shown = sorted(
        " ".join(
            part for part in (key[0], key[1] if key[1] != "latin" else "", key[2] if key[2] != "p1" else "") if part
        )
        for key in keys
    )
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


@dataclass(frozen=True, slots=True)
class _Pairs:
    base: stats.Floats
    cand: stats.Floats
    groups: list[str]
    n_unscored: int


def _pairs(task: TaskRecord, base: Sequence[Score], cand: Sequence[Score]) -> _Pairs:
    theirs = {score.pair_key: score for score in cand}
    one, two, groups, unscored = [], [], [], 0
    for score in base:
        other = theirs.get(score.pair_key)
        if score.value is None or other is None or other.value is None:
            unscored += 1
            continue
        one.append(score.value)
        two.append(other.value)
        groups.append(score.group)
    return _Pairs(np.asarray(one, dtype=np.float64), np.asarray(two, dtype=np.float64), groups, unscored)


# Comparing.


def _compared(
    task: TaskRecord, metric: str, filter_name: str, pairs: _Pairs, margin: float, *, primary: bool
) -> _Compared:
    found = stats.paired(pairs.base, pairs.cand, pairs.groups)
    higher = task.metrics.get(metric, True)
    rises = pairs.cand > pairs.base if higher else pairs.cand < pairs.base
    falls = pairs.cand < pairs.base if higher else pairs.cand > pairs.base
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
        gained=int(rises.sum()),
        lost=int(falls.sum()),
        test=found.test,
        chance=task.chance if primary else None,
        higher_is_better=higher,
        verdict=stats.verdict(found.p, found.ci95, found.delta, margin, higher),
        baselines=task.baselines if primary else {},
    )
    return _Compared(row, found.stderr)


def _corpus_compared(
    task: TaskRecord, metric: str, base: Sequence[Sample], cand: Sequence[Sample], margin: float
) -> _Compared | None:
    """A metric of all documents together; None where no document was answered in both runs."""
    theirs = {(sample.doc_hash, sample.occurrence): sample for sample in cand}
    pairs = [(each, theirs[each.doc_hash, each.occurrence]) for each in base]
    answered = [(one, two) for one, two in pairs if Classified.is_class(one) and Classified.is_class(two)]
    if not answered:
        return None
    one, two = Classified.of([pair[0] for pair in answered]), Classified.of([pair[1] for pair in answered])
    before, after = one.macro_f1(), two.macro_f1()
    found = stats.paired_statistic(before, after, one.said != two.said, [each.group for each, _ in answered])
    everything = np.ones((1, len(answered)))
    right = one.said == one.right, two.said == two.right
    row = Row(
        task=task.task,
        orthography=task.orthography,
        prompt_id=task.prompt_id,
        metric=metric,
        primary=False,
        base=float(before(everything)[0]),
        cand=float(after(everything)[0]),
        delta=found.delta,
        ci95=found.ci95,
        p=found.p,
        p_adjusted=None,
        n_pairs=len(answered),
        n_unscored=len(pairs) - len(answered),
        n_clusters=found.n_clusters,
        mde=found.mde,
        gained=int((right[1] & ~right[0]).sum()),
        lost=int((right[0] & ~right[1]).sum()),
        test=found.test,
        chance=None,
        higher_is_better=True,
        verdict=stats.verdict(found.p, found.ci95, found.delta, margin),
    )
    return _Compared(row, found.stderr)


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
                base=float(np.mean([row.base for row in members])),
                cand=float(np.mean([row.cand for row in members])),
                delta=delta,
                ci95=(low, high),
                p=p,
                verdict=stats.verdict(p, (low, high), delta, margin),
            )
        )
    return rows, overall


def _prompt_rows(base: RunDirectory, cand: RunDirectory, margin: float) -> list[PromptRow]:
    """Tasks asked in several prompts, paired by document: each document is the mean of its prompts."""
    scores = by_metric(base.scores), by_metric(cand.scores)
    rows = []
    for family in prompt_families(base.run.tasks):
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


def _notes(base: RunDirectory, cand: RunDirectory) -> list[str]:
    notes = []
    one, two = base.run.spec, cand.run.spec
    if one.prompt_format != two.prompt_format and base.run.source == cand.run.source == "uzbench":
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
