"""How fast a server may be asked: requests and tokens a minute, learned from its own headers, and pauses it asks for.

What OpenAI's servers say with every answer
(https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers):

    x-ratelimit-limit-requests: 500         x-ratelimit-limit-tokens: 30000
    x-ratelimit-remaining-requests: 499     x-ratelimit-remaining-tokens: 28976
    x-ratelimit-reset-requests: 120ms       x-ratelimit-reset-tokens: 2.048s

`reset` is the time until the allowance is whole again, so that it refills at (limit - remaining) / reset a second.
"""

from __future__ import annotations

import asyncio
import email.utils
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

GROWTH = 1.0
"""Calls that may be under way at once grow by this much a round of successes, and shrink to SHRINK on a refusal."""
SHRINK = 0.7

LONGEST_PAUSE_S = 600.0
"""A server that wants a longer pause is not waited for that long: asking again shows whether it meant it."""


def duration(text: str | None) -> float | None:
    """Seconds of a duration as the headers have it ("6m0s", "120ms", "1.5"); None for anything else."""
    if not text:
        return None
    try:
        seconds = float(text)
        return seconds if seconds >= 0 else None
    except ValueError:
        pass
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that a server asks to wait: `retry-after-ms`, or `retry-after` as seconds or as a date."""
    millis = duration(headers.get("retry-after-ms"))
    if millis is not None:
        return min(millis / 1000, LONGEST_PAUSE_S)
    said = headers.get("retry-after")
    found = duration(said)
    if found is None and said:
        date = email.utils.parsedate_tz(said)
        found = email.utils.mktime_tz(date) - (time.time() if now is None else now) if date else None
    return None if found is None else min(max(0.0, found), LONGEST_PAUSE_S)


@dataclass
class _Allowance:
    """What is left of a limit, which refills steadily. limit: None until a header says."""

    kind: str
    limit: float | None = None
    left: float = 0.0
    per_s: float = 0.0
    seen_at: float = 0.0

    def learn(self, headers: Mapping[str, str], now: float) -> None:
        limit, left = (_number(headers.get(f"x-ratelimit-{name}-{self.kind}")) for name in ("limit", "remaining"))
        if not limit or left is None:
            return
        reset = duration(headers.get(f"x-ratelimit-reset-{self.kind}"))
        self.per_s = (limit - left) / reset if reset and limit > left else limit / 60
        self._refill(now)
        # An answer may tell of a time before other calls were made: what is known to be less stands.
        self.left = left if self.limit is None else min(self.left, left)
        self.limit, self.seen_at = limit, now

    def _refill(self, now: float) -> None:
        if self.limit is not None:
            self.left = min(self.limit, self.left + (now - self.seen_at) * self.per_s)
            self.seen_at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until an amount is there; one over the whole limit is let through when that is full."""
        if self.limit is None:
            return 0.0
        self._refill(now)
        missing = min(amount, self.limit) - self.left
        return missing / self.per_s if missing > 0 and self.per_s else 0.0

    def take(self, amount: float) -> None:
        if self.limit is not None:
            self.left -= amount


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


@dataclass
class Limits:
    """When the next call may start. concurrency: calls at once, at most; clock: seconds, rising.

    One process and one event loop; calls are let through in the order in which they come.
    """

    concurrency: int
    clock: Callable[[], float] = time.monotonic
    _requests: _Allowance = field(default_factory=lambda: _Allowance("requests"))
    _tokens: _Allowance = field(default_factory=lambda: _Allowance("tokens"))
    _paused_until: float = 0.0
    _shrunk_at: float = -1.0

    def __post_init__(self) -> None:
        self.window = float(self.concurrency)
        self.under_way = 0
        self._door = asyncio.Lock()
        self._free = asyncio.Event()

    async def enter(self, tokens: float) -> None:
        """Waits until a call of about so many tokens may start."""
        async with self._door:
            while self.under_way >= max(1, int(self.window)):
                self._free.clear()
                await self._free.wait()
            while wait := self._wait(tokens):
                await asyncio.sleep(wait)
            self._requests.take(1)
            self._tokens.take(tokens)
            self.under_way += 1

    def _wait(self, tokens: float) -> float:
        now = self.clock()
        return max(self._paused_until - now, self._requests.wait(1, now), self._tokens.wait(tokens, now), 0.0)

    def leave(self) -> None:
        """A call has ended."""
        self.under_way -= 1
        self._free.set()

    def learn(self, headers: Mapping[str, str]) -> None:
        """Takes what an answer's headers say of the limits."""
        now = self.clock()
        self._requests.learn(headers, now)
        self._tokens.learn(headers, now)

    def succeeded(self) -> None:
        self.window = min(float(self.concurrency), self.window + GROWTH / self.window)

    def refused(self, pause_s: float) -> None:
        """The server says that it was asked too fast: nothing starts for a while, and fewer calls at once after it."""
        now = self.clock()
        self._paused_until = max(self._paused_until, now + pause_s)
        # Of many refusals at once, one counts.
        if now > self._shrunk_at:
            self.window = max(1.0, self.window * SHRINK)
            self._shrunk_at = now + max(1.0, pause_s)
