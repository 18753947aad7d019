"""Full weights as a GGUF file, by llama.cpp's own converter where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness.errors import DiskFullError, ModelError, UsageError

SCRIPT = "convert_hf_to_gguf.py"
VARIABLE = "LLAMA_CPP"


def converter() -> list[str]:
    """The command of llama.cpp's converter: on PATH, or in the directory that $LLAMA_CPP names.

    Raises UsageError where there is none.
    """
    found = shutil.which(SCRIPT)
    if found:
        return [found]
    script = Path(os.environ.get(VARIABLE, "")) / SCRIPT
    if VARIABLE in os.environ and script.is_file():
        return [sys.executable, str(script)]
    raise UsageError(
        f"--gguf needs llama.cpp's {SCRIPT}, which is neither on PATH nor in ${VARIABLE}. "
        f"Try: git clone https://github.com/ggml-org/llama.cpp && export {VARIABLE}=$PWD/llama.cpp"
    )


def to_gguf(directory: Path, dtype: str) -> Path:
    """Converts a directory of full weights; the file lies in it, whole or not at all.

    dtype: of the weights; bfloat16 stays, all else becomes float16. Returns the file's path.
    Raises UsageError, ModelError, DiskFullError.
    """
    command, kind = converter(), "bf16" if dtype == "bfloat16" else "f16"
    path = directory / f"model-{kind}.gguf"
    part = path.with_suffix(".part")
    try:
        done = subprocess.run(
            [*command, str(directory), "--outfile", str(part), "--outtype", kind], capture_output=True, text=True
        )
        said = (done.stderr or done.stdout).strip().splitlines()
        if "No space left" in done.stderr:
            raise DiskFullError(f"{path}: no space left on the device. The weights are whole. Free some space.")
        if done.returncode or not part.is_file():
            last = said[-1][:300] if said else f"exit code {done.returncode}"
            raise ModelError(f"{SCRIPT} made no GGUF file of {directory}: {last.rstrip('.')}. The weights are whole.")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
