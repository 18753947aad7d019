"""Rubrics: what a judge is told, one Markdown file each; adding one is adding a file.

A rubric, shortened:

    ---
    name: summary
    language: en
    kind: pointwise
    tasks: [uz_summ, uz_headline]
    overall: overall
    pass: 4
    criteria:
      faithfulness: [1, 5]
      overall: [1, 5]
    ---
    You grade summaries of Uzbek texts. …

    ```json
    {"explanation": "Matnda yoʻq yosh aytilgan.", "faithfulness": 2, "overall": 2}
    ```

What follows the front matter goes to the judge as it stands, the examples too. Every block of JSON in it is an example
verdict and is held to the schema when the file is read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

from harness.errors import DataError, UnknownNameError, UsageError
from harness.prices import likely_tokens
from harness.records import digest

FOLDER = Path(__file__).parent / "rubrics"
LANGUAGES = ("en", "uz")
KINDS = ("pointwise", "pairwise")
SIDES = ("first", "second", "tie")

EXPLANATION, CHECK, BETTER = "explanation", "check", "better"
LONGEST_EXPLANATION = 2000
"""Characters of an explanation that are kept."""

_FRONT = re.compile(r"---\n(.*?\n)---\n(.*)", re.DOTALL)
_EXAMPLE = re.compile(r"```json\n(.*?)\n```", re.DOTALL)
_KEYS = {"name", "language", "kind", "tasks", "overall", "pass", "criteria"}


@dataclass(frozen=True)
class Rubric:
    """How answers are judged.

    tasks: those it is for; a pairwise one is for all. criteria: name to (lowest, highest), whole numbers.
    overall: the criterion that an answer passes by, at `passing` or above. text: what the judge is told.
    """

    name: str
    language: str
    kind: str
    tasks: tuple[str, ...]
    criteria: dict[str, tuple[int, int]]
    overall: str
    passing: int
    text: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that a judge sees of it and that is read out of its verdicts."""
        return digest(
            [self.name, self.language, self.kind, list(self.criteria.items()), self.overall, self.passing, self.text]
        )

    @property
    def title(self) -> str:
        """What records call it: name, language, and the start of its digest."""
        return f"{self.name} ({self.language}, {self.digest[:8]})"

    @property
    def graded(self) -> bool:
        """Whether it has grades between right and wrong."""
        return self.kind == "pointwise" and self.criteria[self.overall] != (0, 1)

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of a verdict. The explanation comes first: a grade that follows its reasons is a better one.

        `check` has no enumeration on purpose: a server would then fill it in by itself, and an echo of the answer
        would pass.
        """
        grades: dict[str, Any] = (
            {name: {"type": "integer", "minimum": low, "maximum": high} for name, (low, high) in self.criteria.items()}
            if self.kind == "pointwise"
            else {BETTER: {"type": "string", "enum": list(SIDES)}}
        )
        fields = {EXPLANATION: {"type": "string"}, **grades, CHECK: {"type": "string"}}
        return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}

    @cached_property
    def examples(self) -> list[dict[str, Any]]:
        """The example verdicts, as they stand in the text."""
        return [json.loads(block) for block in _EXAMPLE.findall(self.text)]

    @cached_property
    def likely_output(self) -> float:
        """About how many tokens a verdict has: those of the examples, and the check."""
        lengths = [likely_tokens(json.dumps(each, ensure_ascii=False)) + 10 for each in self.examples]
        return sum(lengths) / len(lengths)

    def problem(self, verdict: dict[str, Any], *, check: bool) -> str | None:
        """Why something isn't a verdict under this rubric, in a few words; None where it is one."""
        wanted = [*self.schema["required"]] if check else self.schema["required"][:-1]
        for key in wanted:
            if key not in verdict:
                return f"{key} is missing"
        for key in verdict:
            if key not in wanted:
                return "it has a key that no verdict has"
        if not isinstance(verdict[EXPLANATION], str):
            return f"{EXPLANATION} is no text"
        if self.kind == "pairwise":
            return None if verdict[BETTER] in SIDES else f"{BETTER} is none of {', '.join(SIDES)}"
        for name, (low, high) in self.criteria.items():
            value = verdict[name]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                return f"{name} is no whole number from {low} to {high}"
        return None


def read_rubric(path: Path) -> Rubric:
    """A rubric from its file.

    Raises DataError with the reason, UsageError for a missing file.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such rubric. Those that ship: {', '.join(names())}.") from None
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise DataError(path, f"not a Markdown file ({error})") from None
    parts = _FRONT.fullmatch(content.replace("\r\n", "\n"))
    if not parts:
        raise DataError(path, "expected YAML between two lines of ---, then what the judge is told")
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise DataError(path, f"its front matter isn't YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(front, dict):
        raise DataError(path, "its front matter has no keys and values")
    for key in front:
        if key not in _KEYS:
            raise UnknownNameError(f"{path}: key", str(key), _KEYS, f"All keys: {', '.join(sorted(_KEYS))}.")
    rubric = _built(path, front, parts[2].strip())
    try:
        examples = rubric.examples
    except ValueError as error:
        raise DataError(path, f"an example verdict isn't JSON: {error}") from None
    if not examples:
        raise DataError(path, "expected an example verdict or more, each in a block of ```json")
    for number, example in enumerate(examples, 1):
        problem = rubric.problem(example, check=False) if isinstance(example, dict) else "it is no object"
        if problem:
            raise DataError(path, f"example verdict {number} is none: {problem}")
    return rubric


def _built(path: Path, front: dict[str, Any], text: str) -> Rubric:
    kind = front.get("kind", "pointwise")
    name, language, tasks = front.get("name"), front.get("language", "en"), front.get("tasks", [])
    if not isinstance(name, str) or not name or kind not in KINDS or language not in LANGUAGES:
        raise DataError(path, f"expected a name, kind: {' or '.join(KINDS)}, language: {' or '.join(LANGUAGES)}")
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise DataError(path, "expected tasks: a list of task names")
    if kind == "pairwise":
        return Rubric(name, language, kind, tuple(tasks), {}, "", 0, text)
    criteria = front.get("criteria")
    if not isinstance(criteria, dict) or not all(_is_scale(each) for each in criteria.values()):
        raise DataError(path, "expected criteria: a name to [lowest, highest], two rising whole numbers, each")
    overall, passing = front.get("overall"), front.get("pass")
    if not isinstance(overall, str) or overall not in criteria:
        raise DataError(path, f"overall: {overall!r}, expected one of its criteria ({', '.join(map(str, criteria))})")
    low, high = criteria[overall]
    if isinstance(passing, bool) or not isinstance(passing, int) or not low < passing <= high:
        raise DataError(path, f"pass: {passing!r}, expected a whole number from {low + 1} to {high}")
    scales = {str(key): (low, high) for key, (low, high) in criteria.items()}
    for taken in (EXPLANATION, CHECK, BETTER):
        if taken in scales:
            raise DataError(path, f"a criterion can't be called {taken!r}: a verdict has that key for itself")
    return Rubric(name, language, kind, tuple(tasks), scales, overall, passing, text)


def _is_scale(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(each, int) and not isinstance(each, bool) for each in value)
        and value[0] < value[1]
    )


def names() -> list[str]:
    """The rubrics that ship."""
    return sorted({path.name.split(".")[0] for path in FOLDER.glob("*.md")})


def named(name: str, language: str = "en") -> Rubric:
    """A rubric by its name, or by the path of its file.

    Raises UnknownNameError, DataError, UsageError.
    """
    if name.endswith(".md"):
        return read_rubric(Path(name))
    if language not in LANGUAGES:
        raise UnknownNameError("rubric language", language, LANGUAGES, f"One of: {', '.join(LANGUAGES)}.")
    if name not in names():
        raise UnknownNameError(
            "rubric", name, names(), f"All: {', '.join(names())}, auto, or a file of your own (*.md)."
        )
    return _shipped(name, language)


@lru_cache(maxsize=32)
def _shipped(name: str, language: str) -> Rubric:
    return read_rubric(FOLDER / f"{name}.{language}.md")


def for_task(task: str, language: str = "en") -> Rubric | None:
    """The pointwise rubric that ships for a task; None where there is none."""
    for name in names():
        rubric = named(name, language)
        if rubric.kind == "pointwise" and task in rubric.tasks:
            return rubric
    return None
