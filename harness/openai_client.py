"""The one home of `openai`: asks a server that speaks OpenAI's protocol, quickly, once, and never for more than a cap.

    client = Client("gpt-4o", ledger, job="judge", max_usd=5.0)
    client.ask(requests, take)          # take(request, answer), in the order in which answers come

What a call does, in this order: looks into the ledger, where an answer that was paid for is never asked again; waits
its turn (harness.limits); reserves its worst price (harness.ledger); asks; tries again where trying can help. From
outside it is one ordinary function; inside, calls run side by side in an event loop.

The key comes from OPENAI_API_KEY and goes into one header; it stands in no record, and is taken out of every message.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from harness.errors import NetworkError, UsageError, UzBenchError
from harness.ledger import Ledger
from harness.limits import Limits, retry_after
from harness.prices import Price, Usage, is_local, likely_tokens, most_tokens, read_prices
from harness.records import digest

KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_URL = "https://api.openai.com/v1"

RETRIED = (408, 409, 429)
"""Statuses under 500 that asking again may change; the rest of 4xx are answers."""
FATAL = {
    401: f"The server refuses the key (HTTP 401). Put a valid one into {KEY_VARIABLE}.",
    403: f"The server forbids this (HTTP 403): the key in {KEY_VARIABLE} may not use this model.",
    404: "The server has no such model or address (HTTP 404). Check --judge and --base-url (it mostly ends in /v1).",
}

LONGEST_BACKOFF_S = 60.0
BYTES_A_TOKEN = 64
"""No token of an answer is longer, so that a count below its bytes over this is no count."""

_KEY_LIKE = re.compile(r"\b(sk|rk|pk)-[\w*.-]{6,}")


class BudgetError(UzBenchError):
    """The cap on the cost is reached; what was answered is kept."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a chat model.

    messages: (role, text) in order. schema: JSON schema of the answer, handed over where the server takes one.
    likely_input, likely_output: tokens for the estimate; by the letters, half of max_tokens where None.
    salt: makes requests differ that are otherwise the same. tag: the caller's own; no part of what is asked.
    """

    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    schema: Mapping[str, Any] | None = None
    likely_input: float | None = None
    likely_output: float | None = None
    salt: str = ""
    tag: Any = field(default=None, compare=False)

    def body(self, model: str, *, structured: bool, limit_name: str) -> dict[str, Any]:
        """The document that is sent."""
        found: dict[str, Any] = {
            "model": model,
            # A model may have written a lone surrogate, which no JSON in UTF-8 can carry.
            "messages": [
                {"role": role, "content": text.encode("utf-8", "replace").decode()} for role, text in self.messages
            ],
            "temperature": self.temperature,
            limit_name: self.max_tokens,
        }
        if self.seed is not None:
            found["seed"] = self.seed
        if self.schema is not None and structured:
            wanted = {"name": "answer", "strict": True, "schema": dict(self.schema)}
            found["response_format"] = {"type": "json_schema", "json_schema": wanted}
        return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request.

    text: None where there is none, and `error` says why. finish_reason: "stop", or "length" where it was cut.
    refusal: the server's own words where the model declined. usd: what it cost; stored: it was paid for earlier.
    """

    text: str | None = None
    finish_reason: str = ""
    refusal: str | None = None
    model: str = ""
    usage: Usage | None = None
    usd: float = 0.0
    stored: bool = False
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """What the ledger keeps."""
        usage = None if self.usage is None else [self.usage.input, self.usage.output, self.usage.cached]
        return {
            "text": self.text,
            "finish_reason": self.finish_reason,
            "refusal": self.refusal,
            "model": self.model,
            "usage": usage,
            "usd": self.usd,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        usage = document["usage"]
        return cls(**{**document, "usage": None if usage is None else Usage(*usage)}, stored=True)


@dataclass
class Tally:
    """What a client has done so far. usd: of this process's calls; odd_usage: answers whose counts can't be true."""

    stored: int = 0
    failed: int = 0
    usd: float = 0.0
    odd_usage: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What requests will probably cost. n_stored: of them, those that are already paid for."""

    n: int
    n_stored: int
    input_tokens: float
    output_tokens: float
    usd: float


Take = Callable[[Request, Answer], None]


class TryAgain(Exception):
    """A call that may go better the next time.

    pause_s: what the server asked for. too_fast: it says that it is asked too much. reached: what was asked may have
    been computed, and billed.
    """

    def __init__(
        self, reason: str, *, pause_s: float | None = None, too_fast: bool = False, reached: bool = True
    ) -> None:
        super().__init__(reason)
        self.pause_s, self.too_fast, self.reached = pause_s, too_fast, reached


class Client:
    """Asks one model of one server, from one thread.

    job: whose money is spent; a cap counts what earlier processes spent on it. max_usd: US dollars, None for no cap.
    concurrency: calls at once. timeout_s: a call's, after which it is tried again. tries: of one request.
    backoff_s: the first pause between tries; it doubles. structured: whether a request's schema is handed to the
    server: "auto" where it takes one, "schema" always, "none" never. prices: a table in place of the one that ships.
    Raises UsageError for a missing key or an unknown price.
    """

    def __init__(
        self,
        model: str,
        ledger: Ledger,
        *,
        job: str,
        base_url: str | None = None,
        max_usd: float | None = None,
        concurrency: int = 32,
        timeout_s: float = 120.0,
        tries: int = 8,
        backoff_s: float = 0.5,
        structured: str = "auto",
        prices: Path | None = None,
    ) -> None:
        if max_usd is not None and not max_usd > 0:
            raise UsageError(f"--max-usd {max_usd}: expected US dollars, more than 0.")
        if concurrency < 1:
            raise UsageError(f"--concurrency {concurrency}: expected 1 or more calls at once.")
        self.model, self.ledger, self.job, self.max_usd = model, ledger, job, max_usd
        self.base_url = checked_url(base_url) if base_url else OPENAI_URL
        self.concurrency, self.timeout_s, self.tries, self.backoff_s = concurrency, timeout_s, tries, backoff_s
        table = read_prices(prices)
        self._priced = table.as_of
        self.price = table.of(model, self.base_url)
        self.batch_price = self.price.scaled(table.batch_discount)
        self.tally = Tally()
        self._structured = structured
        self._key = _read_key(self.base_url)

    # What is asked.

    def body(self, request: Request) -> dict[str, Any]:
        """The document that a request is sent as."""
        # OpenAI's own models take the new name of the limit, other servers the old one.
        name = "max_completion_tokens" if self.base_url == OPENAI_URL else "max_tokens"
        return request.body(self.model, structured=self._structured != "none", limit_name=name)

    def key_of(self, request: Request) -> str:
        """What an answer is stored under: a hash of all that changes it."""
        name = "max_tokens"
        body = request.body(self.model, structured=request.schema is not None, limit_name=name)
        return digest([self.base_url, body, request.salt])

    def worst_usd(self, request: Request, price: Price | None = None) -> float:
        """The most that a call can cost: a token a byte, and as many new tokens as it may have."""
        texts = [text for _, text in request.messages]
        if request.schema is not None:
            texts.append(json.dumps(request.schema))
        return (price or self.price).usd(Usage(most_tokens(texts), request.max_tokens))

    def estimate(self, requests: Iterable[Request], *, batch: bool = False) -> Estimate:
        """What requests will probably cost, those left out that are paid for already."""
        n = n_left = 0
        tokens_in = tokens_out = 0.0
        for part in _parts(requests):
            keys = {self.key_of(each): each for each in part}
            stored = self.ledger.get(keys)
            left = [each for key, each in keys.items() if key not in stored]
            n, n_left = n + len(part), n_left + len(left)
            for each in left:
                guess = each.likely_input
                tokens_in += sum(likely_tokens(text) for _, text in each.messages) if guess is None else guess
                tokens_out += each.max_tokens / 2 if each.likely_output is None else each.likely_output
        price = self.batch_price if batch else self.price
        usd = (tokens_in * price.input + tokens_out * price.output) / 1_000_000
        return Estimate(n, n - n_left, tokens_in, tokens_out, usd)

    def outlook(self, usd: float) -> str:
        """What something will probably cost, and the cap, in words. usd: the estimate."""
        cost = f"about {usd:.2f} US dollars at the prices of {self._priced}" if self.price.input else "no price"
        return cost if self.max_usd is None else f"{cost}, never more than {self.max_usd:g}"

    def spent(self) -> float:
        """US dollars of this job so far, reserved ones and those of earlier processes included."""
        return self.ledger.spent(self.job)

    def over_budget(self, usd: float) -> BudgetError:
        """The error that the cap leaves no room for what may cost so much."""
        return BudgetError(
            f"--max-usd {self.max_usd:g} is reached: {self.spent():.4f} US dollars are spent or reserved, and the next "
            f"call may cost {usd:.4f}. What was answered is kept; name a higher cap and type the same command again."
        )

    def backoff(self, attempt: int) -> float:
        """Seconds to wait after so many tries, where the server doesn't say."""
        return min(LONGEST_BACKOFF_S, self.backoff_s * 2 ** (attempt - 1))

    # Asking.

    def ask(self, requests: Iterable[Request], take: Take) -> None:
        """Asks requests, read as they are needed, and hands each answer over as it comes, in one thread.

        An answer that couldn't be had is handed over with its `error`, and isn't stored: the next time it is asked
        again. Raises BudgetError at the cap and NetworkError where the server gives nothing, both after all answers
        that were under way have been taken; UsageError for a key, model or address that the server refuses.
        """
        run_alone(self._ask_all(iter(requests), take))

    async def _ask_all(self, requests: Iterator[Request], take: Take) -> None:
        async with self.connected() as api:
            asking = _Asking(self, api, requests, take)
            await asking.run()

    def connected(self) -> Any:
        """openai's own client, whose retries are off: ours know the cap. An asynchronous context manager."""
        from openai import AsyncOpenAI

        return AsyncOpenAI(api_key=self._key, base_url=self.base_url, timeout=self.timeout_s, max_retries=0)

    @staticmethod
    def raw() -> type:
        """What openai's library is to give back: the response as it came."""
        import httpx2

        return httpx2.Response

    def cleaned(self, text: object) -> str:
        """A message of the server or its library, in one line and without anything like a key."""
        found = " ".join(str(text).split())
        if self._key:
            found = found.replace(self._key, "[key]")
        return _KEY_LIKE.sub("[key]", found)[:300]

    # What an answer is.

    def read(self, document: Any, request: Request, *, price: Price | None = None, worst: float) -> Answer:
        """The answer in a server's document, with what it cost.

        worst: what it counts for where the server's counts can't be true, US dollars.
        Raises TryAgain where it isn't an answer's document.
        """
        price = price or self.price
        try:
            choice = document["choices"][0]
            message = choice["message"]
            text, refusal = message.get("content"), message.get("refusal")
            if not isinstance(text, str | None) or not isinstance(refusal, str | None):
                raise TypeError("content")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise TryAgain("an answer of another form than the protocol's") from None
        usage = _usage(document.get("usage"))
        if usage is None or not _is_true(usage, text or "", request.max_tokens):
            # Counted as it may have been billed.
            self.tally.odd_usage += 1
            usd = max(worst, price.usd(usage) if usage else 0.0)
        else:
            usd = price.usd(usage)
        return Answer(
            text=text,
            finish_reason=str(choice.get("finish_reason") or ""),
            refusal=refusal,
            model=str(document.get("model") or ""),
            usage=usage,
            usd=usd,
        )

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Turns what openai raises into what a person can read, or what is worth another try."""
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            raise self._status(error) from None
        except openai.APITimeoutError:
            raise TryAgain(f"no answer in {self.timeout_s:g} s") from None
        except openai.APIConnectionError as error:
            cause = type(error.__cause__).__name__
            # A connection that never stood carried nothing, and nothing was billed.
            raise TryAgain(f"the connection failed ({cause})", reached="Connect" not in cause) from None
        except openai.OpenAIError as error:
            raise TryAgain(self.cleaned(error)) from None

    def _status(self, error: Any) -> Exception:
        body = error.body if isinstance(error.body, dict) else {}
        status, said = error.status_code, self.cleaned(body.get("message") or error.message)
        if status == 429 and error.code == "insufficient_quota":
            return UsageError(f"The account has no money left, or its own limit is reached: {said}")
        if status in FATAL:
            return UsageError(f"{FATAL[status]} It says: {said}")
        if status in RETRIED or status >= 500:
            pause = retry_after(error.response.headers)
            return TryAgain(f"HTTP {status}", pause_s=pause, too_fast=status in (429, 503), reached=False)
        return Refused(status, said)

    def takes_no_schema(self, refused: Refused) -> bool:
        """Whether a refusal means that this server knows no schemas; they are left out from here on."""
        if self._structured == "schema" or refused.status not in (400, 422, 501):
            return False
        if not any(word in refused.said.lower() for word in ("response_format", "json_schema", "schema", "structured")):
            return False
        self._structured = "none"
        return True


class Refused(Exception):
    """A 4xx that asking again wouldn't change."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"HTTP {status}: {said}")
        self.status, self.said = status, said


class _Asking:
    """One call of `Client.ask`: workers that share the requests, the limits and the budget."""

    def __init__(self, client: Client, api: Any, requests: Iterator[Request], take: Take) -> None:
        self.client, self.api, self.requests, self.take = client, api, requests, take
        self.limits = Limits(client.concurrency)
        self.settled = asyncio.Event()
        self.reserved = 0
        self.same: dict[str, asyncio.Future[Answer | None]] = {}
        self.stop: UzBenchError | None = None
        self.answered = 0
        self.failed_in_a_row = 0
        self.failure: tuple[str, type[UzBenchError]] = "", NetworkError

    async def run(self) -> None:
        workers = [asyncio.create_task(self._work()) for _ in range(self.client.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if self.failed_in_a_row and not self.answered and not self.client.tally.stored:
            self._give_up()
        if self.stop:
            raise self.stop

    async def _work(self) -> None:
        while not self.stop:
            request = next(self.requests, None)
            if request is None:
                return
            answer = await self._answer(request)
            if answer is None:
                return
            self.take(request, answer)
            await asyncio.sleep(0)  # Stored answers come without a wait: others have their turn.

    async def _answer(self, request: Request) -> Answer | None:
        """The answer to a request; None where asking has ended."""
        client, key = self.client, self.client.key_of(request)
        stored = client.ledger.get([key])
        if stored:
            client.tally.stored += 1
            return Answer.from_dict(stored[key])
        if key in self.same:
            # The same question is under way: one answer serves both.
            return await self.same[key]
        self.same[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await self._asked(key, request)
            self.same[key].set_result(answer)
            return answer
        finally:
            future = self.same.pop(key)
            if not future.done():
                future.cancel()

    async def _asked(self, key: str, request: Request) -> Answer | None:
        client, reason = self.client, ""
        tokens = most_tokens([text for _, text in request.messages]) / 3 + request.max_tokens
        worst, attempt = client.worst_usd(request), 0
        while attempt < client.tries and not self.stop:
            await self.limits.enter(tokens)
            body = client.body(request)
            try:
                spending = await self._reserve(worst)
                if spending is None:
                    return None
                try:
                    return await self._attempt(key, request, body, worst, spending)
                finally:
                    self.reserved -= 1
                    self.settled.set()
            except Refused as refused:
                if "response_format" in body and client.takes_no_schema(refused):
                    continue  # Asked without, and not counted as a try.
                return self._failed(str(refused), UsageError)
            except TryAgain as again:
                attempt += 1
                reason = str(again)
                pause = self._pause(attempt, again)
            except UzBenchError as error:
                self.stop = self.stop or error
                return None
            finally:
                self.limits.leave()
            if not self.answered and "Connect" in reason and attempt >= 3:
                break  # Nobody is there: better said soon.
            if attempt < client.tries and not self.stop:
                await asyncio.sleep(pause)
        return self._failed(f"{reason}, {attempt} tries", NetworkError) if not self.stop else None

    def _pause(self, attempt: int, again: TryAgain) -> float:
        """Seconds before the next try: what the server asked for, else doubled each time, and never all at once."""
        backoff = self.client.backoff(attempt) * random.uniform(0.5, 1.0)
        if again.too_fast:
            self.limits.refused(backoff if again.pause_s is None else again.pause_s)
        if again.pause_s is None:
            return backoff
        return again.pause_s + random.uniform(0, 0.1) * (1 + again.pause_s)

    async def _reserve(self, usd: float) -> int | None:
        """Sets a call's worst price aside; None where the cap leaves no room for it."""
        client = self.client
        while not self.stop:
            spending = client.ledger.reserve(client.job, usd, client.max_usd)
            if spending is not None:
                self.reserved += 1
                return spending
            if not self.reserved:
                self.stop = client.over_budget(usd)
                return None
            # What is under way was reserved at its worst: settled, it leaves room.
            self.settled.clear()
            await self.settled.wait()
        return None

    async def _attempt(self, key: str, request: Request, body: dict[str, Any], worst: float, spending: int) -> Answer:
        """One call. Raises TryAgain, Refused, UzBenchError; the money is settled in every case."""
        client, ledger = self.client, self.client.ledger
        try:
            with client.faults():
                # The library's `create` looks through every value of what is sent, which takes longer than sending it.
                raw = await self.api.post("/chat/completions", body=body, cast_to=self.client.raw())
            self.limits.learn(raw.headers)
            try:
                document = json.loads(raw.text)
            except ValueError:
                raise TryAgain("an answer that isn't JSON") from None
            answer = client.read(document, request, worst=worst)
        except TryAgain as again:
            # What was reached may have been billed.
            self._spent(spending, None if again.reached else 0.0, worst)
            raise
        except (Refused, UzBenchError):
            self._spent(spending, 0.0, worst)
            raise
        ledger.settle(spending, answer.usd, {key: answer.to_dict()})
        client.tally.usd += answer.usd
        self.limits.succeeded()
        self.answered += 1
        self.failed_in_a_row = 0
        return answer

    def _spent(self, spending: int, usd: float | None, worst: float) -> None:
        self.client.ledger.settle(spending, usd, {})
        self.client.tally.usd += worst if usd is None else usd

    def _failed(self, reason: str, kind: type[UzBenchError]) -> Answer:
        self.client.tally.failed += 1
        self.failed_in_a_row += 1
        self.failure = reason, kind
        if self.failed_in_a_row >= (max(8, self.client.concurrency) if self.answered else 8):
            self._give_up()
        return Answer(error=reason)

    def _give_up(self) -> None:
        """So many failures without an answer between them: the server is the reason, not a request."""
        reason, kind = self.failure
        host = urlsplit(self.client.base_url).netloc
        if kind is NetworkError:
            said = f"{host} gives no answers ({reason}). What was answered is kept; type the same command again later."
        else:
            said = f"{host} refuses what it is asked ({reason})."
        self.stop = self.stop or kind(said)


def _parts(requests: Iterable[Request], size: int = 500) -> Iterator[list[Request]]:
    """Requests a few at a time: there may be more than memory should hold."""
    iterator = iter(requests)
    while part := list(islice(iterator, size)):
        yield part


def _usage(document: Any) -> Usage | None:
    """The counts of a server; None where one of them is no count."""
    if not isinstance(document, dict):
        return None
    details = document.get("prompt_tokens_details")
    cached = (details.get("cached_tokens") or 0) if isinstance(details, dict) else 0
    counts = [document.get("prompt_tokens"), document.get("completion_tokens"), cached]
    known = [each for each in counts if isinstance(each, int) and not isinstance(each, bool) and each >= 0]
    return Usage(*known) if len(known) == len(counts) else None


def _is_true(usage: Usage, text: str, max_tokens: int) -> bool:
    """Whether counts can be true of an answer: as many tokens as it must have, no more than it may."""
    fewest = len(text.encode("utf-8", "surrogatepass")) / BYTES_A_TOKEN
    return usage.input > 0 and usage.cached <= usage.input and fewest <= usage.output <= max_tokens


def checked_url(url: str) -> str:
    """A server's address without its last slash.

    Raises UsageError for one that isn't http, or carries a password, which would end in records.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--base-url {url!r}: expected an address such as http://localhost:8000/v1.")
    if parts.username or parts.password or parts.query:
        raise UsageError(f"--base-url carries a user, password or query. Put the key into {KEY_VARIABLE} instead.")
    return url.rstrip("/")


def _read_key(base_url: str) -> str:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if key:
        return key
    if is_local(base_url):
        return "none"  # A server of this machine mostly wants no key; openai's library wants some.
    raise UsageError(f"{KEY_VARIABLE} isn't set. Put your key into it: export {KEY_VARIABLE}=…")


def run_alone(work: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine to its end, also where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    failed: list[BaseException] = []

    def target() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
