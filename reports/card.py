"""README.md beside an adapter or full weights: the model card, in the form that the hub reads.

    ---
    base_model: google/gemma-3-270m
    language: [uz]
    …
    ---
    # mistral-uzbek-lora

The metadata's keys: https://huggingface.co/docs/hub/model-cards#model-card-metadata
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import yaml

from harness.files import write_text
from harness.manifest import Manifest, Merged
from harness.records import Comparison
from harness.runs import RunDirectory
from reports import tables
from reports.format import MARKDOWN, NONE, duration, escape, percent, table, visible
from reports.items import draw, pairs
from reports.markdown import headline_table, items_table
from tasks_uz.prompts import FORMATS, Prompt, render

CARD = "README.md"

LICENCE = "other"
"""What the hub calls terms of one's own: whoever publishes names them, and those of the base go with the weights."""

SAMPLES = 5
LOSSES = 8
"""Points of the loss curve that are shown."""

QUESTION = "Oʻzbekiston poytaxti qaysi shahar?"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

_QUANTIZED = {
    "int8": "BitsAndBytesConfig(load_in_8bit=True)",
    "nf4": (
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",\n'
        "                                  bnb_4bit_use_double_quant=True)"
    ),
}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An adapter held against its base, and the two runs. samples: items whose answers are shown."""

    comparison: Comparison
    base: RunDirectory
    cand: RunDirectory
    samples: int = SAMPLES


@dataclass(frozen=True, slots=True)
class Published:
    """What only its publisher knows of a model.

    licence: the hub's name of it. base_model, dataset: hub ids, where the manifest names a directory or a file.
    usd: what the training cost.
    """

    licence: str = LICENCE
    base_model: str | None = None
    dataset: str | None = None
    usd: float | None = None


def write_card(
    made: Manifest | Merged,
    directory: Path,
    evaluation: Evaluation | None = None,
    published: Published = Published(),
) -> Path:
    """Writes the model card into a directory of weights; returns its path."""
    return write_text(directory / CARD, render_card(made, directory.resolve().name, evaluation, published))


def render_card(
    made: Manifest | Merged,
    name: str,
    evaluation: Evaluation | None = None,
    published: Published = Published(),
) -> str:
    """The model card as one text."""
    merged = made if isinstance(made, Merged) else None
    trained = made.trained if isinstance(made, Merged) else made
    hub_base = _hub_base(made, published)
    base = escape(hub_base, tables.NAME_LENGTH) if hub_base else _file(made.base_model)
    parts = [
        _metadata(hub_base, merged, published),
        f"# {escape(name)}\n",
        _what(base, merged, trained),
        _use(hub_base, base, made, trained),
    ]
    if trained:
        parts += [_data(trained), _recipe(trained), _training(trained, base, published)]
    if merged:
        parts.append(_merge(merged))
    parts += [*_evaluation(evaluation), _limits(made, trained, evaluation), _licence(base, published)]
    return "\n".join(parts)


def merged_sentence(merged: Merged) -> str:
    """How far full weights are from the adapter on its base, and what of that is explained, as safe Markdown."""
    found = merged.difference
    sentence = (
        f"Logits at {found.n} places of Uzbek text, adapter on its base against these weights: {found.mean:.2g} apart "
        f"on average, {found.largest:.2g} at most, KL {found.kl:.2g} nats, the same next token at "
        f"{percent(found.same_argmax)}. Rounding to {escape(merged.dtype)} explains up to {merged.rounding:.2g}"
    )
    if merged.activations:
        sentence += f"; int8's rounded activations, which float weights don't have, {merged.activations:.2g}"
    return f"{sentence}."


def _hub_base(made: Manifest | Merged, published: Published) -> str | None:
    """The base's name on the hub, where it has one: the hub refuses a card whose base isn't a repository."""
    # A base that lay in a directory has no revision, and a directory may be named like a repository.
    named = published.base_model or (made.base_model if made.base_revision else "")
    return named if _HUB_ID.fullmatch(named) else None


def _metadata(hub_base: str | None, merged: Merged | None, published: Published) -> str:
    keys: dict[str, object] = {
        "language": ["uz"],
        "license": _line(published.licence),
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["uzbek", "uzbench", *([] if merged else ["lora"])],
    }
    if hub_base:
        keys["base_model"] = hub_base
        keys["base_model_relation"] = "finetune" if merged else "adapter"
    if published.dataset:
        keys["datasets"] = [_line(published.dataset)]
    return f"---\n{yaml.safe_dump(keys, allow_unicode=True, sort_keys=False)}---\n"


def _line(text: str) -> str:
    return visible(text).replace("\n", " ")


def _file(path: str) -> str:
    """A file or directory by its own name: where it lay is nobody's business."""
    return escape(Path(path).name or path, tables.NAME_LENGTH)


def _section(heading: str, *parts: str) -> str:
    return "\n".join([f"## {heading}\n", *(part for part in parts if part)])


def _what(base: str, merged: Merged | None, trained: Manifest | None) -> str:
    kind = "Full weights of a LoRA adapter" if merged else "A LoRA adapter"
    learned = f", trained on {trained.n_rows:,} rows of {_file(trained.data)}" if trained else ""
    return f"{kind} of {base} for Uzbek{learned}.\n"


def _use(hub_base: str | None, base: str, made: Manifest | Merged, trained: Manifest | None) -> str:
    prompt_format = trained.prompt_format if trained and trained.prompt_format in FORMATS else "plain"
    # Names are another's and may hold anything: in code stand only those that can't.
    named = "" if hub_base else f" BASE is {base}."
    base = hub_base or "BASE"
    if isinstance(made, Merged):
        place, options = "MODEL", "--model MODEL"
        loading = 'model = AutoModelForCausalLM.from_pretrained("MODEL")'
        imports, tokenizer = "from transformers import AutoModelForCausalLM, AutoTokenizer", "MODEL"
        named = ""
    else:
        place, options = "ADAPTER", f"--model {base} --adapter ADAPTER"
        quantized = _QUANTIZED.get(made.quantization)
        argument = ", quantization_config=quantized" if quantized else ""
        loading = f"quantized = {quantized}\n" if quantized else ""
        loading += f'base = AutoModelForCausalLM.from_pretrained("{base}"{argument})\n'
        loading += 'model = PeftModel.from_pretrained(base, "ADAPTER")'
        names = "AutoModelForCausalLM, AutoTokenizer" + (", BitsAndBytesConfig" if quantized else "")
        imports, tokenizer = f"from peft import PeftModel\nfrom transformers import {names}", base
    asked = render(Prompt(QUESTION), prompt_format).replace("\n", "\\n")
    if prompt_format == "chat":
        asked = f'tokenizer.apply_chat_template([{{"role": "user", "content": "{asked}"}}], return_tensors="pt",\n'
        asked += "                                      add_generation_prompt=True, return_dict=True)"
    else:
        asked = f'tokenizer("{asked}", return_tensors="pt")'
    return _section(
        "Use",
        f"{place} is this directory or repository.{named} It is asked in the format {prompt_format}, as below.\n",
        f'```\nuzbench chat {options} --prompt-format {prompt_format} "{QUESTION}"\n'
        f"uzbench run {options} --prompt-format {prompt_format} --tasks uz_core\n```\n",
        f"```python\n{imports}\n\n{loading}\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{tokenizer}")\n'
        f"asked = {asked}\n"
        "said = model.generate(**asked, max_new_tokens=100)\n"
        "print(tokenizer.decode(said[0], skip_special_tokens=True))\n```\n",
    )


def _data(trained: Manifest) -> str:
    dropped = ", ".join(f"{n:,} {escape(reason.replace('_', ' '))}" for reason, n in trained.n_dropped.items())
    rows = [
        ["file", _file(trained.data)],
        ["SHA-256", f"`{trained.data_sha256}`" if trained.data_sha256.isalnum() else escape(trained.data_sha256)],
        ["rows trained on", f"{trained.n_rows:,}"],
        ["rows left out", dropped or "none"],
        ["tokens of one pass", f"{trained.n_tokens:,}, of which {trained.n_trained_tokens:,} are answers and trained"],
    ]
    return _section("Data", table(["", ""], rows))


def _recipe(trained: Manifest) -> str:
    left_out = ("model", "revision", "data", "out")
    rows = [[escape(key), _value(value)] for key, value in trained.recipe.items() if key not in left_out]
    return _section("Recipe", table(["", ""], rows)) if rows else ""


def _value(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return escape(", ".join(str(part) for part in value)) or NONE
    text = "" if value is None else str(value)
    return (_file(text) if Path(text).is_absolute() else escape(text, tables.NAME_LENGTH)) or NONE


def _training(trained: Manifest, base: str, published: Published) -> str:
    digest = f", weights {escape(trained.base_digest[:12])}" if trained.base_digest else ""
    revision = f", revision {escape(trained.base_revision)}" if trained.base_revision else ""
    versions = ", ".join(f"{escape(name)} {escape(version)}" for name, version in trained.versions.items())
    rows = [
        ["base", f"{base}{revision}{digest}"],
        ["quantization of the base", escape(trained.quantization)],
        ["arithmetic", escape(trained.dtype)],
        ["steps", f"{trained.steps:,}"],
        ["time", duration(trained.seconds)],
        ["cost", NONE if published.usd is None else f"{published.usd:.2f} USD"],
        ["machine", escape(tables.machine(trained.hardware)) or NONE],
        ["commit of uzbench", escape(trained.git_commit or "") or NONE],
        ["versions", versions or NONE],
        ["finished", escape(trained.created)],
    ]
    shown = _some(trained.losses)
    curve = table(
        ["step", *(f"{step:,}" for step, _ in shown)],
        [["loss", *(f"{loss:.3f}" for _, loss in shown)]],
        "l" + "r" * len(shown),
    )
    note = "Loss in nats a trained token, of single steps.\n"
    return _section("Training", table(["", ""], rows), *([note, curve] if shown else []))


def _some(losses: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most LOSSES points, evenly spread, the first and the last among them."""
    if len(losses) <= LOSSES:
        return list(losses)
    return [losses[round(number * (len(losses) - 1) / (LOSSES - 1))] for number in range(LOSSES)]


def _merge(merged: Merged) -> str:
    how = (
        "as it lies" if merged.quantization == "none" else f"quantized to {escape(merged.quantization)} and dequantized"
    )
    return _section(
        "Merge",
        f"The adapter was added, in float32, to its base {how}, and the sum rounded to {escape(merged.dtype)}.\n",
        f"{merged_sentence(merged)}\n",
        *(f"> {escape(note)}\n" for note in merged.notes),
    )


def _evaluation(evaluation: Evaluation | None) -> list[str]:
    if evaluation is None:
        return [_section("Evaluation", "None yet. `uzbench run` asks it and its base, `uzbench compare` says more.\n")]
    comparison, base, cand = evaluation.comparison, evaluation.base, evaluation.cand
    asked = tables.asked_differently(comparison, MARKDOWN)
    everything = pairs(comparison, base, cand)
    shown = [everything[place] for place in islice(draw(everything), evaluation.samples)]
    parts = [
        _section(
            "Evaluation",
            f"{asked}\n" if asked else "",
            *(f"> {escape(note)}\n" for note in comparison.notes),
            f"{tables.headline(comparison)}\n",
            headline_table(comparison),
            tables.overall_table(comparison, MARKDOWN),
            tables.gaps_table(comparison, MARKDOWN),
            _runs(base, cand),
        )
    ]
    if shown:
        drawn = f"{len(shown)} of {len(everything)} items, drawn by task and outcome, not chosen.\n"
        parts.append(_section("Answers", drawn, items_table(shown, base, cand)))
    return parts


def _runs(base: RunDirectory, cand: RunDirectory) -> str:
    """How both were asked; where their files lay stays out of what is published."""
    runs = base.run, cand.run
    lines = [
        ["run", *(escape(run.run_id) for run in runs)],
        ["quantization", *(escape(run.spec.quantization) for run in runs)],
        ["prompt format", *(escape(run.spec.prompt_format) for run in runs)],
        ["backend", *(escape(run.spec.backend) for run in runs)],
        ["machine", *(escape(tables.machine(run.hardware)) or NONE for run in runs)],
        ["asked", *(escape(run.created) for run in runs)],
        ["commit of uzbench", *(escape(run.git_commit or "") or NONE for run in runs)],
    ]
    return table(["", "base", "tuned"], lines)


def _limits(made: Manifest | Merged, trained: Manifest | None, evaluation: Evaluation | None) -> str:
    lines = ["Nobody has checked its answers for truth, taste or harm."]
    if trained:
        lines.append(
            f"It learned from {trained.n_rows:,} rows in the format {escape(trained.prompt_format)}: asked in another "
            "format, about other things or in another language, it may be worse than its base."
        )
    if isinstance(made, Manifest) and made.quantization != "none":
        lines.append(
            f"It was trained on its base quantized to {escape(made.quantization)} and belongs to that: on the base in "
            "another precision it gives other answers."
        )
    if evaluation:
        worse = [row for row in evaluation.comparison.rows if row.primary and row.verdict == "worse"]
        if worse:
            names = ", ".join(f"{escape(row.task)} ({tables.orthography(row.orthography)})" for row in worse)
            lines.append(f"It is worse than its base at: {names}.")
        lines.append("The numbers are of greedy answers and likelihoods; they say nothing of how it samples.")
        if evaluation.comparison.limited:
            lines.append("The tasks were asked on a part of their documents.")
    else:
        lines.append("It has not been measured against its base.")
    return _section("Limits", *(f"- {line}" for line in lines)) + "\n"


def _licence(base: str, published: Published) -> str:
    own = "see whoever published it" if published.licence == LICENCE else escape(published.licence)
    return _section("Licence", f"This model: {own}. The terms of {base} and of the data hold beside it.\n")
