"""The records that travel forward: what was asked for, what was answered, what it was worth, what it means.

    RunSpec → Run, Sample → Score → Metric → Comparison

A run directory holds them:

    run.json         Run: the spec, hashes, versions, hardware, timings
    samples.jsonl    Sample, one a line
    scores.jsonl     Score, one a line
    result.json      Metric, all

Records are frozen and check themselves; fractions are in [0,1]; a score that is missing is None with a
reason, never a number. `Record.to_dict` and `from_dict` are each other's inverse.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

from harness.errors import RecordError, UnknownNameError, UsageError
from harness.files import dumps
from tasks_uz.prompts import FORMATS
from tasks_uz.text import ORTHOGRAPHIES

QUANTIZATIONS = ("none", "int8", "nf4", "fp8")
DTYPES = ("auto", "float32", "bfloat16", "float16")
BACKENDS = ("engine", "hf", "vllm", "sglang", "api", "gguf")
VERDICTS = ("better", "worse", "same", "unclear")
GATE_VERDICTS = ("pass", "regression", "inconclusive")
MACRO = "macro average"


def digest(value: Any) -> str:
    """SHA-256 (hex) of a value's JSON with sorted keys."""
    return hashlib.sha256(dumps(_sorted(value)).encode()).hexdigest()


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_sorted(part) for part in value]
    return value


class Record:
    """What all records share: JSON and back."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; tuples become lists."""
        return {item.name: _plain(getattr(self, item.name)) for item in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """A record from its JSON; keys it doesn't know are left out, so that an older reader copes.

        Raises RecordError where a key is missing or a value doesn't fit.
        """
        try:
            values = {}
            for name, hint, plain in _fields(cls):  # type: ignore[arg-type]
                if name in document:
                    value = document[name]
                    # Most values are plain; a run has a million of them.
                    values[name] = value if type(value) in plain else _typed(value, hint, name)
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise RecordError(f"not a {cls.__name__} record: {error}") from None


@lru_cache(maxsize=64)
def _fields(cls: Any) -> tuple[tuple[str, Any, tuple[type, ...]], ...]:
    """Of each field its name, its type, and the exact types of values that are taken as they are."""
    hints = typing.get_type_hints(cls)
    return tuple((item.name, hints[item.name], _plain_types(hints[item.name])) for item in dataclasses.fields(cls))


def _plain_types(hint: Any) -> tuple[type, ...]:
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple(part for part in parts if part in (str, int, float, bool, type(None)))


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return value


def _typed(value: Any, hint: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _typed(value, next(part for part in arguments if part is not type(None)), name)
    if origin is tuple and isinstance(value, (list, tuple)):
        if arguments[1] is not Ellipsis:
            return tuple(_typed(part, hint, name) for part, hint in zip(value, arguments, strict=True))
        return tuple(_typed(part, arguments[0], name) for part in value)
    if origin is dict and isinstance(value, Mapping):
        return {key: _typed(part, arguments[1], name) for key, part in value.items()}
    if isinstance(hint, type) and issubclass(hint, Record) and isinstance(value, Mapping):
        return hint.from_dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin or not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise TypeError(f"{name} is {type(value).__name__}, expected {getattr(hint, '__name__', hint)}")
    return value


def _one_of(kind: str, value: str, known: Iterable[str]) -> None:
    known = tuple(known)
    if value not in known:
        raise UnknownNameError(kind, value, known, f"One of: {', '.join(known)}.")


@dataclass(frozen=True, slots=True)
class RunSpec(Record):
    """What is asked of which model: everything that a person chooses.

    model: hub id or directory. adapter: hub id or directory of a LoRA adapter, or None.
    tasks: task and group names. n_shot: worked examples before each question, None for the task's own.
    limit: documents a task, None for all. seed: of sampling, where gen_kwargs ask for it.
    trust_remote_code: runs code that the model's repository carries. base_url: of the server, for api and gguf.
    """

    model: str
    revision: str | None = None
    adapter: str | None = None
    quantization: str = "none"
    dtype: str = "auto"
    backend: str = "engine"
    tasks: tuple[str, ...] = ("uz_core",)
    n_shot: int | None = None
    limit: int | None = None
    seed: int = 1234
    gen_kwargs: dict[str, Any] = field(default_factory=dict)
    prompt_format: str = "plain"
    orthographies: tuple[str, ...] = ("latin",)
    prompts: str = "default"
    trust_remote_code: bool = False
    base_url: str | None = None

    def __post_init__(self) -> None:
        _one_of("quantization", self.quantization, QUANTIZATIONS)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("backend", self.backend, BACKENDS)
        _one_of("prompt format", self.prompt_format, FORMATS)
        _one_of("prompts", self.prompts, ("default", "all"))
        if not self.orthographies:
            raise UsageError(f"No orthography is named. One or more of: {', '.join(ORTHOGRAPHIES)}, all.")
        for orthography in self.orthographies:
            _one_of("orthography", orthography, (*ORTHOGRAPHIES, "all"))
        if not self.model:
            raise UsageError("No model is named. Try: uzbench run --model DIRECTORY_OR_HUB_ID")
        if not self.tasks:
            raise UsageError("No task is named. All tasks: uzbench tasks")
        if self.n_shot is not None and self.n_shot < 0:
            raise UsageError(f"--shots {self.n_shot}: expected 0 or more.")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: expected 1 or more documents.")

    @property
    def spec_hash(self) -> str:
        """SHA-256 of the whole spec."""
        return digest(self.to_dict())


@dataclass(frozen=True, slots=True)
class TaskRecord(Record):
    """What a run knows of one task that it asked, in one orthography and prompt.

    task: base name. lm_eval_task: lm-eval's name. n: documents asked; n_all: documents the task has.
    metrics: name to whether higher is better. chance: the score of guessing in [0,1], or None. baselines: what the
    primary metric gives to answers that need no reading, by name, on the documents asked. corpus_metrics: those that
    have a value for all documents together and none for one (macro_f1). judges: of metrics that a judge gave, which one
    and under which rubric.
    """

    task: str
    lm_eval_task: str
    orthography: str
    prompt_id: str
    version: str
    n_shot: int
    n: int
    n_all: int
    primary: str
    metrics: dict[str, bool]
    output_type: str
    chance: float | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    corpus_metrics: tuple[str, ...] = ()
    judges: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.task, self.orthography, self.prompt_id


@dataclass(frozen=True, slots=True)
class Run(Record):
    """One model asked once: provenance and what came of it.

    run_id: the name of its directory. model_key: hash of all that changes an answer (see harness.store).
    model_name: what reports call it. subset: "uz_demo" where a fixed subset was asked.
    complete: False while it runs and after a kill. created: ISO 8601, UTC. source: "uzbench" or "lm-eval".
    timings: seconds by stage. requests: asked, reused and split counts of this last call.
    """

    run_id: str
    spec: RunSpec
    spec_hash: str
    model_key: str
    model_name: str
    created: str
    complete: bool
    source: str = "uzbench"
    subset: str | None = None
    tasks: tuple[TaskRecord, ...] = ()
    git_commit: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def limited(self) -> bool:
        """Whether some task was asked on fewer documents than it has."""
        return self.subset is not None or any(task.n < task.n_all for task in self.tasks)


@dataclass(frozen=True, slots=True)
class Sample(Record):
    """One document asked once.

    item_id: stable, never transliterated; empty for imported documents that carry none.
    group: its passage or article; empty where it stands alone. occurrence: 0 for the first document of this
    doc_hash within its task and prompt, 1 for the next. choices: empty where the answer is free text.
    response: the answer, or the choice that was taken. logprobs: log-likelihood (nats) of each choice.
    """

    task: str
    orthography: str
    prompt_id: str
    item_id: str
    group: str
    occurrence: int
    doc_hash: str
    prompt_hash: str
    prompt: str
    target: str
    choices: tuple[str, ...]
    response: str | None
    logprobs: tuple[float, ...]
    slice: str


@dataclass(frozen=True, slots=True)
class Score(Record):
    """What one answer is worth under one metric.

    value: in [0,1], or None with an unscored_reason. scorer: what judged it ("lm-eval", a judge's name).
    filter: lm-eval's name for how the answer was read ("none", "strict-match").
    """

    task: str
    orthography: str
    prompt_id: str
    item_id: str
    group: str
    occurrence: int
    doc_hash: str
    metric: str
    value: float | None
    unscored_reason: str | None = None
    scorer: str = "lm-eval"
    explanation: str | None = None
    filter: str = "none"

    def __post_init__(self) -> None:
        if (self.value is None) == (self.unscored_reason is None):
            raise ValueError("a score has a value or a reason why it has none, and not both")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"value {self.value} of {self.metric} isn't a finite number")
        if self.value is not None and not 0 <= self.value <= 1:
            raise ValueError(f"value {self.value} of {self.metric} isn't in [0,1]")

    @classmethod
    def of(cls, sample: Sample, metric: str, value: float | None, reason: str | None = None, **rest: Any) -> Self:
        """The score of a sample's answer. rest: scorer, explanation, filter."""
        return cls(
            task=sample.task,
            orthography=sample.orthography,
            prompt_id=sample.prompt_id,
            item_id=sample.item_id,
            group=sample.group,
            occurrence=sample.occurrence,
            doc_hash=sample.doc_hash,
            metric=metric,
            value=value,
            unscored_reason=reason,
            **rest,
        )

    @property
    def task_key(self) -> tuple[str, str, str]:
        return self.task, self.orthography, self.prompt_id

    @property
    def pair_key(self) -> tuple[str, int]:
        """What pairs it with another run's score of the same task, prompt and orthography."""
        return self.doc_hash, self.occurrence


@dataclass(frozen=True, slots=True)
class Metric(Record):
    """A task's score under one metric, over its documents.

    value, stderr, ci95: in the metric's unit, [0,1]; None where nothing was scored, stderr None below 2
    documents. n: documents scored; n_unscored: documents not. n_clusters: passages, or n where independent.
    baselines: as in TaskRecord, on primary metrics alone.
    """

    task: str
    orthography: str
    prompt_id: str
    task_version: str
    metric: str
    primary: bool
    value: float | None
    stderr: float | None
    ci95: tuple[float, float] | None
    n: int
    n_unscored: int
    n_clusters: int
    chance: float | None
    higher_is_better: bool
    filter: str = "none"
    baselines: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PromptSpread(Record):
    """One model on one task under several prompts of one form, in the primary metric.

    form: "" for the task's own, else "cloze", "letters" or "named". prompts: ids, in order; values: of each.
    mean, ci95: over documents, each the mean of its prompts; sd: of the values, sample standard deviation.
    """

    task: str
    orthography: str
    form: str
    metric: str
    prompts: tuple[str, ...]
    values: tuple[float, ...]
    mean: float
    ci95: tuple[float, float] | None
    sd: float
    higher_is_better: bool

    @property
    def worst(self) -> tuple[str, float]:
        """The prompt under which the model does worst, and its value there."""
        pick = min if self.higher_is_better else max
        return pick(zip(self.prompts, self.values, strict=True), key=lambda each: each[1])


@dataclass(frozen=True, slots=True)
class Row(Record):
    """One task and metric, base against candidate, paired by document.

    delta: cand - base. ci95: of delta. p: two-sided; p_adjusted: Holm over the primary metrics of an
    orthography, None on other rows. n_pairs: documents scored in both runs; n_unscored: documents not.
    mde: the smallest difference that a test of this size finds 80 % of the time. gained, lost: documents whose
    score rose, fell (of macro_f1: became right, wrong). test: "mcnemar", "sign-flip", "bootstrap", or "none" where
    nothing differs. primary: of the task's first prompt; under further prompts rows stay descriptive.
    """

    task: str
    orthography: str
    prompt_id: str
    metric: str
    primary: bool
    base: float
    cand: float
    delta: float
    ci95: tuple[float, float]
    p: float
    p_adjusted: float | None
    n_pairs: int
    n_unscored: int
    n_clusters: int
    mde: float | None
    gained: int
    lost: int
    test: str
    chance: float | None
    higher_is_better: bool
    verdict: str
    filter: str = "none"
    baselines: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict {self.verdict!r} isn't one of {VERDICTS}")


@dataclass(frozen=True, slots=True)
class Overall(Record):
    """The macro average over the primary metrics of one orthography (each task counts the same)."""

    orthography: str
    n_tasks: int
    base: float
    cand: float
    delta: float
    ci95: tuple[float, float]
    p: float
    verdict: str


@dataclass(frozen=True, slots=True)
class Side(Record):
    """Who was compared: enough to find the run again and to say what it was."""

    run_id: str
    model_name: str
    model: str
    adapter: str | None
    quantization: str
    prompt_format: str
    model_key: str
    limited: bool

    @classmethod
    def of(cls, run: Run) -> Side:
        spec = run.spec
        return cls(
            run_id=run.run_id,
            model_name=run.model_name,
            model=spec.model,
            adapter=spec.adapter,
            quantization=spec.quantization,
            prompt_format=spec.prompt_format,
            model_key=run.model_key,
            limited=run.limited,
        )


@dataclass(frozen=True, slots=True)
class OrthographyGap(Record):
    """How much worse one model does in another alphabet, paired by item: other - Latin.

    task: MACRO for the mean over tasks, which each count the same; n_pairs is then the number of tasks.
    """

    task: str
    metric: str
    orthography: str
    latin: float
    other: float
    delta: float
    ci95: tuple[float, float]
    p: float
    n_pairs: int


@dataclass(frozen=True, slots=True)
class PromptRow(Record):
    """Base against candidate over several prompts of one form: paired by document, each the mean of its prompts.

    low, high: the smallest and largest difference (cand - base) under one prompt.
    """

    base: PromptSpread
    cand: PromptSpread
    delta: float
    ci95: tuple[float, float]
    p: float
    low: float
    high: float
    n_pairs: int
    verdict: str


@dataclass(frozen=True, slots=True)
class SliceRow(Record):
    """A part of one task, base against candidate, in the primary metric; paired, descriptive, p not adjusted.

    by: "type" (the items' own slice) or "length" (thirds of the prompts by characters). name: of the part.
    """

    task: str
    orthography: str
    prompt_id: str
    metric: str
    by: str
    name: str
    base: float
    cand: float
    delta: float
    ci95: tuple[float, float]
    p: float
    n_pairs: int
    n_clusters: int
    gained: int
    lost: int
    higher_is_better: bool


@dataclass(frozen=True, slots=True)
class JudgedDifference(Record):
    """The difference of two models' shares of good answers, corrected for the errors of the judge of both.

    judged: the difference of the shares that it passed; corrected: None where it can't be told (`why_not`).
    """

    task: str
    orthography: str
    prompt_id: str
    judge: str
    judged: float
    judged_ci95: tuple[float, float]
    corrected: float | None
    corrected_ci95: tuple[float, float] | None
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison(Record):
    """A candidate against its base.

    margin: differences inside ± margin count as the same. overall: by orthography.
    orthography_gaps: of each side, "base" and "cand". asked_differently: the prompt formats differ.
    slices: parts of the tasks, where a task has several. judged: what a judge passed of both.
    """

    base: Side
    cand: Side
    margin: float
    rows: tuple[Row, ...]
    overall: dict[str, Overall]
    prompt_rows: tuple[PromptRow, ...] = ()
    orthography_gaps: dict[str, tuple[OrthographyGap, ...]] = field(default_factory=dict)
    slices: tuple[SliceRow, ...] = ()
    judged: tuple[JudgedDifference, ...] = ()
    asked_differently: bool = False
    limited: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CurvePoint(Record):
    """One run of a series in one task's primary metric, or in the macro average (task: MACRO, metric: "").

    side: which run, as its place in Series.sides. value, ci95: its own score. delta, delta_ci95, p: against the
    first run of the series, paired by document; None on the first itself.
    """

    side: int
    task: str
    orthography: str
    metric: str
    value: float
    ci95: tuple[float, float] | None
    delta: float | None
    delta_ci95: tuple[float, float] | None
    p: float | None
    n_pairs: int
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class SplitRow(Record):
    """A gain split in two, paired by document: total = format + rest, each with its 95 % interval.

    format: what asking the base in the candidate's prompt format changes. rest: candidate - base, both asked in it.
    task: MACRO for the mean over tasks.
    """

    task: str
    orthography: str
    metric: str
    total: float
    total_ci95: tuple[float, float]
    format: float
    format_ci95: tuple[float, float]
    rest: float
    rest_ci95: tuple[float, float]
    n_pairs: int


@dataclass(frozen=True, slots=True)
class FormatSplit(Record):
    """How much of a gain is the prompt format: the base asked in its own format, in the candidate's, the candidate."""

    base: Side
    base_in_format: Side
    cand: Side
    rows: tuple[SplitRow, ...]


@dataclass(frozen=True, slots=True)
class Series(Record):
    """Several runs of the same tasks held against the first: a learning curve, and what of it is the prompt format.

    sides: the runs, in the order given.
    """

    sides: tuple[Side, ...]
    points: tuple[CurvePoint, ...]
    splits: tuple[FormatSplit, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing(Record):
    """One line of a leaderboard: a model on one task, or on the macro average (task: MACRO, metric: "").

    kind: "model", or "baseline" (needs no reading; without interval, rank and run_id). rank: 1 is the best, equal
    scores share the better rank; rank_ci95: 95 % interval of the rank, by bootstrap over documents.
    wins, losses: models that it is better, worse than with an adjusted p < .05 (Holm over the pairs of this task).
    n: documents scored (of MACRO: tasks); n_unscored: documents not.
    """

    model: str
    run_id: str
    kind: str
    task: str
    orthography: str
    metric: str
    score: float
    ci95: tuple[float, float] | None
    rank: int | None
    rank_ci95: tuple[int, int] | None
    wins: int
    losses: int
    n: int
    n_unscored: int
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Leaderboard(Record):
    """Models ranked on the same documents. rows: by orthography, the macro average first, then task, then rank."""

    created: str
    sides: tuple[Side, ...]
    rows: tuple[Standing, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Check(Record):
    """One thing that a gate looked at.

    kind: "suite" (the macro average), "task", "artefact" or "golden". name: the task, artefact or item.
    verdict: one of GATE_VERDICTS. base, cand: the two values, in [0,1]. delta: cand - base, turned so that more is
    better. bound: one-sided 95 % lower bound of delta. limit: what it is held against (a margin, a smallest effect, a
    rise of an artefact). p: one-sided, that delta isn't below 0; p_adjusted: Holm over the family. mde: the fall that
    the test finds 80 % of the time. message: the check in one sentence.
    """

    kind: str
    name: str
    orthography: str
    verdict: str
    message: str
    base: float | None = None
    cand: float | None = None
    delta: float | None = None
    bound: float | None = None
    limit: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    mde: float | None = None
    n_pairs: int = 0
    n_unscored: int = 0

    def __post_init__(self) -> None:
        if self.verdict not in GATE_VERDICTS:
            raise ValueError(f"verdict {self.verdict!r} isn't one of {GATE_VERDICTS}")


@dataclass(frozen=True, slots=True)
class Look(Record):
    """One interim look of a sequential gate: after how many documents, and where the statistics stood.

    share: of all documents, in [0,1]. delta: of the macro average. z_regression: of the task, or the average, that fell
    most clearly; z_pass: of the average against a fall by the margin; each boundary is what they are held against.
    fell: what a verdict of regression rests on.
    """

    orthography: str
    n_pairs: int
    share: float
    delta: float
    z_regression: float
    boundary_regression: float
    z_pass: float
    boundary_pass: float
    verdict: str
    fell: str = ""


@dataclass(frozen=True, slots=True)
class GateResult(Record):
    """What a gate decided, and why. policy: as it was read, defaults filled in. looks: of a sequential gate."""

    base: Side
    cand: Side
    verdict: str
    checks: tuple[Check, ...]
    policy: dict[str, Any]
    looks: tuple[Look, ...] = ()
    share_asked: float | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.verdict not in GATE_VERDICTS:
            raise ValueError(f"verdict {self.verdict!r} isn't one of {GATE_VERDICTS}")
