"""A language model that asks its store first, and the plan that makes resuming exact.

The neighbours in a batch move a float32 log-likelihood by about 1e-6, so a resumed run equals an undisturbed
one only if its batches are the same. Hence batches are planned from the full list of requests before the store
is read; the token budget is measured once and kept with the run; a batch that isn't fully stored is computed
whole; a batch that had to be split for want of memory is split again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tqdm import tqdm

from harness.engine.lm import NARROW_ROWS, HFBackend
from harness.files import read_json, write_json
from harness.records import digest
from harness.store import Store, request_key

log = logging.getLogger(__name__)

MAX_ROWS = NARROW_ROWS
"""Rows of a batch: for more, a CPU's narrow products fall back to the slow form."""


@dataclass
class Plan:
    """What must stay the same when a run is resumed.

    token_budget: tokens a batch, padding counted. splits: names of batches that didn't fit the memory.
    """

    path: Path
    token_budget: int
    splits: set[str] = field(default_factory=set)

    @classmethod
    def load(cls, path: Path, measure: Callable[[], int]) -> Plan:
        """The plan kept in a run's directory, or a new one with a measured budget."""
        if path.is_file():
            document = read_json(path)
            return cls(path, document["token_budget"], set(document["splits"]))
        plan = cls(path, measure())
        plan.save()
        return plan

    def save(self) -> None:
        write_json(self.path, {"token_budget": self.token_budget, "splits": sorted(self.splits)})


@dataclass(frozen=True, slots=True)
class Unit:
    """Requests that are computed together and never apart: the choices of one document.

    rows: rows of a batch they take. length: tokens of the longest row.
    """

    keys: tuple[str, ...]
    instances: tuple[Instance, ...]
    rows: int
    length: int


def plan_batches(units: Iterable[Unit], token_budget: int) -> list[list[Unit]]:
    """Batches of at most token_budget tokens, padding counted, longest first; one unit may exceed it alone."""
    batches: list[list[Unit]] = []
    rows = 0
    # Stable: equal lengths keep the order in which they were asked.
    for unit in sorted(units, key=lambda unit: -unit.length):
        longest = batches[-1][0].length if batches else 0
        fits = batches and (rows + unit.rows) * longest <= token_budget and rows + unit.rows <= MAX_ROWS
        if fits:
            batches[-1].append(unit)
            rows += unit.rows
        else:
            batches.append([unit])
            rows = unit.rows
    return batches


def plan_packed(units: Iterable[Unit], token_budget: int) -> list[list[Unit]]:
    """Batches of at most token_budget tokens for a backend that packs rows and shares what contexts begin with.

    Contexts that begin alike come together; their length is counted whole, so that a batch is never too large.
    """
    batches: list[list[Unit]] = []
    total = 0
    for unit in sorted(units, key=lambda unit: unit.instances[0].args[0]):
        if batches and total + unit.length <= token_budget:
            batches[-1].append(unit)
            total += unit.length
        else:
            batches.append([unit])
            total = unit.length
    return batches


class StoredLM(LM):
    """An lm-eval model that answers from the store and loads the real one only when something is missing.

    server: gives the loaded model, as the base or the adapter that is asked. shared_context: whether the
    backend computes a document's context once for all its choices.
    """

    def __init__(
        self,
        *,
        store: Store,
        model_key: str,
        plan: Plan,
        tokenizer: Any,
        server: Callable[[], AbstractContextManager[HFBackend]],
        shared_context: bool,
        label: str,
        progress: bool,
    ):
        super().__init__()
        self.store, self.model_key, self.plan = store, model_key, plan
        self.tokenizer, self.server, self.shared_context = tokenizer, server, shared_context
        self.label, self.progress = label, progress
        self.counts = {"asked": 0, "reused": 0, "distinct": 0, "split": 0}

    # What lm-eval asks of a model beside answers.

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        return self.tokenizer.chat_template or ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    # Answers.

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        answers = self._answer("loglikelihood", requests, self._choice_units)
        return [(answer[0], answer[1]) for answer in answers]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return self._answer("loglikelihood_rolling", requests, self._text_units)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return self._answer("generate_until", requests, self._text_units)

    def _answer(
        self,
        kind: str,
        requests: Sequence[Instance],
        make_units: Callable[[dict[str, Instance]], list[list[Unit]]],
    ) -> list[Any]:
        keys = [request_key(kind, request.args) for request in requests]
        distinct = dict(zip(keys, requests, strict=True))
        self.counts["distinct"] += len(distinct)
        answers: dict[str, Any] = {}
        bar = tqdm(
            total=len(distinct),
            desc=f"{self.label} {kind}",
            unit="req",
            disable=not self.progress,
            leave=False,
        )
        with bar:
            for units in make_units(distinct):
                for batch in self._batches(kind, units):
                    answers.update(self._batch(kind, batch, bar))
        return [answers[key] for key in keys]

    def _batch(self, kind: str, batch: list[Unit], bar: tqdm) -> dict[str, Any]:
        keys = [key for unit in batch for key in unit.keys]
        stored = self.store.get(self.model_key, keys)
        if len(stored) == len(keys):
            self.counts["reused"] += len(keys)
            bar.update(len(keys))
            return stored
        name = digest([kind, keys])
        if name not in self.plan.splits:
            try:
                computed = self._compute(kind, batch)
            except Exception as error:
                if not _out_of_memory(error) or len(batch) == 1:
                    raise
                log.warning("out of memory with %d rows: the batch is halved", sum(unit.rows for unit in batch))
                self.plan.splits.add(name)
                self.plan.save()
            else:
                self.store.put(self.model_key, computed)
                self.counts["asked"] += len(keys)
                bar.update(len(keys))
                return computed
        self.counts["split"] += 1
        half = len(batch) // 2
        return {**self._batch(kind, batch[:half], bar), **self._batch(kind, batch[half:], bar)}

    def _compute(self, kind: str, batch: list[Unit]) -> dict[str, Any]:
        keys = [key for unit in batch for key in unit.keys]
        instances = [instance for unit in batch for instance in unit.instances]
        with self.server() as backend:
            backend.with_batch_size(sum(unit.rows for unit in batch))
            with torch.inference_mode():
                results = getattr(backend, kind)(instances, disable_tqdm=True)
        return dict(zip(keys, results, strict=True))

    # Planning.

    def _tokens(self, text: str) -> int:
        return len(self.tokenizer.encode(text))

    def _batches(self, kind: str, units: list[Unit]) -> list[list[Unit]]:
        if kind == "loglikelihood" and self.shared_context:
            return plan_packed(units, self.plan.token_budget)
        # Generation keeps keys and values of its tokens, not the activations or logits of all of them.
        budget = self.plan.token_budget * (8 if kind == "generate_until" else 1)
        return plan_batches(units, budget)

    def _choice_units(self, distinct: dict[str, Instance]) -> list[list[Unit]]:
        by_context: dict[str, list[tuple[str, Instance]]] = {}
        for key, instance in distinct.items():
            by_context.setdefault(instance.args[0], []).append((key, instance))
        units = []
        for context, members in by_context.items():
            lengths = [self._tokens(instance.args[1]) for _, instance in members]
            shared = self._tokens(context)
            units.append(
                Unit(
                    keys=tuple(key for key, _ in members),
                    instances=tuple(instance for _, instance in members),
                    rows=1 if self.shared_context else len(members),
                    length=shared + (sum(lengths) if self.shared_context else max(lengths)),
                )
            )
        return [units]

    def _text_units(self, distinct: dict[str, Instance]) -> list[list[Unit]]:
        # Requests with other generation settings can't share a batch.
        by_settings: dict[str, list[Unit]] = {}
        for key, instance in distinct.items():
            settings = instance.args[1] if len(instance.args) > 1 else {}
            new_tokens = settings.get("max_gen_toks", 0) if isinstance(settings, dict) else 0
            unit = Unit((key,), (instance,), 1, self._tokens(instance.args[0]) + new_tokens)
            by_settings.setdefault(digest(settings), []).append(unit)
        return list(by_settings.values())


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # A CPU allocator says it in words only.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
