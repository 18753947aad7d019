"""The training loop: steps of so many rows, AdamW, a schedule, checkpoints.

transformers' Trainer (and TRL's, which is one) takes a fixed number of batches a step, pads or bins rows before it
shuffles them, and puts autocast around every product; it writes checkpoints in place. Here a step is so many rows in
as few passes as memory allows, and all that it does follows from its number: a run that was killed at any moment
comes to the same bits. What TRL computes is the test of it: the same rows in the same order give the same losses.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from harness.errors import ModelError
from train import checkpoints
from train.data import TokenData
from train.packing import Packed, Schedule, divided, passes
from train.planning import Plan
from train.recipe import Recipe
from train.team import Team


class Learner(Protocol):
    """What computes losses and their gradients.

    recompute: layers, from the first, whose activations are computed twice.
    """

    recompute: int

    def learn(self, packed: Packed, *, seed: int, n_trained: int) -> torch.Tensor:
        """Adds a pass's part to the gradient of the mean over n_trained tokens; returns its part of that mean."""
        ...

    def unpack(self, layers: int) -> None:
        """Keeps the dequantized weights of so many layers, from the first."""
        ...

    def refresh(self) -> None:
        """Called when the trained parameters have changed."""
        ...


@dataclass(slots=True)
class Log:
    """What has happened so far: (step, loss in nats a trained token), (step, score), seconds, tokens.

    margins: of dpo, (step, margin in nats a pair).
    """

    losses: list[tuple[int, float]] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0
    margins: list[tuple[int, float]] = field(default_factory=list)


class Loop:
    """One training run, from whatever step it has come to.

    passed: called after each optimizer step with its number, counted from 1; True stops the run. say: takes a line
    for the person who waits. replan: from a plan that didn't fit into memory to one that may, or raises.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Any,
        learner: Learner,
        data: TokenData,
        folder: Path,
        plan: Plan,
        *,
        team: Team | None = None,
        progress: bool = False,
        limit: float | None = None,
        passed: Callable[[Loop, int], bool] = lambda loop, step: False,
        replan: Callable[[Plan], Plan] | None = None,
    ):
        self.recipe, self.model, self.learner, self.data, self.folder, self.plan = (
            recipe, model, learner, data, folder, plan,
        )  # fmt: skip
        self.team = team or Team()
        self.lengths = [len(row.ids) for row in data.rows]
        self.schedule = Schedule(len(data.rows), recipe.rows_per_step, recipe.epochs, recipe.max_steps, recipe.seed)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=self.parameters[0].is_cuda,
        )
        self.log, self.step = Log(), 0
        self._passed, self._replan = passed, replan
        self._limit = limit
        self._bar = tqdm(desc="training", unit="step", file=sys.stderr, disable=not progress)

    def go_on_from(self, checkpoint: Path) -> int:
        """Takes up a checkpoint; returns its step."""
        state = checkpoints.load(checkpoint, self.model, self.optimizer)
        self.step = state["step"]
        self.log = Log(
            [(step, loss) for step, loss in state["losses"]],
            [(step, score) for step, score in state["scores"]],
            state["seconds"],
            state["tokens"],
        )
        self.learner.refresh()
        self.say(f"Going on from step {self.step}: {checkpoint}")
        return self.step

    def say(self, line: str) -> None:
        """A line on stderr, where there is a bar."""
        if not self._bar.disable:
            self._bar.write(line, file=sys.stderr)

    def run(self) -> Log:
        """Trains to the last step, or until `passed` says so.

        Raises ModelError where the loss is no number; OSError where a checkpoint can't be written.
        """
        self._bar.reset(total=self.schedule.steps)
        self._bar.initial = self._bar.n = self.step
        self.learner.recompute = self.plan.recompute
        self.learner.unpack(self.plan.unpacked)
        before, started, first = self.log.seconds, time.monotonic(), self.log.tokens
        with self._bar, self._prepared() as prepared:
            waiting: torch.Tensor | None = None
            while self.step < self.schedule.steps:
                batches, n_tokens, n_trained = prepared(self.step)
                loss = self._learn(batches, n_trained)
                # The last step's loss is read while the device works on this one.
                self._read(waiting)
                waiting = loss
                self.step += 1
                self.log.tokens += n_tokens
                self.log.seconds = before + time.monotonic() - started
                self._show((self.log.tokens - first) / (self.log.seconds - before))
                saves = self.step % self.recipe.save_steps == 0 and self.step < self.schedule.steps
                looks = self.recipe.eval_steps and self.step % self.recipe.eval_steps == 0
                if saves or looks:
                    self._read(waiting)
                    waiting = None
                stop = self._passed(self, self.step)
                if saves and not stop:
                    self.save()
                if stop:
                    break
            self._read(waiting)
            self.log.seconds = before + time.monotonic() - started
        return self.log

    def save(self) -> None:
        """Writes a checkpoint of where the run has come to."""
        if self.team.number == 0:
            log = {
                "seconds": self.log.seconds,
                "tokens": self.log.tokens,
                "losses": self.log.losses,
                "scores": self.log.scores,
            }
            checkpoints.save(self.folder, self.step, self.model, self.optimizer, log, self.recipe.keep_checkpoints)
        self.team.wait()

    def learning_rate(self, step: int) -> float:
        """Of a step, counted from 0, as transformers' schedules of the same names have it (5.23, optimization.py)."""
        recipe, steps = self.recipe, self.schedule.steps
        warm_up = math.ceil(steps * recipe.warmup_ratio)
        if step < warm_up:
            return recipe.learning_rate * step / max(1, warm_up)
        done = (step - warm_up) / max(1, steps - warm_up)
        share = {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "constant": 1.0}
        return recipe.learning_rate * max(0.0, share[recipe.schedule])

    def _learn(self, batches: list[Packed], n_trained: int) -> torch.Tensor:
        """One optimizer step; returns its mean loss on the device, before the step."""
        while True:
            try:
                total = self._gradients(batches, n_trained)
                break
            except torch.OutOfMemoryError:
                if self._replan is None or self.team.n > 1:
                    raise
            # Only behind the exception is what the pass had computed let go of.
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            self.plan = self._replan(self.plan)
            self.learner.recompute = self.plan.recompute
            batches, _, _ = self._batches(self.step)
        for parameter in self.parameters:
            if parameter.grad is None:  # this process had no rows
                parameter.grad = torch.zeros_like(parameter)
        self.team.add([*(parameter.grad for parameter in self.parameters), total])
        if self.recipe.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.learner.refresh()
        return total

    def _gradients(self, batches: list[Packed], n_trained: int) -> torch.Tensor:
        total = torch.zeros((), device=self.parameters[0].device)
        for number, packed in enumerate(batches):
            # What is dropped depends on the step and the pass alone.
            seed = (self.recipe.seed * 1_000_003 + self.step) * 4096 + number * self.team.n + self.team.number
            total += self.learner.learn(packed, seed=seed % 2**31, n_trained=n_trained)
        return total

    def _batches(self, step: int) -> tuple[list[Packed], int, int]:
        """A step's passes of this process; tokens and trained tokens of all processes' passes."""
        rows = self.schedule.rows(step)
        batches = [Packed.of([self.data.rows[row] for row in part]) for part in self.parts(rows)]
        if self.team.sharded:
            # Weights are gathered by all processes or none.
            most = max(len(self.parts(rows, number)) for number in range(self.team.n))
            batches += [Packed.idle()] * (most - len(batches))
        n_trained = sum(len(row.ids) - max(row.n_prompt, 1) for row in (self.data.rows[at] for at in rows))
        return batches, sum(self.lengths[row] for row in rows), n_trained

    def parts(self, rows: Sequence[int], number: int | None = None) -> list[list[int]]:
        """A step's rows in the passes of this process, or of another one by its number."""
        number = self.team.number if number is None else number
        shares = divided([self.lengths[row] for row in rows], self.team.n)
        if number >= len(shares):
            return []
        mine = [rows[at] for at in shares[number]]
        return [
            [mine[at] for at in part] for part in passes([self.lengths[row] for row in mine], self.plan.most_tokens)
        ]

    @contextmanager
    def _prepared(self) -> Iterator[Callable[[int], tuple[list[Packed], int, int]]]:
        """The steps' passes, laid out while the device works on the step before."""
        with ThreadPoolExecutor(1) as worker:
            waiting: dict[int, tuple[Plan, Future[tuple[list[Packed], int, int]]]] = {}

            def prepared(step: int) -> tuple[list[Packed], int, int]:
                plan, future = waiting.pop(step, (None, None))
                found = future.result() if future is not None and plan is self.plan else self._batches(step)
                if step + 1 < self.schedule.steps:
                    waiting[step + 1] = self.plan, worker.submit(self._batches, step + 1)
                return found

            yield prepared

    def _read(self, loss: torch.Tensor | None) -> None:
        if loss is None:
            return
        value = loss.item()
        step = len(self.log.losses) + 1
        if not math.isfinite(value):
            raise ModelError(
                f"The loss of step {step} is {value}: training ran away. "
                f"Try: learning_rate={self.recipe.learning_rate / 4:.2g}"
            )
        self.log.losses.append((step, value))

    def _show(self, rate: float) -> None:
        if self._bar.disable:
            return
        shown = {"loss": f"{self.log.losses[-1][1]:.3f}"} if self.log.losses else {}
        shown["tok/s"] = f"{rate:,.0f}"
        if self._limit:
            shown["of limit"] = f"{rate / self._limit / self.team.n:.0%}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()
