"""The command: parses, calls the rooms, prints. Every room is imported inside the command that needs it.

Exit codes: 0 done, 2 what the user can fix, 3 the environment, 130 Ctrl-C; a bug keeps its traceback (1).
A gate's are 0 pass, 1 regression, 2 inconclusive, 3 everything else, bugs and mistyped options included.
Data go to files and their paths to stdout, one a line; progress and prose go to stderr.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USER, UsageError, UzBenchError

CHURN = 0.2
"""Share of answers that change from one model to a kindred one, where nothing is known yet."""

GATE_CODES = {"pass": 0, "regression": 1, "inconclusive": 2}
EXIT_NO_VERDICT = 3

RESUMED = ("demo", "generate", "run", "judge", "train", "mirror")
"""Commands that go on where they were stopped."""

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"

# typer carries a click of its own and exports only the leaves of its errors.
_CommandLineError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="uzbench",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="""Is the tuned Uzbek checkpoint really better than its base, by how much, and how sure is that?

\b
  uzbench demo
  uzbench run --model gemma-3-270m --tasks uz_core --limit 20
  uzbench compare runs/BASE runs/TUNED
""",
)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
# What the commands that pay for their answers share.
BaseUrl = Annotated[str | None, typer.Option(help="Of a server that speaks OpenAI's protocol. Default: OpenAI's own.")]
MaxUsd = Annotated[float, typer.Option(help="US dollars that are never exceeded.")]
Batch = Annotated[bool, typer.Option("--batch", help="By the Batch API: half the price, within a day.")]
Concurrency = Annotated[int, typer.Option(help="Calls at once, at most.")]
Timeout = Annotated[float, typer.Option(help="Seconds for an answer, before it is asked again.")]
PriceTable = Annotated[Path | None, typer.Option(help="A table in place of harness/prices.yaml.")]
Out = Annotated[Path, typer.Option(help="Where run directories and the store of answers are kept.")]


def run_command(arguments: Sequence[str]) -> int:
    """Runs one command line; returns its exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("harness").setLevel(logging.INFO)
    logging.getLogger("train").setLevel(logging.INFO)
    # lm-eval draws a bar for every task whether or not somebody looks; ours say themselves when they are shown.
    os.environ.setdefault("TQDM_DISABLE", "1")
    if _command(arguments) == "gate":
        return _run_gate(arguments)
    try:
        code = app(args=list(arguments), standalone_mode=False, prog_name="uzbench")
    except UzBenchError as error:
        print(_error_line(error), file=sys.stderr)
        return error.exit_code
    except _CommandLineError as error:
        print(_usage_line(error), file=sys.stderr)
        return EXIT_USER
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (| head): nothing is left to say.
        sys.stderr.close()
        return EXIT_DONE
    if code == EXIT_INTERRUPTED:
        kept = " What was answered is kept; the same command goes on from there."
        print(f"uzbench: stopped.{kept if _command(arguments) in RESUMED else ''}", file=sys.stderr)
    return code if isinstance(code, int) else EXIT_DONE


def _run_gate(arguments: Sequence[str]) -> int:
    """The same for a gate's command line: whatever isn't a verdict exits 3, and says so in the gate's files."""
    code, details = EXIT_NO_VERDICT, ""
    try:
        done = app(args=list(arguments), standalone_mode=False, prog_name="uzbench")
        if done == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        return done if isinstance(done, int) else EXIT_NO_VERDICT
    except UzBenchError as error:
        kind, message, said = type(error).__name__, str(error), _error_line(error)
    except _CommandLineError as error:
        kind, message, said = "UsageError", _usage_line(error), _usage_line(error)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
        kind, message, said = "KeyboardInterrupt", "stopped before a verdict", "uzbench: stopped before a verdict."
    except BaseException as error:
        # A bug, or a library that ends the program: neither may be taken for a verdict.
        kind, message, said = type(error).__name__, str(error), traceback.format_exc()
        details = said
    lines = [said.rstrip(), *_no_verdict(arguments, kind, message, details)]
    with _unread():
        print("\n".join(lines), file=sys.stderr)
    return code


@contextmanager
def _unread() -> Iterator[None]:
    """Lets nobody read what is printed: an exit code stands, also when Python flushes at its end."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _command(arguments: Sequence[str]) -> str | None:
    """Which command a command line names, also one that can't be parsed."""
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _no_verdict(arguments: Sequence[str], kind: str, message: str, details: str) -> list[str]:
    """Says in a gate's files that there is no verdict, so that none of an earlier gate is read; returns what failed."""
    from reports.gate import append_summary, failed_junit, failed_summary, write_junit

    # What can't be parsed has no options yet.
    junit = _option(arguments, "--junit")
    summary = _option(arguments, "--summary") or os.environ.get(SUMMARY_VARIABLE)
    out = _option(arguments, "--out")
    failed = []
    try:
        if out:
            (Path(out) / "gate.json").unlink(missing_ok=True)
    except NotADirectoryError:
        pass
    except OSError as error:
        failed.append(f"uzbench: --out {out}: {error.strerror}.")
    for path, write, text in (
        (junit, write_junit, lambda: failed_junit(kind, message, details)),
        (summary, append_summary, lambda: failed_summary(message)),
    ):
        try:
            if path:
                write(Path(path), text())
        except UzBenchError as error:
            # It may be what there is no verdict for.
            failed += [_error_line(error)] if str(error) != message else []
        except Exception:
            failed.append(traceback.format_exc().rstrip())
    return failed


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option in a command line as it was typed."""
    found = None
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{name}="):
            found = argument.partition("=")[2]
        elif argument == name and place + 1 < len(arguments) and not arguments[place + 1].startswith("-"):
            found = arguments[place + 1]
    return found or None


def _error_line(error: UzBenchError) -> str:
    from reports.format import visible

    # It may hold names from records and data, which are another's.
    return f"uzbench: {visible(str(error))}"


def _usage_line(error: Any) -> str:
    message = error.format_message()
    # No arguments at all: the message is the help page.
    if "\n" in message:
        return str(message)
    where = error.ctx.command_path if error.ctx else "uzbench"
    return f"{where}: {message} See: {where} --help"


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="A few minutes instead of twenty; proves little.")] = False,
    out: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("demo-out"),
    json: Json = False,
) -> None:
    """Train an Uzbek adapter on this machine, offline, and compare it with its base.

    \b
      uzbench demo
      uzbench demo --quick
      uzbench demo --out /tmp/demo
    """
    from harness.demo import run_demo

    result = run_demo(out, quick=quick)
    if json:
        _print_json(result.comparison.to_dict())
    else:
        _print_paths(result.paths)


@app.command()
def tasks(json: Json = False) -> None:
    """What can be asked.

    \b
      uzbench tasks
      uzbench tasks --json
      uzbench run --model gemma-3-270m --tasks uz_topic,uz_qa
    """
    from tasks_uz import catalog
    from tasks_uz.text import ORTHOGRAPHIES

    variants = catalog.tasks().values()
    rows = [
        {
            "task": task.name,
            "suite": task.suite,
            "type": task.type,
            "n": task.n,
            "orthographies": [
                name
                for name in ORTHOGRAPHIES
                if any(other.base == task.name and other.orthography == name for other in variants)
            ],
            "metric": task.primary,
            "chance": task.chance,
            "source": task.source,
            "licence": task.licence,
        }
        for task in catalog.base_tasks()
    ]
    if json:
        _print_json({"tasks": rows})
        return
    header = ["task", "suite", "type", "n", "orthographies", "metric", "chance"]
    lines = [[", ".join(v) if isinstance(v := row[key], list) else str(v) for key in header] for row in rows]
    # Of metrics that are right or wrong: what changes of a graded one nobody knows before.
    found = [
        _detectable(task.n) if task.primary in ("acc", "acc_bytes", "exact_match") else ""
        for task in catalog.base_tasks()
    ]
    _print_columns([[*header, "detectable"], *([*line, each] for line, each in zip(lines, found, strict=True))])
    print(f"groups: {', '.join(sorted(catalog.groups()))}; fixed subset: {catalog.DEMO}", file=sys.stderr)
    print(
        f"detectable: the difference between two models that is found 80 % of the time, where {CHURN:.0%} of right and "
        "wrong answers change and documents stand alone",
        file=sys.stderr,
    )


def _detectable(n: int | None) -> str:
    """Before anything is asked: what difference a task's size would show."""
    from harness.stats import detectable
    from reports.format import plus_minus

    return plus_minus(detectable(CHURN**0.5, n)) if n else ""


@app.command()
def run(
    model: Annotated[str, typer.Option(help="Hub id, directory, or a packaged model (gemma-3-270m).")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="LoRA adapter: hub id or directory; repeatable. The base is asked too."),
    ] = None,
    tasks: Annotated[str, typer.Option(help="Tasks and groups, by comma. All: uzbench tasks")] = "uz_core",
    orthography: Annotated[str, typer.Option(help="latin, cyrillic, latin2026, by comma, or all.")] = "latin",
    prompts: Annotated[str, typer.Option(help="default, or all the prompts of a task.")] = "default",
    prompt_format: Annotated[
        str | None,
        typer.Option(help="plain, alpaca or chat. Default: what the adapter was trained in, else plain."),
    ] = None,
    chat_template: Annotated[bool, typer.Option("--chat-template", help="The same as --prompt-format chat.")] = False,
    shots: Annotated[
        int | None, typer.Option(help="Worked examples before each question. Default: the task's.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Documents a task, for trying; the run says so.")] = None,
    seed: Annotated[int, typer.Option(help="Of sampling, where --gen-kwargs ask for it.")] = 1234,
    gen_kwargs: Annotated[str, typer.Option(help="Generation settings, K=V by comma.")] = "",
    backend: Annotated[
        str,
        typer.Option(help="engine (each token once), hf (lm-eval's own), vllm, sglang, or a server: api, gguf."),
    ] = "engine",
    base_url: Annotated[
        str | None, typer.Option(help="Of a server that speaks OpenAI's protocol, for api and gguf.")
    ] = None,
    quantization: Annotated[
        str | None, typer.Option(help="none, int8, nf4 or fp8. Default: as the adapter was trained, else none.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16. auto: float32 on a CPU.")] = "auto",
    gpus: Annotated[
        str, typer.Option(help="GPUs to share the work, each with a copy of the model: a number, or all.")
    ] = "1",
    revision: Annotated[str | None, typer.Option(help="Hub branch, tag or commit of the model.")] = None,
    mirror: Annotated[Path | None, typer.Option(help="Hub data sets on this disk. Default: $UZBENCH_MIRROR.")] = None,
    out: Out = Path("runs"),
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the model's repository carries.")
    ] = False,
    json: Json = False,
) -> None:
    """Ask a model, and adapters of it, the tasks; a run that was killed goes on where it was.

    \b
      uzbench run --model gemma-3-270m --limit 20
      uzbench run --model gemma-3-270m --adapter demo-out/adapter --tasks uz_demo --orthography all
      uzbench run --model gemma-3-270m --tasks uz_sib200 --mirror MIRROR
    """
    from harness.evaluate import adapter_defaults
    from harness.evaluate import run as ask
    from harness.records import RunSpec
    from reports.format import for_terminal
    from reports.tables import run_tables

    if chat_template and prompt_format not in (None, "chat"):
        raise UsageError(f"--chat-template and --prompt-format {prompt_format} contradict each other.")
    adapters = adapter or []
    defaults = adapter_defaults(adapters if backend in ("engine", "hf") else ())
    spec = RunSpec(
        model=model,
        revision=revision,
        quantization=quantization or defaults.quantization,
        dtype=dtype,
        backend=backend,
        tasks=_by_comma(tasks),
        n_shot=shots,
        limit=limit,
        seed=seed,
        gen_kwargs=_pairs(gen_kwargs),
        prompt_format="chat" if chat_template else prompt_format or defaults.prompt_format,
        orthographies=_by_comma(orthography),
        prompts=prompts,
        trust_remote_code=trust_remote_code,
        base_url=base_url,
    )
    found = ask(spec, adapters=adapters, out=out, mirror=mirror, gpus=gpus, progress=sys.stderr.isatty())
    if json:
        _print_json(
            {
                "runs": [
                    {
                        "directory": str(each.path),
                        **each.run.to_dict(),
                        "metrics": [metric.to_dict() for metric in each.metrics],
                    }
                    for each in found
                ]
            }
        )
    else:
        for each in found:
            print(for_terminal(run_tables(each)), file=sys.stderr)
        _print_paths([each.path for each in found])


@app.command()
def runs(directory: Annotated[Path, typer.Argument(help="Where to look.")] = Path("runs"), json: Json = False) -> None:
    """What has been run: model, tasks, date, limited, complete.

    \b
      uzbench runs
      uzbench runs demo-out/runs
      uzbench runs --json
    """
    from harness.runs import find_runs

    if not directory.is_dir():
        raise UsageError(f"{directory}: no such directory. Runs are made by: uzbench run --model MODEL")
    found = find_runs(directory)
    if json:
        _print_json({"runs": [{"directory": str(each.path), **each.run.to_dict()} for each in found]})
        return
    header = ["directory", "model", "tasks", "format", "date", "limited", "complete"]
    lines = [
        [
            str(each.path),
            each.run.model_name,
            ",".join(each.run.spec.tasks),
            each.run.spec.prompt_format,
            each.run.created,
            "limited" if each.run.limited else "",
            "" if each.run.complete else "cut off",
        ]
        for each in found
    ]
    _print_columns([header, *lines])


@app.command(name="import")
def import_(
    directory: Annotated[Path, typer.Argument(help="What `lm_eval --output_path` wrote.")],
    model: Annotated[str | None, typer.Option(help="What to call the model.")] = None,
    out: Out = Path("runs"),
    json: Json = False,
) -> None:
    """Take what stock lm-eval wrote (results_*.json, samples_*.jsonl) as runs.

    \b
      lm_eval run --include_path tasks_uz --tasks uz_topic --model hf --output_path D --log_samples
      uzbench import D
      uzbench import D --model my-model --out runs
    """
    from harness.imports import import_runs

    found = import_runs(directory, model=model, out=out)
    if json:
        _print_json({"runs": [{"directory": str(each.path), **each.run.to_dict()} for each in found]})
    else:
        _print_paths([each.path for each in found])


@app.command()
def judge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One run: grades. Several: pair by pair.")],
    rubric: Annotated[
        str, typer.Option(help="auto (the one of each task), summary, qa, open, pairwise, or a file (*.md).")
    ] = "auto",
    language: Annotated[str, typer.Option(help="Of the rubrics that ship: en or uz.")] = "en",
    judge: Annotated[str, typer.Option(help="The model that judges; best pinned to a date.")] = "gpt-4o",
    base_url: BaseUrl = None,
    max_usd: MaxUsd = 5.0,
    batch: Batch = False,
    calibrate: Annotated[
        Path | None, typer.Option(help="Human labels (JSONL: question, answer, label) to hold the judge against.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write answers of the run there, to be labelled by people; ask nobody.")
    ] = None,
    probes: Annotated[bool, typer.Option(help="Planted answers, to know the judge.")] = True,
    limit: Annotated[int | None, typer.Option(help="Answers a task, for trying; the others stay unscored.")] = None,
    concurrency: Concurrency = 32,
    timeout: Timeout = 120.0,
    prices: PriceTable = None,
    out: Annotated[
        Path | None, typer.Option(help="Of several runs: where the verdicts go. Default: beside the runs.")
    ] = None,
    json: Json = False,
) -> None:
    """Have a strong model judge written answers, never for more than --max-usd, and say how far it can be believed.

    \b
      uzbench judge runs/RUN --max-usd 2
      uzbench judge runs/BASE runs/TUNED --judge gpt-4o-2024-08-06 --batch
      uzbench judge runs/RUN --judge MODEL --base-url http://localhost:8000/v1 --calibrate labels.jsonl
    """
    from harness.files import write_text
    from harness.judge.asking import Settings
    from harness.judge.pairwise import judge_pairs
    from harness.judge.pointwise import judge_runs, write_sheet
    from harness.runs import open_run
    from reports.format import MARKDOWN, for_terminal
    from reports.judge import judgings_text, tournament_text

    found = [open_run(path) for path in runs]
    settings = Settings(
        judge=judge,
        base_url=base_url,
        rubric=rubric,
        language=language,
        max_usd=max_usd,
        batch=batch,
        probes=probes,
        calibrate=calibrate,
        limit=limit,
        concurrency=concurrency,
        timeout_s=timeout,
        prices=prices,
    )
    progress = sys.stderr.isatty()
    if sheet:
        _print_paths([write_sheet(found[0], settings, sheet)])
        return
    if len(found) > 1 and (rubric == "auto" or _is_pairwise(settings)):
        if calibrate:
            raise UsageError("--calibrate holds grades against labels: name one run, or a rubric for answers alone.")
        folder, tournament = judge_pairs(found, settings, out=out, progress=progress)
        text = tournament_text(tournament, MARKDOWN)
        write_text(folder / "pairwise.md", text)
        print(for_terminal(text), file=sys.stderr)
        if json:
            _print_json({"directory": str(folder), **tournament.to_dict()})
        else:
            _print_paths([folder])
        return
    documents: list[dict[str, Any]] = []
    for run, judgings in judge_runs(found, settings, progress=progress):
        text = judgings_text(judgings, MARKDOWN)
        write_text(run.path / "judge.md", text)
        print(for_terminal(text), file=sys.stderr)
        documents.append({"directory": str(run.path), "judgings": [each.to_dict() for each in judgings]})
    if json:
        _print_json({"runs": documents})
    else:
        _print_paths([Path(document["directory"]) for document in documents])


def _is_pairwise(settings: Any) -> bool:
    from harness.judge.rubrics import named

    return named(settings.rubric, settings.language).kind == "pairwise"


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(help="Run directory of the base.")],
    candidates: Annotated[list[Path], typer.Argument(metavar="CAND...", help="Run directories to hold against it.")],
    margin: Annotated[float, typer.Option(help="Differences inside ± this fraction count as the same.")] = 0.03,
    out: Annotated[
        Path | None, typer.Option(help="Where the report goes. Default: inside the candidate's directory.")
    ] = None,
    json: Json = False,
) -> None:
    """Say whether a run is better than its base, by how much, and how sure that is; of several runs, the curve too.

    \b
      uzbench compare runs/BASE runs/TUNED
      uzbench compare runs/BASE runs/TUNED --margin 0.02 --out report
      uzbench compare runs/BASE runs/TUNED --json
    """
    from harness.comparison import compare as compare_runs
    from harness.files import write_json
    from harness.runs import open_run
    from harness.series import series as in_a_row
    from reports.format import for_terminal, visible
    from reports.html import write_page
    from reports.markdown import headline_table, render_series, write_report, write_series

    base_run, cand_runs = open_run(base), [open_run(candidate) for candidate in candidates]
    done = [compare_runs(base_run, cand_run, margin=margin) for cand_run in cand_runs]
    several = in_a_row([base_run, *cand_runs], done) if len(done) > 1 else None
    paths = []
    for cand_run, comparison in zip(cand_runs, done, strict=True):
        if not json:
            for note in comparison.notes:
                # A note holds names of tasks, which are another's.
                print(visible(note), file=sys.stderr)
            print(for_terminal(headline_table(comparison)), file=sys.stderr)
        if json and out is None:
            continue
        folder = out or cand_run.path / f"against-{base_run.run.run_id}"
        if out is not None and several:
            folder = out / cand_run.run.run_id
        paths.append(write_json(folder / "comparison.json", comparison.to_dict()))
        paths.append(write_report(comparison, base_run, cand_run, folder / "report.md"))
        paths.append(write_page(comparison, base_run, cand_run, folder / "report.html", several))
    if several and (out is not None or not json):
        folder = out or cand_runs[-1].path / f"from-{base_run.run.run_id}"
        paths += [write_json(folder / "series.json", several.to_dict()), write_series(several, folder / "series.md")]
    if several and not json:
        print(for_terminal(render_series(several)), file=sys.stderr)
    if json:
        document = done[0].to_dict()
        if several:
            document = {"comparisons": [each.to_dict() for each in done], "series": several.to_dict()}
        _print_json(document)
    else:
        _print_paths(paths)


@app.command()
def gate(
    base: Annotated[Path, typer.Argument(help="Run directory of the base.")],
    cand: Annotated[
        Path | None,
        typer.Argument(help="Run directory to hold against it. Without one: --sequential, and whom to ask."),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="YAML of margin, limits and golden items. Default: the README's.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML to write: one case a check.")] = None,
    summary: Annotated[
        Path | None, typer.Option(help=f"Markdown file to add the verdict to. Default: ${SUMMARY_VARIABLE}, if set.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where gate.json goes. Default: nowhere.")] = None,
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential", help="Look on the way, and stop as soon as the verdict stands at the same errors."
        ),
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="With --sequential: the candidate to ask. Default: the base's own model.")
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="With --sequential: LoRA adapter of it.")] = None,
    quantization: Annotated[str | None, typer.Option(help="Of a candidate to ask. Default: the base's.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a candidate to ask: hub branch, tag or commit.")] = None,
    gpus: Annotated[str, typer.Option(help="For a candidate to ask: a number, or all.")] = "1",
    mirror: Annotated[Path | None, typer.Option(help="Hub data sets on this disk. Default: $UZBENCH_MIRROR.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the order of a sequential gate. Default: always the same.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where the run of a candidate to ask is kept, with the answers.")] = Path(
        "runs"
    ),
    json: Json = False,
) -> None:
    """Decide whether a run may take its base's place. Exit 0 pass, 1 regression, 2 inconclusive, 3 everything else.

    \b
      uzbench gate runs/BASE runs/TUNED
      uzbench gate runs/BASE runs/TUNED --policy gate.yaml --junit gate.xml --summary gate.md
      uzbench gate runs/BASE --sequential --adapter adapters/mine
    """
    from harness.files import write_json
    from harness.gate import DEFAULT
    from harness.gate import gate as decide
    from harness.policy import read_policy
    from harness.runs import open_run
    from harness.sequential import SEED, asked_live, candidate_spec, replayed
    from reports import gate as report
    from reports.format import for_terminal

    rules = DEFAULT if policy is None else read_policy(policy)
    order = SEED if seed is None else seed
    to_ask = model is not None or adapter is not None
    idle = [
        option
        for option, given in (
            ("--quantization", quantization is not None),
            ("--revision", revision is not None),
            ("--gpus", gpus != "1"),
            ("--mirror", mirror is not None),
        )
        if given and not to_ask
    ]
    if idle:
        raise UsageError(f"{idle[0]} is for a candidate to ask: --sequential --model MODEL, or --adapter ADAPTER.")
    if seed is not None and not sequential:
        raise UsageError("--seed is of the order of a sequential gate: add --sequential.")
    if cand is not None and to_ask:
        raise UsageError(f"Either a run ({cand}) or a model to ask (--model, --adapter) is held against the base.")
    if to_ask and not sequential:
        raise UsageError("--model and --adapter are asked on the way: add --sequential. Or: uzbench gate BASE CAND")
    paths = []
    if cand is not None:
        result = replayed(base, cand, rules, seed=order) if sequential else decide(base, cand, rules)
    elif to_ask:
        spec = candidate_spec(open_run(base), model, quantization=quantization, revision=revision)
        result, asked = asked_live(
            base,
            spec,
            rules,
            adapter=adapter,
            seed=order,
            out=runs,
            mirror=mirror,
            gpus=gpus,
            progress=sys.stderr.isatty(),
        )
        paths.append(asked.path)
    else:
        raise UsageError(
            "No candidate is named. Try: uzbench gate BASE CAND, or uzbench gate BASE --sequential --model MODEL"
        )
    if out is not None:
        with report.writing("--out", out):
            paths.append(write_json(out / "gate.json", result.to_dict()))
    if junit is not None:
        paths.append(report.write_junit(junit, report.junit(result)))
    if summary is None and os.environ.get(SUMMARY_VARIABLE):
        summary = Path(os.environ[SUMMARY_VARIABLE])
    if summary is not None:
        paths.append(report.append_summary(summary, report.summary(result)))
    with _unread():
        print(for_terminal(report.for_reader(result)), file=sys.stderr)
    with _unread():
        if json:
            _print_json(result.to_dict())
        else:
            _print_paths(paths)
    raise typer.Exit(GATE_CODES[result.verdict])


@app.command()
def leaderboard(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories of the same tasks.")],
    out: Annotated[Path | None, typer.Option(help="Where it goes. Default: leaderboard.")] = None,
    allow_limited: Annotated[
        bool, typer.Option("--allow-limited", help="Rank runs that asked a part of the documents; it says so.")
    ] = False,
    json: Json = False,
) -> None:
    """Rank models on the same documents, every score and every rank with its interval.

    \b
      uzbench leaderboard runs/*/
      uzbench leaderboard runs/BASE runs/TUNED --out leaderboard
      uzbench leaderboard runs/BASE runs/TUNED --json
    """
    from harness.leaderboard import leaderboard as rank
    from reports.format import for_terminal, visible
    from reports.leaderboard import headline, write_leaderboard

    board = rank(runs, allow_limited=allow_limited)
    paths = [] if json and out is None else write_leaderboard(board, out or Path("leaderboard"))
    if json:
        _print_json(board.to_dict())
        return
    for note in board.notes:
        # A note holds names of models.
        print(visible(note), file=sys.stderr)
    print(for_terminal(headline(board)), file=sys.stderr)
    _print_paths(paths)


@app.command()
def generate(
    out: Annotated[Path, typer.Option(help="Directory of the run; the same one goes on where it was.")],
    n: Annotated[int, typer.Option("--n", help="Rows to keep.")] = 23_000,
    model: Annotated[str, typer.Option(help="The model that writes; best pinned to a date.")] = "gpt-4o",
    base_url: BaseUrl = None,
    max_usd: MaxUsd = 10.0,
    batch: Batch = False,
    quality: Annotated[
        bool, typer.Option("--quality", help="Have the model grade each row, and keep good ones.")
    ] = False,
    settings: Annotated[
        Path | None, typer.Option(help="Prompts, shares and thresholds. Default: train/selfinstruct/settings.yaml.")
    ] = None,
    seeds: Annotated[Path | None, typer.Option(help="Seed tasks, JSONL. Default: the 175 that ship.")] = None,
    concurrency: Concurrency = 32,
    timeout: Timeout = 300.0,
    prices: PriceTable = None,
    mirror: Annotated[
        Path | None, typer.Option(help="Hub data sets to hold rows against. Default: $UZBENCH_MIRROR.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn by chance.")] = 1,
    json: Json = False,
) -> None:
    """Have a strong model write Uzbek instructions, filtered and balanced, never for more than --max-usd.

    \b
      uzbench generate --out rows --n 500 --max-usd 2
      uzbench generate --out rows --n 23000 --max-usd 60 --batch
      uzbench train train/recipes/mistral_uz_fast_nf4.yaml data=rows/train.jsonl out=adapters/mine
    """
    from harness.errors import UzBenchError
    from harness.files import read_json, read_jsonl
    from reports.dataset import headline, write_dataset
    from reports.format import for_terminal
    from train import Choices
    from train import generate as write_rows

    choices = Choices(
        out=out,
        n=n,
        model=model,
        base_url=base_url,
        max_usd=max_usd,
        batch=batch,
        quality=quality,
        settings=settings,
        seeds=seeds,
        concurrency=concurrency,
        timeout_s=timeout,
        prices=prices,
        mirror=mirror,
        seed=seed,
    )

    def finished() -> list[Path]:
        made = read_json(out / "generated.json")
        rows = [row for _, row in read_jsonl(out / "train.jsonl")]
        print(for_terminal(headline(made)), file=sys.stderr)
        parts = [path for path in (out / "train.jsonl", out / "validation.jsonl") if path.is_file()]
        return [*parts, *write_dataset(made, rows, out)]

    try:
        made = write_rows(choices, progress=sys.stderr.isatty())
    except (UzBenchError, KeyboardInterrupt):
        # What was kept until then is a set too.
        if (out / "generated.json").is_file():
            finished()
        raise
    paths = finished()
    if json:
        _print_json(made.to_dict())
    else:
        _print_paths(paths)


@app.command(name="check-data")
def check_data(
    file: Annotated[Path, typer.Argument(help="JSONL of instruction, input and output.")],
    model: Annotated[
        str | None, typer.Option(help="Whose tokenizer counts lengths: directory, packaged model or hub id.")
    ] = None,
    max_length: Annotated[int, typer.Option(help="Tokens a row may have; with --model.")] = 1024,
    prompt_format: Annotated[str, typer.Option(help="How rows are written out: alpaca or plain.")] = "alpaca",
    allow: Annotated[
        list[str] | None, typer.Option(metavar="TASK", help="Task whose items may stand in rows; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write the report to. Default: nowhere.")] = None,
    json: Json = False,
) -> None:
    """Say what training would stumble over: faults, doubles, refusals, lengths, eval items. Exit 2 where it refuses.

    \b
      uzbench check-data train/data/starter_uz.jsonl
      uzbench check-data train/data/starter_uz.jsonl --model gemma-3-270m --max-length 512
      uzbench check-data train/data/starter_uz.jsonl --allow uz_qa --json
    """
    from harness.files import write_json
    from reports.data import render_check
    from reports.format import for_terminal
    from train import check_data as check
    from train.recipe import PROMPT_FORMATS

    if prompt_format not in PROMPT_FORMATS:
        raise UsageError(f"--prompt-format {prompt_format}: expected one of {', '.join(PROMPT_FORMATS)}.")
    tokenizer = None
    if model is not None:
        from train.check import load_tokenizer

        tokenizer = load_tokenizer(model)
    report = check(
        file,
        tokenizer=tokenizer,
        prompt_format=prompt_format,
        max_length=max_length,
        allow=allow or (),
        progress=sys.stderr.isatty(),
    )
    document = report.to_dict()
    paths = [write_json(out, document)] if out is not None else []
    print(for_terminal(render_check(document)), file=sys.stderr)
    if json:
        _print_json(document)
    else:
        _print_paths(paths)
    if report.errors:
        raise typer.Exit(EXIT_USER)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML, such as train/recipes/demo_cpu.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Instead of the recipe's.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it will take, memory, time and disk, and train nothing.")
    ] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="REPO", help="Hub repository to upload to; private where it is new.")
    ] = None,
    json: Json = False,
) -> None:
    """Train a LoRA adapter on instruction, input, output rows; a run that was killed goes on where it was.

    \b
      uzbench train train/recipes/demo_cpu.yaml
      uzbench train train/recipes/mistral_uz_fast_nf4.yaml data=rows.jsonl out=adapters/mine --dry-run
      uzbench run --model gemma-3-270m --adapter adapters/mine
    """
    from train.recipe import read_recipe
    from train.trackers import check_trackers

    wanted = read_recipe(recipe, overrides or [])
    check_trackers(wanted.trackers)
    if push_to_hub:
        from train.publish import check_repo

        check_repo(push_to_hub)
    # Only now: torch takes ten seconds to say that a file is missing.
    if dry_run:
        from reports.estimate import render_estimate
        from reports.format import for_terminal
        from train.estimate import estimate

        found = estimate(wanted, progress=sys.stderr.isatty()).to_dict()
        print(for_terminal(render_estimate(found)), file=sys.stderr)
        if json:
            _print_json(found)
        return
    from train.live import live_folder
    from train.qlora import train as train_adapter

    last: dict[str, Any] = {}

    def report(runs: Sequence[Any], comparisons: Sequence[Any], best: int, folder: Path) -> None:
        from reports.card import Evaluation

        _write_curve(runs, comparisons, best, folder)
        last["evaluation"] = Evaluation(comparisons[best], runs[0], runs[best + 1])

    result = train_adapter(wanted, progress=sys.stderr.isatty(), report=report)
    if os.environ.get("RANK", "0") != "0":  # of several processes, the first one speaks
        return
    from reports.card import Published, write_card

    usd = result.manifest.seconds / 3600 * wanted.usd_per_hour or None
    card = write_card(result.manifest, result.adapter, last.get("evaluation"), Published(usd=usd))
    page = live_folder(wanted) / "report.html"
    paths = [result.adapter, card, *([page] if wanted.eval_steps and page.is_file() else [])]
    address = None
    if push_to_hub:
        from reports.format import visible
        from train.publish import push

        address = push(result.adapter, push_to_hub)
        print(f"Pushed to {visible(address)}", file=sys.stderr)
    if json:
        _print_json({"adapter": str(result.adapter), "address": address, "manifest": result.manifest.to_dict()})
    else:
        _print_paths(paths)


@app.command()
def merge(
    adapter: Annotated[str, typer.Argument(help="LoRA adapter: directory or hub id.")],
    out: Annotated[Path, typer.Option(help="Directory that the full weights take, whole or not at all.")],
    model: Annotated[
        str | None, typer.Option(help="The base, where it lies elsewhere. Default: the one that the adapter names.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the weights: auto (the base's own), float32, bfloat16.")] = "auto",
    gguf: Annotated[bool, typer.Option("--gguf", help="A 16-bit GGUF file too; needs llama.cpp's converter.")] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="REPO", help="Hub repository to upload to; private where it is new.")
    ] = None,
    json: Json = False,
) -> None:
    """Write an adapter and its base, quantized as it was trained on, as full weights, checked against the adapter.

    \b
      uzbench merge demo-out/adapter --out merged
      uzbench merge demo-out/adapter --out merged-bf16 --dtype bfloat16
      uzbench run --model merged --prompt-format alpaca --limit 20
    """
    from harness.engine.identity import locate_adapter
    from reports.card import merged_sentence
    from reports.format import for_terminal, visible

    # What is missing is told before torch is loaded, and before the work.
    locate_adapter(adapter)
    if gguf:
        from train.gguf import converter

        converter()
    if push_to_hub:
        from train.publish import check_repo

        check_repo(push_to_hub)
    from train.merging import merge as merge_adapter

    done = merge_adapter(adapter, out, model=model, dtype=dtype, progress=sys.stderr.isatty())
    paths = [done.directory]
    for note in done.merged.notes:
        print(note, file=sys.stderr)
    print(for_terminal(merged_sentence(done.merged)), file=sys.stderr)
    if gguf:
        from train.gguf import to_gguf

        paths.append(to_gguf(out, done.merged.dtype))
    address = None
    if push_to_hub:
        from train.publish import push

        address = push(out, push_to_hub)
        print(f"Pushed to {visible(address)}", file=sys.stderr)
    if json:
        _print_json({"files": [str(path) for path in paths], "address": address, "merged": done.merged.to_dict()})
    else:
        _print_paths(paths)


@app.command()
def card(
    directory: Annotated[Path, typer.Argument(help="An adapter, or what uzbench merge wrote.")],
    base: Annotated[Path | None, typer.Argument(help="Run directory of its base.")] = None,
    cand: Annotated[Path | None, typer.Argument(help="Run directory of itself.")] = None,
    samples: Annotated[int, typer.Option(help="Items whose answers are shown, where runs are given.")] = 5,
    licence: Annotated[str, typer.Option(help="The hub's name of its licence, such as apache-2.0.")] = "other",
    base_model: Annotated[
        str | None, typer.Option(help="Hub id of its base, where the manifest names a directory.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Hub id of what it was trained on.")] = None,
    usd: Annotated[float | None, typer.Option(help="What training cost, in US dollars.")] = None,
    json: Json = False,
) -> None:
    """Write the model card of an adapter or of full weights, README.md, with its results where two runs are given.

    \b
      uzbench card demo-out/adapter
      uzbench card demo-out/adapter runs/BASE runs/TUNED --licence gemma --base-model google/gemma-3-270m
      uzbench card merged runs/BASE runs/TUNED --samples 10
    """
    from harness.comparison import compare as compare_runs
    from harness.manifest import read_manifest, read_merged
    from harness.runs import open_run
    from reports.card import Evaluation, Published, write_card

    if (base is None) != (cand is None):
        raise UsageError(f"A card takes two runs, its base's and its own. Try: uzbench card {directory} RUN_BASE RUN")
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such directory. Adapters are made by: uzbench train RECIPE.yaml")
    made = read_merged(directory) or read_manifest(directory)
    if made is None:
        raise UsageError(f"{directory} has no manifest of ours, which a card is written from: train or merge it here.")
    evaluation = None
    if base is not None and cand is not None:
        runs = open_run(base), open_run(cand)
        evaluation = Evaluation(compare_runs(*runs), *runs, samples=samples)
    path = write_card(made, directory, evaluation, Published(licence, base_model, dataset, usd))
    if json:
        _print_json({"files": [str(path)]})
    else:
        _print_paths([path])


@app.command()
def chat(
    model: Annotated[str, typer.Option(help="Hub id, directory, or a packaged model (gemma-3-270m).")],
    prompt: Annotated[
        str | None, typer.Argument(help="What to ask; else what is piped in; else a conversation.")
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="LoRA adapter: hub id or directory.")] = None,
    quantization: Annotated[
        str | None, typer.Option(help="none, int8, nf4 or fp8. Default: as the adapter was trained, else none.")
    ] = None,
    prompt_format: Annotated[
        str | None,
        typer.Option(
            help="plain, alpaca or chat. Default: what it was trained in, else chat if the model has a template, "
            "else plain."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens that an answer may have.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest word, 1 draws as the model has it.")] = 0.0,
    json: Json = False,
) -> None:
    """Talk to a model or an adapter: one answer, or a conversation (/clear forgets, /exit ends).

    \b
      uzbench chat --model gemma-3-270m --adapter demo-out/adapter "Oʻzbekiston poytaxti qaysi shahar?"
      echo "Salom!" | uzbench chat --model SmolLM2-135M-Instruct --json
      uzbench chat --model SmolLM2-135M-Instruct
    """
    from harness.evaluate import adapter_defaults
    from harness.records import RunSpec

    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is not None and not prompt.strip():
        raise UsageError('Nothing is asked. Try: uzbench chat --model MODEL "Salom!"')
    if prompt is None and json:
        raise UsageError("--json is of one answer. Name what to ask, or pipe it in.")
    spec = RunSpec(
        model=model,
        adapter=adapter,
        quantization=quantization or adapter_defaults([adapter] if adapter else []).quantization,
        prompt_format=prompt_format or "plain",
    )
    from harness.chat import Conversation, converse, tell

    talk = Conversation(spec, prompt_format, max_new_tokens=max_new_tokens, temperature=temperature)
    if prompt is None:
        converse(talk)
    elif json:
        answer = talk.ask(prompt.strip())
        _print_json(
            {
                "model": model,
                "adapter": adapter,
                "quantization": spec.quantization,
                "prompt_format": talk.prompt_format,
                "prompt": prompt.strip(),
                "answer": answer.text,
                "tokens": answer.n_tokens,
                "ended": answer.ended,
            }
        )
    else:
        talk.ask(prompt.strip(), tell)
        print()


@app.command()
def mirror(
    out: Annotated[Path, typer.Option(help="Directory of the mirror; what is there and whole isn't fetched again.")],
    tasks: Annotated[str, typer.Option(help="Hub tasks and groups, by comma.")] = "uz_hub",
    json: Json = False,
) -> None:
    """Copy hub data sets, with checksums, for machines that have no network.

    \b
      uzbench mirror --out mirror
      uzbench mirror --out mirror --tasks uz_sib200,uz_belebele
      uzbench run --model gemma-3-270m --tasks uz_hub --mirror mirror
    """
    from harness.mirror import fill

    paths = fill(out, _by_comma(tasks))
    if json:
        _print_json({"files": [str(path) for path in paths]})
    else:
        _print_paths(paths)


def _write_curve(runs: Sequence[Any], comparisons: Sequence[Any], best: int, folder: Path) -> None:
    """What `compare` writes, of evaluations while training: the best against the base, the first of the runs, and the
    curve of all."""
    from harness.files import write_json
    from harness.series import series
    from reports.html import write_page
    from reports.markdown import write_report, write_series

    base, cand, comparison, several = runs[0], runs[best + 1], comparisons[best], series(runs, comparisons)
    write_json(folder / "comparison.json", comparison.to_dict())
    write_report(comparison, base, cand, folder / "report.md")
    write_page(comparison, base, cand, folder / "report.html", several)
    write_json(folder / "series.json", several.to_dict())
    write_series(several, folder / "series.md")


def _by_comma(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _pairs(text: str) -> dict[str, Any]:
    """K=V by comma, values as YAML reads them: numbers, true, false, text."""
    import yaml

    pairs = {}
    for part in _by_comma(text):
        key, mark, value = part.partition("=")
        if not mark or not key:
            raise UsageError(f"--gen-kwargs {part!r}: expected K=V, such as temperature=0.7.")
        try:
            pairs[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"--gen-kwargs {part!r}: not a YAML value, such as temperature=0.7.") from None
    return pairs


def _print_paths(paths: Sequence[Path]) -> None:
    for path in paths:
        print(path)


def _print_json(document: dict[str, Any]) -> None:
    from harness.files import SCHEMA, dumps

    print(dumps({"schema": SCHEMA, **document}, indent=2))


def _print_columns(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
