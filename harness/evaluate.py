"""Asking: a RunSpec in, run directories out. The one home of lm-eval beside the engine.

run(RunSpec(model="gemma-3-270m", tasks=("uz_core",)), out=Path("runs"))
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import provenance
from harness.errors import NetworkError, UnknownNameError, UsageError
from harness.files import write_json
from harness.records import Run, RunSpec, Sample, Score, TaskRecord, digest
from harness.runs import PLAN, RUN, RunDirectory, slug, write_run
from harness.scoring import read_samples, task_record
from harness.store import STORE, Store
from tasks_uz import catalog
from tasks_uz.data import CHECKSUMS, ROOT, HubUnreachableError, MirrorError, mirror_checksums
from tasks_uz.prompts import STOP, TARGET_DELIMITER
from tasks_uz.text import ORTHOGRAPHIES

if TYPE_CHECKING:
    from harness.engine.identity import Located
    from harness.engine.models import Model
    from harness.engine.stored import Progress

log = logging.getLogger(__name__)

PARTS = "in parts"
"""The subset of a run that was asked part after part and stopped when enough was known."""

Documents = dict[str, list[int]]
"""Of each task, by lm-eval's name, documents to ask: their places among those that the spec names, from 0."""


@dataclass(frozen=True, slots=True)
class AdapterDefaults:
    """How an adapter was trained, and so how it is asked unless a person says otherwise."""

    prompt_format: str = "plain"
    quantization: str = "none"


@dataclass(frozen=True, slots=True)
class Target:
    """One model of a load: the base (adapter None) or one of its adapters."""

    spec: RunSpec
    adapter: Located | None
    model_name: str


def run(
    spec: RunSpec,
    *,
    adapters: Sequence[str] = (),
    out: Path = Path("runs"),
    mirror: Path | None = None,
    gpus: str = "1",
    progress: bool = True,
) -> list[RunDirectory]:
    """Asks a model its tasks, and each adapter of it too, from one load; a killed run goes on where it was.

    adapters: directories or hub ids; the base is asked as well, first. out: run directories and the store
    go there. mirror: hub data on the disk. gpus: how many share the work, each with a copy of the model, or "all".
    Raises UzBenchError; KeyboardInterrupt leaves what was answered in the store.
    """
    if spec.adapter:
        raise UsageError("RunSpec.adapter names the adapter of a finished run; name adapters to run() instead.")
    with _load(spec, adapters, out=Path(out), mirror=mirror, gpus=gpus, progress=progress) as load:
        return [_told(_ask(target, load)) for target in load.targets]


def run_in_parts(
    spec: RunSpec,
    more: Callable[[RunDirectory | None], Documents | None],
    *,
    adapter: str | None = None,
    out: Path = Path("runs"),
    mirror: Path | None = None,
    gpus: str = "1",
    progress: bool = True,
) -> RunDirectory:
    """Asks one model part after part, for as long as somebody wants more; leaves a run of what was asked.

    more: from the run so far (None at first) to the documents to ask next, or None to stop; it is asked once at least
    for a part. adapter: asked instead of the base. The other arguments are those of `run`, as are the errors.
    """
    adapters = [adapter] if adapter else []
    with _load(spec, adapters, out=Path(out), mirror=mirror, gpus=gpus, progress=progress, growing=True) as load:
        return _told(_ask(load.targets[-1], load, more))


def run_live(
    spec: RunSpec,
    model: Any,
    tokenizer: Any,
    base: Located,
    *,
    adapter: Located | None = None,
    out: Path,
    progress: bool = True,
) -> RunDirectory:
    """Asks a PEFT model that is in memory, as its base or with its adapter; afterwards it can be trained on.

    base: what its frozen weights are. adapter: what the adapter is called, and the digest of its weights as they are
    now. The other arguments and the errors are those of `run`.
    """
    from harness.engine.models import LiveModel

    target = Target(spec, None, _short_name(spec.model))
    if adapter is not None:
        target = _with_adapter(spec, adapter.path, adapter)

    def lent() -> Model:
        return LiveModel(spec, base, model, tokenizer, target.model_name)

    with _shared(select(spec), [target], lent, out=Path(out), mirror=None, progress=progress) as load:
        return _ask(target, load)


def _told(found: RunDirectory) -> RunDirectory:
    counts = found.run.requests
    log.info(
        "%s: %d requests, %d not asked again, %d asked",
        found.run.run_id, counts["distinct"], counts["reused"], counts["asked"],
    )  # fmt: skip
    return found


@dataclass(frozen=True)
class _Load:
    """What all targets of a call share."""

    names: list[str]
    subset: str | None
    targets: list[Target]
    model: Model
    store: Store
    mirror: Path | None
    out: Path
    bar: Progress


@contextmanager
def _load(
    spec: RunSpec,
    adapters: Sequence[str],
    *,
    out: Path,
    mirror: Path | None,
    gpus: str,
    progress: bool,
    growing: bool = False,
) -> Iterator[_Load]:
    selected = select(spec)
    base, targets = _targets(spec, adapters)
    if mirror is not None and not Path(mirror).is_dir():
        raise UsageError(f"--mirror {mirror}: no such directory. Expected DIR/<owner>/<name>/<config>/<split>.jsonl")

    def model() -> Model:
        return _model(spec, base, targets, gpus)

    with _shared(selected, targets, model, out=out, mirror=mirror, progress=progress, growing=growing) as load:
        yield load
    if mirror is not None and not mirror_checksums(Path(mirror)):
        log.warning("%s has no %s: its files were taken as they are.", mirror, CHECKSUMS)


@contextmanager
def _shared(
    selected: tuple[list[str], str | None],
    targets: list[Target],
    model: Callable[[], Model],
    *,
    out: Path,
    mirror: Path | None,
    progress: bool,
    growing: bool = False,
) -> Iterator[_Load]:
    """selected: what `select` found. model: makes what is asked; it is closed at the end."""
    with (
        Store(out / STORE) as store,
        _quiet_libraries(),
        _data_faults(),
        closing(model()) as asked,
        closing(_progress(1 if growing else len(targets), progress, growing)) as bar,
    ):
        yield _Load(*selected, targets, asked, store, mirror, out, bar)


def select(spec: RunSpec) -> tuple[list[str], str | None]:
    """The lm-eval names of what a spec asks, and the subset's name if it is one.

    A base task or group stands for its variants in spec.orthographies; a variant's own name for itself.
    Raises UnknownNameError with the nearest name, UsageError.
    """
    known, groups = catalog.tasks(), catalog.groups()
    wanted = ORTHOGRAPHIES if "all" in spec.orthographies else spec.orthographies
    subset = catalog.DEMO if catalog.DEMO in spec.tasks else None
    if subset and len(spec.tasks) > 1:
        raise UsageError(f"{catalog.DEMO} is a fixed subset and is asked alone, not with other tasks.")
    names: list[str] = []
    for task in spec.tasks:
        if task == catalog.DEMO:
            members: Sequence[str] = tuple(catalog.demo_items())
        elif task in groups:
            members = groups[task]
        elif task in known:
            members = (task,)
        elif not task.startswith("uz_") and task in _builtin_names():
            names.append(task)
            continue
        else:
            everything = [*known, *groups, catalog.DEMO]
            raise UnknownNameError("Task", task, everything, "All tasks: uzbench tasks")
        for member in members:
            info = known[member]
            if info.base != member and (member == task or info.prompt != "p1"):
                names.append(member)
                continue
            # A group may name a task in another alphabet, and it in that one alone.
            alphabets = wanted if info.base == member else (info.orthography,)
            variants = [known[name] for name in sorted(known) if known[name].base == info.base]
            present = [each for each in variants if each.orthography in alphabets]
            if not present:
                raise UsageError(
                    f"Task {member} isn't asked in {', '.join(wanted)}. It is asked in: "
                    + ", ".join(sorted({info.orthography for info in variants}))
                )
            # In the order of the alphabets; the prompts of a task behind its own.
            chosen = [each for each in present if spec.prompts == "all" or each.prompt == "p1"]
            names += [each.name for each in sorted(chosen, key=lambda each: alphabets.index(each.orthography))]
    return list(dict.fromkeys(names)), subset


def _builtin_names() -> frozenset[str]:
    # Reading lm-eval's own index takes ten seconds: only for a name that isn't ours.
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        return frozenset()
    return frozenset(TaskManager().all_tasks)


def _targets(spec: RunSpec, adapters: Sequence[str]) -> tuple[Located | None, list[Target]]:
    """The base, None where a server has it, and all that is asked, the base first."""
    targets = [Target(spec, None, _short_name(spec.model))]
    if spec.backend not in ("engine", "hf"):
        if adapters:
            raise UsageError(
                f"--adapter goes with --backend engine or hf. Serve the adapter yourself and ask it by its name there: "
                f"--backend {spec.backend} --model NAME"
            )
        return None, targets
    from harness.engine.identity import check_adapter, locate_adapter, locate_model

    base = locate_model(spec.model, spec.revision)
    for name in adapters:
        adapter = locate_adapter(name)
        check_adapter(adapter, base, name)
        targets.append(_with_adapter(spec, name, adapter))
    names = [target.model_name for target in targets]
    repeated = sorted(name for name in set(names) if names.count(name) > 1)
    if repeated:
        raise UsageError(f"Two adapters are called {repeated[0]!r}: rename one of the directories.")
    return base, targets


def _with_adapter(spec: RunSpec, name: str, adapter: Located) -> Target:
    return Target(replace(spec, adapter=name), adapter, f"{_short_name(spec.model)}+{_short_name(name)}")


def _model(spec: RunSpec, base: Located | None, targets: Sequence[Target], gpus: str) -> Model:
    try:
        from harness.engine.models import LmEvalModel, LocalModel
    except ImportError as error:
        raise UsageError(f"Asking a model needs {error.name}. Try: pip install 'uzbench[eval]'") from None
    if base is None:
        return LmEvalModel(spec, gpus)
    adapters = {target.model_name: target.adapter for target in targets if target.adapter is not None}
    return LocalModel(spec, base, adapters, gpus)


def _progress(n_models: int, shown: bool, growing: bool) -> Progress:
    from harness.engine.stored import Progress

    return Progress(n_models, shown=shown, growing=growing)


def _ask(
    target: Target, load: _Load, more: Callable[[RunDirectory | None], Documents | None] | None = None
) -> RunDirectory:
    """Asks one model of a load its tasks, all or in parts, and writes its run."""
    from harness.engine.identity import model_key
    from harness.engine.stored import Plan, StoredLM

    model, start, loaded = load.model, time.perf_counter(), load.model.load_seconds
    identity = model.identity(target.spec, target.adapter)
    key = model_key(identity)
    load.store.remember_model(key, identity)
    tasks = load_tasks(load.names, target.spec, load.mirror)
    spec_hash = target.spec.spec_hash
    run_id = f"{slug(target.model_name)}-{digest([spec_hash, key, *([PARTS] if more else [])])[:10]}"
    directory = load.out / run_id
    started = Run(
        run_id=run_id,
        spec=target.spec,
        spec_hash=spec_hash,
        model_key=key,
        model_name=target.model_name,
        created=provenance.now(),
        complete=False,
        subset=PARTS if more else load.subset,
        git_commit=provenance.git_commit(),
        versions=provenance.package_versions(),
        hardware=provenance.hardware(),
    )
    write_json(directory / RUN, started.to_dict())

    plan = Plan.load(directory / PLAN, model.budget)
    lm = StoredLM(
        store=load.store,
        model_key=key,
        plan=plan,
        planner=model.planner(plan.budget),
        compute=partial(model.compute, target.model_name if target.adapter else None),
        speaker=model.speaker,
        seed=target.spec.seed,
        label=target.model_name,
        progress=load.bar,
    )

    def written(complete: bool) -> RunDirectory:
        records, samples, scores = _records(tasks, logged)
        elapsed, load_seconds = time.perf_counter() - start, model.load_seconds - loaded
        done = replace(
            started,
            complete=complete,
            tasks=tuple(records),
            requests=lm.counts,
            timings={"load_s": round(load_seconds, 3), "ask_s": round(elapsed - load_seconds, 3)},
        )
        return write_run(directory, done, samples, scores)

    indices = _indices(tasks, load.subset, target.spec.limit)
    if more is None:
        logged = _logged(_lm_eval(lm, tasks, target.spec, indices), {})
    else:
        logged, found = {}, None
        while (part := more(found)) is not None:
            # Nothing may be wanted of a task that the spec names: of its further prompts, or of one with few documents.
            chosen = {name: [indices[name][number] for number in part.get(name, ())] for name in tasks}
            # Requests are made anew for each part: a task keeps those of the last.
            if any(chosen.values()):
                logged = _logged(_lm_eval(lm, tasks, target.spec, chosen), logged)
            found = written(complete=False)
    return written(complete=True)


def load_tasks(names: Sequence[str], spec: RunSpec, mirror: Path | None = None) -> dict[str, Any]:
    """lm-eval's task objects by name, set to ask as the spec says."""
    from lm_eval.tasks import TaskManager

    ours = set(catalog.tasks())
    metadata = {"mirror": str(mirror)} if mirror else {}
    manager = TaskManager(include_path=str(ROOT), include_defaults=not ours.issuperset(names), metadata=metadata)
    tasks: dict[str, Any] = manager.load(list(names))["tasks"]
    for name, task in tasks.items():
        if spec.n_shot is not None:
            task.set_config(key="num_fewshot", value=spec.n_shot)
        if spec.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
            task.set_config(key="generation_kwargs", value=dict(spec.gen_kwargs), update=True)
        task.set_fewshot_seed(seed=spec.seed)
        if spec.prompt_format != "plain":
            _set_format(task, spec.prompt_format, name in ours)
        shots = task.config.num_fewshot or 0
        available = shots
        if shots and name in ours:
            # Where a task names no split of worked examples, lm-eval takes them from the test documents.
            available = len(list(task.fewshot_docs() or ())) if task.config.fewshot_split else 0
        if shots > available:
            raise UsageError(f"--shots {shots}: task {name} has {available} worked examples.")
    return tasks


def _set_format(task: Any, prompt_format: str, ours: bool) -> None:
    """Makes a task, and its worked examples, write their prompts in a format."""
    from tasks_uz.prompts import Prompt, render

    if ours:
        ask: Callable[[dict[str, Any]], str] = partial(task.config.doc_to_text, prompt_format=prompt_format)
    else:
        plain = task.doc_to_text

        def ask(doc: dict[str, Any]) -> str:
            return render(Prompt(str(plain(doc))), prompt_format)

    delimiter = TARGET_DELIMITER[prompt_format]
    for config in (task.config, task.fewshot_cfg):
        config.doc_to_text = ask
        config.target_delimiter = delimiter
    stops = STOP[prompt_format]
    if stops and task.OUTPUT_TYPE == "generate_until":
        until = [*task.config.generation_kwargs["until"], *stops]
        task.set_config(key="generation_kwargs", value={"until": until}, update=True)


def _lm_eval(lm: Any, tasks: dict[str, Any], spec: RunSpec, indices: dict[str, list[int]]) -> dict[str, Any]:
    from lm_eval.evaluator import evaluate

    asked = {name: task for name, task in tasks.items() if indices[name]}
    return evaluate(
        lm=lm,
        task_dict={"tasks": asked, "groups": {}, "group_map": {}},
        samples=indices,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=spec.prompt_format == "chat",
        fewshot_as_multiturn=spec.prompt_format == "chat",
    )


def _indices(tasks: dict[str, Any], subset: str | None, limit: int | None) -> dict[str, list[int]]:
    """The documents of each task that a spec asks, by their numbers."""
    if subset is None:
        return {name: list(range(len(task.eval_docs)))[:limit] for name, task in tasks.items()}
    wanted = {base: set(ids) for base, ids in catalog.demo_items().items()}
    indices = {}
    for name, task in tasks.items():
        ids = wanted[catalog.tasks()[name].base]
        found = [number for number, doc in enumerate(task.eval_docs) if doc["id"] in ids]
        if len(found) != len(ids):
            raise UsageError(f"{subset} names {len(ids)} items of {name}, {len(found)} are there: reinstall uzbench.")
        indices[name] = found[:limit]
    return indices


def _logged(results: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What lm-eval logged of each task, behind what it logged of an earlier part."""
    found = dict(before)
    for name, rows in results["samples"].items():
        found[name] = {
            "rows": [*(before[name]["rows"] if name in before else ()), *rows],
            "version": str(results["versions"].get(name)),
            "n_shot": int(results["n-shot"].get(name) or 0),
            "n_all": results["n-samples"][name]["original"],
            "higher": {metric: bool(way) for metric, way in results["higher_is_better"].get(name, {}).items()},
        }
    return found


def _records(tasks: dict[str, Any], logged: dict[str, Any]) -> tuple[list[TaskRecord], list[Sample], list[Score]]:
    records, samples, scores = [], [], []
    for name, task in tasks.items():
        if name not in logged:
            continue
        found = logged[name]
        record = task_record(
            name,
            version=found["version"],
            n_shot=found["n_shot"],
            n=len({row["doc_id"] for row in found["rows"]}),
            n_all=found["n_all"],
            metrics=found["higher"],
            output_type=task.OUTPUT_TYPE,
            logged=found["rows"],
        )
        some_samples, some_scores = read_samples(record, found["rows"])
        records.append(record)
        samples += some_samples
        scores += some_scores
    return records, samples, scores


def _short_name(name: str) -> str:
    return Path(name.rstrip("/")).name or name


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Progress is ours to show: libraries speak only of what goes wrong."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    with ExitStack() as stack, warnings.catch_warnings():
        for name in ("lm_eval", "datasets", "transformers", "httpx"):
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


@contextmanager
def _data_faults() -> Iterator[None]:
    try:
        yield
    except HubUnreachableError as error:
        raise NetworkError(_sentence(error)) from error
    except MirrorError as error:
        raise UsageError(_sentence(error)) from error


def _sentence(error: BaseException) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]


def adapter_defaults(adapters: Sequence[str]) -> AdapterDefaults:
    """How adapters want to be asked, from their manifests; plain and unquantized where they don't say.

    Raises UsageError where two adapters want different things, ModelError, RecordError.
    """
    from harness.engine.identity import adapter_manifest, locate_adapter

    manifests = {name: adapter_manifest(locate_adapter(name)) for name in adapters}
    wanted = {
        name: AdapterDefaults(manifest.prompt_format, manifest.quantization)
        for name, manifest in manifests.items()
        if manifest is not None
    }
    if len(set(wanted.values())) > 1:
        listed = "; ".join(f"{name} {each.prompt_format}, {each.quantization}" for name, each in wanted.items())
        raise UsageError(
            f"The adapters were trained differently ({listed}): name --prompt-format and --quantization, "
            "or run them apart."
        )
    return next(iter(wanted.values()), AdapterDefaults())
