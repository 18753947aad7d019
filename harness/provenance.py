"""Where a result comes from: code, package versions, machine, and digests of weights."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.config import cache_dir
from harness.errors import UzBenchError
from harness.files import read_json, write_json

PACKAGES = (
    "uzbench",
    "lm_eval",
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "datasets",
    "alifbo",
)


def now() -> str:
    """The time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def git_commit() -> str | None:
    """The commit of this checkout, "+" appended where files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}+" if dirty else head


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Installed versions; a package that isn't installed is left out."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GiB, and the CUDA device if torch is loaded."""
    found: dict[str, Any] = {"processor": _processor(), "cores": len(os.sched_getaffinity(0))}
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    found["memory_gib"] = round(pages * size / 2**30, 1)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        found["gpu"] = device.name
        found["gpu_memory_gib"] = round(device.total_memory / 2**30, 1)
        found["gpus"] = torch.cuda.device_count()
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file; remembered in the cache by place, size and time of change."""
    path = path.resolve()
    status = path.stat()
    mark = f"{path}|{status.st_size}|{status.st_mtime_ns}"
    known = _known_digests()
    if mark not in known:
        with path.open("rb") as file:
            known[mark] = hashlib.file_digest(file, "sha256").hexdigest()
        # A cache that can't be written costs time, nothing else.
        with suppress(OSError, UzBenchError):
            write_json(_digest_cache(), {"digests": known})
    return known[mark]


def _digest_cache() -> Path:
    return cache_dir() / "digests.json"


@lru_cache(maxsize=1)
def _known_digests() -> dict[str, str]:
    path = _digest_cache()
    try:
        return dict(read_json(path)["digests"]) if path.is_file() else {}
    except (UzBenchError, KeyError, OSError):
        return {}  # A damaged cache is made anew.


def directory_digest(directory: Path, patterns: Iterable[str]) -> str:
    """SHA-256 (hex) over the names and contents of a directory's files that match."""
    total = hashlib.sha256()
    files = sorted({path for pattern in patterns for path in directory.glob(pattern) if path.is_file()})
    for path in files:
        total.update(f"{path.name}:{file_digest(path)}\n".encode())
    return total.hexdigest()


WEIGHTS = ("*.safetensors", "*.bin", "*.index.json", "config.json")
TOKENIZER = (
    "tokenizer*.json",
    "tokenizer.model",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)
ADAPTER = ("adapter_model.*", "adapter_config.json")
