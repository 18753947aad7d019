"""A language model that asks its store first, and the plan that makes resuming exact.

The neighbours in a batch move a float32 log-likelihood by about 1e-6, so a resumed run equals an undisturbed
one only if its jobs are the same. Hence jobs are planned from the full list of requests before the store is read;
what a job may hold is measured once and kept with the run; a job that isn't fully stored is computed whole; a job
that had to be halved for want of memory is halved again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tqdm import tqdm

from harness.engine.jobs import Budget, Job, Planner
from harness.errors import ModelError
from harness.files import read_json, write_json
from harness.records import digest
from harness.store import Store, request_key

log = logging.getLogger(__name__)

Computed = Iterable[tuple[Job, Mapping[str, Any] | None]]
"""Jobs with their answers by request, in any order; None for one that didn't fit the memory."""


@dataclass
class Plan:
    """What must stay the same when a run is resumed.

    budget: what a job may hold. splits: names of jobs that didn't fit the memory.
    """

    path: Path
    budget: Budget
    splits: set[str] = field(default_factory=set)

    @classmethod
    def load(cls, path: Path, measure: Callable[[], Budget]) -> Plan:
        """The plan kept in a run's directory, or a new one with a measured budget."""
        if path.is_file():
            document = read_json(path)
            return cls(path, Budget(**document["budget"]), set(document["splits"]))
        plan = cls(path, measure())
        plan.save()
        return plan

    def save(self) -> None:
        write_json(self.path, {"budget": asdict(self.budget), "splits": sorted(self.splits)})


class Progress:
    """One bar over all that a load answers: the base's requests, and as many for each of its adapters.

    growing: a single model answers part after part, and nobody knows how many parts there will be.
    """

    def __init__(self, n_models: int, *, shown: bool, growing: bool = False):
        self._n_models, self._growing, self._expected = n_models, growing, dict[str, int]()
        self._bar = tqdm(total=0, unit="req", disable=not shown, leave=False)

    def begin(self, label: str, kind: str, n: int) -> None:
        """A model is about to answer n requests of a kind."""
        if self._growing:
            self._expected[kind] = self._expected.get(kind, 0) + n
        else:
            self._expected.setdefault(kind, n)
        self._bar.total = sum(self._expected.values()) * self._n_models
        self._bar.set_description(f"{label} {kind}")

    def advance(self, n: int) -> None:
        self._bar.update(n)

    def close(self) -> None:
        self._bar.close()


class Speaker(Protocol):
    """What writes a chat out as a request."""

    @property
    def tokenizer_name(self) -> str:
        """What decides how it is written, for lm-eval's records."""
        ...

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template, or an empty string where it isn't known here."""
        ...

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> Any:
        """A chat as the text of a request."""
        ...


class StoredLM(LM):
    """An lm-eval model that answers from the store and has computed only what is missing there.

    planner: divides requests into jobs. compute: does jobs of a kind; it loads the model when it must.
    seed: of answers that are sampled.
    """

    def __init__(
        self,
        *,
        store: Store,
        model_key: str,
        plan: Plan,
        planner: Planner,
        compute: Callable[[str, Sequence[Job]], Computed],
        speaker: Speaker,
        seed: int,
        label: str,
        progress: Progress,
    ):
        super().__init__()
        self.store, self.model_key, self.plan = store, model_key, plan
        self.planner, self.compute, self.speaker = planner, compute, speaker
        self.seed, self.label, self.progress = seed, label, progress
        self.counts = {"asked": 0, "reused": 0, "distinct": 0, "split": 0}

    # What lm-eval asks of a model beside answers.

    @property
    def tokenizer_name(self) -> str:
        return self.speaker.tokenizer_name

    def chat_template(self, chat_template: bool | str = False) -> str:
        return self.speaker.chat_template(chat_template)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> Any:
        return self.speaker.apply_chat_template(chat_history, add_generation_prompt)

    # Answers.

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return [(answer[0], answer[1]) for answer in self._answer("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return self._answer("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return self._answer("generate_until", requests)

    def _answer(self, kind: str, requests: Sequence[Instance]) -> list[Any]:
        keys = [self._key(kind, request) for request in requests]
        distinct = dict(zip(keys, requests, strict=True))
        self.counts["distinct"] += len(distinct)
        self.progress.begin(self.label, kind, len(distinct))
        answers: dict[str, Any] = {}
        missing = []
        for job in self._divided(kind, self.planner.jobs(kind, distinct)):
            stored = self.store.get(self.model_key, job.keys)
            if len(stored) == len(job.keys):
                answers.update(stored)
                self.counts["reused"] += len(stored)
                self.progress.advance(len(stored))
            else:
                missing.append(job)
        while missing:
            missing = list(self._computed(kind, missing, answers))
        return [answers[key] for key in keys]

    def _key(self, kind: str, request: Instance) -> str:
        sampled = kind == "generate_until" and _samples(request.args[1])
        return request_key(kind, [*request.args, self.seed] if sampled else request.args)

    def _divided(self, kind: str, jobs: Iterable[Job]) -> Iterator[Job]:
        """Jobs, those halved that didn't fit the memory before."""
        for job in jobs:
            halves = job.halves() if self._name(kind, job) in self.plan.splits else None
            if halves is None:
                yield job
            else:
                self.counts["split"] += 1
                yield from self._divided(kind, halves)

    def _computed(self, kind: str, jobs: Sequence[Job], answers: dict[str, Any]) -> Iterator[Job]:
        """Computes jobs and keeps what they answer; yields the halves of those that didn't fit the memory."""
        for job, found in self.compute(kind, jobs):
            if found is None:
                if job.halves() is None:
                    raise ModelError(
                        "A single request doesn't fit the device's memory. Try: --quantization nf4, or fewer --shots"
                    )
                log.warning("out of memory with %d requests: they are halved", len(job.keys))
                self.plan.splits.add(self._name(kind, job))
                self.plan.save()
                yield from self._divided(kind, [job])
                continue
            self.store.put(self.model_key, found)
            answers.update(found)
            self.counts["asked"] += len(found)
            self.progress.advance(len(found))

    def _name(self, kind: str, job: Job) -> str:
        return digest([kind, job.keys])


def _samples(settings: Mapping[str, Any]) -> bool:
    """Whether an answer depends on the seed: a server samples whenever it is warm, whatever do_sample says."""
    return bool(settings.get("do_sample")) or float(settings.get("temperature") or 0) > 0
