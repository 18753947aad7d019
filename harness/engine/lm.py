"""lm-eval model classes over an already loaded transformers model.

`HFBackend` is lm-eval's own HFLM. `EngineLM` computes each distinct token of a batch once: requests are laid
into rows as tries of their token ids, so that a shared instruction, a passage with several questions and the
context of a document's choices are each there once, and a tree attention mask lets a token see its own path
alone. What all rows begin with is computed first and kept as keys and values. The output head runs only at the
positions that are scored, log-softmax in float32.

    prefix │ doc 1 ─┬─ a0 a1        prefix │ passage ─┬─ question 1 ─┬─ A
           │        └─ b0 b1 b2            │          │              └─ B
           │ doc 2 ─┬─ a0 a1               │          └─ question 2 ── …

Letters below: B rows, T tokens of a row, P tokens of the prefix, S scored positions, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lm_eval.models.huggingface import HFLM
from transformers import DynamicCache

log = logging.getLogger(__name__)

Encoded = tuple[tuple[str, str], list[int], list[int]]
"""((context, continuation), context token ids, continuation token ids), as lm-eval passes requests."""

ONE_MASK = frozenset({"llama", "mistral", "phi", "phi3", "olmo2"})
MASK_BY_LAYER = frozenset({"gemma3_text", "qwen2", "qwen3", "smollm3"})
"""config.model_type of the decoders whose attention masks are known to mean what they do here: those that take
one mask, and those that take one a kind of layer."""

ROW_TOKENS = 512
"""Tokens that requests are packed into; a longer request has a row of its own. Attention over a dense mask costs
with the square of a row."""

HEAD_POSITIONS = 128
"""Scored positions that go through the output head at once: with 262k words, 128 take 134 MB in float32."""

NARROW_ROWS = 32
"""The most rows that widen_narrow_products multiplies the other way round."""


class HFBackend(HFLM):
    """lm-eval's transformers backend, as it is, over a loaded model."""

    def __init__(self, model: Any, tokenizer: Any):
        # HFLM warns, twice, that it was given a loaded model; that is what we mean.
        logger = logging.getLogger("lm_eval.models.huggingface")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=1)
        finally:
            logger.setLevel(level)

    def with_batch_size(self, size: int) -> HFBackend:
        """Sets the rows of the next call's batches; HFLM reads it from an attribute."""
        self.batch_size_per_gpu = size
        return self


@dataclass(slots=True)
class Row:
    """A trie of token ids, laid out so that a token comes after all tokens of its path.

    tokens: ids. depths: position of each in its own text. parents: index of the token before it, -1 for a first.
    """

    first_depth: int = 0
    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def shared(self, text: Sequence[int]) -> int:
        """How many tokens of a text, from its beginning, are in the row."""
        at = -1
        for length, token in enumerate(text):
            following = self._children.get((at, token))
            if following is None:
                return length
            at = following
        return len(text)

    def insert(self, text: Sequence[int]) -> list[int]:
        """Adds a text where it isn't yet; returns the index of each of its tokens."""
        at, path = -1, []
        for token in text:
            following = self._children.get((at, token))
            if following is None:
                following = len(self.tokens)
                self._children[at, token] = following
                self.depths.append(self.first_depth if at < 0 else self.depths[at] + 1)
                self.parents.append(at)
                self.tokens.append(token)
            at = following
            path.append(at)
        return path


def tree_mask(rows: Sequence[Row], width: int, prefix: int = 0, window: int | None = None) -> npt.NDArray[np.bool_]:
    """Which token sees which: shape (B, 1, width, prefix + width), query before key.

    A token sees the prefix, its own path and itself; padding sees only itself.
    window: it sees keys less than this many positions back, itself included; None sees all.
    """
    mask = np.zeros((len(rows), 1, width, prefix + width), dtype=np.bool_)
    for number, row in enumerate(rows):
        sees = mask[number, 0, :, prefix:]
        for index, parent in enumerate(row.parents):
            if parent >= 0:
                sees[index, : parent + 1] = sees[parent, : parent + 1]
            sees[index, index] = True
        mask[number, 0, : len(row.tokens), :prefix] = True
        if window is not None:
            depths = np.asarray(row.depths)
            keys = np.concatenate([np.arange(prefix), depths])
            near = depths[:, None] - keys[None, :] < window
            mask[number, 0, : len(row.tokens), : prefix + len(row.tokens)] &= near
        for index in range(len(row.tokens), width):
            sees[index, index] = True
    return mask


def shared_prefix(texts: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all texts begin with; the last token of the shortest isn't counted."""
    low, high = min(texts), max(texts)
    shortest = min(map(len, texts)) - 1
    length = 0
    while length < shortest and low[length] == high[length]:
        length += 1
    return length


@dataclass(frozen=True, slots=True)
class Placed:
    """A request in the rows: row, the index whose logits predict each token of the continuation, and the tokens."""

    row: int
    scored: list[int]
    continuation: list[int]


def lay_out(
    contexts: dict[tuple[int, ...], list[tuple[int, list[int]]]], prefix: int
) -> tuple[list[Row], dict[int, Placed]]:
    """Packs documents into rows; those that share most stand side by side.

    contexts: context ids to its (request number, continuation ids). prefix: tokens that all contexts share and
    the rows leave out. Returns the rows and each request's place.
    """
    rows: list[Row] = []
    placed = {}
    for context in sorted(contexts):
        # The last token of a continuation predicts nothing that is scored.
        texts = [[*context[prefix:], *continuation[:-1]] for _, continuation in contexts[context]]
        if not rows or len(rows[-1].tokens) + _distinct(rows[-1], texts) > ROW_TOKENS:
            rows.append(Row(first_depth=prefix))
        start = len(context) - prefix - 1
        for (number, continuation), text in zip(contexts[context], texts, strict=True):
            path = rows[-1].insert(text)
            placed[number] = Placed(len(rows) - 1, path[start:], continuation)
    return rows, placed


def _distinct(row: Row, texts: Sequence[Sequence[int]]) -> int:
    """Tokens that texts of one context would add to a row."""
    alone = Row()
    for text in texts:
        alone.insert(text)
    return len(alone.tokens) - min(row.shared(text) for text in texts)


def widen_narrow_products(model: Any) -> None:
    """Makes a CPU model's linear layers fast for few rows, as decoding has them.

    For 2 to 32 rows MKL multiplies W xᵀ two to four times faster than x Wᵀ, the form that torch asks for.
    """
    for module in model.modules():
        if type(module) is torch.nn.Linear and module.weight.dtype == torch.float32:
            module.forward = partial(_linear, module)


def _linear(module: torch.nn.Linear, given: torch.Tensor) -> torch.Tensor:
    rows = given.numel() // given.shape[-1]
    if not 1 < rows <= NARROW_ROWS or torch.is_grad_enabled():
        return torch.nn.functional.linear(given, module.weight, module.bias)
    product = (module.weight @ given.reshape(rows, -1).t()).t()  # (rows, out)
    if module.bias is not None:
        product = product + module.bias
    return product.reshape(*given.shape[:-1], -1)


class EngineLM(HFBackend):
    """Scores each distinct token once; what it can't serve goes lm-eval's way, which is said once."""

    def __init__(self, model: Any, tokenizer: Any):
        super().__init__(model, tokenizer)
        if self.device.type == "cpu":
            widen_narrow_products(model)
        self.kind = getattr(self.config, "model_type", None)
        self.serves = self.kind in ONE_MASK | MASK_BY_LAYER
        if not self.serves:
            log.warning("engine: the architecture %s is served by lm-eval's own path", self.kind)

    def _loglikelihood_tokens(
        self, requests: list[Encoded], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Log-likelihood (nats) of each continuation, and whether greedy decoding would say it.

        All requests are computed at once: who calls it plans the batches.
        """
        longest = max(len(context) + len(continuation) for _, context, continuation in requests)
        if not self.serves or longest > self.max_length + 1:
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        contexts: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
        for number, (_, context, continuation) in enumerate(requests):
            contexts.setdefault(tuple(context), []).append((number, continuation))
        prefix = shared_prefix(list(contexts))
        rows, placed = lay_out(contexts, prefix)
        return self._score(next(iter(contexts))[:prefix], rows, [placed[number] for number in range(len(requests))])

    @torch.inference_mode()
    def _score(
        self, prefix: Sequence[int], rows: Sequence[Row], requests: Sequence[Placed]
    ) -> list[tuple[float, bool]]:
        hidden = self._hidden(prefix, rows)  # (B, T, hidden)
        # A context's last token predicts the first token of every continuation: one position, many targets.
        places: dict[tuple[int, int], int] = {}
        targets: list[set[int]] = []
        for request in requests:
            for index, token in zip(request.scored, request.continuation, strict=True):
                place = places.setdefault((request.row, index), len(places))
                if place == len(targets):
                    targets.append(set())
                targets[place].add(token)
        wanted = torch.tensor(list(places), device=hidden.device)  # (S, 2)
        logprobs, greedy = self._head(hidden[wanted[:, 0], wanted[:, 1]], targets)
        answers = []
        for request in requests:
            found = [places[request.row, index] for index in request.scored]
            pairs = list(zip(found, request.continuation, strict=True))
            total = sum(logprobs[place][token] for place, token in pairs)
            answers.append((total, all(greedy[place] == token for place, token in pairs)))
        return answers

    def _hidden(self, prefix: Sequence[int], rows: Sequence[Row]) -> torch.Tensor:
        width = max(len(row.tokens) for row in rows)
        decoder = self._causal_model().model
        cache = None
        if prefix:
            # Without a config every layer keeps all its keys; the window is the mask's affair.
            cache = DynamicCache()
            ids = torch.tensor([list(prefix)], device=self.device)
            places = torch.arange(len(prefix), device=self.device)[None]
            before = Row()
            before.insert(prefix)
            decoder(
                input_ids=ids,
                attention_mask=self._mask([before], len(prefix), 0),
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
            )
            cache.batch_repeat_interleave(len(rows))
        output = decoder(
            input_ids=self._padded([row.tokens for row in rows], width),  # (B, T)
            attention_mask=self._mask(rows, width, len(prefix)),
            position_ids=self._padded([row.depths for row in rows], width),  # (B, T)
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state

    def _mask(self, rows: Sequence[Row], width: int, prefix: int) -> Any:
        config = self.config
        window = getattr(config, "sliding_window", None)
        if getattr(config, "use_sliding_window", True) is False:
            window = None

        def made(size: int | None) -> torch.Tensor:
            return torch.from_numpy(tree_mask(rows, width, prefix, size)).to(self.device)

        if self.kind in ONE_MASK:
            return made(window)
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        return {kind: made(window if kind == "sliding_attention" else None) for kind in kinds}

    def _padded(self, rows: Sequence[Sequence[int]], width: int) -> torch.Tensor:
        filled = [[*row, *[0] * (width - len(row))] for row in rows]
        return torch.tensor(filled, dtype=torch.long, device=self.device)

    def _causal_model(self) -> Any:
        model = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _head(self, hidden: torch.Tensor, targets: Sequence[set[int]]) -> tuple[list[dict[int, float]], list[int]]:
        """hidden: (S, hidden). Returns for each position {target: log-probability} and the likeliest token."""
        head = self._causal_model().lm_head
        logprobs: list[dict[int, float]] = []
        greedy: list[int] = []
        for start in range(0, len(targets), HEAD_POSITIONS):
            logits = head(hidden[start : start + HEAD_POSITIONS]).float()  # (≤128, V)
            norm = torch.logsumexp(logits, dim=-1)
            greedy += logits.argmax(dim=-1).tolist()
            for row, wanted in enumerate(targets[start : start + HEAD_POSITIONS]):
                distinct = sorted(wanted)
                values = (logits[row, distinct] - norm[row]).tolist()
                logprobs.append(dict(zip(distinct, values, strict=True)))
        return logprobs, greedy
