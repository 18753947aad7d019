"""Asking, scoring, comparing, deciding.

    import harness
    base, tuned = harness.run(harness.RunSpec(model="gemma-3-270m"), adapters=["adapters/uz"])
    harness.compare(base, tuned)
    harness.gate(base, tuned)

Names are loaded when they are first used: `import harness` reads nothing else.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.comparison import compare
    from harness.evaluate import run
    from harness.gate import gate
    from harness.imports import import_runs
    from harness.leaderboard import leaderboard
    from harness.records import Comparison, GateResult, Leaderboard, Metric, Run, RunSpec, Sample, Score
    from harness.runs import RunDirectory, find_runs, open_run

_HOMES = {
    "compare": "harness.comparison",
    "run": "harness.evaluate",
    "gate": "harness.gate",
    "import_runs": "harness.imports",
    "leaderboard": "harness.leaderboard",
    "find_runs": "harness.runs",
    "open_run": "harness.runs",
    "RunDirectory": "harness.runs",
    "Comparison": "harness.records",
    "GateResult": "harness.records",
    "Leaderboard": "harness.records",
    "Metric": "harness.records",
    "Run": "harness.records",
    "RunSpec": "harness.records",
    "Sample": "harness.records",
    "Score": "harness.records",
}

__all__ = [
    "Comparison",
    "GateResult",
    "Leaderboard",
    "Metric",
    "Run",
    "RunDirectory",
    "RunSpec",
    "Sample",
    "Score",
    "compare",
    "find_runs",
    "gate",
    "import_runs",
    "leaderboard",
    "open_run",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Keeps a function from being hidden by the module of its name: an import sets the module as an attribute.

    See https://docs.python.org/3/reference/datamodel.html#customizing-module-attribute-access
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
