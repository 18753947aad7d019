"""Attention of a tree on a GPU, in 16-bit floats: block-sparse over the row, dense over the prefix, no mask in memory.

Which blocks of 128 × 128 hold something visible follows from the least and the greatest `last` of each block of keys.
The prefix is seen by every token of the row, so that part needs no rule: cuDNN's dense attention is twice as fast on
it. The row's kernel goes on from its softmax, as in cascade inference
(Ye et al. 2024, https://flashinfer.ai/2024/02/02/cascade-inference.html).
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from harness.engine.attention import KeyValues, TreeAttention
from harness.engine.kernels import BLOCK, tree_attention
from harness.engine.tree import Tree

log = logging.getLogger(__name__)

DENSE_QUERIES = 2048
"""Queries that go through cuDNN at once: it plans anew for every length it meets."""

_NOT_SERVED: set[tuple[int, int]] = set()
"""(key heads, head width) that cuDNN has refused."""

Lists = tuple[torch.Tensor, torch.Tensor]


class SparseAttention(TreeAttention):
    """Attention of a tree behind a prefix, on CUDA."""

    def __init__(self, tree: Tree, before: KeyValues | None, device: torch.device, *, keep: bool = False):
        super().__init__(tree, before, device, keep=keep)
        self._lists: dict[tuple[int, int | None], tuple[Lists, Lists]] = {}
        self._deepest = int(tree.depths.max())
        self._last = self._tensor(tree.last.astype(np.int32))
        self._depth = self._tensor(np.concatenate([np.arange(tree.prefix), tree.depths]).astype(np.int32))

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
        if window is not None and self._deepest < window:
            window = None
        if self.before is None:
            return self._sparse(query, key, value, scale, window)
        keys, values = self.before[layer]
        if window is None and (start := _dense(query, keys, values, scale)) is not None:
            return self._sparse(query, key, value, scale, None, start)
        # A window leaves out a part of the prefix that depends on the query.
        joined = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        return self._sparse(query, *joined, scale, window)

    def _sparse(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
        start: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attention to the row's keys, those of the prefix in front where they are given too."""
        prefix = key.shape[2] - query.shape[2]
        left_out = self.tree.prefix - prefix
        if (prefix, window) not in self._lists:
            some, every = blocks(self.tree, prefix, window)
            self._lists[prefix, window] = self._listed(some & ~every), self._listed(every)
        some_lists, whole_lists = self._lists[prefix, window]
        return tree_attention(
            query,
            key,
            value,
            last=self._last[left_out:] - left_out,
            depth=self._depth[left_out:],
            some=some_lists,
            whole=whole_lists,
            scale=scale,
            window=window,
            start=start,
        )

    def _listed(self, chosen: np.ndarray) -> Lists:
        """How many blocks each row has and which, those first: int32 (rows,) and (rows, blocks)."""
        counts = chosen.sum(axis=1, dtype=np.int32)
        order = np.argsort(~chosen, axis=1, kind="stable").astype(np.int32)
        return self._tensor(counts), self._tensor(order)


def _dense(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Attention of all queries to all keys: (1, H, T, D) and its log-sum-exp (1, H, T).

    None where cuDNN has no kernel for such heads on this device.
    """
    shape = key.shape[1], key.shape[3]
    if shape in _NOT_SERVED:
        return None
    total = query.shape[2]
    found = torch.empty_like(query)
    lse = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    for start in range(0, total, DENSE_QUERIES):
        # The last lot reaches back into the one before it, so that all have one length.
        first = max(0, min(start, total - DENSE_QUERIES))
        part = slice(first, first + DENSE_QUERIES)
        try:
            some = torch.ops.aten._scaled_dot_product_cudnn_attention(
                query[:, :, part], key, value, None, True, 0.0, False, False, scale=scale
            )
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except RuntimeError as error:
            log.warning("engine: cuDNN has no attention for this device and model (%s)", str(error).split("\n")[0])
            _NOT_SERVED.add(shape)
            return None
        found[:, :, part], lse[:, :, part] = some[0], some[1].view(lse[:, :, part].shape)
    return found, lse


def blocks(tree: Tree, prefix: int, window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Of each block of queries and block of keys: whether something may be visible, whether everything is.

    prefix: how many of the prefix's keys stand before the row's, all or none.
    Returns two bool arrays (blocks of queries, blocks of keys).
    """
    n, total = len(tree.ids), prefix + len(tree.ids)
    last = tree.last[tree.prefix - prefix :] - (tree.prefix - prefix)
    rows, edges = np.arange(0, n, BLOCK), np.arange(0, total, BLOCK)
    first_q = rows[:, None] + prefix
    last_q = np.minimum(first_q + BLOCK, total) - 1
    first_k, last_k = edges[None], np.minimum(edges + BLOCK, total)[None] - 1
    some = (first_k <= last_q) & (np.maximum.reduceat(last, edges)[None] >= first_q)
    # A block that keys end in is never taken whole: its kernel reads whole blocks unasked.
    every = (last_k <= first_q) & (np.minimum.reduceat(last, edges)[None] >= last_q) & (first_k + BLOCK <= total)
    if window is not None:
        depths = np.concatenate([np.arange(tree.prefix), tree.depths])[tree.prefix - prefix :]
        low_k, high_k = np.minimum.reduceat(depths, edges)[None], np.maximum.reduceat(depths, edges)[None]
        low_q = np.minimum.reduceat(tree.depths, rows)[:, None]
        high_q = np.maximum.reduceat(tree.depths, rows)[:, None]
        some &= low_q - high_k < window
        every &= high_q - low_k < window
    return some, every
