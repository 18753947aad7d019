"""A generated data set for people: dataset_card.md, and index.html with plots and rows drawn by chance.

Rows are a model's words: untrusted, and escaped in both.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.files import write_text
from reports import plots
from reports.format import MARKDOWN, NONE, Writer, escape, percent
from reports.page import HTML, page, text

CARD, PAGE = "dataset_card.md", "index.html"
SHOWN_ROWS = 50
CELL_LENGTH = 600
AXES = ("type", "topic", "register", "alphabet", "length")

LIMITS = (
    "The rows are a language model's, not people's: fluent mistakes, invented details and its habits of style are in "
    "them, and no person has read them all. The filters see form, language, likeness and known patterns; they don't "
    "see whether an answer is true."
)
TERMS = (
    "OpenAI's terms give what its models write to whoever asked for it, and forbid using it to develop models that "
    "compete with OpenAI's; who trains on these rows should read the terms that hold for them. Other models have terms "
    "of their own."
)


def write_dataset(made: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Writes the card and the page of a generated set; returns their paths.

    made: what generated.json holds. rows: of train.jsonl.
    """
    return [
        write_text(folder / CARD, render_card(made, rows)),
        write_text(folder / PAGE, render_page(made, rows)),
    ]


def render_card(made: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The card, with the front matter that the model hub reads."""
    thousands = made["n_kept"]
    size = next((name for top, name in _SIZES if thousands < top), "100K<n<1M")
    front = [
        "---",
        "language:",
        "- uz",
        "license: cc-by-4.0",
        "task_categories:",
        "- text-generation",
        "size_categories:",
        f"- {size}",
        "tags:",
        "- synthetic",
        "- instruction-tuning",
        "- self-instruct",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: train.jsonl",
        *(["  - split: validation", "    path: validation.jsonl"] if made["n_validation"] else []),
        "---",
    ]
    parts = [
        "\n".join(front) + "\n",
        "# Uzbek instructions, generated\n",
        _state(made, MARKDOWN),
        "## Columns\n\n`instruction`, `input` (may be empty), `output`; `id`; what was asked for: `type`, `topic`, "
        "`register`, `alphabet`, and the class of the answer's `length`; provenance: `model`, `prompt` (the first "
        "digits of the settings' SHA-256), `usd` (the row's share of its request's cost).\n",
        f"## How it was made\n\n{_how(made, MARKDOWN)}",
        "## Counts\n",
        *(counts_table(made, axis, MARKDOWN) for axis in AXES),
        f"## Balance\n\n{_balance(made, MARKDOWN)}",
        f"## Diversity\n\n{diversity_table(made, MARKDOWN)}",
        f"## Filters\n\n{rejects_table(made, MARKDOWN)}",
        "## A row\n\n" + rows_table(drawn(rows, 1), MARKDOWN),
        f"## Limits\n\n{LIMITS}\n",
        f"## Licence\n\nCC BY 4.0. {TERMS}\n",
    ]
    return "\n".join(parts)


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))


def render_page(made: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The set on one page: plots of what it holds, what was refused, and rows drawn by chance."""
    n = max(1, made["n_kept"])
    parts = [f"<header>\n<h1>Uzbek instructions, generated</h1>\n{_state(made, HTML)}</header>"]
    for axis in AXES:
        aims = made["aims"][axis]
        total = sum(aims.values())
        found = [(name, made["cells"][axis].get(name, 0) / n, weight / total) for name, weight in aims.items()]
        drawn_shares = plots.shares(f"Rows by {axis}", found)
        parts.append(f"<h2>{axis.capitalize()}</h2>\n{drawn_shares.figure(text(drawn_shares.title))}")
    verbs = made["diversity"].get("verbs") or {}
    if verbs:
        caption = "Inside the last word of a request's first sentence, outside the word before it."
        parts.append(f"<h2>What is asked for</h2>\n{plots.wheel('Requests by their verb', verbs).figure(caption)}")
    parts += [
        f"<h2>Balance</h2>\n{_balance(made, HTML)}",
        f"<h2>Diversity</h2>\n{diversity_table(made, HTML)}",
        f"<h2>Filters</h2>\n{rejects_table(made, HTML)}",
        f"<h2>{min(SHOWN_ROWS, len(rows))} rows, drawn by chance</h2>\n{rows_table(drawn(rows), HTML)}",
        f"<h2>Limits and licence</h2>\n<p>{text(LIMITS)}</p>\n<p>CC BY 4.0. {text(TERMS)}</p>",
    ]
    return page("Uzbek instructions, generated", "\n".join(parts))


def drawn(rows: Sequence[Mapping[str, Any]], n: int = SHOWN_ROWS) -> list[Mapping[str, Any]]:
    """Rows by chance, the same ones of the same set."""
    return random.Random(1).sample(list(rows), min(n, len(rows)))


def counts_table(made: Mapping[str, Any], axis: str, writer: Writer) -> str:
    """How many rows an axis has of each value, and what was wanted."""
    n, aims = max(1, made["n_kept"]), made["aims"][axis]
    total = sum(aims.values())
    rows = [
        [writer.text(name), f"{made['cells'][axis].get(name, 0):,}", percent(made["cells"][axis].get(name, 0) / n),
         percent(weight / total)]
        for name, weight in aims.items()
    ]  # fmt: skip
    return writer.table([axis, "rows", "share", "wanted"], rows, "lrrr")


def diversity_table(made: Mapping[str, Any], writer: Writer) -> str:
    """Figures of how varied the rows are."""
    found = made["diversity"]
    words = [NONE if each is None else f"{each}" for each in found["output_words"].values()]
    rows = [
        ["distinct words in instructions", percent(found["distinct_1"])],
        ["distinct pairs of words", percent(found["distinct_2"])],
        ["beginnings of three words", f"{found['n_beginnings']:,}"],
        ["last words of the first sentence", f"{found['n_verbs']:,}"],
        ["rows with an input", percent(found["with_input"])],
        [
            "words of an answer: 5 %, half, 95 %",
            " / ".join(words),
        ],
    ]
    return writer.table(["figure", "value"], rows, "lr")


def rejects_table(made: Mapping[str, Any], writer: Writer) -> str:
    """How many rows each filter refused."""
    total = made["n_kept"] + sum(made["rejected"].values())
    rows = [[writer.text(name), f"{count:,}", percent(count / total)] for name, count in made["rejected"].items()]
    return (
        writer.table(["refused as", "rows", "of all"], rows, "lrr")
        if rows
        else writer.paragraph("Nothing was refused.")
    )


def rows_table(rows: Sequence[Mapping[str, Any]], writer: Writer) -> str:
    """Rows as they are, each text cut at a length."""
    lines = [
        [writer.text(str(row[key]), CELL_LENGTH) for key in ("type", "instruction", "input", "output")] for row in rows
    ]
    return writer.table(["type", "instruction", "input", "output"], lines, "llll")


def _state(made: Mapping[str, Any], writer: Writer) -> str:
    whole = "" if made["complete"] else f" The run was ended before {made['n_wanted']:,} rows were kept."
    return writer.paragraph(
        f"{made['n_kept']:,} rows: {made['n_train']:,} to train on, {made['n_validation']:,} to validate; written by "
        f"{writer.text(made['model'])} for {made['usd']:.2f} US dollars.{whole}"
    )


def _how(made: Mapping[str, Any], writer: Writer) -> str:
    names = ", ".join(writer.text(name) for name in made["answered_by"]) or NONE
    unread = "".join(
        f" Not held against {writer.text(name)}: {writer.text(why)}." for name, why in made["unread_tasks"].items()
    )
    return writer.paragraph(
        f"Self-Instruct (arXiv 2212.10560) with `uzbench generate`: seeds written for UzBench and rows that were kept "
        f"are shown to {writer.text(made['model'])} (it calls itself {names}), which writes new ones; settings "
        f"{made['settings'][:12]}, seeds {made['seeds'][:12]} (SHA-256), {made['n_requests']:,} requests, "
        f"{made['n_failed']:,} of them without an answer{', by the Batch API' if made['batch'] else ''}"
        f"{', each row graded by the model once more' if made['quality'] else ''}. Made {made['created']}. No "
        f"validation row comes from a request of a training row or is like one (ROUGE-L of instructions above 0.5). "
        f"Every row was held against the items of the evaluation tasks of UzBench.{unread}"
    )


def _balance(made: Mapping[str, Any], writer: Writer) -> str:
    if not made["off_balance"]:
        return writer.paragraph("Every share is within a quarter of its aim.")
    return writer.paragraph("Off its aim: " + "; ".join(writer.text(each) for each in made["off_balance"]) + ".")


def headline(made: Mapping[str, Any]) -> str:
    """What a terminal shows when a run has ended, as Markdown."""
    return "\n".join([_state(made, MARKDOWN), rejects_table(made, MARKDOWN), escape(_balance(made, MARKDOWN))])
