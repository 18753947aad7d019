"""A full device, in whichever words a library says it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path

from safetensors import SafetensorError

from harness.errors import disk_faults


@contextmanager
def weights_disk_faults(place: Path) -> Iterator[None]:
    """disk_faults, also for torch and safetensors, whose errors for a full device are their own."""
    with disk_faults(place):
        try:
            yield
        except (RuntimeError, SafetensorError) as error:
            if "No space left" in str(error) or "PytorchStreamWriter failed writing" in str(error):
                raise OSError(ENOSPC, os.strerror(ENOSPC)) from error
            raise
