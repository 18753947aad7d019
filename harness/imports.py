"""Importing what stock lm-eval wrote, as runs that compare, gate and rank like our own.

`lm_eval run … --output_path D --log_samples` leaves, directly in D or in a folder a model:

    results_2026-09-14T10-11-12.345678.json
    samples_uz_topic_2026-09-14T10-11-12.345678.jsonl
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

from harness import provenance
from harness.errors import DataError, RecordError, UsageError
from harness.records import Run, RunSpec, Sample, Score, TaskRecord, digest
from harness.runs import RunDirectory, slug, write_run
from harness.scoring import read_samples, task_record

_STAMP = re.compile(r"results_(.+)\.json$")


def import_runs(
    directory: str | PathLike[str], *, model: str | None = None, out: Path = Path("runs")
) -> list[RunDirectory]:
    """Imports every model's newest results below a directory.

    model: what to call it, where there is one model. Raises RecordError, DataError, UsageError.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise RecordError(f"{directory}: no such directory.")
    found = _newest_results(directory)
    if not found:
        raise RecordError(
            f"{directory} holds no results_*.json, nor do its folders. "
            "Expected what `lm_eval run --output_path DIR --log_samples` writes."
        )
    if model is not None and len(found) > 1:
        raise UsageError(f"--model names one model, {directory} holds {len(found)}.")
    return [_import(path, model, Path(out)) for path in found]


def _newest_results(directory: Path) -> list[Path]:
    """The newest results of each folder; stamps sort by time."""
    newest: dict[Path, Path] = {}
    for path in sorted([*directory.glob("results_*.json"), *directory.glob("*/results_*.json")], key=lambda p: p.name):
        newest[path.parent] = path
    return [newest[folder] for folder in sorted(newest)]


def _import(path: Path, model: str | None, out: Path) -> RunDirectory:
    results = _read_results(path)
    for needed in ("results", "configs", "versions", "n-samples"):
        if needed not in results:
            raise DataError(path, f"no {needed!r}, expected the results of lm-eval 0.4.4 or newer")
    config = results.get("config") or {}
    name = model or str(results.get("model_name") or config.get("model") or path.parent.name)
    match = _STAMP.search(path.name)
    stamp = match.group(1) if match else ""
    records, samples, scores = [], [], []
    for task in results["results"]:
        if task not in results["configs"]:
            continue  # A group: its tasks stand beside it.
        logged = list(_read_logged(path.parent / f"samples_{task}_{stamp}.jsonl", task))
        record = _task_record(task, results, logged)
        some_samples, some_scores = read_samples(record, logged)
        records.append(record)
        samples += some_samples
        scores += some_scores
    return _write(out, name, path, results, records, samples, scores)


def _task_record(task: str, results: dict[str, Any], logged: list[dict[str, Any]]) -> TaskRecord:
    config = results["configs"][task]
    counts = results["n-samples"].get(task) or {}
    # "acc,none" → acc; the standard errors are ours to compute.
    reported = dict.fromkeys(
        key.split(",", 1)[0] for key in results["results"][task] if "," in key and "_stderr," not in key
    )
    higher = (results.get("higher_is_better") or {}).get(task) or {}
    return task_record(
        task,
        version=str(results["versions"].get(task)),
        n_shot=int((results.get("n-shot") or {}).get(task) or config.get("num_fewshot") or 0),
        n=len({row["doc_id"] for row in logged if "doc_id" in row}) or len(logged),
        n_all=int(counts.get("original") or len(logged)),
        metrics={metric: bool(higher.get(metric, True)) for metric in dict.fromkeys([*higher, *reported])},
        output_type=str(config.get("output_type") or "generate_until"),
        logged=logged,
    )


def _write(
    out: Path,
    name: str,
    path: Path,
    results: dict[str, Any],
    records: list[TaskRecord],
    samples: list[Sample],
    scores: list[Score],
) -> RunDirectory:
    config = results.get("config") or {}
    limit = config.get("limit")
    spec = RunSpec(
        model=name,
        backend="hf",
        tasks=tuple(record.lm_eval_task for record in records),
        # A fraction of the documents is a limit too, whose count the tasks' records carry.
        limit=int(limit) if isinstance(limit, (int, float)) and limit >= 1 else None,
    )
    key = digest(["lm-eval", name, config.get("model_args"), results.get("git_hash")])
    spec_hash = digest([spec.to_dict(), str(results.get("date")), path.name])
    seconds = results.get("total_evaluation_time_seconds")
    run = Run(
        run_id=f"{slug(name.rstrip('/').split('/')[-1])}-{digest([spec_hash, key])[:10]}",
        spec=spec,
        spec_hash=spec_hash,
        model_key=key,
        model_name=name.rstrip("/").split("/")[-1],
        created=_created(results.get("date")),
        complete=True,
        source="lm-eval",
        tasks=tuple(records),
        git_commit=results.get("git_hash"),
        versions={
            package: str(results[field])
            for package, field in (("lm_eval", "lm_eval_version"), ("transformers", "transformers_version"))
            if results.get(field)
        },
        timings={"ask_s": float(seconds)} if seconds else {},
        notes=(f"Imported from {path.name}.",),
    )
    return write_run(out / run.run_id, run, samples, scores)


def _created(date: Any) -> str:
    if isinstance(date, (int, float)) and math.isfinite(date):
        return datetime.fromtimestamp(date, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return provenance.now()


def _read_results(path: Path) -> dict[str, Any]:
    # lm-eval writes NaN, which JSON doesn't know and Python's reader takes.
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(path, f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise DataError(path, "expected a JSON object")
    return document


def _read_logged(path: Path, task: str) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise RecordError(f"{path}: missing. Task {task} has no samples; run lm_eval with --log_samples.")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(path, f"not JSON: {error.msg}", line=number) from None
            if not isinstance(row, dict) or "doc_hash" not in row:
                raise DataError(path, "no doc_hash, expected a sample that lm-eval logged", line=number)
            yield row
