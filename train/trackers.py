"""Losses and scores, told to whoever keeps curves: TensorBoard, Weights & Biases, Trackio, where they are installed.

    loss, learning_rate, tokens_per_second      each step
    score, base, delta, delta_low, delta_high   each evaluation, in [0,1]

TensorBoard's files lie in out.logs/. Weights & Biases goes to its server unless WANDB_MODE=offline says otherwise;
Trackio keeps a file on this machine. Nobody is told anything who isn't named in the recipe.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.records import Overall
    from train.loop import Loop
    from train.recipe import Recipe

PROJECT = "uzbench"


class Tracker(Protocol):
    """Keeps named numbers by step."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Takes the numbers of a step."""
        ...

    def close(self) -> None:
        """Writes what is still held."""
        ...


def check_trackers(names: Sequence[str]) -> None:
    """Raises UsageError for a tracker that isn't installed."""
    for name in names:
        if find_spec(name) is None:
            raise UsageError(f"trackers: {name} isn't installed. Try: pip install {name}")


class Trackers:
    """All trackers of a training."""

    def __init__(self, trackers: Sequence[Tracker]):
        self._trackers = trackers
        self._n_told: int | None = None
        self._clock = (0, time.monotonic())

    def passed(self, loop: Loop, step: int) -> bool:
        """Tells what is new after a step: a loss is read one step late. Never stops a run."""
        if self._n_told is None:
            self._n_told = step - 1  # Those of a checkpoint were told.
        tokens, now = self._clock
        rate = (loop.log.tokens - tokens) / max(time.monotonic() - now, 1e-9)
        for at, loss in loop.log.losses[self._n_told :]:
            values = {"loss": loss, "learning_rate": loop.learning_rate(at - 1)}
            if tokens:
                values["tokens_per_second"] = rate
            self._tell(values, at)
        self._n_told = len(loop.log.losses)
        self._start_clock(loop)
        return False

    def scored(self, loop: Loop, overall: Overall) -> None:
        """Tells the score of an evaluation, whose time isn't training's."""
        low, high = overall.ci95
        values = {"score": overall.cand, "base": overall.base, "delta": overall.delta}
        self._tell({**values, "delta_low": low, "delta_high": high}, loop.step)
        self._start_clock(loop)

    def _start_clock(self, loop: Loop) -> None:
        self._clock = loop.log.tokens, time.monotonic()

    def _tell(self, values: Mapping[str, float], step: int) -> None:
        with redirect_stdout(sys.stderr):
            for tracker in self._trackers:
                tracker.log(values, step)


@contextmanager
def tracking(recipe: Recipe, key: str, *, leads: bool = True) -> Iterator[Trackers]:
    """A recipe's trackers, which hold all when the block is left.

    key: of the training, which a resumed one shares. leads: whether this process is the one that tells.
    Raises UsageError for one that can't start.
    """
    with redirect_stdout(sys.stderr):
        trackers = [_tracker(name, recipe, key) for name in recipe.trackers] if leads else []
    try:
        yield Trackers(trackers)
    finally:
        with redirect_stdout(sys.stderr):
            for tracker in trackers:
                tracker.close()


def _tracker(name: str, recipe: Recipe, key: str) -> Tracker:
    out = Path(recipe.out)
    if name == "tensorboard":
        return _TensorBoard(out.with_name(f"{out.name}.logs"))
    module: Any = import_module(name)
    settings = {"project": PROJECT, "name": f"{out.name}-{key}", "config": recipe.to_dict(), "resume": "allow"}
    if name == "wandb":
        settings["id"] = key  # Trackio knows a run by its name.
    try:
        module.init(**settings)
    except getattr(module, "Error", RuntimeError) as error:
        raise UsageError(f"trackers: {name} doesn't start: {str(error).splitlines()[0]}") from error
    return _Service(module)


class _TensorBoard:
    def __init__(self, folder: Path):
        self._folder = folder
        self._writer: Any = None

    def log(self, values: Mapping[str, float], step: int) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What a killed run told of later steps is told again.
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Service:
    """wandb, and trackio, whose functions are called as wandb's are."""

    def __init__(self, module: Any):
        self._module = module

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        self._module.finish()
