"""What a check of training rows found: errors, warnings, and what the rows are like.

| error | rows | first lines |
| --- | --: | --- |
| items of uz_topic | 3 | 12, 40, 41: holds item topic-003 of uz_topic (0.97 of its text) |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.format import escape, percent, table
from reports.tables import ORTHOGRAPHY_NAMES

LINES = 5
"""Lines that a finding names; the record has more."""

ALPHABET_NAMES = {**ORTHOGRAPHY_NAMES, "latin_any": "either Latin", "mixed": "mixed", "none": "no letters"}


def render_check(report: Mapping[str, Any]) -> str:
    """A check's report (train.check.DataReport as a dictionary) as Markdown."""
    rows = f"{report['n_rows']:,} row{'s' if report['n_rows'] != 1 else ''}"
    verdict = "training refuses this" if report["errors"] else "nothing that training refuses"
    parts = [f"{escape(report['path'])}: {rows}, {verdict}\n"]
    parts += [_findings(kind, report[f"{kind}s"]) for kind in ("error", "warning") if report[f"{kind}s"]]
    return "\n".join([*parts, "".join(f"- {line}\n" for line in _facts(report))])


def _findings(kind: str, findings: Sequence[Mapping[str, Any]]) -> str:
    return table([kind, "n", "first lines"], [[escape(f["what"]), f"{f['n']:,}", _places(f)] for f in findings], "lrl")


def _places(finding: Mapping[str, Any]) -> str:
    places = finding["places"][:LINES]
    lines = ", ".join(str(place["line"]) for place in places if place["line"] is not None)
    says = escape(places[0]["says"], 200)
    return f"{lines}: {says}" if lines else says


def _facts(report: Mapping[str, Any]) -> list[str]:
    facts = []
    if report["alphabets"]:
        total = sum(report["alphabets"].values())
        shares = (f"{ALPHABET_NAMES[name]} {percent(n / total)}" for name, n in report["alphabets"].items())
        facts.append(f"answers by alphabet: {', '.join(shares)}")
    if report["n_told"]:
        share = percent(report["n_uzbek"] / report["n_told"])
        facts.append(f"answers in Uzbek: {share} of the {report['n_told']:,} that are long enough to tell")
    if report["marks"]:
        marks = (f"U+{ord(mark):04X} {escape(mark)} {n:,}" for mark, n in report["marks"].items())
        facts.append(f"marks of oʻ, gʻ and ʼ in answers: {', '.join(marks)}")
    if report["lengths"]:
        n = report["lengths"]
        facts.append(
            f"tokens a row: mean {n['mean']}, median {n['p50']}, 95 % below {n['p95'] + 1:,}, longest {n['max']:,}; "
            f"{n['tokens_per_word']} a word"
        )
    facts.append(f"looked for the items of {', '.join(report['tasks'])}")
    if report["untold"]:
        facts.append(f"too short to be told in a row: {len(report['untold'])} items, such as {report['untold'][0]}")
    if report["unread"]:
        reasons = dict.fromkeys(report["unread"].values())
        facts.append(f"not looked for: {', '.join(report['unread'])} ({escape(next(iter(reasons)))})")
    return facts
