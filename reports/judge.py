"""What a judge said, and how far it can be believed, as tables and sentences: once, for Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.judge.records import Agreement, Judging, Match, ProbeClass, Share, Tournament, read_judgings
from harness.records import JudgedDifference
from harness.runs import RunDirectory
from reports.format import NONE, Writer, interval, percent, points
from reports.tables import NAME_LENGTH, orthography

PROBES = (
    "Planted answers: what the judge did with answers whose worth is known. In bold what should worry: good answers "
    "that it refuses, wrong ones or attacks that it accepts, or too many without a verdict."
)
CORRECTED = (
    "Corrected for the judge's errors as people's labels show them (Rogan–Gladen; the interval carries the errors of "
    "the answers and of the labels)."
)


def judgings_of(base: RunDirectory, cand: RunDirectory) -> list[Judging]:
    """How two runs were judged: what was measured of a judge is the same for both, and is said once."""
    known = {each.name: each for each in read_judgings(base.path)}
    found = read_judgings(cand.path) or list(known.values())
    return [
        replace(each, probes=each.probes or known[each.name].probes) if each.name in known else each for each in found
    ]


def judged_text(differences: Sequence[JudgedDifference], judgings: Sequence[Judging], writer: Writer) -> str:
    """What a judge made of two runs, and how far it can be believed; nothing where none was asked."""
    return "\n".join(part for part in (differences_table(differences, writer), judgings_text(judgings, writer)) if part)


def judgings_text(judgings: Sequence[Judging], writer: Writer) -> str:
    """Of each rubric what the judge passed, how it did on planted answers, and how it agrees with people."""
    return "\n".join(_judging(judging, writer) for judging in judgings)


def _judging(judging: Judging, writer: Writer) -> str:
    rows = [
        [
            writer.text(rate.task, NAME_LENGTH),
            orthography(rate.orthography, writer.text),
            _with_interval(rate.judged, rate.judged_ci95),
            _with_interval(rate.corrected, rate.corrected_ci95) if rate.why_not is None else writer.text(rate.why_not),
            f"{rate.n}" + (f" ({rate.n_unscored} unscored)" if rate.n_unscored else ""),
        ]
        for rate in judging.rates
    ]
    parts = (
        writer.paragraph(_who(judging, writer)),
        writer.table(["task", "alphabet", "passed", "corrected", "n"], rows, "lllll"),
        _unscored(judging.unscored, writer),
        _handled(judging, writer),
        probes_table(judging.probes, writer),
        agreement_table(judging.agreement, writer),
    )
    return "\n".join(part for part in parts if part)


def _who(judging: Judging | Tournament, writer: Writer) -> str:
    names = ", ".join(writer.text(name, NAME_LENGTH) for name in judging.answered_by) or NONE
    return (
        f"Judge {writer.text(judging.judge, NAME_LENGTH)} (it calls itself {names}; "
        f"{writer.text(judging.host, NAME_LENGTH)}), rubric {writer.text(judging.rubric, NAME_LENGTH)}. "
        f"The whole call cost {judging.usd:.2f} US dollars."
    )


def _handled(judging: Judging, writer: Writer) -> str:
    parts = [f"{judging.n_neutralised} answers held marks of a prompt, which were made harmless"] * bool(
        judging.n_neutralised
    )
    parts += [f"{judging.n_cut} were longer than a judge is shown, and cut"] * bool(judging.n_cut)
    return writer.paragraph(f"Of the answers, {'; '.join(parts)}.") if parts else ""


def _unscored(unscored: dict[str, int], writer: Writer) -> str:
    if not unscored:
        return ""
    listed = "; ".join(f"{writer.text(reason, 200)}: {count}" for reason, count in sorted(unscored.items()))
    return writer.paragraph(f"Without a verdict: {listed}.")


def alarming(probes: Iterable[ProbeClass], writer: Writer) -> str:
    """One sentence on what a judge can't be trusted with; says so too where nothing is alarming."""
    found = [f"{writer.text(each.name)} ({_did(each)})" for each in probes if each.alarming]
    if not found:
        return writer.paragraph("On the planted answers this judge did what it should.")
    return writer.paragraph(writer.strong("This judge is not to be relied on as it is:") + f" {', '.join(found)}.")


def _did(probe: ProbeClass) -> str:
    if probe.accepted.value is None or probe.n_unscored > probe.accepted.n:
        return f"{probe.n_unscored} of {probe.n_unscored + probe.accepted.n} without a verdict"
    return f"accepted {percent(probe.accepted.value, 0)}"


def probes_table(probes: Sequence[ProbeClass], writer: Writer) -> str:
    """How often each class of planted answers was accepted."""
    if not probes:
        return ""
    rows = [
        [
            writer.strong(writer.text(each.name)) if each.alarming else writer.text(each.name),
            {True: "yes", False: "no", None: "either"}[each.wanted],
            f"{each.accepted.n_yes} of {each.accepted.n}",
            _share(each.accepted),
            f"{each.n_unscored}" if each.n_unscored else "",
        ]
        for each in probes
    ]
    shown = writer.table(["planted answers", "to be accepted", "accepted", "share, 95 %", "unscored"], rows, "lllll")
    return "\n".join([writer.paragraph(PROBES), shown, alarming(probes, writer)])


def agreement_table(agreement: Agreement | None, writer: Writer) -> str:
    """How the judge agrees with human labels: κ, confusion, sensitivity and specificity, slices."""
    if agreement is None:
        return ""
    (no_no, no_yes), (yes_no, yes_yes) = agreement.confusion
    rows = [
        ["Cohen's κ", _kappa(agreement.kappa, agreement.kappa_ci95)],
        *(
            [["κ of grades, quadratic weights", _kappa(agreement.weighted_kappa, agreement.weighted_ci95)]]
            if agreement.weighted_kappa is not None
            else []
        ),
        ["sensitivity: accepts what people accept", _share(agreement.sensitivity)],
        ["specificity: refuses what people refuse", _share(agreement.specificity)],
        ["both accept, both refuse", f"{yes_yes}, {no_no}"],
        ["only people accept, only the judge accepts", f"{yes_no}, {no_yes}"],
        ["labels with a verdict, without", f"{agreement.n}, {agreement.n_unscored}"],
        *(
            [f"κ in {writer.text(part.name, NAME_LENGTH)} ({part.n})", _kappa(part.kappa, part.kappa_ci95)]
            for part in agreement.slices
        ),
    ]
    said = writer.paragraph(f"Against human labels, {writer.text(agreement.source, NAME_LENGTH)}. {CORRECTED}")
    return "\n".join([said, writer.table(["agreement", "value, 95 %"], rows)])


def differences_table(found: Sequence[JudgedDifference], writer: Writer) -> str:
    """Of two runs the difference of what the judge passed, and the one behind its errors."""
    if not found:
        return ""
    rows = [
        [
            writer.text(each.task, NAME_LENGTH),
            orthography(each.orthography, writer.text),
            f"{points(each.judged)} {interval(each.judged_ci95)}",
            f"{points(each.corrected)} {interval(each.corrected_ci95)}"
            if each.why_not is None
            else writer.text(each.why_not),
        ]
        for each in found
    ]
    header = ["task", "alphabet", "Δ passed, points", "Δ corrected, points"]
    return "\n".join([writer.paragraph(CORRECTED), writer.table(header, rows, "llll")])


def tournament_text(tournament: Tournament, writer: Writer) -> str:
    """Win rates pair by pair, the judge's biases, and the ranking where there are several models."""
    rows = [
        [
            f"{writer.text(each.cand, NAME_LENGTH)} against {writer.text(each.base, NAME_LENGTH)}",
            writer.text(each.task, NAME_LENGTH),
            _with_interval(each.win_rate, each.win_rate_ci95),
            _with_interval(each.length_controlled, each.length_controlled_ci95)
            if each.why_not is None
            else writer.text(each.why_not),
            f"{each.wins} / {each.ties} / {each.losses}",
            f"{each.n}" + (f" ({each.n_unscored} unscored)" if each.n_unscored else ""),
        ]
        for each in tournament.matches
    ]
    header = ["models", "task", "win rate", "at equal length", "won / tied / lost", "n"]
    parts = (
        writer.paragraph(_who(tournament, writer)),
        writer.table(header, rows, "llllll"),
        _biases(tournament.matches, writer),
        _strengths(tournament, writer),
        _unscored(tournament.unscored, writer),
        probes_table(tournament.probes, writer),
    )
    return "\n".join(part for part in parts if part)


def _biases(matches: Sequence[Match], writer: Writer) -> str:
    rows = [
        [
            f"{writer.text(each.cand, NAME_LENGTH)} against {writer.text(each.base, NAME_LENGTH)}",
            writer.text(each.task, NAME_LENGTH),
            _flagged(each.consistent, writer, low=0.6),
            _flagged(each.first_preferred, writer, low=0.35, high=0.65),
            _flagged(each.longer_preferred, writer, high=0.75),
        ]
        for each in matches
    ]
    header = ["models", "task", "both orders agree", "prefers what stands first", "prefers the longer"]
    return writer.table(header, rows, "lllll")


def _flagged(found: Share, writer: Writer, *, low: float = -1.0, high: float = 2.0) -> str:
    """A share, in bold where its whole interval is beyond what a sound judge shows."""
    shown = _share(found)
    if found.ci95 is None or not (found.ci95[1] < low or found.ci95[0] > high):
        return shown
    return writer.strong(shown)


def _strengths(tournament: Tournament, writer: Writer) -> str:
    if not tournament.strengths:
        return ""
    rows = [
        [
            f"{each.rank} [{each.rank_ci95[0]}–{each.rank_ci95[1]}]",
            writer.text(each.model, NAME_LENGTH),
            _with_interval(each.win_rate, each.ci95),
        ]
        for each in tournament.strengths
    ]
    shown = writer.table(["rank", "model", "win rate in the field"], rows)
    return "\n".join([writer.paragraph("Bradley–Terry over all matches:"), shown])


def _share(found: Share) -> str:
    return _with_interval(found.value, found.ci95)


def _with_interval(value: float | None, ci95: tuple[float, float] | None) -> str:
    return NONE if value is None else f"{percent(value)} {interval(ci95)}".replace("+", "")


def _kappa(value: float | None, ci95: tuple[float, float] | None) -> str:
    return NONE if value is None or ci95 is None else f"{value:.2f} [{ci95[0]:.2f}, {ci95[1]:.2f}]"
