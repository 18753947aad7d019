"""lm-eval model classes over an already loaded transformers model.

`HFBackend` is lm-eval's own HFLM. `EngineLM` computes each distinct token once: the texts of a batch are laid out
as one tree (harness.engine.tree), so that a shared instruction, a passage with several questions and the context
of a document's choices are each there once; what many batches begin with is computed once and kept as keys and
values. The output head runs only at the positions that are scored, log-softmax in float32.

Letters below: T tokens of a row, S scored positions, N scored tokens, V vocabulary.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM

from harness.engine import attention
from harness.engine.attention import KeyValues, TreeAttention, on_device
from harness.engine.changes import Changes
from harness.engine.generate import generate
from harness.engine.jobs import Generation, Instances
from harness.engine.plan import Batch
from harness.engine.tree import Ints, Tokens, TreeBuilder
from harness.records import digest

log = logging.getLogger(__name__)

SERVED = frozenset({"gemma3_text", "llama", "mistral", "olmo2", "phi", "phi3", "qwen2", "qwen3", "smollm3"})
"""config.model_type of the decoders that are known to attend as harness.engine.attention wants it."""

HEAD_BYTES = 2**28
"""Logits that are computed at once: with 262k words, 256 positions in float32."""

NARROW_ROWS = 32
"""The most rows that widen_narrow_products multiplies the other way round."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory didn't suffice."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # A CPU allocator says it in words only.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


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

    def start(self, kind: str, job: Any) -> Callable[[], dict[str, Any]]:
        """Begins a job; what it returns waits for the device and gives the answers by request."""
        self.batch_size_per_gpu = len(job.keys)
        # What is sampled depends on its own job alone, so that a resumed run draws the same.
        torch.manual_seed(int(digest(job.keys)[:12], 16))
        with torch.inference_mode():
            answers = getattr(self, kind)(list(job.instances), disable_tqdm=True)
        return lambda: dict(zip(job.keys, answers, strict=True))

    def work(self, kind: str, jobs: Iterable[Any]) -> Iterator[tuple[Any, dict[str, Any] | None]]:
        """Does jobs one after the other and gives each with its answers, None where it didn't fit the memory."""
        begun: deque[tuple[Any, Callable[[], dict[str, Any]] | None]] = deque()
        for job in jobs:
            begun.append((job, self._begun(kind, job)))
            if begun[-1][1] is None:
                # Not where the error is caught: its frames hold what filled the memory.
                self.forget()
                torch.cuda.empty_cache()
            while len(begun) > self.ahead(kind):
                done, answers = begun.popleft()
                yield done, answers and answers()
        for done, answers in begun:
            yield done, answers and answers()

    def ahead(self, kind: str) -> int:
        """Jobs that are begun before the one before them is waited for."""
        return 0

    def _begun(self, kind: str, job: Any) -> Callable[[], dict[str, Any]] | None:
        try:
            return self.start(kind, job)
        except Exception as error:
            if out_of_memory(error):
                return None
            raise

    def forget(self) -> None:
        """Drops what is kept between jobs."""

    def close(self) -> None:
        """Leaves the model as it was before."""


def widen_narrow_products(model: Any) -> Changes:
    """Makes a CPU model's linear layers fast for few rows, as decoding has them, until what it returns is closed.

    For 2 to 32 rows MKL multiplies W xᵀ two to four times faster than x Wᵀ, the form that torch asks for.
    """
    changes = Changes()
    for module in model.modules():
        if type(module) is torch.nn.Linear and module.weight.dtype == torch.float32:
            changes.put(module, "forward", partial(_linear, module))
    return changes


def _linear(module: torch.nn.Linear, given: torch.Tensor) -> torch.Tensor:
    rows = given.numel() // given.shape[-1]
    if not 1 < rows <= NARROW_ROWS or torch.is_grad_enabled():
        return torch.nn.functional.linear(given, module.weight, module.bias)
    product = (module.weight @ given.reshape(rows, -1).t()).t()  # (rows, out)
    if module.bias is not None:
        product = product + module.bias
    return product.reshape(*given.shape[:-1], -1)


class EngineLM(HFBackend):
    """Computes each distinct token of a job once."""

    def __init__(self, model: Any, tokenizer: Any):
        super().__init__(model, tokenizer)
        self._changes = Changes()
        if self.device.type == "cpu":
            self._changes.enter_context(widen_narrow_products(model))
        # Adapters work inside the modules of their base, which is called directly.
        self._causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        # bitsandbytes' int8 product looks at its input on the way, which can't be recorded.
        self.recordable = not any(type(module).__name__ == "Linear8bitLt" for module in model.modules())
        self._attention, self._multiple = TreeAttention, 1
        self.kernels: Any = None
        if self.device.type == "cuda" and self._causal.dtype in (torch.bfloat16, torch.float16):
            from harness.engine import fused, kernels, sparse

            self._changes.enter_context(fused.fuse(self._causal.model))
            self.kernels = kernels
            self._attention, self._multiple = sparse.SparseAttention, kernels.BLOCK
        # What the last batch began with: (tokens, their bytes) and the keys and values up to there, nested.
        self._segments: list[tuple[tuple[int, bytes], KeyValues]] = []

    @property
    def decoder(self) -> Any:
        """The model without its output head."""
        return self._causal.model

    def start(self, kind: str, job: Any) -> Callable[[], dict[str, Any]]:
        if isinstance(job, Instances):
            return super().start(kind, job)
        with torch.inference_mode(), attention.in_use(self._causal.config):
            if isinstance(job, Generation):
                answers = generate(self, job)
                return lambda: answers
            return self._score(kind, job)

    def ahead(self, kind: str) -> int:
        # A GPU isn't left idle while the next row is laid out; a CPU has done a job when it is begun.
        return int(self.device.type == "cuda" and kind != "generate_until")

    def forget(self) -> None:
        self._segments.clear()

    def close(self) -> None:
        self.forget()
        self._changes.close()

    # Scoring.

    def _score(self, kind: str, batch: Batch) -> Callable[[], dict[str, Any]]:
        builder = TreeBuilder(len(batch.prefix))
        places, targets, owners = [], [], []
        for number, part in enumerate(part for unit in batch.units for part in unit.parts):
            builder.add(part.text)
            places.append(builder.path(len(part.context) - 1))
            targets.append(part.continuation)
            owners.append(np.full(len(part.continuation), number))
        hidden, _ = self.forward(builder, self.before(batch))
        found = self._logprobs(hidden, np.concatenate(places), np.concatenate(targets))
        keys = [key for unit in batch.units for key in unit.keys]
        owner = np.concatenate(owners)

        def answers() -> dict[str, Any]:
            logprobs, greedy = found()
            totals = np.bincount(owner, weights=logprobs).tolist()
            said = (np.bincount(owner, weights=~greedy) == 0).tolist()
            if kind == "loglikelihood":
                return dict(zip(keys, zip(totals, said, strict=True), strict=True))
            summed = dict.fromkeys(keys, 0.0)
            for key, total in zip(keys, totals, strict=True):
                summed[key] += total
            return summed

        return answers

    def forward(
        self, builder: TreeBuilder, before: KeyValues | None, *, keep: bool = False
    ) -> tuple[torch.Tensor, TreeAttention]:
        """Hidden states of a row, (T, width), and what it attended by.

        before: keys and values of its prefix. keep: those of the row are kept there.
        """
        tree = builder.build(self._multiple)
        attend = self._attention(tree, before, self.device, keep=keep)
        ids, depths = (self._tensor(array)[None] for array in (tree.ids, tree.depths))
        output = self.decoder(input_ids=ids, position_ids=depths, use_cache=False, attend=attend)
        return output.last_hidden_state[0], attend

    def before(self, batch: Batch) -> KeyValues | None:
        """Keys and values of what a batch's units begin with, segment by segment, each computed once."""
        text = batch.prefix
        names = [(cut, text[:cut].tobytes()) for cut in batch.cuts]
        known = 0
        for (name, _), wanted in zip(self._segments, names, strict=False):
            if name != wanted:
                break
            known += 1
        # Batches come in the order of the tree: what this one doesn't begin with, none of the next ones does.
        del self._segments[known:]
        for name in names[known:]:
            start, before = (self._segments[-1][0][0], self._segments[-1][1]) if self._segments else (0, None)
            self._segments.append((name, self._segment(text[: name[0]], start, before)))
        return self._segments[-1][1] if self._segments else None

    def _segment(self, text: Tokens, start: int, before: KeyValues | None) -> KeyValues:
        """Keys and values of a text whose first tokens have theirs already."""
        builder = TreeBuilder(start)
        builder.add(text)
        attend = self.forward(builder, before, keep=True)[1]
        own = [(keys[:, :, : len(text) - start], values[:, :, : len(text) - start]) for keys, values in attend.kept]
        if before is None:
            return own
        return [
            (torch.cat([keys, more_keys], dim=2), torch.cat([values, more_values], dim=2))
            for (keys, values), (more_keys, more_values) in zip(before, own, strict=True)
        ]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: (S, width). Returns float32 (S, V)."""
        head = self._causal.lm_head
        if hidden.is_cuda and type(head) is torch.nn.Linear and head.bias is None and hidden.dtype != torch.float32:
            # Not rounded to 16 bits on the way.
            found = torch.mm(hidden, head.weight.t(), out_dtype=torch.float32)
        else:
            found = head(hidden).float()
        cap = getattr(self._causal.config, "final_logit_softcapping", None)
        return found if cap is None else torch.tanh(found / cap) * cap

    def _logprobs(
        self, hidden: torch.Tensor, places: Ints, targets: Tokens
    ) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        """Of each scored token its log-probability (N,), and whether it is the likeliest there (N,), when called.

        hidden: (T, width). places: (N,) index in the row of what predicts it. targets: (N,) token ids.
        """
        # A context's last token predicts the first token of every choice: one position, many targets.
        positions, owner = np.unique(places, return_inverse=True)
        order = np.argsort(owner, kind="stable")
        at_once = max(1, HEAD_BYTES // (4 * self._causal.config.vocab_size))
        logprobs, greedy = [], []
        for start in range(0, len(positions), at_once):
            logits = self.logits(hidden[self._tensor(positions[start : start + at_once])])  # (S, V)
            low, high = np.searchsorted(owner[order], (start, start + at_once))
            few = order[low:high]
            rows, wanted = self._tensor(owner[few] - start), self._tensor(targets[few].astype(np.int64))
            logprobs.append(logits[rows, wanted] - torch.logsumexp(logits, dim=-1)[rows])
            greedy.append(logits.argmax(dim=-1)[rows] == wanted)
        all_logprobs, all_greedy = torch.cat(logprobs), torch.cat(greedy)

        def found() -> tuple[np.ndarray, np.ndarray]:
            values, said = np.empty(len(places)), np.empty(len(places), dtype=np.bool_)
            values[order], said[order] = all_logprobs.double().cpu().numpy(), all_greedy.cpu().numpy()
            return values, said

        return found

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return on_device(array, self.device)
