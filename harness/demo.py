"""The main job on a small real model, offline: tune an adapter, ask it and its base, compare.

gemma-3-270m comes from its package and is converted once. The adapter is trained on the Uzbek rows of
train/data/demo_uz.jsonl. Base and adapter are asked `uz_demo` in the adapter's prompt format, in Latin and
Cyrillic; the base once more plain, which tells how much of a difference the format alone makes.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from harness.comparison import compare
from harness.engine.packaged import GEMMA, checkpoint
from harness.errors import UzBenchError
from harness.evaluate import run
from harness.files import write_json
from harness.manifest import read_manifest
from harness.provenance import file_digest
from harness.records import MACRO, Comparison, RunSpec, Series
from harness.runs import RunDirectory
from harness.series import series
from reports.format import duration, for_terminal, interval, points
from reports.html import write_page
from reports.markdown import headline_table, write_report
from tasks_uz.catalog import DEMO

RECIPE = Path(__file__).resolve().parent.parent / "train" / "recipes" / "demo_cpu.yaml"

QUICK_STEPS = 8
QUICK_LIMIT = 4

NEW_TOKENS = 64
"""Tokens an answer may have: a base that never stops would spend most of the demo's time on its summaries."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The adapter against its base, in one format; paths that were written."""

    comparison: Comparison
    paths: list[Path]


def run_demo(out: Path, *, quick: bool = False) -> DemoResult:
    """Runs the demo into a directory; a killed demo goes on where it was.

    quick: a few steps of training and a few documents in one alphabet, to see that everything works.
    """
    start = time.perf_counter()
    out = out / "quick" if quick else out
    _say(f"{GEMMA.name}: {GEMMA.licence}.")
    model = checkpoint(GEMMA)
    converted = time.perf_counter()
    adapter = _adapter(model, out / "adapter", quick)
    trained = time.perf_counter()

    spec = RunSpec(
        model=GEMMA.name,
        tasks=(DEMO,),
        orthographies=("latin",) if quick else ("latin", "cyrillic"),
        limit=QUICK_LIMIT if quick else None,
        gen_kwargs={"max_gen_toks": NEW_TOKENS},
        prompt_format="alpaca",
    )
    progress = sys.stderr.isatty()
    base, tuned = run(spec, adapters=[str(adapter)], out=out / "runs", progress=progress)
    plain_spec = replace(spec, prompt_format="plain")
    (plain,) = run(plain_spec, out=out / "runs", progress=progress)

    comparison = compare(base, tuned)
    runs = series([plain, base, tuned], [compare(plain, base), compare(plain, tuned)])
    paths = _write(out, comparison, base, tuned, runs)
    _say("\n" + for_terminal(headline_table(comparison)))
    _say(_format_effect(runs))
    end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    _say(
        f"Conversion {duration(converted - start)}, training {duration(trained - converted)}, asking and comparing "
        f"{duration(end - trained)}, together {duration(end - start)}; peak memory {peak:.1f} GiB."
    )
    if quick:
        _say("A quick demo shows that everything works; its numbers mean nothing.")
    return DemoResult(comparison, [*paths, base.path, tuned.path, plain.path, adapter])


def _adapter(model: Path, adapter: Path, quick: bool) -> Path:
    from train.qlora import train
    from train.recipe import read_recipe

    overrides = [f"out={adapter}"]
    if quick:
        overrides.append(f"max_steps={QUICK_STEPS}")
    recipe = read_recipe(RECIPE, overrides)
    try:
        manifest = read_manifest(adapter)
    except UzBenchError:
        manifest = None
    if manifest and manifest.recipe == recipe.to_dict() and manifest.data_sha256 == file_digest(Path(recipe.data)):
        _say(f"The adapter {adapter} is trained already.")
        return adapter
    _say(f"Training {adapter} on {recipe.data} …")
    result = train(recipe, progress=sys.stderr.isatty())
    _say(
        f"{result.manifest.n_rows} rows, {result.manifest.steps} steps, loss "
        f"{result.manifest.losses[0][1]:.2f} → {result.manifest.losses[-1][1]:.2f}."
    )
    # The trainer and its optimizer hold each other; the memory is wanted for asking.
    gc.collect()
    return result.adapter


def _write(out: Path, comparison: Comparison, base: RunDirectory, tuned: RunDirectory, runs: Series) -> list[Path]:
    return [
        write_json(out / "comparison.json", comparison.to_dict()),
        write_report(comparison, base, tuned, out / "report.md"),
        write_page(comparison, base, tuned, out / "report.html", runs),
    ]


def _format_effect(runs: Series) -> str:
    """What the prompt format alone does to the base: the macro averages, alpaca against plain."""
    parts = [
        f"{row.orthography} {points(row.format)} points {interval(row.format_ci95)}"
        for split in runs.splits
        for row in split.rows
        if row.task == MACRO
    ]
    return f"The base asked in the adapter's format instead of plain: {'; '.join(parts)}."


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
