"""What is put in the place of a model's own functions, and taken back: a model that is trained is only lent."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any


class Changes(ExitStack):
    """Attributes of modules, torch's or Python's, that are others until this is closed."""

    def put(self, holder: Any, name: str, value: Any) -> None:
        """Sets an attribute; closing sets it back, or takes it away where the holder's class had it."""
        if name in vars(holder):
            self.callback(setattr, holder, name, vars(holder)[name])
        else:
            self.callback(delattr, holder, name)
        setattr(holder, name, value)
