"""Writes what follows from the tasks themselves: python -m tasks_uz.make

- the YAML of every variant of an embedded task: alphabets, forms, prompts
- the groups
- the README of each task, and tasks_uz/README.md

Whoever adds a task writes its folder (NAME.yaml, utils.py, items.jsonl, shots.jsonl) and runs this. The tests hold what
stands there against this script's output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from tasks_uz import baselines, catalog
from tasks_uz.ask import PROMPTS
from tasks_uz.catalog import TaskInfo
from tasks_uz.data import ROOT, read_items, transliterate
from tasks_uz.text import ORTHOGRAPHIES, TASK_SUFFIX

GROUPS = {"latin": "uz_core", "cyrillic": "uz_core_cyrl", "latin2026": "uz_core_2026"}

ORDER = ("uz_topic", "uz_sentiment", "uz_reading", "uz_lang", "uz_qa", "uz_summ", "uz_headline")
"""Tasks of uz_core that come first in its groups and tables; others follow by name."""

SHORTCUT = 0.10
"""What a way of answering without reading may be above chance before its README says so in bold."""


def outputs() -> dict[Path, str]:
    """Every file that is written, with its text."""
    found = dict(_variants())
    found |= dict(_groups())
    # What follows reads the variants that are there.
    measured = baselines.measured()
    for task in catalog.base_tasks():
        found[task.path.parent / "README.md"] = page(task, measured.get(task.name, {}))
    found[ROOT / "README.md"] = index(measured)
    return found


# Variants and groups.


def _bases() -> list[tuple[Path, dict[str, Any]]]:
    """The YAML of each base task, in the order of the suite."""
    found = []
    for path in ROOT.glob("*/*.yaml"):
        config = catalog.read_yaml(path)
        if "base" not in config:
            found.append((path, config))
    places = {name: place for place, name in enumerate(ORDER)}
    return sorted(found, key=lambda each: (places.get(each[1]["task"], len(places)), each[1]["task"]))


def _variants() -> Iterator[tuple[Path, str]]:
    for path, config in _bases():
        metadata = config["metadata"]
        alphabets = ORTHOGRAPHIES if metadata["suite"] == "uz_core" else metadata.get("orthographies", ["latin"])
        for orthography in alphabets:
            for form in (metadata["form"], *metadata["forms"]):
                for prompt in PROMPTS[: metadata["prompts"]]:
                    parts = [form] * (form != metadata["form"]) + [prompt] * (prompt != "p1")
                    name = "_".join([f"{config['task']}{TASK_SUFFIX[orthography]}", *parts])
                    if name != config["task"]:
                        yield path.with_name(f"{name}.yaml"), _variant(config, name, orthography, form, prompt)


def _variant(config: dict[str, Any], name: str, orthography: str, form: str, prompt: str) -> str:
    lines = [
        f"include: {config['task']}.yaml",
        f"task: {name}",
        "metadata:",
        f"  version: {config['metadata']['version']}",
        f"  orthography: {orthography}",
        f"  form: {form}",
        f"  prompt: {prompt}",
    ]
    if form == "cloze":
        # A long choice is less likely than a short one, whatever they say.
        lines.append("  primary: acc_bytes")
    return "\n".join(lines) + "\n"


def _groups() -> Iterator[tuple[Path, str]]:
    names = {"uz_core": [], "uz_hub": [], "uz_judged": []}  # type: dict[str, list[str]]
    for _, config in _bases():
        names.setdefault(config["metadata"]["suite"], []).append(config["task"])
    for orthography, group in GROUPS.items():
        yield _group(group, [f"{name}{TASK_SUFFIX[orthography]}" for name in names["uz_core"]])
    yield _group("uz_core_all", list(GROUPS.values()))
    yield _group("uz_hub", names["uz_hub"])
    yield _group("uz_judged", names["uz_judged"])


def _group(name: str, members: list[str]) -> tuple[Path, str]:
    lines = "".join(f"  - {member}\n" for member in members)
    return ROOT / f"{name}.yaml", f"group: {name}\ntask:\n{lines}metadata:\n  version: 2.0\n"


# Pages.


def page(task: TaskInfo, measured: dict[str, float]) -> str:
    """The README of one base task."""
    utils = import_module(f"tasks_uz.{task.path.parent.name}.utils")
    variants = [other for other in catalog.tasks().values() if other.base == task.name]
    alphabets = [name for name in ORTHOGRAPHIES if any(other.orthography == name for other in variants)]
    prompts = sorted({other.prompt for other in variants})
    lines = [f"# {task.name}", "", _what(utils), ""]
    lines += [
        f"- Suite `{task.suite}`, {task.type}, {_count(task)} items; version {task.version}.",
        f"- Asked in: {', '.join(alphabets)}. Prompts (`--prompts all`): {', '.join(prompts)}.",
        f"- Primary metric `{task.primary}`, chance {task.chance:.4g}.",
        f"- Source: {task.source}. Licence: {task.licence}.",
    ]
    if hasattr(utils, "SOURCES"):
        lines += _hub(utils)
    else:
        lines += _embedded(task, utils, measured)
    return "\n".join(lines) + "\n"


def _count(task: TaskInfo) -> str:
    return f"{task.n:,}" if task.n is not None else "unknown number of"


def _what(utils: Any) -> str:
    what: str = " ".join((utils.__doc__ or "").split("\n\n")[0].split()).split(": ", 1)[1]
    return what[:1].upper() + what[1:]


def _hub(utils: Any) -> list[str]:
    lines = [
        f"- Data: https://huggingface.co/datasets/{source.name} ({source.config}; {', '.join(source.splits)}), or a "
        "mirror (`--mirror DIR`)."
        for source in utils.SOURCES
    ]
    return [*lines, f"- {utils.TRIED}"]


def _embedded(task: TaskInfo, utils: Any, measured: dict[str, float]) -> list[str]:
    folder = catalog.items_folder(task)
    items, shots = read_items(folder / "items.jsonl"), read_items(folder / "shots.jsonl")
    lines = [f"- Worked examples (`--shots`): up to {len(shots)}, never among the items."]
    if measured:
        lines += ["- Without reading, in the primary metric: " + _listed(task, measured) + "."]
    slices = ", ".join(f"{name} {count}" for name, count in sorted(Counter(item["slice"] for item in items).items()))
    lines += [f"- Slices: {slices}.", "", "One question as it is asked:", ""]
    document = {**utils.document(items[0]), "prompt": "p1", "form": catalog.read_yaml(task.path)["metadata"]["form"]}
    asked = {other.orthography for other in catalog.tasks().values() if other.base == task.name}
    for orthography in ("latin", "cyrillic"):
        if orthography not in asked:
            continue
        lines += ["```text", utils.doc_to_text(transliterate(document, orthography)), "```", ""]
    return lines[:-1]


def _listed(task: TaskInfo, measured: dict[str, float]) -> str:
    """Baselines as a list, those far above chance in bold."""
    return ", ".join(
        f"**{name} {value:.4f}**" if task.chance and value > task.chance + SHORTCUT else f"{name} {value:.4f}"
        for name, value in measured.items()
    )


def index(measured: dict[str, dict[str, float]]) -> str:
    """tasks_uz/README.md: all tasks, and how to add one."""
    lines = [
        "# Tasks",
        "",
        "Written by `python -m tasks_uz.make` from the tasks themselves. How the embedded items were written and "
        "checked: [DATASHEET.md](DATASHEET.md).",
        "",
        "| task | suite | kind | items | metric | chance | best without reading | alphabets | prompts | source "
        "| licence |",
        "| --- | --- | --- | --: | --- | --: | --- | --: | --: | --- | --- |",
    ]
    for _, config in _bases():
        task = catalog.tasks()[config["task"]]
        variants = [other for other in catalog.tasks().values() if other.base == task.name]
        best = dict([max(measured[task.name].items(), key=lambda each: each[1])]) if task.name in measured else {}
        lines.append(
            f"| [{task.name}]({task.path.parent.name}/README.md) | {task.suite} | {task.type} "
            f"| {_count(task) if task.n else '?'} | {task.primary} | {task.chance:.4g} | {_listed(task, best)} "
            f"| {len({each.orthography for each in variants})} | {len({each.prompt for each in variants})} "
            f"| {task.source} | {task.licence} |"
        )
    return "\n".join(lines) + "\n" + _GUIDE


_GUIDE = """
Groups: `uz_core` (Latin of 1995), `uz_core_cyrl`, `uz_core_2026`, `uz_core_all`, `uz_hub`, `uz_judged`. The variants
behind a task add its alphabet (`_cyrl`, `_2026`), its form (`_letters`, `_named`, `_cloze`) and its prompt (`_p2`,
`_p3`) to its name; `--orthography` and `--prompts` choose them.

## Forms

| form | what is shown | what is scored |
| --- | --- | --- |
| letters | options with letters, Latin in every alphabet | the letter |
| named | the choices, in the instruction or below the question | the text of a choice |
| cloze | the question alone | the text of a choice, by bytes |

## Adding a task

One folder, and nothing elsewhere:

1. `uz_NAME/uz_NAME.yaml`: what lm-eval needs, and in `metadata` the suite, the kind, the primary metric, chance, the
   form, the forms beside it, the number of prompts, source and licence. Copy `uz_reading` for choices, `uz_qa` for
   written answers.
2. `uz_NAME/utils.py`: `load`, `document`, `doc_to_text(doc, prompt_format)` with three `Wording`s, and for written
   answers `doc_to_target` and `process_results`. The beginning of its docstring is what the README says.
3. `uz_NAME/items.jsonl` and `shots.jsonl`: one JSON object a line, in the Latin alphabet of 1995 (oʻ gʻ with U+02BB,
   ʼ with U+02BC), `id`, `slice`, and `group` where items share a passage. Shuffled once, so that `--limit` is fair.
4. `python -m tasks_uz.make` writes the variants, the groups, the baselines and the pages; `make test` checks the rest.

A word whose Cyrillic isn't what its letters say (концерт, фильм) goes into `cyrillic.tsv`.
"""


def main() -> None:
    # Variants and groups first: what is written after them is read from them.
    for path, text in [*_variants(), *_groups()]:
        path.write_text(text, encoding="utf-8")
    for cached in (catalog.tasks, catalog.groups):
        cached.cache_clear()
    for path, text in outputs().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
