"""Self-Instruct: asks for rows until enough are kept; killed at any moment, the next call goes on from the same rows.

A run directory:

    requests.sqlite    every request as it was sent, in order
    calls.sqlite       every answer and every dollar (harness.ledger)
    responses.jsonl    the answers as they came, for people
    rejects.jsonl      every row that was refused: why, and what it was
    train.jsonl, validation.jsonl, generated.json

A request is written down before it is sent, and answers are read in the order of the requests, whatever the order in
which they came: what is kept follows from these two files alone, and a run that was killed ends in the same rows as
one that wasn't. (A prompt shows rows that were kept when it was written; it is not written anew.)
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.database import Database
from harness.errors import RecordError, UsageError, UzBenchError, disk_faults
from harness.files import write_json, write_jsonl
from harness.ledger import LEDGER, Ledger
from harness.openai_batch import ask_with_bar
from harness.openai_client import Answer, Client, Request, Take
from harness.provenance import file_digest
from harness.records import Record, digest
from train.contamination import eval_index
from train.selfinstruct.filters import REASONS, Candidate, Filters, Rejected, read_tasks
from train.selfinstruct.novelty import Novelty, folded
from train.selfinstruct.plan import AXES, Cell, Plan, length_of
from train.selfinstruct.writing import (
    SEEDS,
    TEXTS,
    Seed,
    Wanted,
    as_request,
    candidates,
    compose,
    read_seeds,
    read_settings,
    texts_of,
)

REQUESTS, GENERATED = "requests.sqlite", "generated.json"
TRAIN, VALIDATION, REJECTS, RESPONSES = "train.jsonl", "validation.jsonl", "rejects.jsonl", "responses.jsonl"

ACCEPTED_AT_FIRST = 0.75
"""The share of rows that is expected to be kept before any has been looked at."""
HOPELESS, LOOKED_AT = 0.05, 400
"""Below this share of the last so many rows a run stops: something is wrong with the model or the settings."""
BATCH_REQUESTS = 5_000
"""Requests of one batch: its prompts can show no row of its own."""
VALIDATION_SHARE = 0.02
LEAK_ROUGE = 0.5
"""ROUGE-L of instructions above which a row of the validation split would be known from training."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What a person chooses. n: rows to keep. max_usd: the cap, US dollars. quality: whether each row is graded too."""

    out: Path
    n: int
    model: str = "gpt-4o"
    base_url: str | None = None
    max_usd: float = 10.0
    batch: bool = False
    quality: bool = False
    settings: Path | None = None
    seeds: Path | None = None
    concurrency: int = 32
    timeout_s: float = 300.0
    tries: int = 8
    backoff_s: float = 0.5
    poll_s: float = 30.0
    prices: Path | None = None
    mirror: Path | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"--n {self.n}: expected 1 or more rows.")


@dataclass(frozen=True, slots=True)
class Generated(Record):
    """What a run left. rejected: rows by reason. cells: kept rows by axis and value; aims: shares that were wanted.

    usd: of all calls so far. n_requests: sent; n_failed: of them without an answer. off_balance: where the set misses
    its aims, in words. diversity: figures of the kept rows. complete: whether n rows were kept.
    """

    model: str
    answered_by: tuple[str, ...]
    settings: str
    seeds: str
    created: str
    complete: bool
    n_wanted: int
    n_kept: int
    n_train: int
    n_validation: int
    n_requests: int
    n_failed: int
    rejected: dict[str, int]
    cells: dict[str, Any]
    aims: dict[str, Any]
    off_balance: tuple[str, ...]
    diversity: dict[str, Any]
    usd: float
    usd_unsettled: float
    batch: bool
    quality: bool
    unread_tasks: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


_TABLES = """
CREATE TABLE IF NOT EXISTS run (key TEXT);
CREATE TABLE IF NOT EXISTS requests (
    number INTEGER PRIMARY KEY, cell TEXT NOT NULL, messages TEXT NOT NULL, status TEXT
);
"""


class _Journal(Database):
    """The requests of a run as they were sent. status: NULL, or "failed" where no answer could be had."""

    def __init__(self, path: Path, key: str):
        super().__init__(path, "journal of requests", _TABLES)
        known = self._db.execute("SELECT key FROM run").fetchone()
        if known is None:
            self._db.execute("INSERT INTO run VALUES (?)", (key,))
        elif known[0] != key:
            self._db.close()
            raise RecordError(
                f"{path.parent} holds a run of another model, other settings or other seeds. Name another: --out DIR"
            )

    def note(self, cell: Cell, messages: Sequence[tuple[str, str]]) -> int:
        """Writes down a request; returns its number."""
        with disk_faults(self.path):
            found = self._db.execute(
                "INSERT INTO requests (cell, messages) VALUES (?, ?)", (json.dumps(cell), json.dumps(messages))
            )
        return int(found.lastrowid or 0)

    def fail(self, number: int) -> None:
        with disk_faults(self.path):
            self._db.execute("UPDATE requests SET status='failed' WHERE number=?", (number,))

    def all(self) -> Iterator[tuple[int, Cell, list[tuple[str, str]], bool]]:
        """(number, cell, messages, failed), in order; a page at a time, for the prompts are long."""
        last = 0
        while rows := self._db.execute(
            "SELECT number, cell, messages, status FROM requests WHERE number > ? ORDER BY number LIMIT 500", (last,)
        ).fetchall():
            for number, cell, messages, status in rows:
                pairs = [(role, text) for role, text in json.loads(messages)]
                yield number, tuple(json.loads(cell)), pairs, status == "failed"
            last = rows[-1][0]


Kept = tuple[Candidate, str, float]
"""A row, who wrote it, and its share of what its request cost, US dollars."""


def generate(choices: Choices, *, progress: bool = False) -> Generated:
    """Writes rows into a directory until n are kept.

    What was kept is written also where a cap, a server or a person ends the run before; the error follows. Raises
    BudgetError, NetworkError, UsageError, DataError, RecordError.
    """
    wanted, seeds = read_settings(choices.settings), read_seeds(choices.seeds or SEEDS)
    key = digest([choices.model, choices.base_url, wanted.digest, file_digest(choices.seeds or SEEDS), choices.seed])
    choices.out.mkdir(parents=True, exist_ok=True)
    with _Journal(choices.out / REQUESTS, key) as journal, Ledger(choices.out / LEDGER) as ledger:
        client = Client(
            choices.model,
            ledger,
            job="generate",
            base_url=choices.base_url,
            max_usd=choices.max_usd,
            concurrency=choices.concurrency,
            timeout_s=choices.timeout_s,
            tries=choices.tries,
            backoff_s=choices.backoff_s,
            prices=choices.prices,
        )
        run = _Run(choices, wanted, seeds, key, journal, client, progress)
        try:
            run.go()
        except (UzBenchError, KeyboardInterrupt):
            run.write()
            raise
        return run.write()


class _Run:
    def __init__(
        self,
        choices: Choices,
        wanted: Wanted,
        seeds: Sequence[Seed],
        key: str,
        journal: _Journal,
        client: Client,
        progress: bool,
    ) -> None:
        self.choices, self.wanted, self.seeds, self.key = choices, wanted, seeds, key
        self.journal, self.client, self.progress = journal, client, progress
        index, self.unread = eval_index(choices.mirror)
        self.filters = Filters(index, wanted.instruction_rouge, wanted.output_rouge, wanted.longest_words)
        self.filters.know(seed.instruction for seed in seeds)
        self.plan = Plan(wanted.shares)
        self.kept: list[Kept] = []
        self.rejected: list[Rejected] = []
        self.recent: deque[bool] = deque(maxlen=LOOKED_AT)
        self.answered_by: set[str] = set()
        self.cells: dict[int, Cell] = {}
        self.waiting: dict[int, Answer] = {}
        self.next_number = 1
        self.n_failed = 0
        self.graded: set[int] = set()

    # Asking.

    def go(self) -> None:
        from tqdm import tqdm

        # Requests of an earlier call come first: their answers are in the ledger, or they are sent as they stood.
        for number, cell, _, failed in self.journal.all():
            self.cells[number] = cell
            if failed:
                self.waiting[number] = Answer(error="failed before")
        self._say()
        self.bar = tqdm(total=self.choices.n, unit="row", desc="kept", file=sys.stderr, disable=not self.progress)
        with self.bar:
            self._ask(self._old_requests(), self._take)
            while len(self.kept) < self.choices.n:
                self._ask(self._new_requests(), self._take)
                self._check_hope()
                if self.choices.quality and len(self.kept) >= self.choices.n:
                    self._grade()
            if self.choices.quality:
                self._grade()

    def _old_requests(self) -> Iterator[Request]:
        before = len(self.cells)
        for number, cell, messages, failed in self.journal.all():
            if not failed and number <= before:
                yield self._request(number, cell, messages)

    def _request(self, number: int, cell: Cell, messages: Sequence[tuple[str, str]]) -> Request:
        self.cells[number] = cell
        self.plan.ask(cell, self.wanted.rows_per_call * ACCEPTED_AT_FIRST)
        return as_request(self.wanted, number, cell, messages, self.key)

    def _expected(self) -> float:
        """Rows that one request will probably give."""
        return self.wanted.rows_per_call * self._acceptance()

    def _acceptance(self) -> float:
        n = len(self.kept) + len(self.rejected)
        # As if a hundred rows had been looked at before: the first few say little.
        return max(HOPELESS, (100 * ACCEPTED_AT_FIRST + len(self.kept)) / (100 + n))

    def _new_requests(self) -> Iterator[Request]:
        n = 0
        while len(self.kept) + (len(self.cells) - self.next_number + 1) * self._expected() < self.choices.n:
            if self._hopeless() or (self.choices.batch and n >= BATCH_REQUESTS):
                return
            chance = random.Random(f"{self.key}:{len(self.cells)}")
            cell = self.plan.draw(chance, self.choices.n)
            places = chance.sample(range(len(self.kept)), min(len(self.kept), self.wanted.generated_per_prompt))
            shown = [texts_of(self.kept[place][0]) for place in places]
            messages = compose(self.wanted, cell, self.seeds, shown, chance)
            yield self._request(self.journal.note(cell, messages), cell, messages)
            n += 1

    def _ask(self, requests: Iterator[Request], take: Take) -> None:
        batch, poll_s = self.choices.batch, self.choices.poll_s
        ask_with_bar(self.client, requests, take, self.bar, batch=batch, poll_s=poll_s)

    def _take(self, request: Request, answer: Answer) -> None:
        if answer.error is not None:
            self.journal.fail(request.tag)
        self.waiting[request.tag] = answer
        while self.next_number in self.waiting:
            self._read(self.next_number, self.waiting.pop(self.next_number))
            self.next_number += 1
        total, spent = len(self.kept) + len(self.rejected), self.client.spent()
        rate = f"{len(self.kept) / total:.0%}" if total else ""
        left = spent * (self.choices.n / max(1, len(self.kept)) - 1)
        self.bar.n = min(len(self.kept), self.choices.n)
        self.bar.set_postfix(accepted=rate, usd=f"{spent:.2f}", usd_to_come=f"{max(0, left):.2f}")

    # Reading.

    def _read(self, number: int, answer: Answer) -> None:
        cell = self.cells[number]
        self.plan.ask(cell, -self.wanted.rows_per_call * ACCEPTED_AT_FIRST)
        if answer.error is not None:
            self.n_failed += 1
            return
        if answer.model:
            self.answered_by.add(answer.model)
        if answer.text is None:
            reason = "refusal" if answer.refusal else "malformed"
            self._refuse([Rejected(reason, answer.refusal or "no text", None, number)] * self.wanted.rows_per_call)
            return
        rows, fault = read_tasks(answer.text, cut=answer.finish_reason == "length")
        # More rows than were asked for were paid for and may be as good.
        read = candidates(rows, number, cell)
        missing = max(0, self.wanted.rows_per_call - len(read))
        if fault:
            self._refuse([Rejected(fault, answer.text[-60:], None, number)] * max(1, missing))
        usd = answer.usd / max(1, len(read))
        known = [replace(row, length=length_of(len(row.output.split()))) for row in read if row is not None]
        self._refuse([Rejected("schema", "other keys than the three", None, number)] * (len(read) - len(known)))
        for row, found in zip(known, self.filters.look(known), strict=True):
            if found is not None:
                self._refuse([found])
                continue
            self.kept.append((row, answer.model, usd))
            self.recent.append(True)
            self.plan.keep({axis: getattr(row, axis) for axis in AXES})

    def _refuse(self, found: Sequence[Rejected]) -> None:
        self.rejected += found
        self.recent += [False] * len(found)

    def _hopeless(self) -> bool:
        return len(self.recent) == LOOKED_AT and sum(self.recent) < HOPELESS * LOOKED_AT

    def _check_hope(self) -> None:
        if self._hopeless():
            reasons = Counter(each.reason for each in self.rejected[-LOOKED_AT:])
            (reason, n), *_ = reasons.most_common(1)
            raise UsageError(
                f"{self.choices.model}: of the last {LOOKED_AT} rows {sum(self.recent)} were kept, {n} were refused as "
                f"{reason!r} (see {self.choices.out / REJECTS}). Try another model or other --settings."
            )

    # Grading.

    def _grade(self) -> None:
        """Has the model grade each row that wasn't graded, and takes out what isn't good enough."""
        grades = {}
        todo = [place for place in range(len(self.kept)) if place not in self.graded]
        schema = {
            "type": "object",
            "properties": {"explanation": {"type": "string"}, **{key: {"type": "integer"} for key in TEXTS}},
            "required": ["explanation", *TEXTS],
            "additionalProperties": False,
        }

        def requests() -> Iterator[Request]:
            for place in todo:
                row = json.dumps(texts_of(self.kept[place][0]), ensure_ascii=False)
                messages = (("system", self.wanted.quality), ("user", row))
                yield Request(messages, 400, schema=schema, likely_output=70, salt=self.key, tag=place)

        def take(request: Request, answer: Answer) -> None:
            grades[request.tag] = _lowest(answer.text)

        self._ask(requests(), take)
        kept = []
        for place, each in enumerate(self.kept):
            lowest = grades.get(place)
            if place in grades and (lowest is None or lowest < self.wanted.quality_at_least):
                said = "no grade" if lowest is None else f"graded {lowest}"
                self._refuse([Rejected("quality", said, each[0], each[0].request)])
                self.plan.keep({axis: getattr(each[0], axis) for axis in AXES}, -1)
            else:
                kept.append(each)
        self.kept = kept
        self.graded = set(range(len(kept)))

    # Saying and writing.

    def _say(self) -> None:
        """What it will probably cost, before anything is sent."""
        chance, plan = random.Random(1), Plan(self.wanted.shares)
        left = max(0, self.choices.n - len(self.kept))
        n = max(1, round(left / (self.wanted.rows_per_call * ACCEPTED_AT_FIRST)))
        sample = []
        for number in range(40):
            cell = plan.draw(chance, self.choices.n)
            written = [texts_of(seed) for seed in chance.sample(list(self.seeds), self.wanted.generated_per_prompt)]
            messages = compose(self.wanted, cell, self.seeds, written, chance)
            sample.append(as_request(self.wanted, -number, cell, messages, "estimate"))
        found = self.client.estimate(sample, batch=self.choices.batch)
        usd = found.usd / len(sample) * n
        spent = self.client.spent()
        before = f", {spent:.2f} of it spent before" if spent else ""
        over = " The cap may stop it on the way; what is kept then is written." if usd > self.choices.max_usd else ""
        print(
            f"{self.choices.model}: about {n:,} requests for {self.choices.n:,} rows, "
            f"{self.client.outlook(usd)}{before}.{over}",
            file=sys.stderr,
        )

    def write(self) -> Generated:
        """Writes what is kept and refused so far; returns what it is."""
        out = self.choices.out
        # What was to be graded and wasn't is not given out.
        rows = [each for place, each in enumerate(self.kept) if not self.choices.quality or place in self.graded]
        rows = rows[: self.choices.n]
        train, validation = split(rows)
        refused = Counter(each.reason for each in self.rejected)
        paths = [
            write_jsonl(out / TRAIN, (self._row(each) for each in train)),
            *_written(out / VALIDATION, [self._row(each) for each in validation]),
            write_jsonl(out / REJECTS, (each.to_dict() for each in self.rejected)),
            write_jsonl(out / RESPONSES, self._responses()),
        ]
        made = Generated(
            model=self.choices.model,
            answered_by=tuple(sorted(self.answered_by)),
            settings=self.wanted.digest,
            seeds=file_digest(self.choices.seeds or SEEDS),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            complete=len(rows) == self.choices.n,
            n_wanted=self.choices.n,
            n_kept=len(rows),
            n_train=len(train),
            n_validation=len(validation),
            n_requests=len(self.cells),
            n_failed=self.n_failed,
            rejected={reason: refused[reason] for reason in REASONS if reason in refused},
            cells={axis: dict(sorted(found.items())) for axis, found in _counts(rows).items()},
            aims={axis: dict(weights) for axis, weights in self.wanted.shares.items()},
            off_balance=tuple(self.plan.off_balance()),
            diversity=diversity([row for row, *_ in rows]),
            usd=self.client.spent(),
            usd_unsettled=self.client.ledger.unsettled("generate"),
            batch=self.choices.batch,
            quality=self.choices.quality,
            unread_tasks=self.unread,
            files={path.name: file_digest(path) for path in paths},
        )
        write_json(out / GENERATED, made.to_dict())
        return made

    def _row(self, kept: Kept) -> dict[str, Any]:
        row, model, usd = kept
        return {
            "id": f"r{row.request:06d}-{row.place}",
            **texts_of(row),
            **{axis: getattr(row, axis) for axis in AXES},
            "model": model,
            "prompt": self.wanted.digest[:12],
            "usd": round(usd, 6),
        }

    def _responses(self) -> Iterator[dict[str, Any]]:
        for number, cell, messages, _ in self.journal.all():
            key = self.client.key_of(as_request(self.wanted, number, cell, messages, self.key))
            found = self.client.ledger.get([key]).get(key)
            if found is not None:
                yield {"request": number, "cell": dict(zip(AXES, cell, strict=True)), **found}


def _written(path: Path, rows: Sequence[dict[str, Any]]) -> list[Path]:
    """A file of rows, or none where there are none: who reads data sets stumbles over an empty one."""
    if rows:
        return [write_jsonl(path, rows)]
    path.unlink(missing_ok=True)
    return []


def _lowest(text: str | None) -> int | None:
    """The lowest of the grades in an answer; None where one of them is none."""
    try:
        found = [json.loads(text or "")[key] for key in TEXTS]
    except (ValueError, KeyError, TypeError):
        return None
    if any(isinstance(each, bool) or not isinstance(each, int) or not 1 <= each <= 5 for each in found):
        return None
    return min(found)


def _counts(rows: Sequence[Kept]) -> dict[str, Counter[str]]:
    return {axis: Counter(getattr(row, axis) for row, *_ in rows) for axis in AXES}


def split(rows: Sequence[Kept]) -> tuple[list[Kept], list[Kept]]:
    """Training and validation rows, no instruction of one near one of the other, no request in both.

    Rows of one request were written side by side and may resemble each other in what no filter looks for.
    """
    requests = sorted({row.request for row, *_ in rows})
    step = round(1 / VALIDATION_SHARE)
    held = {number for place, number in enumerate(requests) if place % step == step // 2}
    train = [each for each in rows if each[0].request not in held]
    known = Novelty(LEAK_ROUGE)
    _know(known, train)
    apart: dict[int, list[Kept]] = {}
    for each in rows:
        if each[0].request in held:
            apart.setdefault(each[0].request, []).append(each)
    # What goes back to training may be near another row that was held apart: looked at until nothing more does.
    while leaking := [number for number, some in apart.items() if _is_near(known, some)]:
        for number in leaking:
            _know(known, apart.pop(number))
    return [each for each in rows if each[0].request not in apart], [each for some in apart.values() for each in some]


def _know(known: Novelty, rows: Sequence[Kept]) -> None:
    for instruction in folded(row.instruction for row, *_ in rows):
        known.add(instruction)


def _is_near(known: Novelty, rows: Sequence[Kept]) -> bool:
    return any(known.likest(instruction) is not None for instruction in folded(row.instruction for row, *_ in rows))


_WORD = re.compile(r"\w[\wʻʼ'‘’`-]*")


def diversity(rows: Sequence[Candidate]) -> dict[str, Any]:
    """How varied rows are: words and pairs of words that are different ones, beginnings, and what is asked for.

    verbs: the last word of each instruction's first sentence, where an Uzbek request has its verb, with the word before
    it: what it is asked of.
    """
    asked = [_WORD.findall(row.instruction.lower()) for row in rows]
    single = [word for found in asked for word in found]
    double = [pair for found in asked for pair in pairwise(found)]
    verbs: dict[str, Counter[str]] = {}
    for row in rows:
        found = _WORD.findall(first_sentence(row.instruction).lower())
        if len(found) > 1:
            verbs.setdefault(found[-1], Counter())[found[-2]] += 1
    most = sorted(verbs.items(), key=lambda each: (-sum(each[1].values()), each[0]))
    lengths = sorted(len(row.output.split()) for row in rows)
    return {
        "distinct_1": len(set(single)) / len(single) if single else None,
        "distinct_2": len(set(double)) / len(double) if double else None,
        "n_beginnings": len({tuple(found[:3]) for found in asked}),
        "n_verbs": len(verbs),
        "verbs": {verb: dict(found.most_common(5)) for verb, found in most[:20]},
        "output_words": {
            f"p{share}": lengths[min(len(lengths) - 1, len(lengths) * share // 100)] if lengths else None
            for share in (5, 50, 95)
        },
        "with_input": sum(bool(row.input) for row in rows) / len(rows) if rows else None,
    }


def first_sentence(text: str) -> str:
    """A text up to the first mark that ends a sentence."""
    for place, mark in enumerate(text):
        if mark in ".!?:\n" and place:
            return text[:place]
    return text
