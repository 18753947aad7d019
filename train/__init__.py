"""Making a model: recipes, data checks, QLoRA, and full weights of an adapter.

    from train import merge, read_recipe, train
    result = train(read_recipe("train/recipes/demo_cpu.yaml", ["out=my-adapter"]))
    merge(result.adapter, "my-model")

The names are looked up when they are used, so that `import train` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError

if TYPE_CHECKING:
    from train.check import DataReport, check_data
    from train.merging import MergeResult, merge
    from train.qlora import TrainResult, train
    from train.recipe import Recipe, read_recipe
    from train.selfinstruct.generating import Choices, Generated, generate

__all__ = [
    "Choices",
    "DataReport",
    "Generated",
    "MergeResult",
    "Recipe",
    "TrainResult",
    "check_data",
    "generate",
    "merge",
    "read_recipe",
    "train",
]

_HOMES = {
    "Choices": "train.selfinstruct.generating",
    "Generated": "train.selfinstruct.generating",
    "generate": "train.selfinstruct.generating",
    "DataReport": "train.check",
    "MergeResult": "train.merging",
    "Recipe": "train.recipe",
    "TrainResult": "train.qlora",
    "check_data": "train.check",
    "merge": "train.merging",
    "read_recipe": "train.recipe",
    "train": "train.qlora",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'train' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package in ("train", "harness", "tasks_uz"):
            raise
        raise UsageError(f"Training needs {package}. Try: pip install 'uzbench[train]'") from None
