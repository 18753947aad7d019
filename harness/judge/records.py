"""What is written of a judge: how it judged, how it did on planted answers, how it agrees with people.

A run that was judged has a judge.json beside its result.json: one Judging for each rubric. Runs judged pair by pair
have a directory of their own, with a Tournament in pairwise.json.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harness.files import read_json, write_json
from harness.records import Record

JUDGE, PAIRWISE = "judge.json", "pairwise.json"

PASS, PREFERENCE = "judge_pass", "judge_preference"
"""The metrics that every rubric for answers gives, and every rubric for pairs."""


@dataclass(frozen=True, slots=True)
class Share(Record):
    """A share of n, with its 95 % interval (Wilson); value and ci95 are None where n is 0."""

    n: int
    n_yes: int
    value: float | None
    ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class ProbeClass(Record):
    """How a judge took one class of planted answers.

    name: "good", or what is wrong ("wrong number", "injection: score"). wanted: whether it should accept them, None
    where it may do either.
    accepted: the share that it let pass (pairwise: that was not beaten by the good answer). n_unscored: without a
    verdict. alarming: whether it surely does what it should not, the whole interval on the wrong side of a half.
    """

    name: str
    wanted: bool | None
    accepted: Share
    n_unscored: int
    alarming: bool


@dataclass(frozen=True, slots=True)
class AgreementSlice(Record):
    """Agreement on a part of the labels. kappa, kappa_ci95: None where one side says the same of all."""

    name: str
    n: int
    agreed: float
    kappa: float | None
    kappa_ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Agreement(Record):
    """How a judge agrees with human labels, right or wrong.

    n: labels with a verdict; n_unscored: without. confusion: [[people no, judge no], [people no, judge yes]] and the
    same of people's yes, as ((no_no, no_yes), (yes_no, yes_yes)). weighted_kappa: of grades, with quadratic weights,
    None for labels that are right or wrong alone. sensitivity: of answers that people accept, the share that the judge
    accepts; specificity: of those that they refuse, the share that it refuses. source: the file's name and SHA-256.
    """

    source: str
    n: int
    n_unscored: int
    confusion: tuple[tuple[int, int], ...]
    kappa: float | None
    kappa_ci95: tuple[float, float] | None
    weighted_kappa: float | None
    weighted_ci95: tuple[float, float] | None
    sensitivity: Share
    specificity: Share
    slices: tuple[AgreementSlice, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgedRate(Record):
    """The share of a task's answers that passed, as the judge says and corrected for its errors.

    corrected: None where there are no human labels, or the judge tells right from wrong no better than chance
    (`why_not`). n_unscored: answers without a verdict.
    """

    task: str
    orthography: str
    prompt_id: str
    n: int
    n_unscored: int
    judged: float | None
    judged_ci95: tuple[float, float] | None
    corrected: float | None = None
    corrected_ci95: tuple[float, float] | None = None
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class Judging(Record):
    """How one run was judged under one rubric.

    judge: the model, and `answered_by` what the server called itself. host: of the server. metrics: that it gave.
    unscored: answers without a verdict, by reason. n_neutralised: answers that held marks of a prompt; n_cut: answers
    that were longer than a judge is shown. usd: of the whole call, other runs and rubrics included.
    """

    judge: str
    answered_by: tuple[str, ...]
    host: str
    rubric: str
    metrics: tuple[str, ...]
    created: str
    rates: tuple[JudgedRate, ...]
    unscored: dict[str, int] = field(default_factory=dict)
    n_neutralised: int = 0
    n_cut: int = 0
    usd: float = 0.0
    probes: tuple[ProbeClass, ...] = ()
    agreement: Agreement | None = None

    @property
    def name(self) -> str:
        """What judged: records of two runs can be held against each other where it is the same."""
        return f"{self.judge}, rubric {self.rubric}"


@dataclass(frozen=True, slots=True)
class Match(Record):
    """One model held against another, pair by pair, both orders; all from the view of `cand`.

    win_rate: wins and half the ties. consistent: pairs on which both orders say the same, of those that were asked;
    first_preferred: verdicts for whichever stood first, of those that preferred one. longer_preferred: decided pairs
    that the longer answer won. length_controlled: the win rate that is left at equal lengths, None where it can't be
    told (`why_not`). n_same: pairs decided without asking (the same answer, or an empty one).
    """

    base: str
    cand: str
    task: str
    orthography: str
    n: int
    n_unscored: int
    n_same: int
    wins: int
    ties: int
    losses: int
    win_rate: float | None
    win_rate_ci95: tuple[float, float] | None
    consistent: Share
    first_preferred: Share
    longer_preferred: Share
    length_controlled: float | None = None
    length_controlled_ci95: tuple[float, float] | None = None
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class Strength(Record):
    """A model's place in a Bradley–Terry model of all matches.

    win_rate: expected against the average model of the field. rank_ci95: 95 % interval by bootstrap over questions.
    """

    model: str
    run_id: str
    win_rate: float
    ci95: tuple[float, float]
    rank: int
    rank_ci95: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Tournament(Record):
    """Several runs judged pair by pair under one rubric."""

    judge: str
    answered_by: tuple[str, ...]
    host: str
    rubric: str
    created: str
    matches: tuple[Match, ...]
    strengths: tuple[Strength, ...] = ()
    unscored: dict[str, int] = field(default_factory=dict)
    usd: float = 0.0
    probes: tuple[ProbeClass, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.judge}, rubric {self.rubric}"


def read_judgings(directory: Path) -> list[Judging]:
    """How a run was judged; empty where it wasn't.

    Raises RecordError, DataError.
    """
    path = directory / JUDGE
    return [Judging.from_dict(each) for each in read_json(path)["judgings"]] if path.is_file() else []


def write_judging(directory: Path, judging: Judging) -> Path:
    """Writes how a run was judged, in the place of what was written of the same metrics of the same tasks."""
    tasks = {rate.task for rate in judging.rates}
    kept = [
        each
        for each in read_judgings(directory)
        if each.metrics != judging.metrics or not tasks & {rate.task for rate in each.rates}
    ]
    return write_json(directory / JUDGE, {"judgings": [each.to_dict() for each in (*kept, judging)]})
