"""Runs written to the disk from scores alone, for tests of comparing and reporting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.records import Run, RunSpec, Sample, Score, TaskRecord, digest
from harness.runs import RunDirectory, write_run


@dataclass(frozen=True)
class Asked:
    """One task as it was asked and scored.

    values: metric to the score of each document, None where it is unscored; the first metric is the primary
    one. docs: a name for each document, repeated where a document repeats. groups: the passage of each.
    item_ids: of each, f"{task}-{docs}" where None. prompts, targets, responses: a text for each document.
    choices: the classes, where documents are classified. slices: of each. asked_as: changes every prompt_hash.
    """

    values: Mapping[str, Sequence[float | None]]
    task: str = "uz_topic"
    orthography: str = "latin"
    prompt_id: str = "p1"
    version: str = "1.0"
    n_shot: int = 0
    n_all: int | None = None
    chance: float | None = 0.25
    baselines: Mapping[str, float] = field(default_factory=dict)
    higher: bool = True
    docs: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    item_ids: Sequence[str] | None = None
    prompts: Sequence[str] | None = None
    targets: Sequence[str] | None = None
    responses: Sequence[str | None] | None = None
    choices: Sequence[str] = ()
    slices: Sequence[str] | None = None
    asked_as: str = ""

    @property
    def n(self) -> int:
        return len(next(iter(self.values.values())))


@dataclass(frozen=True)
class Asker:
    """Who was asked, and what else a run says of itself."""

    name: str = "base-model"
    adapter: str | None = None
    prompt_format: str = "plain"
    quantization: str = "none"
    source: str = "uzbench"
    subset: str | None = None
    complete: bool = True
    hardware: Mapping[str, Any] = field(default_factory=dict)
    git_commit: str | None = None


def made_run(path: Path, *tasks: Asked, by: Asker | None = None) -> RunDirectory:
    """Writes a run directory and opens it."""
    by = by or Asker()
    records, samples, scores = [], [], []
    for task in tasks:
        record = _record(task)
        records.append(record)
        for sample in _samples(task):
            samples.append(sample)
        for metric, values in task.values.items():
            scores += [_score(sample, metric, value) for sample, value in zip(_samples(task), values, strict=True)]
    spec = RunSpec(
        model=by.name,
        adapter=by.adapter,
        prompt_format=by.prompt_format,
        quantization=by.quantization,
        tasks=tuple(dict.fromkeys(task.task for task in tasks)),
    )
    run = Run(
        run_id=path.name,
        spec=spec,
        spec_hash=spec.spec_hash,
        model_key=digest([by.name, by.adapter]),
        model_name=by.name,
        created="2026-09-01T10:00:00Z",
        complete=by.complete,
        source=by.source,
        subset=by.subset,
        tasks=tuple(records),
        git_commit=by.git_commit,
        versions={"python": "3.11.7"},
        hardware=dict(by.hardware),
        timings={"ask_s": 75.2},
    )
    return write_run(path, run, samples, scores)


def _record(task: Asked) -> TaskRecord:
    return TaskRecord(
        task=task.task,
        lm_eval_task=f"{task.task}_{task.orthography}_{task.prompt_id}",
        orthography=task.orthography,
        prompt_id=task.prompt_id,
        version=task.version,
        n_shot=task.n_shot,
        n=task.n,
        n_all=task.n if task.n_all is None else task.n_all,
        primary=next(iter(task.values)),
        metrics=dict.fromkeys(task.values, task.higher),
        output_type="multiple_choice" if task.choices else "generate_until",
        chance=task.chance,
        baselines=dict(task.baselines),
        corpus_metrics=("macro_f1",) if task.choices else (),
    )


def _samples(task: Asked) -> list[Sample]:
    docs = list(task.docs or [f"{number:03d}" for number in range(task.n)])
    seen: Counter[str] = Counter()
    samples = []
    for number, doc in enumerate(docs):
        # A document's hash changes with its alphabet, its item_id doesn't.
        doc_hash = digest([task.task, task.orthography, doc])
        samples.append(
            Sample(
                task=task.task,
                orthography=task.orthography,
                prompt_id=task.prompt_id,
                item_id=task.item_ids[number] if task.item_ids else f"{task.task}-{doc}",
                group=task.groups[number] if task.groups else "",
                occurrence=seen[doc_hash],
                doc_hash=doc_hash,
                prompt_hash=digest([doc_hash, task.prompt_id, task.n_shot, task.asked_as]),
                prompt=task.prompts[number] if task.prompts else f"Savol {number}",
                target=task.targets[number] if task.targets else "javob",
                choices=tuple(task.choices),
                response=task.responses[number] if task.responses else "javob",
                logprobs=(),
                slice=task.slices[number] if task.slices else "",
            )
        )
        seen[doc_hash] += 1
    return samples


def _score(sample: Sample, metric: str, value: float | None) -> Score:
    return Score.of(sample, metric, value, "no answer" if value is None else None)
