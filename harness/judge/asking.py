"""Putting cases before a judge: many at once, in batches, within a cap; a verdict or a reason for each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from harness.errors import UsageError
from harness.judge.prompts import ask_about
from harness.judge.rubrics import Rubric
from harness.judge.verdicts import Verdict, read_verdict
from harness.ledger import LEDGER, Ledger
from harness.openai_batch import ask_with_bar
from harness.openai_client import OPENAI_URL, Answer, Client, Estimate, Request
from harness.records import digest
from tasks_uz.judged import Judged

EMPTY = "the answer is empty; the judge wasn't asked"


@dataclass(frozen=True, slots=True)
class Settings:
    """How to judge.

    judge: the model. rubric: "auto" for the one of each task, a name, or a file. language: of the rubrics that ship.
    max_usd: the cap, US dollars. probes: whether planted answers are judged too. calibrate: a file of human labels.
    limit: answers a task, None for all. ledger: where answers and money are kept, by default beside the runs.
    """

    judge: str = "gpt-4o"
    base_url: str | None = None
    rubric: str = "auto"
    language: str = "en"
    max_usd: float = 5.0
    batch: bool = False
    probes: bool = True
    calibrate: Path | None = None
    limit: int | None = None
    concurrency: int = 32
    timeout_s: float = 120.0
    tries: int = 8
    prices: Path | None = None
    ledger: Path | None = None
    poll_s: float = 30.0
    backoff_s: float = 0.5
    structured: str = "auto"

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: expected 1 or more answers a task.")


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to judge: an answer, or two in this order. key: the caller's own name of it."""

    key: Hashable
    rubric: Rubric
    judged: Judged
    answers: tuple[str, ...]


Cases = Callable[[], Iterable[Case]]
"""Cases that can be gone through again, so that no more than a few are in memory."""


@dataclass
class Docket:
    """What came of cases. verdicts: by key. answered_by: what the server calls itself.

    neutralised, cut: the keys of cases whose answers held marks of a prompt, or were longer than a judge is shown.
    usd: of this call.
    """

    verdicts: dict[Hashable, Verdict] = field(default_factory=dict)
    answered_by: set[str] = field(default_factory=set)
    neutralised: set[Hashable] = field(default_factory=set)
    cut: set[Hashable] = field(default_factory=set)
    usd: float = 0.0


def put_before(
    cases: Cases, settings: Settings, *, job: list[str], folder: Path, progress: bool = False, say: bool = True
) -> Docket:
    """Asks a judge about every case; what was asked before isn't asked again.

    job: what the cap counts together. folder: where the ledger lies unless settings name another.
    Raises BudgetError, NetworkError, UsageError; what was answered is kept.
    """
    docket = Docket()
    path = settings.ledger or folder / LEDGER
    with Ledger(path) as ledger:
        client = Client(
            settings.judge,
            ledger,
            job=digest(["judge", settings.judge, settings.base_url, *job]),
            base_url=settings.base_url,
            max_usd=settings.max_usd,
            concurrency=settings.concurrency,
            timeout_s=settings.timeout_s,
            tries=settings.tries,
            prices=settings.prices,
            backoff_s=settings.backoff_s,
            structured=settings.structured,
        )
        estimate = client.estimate(_requests(cases), batch=settings.batch)
        if say:
            print(_said(estimate, client, settings), file=sys.stderr)
        _Asking(client, docket, settings, progress).run(cases, estimate)
    return docket


def host_of(settings: Settings) -> str:
    """What records say of where a judge was asked."""
    return urlsplit(settings.base_url or OPENAI_URL).netloc


def _requests(cases: Cases) -> Iterator[Request]:
    for case in cases():
        if not _is_empty(case):
            asked = ask_about(case.rubric, case.judged, case.answers)
            yield asked.request


def _is_empty(case: Case) -> bool:
    return case.rubric.kind == "pointwise" and not case.answers[0].strip()


def _said(estimate: Estimate, client: Client, settings: Settings) -> str:
    known = f", {estimate.n_stored} of them answered before" if estimate.n_stored else ""
    over = " The cap may stop it on the way; what is answered is kept." if estimate.usd > settings.max_usd else ""
    return (
        f"{settings.judge}: {estimate.n} questions{known}; {estimate.input_tokens:,.0f} tokens in, "
        f"{estimate.output_tokens:,.0f} out, {client.outlook(estimate.usd)}.{over}"
    )


class _Asking:
    def __init__(self, client: Client, docket: Docket, settings: Settings, progress: bool) -> None:
        self.client, self.docket, self.settings, self.progress = client, docket, settings, progress
        self.n_unscored = 0

    def run(self, cases: Cases, estimate: Estimate) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=estimate.n, unit="q", disable=not self.progress, desc="judging", file=sys.stderr)
        with self.bar:
            batch, poll_s = self.settings.batch, self.settings.poll_s
            ask_with_bar(self.client, self._asked(cases), self._take, self.bar, batch=batch, poll_s=poll_s)
        self.docket.usd = self.client.tally.usd

    def _asked(self, cases: Cases) -> Iterator[Request]:
        for case in cases():
            if _is_empty(case):
                grades = {name: low for name, (low, _) in case.rubric.criteria.items()}
                self.docket.verdicts[case.key] = Verdict(grades=grades, explanation=EMPTY)
                continue
            asked = ask_about(case.rubric, case.judged, case.answers)
            if asked.n_marks:
                self.docket.neutralised.add(case.key)
            if asked.left_out:
                self.docket.cut.add(case.key)
            yield replace(asked.request, tag=(case.key, case.rubric, asked.check))

    def _take(self, request: Request, answer: Answer) -> None:
        key, rubric, check = request.tag
        verdict = read_verdict(answer, rubric, check)
        self.docket.verdicts[key] = verdict
        self.n_unscored += verdict.reason is not None
        if answer.model:
            self.docket.answered_by.add(answer.model)
        self.bar.update()
        self.bar.set_postfix(usd=f"{self.client.tally.usd:.2f}", unscored=self.n_unscored)
