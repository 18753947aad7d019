"""From scores to what a run says of itself: metrics, spread over prompts, gaps between alphabets."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from harness import stats
from harness.corpus import Classified, cells_of
from harness.records import MACRO, Metric, OrthographyGap, PromptSpread, Sample, Score, TaskRecord

TaskKey = tuple[str, str, str]
MetricKey = tuple[str, str]

_PROMPT = re.compile(r"_?p\d+$")


def by_metric(scores: Iterable[Score]) -> dict[TaskKey, dict[MetricKey, list[Score]]]:
    """Scores by task, then by (metric, filter)."""
    found: dict[TaskKey, dict[MetricKey, list[Score]]] = defaultdict(lambda: defaultdict(list))
    for score in scores:
        found[score.task_key][score.metric, score.filter].append(score)
    return found


def by_task(samples: Iterable[Sample]) -> dict[TaskKey, list[Sample]]:
    """Samples by task."""
    found: dict[TaskKey, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[sample.task, sample.orthography, sample.prompt_id].append(sample)
    return found


def summarize(scores: Iterable[Score], tasks: Iterable[TaskRecord], samples: Iterable[Sample]) -> list[Metric]:
    """One Metric for each task and metric, in the order of the tasks; unscored documents are counted, not scored."""
    scored, asked = by_metric(scores), by_task(samples)
    found = []
    for task in tasks:
        found += [_metric(task, metric, name, each) for (metric, name), each in scored[task.key].items()]
        found += [_corpus_metric(task, metric, asked[task.key]) for metric in task.corpus_metrics]
    return found


def _metric(task: TaskRecord, metric: str, name: str, scores: Sequence[Score]) -> Metric:
    scored = [score for score in scores if score.value is not None]
    found = None
    if scored:
        values = np.asarray([score.value for score in scored], dtype=np.float64)
        found = stats.estimate(values, [score.group for score in scored])
    return Metric(
        task=task.task,
        orthography=task.orthography,
        prompt_id=task.prompt_id,
        task_version=task.version,
        metric=metric,
        primary=metric == task.primary,
        value=found.mean if found else None,
        stderr=found.stderr if found else None,
        ci95=found.ci95 if found else None,
        n=len(scored),
        n_unscored=len(scores) - len(scored),
        n_clusters=found.n_clusters if found else 0,
        chance=task.chance if metric == task.primary else None,
        higher_is_better=task.metrics[metric],
        filter=name,
        baselines=task.baselines if metric == task.primary else {},
    )


def _corpus_metric(task: TaskRecord, metric: str, samples: Sequence[Sample]) -> Metric:
    every = Classified.of(samples)
    answered = every.right >= 0
    found = None
    if answered.any():
        (distinct,), cells = cells_of(every.at(answered))
        groups = [sample.group for sample, is_class in zip(samples, answered, strict=True) if is_class]
        found = stats.bootstrap(distinct.macro_f1(), groups, cells)
    return Metric(
        task=task.task,
        orthography=task.orthography,
        prompt_id=task.prompt_id,
        task_version=task.version,
        metric=metric,
        primary=False,
        value=found.value if found else None,
        stderr=found.stderr if found else None,
        ci95=found.ci95 if found else None,
        n=int(answered.sum()),
        n_unscored=int((~answered).sum()),
        n_clusters=found.n_clusters if found else 0,
        chance=None,
        higher_is_better=True,
    )


# Prompts.


def form_of(prompt_id: str) -> str:
    """The form that a prompt id names: "p2" → "", "cloze" and "cloze_p2" → "cloze"."""
    return _PROMPT.sub("", prompt_id)


def item_key(score: Score) -> tuple[str, int]:
    """What pairs the scores of one document under several prompts and alphabets."""
    return score.item_id or score.doc_hash, score.occurrence


def prompt_families(tasks: Iterable[TaskRecord]) -> list[list[TaskRecord]]:
    """Tasks that differ in the prompt alone, where there are several."""
    families: dict[tuple[str, ...], list[TaskRecord]] = defaultdict(list)
    for task in tasks:
        families[task.task, task.orthography, form_of(task.prompt_id), task.primary].append(task)
    return [family for family in families.values() if len(family) > 1]


def item_means(
    family: Sequence[TaskRecord], scores: dict[TaskKey, dict[MetricKey, list[Score]]]
) -> dict[tuple[str, int], tuple[list[float], str]]:
    """Of each document scored under every prompt of a family: its scores, in the order of the prompts, and group."""
    found: dict[tuple[str, int], tuple[list[float], str]] = {}
    for task in family:
        for score in _primary(task, scores[task.key]):
            if score.value is not None:
                found.setdefault(item_key(score), ([], score.group))[0].append(score.value)
    return {item: each for item, each in found.items() if len(each[0]) == len(family)}


def prompt_spread(
    family: Sequence[TaskRecord], items: dict[tuple[str, int], tuple[list[float], str]]
) -> PromptSpread | None:
    """How one model does under each prompt of a family, over the documents given; None where there are none."""
    if not items:
        return None
    values = np.asarray([each for each, _ in items.values()], dtype=np.float64)
    found = stats.estimate(values.mean(axis=1), [group for _, group in items.values()])
    first, each = family[0], values.mean(axis=0)
    return PromptSpread(
        task=first.task,
        orthography=first.orthography,
        form=form_of(first.prompt_id),
        metric=first.primary,
        prompts=tuple(task.prompt_id for task in family),
        values=tuple(float(value) for value in each),
        mean=found.mean,
        ci95=found.ci95,
        sd=float(each.std(ddof=1)),
        higher_is_better=first.metrics[first.primary],
    )


def prompt_spreads(scores: Iterable[Score], tasks: Iterable[TaskRecord]) -> list[PromptSpread]:
    """The spread over prompts of each task that was asked in several."""
    found = by_metric(scores)
    spreads = [prompt_spread(family, item_means(family, found)) for family in prompt_families(tasks)]
    return [each for each in spreads if each is not None]


# Alphabets.


def orthography_gaps(scores: Iterable[Score], tasks: Sequence[TaskRecord]) -> list[OrthographyGap]:
    """What a model loses in another alphabet: primary metrics of first prompts, paired by item with the Latin of 1995.

    Where several tasks were asked, the mean over them comes last.
    """
    found = by_metric(scores)
    firsts = first_prompts(tasks)
    gaps: list[OrthographyGap] = []
    for orthography in dict.fromkeys(task.orthography for task in tasks if task.orthography != "latin"):
        of_one, stderrs = [], []
        for task in firsts:
            latin_key = task.task, "latin", task.prompt_id
            if task.orthography != orthography or latin_key not in found:
                continue
            latin = {item_key(each)[0]: each for each in _primary(task, found[latin_key]) if each.item_id}
            pairs = [(latin.get(each.item_id), each) for each in _primary(task, found[task.key])]
            paired = _paired(task, [(one, two) for one, two in pairs if one is not None])
            if paired is not None:
                of_one.append(paired[0])
                stderrs.append(paired[1])
        gaps += of_one
        if len(of_one) > 1:
            gaps.append(_macro_gap(of_one, stderrs))
    return gaps


def first_prompts(tasks: Sequence[TaskRecord]) -> list[TaskRecord]:
    """Of each task and alphabet the prompt that stands for it: its own, or the first that was asked."""
    found: dict[tuple[str, str], TaskRecord] = {}
    for task in sorted(tasks, key=lambda task: task.prompt_id != "p1"):
        found.setdefault((task.task, task.orthography), task)
    return [task for task in tasks if found[task.task, task.orthography] is task]


def _primary(task: TaskRecord, scores: dict[MetricKey, list[Score]]) -> list[Score]:
    """The scores of a task's primary metric, read by its first filter."""
    return next((each for (metric, _), each in scores.items() if metric == task.primary), [])


def _paired(task: TaskRecord, pairs: Sequence[tuple[Score, Score]]) -> tuple[OrthographyGap, float | None] | None:
    values = [(one.value, two.value) for one, two in pairs if one.value is not None and two.value is not None]
    groups = [two.group for one, two in pairs if one.value is not None and two.value is not None]
    if not values:
        return None
    latin, other = np.asarray(values, dtype=np.float64).T
    found = stats.paired(latin, other, groups)
    gap = OrthographyGap(
        task=task.task,
        metric=task.primary,
        orthography=task.orthography,
        latin=float(latin.mean()),
        other=float(other.mean()),
        delta=found.delta,
        ci95=found.ci95,
        p=found.p,
        n_pairs=len(groups),
    )
    return gap, found.stderr


def _macro_gap(gaps: Sequence[OrthographyGap], stderrs: Sequence[float | None]) -> OrthographyGap:
    delta, low, high, p = stats.macro([gap.delta for gap in gaps], stderrs)
    return OrthographyGap(
        task=MACRO,
        metric="",
        orthography=gaps[0].orthography,
        latin=float(np.mean([gap.latin for gap in gaps])),
        other=float(np.mean([gap.other for gap in gaps])),
        delta=delta,
        ci95=(low, high),
        p=p,
        n_pairs=len(gaps),
    )
