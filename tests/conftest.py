"""What several test files share: no network, and tiny real models.

A tiny model has random weights, a real architecture and SmolLM2's tokenizer: it answers in milliseconds and
badly, which is all that keeping, resuming and pairing need.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TQDM_DISABLE"] = "1"
# Kernels are run by Triton's interpreter where there is no GPU; it is asked when a kernel is defined.
if not Path("/dev/nvidia0").exists():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def tokenizer_directory() -> Path:
    """The checkpoint of SmolLM2, whose tokenizer the tiny models take."""
    from harness.engine.packaged import SMOLLM2, checkpoint

    return checkpoint(SMOLLM2)


def save_tiny(
    directory: Path,
    tokenizer_directory: Path,
    kind: str = "llama",
    seed: int = 0,
    hidden_size: int = 64,
    positions: int = 4096,
) -> Path:
    """Writes a model with random weights of an architecture that the engine serves."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4 if kind == "phi" else 2,
        "max_position_embeddings": positions,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if kind == "gpt2":
        # It has no such setting, and would keep it as one of its own.
        del shape["num_key_value_heads"]
    if kind in ("mistral", "gemma3_text", "phi3"):
        shape["sliding_window"] = 24
    if kind == "gemma3_text":
        shape |= {"head_dim": 16, "layer_types": ["sliding_attention", "full_attention"] * 2}
    if kind == "qwen3":
        shape["head_dim"] = 16
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape), dtype=torch.float32)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_adapter(directory: Path, base: Path, seed: int) -> Path:
    """Writes a LoRA adapter of a tiny model whose weights change its answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, tokenizer_directory: Path) -> Path:
    """A tiny Llama."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", tokenizer_directory)


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> tuple[Path, Path]:
    """Two adapters of the tiny Llama."""
    folder = tmp_path_factory.mktemp("adapters")
    return save_adapter(folder / "one", tiny, 1), save_adapter(folder / "two", tiny, 2)
