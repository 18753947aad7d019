"""A gate's verdict for people and for machines: a Markdown summary and JUnit XML.

JUnit's form has no standard; ours keeps to what Ant, Jenkins, GitLab and GitHub's reporters read: one testsuite a
gate, one testcase a check; a regression is a failure, an inconclusive check is skipped, a crash is an error.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.errors import UsageError, disk_faults
from harness.files import write_text
from harness.records import Check, GateResult, Look
from reports.format import NONE, escape, percent, points, probability, table
from reports.tables import orthography

SUITE = "uzbench gate"
MEANINGS = {
    "pass": "no regression is shown, and a fall of the average by the margin is ruled out.",
    "regression": "the candidate is worse than its base.",
    "inconclusive": "no regression is shown, but the data can't rule one out.",
}

# What XML 1.0 can't hold: https://www.w3.org/TR/xml/#charsets. Of the rest, line ends would come back as others.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


# Markdown.


def summary(result: GateResult) -> str:
    """The verdict and its checks, in Markdown."""
    names = f"{escape(result.cand.model_name)} against {escape(result.base.model_name)}"
    parts = [
        f"## Gate: {result.verdict}\n",
        f"{names}: {MEANINGS[result.verdict]}\n",
        checks_table(result.checks),
        findings(result),
        *(f"> {escape(note)}\n" for note in result.notes),
        looks_table(result.looks),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def findings(result: GateResult) -> str:
    """One line for each check that didn't pass."""
    found = [check for check in result.checks if check.verdict != "pass"]
    return "".join(f"- {_title(check)}: {escape(check.message)}\n" for check in found)


def checks_table(checks: Sequence[Check]) -> str:
    """One line a check."""
    header = ["check", "alphabet", "base", "tuned", "Δ points", "sure of", "limit", "p", "p adjusted", "n", "verdict"]
    lines = [
        [
            _name(check),
            orthography(check.orthography),
            percent(check.base),
            percent(check.cand),
            points(check.delta),
            NONE if check.bound is None else f"≥ {points(check.bound)}",
            points(check.limit).lstrip("+"),
            probability(check.p),
            probability(check.p_adjusted),
            f"{check.n_pairs}" + (f" ({check.n_unscored} unscored)" if check.n_unscored else ""),
            check.verdict if check.verdict == "pass" else f"**{check.verdict}**",
        ]
        for check in checks
    ]
    return table(header, lines, "llrrrrrrrrl")


def looks_table(looks: Sequence[Look]) -> str:
    """One line for each look of a sequential gate; empty for one that looked once."""
    if not looks:
        return ""
    header = [
        "look",
        "alphabet",
        "documents",
        "share",
        "Δ points",
        "z of a fall",
        "boundary",
        "z of a pass",
        "boundary",
        "verdict",
    ]
    shares = sorted({each.share for each in looks})
    lines = [
        [
            str(shares.index(each.share) + 1),
            orthography(each.orthography),
            str(each.n_pairs),
            percent(each.share, 0),
            points(each.delta),
            f"{each.z_regression:.2f}",
            f"{each.boundary_regression:.2f}",
            f"{each.z_pass:.2f}",
            f"{each.boundary_pass:.2f}",
            each.verdict if each.verdict == "inconclusive" else f"**{each.verdict}**",
        ]
        for each in looks
    ]
    return table(header, lines, "rlrrrrrrrl")


def _name(check: Check) -> str:
    name = escape(check.name)
    return f"**{name}**" if check.kind == "suite" else f"{check.kind}: {name}" if check.kind != "task" else name


def _title(check: Check) -> str:
    return f"{_name(check)}, {orthography(check.orthography)}"


def for_reader(result: GateResult) -> str:
    """What a terminal shows: the checks, what didn't pass, and the verdict last."""
    notes = "".join(f"{escape(note)}\n" for note in result.notes)
    verdict = f"{result.verdict}: {MEANINGS[result.verdict]}"
    parts = checks_table(result.checks), findings(result), looks_table(result.looks), notes, verdict
    return "\n".join(part for part in parts if part)


def failed_summary(message: str) -> str:
    """What a summary says of a gate that came to no verdict."""
    return f"## Gate: no verdict\n\n{escape(message, 2000)}\n\n"


# JUnit.


def junit(result: GateResult) -> str:
    """The gate as JUnit XML."""
    cases = []
    for check in result.checks:
        case = _case(f"{check.kind}: {check.name}", f"{SUITE}.{check.orthography}")
        message = _legal(check.message)
        if check.verdict == "regression":
            outcome = ElementTree.SubElement(case, "failure", {"type": "regression", "message": message})
            outcome.text = _legal(_numbers(check))
        elif check.verdict == "inconclusive":
            ElementTree.SubElement(case, "skipped", {"message": f"inconclusive: {message}"})
        cases.append(case)
    properties = {
        "verdict": result.verdict,
        "base": result.base.run_id,
        "cand": result.cand.run_id,
        "base model": result.base.model_name,
        "cand model": result.cand.model_name,
    }
    return _document(cases, properties)


def failed_junit(kind: str, message: str, details: str = "") -> str:
    """JUnit XML of a gate that came to no verdict: one case with an error."""
    case = _case("verdict", SUITE)
    error = ElementTree.SubElement(case, "error", {"type": _legal(kind), "message": _legal(message)})
    error.text = _legal(details or message)
    return _document([case], {})


def _case(name: str, classname: str) -> ElementTree.Element:
    return ElementTree.Element("testcase", {"classname": _legal(classname), "name": _legal(name), "time": "0"})


def _document(cases: Sequence[ElementTree.Element], properties: dict[str, str]) -> str:
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": str(sum(case.find("error") is not None for case in cases)),
        "skipped": str(sum(case.find("skipped") is not None for case in cases)),
        "time": "0",
    }
    root = ElementTree.Element("testsuites", {"name": SUITE, **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": SUITE, **counts})
    if properties:
        listed = ElementTree.SubElement(suite, "properties")
        for name, value in properties.items():
            ElementTree.SubElement(listed, "property", {"name": name, "value": _legal(value)})
    suite.extend(cases)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _numbers(check: Check) -> str:
    rows = {
        "base": percent(check.base),
        "candidate": percent(check.cand),
        "difference, points": points(check.delta),
        "limit, points": points(check.limit).lstrip("+"),
        "p": probability(check.p),
        "p adjusted": probability(check.p_adjusted),
        "documents": f"{check.n_pairs} ({check.n_unscored} unscored)",
    }
    return f"{check.message}\n" + "".join(f"{name}: {value}\n" for name, value in rows.items() if value != NONE)


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)


# Files.


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Turns what keeps a file from being written into one line that names the option."""
    try:
        with disk_faults(path):
            yield
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}. Name a place that can be written.") from None


def write_junit(path: Path, text: str) -> Path:
    """Writes a JUnit file, whole or not at all."""
    with writing("--junit", path):
        return write_text(path, text)


def append_summary(path: Path, text: str) -> Path:
    """Adds to a summary, which may have others' text in it; on a failure it is left as it was."""
    with writing("--summary", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                file.write(text.encode("utf-8", "replace"))
            except BaseException:
                os.truncate(file.fileno(), size)
                raise
    return path
