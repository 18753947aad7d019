"""Attention over trees, put into transformers' models by the door they have for it.

transformers lets every decoder layer call a registered function with its queries, keys and values, and makes no
mask of its own for a name it doesn't know (https://huggingface.co/docs/transformers/main/attention_interface). Our
function hands them to whatever the forward pass was given as `attend`, which knows what sees what and keeps keys and
values itself. Windows (`sliding_window`) are each layer's own and come with the call.

Letters: H query heads, G key heads, D head width, P tokens of the prefix, T tokens of the row, B rows, L cache width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from harness.engine.tree import Chunk, Tree

NAME = "uzbench_tree"

KeyValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values by layer, each (1, G, P, D)."""


class Attend(Protocol):
    """What a forward pass attends by."""

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """query: (B, H, T, D); key, value: (B, G, T, D), of the new tokens alone. Returns (B, H, T, D)."""
        ...


def _dispatch(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    attend: Attend,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    found = attend(module.layer_idx, query, key, value, scaling, sliding_window)
    return found.transpose(1, 2), None


AttentionInterface.register(NAME, _dispatch)


@contextmanager
def in_use(config: Any) -> Iterator[None]:
    """Models of this config attend by `attend` inside the block, as they did before outside it."""
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def on_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array as a tensor; a GPU takes it when it comes to it, without being waited for."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def visible(tree: Tree, queries: slice, keys: np.ndarray, window: int | None) -> np.ndarray:
    """Which key each query sees, bool (queries, keys).

    queries: of the row. keys: indices in prefix and row together. window: a key further back isn't seen.
    """
    numbers = np.arange(queries.start, queries.stop)[:, None] + tree.prefix
    mask = (keys <= numbers) & (numbers <= tree.last[keys])
    if window is not None:
        depths = np.concatenate([np.arange(tree.prefix), tree.depths])
        mask &= depths[numbers] - depths[keys] < window
    return mask


class TreeAttention:
    """Attention of a tree behind a prefix, chunk by chunk under a dense mask of its own.

    before: the prefix's keys and values. keep: the row's own are kept in `kept`.
    """

    def __init__(self, tree: Tree, before: KeyValues | None, device: torch.device, *, keep: bool = False):
        self.tree, self.before, self.device, self.keep = tree, before, device, keep
        self.kept: KeyValues = []
        self._masks: dict[int | None, list[tuple[Chunk, torch.Tensor, torch.Tensor]]] = {}

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        if self.keep:
            self.kept.append((key, value))
        out = torch.empty_like(query)
        for chunk, ancestors, mask in self._chunks(window):
            keys, values = (
                torch.cat([*before, new[:, :, ancestors], new[:, :, chunk.start : chunk.end]], dim=2)
                for before, new in zip(self._before(layer), (key, value), strict=True)
            )
            out[:, :, chunk.start : chunk.end] = scaled_dot_product_attention(
                query[:, :, chunk.start : chunk.end], keys, values, attn_mask=mask, scale=scale, enable_gqa=True
            )
        return out

    def _before(self, layer: int) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        if self.before is None:
            return (), ()
        keys, values = self.before[layer]
        return (keys,), (values,)

    def _chunks(self, window: int | None) -> list[tuple[Chunk, torch.Tensor, torch.Tensor]]:
        """Each chunk with its ancestors and its mask over prefix, ancestors and chunk."""
        if window not in self._masks:
            prefix = np.arange(self.tree.prefix)
            made = []
            for chunk in self.tree.chunks:
                own = np.arange(chunk.start, chunk.end)
                keys = np.concatenate([prefix, np.concatenate([chunk.ancestors, own]) + self.tree.prefix])
                mask = visible(self.tree, slice(chunk.start, chunk.end), keys, window)
                made.append((chunk, self._tensor(chunk.ancestors), self._tensor(mask)))
            self._masks[window] = made
        return self._masks[window]

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return on_device(array, self.device)
