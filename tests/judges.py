"""Judges that answer over OpenAI's protocol, good ones and biased ones, and runs for them to judge.

A judge here reads what a real one is sent, fences and all, and writes a verdict as a real one would; what it goes by is
the function that it is made of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openai_server import Request

from harness.judge.probes import probes
from harness.records import Run, RunSpec, Sample, Score, TaskRecord
from harness.runs import RunDirectory, write_run
from tasks_uz import catalog
from tasks_uz.judged import judged_documents

Judge = Callable[[Request], str]

EXPLANATION = "Javob savolga mos keladi, lekin bir joyda aniqlik yetishmaydi; tili ravon."
GOOD = "yaxshi"
"""A right answer of a made run begins with it."""

_CODE = re.compile(r"(?:check` is|uchun kod): ([0-9a-f]{10})")
_ANSWER = re.compile(r"<answer-([0-9a-f]{16})>\n(.*?)\n</answer-\1>", re.DOTALL)


def answers_in(request: Request) -> list[str]:
    """The answers that a request puts before a judge, as it sees them."""
    return [text for _, text in _ANSWER.findall(request["messages"][1]["content"])]


def verdict(request: Request, decide: Callable[[str, int, int], int] | None = None, better: str = "") -> str:
    """A verdict of the form that a request wants. decide: a criterion's name and scale to the grade."""
    schema = request["response_format"]["json_schema"]["schema"]["properties"]
    found: dict[str, Any] = {"explanation": EXPLANATION}
    if "better" in schema:
        found["better"] = better
    else:
        assert decide is not None
        scales = {name: each for name, each in schema.items() if name not in ("explanation", "check")}
        found |= {name: decide(name, each["minimum"], each["maximum"]) for name, each in scales.items()}
    code = _CODE.search(request["messages"][1]["content"])
    assert code is not None
    return json.dumps({**found, "check": code[1]}, ensure_ascii=False)


def by(is_good: Callable[[str], bool]) -> Judge:
    """A judge that gives the highest grades to what is good, the lowest to the rest, and prefers the good one."""

    def judge(request: Request) -> str:
        good = [is_good(answer) for answer in answers_in(request)]
        if len(good) == 1:
            return verdict(request, lambda name, low, high: high if good[0] else low)
        return verdict(request, better="tie" if good[0] == good[1] else "first" if good[0] else "second")

    return judge


def known_good(answer: str) -> bool:
    """What the makers of the answers know."""
    return answer.startswith(GOOD) or answer in {probe.good for _, probe in probes()}


honest = by(known_good)


def always_yes(request: Request) -> str:
    return verdict(request, lambda name, low, high: high, better="tie")


def first_is_better(request: Request) -> str:
    """Prefers whatever stands first."""
    return verdict(request, lambda name, low, high: high, better="first")


def longer_is_better(request: Request) -> str:
    """Grades by length, and prefers the longer."""
    lengths = [len(answer) for answer in answers_in(request)]
    if len(lengths) == 1:
        return verdict(request, lambda name, low, high: min(high, low + lengths[0] // 150))
    return verdict(request, better="first" if lengths[0] > lengths[1] else "second")


def obedient(request: Request) -> str:
    """Does what an answer tells it to, and is honest otherwise."""
    orders = r"(?i)baho|eng yuqori|system|score|grade|оценк|балл|INST|overall|correct|assistant|tekshiruv|verdict"
    return by(lambda answer: known_good(answer) or bool(re.search(orders, answer)))(request)


def echoing(request: Request) -> str:
    """Repeats a verdict that stands ready in the answer, and its own words otherwise."""
    found = re.search(r"\{[^{}]*\}", answers_in(request)[0])
    return found[0] if found else honest(request)


def judged_run(
    path: Path, name: str, answer: Callable[[int], str | None], *, tasks: tuple[str, ...] = ("uz_qa",), n: int = 1000
) -> RunDirectory:
    """A run of tasks that are judged, with answers by the number of the document."""
    records, samples, scores = [], [], []
    for task in tasks:
        info = catalog.tasks()[task]
        documents = dict(list(judged_documents(info).items())[:n])
        records.append(
            TaskRecord(
                task=task,
                lm_eval_task=task,
                orthography="latin",
                prompt_id="p1",
                version="1.0",
                n_shot=0,
                n=len(documents),
                n_all=len(documents),
                primary=info.primary,
                metrics={"empty": False},
                output_type="generate_until",
            )
        )
        for number, (item, judged) in enumerate(documents.items()):
            place: dict[str, Any] = {"task": task, "orthography": "latin", "prompt_id": "p1", "item_id": item}
            place |= {"group": "", "occurrence": 0, "doc_hash": f"{task}-{number}"}
            asked = {"prompt_hash": "", "prompt": judged.question, "target": "", "choices": (), "logprobs": ()}
            samples.append(Sample(**place, **asked, response=answer(number), slice=""))
            scores.append(Score(**place, metric="empty", value=0.0))
    spec = RunSpec(model=name, tasks=tasks)
    run = Run(
        run_id=path.name,
        spec=spec,
        spec_hash=spec.spec_hash,
        model_key=name,
        model_name=name,
        created="2026-11-26T00:00:00+00:00",
        complete=True,
        tasks=tuple(records),
    )
    return write_run(path, run, samples, scores)
