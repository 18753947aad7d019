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
    names, subset = select(spec)
    base, targets = _targets(spec, adapters)
    if mirror is not None and not Path(mirror).is_dir():
        raise UsageError(f"--mirror {mirror}: no such directory. Expected DIR/<owner>/<name>/<config>/<split>.jsonl")
    with (
        Store(Path(out) / STORE) as store,
        _quiet_libraries(),
        _data_faults(),
        closing(_model(spec, base, targets, gpus)) as model,
        closing(_progress(targets, progress)) as bar,
    ):
        found = [
            _ask(target, names, subset, model=model, store=store, mirror=mirror, out=Path(out), bar=bar)
            for target in targets
        ]
    if mirror is not None and not mirror_checksums(Path(mirror)):
        log.warning("%s has no %s: its files were taken as they are.", mirror, CHECKSUMS)
    return found


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
        label = f"{_short_name(spec.model)}+{_short_name(name)}"
        targets.append(Target(replace(spec, adapter=name), adapter, label))
    names = [target.model_name for target in targets]
    repeated = sorted(name for name in set(names) if names.count(name) > 1)
    if repeated:
        raise UsageError(f"Two adapters are called {repeated[0]!r}: rename one of the directories.")
    return base, targets


def _model(spec: RunSpec, base: Located | None, targets: Sequence[Target], gpus: str) -> Model:
    try:
        from harness.engine.models import LmEvalModel, LocalModel
    except ImportError as error:
        raise UsageError(f"Asking a model needs {error.name}. Try: pip install 'uzbench[eval]'") from None
    if base is None:
        return LmEvalModel(spec, gpus)
    adapters = {target.model_name: target.adapter for target in targets if target.adapter is not None}
    return LocalModel(spec, base, adapters, gpus)


def _progress(targets: Sequence[Target], shown: bool) -> Progress:
    from harness.engine.stored import Progress

    return Progress(len(targets), shown=shown)


def _ask(
    target: Target,
    names: Sequence[str],
    subset: str | None,
    *,
    model: Model,
    store: Store,
    mirror: Path | None,
    out: Path,
    bar: Progress,
) -> RunDirectory:
    """Asks one model of a load its tasks and writes its run."""
    from harness.engine.identity import model_key
    from harness.engine.stored import Plan, StoredLM

    start, loaded = time.perf_counter(), model.load_seconds
    identity = model.identity(target.spec, target.adapter)
    key = model_key(identity)
    store.remember_model(key, identity)
    tasks = load_tasks(names, target.spec, mirror)
    spec_hash = target.spec.spec_hash
    run_id = f"{slug(target.model_name)}-{digest([spec_hash, key])[:10]}"
    directory = out / run_id
    started = Run(
        run_id=run_id,
        spec=target.spec,
        spec_hash=spec_hash,
        model_key=key,
        model_name=target.model_name,
        created=provenance.now(),
        complete=False,
        subset=subset,
        git_commit=provenance.git_commit(),
        versions=provenance.package_versions(),
        hardware=provenance.hardware(),
    )
    write_json(directory / RUN, started.to_dict())

    plan = Plan.load(directory / PLAN, model.budget)
    lm = StoredLM(
        store=store,
        model_key=key,
        plan=plan,
        planner=model.planner(plan.budget),
        compute=partial(model.compute, target.model_name if target.adapter else None),
        speaker=model.speaker,
        seed=target.spec.seed,
        label=target.model_name,
        progress=bar,
    )
    results = _lm_eval(lm, tasks, target.spec, subset)
    records, samples, scores = _records(tasks, results)
    counts = lm.counts
    log.info(
        "%s: %d requests, %d not asked again, %d asked",
        run_id, counts["distinct"], counts["reused"], counts["asked"],
    )  # fmt: skip
    elapsed, load_seconds = time.perf_counter() - start, model.load_seconds - loaded
    done = replace(
        started,
        complete=True,
        tasks=tuple(records),
        requests=counts,
        timings={"load_s": round(load_seconds, 3), "ask_s": round(elapsed - load_seconds, 3)},
    )
    return write_run(directory, done, samples, scores)


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


def _lm_eval(lm: Any, tasks: dict[str, Any], spec: RunSpec, subset: str | None) -> dict[str, Any]:
    from lm_eval.evaluator import evaluate

    indices = _subset_indices(tasks, subset, spec.limit) if subset else None
    return evaluate(
        lm=lm,
        task_dict={"tasks": tasks, "groups": {}, "group_map": {}},
        limit=None if subset else spec.limit,
        samples=indices,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=spec.prompt_format == "chat",
        fewshot_as_multiturn=spec.prompt_format == "chat",
    )


def _subset_indices(tasks: dict[str, Any], subset: str, limit: int | None) -> dict[str, list[int]]:
    wanted = {base: set(ids) for base, ids in catalog.demo_items().items()}
    indices = {}
    for name, task in tasks.items():
        ids = wanted[catalog.tasks()[name].base]
        found = [number for number, doc in enumerate(task.eval_docs) if doc["id"] in ids]
        if len(found) != len(ids):
            raise UsageError(f"{subset} names {len(ids)} items of {name}, {len(found)} are there: reinstall uzbench.")
        indices[name] = found[:limit]
    return indices


def _records(tasks: dict[str, Any], results: dict[str, Any]) -> tuple[list[TaskRecord], list[Sample], list[Score]]:
    records, samples, scores = [], [], []
    for name, task in tasks.items():
        logged = results["samples"][name]
        higher = {metric: bool(better) for metric, better in results["higher_is_better"].get(name, {}).items()}
        record = task_record(
            name,
            version=str(results["versions"].get(name)),
            n_shot=int(results["n-shot"].get(name) or 0),
            n=len({row["doc_id"] for row in logged}),
            n_all=results["n-samples"][name]["original"],
            metrics=higher,
            output_type=task.OUTPUT_TYPE,
            logged=logged,
        )
        some_samples, some_scores = read_samples(record, logged)
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
