"""Who may import whom, and where each heavy package lives: read from the syntax tree, functions included.

The table of rooms: tasks_uz imports nothing of ours; harness imports tasks_uz; train both; reports the
records of a run; the front door (the command) imports all and is imported by nobody.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FRONT_DOOR = {"harness.cli", "harness.__main__", "harness.demo", "harness.chat"}

MAY_IMPORT = {
    "tasks_uz": ("tasks_uz",),
    "harness": ("harness", "tasks_uz"),
    "train": ("train", "harness", "tasks_uz"),
    "reports": ("reports", "tasks_uz"),
}

RECORDS = {
    "harness.errors",
    "harness.files",
    "harness.judge.records",
    "harness.manifest",
    "harness.records",
    "harness.runs",
}
"""What reports may read of the harness: records and the directories they lie in, nothing that computes."""

HOMES = {
    "datasets": ("tasks_uz.data", "train"),
    "lm_eval": ("harness.engine", "harness.evaluate"),
    "openai": ("harness.openai_client",),
    "peft": ("harness.engine", "train"),
    "torch": ("harness.engine", "harness.evaluate", "train"),
    "transformers": ("harness.engine", "harness.evaluate", "train"),
    "trl": ("train",),
}

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def violations(root: Path) -> list[str]:
    """Every import below a root that the rules forbid, as "file:line imports module"."""
    modules = {module_name(path, root): path for room in MAY_IMPORT for path in (root / room).rglob("*.py")}
    return [
        f"{path.relative_to(root)}:{line} imports {imported}"
        for module, path in sorted(modules.items())
        for line, imported in imports(path, module, set(modules))
        if not allowed(module, imported)
    ]


def allowed(module: str, imported: str) -> bool:
    package = imported.partition(".")[0]
    if package in HOMES:
        return any(inside(module, home) for home in HOMES[package])
    if package not in MAY_IMPORT or module in FRONT_DOOR:
        return True
    if imported in FRONT_DOOR:
        return False
    room = module.partition(".")[0]
    return package in MAY_IMPORT[room] or (room == "reports" and imported in RECORDS)


def inside(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, module: str, modules: set[str]) -> Iterator[tuple[int, str]]:
    """(line, module) of each import, wherever it stands; names given to import_module count as well."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    dynamic = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            source = absolute(node, module, path.name == "__init__.py")
            for alias in node.names:
                # `from harness import cli` imports a module, `from harness import run` a name.
                member = f"{source}.{alias.name}"
                yield node.lineno, member if member in modules else source
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            dynamic = dynamic or called in ("import_module", "__import__")
    if dynamic:
        # What import_module is given may come from a table: every name of a module in this file counts.
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _DOTTED.fullmatch(node.value):
                yield node.lineno, node.value


def absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, node.module] if node.module else parts)


def test_rooms_and_heavy_packages_are_imported_only_where_the_design_allows() -> None:
    assert violations(ROOT) == []


def test_every_module_of_the_four_rooms_is_read() -> None:
    found = {module_name(path, ROOT) for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py")}
    assert {
        "harness.cli",
        "harness.engine.lm",
        "tasks_uz.uz_topic.utils",
        "train.qlora",
        "reports.markdown",
    } <= found


@pytest.mark.parametrize("name", ["cli", "__main__"])
def test_command_imports_rooms_only_inside_the_command_that_needs_them(name: str) -> None:
    path = ROOT / "harness" / f"{name}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_the_top = {
        imported
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for imported in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        if imported.partition(".")[0] in MAY_IMPORT
    }
    assert at_the_top <= {"harness.errors"}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """The four rooms with a module each that imports what it may."""
    written = {
        "tasks_uz/__init__.py": "",
        "tasks_uz/text.py": "import re\n",
        "tasks_uz/data.py": "def rows():\n    from datasets import Dataset\n    from tasks_uz import text\n",
        "tasks_uz/uz_topic/utils.py": "from tasks_uz.data import rows\n",
        "harness/__init__.py": "",
        "harness/__main__.py": "from harness.cli import f\n",
        "harness/records.py": "from tasks_uz.text import re\n",
        "harness/evaluate.py": "def run():\n    import lm_eval.tasks\n    import torch\n",
        "harness/engine/__init__.py": "",
        "harness/engine/lm.py": "import torch\nfrom transformers import Cache\nfrom .. import records\n",
        "harness/openai_client.py": "import openai\n",
        "harness/stats.py": "",
        "harness/cli.py": (
            "def f():\n    import train.qlora\n    from harness import demo\n    from reports import page\n"
        ),
        "harness/demo.py": "from train import qlora\n",
        "harness/chat.py": "from harness.engine.lm import torch\n",
        "train/__init__.py": "from importlib import import_module\nimport_module('train.qlora')\n",
        "train/qlora.py": "import torch, trl, peft\nfrom harness.engine import lm\n",
        "reports/__init__.py": "",
        "reports/page.py": "from harness.records import re\nfrom tasks_uz import text\n",
    }
    for name, text in written.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_allowed_imports_are_let_pass(house: Path) -> None:
    assert violations(house) == []


@pytest.mark.parametrize(
    ("file", "code", "imported"),
    [
        ("tasks_uz/text.py", "import harness.records", "harness.records"),
        ("tasks_uz/uz_topic/utils.py", "from harness import records", "harness.records"),
        ("tasks_uz/text.py", "from reports.page import x", "reports.page"),
        ("tasks_uz/text.py", "def f():\n    from datasets import Dataset", "datasets"),
        ("tasks_uz/data.py", "import lm_eval", "lm_eval"),
        ("harness/stats.py", "from reports import page", "reports.page"),
        ("harness/stats.py", "class A:\n    def f(self):\n        import train.qlora as q", "train.qlora"),
        ("harness/stats.py", "if TYPE_CHECKING:\n    from train import qlora", "train.qlora"),
        ("harness/stats.py", "from . import cli", "harness.cli"),
        ("harness/engine/lm.py", "from ..demo import run", "harness.demo"),
        ("harness/engine/__init__.py", "from ..cli import main", "harness.cli"),
        ("harness/stats.py", "try:\n    import torch\nexcept ImportError:\n    pass", "torch"),
        ("harness/records.py", "def f():\n    from transformers import AutoConfig", "transformers"),
        ("harness/evaluate.py", "import openai", "openai"),
        ("harness/evaluate.py", "from trl import SFTTrainer", "trl"),
        ("harness/cli.py", "import torch", "torch"),
        ("harness/stats.py", "import importlib\nimportlib.import_module('reports.page')", "reports.page"),
        ("harness/stats.py", "__import__('torch.nn')", "torch.nn"),
        ("train/qlora.py", "from harness.cli import main", "harness.cli"),
        ("train/qlora.py", "from harness import chat", "harness.chat"),
        ("train/qlora.py", "import reports.page", "reports.page"),
        ("train/qlora.py", "from lm_eval import evaluator", "lm_eval"),
        ("reports/page.py", "from harness.evaluate import run", "harness.evaluate"),
        ("reports/page.py", "from harness import run", "harness"),
        ("reports/page.py", "from harness.engine.lm import x", "harness.engine.lm"),
        ("reports/page.py", "def f():\n    import train", "train"),
        ("reports/page.py", "from harness.stats import x", "harness.stats"),
    ],
)
def test_planted_forbidden_import_is_caught(house: Path, file: str, code: str, imported: str) -> None:
    path = house / file
    before = path.read_text(encoding="utf-8")
    path.write_text(f"{before}{code}\n", encoding="utf-8")
    first = before.count("\n") + 1
    (found,) = violations(house)
    place, _, what = found.partition(" imports ")
    name, _, line = place.rpartition(":")
    assert (name, what) == (file, imported)
    assert first <= int(line) <= first + code.count("\n")
