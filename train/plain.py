"""Training's passes through transformers and PEFT as they are: on a CPU, in float32, for any architecture.

Rows lie behind one another without padding, each attending to itself, where an architecture lets its attention be
replaced; others get them padded, with a mask. Either way the output head runs only where a token is trained.

Letters: T tokens, B rows, N trained tokens, V vocabulary, H query heads, G key heads, D head width.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from harness.engine import attention
from harness.engine.lm import SERVED
from train.loss import summed_loss
from train.packing import Packed


class PlainLearner:
    """A PEFT model as it is. recompute: layers, from the first, whose activations are computed twice."""

    def __init__(self, model: Any, *, recompute: int = 0):
        causal = model.get_base_model()
        self._model, self._causal, self._device = model, causal, model.device
        self.packs = causal.config.model_type in SERVED
        self.recompute = recompute

    @property
    def recompute(self) -> int:
        """Layers whose activations are computed twice."""
        return self._recompute

    @recompute.setter
    def recompute(self, layers: int) -> None:
        self._recompute = layers
        self._model.train()
        if not layers:
            return
        self._causal.gradient_checkpointing_enable({"use_reentrant": False})
        for number, layer in enumerate(getattr(self._causal.base_model, "layers", ())):
            layer.gradient_checkpointing = number < layers

    def unpack(self, layers: int) -> None:
        """Nothing: bitsandbytes multiplies by quantized weights itself."""

    def refresh(self) -> None:
        """Nothing: the adapters' weights are used where they are."""

    def learn(self, packed: Packed, *, seed: int, n_trained: int) -> torch.Tensor:
        """Adds a pass's part to the gradient of the mean over n_trained tokens; returns its part of that mean."""
        # What is computed twice attends in the backward pass too.
        with attention.in_use(self._causal.config) if self.packs else nullcontext():
            loss = self.loss(packed, seed=seed) / n_trained
            loss.backward()
        return loss.detach()

    def loss(self, packed: Packed, *, seed: int) -> torch.Tensor:
        """The loss of a pass, summed over its trained tokens, with its gradient; float32 ().

        seed: of this pass's dropout.
        """
        torch.manual_seed(seed)
        targets = torch.from_numpy(packed.targets).to(self._device)
        if not self.packs:
            return self._padded(packed, targets)
        ids, positions = (torch.from_numpy(each)[None].to(self._device) for each in (packed.ids, packed.positions))
        with attention.in_use(self._causal.config):
            output = self._causal.model(
                input_ids=ids, position_ids=positions, use_cache=False, attend=RowAttention(packed.lengths)
            )
        hidden = output.last_hidden_state[0, torch.from_numpy(packed.predictors).to(self._device)]  # (N, width)
        return summed_loss(hidden, self._causal.get_output_embeddings(), targets, self._causal.config)

    def _padded(self, packed: Packed, targets: torch.Tensor) -> torch.Tensor:
        width = int(packed.lengths.max())
        ids = torch.zeros(len(packed.lengths), width, dtype=torch.long)
        inside = torch.arange(width) < torch.from_numpy(packed.lengths)[:, None]  # (B, T): by length, never by id
        ids[inside] = torch.from_numpy(packed.ids)
        predicts = torch.zeros(len(packed.ids), dtype=torch.bool)
        predicts[torch.from_numpy(packed.predictors)] = True
        chosen = torch.zeros_like(inside).masked_scatter(inside, predicts).to(self._device)
        head = self._causal.get_output_embeddings()
        # Soft caps and scales behind the head are the model's own forward's: only what it is given is thinned out.
        handle = head.register_forward_pre_hook(lambda _, given: (given[0][chosen][None], *given[1:]))
        try:
            logits = self._model(
                input_ids=ids.to(self._device), attention_mask=inside.long().to(self._device), use_cache=False
            ).logits[0]  # (N, V)
        finally:
            handle.remove()
        return cross_entropy(logits.float(), targets, reduction="sum")


class RowAttention:
    """Causal attention inside each of the rows of a packed sequence. lengths: tokens of each."""

    def __init__(self, lengths: np.ndarray):
        self._lengths = lengths.tolist()

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """query: (1, H, T, D); key, value: (1, G, T, D). Returns (1, H, T, D)."""
        found = []
        parts = (each.split(self._lengths, dim=2) for each in (query, key, value))
        for q, k, v in zip(*parts, strict=True):
            n = q.shape[2]
            mask = None
            if window is not None and window < n:
                back = torch.arange(n, device=q.device)[:, None] - torch.arange(n, device=q.device)
                mask = (back >= 0) & (back < window)
            found.append(
                scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
                )
            )
        return torch.cat(found, dim=2)
