"""From scores to a task's metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from harness import stats
from harness.records import Metric, Score, TaskRecord


def summarize(scores: Iterable[Score], tasks: Iterable[TaskRecord]) -> list[Metric]:
    """One Metric for each task and metric, in the order of the tasks; unscored documents are counted, not scored."""
    by_metric: dict[tuple[str, str, str], dict[tuple[str, str], list[Score]]] = defaultdict(lambda: defaultdict(list))
    for score in scores:
        by_metric[score.task_key][score.metric, score.filter].append(score)
    return [
        _metric(task, metric, name, found) for task in tasks for (metric, name), found in by_metric[task.key].items()
    ]


def _metric(task: TaskRecord, metric: str, name: str, scores: list[Score]) -> Metric:
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
    )
