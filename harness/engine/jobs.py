"""What a backend is given to do at once, and how all requests of a kind are divided into that.

A job is what is computed, stored and lost together. Jobs follow from the requests alone (harness.engine.plan says
why); a job that doesn't fit the memory is halved.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol, Self

from lm_eval.api.instance import Instance
from lm_eval.models.utils import normalize_gen_kwargs

from harness.engine.plan import Batch, Part, Unit, plan
from harness.engine.tokens import Encoder
from harness.engine.tree import Tokens
from harness.records import digest

log = logging.getLogger(__name__)

Requests = Mapping[str, Instance]
"""Distinct requests of one kind by their key."""


class Job(Protocol):
    """Requests that are answered together."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The requests it answers."""
        ...

    def halves(self) -> tuple[Self, Self] | None:
        """Two jobs of half the work, None where it can't be divided."""
        ...


class Planner(Protocol):
    """Divides requests into jobs."""

    def jobs(self, kind: str, requests: Requests) -> list[Any]:
        """The jobs that answer all requests of a kind, in the order in which they are best done."""
        ...


@dataclass(frozen=True, slots=True)
class Instances:
    """A job in lm-eval's own terms: instances, and how many of them make a batch."""

    keys: tuple[str, ...]
    instances: tuple[Instance, ...]

    def halves(self) -> tuple[Instances, Instances] | None:
        half = len(self.keys) // 2
        if not half:
            return None
        return Instances(self.keys[:half], self.instances[:half]), Instances(self.keys[half:], self.instances[half:])


@dataclass(frozen=True, slots=True)
class Generation:
    """Prompts that are gone on from together, greedily.

    prompts: token ids of each. prefill: the batches that compute them, their keys are the prompts'.
    max_new_tokens: of each answer. until: strings that end one.
    """

    keys: tuple[str, ...]
    prompts: tuple[Tokens, ...]
    prefill: tuple[Batch, ...]
    max_new_tokens: int
    until: tuple[str, ...]

    def halves(self) -> tuple[Generation, Generation] | None:
        half = len(self.keys) // 2
        if not half:
            return None
        budget = max(batch.n_tokens for batch in self.prefill)
        sides = (slice(0, half), slice(half, None))
        return tuple(  # type: ignore[return-value]
            replace(
                self,
                keys=self.keys[side],
                prompts=self.prompts[side],
                prefill=prefill(self.keys[side], self.prompts[side], budget),
            )
            for side in sides
        )


def prefill(keys: Sequence[str], prompts: Sequence[Tokens], budget: int) -> tuple[Batch, ...]:
    """The batches that compute prompts, each distinct token once."""
    empty = prompts[0][:0]
    return tuple(plan([Unit((key,), (Part(p, empty),)) for key, p in zip(keys, prompts, strict=True)], budget))


@dataclass(frozen=True, slots=True)
class Budget:
    """What a job may hold.

    tokens: distinct tokens computed at once. rows: answers gone on from at once. cache_tokens: tokens whose keys
    and values are kept for them, padding counted.
    """

    tokens: int
    rows: int
    cache_tokens: int


class EnginePlanner:
    """Jobs for harness.engine.lm.EngineLM."""

    def __init__(self, encoder: Encoder, budget: Budget):
        self.encoder, self.budget = encoder, budget

    def jobs(self, kind: str, requests: Requests) -> list[Any]:
        if kind == "loglikelihood":
            return plan(self._choices(requests), self.budget.tokens)
        if kind == "loglikelihood_rolling":
            windows = self.encoder.windows([instance.args[0] for instance in requests.values()])
            units, apart = [], []
            for key, parts in zip(requests, windows, strict=True):
                # The windows of a text are computed together: none, or too many, go lm-eval's way one by one.
                if 0 < sum(len(part.text) for part in parts) <= self.budget.tokens:
                    units.append(Unit((key,) * len(parts), parts))
                else:
                    apart.append(Instances((key,), (requests[key],)))
            return [*plan(units, self.budget.tokens), *apart]
        return [job for alike in _by_settings(requests) for job in self._generations(alike)]

    def _choices(self, requests: Requests) -> list[Unit]:
        parts = self.encoder.pairs([instance.args for instance in requests.values()])
        by_context: dict[str, list[tuple[str, Part]]] = {}
        for (key, instance), part in zip(requests.items(), parts, strict=True):
            by_context.setdefault(instance.args[0], []).append((key, part))
        return [Unit(*map(tuple, zip(*members, strict=True))) for members in by_context.values()]

    def _generations(self, requests: Requests) -> Iterable[Any]:
        settings = _settings(requests)
        max_new_tokens = settings.pop("max_gen_toks")
        until = tuple(text for text in settings.pop("until", None) or () if text)
        greedy = not settings.pop("do_sample", False) and not settings.pop("temperature", 0.0)
        if not greedy or settings:
            # Sampling, beams, penalties.
            _say_once("engine: answers that aren't plainly greedy are generated on lm-eval's own path")
            return padded(requests, self.encoder, self.budget, max_new_tokens)
        prompts = self.encoder.prompts([instance.args[0] for instance in requests.values()], max_new_tokens)
        pairs = sorted(zip(requests, prompts, strict=True), key=lambda pair: -len(pair[1]))
        waves: list[list[tuple[str, Tokens]]] = []
        for key, prompt in pairs:
            # The first prompt of a wave is its longest.
            width = len(waves[-1][0][1]) + max_new_tokens if waves else 0
            rows = len(waves[-1]) + 1 if waves else 0
            if not waves or rows > self.budget.rows or rows * width > self.budget.cache_tokens:
                waves.append([])
            waves[-1].append((key, prompt))
        return [self._wave(wave, max_new_tokens, until) for wave in waves]

    def _wave(self, wave: Sequence[tuple[str, Tokens]], max_new_tokens: int, until: tuple[str, ...]) -> Generation:
        keys, prompts = (tuple(part) for part in zip(*wave, strict=True))
        return Generation(keys, prompts, prefill(keys, prompts, self.budget.tokens), max_new_tokens, until)


@cache
def _say_once(text: str) -> None:
    log.warning(text)


class PaddedPlanner:
    """Jobs for lm-eval's own transformers backend, which pads: requests of like length, longest first."""

    def __init__(self, encoder: Encoder, budget: Budget):
        self.encoder, self.budget = encoder, budget

    def jobs(self, kind: str, requests: Requests) -> list[Any]:
        if kind != "generate_until":
            return padded(requests, self.encoder, self.budget)
        return [
            job
            for alike in _by_settings(requests)
            for job in padded(alike, self.encoder, self.budget, _settings(alike)["max_gen_toks"])
        ]


def padded(requests: Requests, encoder: Encoder, budget: Budget, max_new_tokens: int = 0) -> list[Instances]:
    """Jobs of requests of like length, longest first: padding is counted against the budget."""
    texts = {key: "".join(part for part in one.args if isinstance(part, str)) for key, one in requests.items()}
    lengths = encoder.lengths(texts.values())
    # Generation keeps keys and values of its tokens, not the logits of all of them.
    most = budget.cache_tokens if max_new_tokens else budget.tokens
    # Stable: equal lengths keep the order in which they were asked.
    ordered = sorted(requests, key=lambda key: -lengths[texts[key]])
    jobs: list[list[str]] = []
    for key in ordered:
        width = (lengths[texts[jobs[-1][0]]] if jobs else 0) + max_new_tokens
        if not jobs or len(jobs[-1]) == budget.rows or (len(jobs[-1]) + 1) * width > most:
            jobs.append([])
        jobs[-1].append(key)
    return [Instances(tuple(keys), tuple(requests[key] for key in keys)) for keys in jobs]


def _by_settings(requests: Requests) -> list[dict[str, Instance]]:
    """Requests that generate with equal settings: others can't share a batch."""
    found: dict[str, dict[str, Instance]] = {}
    for key, instance in requests.items():
        found.setdefault(digest(instance.args[1]), {})[key] = instance
    return list(found.values())


def _settings(requests: Requests) -> dict[str, Any]:
    return dict(normalize_gen_kwargs(next(iter(requests.values())).args[1]))


class InstancePlanner:
    """Jobs of so many requests, in the order in which they were asked."""

    def __init__(self, at_once: int):
        self.at_once = at_once

    def jobs(self, kind: str, requests: Requests) -> list[Any]:
        found = []
        for alike in [requests] if kind != "generate_until" else _by_settings(requests):
            keys = list(alike)
            for start in range(0, len(keys), self.at_once):
                few = tuple(keys[start : start + self.at_once])
                found.append(Instances(few, tuple(alike[key] for key in few)))
        return found
