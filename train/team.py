"""Several processes that share a run, as `accelerate launch` starts them: one a GPU.

The rows of a step are divided between them by tokens, so that all are done at about the same time. Once a step the
gradients of the adapters are added up: that is all they say to each other, a hundredth of what a step computes. So
the step is the same step, however many compute it. Each has the whole base, or its share (train.sharded).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch


class Team:
    """The processes that share a run: how many, which this is, and whether they share the base. By itself: one."""

    n, number, sharded = 1, 0, False

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Makes each tensor its sum over all processes, in place."""

    def wait(self) -> None:
        """Until all have come here."""

    def close(self) -> None:
        """Lets go of the connection."""


class Processes(Team):
    """What `accelerate launch` has started."""

    def __init__(self) -> None:
        from accelerate import PartialState

        # On a CPU accelerate connects nobody unless it is told to.
        self._state = PartialState(cpu=not torch.cuda.is_available())
        self.n, self.number = self._state.num_processes, self._state.process_index
        self.sharded = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
        if self.sharded:
            # Else transformers leaves all processes but the first without weights.
            os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        # One message instead of hundreds.
        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def wait(self) -> None:
        self._state.wait_for_everyone()

    def close(self) -> None:
        self._state.destroy_process_group()


def make_team() -> Team:
    """The processes of this run, as the environment says."""
    return Processes() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Team()
