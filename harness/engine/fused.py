"""A model's element-wise work through kernels of one pass each, on a GPU.

As written in transformers, a normalisation, a gated product and a rotation are some thirty kernels a layer, each of
which reads and writes the whole row: a quarter of a layer's time. Products stay what they are, so that adapters and
quantized weights keep their own code. For inference alone: nothing here has a gradient.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from harness.engine import kernels
from harness.engine.changes import Changes

_ACTIVATIONS = {"SiLUActivation": False, "SiLU": False, "GELUTanh": True, "PytorchGELUTanh": True}
"""transformers' names of activations to whether they are GELU."""


def fuse(decoder: Any) -> Changes:
    """Gives a decoder's modules the kernels, those that they know, until what it returns is closed."""
    changes = Changes()
    # A function of the model's own module: other models of this architecture get it too.
    modeling = sys.modules[type(decoder).__module__]
    if hasattr(modeling, "apply_rotary_pos_emb"):
        changes.put(modeling, "apply_rotary_pos_emb", _Rotary(modeling.apply_rotary_pos_emb))
    for module in decoder.modules():
        if type(module).__name__.endswith("RMSNorm"):
            changes.put(module, "forward", _norm_forward(module))
        elif module._modules.keys() >= {"gate_proj", "up_proj", "down_proj", "act_fn"}:
            kind = type(module.act_fn).__name__
            if kind in _ACTIVATIONS:
                changes.put(module, "forward", _gated_forward(module, gelu=_ACTIVATIONS[kind]))
    return changes


class _Rotary:
    """apply_rotary_pos_emb in place, as transformers wrote it where the kernel doesn't serve."""

    def __init__(self, written: Any):
        self.written = getattr(written, "written", written)

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *more: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        half = cos.shape[-1] // 2
        one_row = q.shape[0] == 1 and q.stride(-1) == k.stride(-1) == 1 and not more and not named
        if not one_row or not torch.is_inference_mode_enabled() or half & (half - 1):
            found: tuple[torch.Tensor, torch.Tensor] = self.written(q, k, cos, sin, *more, **named)
            return found
        kernels.rotate(q, cos, sin)
        kernels.rotate(k, cos, sin)
        return q, k


def _norm_forward(module: Any) -> Any:
    eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    # Gemma's weights are how far they are from 1.
    offset = 1.0 if type(module).__name__.startswith("Gemma") else 0.0

    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        return kernels.rms_norm(hidden_states, module.weight, eps, offset)

    return forward


def _gated_forward(module: Any, *, gelu: bool) -> Any:
    def forward(x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = module.down_proj(kernels.gated(module.gate_proj(x), module.up_proj(x), gelu=gelu))
        return found

    return forward
