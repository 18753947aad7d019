"""Evaluation while training: the model in memory is asked, held against its base, and the best adapter kept.

    out.eval/runs/<model>-<hash>/            the base's run, asked before the first step
    out.eval/runs/<model>+<out>-100-<hash>/  the run of step 100, called <model>+<out>@100
    out.eval/runs/store.sqlite               their answers: a resumed training asks nothing again
    out.eval/report.html, …                  what the caller's `report` makes of them
    out.checkpoints/<…>/best/                the best adapter so far

All that is decided follows from the scores, which are kept in the checkpoints: a resumed run ends as an undisturbed
one does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harness.comparison import compare
from harness.engine.identity import Located
from harness.errors import UnpairedError, UsageError
from harness.evaluate import run_live, select
from harness.files import atomic_directory
from harness.records import Comparison, Overall, RunSpec
from harness.runs import RunDirectory, find_runs
from tasks_uz import catalog
from train.checkpoints import save_adapter
from train.loop import Log, Loop
from train.recipe import Recipe

BEST = "best"

Report = Callable[[Sequence[RunDirectory], Sequence[Comparison], int, Path], None]
"""Writes pages into a folder: of runs, the base's first, the comparisons of it with the others, and the best's place
among these."""


def live_spec(recipe: Recipe) -> RunSpec:
    """How a recipe's evaluations ask.

    Raises UnknownNameError, UsageError.
    """
    spec = RunSpec(
        model=recipe.model,
        revision=recipe.revision,
        quantization=recipe.quantization,
        dtype=recipe.dtype,
        tasks=recipe.eval_tasks,
        limit=recipe.eval_limit or None,
        prompt_format=recipe.prompt_format,
    )
    known = catalog.tasks()
    alphabets = sorted({known[name].orthography if name in known else "latin" for name in select(spec)[0]})
    if len(alphabets) > 1:
        raise UsageError(f"eval_tasks are in several alphabets ({', '.join(alphabets)}), which no average mixes.")
    return spec


def live_folder(recipe: Recipe) -> Path:
    """Where a recipe's evaluations lie."""
    out = Path(recipe.out)
    return out.with_name(f"{out.name}.eval")


def best_step(log: Log) -> int | None:
    """The step of the best score, the earliest of equals; None before the first."""
    scores = [(step, score) for step, score in log.scores if step]
    return max(scores, key=lambda each: each[1])[0] if scores else None


class Live:
    """Looks at a model every so many steps; what a Loop calls as `passed`.

    base: what the frozen weights were loaded from. folder: of the checkpoints. scored: told of each score.
    Raises UnknownNameError, UsageError for tasks that can't be asked.
    """

    def __init__(
        self,
        recipe: Recipe,
        base: Located,
        tokenizer: Any,
        folder: Path,
        *,
        report: Report | None = None,
        scored: Callable[[Loop, Overall], None],
        progress: bool = True,
    ):
        self._best = folder / BEST
        self._recipe, self._spec, self._tokenizer = recipe, live_spec(recipe), tokenizer
        self._base = base
        self._out = live_folder(recipe)
        self._report, self._scored, self._progress = report, scored, progress
        self._runs: dict[int, RunDirectory] = {}
        self._comparisons: dict[int, Comparison] = {}

    def start(self, loop: Loop) -> None:
        """Asks the base, and finds the runs of the steps that have their scores already."""
        if loop.team.number == 0:
            self._runs[0] = self._ask(loop, 0)
            known = {run.run.spec.adapter: run for run in reversed(find_runs(self._out / "runs")) if self._is_ours(run)}
            for step, _ in loop.log.scores:
                if self._name(step) in known:
                    self._runs[step] = known[self._name(step)]
                    self._comparisons[step] = compare(self._runs[0], self._runs[step])
        loop.team.wait()

    def __call__(self, loop: Loop, step: int) -> bool:
        """Asks the model if it is time to; True once it hasn't become better for so long that training may end."""
        if step % self._recipe.eval_steps and step < loop.schedule.steps:
            return False
        stop = torch.zeros(1, device=loop.parameters[0].device)
        if loop.team.number == 0:
            stop += self._look(loop, step)
        # All processes stop, or none.
        loop.team.add([stop])
        return bool(stop)

    def _look(self, loop: Loop, step: int) -> bool:
        run = self._ask(loop, step)
        try:
            comparison = compare(self._runs[0], run)
            overall = _overall(comparison, run)
        except UnpairedError as error:
            loop.say(f"Step {step} has no score: {error}")
        else:
            self._runs[step], self._comparisons[step] = run, comparison
            if not loop.log.scores:
                loop.log.scores.append((0, overall.base))
            loop.log.scores.append((step, overall.cand))
            best = best_step(loop.log)
            if best == step:
                with atomic_directory(self._best) as part:
                    save_adapter(loop.model, part)
            loop.say(_sentence(step, overall, best))
            self._write(best)
            self._scored(loop, overall)
        return self._has_waited(best_step(loop.log) or 0, step)

    def _has_waited(self, since: int, step: int) -> bool:
        """Whether so many evaluations have passed without a better score as the recipe allows."""
        every, patience = self._recipe.eval_steps, self._recipe.early_stop
        # The last step is looked at whatever its number.
        return bool(patience) and -(-step // every) - -(-since // every) >= patience

    def _ask(self, loop: Loop, step: int) -> RunDirectory:
        adapter = Located(self._name(step), None, _adapter_digest(loop.model)) if step else None
        return run_live(
            self._spec,
            loop.model,
            self._tokenizer,
            self._base,
            adapter=adapter,
            out=self._out / "runs",
            progress=self._progress,
        )

    def _name(self, step: int) -> str:
        return f"{self._recipe.out}@{step}"

    def _is_ours(self, run: RunDirectory) -> bool:
        return run.run.complete and replace(run.run.spec, adapter=None) == self._spec

    def _write(self, best: int | None) -> None:
        steps = sorted(self._comparisons)
        # Somebody may have taken the runs of earlier steps away.
        if self._report is not None and best in steps:
            comparisons = [self._comparisons[step] for step in steps]
            runs = [self._runs[0], *(self._runs[step] for step in steps)]
            self._report(runs, comparisons, steps.index(best), self._out)


def _overall(comparison: Comparison, run: RunDirectory) -> Overall:
    """The macro average over the tasks of a run, all of them.

    Raises UnpairedError where one has no score.
    """
    (overall,) = comparison.overall.values()
    asked = {task.task for task in run.run.tasks}
    if overall.n_tasks < len(asked):
        raise UnpairedError(
            f"{len(asked) - overall.n_tasks} of {len(asked)} tasks have no document that could be scored."
        )
    return overall


def _sentence(step: int, overall: Overall, best: int | None) -> str:
    low, high = overall.ci95
    beside = "the best so far" if best == step else f"the best was at step {best}"
    return (
        f"Step {step}: score {overall.cand:.3f}, {overall.delta:+.3f} against the base "
        f"(95 %: {low:+.3f} to {high:+.3f}); {beside}"
    )


def _adapter_digest(model: Any) -> str:
    """SHA-256 (hex) of all that an adapter does to its base: the trained weights, and how much they count."""
    total = hashlib.sha256()
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            total.update(f"{name}:{module.scaling}".encode())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            total.update(name.encode())
            total.update(parameter.detach().cpu().numpy().tobytes())
    return total.hexdigest()
