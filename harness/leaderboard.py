"""Ranking: runs in, one Leaderboard out; every number with its interval, every rank with its own.

    model      score   95 %           rank   95 %
    NeuronAI   66.2 %  [64.0, 68.3]   1      [1, 2]

Runs are paired by document as in a comparison, and refused where they don't pair. A rank's interval is a bootstrap
over documents: one draw of documents for all models, so that what is hard for one and hard for all doesn't count as
noise (Efron and Tibshirani 1993, chapter 8; of passages where documents share them: chapter 8.6).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from os import PathLike

import numpy as np
import numpy.typing as npt

from harness import provenance, stats
from harness.columns import Columns, TaskKey
from harness.comparison import asked_differently, check_tasks, listed, task_name
from harness.errors import UnpairedError, UsageError
from harness.metrics import first_prompts
from harness.records import MACRO, Leaderboard, Side, Standing, TaskRecord, digest
from harness.runs import RunDirectory, open_run

RESAMPLES = 2000

MIN_CLUSTERS = 6
"""Below 6 documents (passages) no flip of signs tells two models apart at .05, so no rank is known either."""

CELLS = 4_000_000
"""Weights that are held at once in a bootstrap: 32 MB."""

CHANCE = "chance"

Floats = stats.Floats
Ints = npt.NDArray[np.intp]
RunLike = RunDirectory | str | PathLike[str]


def leaderboard(runs: Sequence[RunLike], *, allow_limited: bool = False) -> Leaderboard:
    """Ranks models by each task's primary metric, and by the macro average where an alphabet has several tasks.

    A model's score is over all documents on which it was scored; rank intervals are over those on which all models
    were, wins and losses over those on which both were. A task's first prompt stands for it. The order of the runs
    doesn't matter. Raises UsageError, RecordError, UnpairedError naming what differs.
    """
    opened = [run if isinstance(run, RunDirectory) else open_run(run) for run in runs]
    _check_runs(opened, allow_limited)
    opened.sort(key=lambda each: (each.run.run_id, str(each.path)))
    _check_tasks(opened)
    names = _shown_names(opened)
    boards, unranked = [], []
    for table in _tables(opened):
        silent = [names[at] for at in np.flatnonzero(np.isnan(table.scores).all(axis=0))]
        if silent:
            unranked.append(
                f"{task_name(table.task.key)}: nothing of {listed(silent)} was scored; the task isn't ranked."
            )
        elif np.isnan(table.scores).any(axis=1).all():
            unranked.append(
                f"{task_name(table.task.key)}: no document was scored for every model; the task isn't ranked."
            )
        else:
            boards.append(_board(table))
    if not boards:
        raise UnpairedError(f"There is nothing to rank. {' '.join(unranked)}".strip())
    rows: list[Standing] = []
    for orthography in dict.fromkeys(board.orthography for board in boards):
        family = [board for board in boards if board.orthography == orthography]
        if len(family) > 1:
            rows += _standings(_macro(family), opened, names)
        for board in family:
            rows += _standings(board, opened, names)
    return Leaderboard(
        created=provenance.now(),
        sides=tuple(Side.of(each.run) for each in opened),
        rows=tuple(rows),
        notes=(*_notes(opened, names, boards), *unranked),
    )


# What is ranked.


@dataclass(frozen=True, slots=True)
class _Table:
    """All runs' scores of one task, shape (documents, runs), aligned by document. groups: passage of each document."""

    task: TaskRecord
    scores: Floats
    groups: list[str]
    baselines: dict[str, float]


def _columns(run: RunDirectory) -> dict[TaskKey, Columns]:
    """The columns of each task's first prompt."""
    # Opened anew: what a run directory has read it keeps, and ten large runs are much to keep.
    columns = RunDirectory(run.path, run.run).columns
    return {task.key: columns[task.key] for task in first_prompts(run.run.tasks)}


def _tables(runs: Sequence[RunDirectory]) -> list[_Table]:
    """The runs' primary scores side by side, task by task, in the documents' order of the first run.

    Raises UnpairedError where documents, filters or prompts differ.
    """
    first = _columns(runs[0])
    scores = {key: np.full((len(columns.keys), len(runs)), np.nan) for key, columns in first.items()}
    # A number for each prompt hash that was seen, 0 where a record has none.
    numbers: dict[str, int] = {"": 0}
    prompts = {key: np.zeros((len(runs), len(columns.keys)), dtype=np.intp) for key, columns in first.items()}
    for at, run in enumerate(runs):
        for key, columns in (_columns(run) if at else first).items():
            places = _places(first[key], columns, runs[0], run)
            primary = columns.primary()
            if primary is not None:
                scores[key][places, at] = columns.values[primary]
            prompts[key][at, places] = [numbers.setdefault(each, len(numbers)) for each in columns.prompt_hashes]
    for key, of_task in prompts.items():
        _check_prompts(key, of_task, runs)
    return [_Table(each.task, scores[key], each.groups, _baselines(each.task, runs)) for key, each in first.items()]


def _baselines(task: TaskRecord, runs: Sequence[RunDirectory]) -> dict[str, float]:
    """Chance, and the best of what else needs no reading, from the first run that knows them."""
    found: dict[str, float] = {}
    for run in runs:
        other = next(each for each in run.run.tasks if each.key == task.key)
        found = found or dict(other.baselines)
        if other.chance is not None:
            found.setdefault(CHANCE, other.chance)
    best = max if task.metrics.get(task.primary, True) else min
    others = [name for name in found if name != CHANCE]
    shown = [name for name in (CHANCE,) if name in found] + ([best(others, key=found.__getitem__)] if others else [])
    return {name: found[name] for name in shown}


# Refusals.


def _check_runs(runs: Sequence[RunDirectory], allow_limited: bool) -> None:
    if not runs:
        raise UsageError("No run is named. Try: uzbench leaderboard runs/*/")
    twice = [path for path, count in Counter(str(run.path.resolve()) for run in runs).items() if count > 1]
    if twice:
        shown = next(run.path for run in runs if str(run.path.resolve()) == twice[0])
        raise UsageError(f"{shown} is named twice. Name each run once.")
    limited = [str(run.path) for run in runs if run.run.limited]
    if limited and not allow_limited:
        raise UsageError(
            f"Limited, asked on a part of the documents: {listed(limited)}. "
            "Run the tasks whole, or rank all the same with: --allow-limited"
        )


def _check_tasks(runs: Sequence[RunDirectory]) -> None:
    base, *others = runs
    mine = {task.key: task for task in first_prompts(base.run.tasks)}
    for run in others:
        check_tasks(base, mine, run, {task.key: task for task in first_prompts(run.run.tasks)}, which="all")


def _places(base: Columns, columns: Columns, base_run: RunDirectory, run: RunDirectory) -> Ints:
    """Of each document of a run its place in the first run."""
    name = task_name(base.task.key)
    # The same metric, by _check_tasks; None where nothing was scored.
    filters = [primary[1] for primary in (base.primary(), columns.primary()) if primary is not None]
    if len(set(filters)) > 1:
        raise UnpairedError(
            f"{name}: the answers were read differently, by the filter {filters[0]} in {base_run.path} and by "
            f"{filters[1]} in {run.path}. Run all with the same lm-eval and task."
        )
    if base.keys == columns.keys:
        return np.arange(len(base.keys))
    places = {document: at for at, document in enumerate(base.keys)}
    only_base, only_run = places.keys() - set(columns.keys), set(columns.keys) - places.keys()
    if only_base or only_run:
        raise UnpairedError(
            f"{name}: the documents differ (doc_hash): {len(only_base)} only in {base_run.path}, {len(only_run)} only "
            f"in {run.path}. Run all with the same --limit and data."
        )
    return np.asarray([places[document] for document in columns.keys], dtype=np.intp)


def _check_prompts(key: TaskKey, prompts: Ints, runs: Sequence[RunDirectory]) -> None:
    """Refuses differing prompts, unless both runs name a prompt format and these differ.

    prompts: a number for each prompt's hash, shape (runs, documents), 0 where there is none.
    """
    for one, two in combinations(range(len(runs)), 2):
        # A record without prompt hashes can't be held to them.
        n_differing = int(((prompts[one] != prompts[two]) & (prompts[one] != 0) & (prompts[two] != 0)).sum())
        if n_differing and not asked_differently(runs[one], runs[two]):
            raise UnpairedError(
                f"{task_name(key)}: the prompts differ (prompt_hash) on {n_differing} of {prompts.shape[1]} documents "
                f"between {runs[one].path} and {runs[two].path}, though they don't say that they were asked in "
                "different prompt formats. Run both with the same --prompt-format, --shots and uzbench."
            )


# Ranking.


@dataclass(frozen=True, slots=True)
class _Board:
    """One task ranked, or the macro average. Sequences are a model each, in the order of the runs.

    resampled: each model's score in each draw of documents, turned so that more is better; shape (draws, models).
    known: whether there are documents enough to say something of a rank. deltas: of each pair of models, the second
    minus the first, turned so that more is better.
    """

    task: str
    orthography: str
    metric: str
    higher_is_better: bool
    scores: tuple[float, ...]
    stderrs: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    n: tuple[int, ...]
    n_unscored: tuple[int, ...]
    resampled: Floats
    known: bool
    deltas: dict[tuple[int, int], float]
    delta_stderrs: dict[tuple[int, int], float | None]
    p: dict[tuple[int, int], float]
    baselines: dict[str, float]
    n_documents: int

    @property
    def turned(self) -> Floats:
        """The scores, more being better."""
        scores = np.asarray(self.scores)
        return scores if self.higher_is_better else 1 - scores


def _board(table: _Table) -> _Board:
    scored = ~np.isnan(table.scores)
    higher = table.task.metrics.get(table.task.primary, True)
    turned = table.scores if higher else 1 - table.scores
    n_models = table.scores.shape[1]
    own = [stats.estimate(table.scores[scored[:, at], at], _of(table.groups, scored[:, at])) for at in range(n_models)]
    pairs = {}
    for one, two in combinations(range(n_models), 2):
        both = scored[:, one] & scored[:, two]
        pairs[one, two] = stats.paired(turned[both, one], turned[both, two], _of(table.groups, both))
    shared = np.asarray(scored.all(axis=1))
    numbers = stats.clusters(_of(table.groups, shared))
    seed = int(digest([stats.SEED, *table.task.key])[:16], 16)
    return _Board(
        task=table.task.task,
        orthography=table.task.orthography,
        metric=table.task.primary,
        higher_is_better=higher,
        scores=tuple(each.mean for each in own),
        stderrs=tuple(each.stderr for each in own),
        intervals=tuple(each.ci95 for each in own),
        n=tuple(int(count) for count in scored.sum(axis=0)),
        n_unscored=tuple(int(count) for count in (~scored).sum(axis=0)),
        resampled=resampled(turned[shared], numbers, seed=seed),
        known=int(numbers.max()) + 1 >= MIN_CLUSTERS,
        deltas={pair: found.delta for pair, found in pairs.items()},
        delta_stderrs={pair: found.stderr for pair, found in pairs.items()},
        p={pair: found.p for pair, found in pairs.items()},
        baselines=table.baselines,
        n_documents=len(table.groups),
    )


def _macro(boards: Sequence[_Board]) -> _Board:
    """The mean over tasks, each of which counts the same; one where less is better enters as 1 - score."""
    scores = np.mean([board.turned for board in boards], axis=0)
    stderrs = [_mean_stderr(each) for each in zip(*(board.stderrs for board in boards), strict=True)]
    pairs = {
        pair: stats.macro([board.deltas[pair] for board in boards], [board.delta_stderrs[pair] for board in boards])
        for pair in boards[0].deltas
    }
    guessed = [
        board.baselines[CHANCE] if board.higher_is_better else 1 - board.baselines[CHANCE]
        for board in boards
        if CHANCE in board.baselines
    ]
    return _Board(
        task=MACRO,
        orthography=boards[0].orthography,
        metric="",
        higher_is_better=True,
        scores=tuple(float(score) for score in scores),
        stderrs=tuple(stderrs),
        intervals=tuple(_normal(score, stderr) for score, stderr in zip(scores, stderrs, strict=True)),
        n=(len(boards),) * len(scores),
        n_unscored=tuple(sum(each) for each in zip(*(board.n_unscored for board in boards), strict=True)),
        resampled=np.mean([board.resampled for board in boards], axis=0),
        known=all(board.known for board in boards),
        deltas={pair: found[0] for pair, found in pairs.items()},
        delta_stderrs={},
        p={pair: found[3] for pair, found in pairs.items()},
        baselines={CHANCE: float(np.mean(guessed))} if len(guessed) == len(boards) else {},
        n_documents=len(boards),
    )


def _mean_stderr(stderrs: Sequence[float | None]) -> float | None:
    known = [stderr for stderr in stderrs if stderr is not None]
    return math.sqrt(sum(stderr**2 for stderr in known)) / len(known) if len(known) == len(stderrs) else None


def _normal(score: float, stderr: float | None) -> tuple[float, float] | None:
    from scipy.stats import norm

    if stderr is None:
        return None
    half = float(norm.ppf(1 - stats.ALPHA / 2)) * stderr
    return max(0.0, float(score) - half), min(1.0, float(score) + half)


def ranks(scores: Floats) -> Ints:
    """Ranks along the last axis, 1 for the highest; equal scores share the better rank."""
    # Rounded, so that sums which are equal on paper are equal: 0.1 + 0.2 isn't 0.3.
    rounded = scores.round(12)
    above = np.sort(rounded, axis=-1)[..., ::-1]
    found = np.empty(rounded.shape, dtype=np.intp)
    for at in range(rounded.shape[-1]):
        found[..., at] = 1 + (above > rounded[..., at, None]).sum(axis=-1)
    return found


def resampled(scores: Floats, numbers: Ints, *, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Each model's mean score in draws of documents with replacement, the same draw for all: (resamples, models).

    scores: shape (documents, models), without NaN. numbers: the passage of each document, from `stats.clusters`;
    passages are drawn whole. Passages with equal sums of scores are one line with a count: their draws are
    multinomial, which is the same distribution in far fewer cells.
    """
    n_models, n_units = scores.shape[1], int(numbers.max()) + 1
    sums = np.empty((n_units, n_models + 1))
    for at in range(n_models):
        sums[:, at] = np.bincount(numbers, weights=scores[:, at], minlength=n_units)
    sums[:, n_models] = np.bincount(numbers, minlength=n_units)
    lines, counts = np.unique(sums, axis=0, return_counts=True)
    draw = np.random.default_rng(seed)
    size = max(1, CELLS // len(lines))
    found = []
    for start in range(0, resamples, size):
        weights = _draws(draw, counts, min(size, resamples - start))
        totals = weights @ lines
        found.append(totals[:, :n_models] / totals[:, n_models:])
    return np.concatenate(found)


def _draws(draw: np.random.Generator, counts: Ints, resamples: int) -> Floats:
    """How often each line is drawn when as many are drawn as there are: (resamples, lines)."""
    n_units = int(counts.sum())
    # Numpy draws a multinomial line by line, which is slow where nearly every line stands once.
    if 10 * len(counts) < n_units:
        return draw.multinomial(n_units, counts / n_units, size=resamples).astype(np.float64)
    line_of = np.repeat(np.arange(len(counts)), counts)
    found = np.empty((resamples, len(counts)))
    for at in range(resamples):
        drawn = line_of[draw.integers(n_units, size=n_units)]
        found[at] = np.bincount(drawn, minlength=len(counts))
    return found


def rank_interval(drawn: Ints, n_models: int, rank: int) -> tuple[int, int]:
    """The 95 % percentile interval of a rank, from its draws; it holds the rank itself.

    At most 2.5 % of the draws lie below it, and at most 2.5 % above.
    """
    below = np.cumsum(np.bincount(drawn, minlength=n_models + 1))
    # In whole numbers: 0.975 of the draws isn't one in floating point.
    low, high = (int(np.argmax(below * 40 >= share * len(drawn))) for share in (1, 39))
    return min(low, rank), max(high, rank)


def _standings(board: _Board, runs: Sequence[RunDirectory], names: Sequence[str]) -> list[Standing]:
    n_models = len(runs)
    placed, drawn = ranks(board.turned), ranks(board.resampled)
    wins, losses = [0] * n_models, [0] * n_models
    for (pair, delta), p in zip(board.deltas.items(), stats.holm(list(board.p.values())), strict=True):
        if p < stats.ALPHA:
            better, worse = pair[::-1] if delta > 0 else pair
            wins[better] += 1
            losses[worse] += 1
    found = [
        Standing(
            model=names[at],
            run_id=runs[at].run.run_id,
            kind="model",
            task=board.task,
            orthography=board.orthography,
            metric=board.metric,
            score=board.scores[at],
            ci95=board.intervals[at],
            rank=int(placed[at]),
            rank_ci95=rank_interval(drawn[:, at], n_models, int(placed[at])) if board.known else (1, n_models),
            wins=wins[at],
            losses=losses[at],
            n=board.n[at],
            n_unscored=board.n_unscored[at],
            higher_is_better=board.higher_is_better,
        )
        for at in sorted(range(n_models), key=lambda at: (placed[at], names[at]))
    ]
    for name, value in board.baselines.items():
        found.append(
            Standing(
                model=name,
                run_id="",
                kind="baseline",
                task=board.task,
                orthography=board.orthography,
                metric=board.metric,
                score=value,
                ci95=None,
                rank=None,
                rank_ci95=None,
                wins=0,
                losses=0,
                n=board.n_documents,
                n_unscored=0,
                higher_is_better=board.higher_is_better,
            )
        )
    return found


# Names and notes.


def _shown_names(runs: Sequence[RunDirectory]) -> list[str]:
    """What each model is called: its name, with the run's where several share it."""
    several = Counter(run.run.model_name for run in runs)
    named = [
        f"{run.run.model_name} ({run.run.run_id})" if several[run.run.model_name] > 1 else run.run.model_name
        for run in runs
    ]
    # Two copies of one run, or one command line typed on two machines.
    alike, seen, found = Counter(named), Counter[str](), []
    for name in named:
        seen[name] += 1
        found.append(f"{name}, {seen[name]}" if alike[name] > 1 else name)
    return found


def _notes(runs: Sequence[RunDirectory], names: Sequence[str], boards: Sequence[_Board]) -> list[str]:
    notes = []
    formats = _by(
        (run.run.spec.prompt_format, name) for run, name in zip(runs, names, strict=True) if run.run.source == "uzbench"
    )
    if len(formats) > 1:
        asked = "; ".join(f"{listed(each)} in the format {name}" for name, each in formats.items())
        notes.append(f"Asked differently: {asked}. Part of a difference is the format, not the model.")
    limited = [name for run, name in zip(runs, names, strict=True) if run.run.limited]
    if limited:
        notes.append(f"Limited: {listed(limited)} asked on a part of the documents.")
    keys = _by((run.run.model_key, name) for run, name in zip(runs, names, strict=True) if run.run.source == "uzbench")
    notes += [f"Runs of the same model: {listed(each)}." for each in keys.values() if len(each) > 1]
    kinds = _by((run.run.spec.quantization, name) for run, name in zip(runs, names, strict=True))
    if len(kinds) > 1:
        notes.append(f"Quantized differently: {'; '.join(f'{listed(each)} {kind}' for kind, each in kinds.items())}.")
    for board in boards:
        name = task_name((board.task, board.orthography, "p1"))
        unscored = [f"{model} {count}" for model, count in zip(names, board.n_unscored, strict=True) if count]
        if unscored:
            notes.append(
                f"{name}: unscored documents ({listed(unscored)} of {board.n_documents}). A score is over the model's "
                "own scored documents; rank intervals are over those that all models have scored, wins and losses "
                "over those that both have."
            )
        if not board.known:
            notes.append(f"{name}: fewer than {MIN_CLUSTERS} independent documents; they can't tell ranks apart.")
    families = Counter(board.orthography for board in boards)
    lower = [
        task_name((board.task, board.orthography, "p1"))
        for board in boards
        if not board.higher_is_better and families[board.orthography] > 1
    ]
    if lower:
        notes.append(f"In the macro average {listed(lower)}, where less is better, enters as 1 - score.")
    return notes


def _by(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for key, value in pairs:
        found[key].append(value)
    return found


def _of(groups: list[str], chosen: npt.NDArray[np.bool_]) -> list[str]:
    return groups if chosen.all() else [groups[at] for at in np.flatnonzero(chosen)]
