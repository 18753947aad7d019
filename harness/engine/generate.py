"""Greedy answers to many prompts at once.

Prompts are computed as a tree, each distinct token once; then every answer has a row of its own in a static cache of
keys and values, and a step computes one token of each. On CUDA a step is recorded once and replayed. A row ends at the
end token or as soon as its text holds a stop string: lm-eval cuts the text there anyway, whatever follows.

Letters: B rows, L width of the cache, G key heads, H query heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from harness.engine.attention import KeyValues, on_device
from harness.engine.jobs import Generation
from harness.engine.plan import Batch
from harness.engine.tree import TreeBuilder

if TYPE_CHECKING:
    from harness.engine.lm import EngineLM

CHECK_EVERY = 16
"""Steps on CUDA between looks at what has been said: a look waits for the device."""

WIDTH = 64
"""Without kernels of ours, the part of the cache that a step reads is a multiple of so many tokens: attention is slow
on a ragged mask, and on CUDA a new width is a new recording."""


def generate(lm: EngineLM, job: Generation) -> dict[str, str]:
    """The answers of a job, by request: cut at the first stop string, without special tokens."""
    lengths = np.asarray([len(prompt) for prompt in job.prompts])
    cache, first = _prefilled(lm, job, -(-(int(lengths.max()) + job.max_new_tokens) // WIDTH) * WIDTH)
    ends = _end_tokens(lm, job.until)
    check_every = CHECK_EVERY if lm.device.type == "cuda" else 1
    said: list[list[int]] = [[] for _ in job.prompts]
    rows = np.arange(len(said))  # of the job, that the cache still holds
    steps = _Steps(lm, cache, first, on_device(lengths, lm.device))
    left = job.max_new_tokens
    while left and len(rows):
        n = min(check_every, left)
        for row, tokens in zip(rows, steps.take(n), strict=True):
            said[row] += tokens
        left -= n
        open_rows = [at for at, row in enumerate(rows) if not _ended(lm, said[row], ends, job.until)]
        # A smaller batch pays for what moving it costs, on CUDA a recording too.
        if not open_rows or len(open_rows) <= len(rows) * (0.5 if lm.device.type == "cuda" else 0.8):
            rows = rows[open_rows]
            if left and len(rows):
                steps = steps.of_rows(open_rows)
    return {key: _answer(lm, tokens, ends, job.until) for key, tokens in zip(job.keys, said, strict=True)}


def _end_tokens(lm: EngineLM, until: tuple[str, ...]) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's, those of the model's own generation settings, and stop strings
    that are special tokens, which an answer's text doesn't show."""
    named = getattr(lm.model.generation_config, "eos_token_id", None)
    named = list(named) if isinstance(named, list) else [named]
    special = dict(zip(lm.tokenizer.all_special_tokens, lm.tokenizer.all_special_ids, strict=True))
    named += [special.get(stop) for stop in until]
    return frozenset(token for token in (*named, lm.tokenizer.eos_token_id) if token is not None)


def _cut(tokens: list[int], ends: frozenset[int]) -> list[int]:
    return next((tokens[:at] for at, token in enumerate(tokens) if token in ends), tokens)


def _ended(lm: EngineLM, tokens: list[int], ends: frozenset[int], until: tuple[str, ...]) -> bool:
    if len(_cut(tokens, ends)) < len(tokens):
        return True
    text = lm.tokenizer.decode(tokens, skip_special_tokens=True)
    return any(stop in text for stop in until)


def _answer(lm: EngineLM, tokens: list[int], ends: frozenset[int], until: tuple[str, ...]) -> str:
    text: str = lm.tokenizer.decode(_cut(tokens, ends), skip_special_tokens=True)
    # lm-eval counts the end token's own text among the stop strings.
    for stop in (*until, lm.tokenizer.decode(lm.tokenizer.eos_token_id)):
        if stop:
            text = text.split(stop)[0]
    return text


def _prefilled(lm: EngineLM, job: Generation, width: int) -> tuple[KeyValues, torch.Tensor]:
    """The cache, each (B, G, L, D), with the prompts' keys and values, and the first token of each answer (B,)."""
    row_of = {key: row for row, key in enumerate(job.keys)}
    cache: KeyValues = []
    first = torch.empty(len(job.keys), dtype=torch.long, device=lm.device)
    for batch in job.prefill:
        before = lm.before(batch)
        builder = TreeBuilder(len(batch.prefix))
        paths = []
        for unit in batch.units:
            builder.add(unit.head)
            paths.append(builder.path(len(batch.prefix)))
        hidden, attend = lm.forward(builder, before, keep=True)
        rows = torch.tensor([row_of[key] for unit in batch.units for key in unit.keys], device=lm.device)
        first[rows] = lm.logits(hidden[[int(path[-1]) for path in paths]]).argmax(dim=-1)
        if not cache:
            shapes = [(len(job.keys), keys.shape[1], width, keys.shape[3]) for keys, _ in attend.kept]
            cache = [
                tuple(torch.zeros(shape, dtype=hidden.dtype, device=lm.device) for _ in range(2)) for shape in shapes
            ]
        _place(cache, rows, batch, paths, before, attend.kept)
    return cache, first


def _place(
    cache: KeyValues,
    rows: torch.Tensor,
    batch: Batch,
    paths: list[np.ndarray],
    before: KeyValues | None,
    kept: KeyValues,
) -> None:
    """Copies a batch's keys and values to the rows of its prompts."""
    prefix, longest = len(batch.prefix), max(map(len, paths))
    index = np.zeros((len(paths), longest), dtype=np.int64)
    for at, path in enumerate(paths):
        index[at, : len(path)] = path
    taken = on_device(index, rows.device)
    for layer, stored in enumerate(cache):
        for side in range(2):
            if before is not None:
                stored[side][rows, :, :prefix] = before[layer][side]
            # (G, T, D) at (rows, longest) is (G, rows, longest, D).
            stored[side][rows, :, prefix : prefix + longest] = kept[layer][side][0][:, taken].transpose(0, 1)


class _Steps:
    """Steps of all rows: each feeds a token of every row and finds the next.

    tokens: (B,) the next to feed. places: (B,) where in the cache each goes.
    """

    def __init__(self, lm: EngineLM, cache: KeyValues, tokens: torch.Tensor, places: torch.Tensor):
        self._lm, self._cache = lm, cache
        self._tokens, self._places = tokens.clone(), places.clone()
        self._rows = torch.arange(len(tokens), device=lm.device)
        # They read each row up to its own place; the others read the cache up to the furthest, in steps of WIDTH.
        size = cache[0][0].shape[3]
        self._kernels = lm.kernels if size & (size - 1) == 0 else None
        self._width = 0
        self._furthest = int(places.max())
        self._replay: Callable[[], None] | None = None
        self._warm = False

    def of_rows(self, kept: list[int]) -> _Steps:
        """The same for some of the rows."""
        index = torch.tensor(kept, device=self._lm.device)
        cache = self._cache
        for layer, (keys, values) in enumerate(cache):
            cache[layer] = keys[index], values[index]
        return _Steps(self._lm, cache, self._tokens[index], self._places[index])

    def take(self, n: int) -> list[list[int]]:
        """The next n tokens of each row."""
        taken = []
        for _ in range(n):
            taken.append(self._tokens.clone())
            self._step()
        return torch.stack(taken, dim=1).tolist()

    def _step(self) -> None:
        self._furthest += 1
        full = self._cache[0][0].shape[2]
        width = full if self._kernels is not None else min(full, -(-self._furthest // WIDTH) * WIDTH)
        if width != self._width:
            self._width, self._replay = width, None
        if self._lm.device.type != "cuda" or not self._lm.recordable:
            self._compute()
            return
        if self._replay is None:
            self._replay = self._recorded()
        self._replay()

    def _recorded(self) -> Callable[[], None]:
        """One step as a CUDA graph; recording doesn't run it, warming up is undone."""
        if not self._warm:
            tokens, places = self._tokens.clone(), self._places.clone()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._compute()
            torch.cuda.current_stream().wait_stream(stream)
            self._tokens.copy_(tokens)
            self._places.copy_(places)
            self._warm = True
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._compute()
        return graph.replay

    def _compute(self) -> None:
        # All rows as one row of tokens, the shape in which prompts are computed.
        output = self._lm.decoder(
            input_ids=self._tokens[None], position_ids=self._places[None], use_cache=False, attend=self._attend
        )
        self._tokens.copy_(self._lm.logits(output.last_hidden_state[0]).argmax(dim=-1))
        self._places.add_(1)

    def _attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """query: (1, H, B, D); key, value: (1, G, B, D). Returns (1, H, B, D)."""
        keys, values = self._cache[layer]
        keys[self._rows, :, self._places] = key[0].transpose(0, 1)
        values[self._rows, :, self._places] = value[0].transpose(0, 1)
        if self._kernels is not None:
            rows = query[0].transpose(0, 1)
            found = self._kernels.decode_attention(rows, keys, values, self._places, scale, window)
            return found.transpose(0, 1)[None]
        behind = self._places[:, None] - torch.arange(self._width, device=query.device)  # (B, L)
        seen = behind >= 0
        if window is not None:
            seen &= behind < window
        _, n_heads, n_rows, size = query.shape
        # The heads that share a key head are as many queries of it: nothing is repeated. (B, G, H / G, D)
        grouped = query[0].transpose(0, 1).reshape(n_rows, key.shape[1], -1, size)
        found = scaled_dot_product_attention(
            grouped,
            keys[:, :, : self._width],
            values[:, :, : self._width],
            attn_mask=seen[:, None, None].expand(-1, -1, grouped.shape[2], -1),
            scale=scale,
        )
        return found.reshape(n_rows, n_heads, size).transpose(0, 1)[None]
