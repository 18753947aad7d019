"""From the texts of requests to token ids, as lm-eval's transformers backend makes them, many at a time.

The rules are HFLM's (https://github.com/EleutherAI/lm-evaluation-harness/blob/v0.4.13/lm_eval/models/huggingface.py
and api/model.py, `_encode_pair`): white space at the end of a context goes over to the continuation, both are
encoded as one text and split by the length of the encoded context; a context that is empty is the BOS token; what is
too long loses its beginning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from lm_eval.models.utils import resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from harness.engine.plan import Part
from harness.engine.tree import Tokens, tokens
from harness.errors import ModelError, UsageError

log = logging.getLogger(__name__)

AT_ONCE = 1024
"""Texts that are encoded at once, on all cores: as Python's integers, tokens take some thirty times their bytes."""


class Encoder:
    """A tokenizer and the longest input of its model.

    tokenizer: a transformers tokenizer. config: the model's.
    """

    def __init__(self, tokenizer: Any, config: Any):
        self.tokenizer = tokenizer
        self.max_length = resolve_max_length(config, tokenizer)
        self.prefix_token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self._prefix_text = tokenizer.decode(self.prefix_token)

    def pairs(self, requests: Sequence[tuple[str, str]]) -> list[Part]:
        """(context, continuation) texts in tokens.

        Raises ModelError where nothing is left to score.
        """
        moved = [_space_moved(*request) for request in requests]
        contexts = self._encoded(context for context, _ in moved if context)
        wholes = self._encoded((context + continuation for context, continuation in moved if context))
        alone = self._encoded((continuation for context, continuation in moved if not context), bare=True)
        parts, n_cut = [], 0
        for context, continuation in moved:
            if context:
                before = contexts[context]
                after = wholes[context + continuation][len(before) :]
            else:
                before, after = np.asarray([self.prefix_token], dtype=np.int32), alone[continuation]
                if len(after) and after[0] == self.prefix_token:
                    before, after = after[:1], after[1:]
            if not len(after) or len(after) > self.max_length:
                raise ModelError(
                    f"The answer {continuation[:80]!r} has {len(after)} tokens, where 1 to {self.max_length} can be "
                    "scored. Leave its task out, or name another model."
                )
            over = len(before) + len(after) - (self.max_length + 1)
            if over > 0:
                if not n_cut:
                    log.warning(
                        "Combined length of context (%d) and continuation (%d) exceeds model's maximum length (%d). "
                        "Truncating %d tokens from the left.",
                        len(before), len(after), self.max_length, over,
                    )  # fmt: skip
                n_cut += 1
                before = before[over:]
            parts.append(Part(before, after))
        if n_cut > 1:
            log.warning("So were %d of %d requests.", n_cut, len(requests))
        return parts

    def windows(self, texts: Sequence[str]) -> list[tuple[Part, ...]]:
        """Whole texts in windows of the model's length; each token is predicted once."""
        encoded = self._encoded(texts)
        return [
            tuple(
                Part(tokens(context), tokens(continuation))
                for context, continuation in map(
                    make_disjoint_window,
                    get_rolling_token_windows(encoded[text].tolist(), self.prefix_token, self.max_length, 1),
                )
            )
            for text in texts
        ]

    def prompts(self, texts: Sequence[str], max_new_tokens: int) -> list[Tokens]:
        """Texts to go on from; what is too long to leave room for the new tokens loses its beginning.

        Raises UsageError where the new tokens alone are too many.
        """
        room = self.max_length - max_new_tokens
        if room <= 0:
            raise UsageError(
                f"{max_new_tokens} new tokens are asked for, the model takes {self.max_length} with the question. "
                "Try: --gen-kwargs max_gen_toks=64"
            )
        encoded = self._encoded(texts)
        n_cut = sum(len(encoded[text]) > room for text in texts)
        if n_cut:
            log.warning("Left truncation applied to %d of %d prompts: more than %d tokens.", n_cut, len(texts), room)
        return [encoded[text][-room:] for text in texts]

    def lengths(self, texts: Iterable[str]) -> dict[str, int]:
        """Tokens of each text."""
        return {text: len(ids) for text, ids in self._encoded(texts).items()}

    def _encoded(self, texts: Iterable[str], *, bare: bool = False) -> dict[str, Tokens]:
        """Token ids by text. bare: without BOS; a text that already begins with it isn't given another."""
        distinct = list(dict.fromkeys(texts))
        found: dict[str, Tokens] = {}
        for special in (True, False):
            some = [text for text in distinct if (not bare and not text.startswith(self._prefix_text)) == special]
            for start in range(0, len(some), AT_ONCE):
                few = some[start : start + AT_ONCE]
                ids = self.tokenizer(few, add_special_tokens=special)["input_ids"]
                found.update(zip(few, map(tokens, ids), strict=True))
        return found


def _space_moved(context: str, continuation: str) -> tuple[str, str]:
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation
