"""From what lm-eval logs of a document to our Sample and Scores.

One logged sample, shortened (https://github.com/EleutherAI/lm-evaluation-harness, `--log_samples`):

    {"doc_id": 0, "doc": {"id": "topic-001", …}, "target": "1", "filter": "none", "metrics": ["acc"],
     "arguments": {"gen_args_0": {"arg_0": "Matn qaysi …", "arg_1": " siyosat"}, …},
     "resps": [[["-11.2", "False"]], …], "filtered_resps": [["-11.2", "False"], …],
     "doc_hash": "6d5…", "prompt_hash": "a01…", "acc": 1.0}

In memory `arguments` is a list of tuples and the numbers are numbers; both forms are read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.corpus import CORPUS_METRICS
from harness.records import Sample, Score, TaskRecord
from tasks_uz import baselines, catalog

UNSCORED = "unscored"
NO_ANSWER = "no answer"
CHOICES = "multiple_choice"
BY_BYTES = "acc_bytes"

Logged = Mapping[str, Any]


def task_record(
    name: str,
    *,
    version: str,
    n_shot: int,
    n: int,
    n_all: int,
    metrics: dict[str, bool],
    output_type: str,
    logged: Sequence[Logged],
) -> TaskRecord:
    """What a run says of a task: a variant of ours carries its base's name, any other its own.

    name: lm-eval's. metrics: all that the task reports, with whether higher is better. logged: its documents.
    """
    info = catalog.tasks().get(name)
    corpus = tuple(metric for metric in CORPUS_METRICS if metric in metrics and info and output_type == CHOICES)
    # A task of ours keeps a metric that no document has: a model that answers nothing is seen to.
    kept = [metric for metric in metrics if metric not in (UNSCORED, *CORPUS_METRICS)]
    metrics = {metric: metrics[metric] for metric in (kept if info else _numeric(logged, kept))}
    first = "acc" if "acc" in metrics else next(iter(metrics), "")
    return TaskRecord(
        task=info.base if info else name,
        lm_eval_task=name,
        orthography=info.orthography if info else "latin",
        prompt_id=info.prompt if info else "p1",
        version=version,
        n_shot=n_shot,
        n=n,
        n_all=n_all,
        primary=info.primary if info else first,
        metrics=metrics,
        output_type=output_type,
        chance=info.chance if info else None,
        baselines=_baselines(info, logged) if info else {},
        corpus_metrics=corpus,
    )


def _baselines(info: catalog.TaskInfo, logged: Sequence[Logged]) -> dict[str, float]:
    """What needs no reading, on the documents that were asked; none where a log has documents of another form."""
    documents = {row.get("doc_id"): row.get("doc") for row in logged}
    try:
        return baselines.of_documents(info, [doc for doc in documents.values() if isinstance(doc, Mapping)])
    except (KeyError, IndexError, TypeError):
        return {}
    except ImportError:
        # Those of written answers need the libraries that score them; reading what was scored doesn't.
        return {}


def read_samples(task: TaskRecord, logged: Iterable[Logged]) -> tuple[list[Sample], list[Score]]:
    """The records of one task's documents, in the order logged.

    task.metrics names the metrics to read; the others that a sample carries (tuples for corpus metrics) stay.
    A task with several filters logs a document once for each: every filter gives scores, the first the sample.
    """
    samples, scores = [], []
    first: str | None = None
    seen: dict[str, Counter[str]] = {}
    for row in logged:
        name = str(row.get("filter") or "none")
        first = first or name
        occurrence = seen.setdefault(name, Counter())
        sample = _sample(task, row, occurrence[row["doc_hash"]])
        occurrence[row["doc_hash"]] += 1
        if name == first:
            samples.append(sample)
        scores += [_score(sample, metric, name, row) for metric in task.metrics]
    return samples, scores


def _sample(task: TaskRecord, row: Logged, occurrence: int) -> Sample:
    doc = row.get("doc")
    doc = doc if isinstance(doc, Mapping) else {}
    arguments = _arguments(row.get("arguments"))
    answers = _answers(row)
    prompt = str(arguments[0][0]) if arguments else ""
    choices: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()
    response: str | None
    if task.output_type == CHOICES:
        choices = tuple(str(argument[1]).strip() for argument in arguments)
        logprobs = tuple(float(answer[0]) for answer in answers)
        response = _likeliest(choices, logprobs, by_bytes=task.primary == BY_BYTES)
    else:
        answer = answers[0] if answers else None
        # A task of log-likelihoods answers with numbers; they are kept as they are written.
        response = answer if isinstance(answer, str) or answer is None else str(answer)
    return Sample(
        task=task.task,
        orthography=task.orthography,
        prompt_id=task.prompt_id,
        item_id=str(doc.get("id") or ""),
        group=str(doc.get("group") or ""),
        occurrence=occurrence,
        doc_hash=str(row["doc_hash"]),
        prompt_hash=str(row.get("prompt_hash") or ""),
        prompt=prompt,
        target=_target(row.get("target"), choices),
        choices=choices,
        response=response,
        logprobs=logprobs,
        slice=str(doc.get("slice") or ""),
    )


def _likeliest(choices: Sequence[str], logprobs: Sequence[float], *, by_bytes: bool) -> str | None:
    """The choice that the primary metric takes for the answer."""
    if not logprobs or len(logprobs) != len(choices):
        return None
    worth = [
        logprob / max(1, len(choice.encode())) if by_bytes else logprob
        for logprob, choice in zip(logprobs, choices, strict=True)
    ]
    return choices[worth.index(max(worth))]


def _score(sample: Sample, metric: str, name: str, row: Logged) -> Score:
    return Score.of(sample, metric, *_value(row, metric), filter=name)


def _value(row: Logged, metric: str) -> tuple[float | None, str | None]:
    if row.get(UNSCORED):
        return None, NO_ANSWER
    if metric not in row:
        return None, "metric missing"
    value = row[metric]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return (float(value), None) if isinstance(value, bool) else (None, "not a number")
    if not math.isfinite(value):
        return None, "not a number"
    if not 0 <= value <= 1:
        return None, "outside [0,1]"
    return float(value), None


def _numeric(logged: Sequence[Logged], known: Iterable[str]) -> list[str]:
    """Of a task's metrics, those that have a number for some document."""
    return [metric for metric in known if any(isinstance(row.get(metric), (int, float)) for row in logged)]


def _arguments(arguments: Any) -> list[tuple[Any, ...]]:
    if isinstance(arguments, Mapping):
        return [tuple(argument.values()) for argument in arguments.values()]
    return [tuple(argument) for argument in arguments or ()]


def _answers(row: Logged) -> list[Any]:
    answers = row.get("filtered_resps")
    return list(answers) if answers else [answer[0] for answer in row.get("resps") or () if answer]


def _target(target: Any, choices: Sequence[str]) -> str:
    # The target of a choice is its number, which lm-eval writes to a file as text.
    if isinstance(target, int) or (isinstance(target, str) and target.isdigit()):
        number = int(target)
        if number < len(choices):
            return choices[number]
    return str(target)
