"""Models of a known shape with random weights: what speed and memory are measured on where no checkpoint is at hand."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from harness.engine.float8 import round_weights

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"model_type": "llama", "vocab_size": 4096, "hidden_size": 128, "intermediate_size": 256,
             "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2},
    "llama-1b": {"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
                 "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
                 "tie_word_embeddings": True},
    "mistral-7b": {"model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
                   "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
                   "sliding_window": None},
}  # fmt: skip
"""Shapes of random weights; all take 32,768 positions."""

LONGEST = 32768


def shape_config(shape: str) -> Any:
    """The configuration of a shape."""
    return AutoConfig.for_model(**SHAPES[shape], max_position_embeddings=LONGEST)


def random_model(shape: str, dtype: torch.dtype, quantization: str, device: torch.device | str) -> Any:
    """A model with random weights, always the same, its layers quantized as they are loaded or trained on."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(shape_config(shape), dtype=dtype).eval()
    if quantization in ("int8", "nf4"):
        quantize(model, quantization, dtype)
    if quantization == "fp8":
        round_weights(model)
    return model


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    size, repeats = (8192, 10) if device.type == "cuda" else (2048, 3)
    one, two = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for n in (1, repeats):
        start = time.perf_counter()
        for _ in range(n):
            product = one @ two
        product[0, 0].item()  # waits for it
        seconds.append((time.perf_counter() - start) / n)
    return 2 * size**3 / seconds[-1]


def quantize(model: Any, kind: str, dtype: torch.dtype) -> None:
    """Makes the layers' products int8, or NF4 with double quantization, as bitsandbytes loads them."""
    import bitsandbytes as bnb

    for parent in list(model.model.layers.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is not torch.nn.Linear:
                continue
            size, device, weight = (module.in_features, module.out_features), module.weight.device, module.weight.data
            made: torch.nn.Module
            if kind == "int8":
                made = bnb.nn.Linear8bitLt(*size, bias=False, has_fp16_weights=False, device="meta")
                # What is on a GPU already would stay as it is: moving there is what quantizes.
                made.weight = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
            else:
                made = bnb.nn.Linear4bit(*size, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta")
                made.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
            setattr(parent, name, made.to(device))
