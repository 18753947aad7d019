"""Judging runs against each other: each pair of answers in both orders; where the orders disagree, it is a tie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import numpy as np

from harness import stats
from harness.comparison import pair
from harness.errors import UsageError
from harness.files import write_json, write_jsonl
from harness.judge import probes, rubrics
from harness.judge.agreement import share
from harness.judge.asking import Case, Docket, Settings, host_of, put_before
from harness.judge.pointwise import described, with_scores
from harness.judge.preferences import bootstrap_win_rates, bradley_terry, field_win_rates, length_controlled
from harness.judge.records import PAIRWISE, PREFERENCE, Match, Strength, Tournament
from harness.judge.rubrics import Rubric
from harness.judge.verdicts import Verdict
from harness.metrics import TaskKey, by_task
from harness.records import Sample, Score, digest
from harness.runs import RunDirectory
from harness.scoring import NO_ANSWER
from tasks_uz.judged import Judged

PAIRS = "pairs.jsonl"


@dataclass(frozen=True, slots=True)
class Question:
    """One question that all runs answered. samples: their answers, in the order of the runs."""

    key: TaskKey
    judged: Judged
    samples: tuple[Sample, ...]

    def of(self, runs: tuple[int, int]) -> tuple[Sample, Sample]:
        """The answers of two of the runs."""
        return self.samples[runs[0]], self.samples[runs[1]]


@dataclass(frozen=True, slots=True)
class Game:
    """Two answers to one question. runs: whose, as places.

    got: what the second got of 1, None where there is no verdict (`reason`). first_won: whether what stood first won,
    in either order, None for a tie; None where nothing was asked.
    """

    runs: tuple[int, int]
    question: Question
    got: float | None
    reason: str | None
    first_won: tuple[bool | None, bool | None] | None
    explanation: str = ""

    @property
    def key(self) -> TaskKey:
        return self.question.key

    @property
    def samples(self) -> tuple[Sample, Sample]:
        return self.question.of(self.runs)


def pairwise_rubric(settings: Settings) -> Rubric:
    """The rubric that pairs are judged under.

    Raises UsageError where the one that is named is for answers alone.
    """
    rubric = rubrics.named("pairwise" if settings.rubric == "auto" else settings.rubric, settings.language)
    if rubric.kind != "pairwise":
        raise UsageError(f"Rubric {rubric.name!r} is for answers alone, not for pairs. Try: --rubric pairwise")
    return rubric


def judge_pairs(
    runs: Sequence[RunDirectory], settings: Settings, *, out: Path | None = None, progress: bool = False
) -> tuple[Path, Tournament]:
    """Judges every pair of runs, question by question; the first run is what the others are held against.

    Each run gets a score of its preference over the first, ½ for the first itself; the directory that is returned gets
    pairwise.json, and pairs.jsonl for preference tuning. Raises UnpairedError, UsageError, BudgetError, NetworkError.
    """
    rubric = pairwise_rubric(settings)
    questions = _questions(runs, rubric, settings.limit)
    kinds = probes.kinds_of(rubric, sorted({question.key[0] for question in questions}))
    # Pair by pair, each pair's questions in order.
    games = [
        ((one, two), number, question)
        for one, two in combinations(range(len(runs)), 2)
        for number, question in enumerate(questions)
    ]

    def cases() -> Iterator[Case]:
        if settings.probes:
            yield from probes.probe_cases(rubric, kinds)
        for pairing, number, question in games:
            samples = question.of(pairing)
            if _decided(samples) is None:
                answers = tuple(str(sample.response) for sample in samples)
                yield Case((pairing, number, 0), rubric, question.judged, answers)
                yield Case((pairing, number, 1), rubric, question.judged, answers[::-1])

    job = ["pairs", *(run.run.run_id for run in runs), rubric.digest]
    docket = put_before(cases, settings, job=job, folder=runs[0].path.parent, progress=progress)
    played = [_game(pairing, number, question, docket.verdicts) for pairing, number, question in games]
    tournament = _tournament(runs, rubric, settings, docket, played, kinds)
    name = f"judged-{digest([tournament.name, *job])[:10]}"
    path = out or runs[0].path.parent / name
    _write_scores(runs, played, tournament)
    write_jsonl(path / PAIRS, _preference_rows(played))
    write_json(path / PAIRWISE, tournament.to_dict())
    return path, tournament


def _questions(runs: Sequence[RunDirectory], rubric: Rubric, limit: int | None) -> list[Question]:
    """What all runs answered in writing, task by task.

    Raises UsageError where that is nothing, UnpairedError for runs of other documents, prompts or versions.
    """
    first, *others = runs
    for other in others:
        pair(first, other)
    answers = [{_place(sample): sample for sample in run.samples} for run in runs]
    asked = by_task(first.samples)
    found = [
        Question(task.key, judged, tuple(each[_place(sample)] for each in answers))
        for task in first.run.tasks
        if task.output_type == "generate_until" and (not rubric.tasks or task.task in rubric.tasks)
        for sample, judged in described(task, asked[task.key])[:limit]
    ]
    if not found:
        raise UsageError(f"{first.path} has no task with written answers that rubric {rubric.name!r} is for.")
    return found


def _place(sample: Sample) -> tuple[str, str, str, str, int]:
    return sample.task, sample.orthography, sample.prompt_id, sample.doc_hash, sample.occurrence


def _decided(samples: tuple[Sample, Sample]) -> tuple[float | None, str | None] | None:
    """What needs no judge: (what the second gets, why nothing), or None where a judge is asked."""
    texts = [sample.response for sample in samples]
    if None in texts:
        return None, NO_ANSWER
    one, two = (str(text).strip() for text in texts)
    if one == two:
        return 0.5, None
    if not one or not two:
        return float(bool(two)), None
    return None


def _game(runs: tuple[int, int], number: int, question: Question, verdicts: Mapping[object, Verdict]) -> Game:
    known = _decided(question.of(runs))
    if known is not None:
        return Game(runs, question, *known, None)
    found = [verdicts[runs, number, turn] for turn in (0, 1)]
    reason = next((verdict.reason for verdict in found if verdict.reason), None)
    first_won = tuple(None if each.better in ("tie", None) else each.better == "first" for each in found)
    # In the second order the second run's answer stands first.
    got = [{"first": 0.0, "second": 1.0, "tie": 0.5}[each.better] if each.better else None for each in found]
    if got[1] is not None:
        got[1] = 1 - got[1]
    result = None if None in got else got[0] if got[0] == got[1] else 0.5
    return Game(runs, question, result, reason, (first_won[0], first_won[1]), found[0].explanation)


def _tournament(
    runs: Sequence[RunDirectory],
    rubric: Rubric,
    settings: Settings,
    docket: Docket,
    games: Sequence[Game],
    kinds: set[str],
) -> Tournament:
    matches = []
    for pairing in dict.fromkeys(game.runs for game in games):
        mine = [game for game in games if game.runs == pairing]
        matches += [_match(runs, pairing, [game for game in mine if game.key == key]) for key in _keys(mine)]
    return Tournament(
        judge=settings.judge,
        answered_by=tuple(sorted(docket.answered_by)),
        host=host_of(settings),
        rubric=rubric.title,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        matches=tuple(matches),
        strengths=_strengths(runs, games) if len(runs) > 2 else (),
        unscored=dict(Counter(game.reason for game in games if game.reason)),
        usd=docket.usd,
        probes=probes.read_probes(rubric, kinds, docket.verdicts) if settings.probes else (),
    )


def _keys(games: Sequence[Game]) -> list[TaskKey]:
    return list(dict.fromkeys(game.key for game in games))


def _match(runs: Sequence[RunDirectory], pairing: tuple[int, int], games: Sequence[Game]) -> Match:
    known = [game for game in games if game.got is not None]
    got = np.asarray([game.got for game in known], dtype=np.float64)
    groups = [game.samples[0].group for game in known]
    asked = [game for game in known if game.first_won is not None]
    said = [won for game in asked for won in game.first_won or () if won is not None]
    lengths = np.asarray([_longer(game) for game in known], dtype=np.float64)
    decided = [(game.got, longer) for game, longer in zip(known, lengths, strict=True) if game.got != 0.5 and longer]
    controlled = length_controlled(got, lengths, groups) if len(known) else "no pair has a verdict"
    found = stats.estimate(got, groups) if len(known) else None
    key = games[0].key
    return Match(
        base=runs[pairing[0]].run.model_name,
        cand=runs[pairing[1]].run.model_name,
        task=key[0],
        orthography=key[1],
        n=len(known),
        n_unscored=len(games) - len(known),
        n_same=len(known) - len(asked),
        wins=int((got == 1).sum()),
        ties=int((got == 0.5).sum()),
        losses=int((got == 0).sum()),
        win_rate=found.mean if found else None,
        win_rate_ci95=found.ci95 if found else None,
        consistent=share(sum(_is_consistent(game) for game in asked), len(asked)),
        first_preferred=share(sum(said), len(said)),
        longer_preferred=share(sum(bool(longer > 0) == (got == 1) for got, longer in decided), len(decided)),
        length_controlled=None if isinstance(controlled, str) else controlled[0],
        length_controlled_ci95=None if isinstance(controlled, str) else controlled[1],
        why_not=controlled if isinstance(controlled, str) else None,
    )


def _is_consistent(game: Game) -> bool:
    """Whether both orders preferred the same answer, or none."""
    one, two = game.first_won or (None, None)
    return (one is None) == (two is None) and (one is None or one != two)


def _longer(game: Game) -> int:
    one, two = (len(sample.response or "") for sample in game.samples)
    return two - one


def _strengths(runs: Sequence[RunDirectory], games: Sequence[Game]) -> tuple[Strength, ...]:
    played = [
        (game.runs[0], game.runs[1], 1 - game.got, "/".join((*game.key, game.samples[0].doc_hash)))
        for game in games
        if game.got is not None
    ]
    if not played:
        return ()
    wins = np.zeros((len(runs), len(runs)))
    for one, two, got, _ in played:
        wins[one, two] += got
        wins[two, one] += 1 - got
    rates = field_win_rates(bradley_terry(wins))
    drawn = bootstrap_win_rates(played, len(runs))
    ranks = (-drawn).argsort(axis=1).argsort(axis=1) + 1
    found = [
        Strength(
            model=run.run.model_name,
            run_id=run.run.run_id,
            win_rate=float(rates[number]),
            ci95=tuple(np.quantile(drawn[:, number], (0.025, 0.975)).tolist()),
            rank=int((rates > rates[number]).sum()) + 1,
            rank_ci95=tuple(np.quantile(ranks[:, number], (0.025, 0.975), method="nearest").astype(int).tolist()),
        )
        for number, run in enumerate(runs)
    ]
    return tuple(sorted(found, key=lambda each: each.rank))


def _write_scores(runs: Sequence[RunDirectory], games: Sequence[Game], tournament: Tournament) -> None:
    against = f"{tournament.name}, against {runs[0].run.run_id}"
    for number, run in enumerate(runs):
        mine = [game for game in games if game.runs == ((0, number) if number else (0, 1))]
        scores = [_score(game, bool(number), tournament.judge) for game in mine]
        judged = {game.key for game in mine}
        records = {
            task.key: replace(
                task,
                metrics={**task.metrics, PREFERENCE: True},
                judges={**task.judges, PREFERENCE: against},
            )
            if task.key in judged
            else task
            for task in run.run.tasks
        }
        with_scores(run, scores, records)


def _score(game: Game, is_cand: bool, judge: str) -> Score:
    value = game.got if is_cand or game.got is None else 0.5
    reason = game.reason if value is None else None
    explanation = game.explanation or None
    return Score.of(game.samples[is_cand], PREFERENCE, value, reason, scorer=judge, explanation=explanation)


def _preference_rows(games: Sequence[Game]) -> Iterator[dict[str, str]]:
    """What preference tuning reads: pairs on which both orders preferred the same answer."""
    for game in games:
        if game.got in (0.0, 1.0) and game.first_won is not None:
            answers = [str(sample.response) for sample in game.samples]
            chosen, rejected = answers[::-1] if game.got == 1.0 else answers
            row = {"instruction": game.question.judged.question, "input": game.question.judged.input}
            yield {**row, "chosen": chosen, "rejected": rejected}
