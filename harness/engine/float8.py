"""A base whose layers' weights are 8-bit floats: how training on them rounds them, for whoever asks the adapter later.

Layers that read one input are multiplied together and share a scale: the largest of their weights becomes 448, the
largest float8_e4m3fn (Micikevicius et al. 2022, arXiv 2209.05433).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from harness.errors import ModelError

TOGETHER = (
    ("self_attn", ("q_proj", "k_proj", "v_proj")),
    ("self_attn", ("o_proj",)),
    ("mlp", ("gate_proj", "up_proj")),
    ("mlp", ("down_proj",)),
)
"""Linear layers of a decoder layer that read one input, by their parent."""


def rounded(weights: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (n, K) below one another in float8_e4m3fn, (N, K), and the float32 scale that they stand for, (1, 1)."""
    weight = torch.cat(list(weights))
    scale = (weight.abs().max().float() / 448).reshape(1, 1)
    return (weight / scale).to(torch.float8_e4m3fn), scale


def round_weights(model: Any) -> None:
    """Rounds the weights of a model's layers in place, in the dtype they have.

    Raises ModelError for an architecture that isn't trained so.
    """
    try:
        layers = [
            [getattr(getattr(layer, parent), name) for name in names]
            for layer in model.model.layers
            for parent, names in TOGETHER
        ]
    except AttributeError:
        raise ModelError(f"fp8 isn't written for the architecture {model.config.model_type}. Try: nf4") from None
    with torch.no_grad():
        for together in layers:
            eighth, scale = rounded([layer.weight for layer in together])
            parts = (eighth.float() * scale).split([layer.out_features for layer in together])
            for layer, part in zip(together, parts, strict=True):
                layer.weight.copy_(part)
