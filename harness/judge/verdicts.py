"""From what a judge wrote to a verdict, or to the reason why there is none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from harness.judge.rubrics import BETTER, CHECK, EXPLANATION, LONGEST_EXPLANATION, Rubric
from harness.openai_client import Answer

_DECODER = json.JSONDecoder(object_pairs_hook=lambda pairs: _once(pairs))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says. grades: by criterion, pointwise; better: "first", "second" or "tie", pairwise.

    reason: why there is no verdict, None where there is one.
    """

    grades: dict[str, int] | None = None
    better: str | None = None
    explanation: str = ""
    reason: str | None = None


class _Twice(ValueError):
    """An object that has a key twice: which of the two counts, nobody said."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice
    return found


def read_verdict(answer: Answer, rubric: Rubric, check: str) -> Verdict:
    """The verdict in a judge's answer: exactly one object with the right check, and of the rubric's form.

    Anything else is no verdict, with its reason; nothing is guessed out of prose.
    """
    if answer.error is not None:
        return Verdict(reason=f"no answer from the judge: {answer.error}")
    if answer.refusal is not None:
        return Verdict(reason="the judge declined")
    if answer.finish_reason == "length":
        return Verdict(reason="the verdict was cut at its limit of tokens")
    if answer.finish_reason == "content_filter":
        return Verdict(reason="the judge's answer was filtered")
    if not answer.text or not answer.text.strip():
        return Verdict(reason="the judge said nothing")
    found = _objects(answer.text)
    if not found:
        return Verdict(reason="the verdict isn't JSON")
    checked = [each for each in found if each.get(CHECK) == check]
    if not checked:
        return Verdict(reason="the verdict lacks its check: not the judge's own, or an echo")
    if len(checked) > 1:
        return Verdict(reason="more than one verdict")
    verdict = checked[0]
    problem = rubric.problem(verdict, check=True)
    if problem:
        return Verdict(reason=f"outside the schema: {problem}")
    explanation = verdict[EXPLANATION][:LONGEST_EXPLANATION]
    if rubric.kind == "pairwise":
        return Verdict(better=verdict[BETTER], explanation=explanation)
    return Verdict(grades={name: verdict[name] for name in rubric.criteria}, explanation=explanation)


def _objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects that stand in a text, outermost ones alone."""
    found = []
    place = text.find("{")
    while place >= 0:
        try:
            value, end = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            place = text.find("{", place + 1)
            continue
        if isinstance(value, dict):
            found.append(value)
        place = text.find("{", end)
    return found
