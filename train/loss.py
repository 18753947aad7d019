"""The output head and the loss, only where a token is trained, and without the logits of all of them in memory.

The head is frozen: what is wanted is the loss and its gradient by the hidden states, and both come from one look at
the logits. So they are computed together, some positions at a time (as in Liger Kernel's fused linear cross entropy,
Hsu et al. 2024, arXiv 2410.10989), softmax in float32.

Letters: N trained tokens, H hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

LOGITS_BYTES = 2**28
"""Logits that are in memory at once: with 32k words, some 2,000 positions in float32."""


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: Any, targets: torch.Tensor, cap: float | None) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        weight, bias = head.weight, head.bias
        gradient = torch.empty_like(hidden)
        at_once = max(1, LOGITS_BYTES // (4 * len(weight)))
        wide = hidden.is_cuda and hidden.dtype != torch.float32
        for start in range(0, len(hidden), at_once):
            some, wanted = hidden[start : start + at_once], targets[start : start + at_once, None]
            # (n, V), not rounded on the way to float32
            logits = torch.mm(some, weight.t(), out_dtype=torch.float32) if wide else (some @ weight.t()).float()
            if bias is not None:
                logits += bias
            if cap is not None:
                logits = torch.tanh(logits / cap) * cap
            lse = torch.logsumexp(logits, dim=-1, keepdim=True)
            total += (lse - logits.gather(1, wanted)).sum()
            slope = None if cap is None else 1 - (logits / cap) ** 2
            logits.sub_(lse).exp_()
            logits.scatter_add_(1, wanted, torch.full_like(lse, -1.0))
            if slope is not None:
                logits *= slope
            torch.mm(logits.to(hidden.dtype), weight, out=gradient[start : start + at_once])
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, d_total: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * d_total.to(gradient.dtype), None, None, None


def summed_loss(hidden: torch.Tensor, head: Any, targets: torch.Tensor, config: Any) -> torch.Tensor:
    """The cross entropy of the targets, summed, in nats; float32 ().

    hidden: (N, H). head: the frozen output layer. targets: int64 (N,). config: of the decoder, for its soft cap.
    """
    found: torch.Tensor = _Loss.apply(hidden, head, targets, getattr(config, "final_logit_softcapping", None))
    return found
