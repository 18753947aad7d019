"""OpenAI's Batch API: the same questions at half the price, answered within a day.

A line of what is handed in, shortened (https://developers.openai.com/api/docs/guides/batch):

    {"custom_id": "9f2c…", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-4o", …}}

A batch is noted in the ledger, its worst price reserved, before it is handed in, and carries its own mark: killed at
any moment, the next call of the same job finds it, also where the server had taken it and the answer was lost. Lines
that failed are handed in again.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from harness.errors import NetworkError, UsageError
from harness.ledger import PendingBatch
from harness.openai_client import Answer, Client, Refused, Request, Take, TryAgain, run_alone

MOST_LINES, MOST_BYTES = 50_000, 180_000_000
"""What the server takes in one batch: 50,000 lines and 200 MB."""

ENDED = ("completed", "failed", "expired", "cancelled")
MARK = "uzbench"
"""The name of the metadata that says which of our batches one is."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Waiting:
    """How a batch stands. done, failed: lines; n: all of them."""

    status: str
    done: int
    failed: int
    n: int


def ask_in_batches(
    client: Client,
    requests: Iterable[Request],
    take: Take,
    *,
    poll_s: float = 30.0,
    rounds: int = 3,
    report: Callable[[Waiting], None] = lambda waiting: None,
) -> None:
    """Like Client.ask, by batches: collects what an earlier call of this job handed in, then hands in the rest.

    poll_s: seconds between two looks. rounds: how often lines that fail are handed in. report: called at each look.
    Raises BudgetError where the cap leaves room for nothing more, NetworkError, UsageError.
    """
    run_alone(_Batches(client, requests, take, poll_s, report).run(rounds))


def ask_with_bar(
    client: Client, requests: Iterable[Request], take: Take, bar: Any, *, batch: bool, poll_s: float
) -> None:
    """Asks side by side, or by batches; a bar of tqdm says how a batch stands. Raises what either way raises."""

    def report(waiting: Waiting) -> None:
        bar.set_description(f"batch {waiting.status}, {waiting.done} of {waiting.n}")

    if batch:
        ask_in_batches(client, requests, take, poll_s=poll_s, report=report)
    else:
        client.ask(requests, take)


class _Batches:
    def __init__(
        self, client: Client, requests: Iterable[Request], take: Take, poll_s: float, report: Callable[[Waiting], None]
    ) -> None:
        self.client, self.take, self.poll_s, self.report = client, take, poll_s, report
        self.wanted: dict[str, list[Request]] = {}
        for request in requests:
            self.wanted.setdefault(client.key_of(request), []).append(request)
        self.reasons: dict[str, str] = {}

    async def run(self, rounds: int) -> None:
        client = self.client
        stored = client.ledger.get(self.wanted)
        client.tally.stored += len(stored)
        for key, document in stored.items():
            self._give(key, Answer.from_dict(document))
        async with client.connected() as self.api:
            await self._collect(client.ledger.pending_batches(client.job))
            for _ in range(rounds):
                todo = list(self.wanted)
                while todo:
                    taken = self._that_fit(todo)
                    batch = await self._hand_in(taken)
                    await self._collect([batch])
                    todo = todo[len(taken) :]
                if not self.wanted:
                    return
        for key in list(self.wanted):
            client.tally.failed += 1
            self._give(key, Answer(error=f"{self.reasons.get(key, 'no answer')}, {rounds} batches"))

    def _give(self, key: str, answer: Answer) -> None:
        for request in self.wanted.pop(key, ()):
            self.take(request, answer)

    # Handing in.

    def _that_fit(self, keys: Sequence[str]) -> list[str]:
        """The first of the keys, as many as one batch takes and the cap has room for at their worst price."""
        client = self.client
        room = None if client.max_usd is None else client.max_usd - client.spent()
        taken: list[str] = []
        size, usd = 0, 0.0
        for key in keys[:MOST_LINES]:
            size += len(self._line(key))
            usd += self._worst(key)
            if taken and size > MOST_BYTES:
                break
            if room is not None and usd > room:
                break
            taken.append(key)
        if not taken:
            raise client.over_budget(usd)
        return taken

    def _worst(self, key: str) -> float:
        return self.client.worst_usd(self.wanted[key][0], self.client.batch_price)

    def _line(self, key: str) -> bytes:
        body = self.client.body(self.wanted[key][0])
        line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(line).encode() + b"\n"

    async def _hand_in(self, keys: Sequence[str]) -> PendingBatch:
        client, uid = self.client, uuid.uuid4().hex
        usd = sum(map(self._worst, keys))
        spending = client.ledger.open_batch(client.job, uid, keys, usd, client.max_usd)
        if spending is None:
            raise client.over_budget(usd)  # Another process spends on this job too.
        content = b"".join(map(self._line, keys))
        file = await self._steady(lambda: self.api.files.create(file=("batch.jsonl", content), purpose="batch"))

        async def create() -> Any:
            # A try that seemed to fail may have been taken: never handed in twice.
            return await self._find(uid) or await self.api.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={MARK: uid}
            )

        made = await self._steady(create)
        client.ledger.name_batch(uid, made.id)
        return PendingBatch(uid, made.id, spending, tuple(keys))

    async def _find(self, uid: str) -> Any | None:
        async for batch in self.api.batches.list():
            if (batch.metadata or {}).get(MARK) == uid:
                return batch
        return None

    # Collecting.

    async def _collect(self, batches: Sequence[PendingBatch]) -> None:
        for pending in batches:
            if pending.batch_id is None:
                found = await self._steady(partial(self._find, pending.uid))
                if found is None:
                    self.client.ledger.close_batch(pending, 0.0, {})  # It never got there.
                    continue
                self.client.ledger.name_batch(pending.uid, found.id)
                pending = PendingBatch(pending.uid, found.id, pending.spending, pending.keys)
            await self._wait_for(pending)

    async def _wait_for(self, pending: PendingBatch) -> None:
        while True:
            batch = await self._steady(lambda: self.api.batches.retrieve(pending.batch_id))
            counts = batch.request_counts
            done, failed = (counts.completed, counts.failed) if counts else (0, 0)
            self.report(Waiting(batch.status, done, failed, len(pending.keys)))
            if batch.status in ENDED:
                break
            await asyncio.sleep(self.poll_s)
        answers: dict[str, Answer] = {}
        for name in (batch.output_file_id, batch.error_file_id):
            if name:
                content = await self._steady(partial(self.api.files.content, name))
                for line in content.content.splitlines():
                    self._read_line(line, set(pending.keys), answers)
        usd = sum(answer.usd for answer in answers.values())
        self.client.ledger.close_batch(pending, usd, {key: answer.to_dict() for key, answer in answers.items()})
        self.client.tally.usd += usd
        for key, answer in answers.items():
            self._give(key, answer)
        if batch.status == "failed" and not answers:
            problems = getattr(batch.errors, "data", None) or []
            said = "; ".join(self.client.cleaned(each.message) for each in problems[:3])
            raise UsageError(f"The server takes no such batch: {said or 'it does not say why'}.")

    def _read_line(self, raw: bytes, keys: set[str], answers: dict[str, Answer]) -> None:
        try:
            line = json.loads(raw)
            key, response = line["custom_id"], line.get("response") or {}
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # Its key stays without an answer and is handed in again.
        if key not in keys:
            return
        if response.get("status_code") != 200:
            said = (response.get("body") or {}).get("error") or line.get("error") or {}
            self.reasons[key] = f"HTTP {response.get('status_code')}: {self.client.cleaned(said.get('message'))}"
            return
        # A batch of an earlier call may hold what this one doesn't ask: paid for, and kept.
        request = self.wanted[key][0] if key in self.wanted else Request((), max_tokens=10**9)
        worst = self._worst(key) if key in self.wanted else 0.0
        try:
            price = self.client.batch_price
            answers[key] = self.client.read(response.get("body"), request, price=price, worst=worst)
        except TryAgain as again:
            self.reasons[key] = str(again)

    async def _steady(self, call: Callable[[], Awaitable[T]]) -> T:
        """A call that is tried again while that may help."""
        client = self.client
        for attempt in range(1, client.tries + 1):
            try:
                with client.faults():
                    return await call()
            except TryAgain as again:
                reason = str(again)
                await asyncio.sleep(again.pause_s or client.backoff(attempt))
            except Refused as refused:
                raise UsageError(f"The server refuses the batch ({refused}).") from None
        raise NetworkError(f"The server gives no answers ({reason}). What was handed in is kept; type the same again.")
