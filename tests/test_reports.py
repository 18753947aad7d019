"""What people read: numbers, hostile text in tables, and the report of two runs.

Cases by hand: cases/format.json. Markdown is read by markdown-it, not by our own eyes.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hostile import HOSTILE, visible
from synthetic import Asked, Asker, made_run

from harness.comparison import compare
from harness.records import MACRO, CurvePoint, FormatSplit, Series, Side, SliceRow, SplitRow
from harness.runs import RunDirectory
from reports import format as shown
from reports.format import escape, table
from reports.markdown import (
    ANSWER_LENGTH,
    PROMPT_LENGTH,
    SHOWN_ITEMS,
    headline_table,
    render,
    render_series,
    write_report,
    write_series,
)
from reports.tables import run_tables

markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py, which rich brings along, isn't installed")

CASES = json.loads((Path(__file__).parent / "cases" / "format.json").read_text(encoding="utf-8"))
NUMBERS = [(name, arguments, text) for name, rows in CASES.items() for arguments, text in rows]

RAW_MARKUP = re.compile(r"[<>\[\]|`*_~@$!#\\\n\r\t]|(?i:https?:|ftp:|www\.|mailto:|javascript:|data:)")
ENTITY = re.compile(r"&(?:amp|lt|gt|#\d+);")


def parsed(text: str) -> list[Any]:
    """The tokens of Markdown with tables, strike-through and raw HTML, as the worst reader takes it."""
    parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return list(parser.parse(text))


def tables(text: str) -> list[list[list[Any]]]:
    """The tables of a Markdown text: rows of cells, each cell its inline token."""
    found: list[list[list[Any]]] = []
    for token in parsed(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level >= 4:
            found[-1][-1].append(token)
    return found


def kinds(tokens: list[Any]) -> set[str]:
    """The kinds of all tokens, those inside lines too."""
    return {token.type for token in tokens} | {child.type for token in tokens for child in token.children or ()}


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(("name", "arguments", "text"), NUMBERS)
def test_number_is_written_as_the_table_says(name: str, arguments: list[Any], text: str) -> None:
    assert getattr(shown, name)(*arguments) == text


def test_no_number_is_written_with_a_hyphen_for_a_minus() -> None:
    assert "-" not in shown.points(-0.5) + shown.interval((-0.5, -0.1))


# ---------------------------------------------------------------- hostile text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_markup_is_left_raw_in_escaped_text(text: str) -> None:
    assert RAW_MARKUP.findall(ENTITY.sub("", escape(text))) == []


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_escaped_text_can_be_written_to_a_file(text: str) -> None:
    escape(text).encode("utf-8")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_in_a_table_stays_one_cell_of_plain_text(text: str) -> None:
    written = table(["left", "middle", "right"], [["1", escape(text), "2"], ["3", "4", "5"]], "lrl")
    tokens = parsed(written)
    (rows,) = tables(written)
    assert [len(row) for row in rows] == [3, 3, 3]
    assert [rows[1][0].content, rows[1][2].content] == ["1", "2"]
    assert [cell.content for cell in rows[2]] == ["3", "4", "5"]
    assert kinds(rows[1][1:2]) <= {"inline", "text"}
    assert not kinds(tokens) & {"html_block", "html_inline", "link_open", "image", "code_inline", "fence"}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_reader_sees_the_text_itself(text: str) -> None:
    (rows,) = tables(table(["a", "b"], [[escape(text), "2"]]))
    seen = "".join(child.content for child in rows[1][0].children)
    # HTML shows any run of white space as one space.
    assert seen.split() == visible(text).split()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_in_a_heading_or_a_note_stays_plain(text: str) -> None:
    tokens = parsed(f"# {escape(text)} against base\n\n> Note {escape(text)}\n\nEnd\n")
    assert [token.type for token in tokens if token.type.endswith("_open")] == [
        "heading_open",
        "blockquote_open",
        "paragraph_open",
        "paragraph_open",
    ]
    assert kinds([token for token in tokens if token.type == "inline"]) <= {"inline", "text"}


def test_characters_that_cannot_be_seen_are_named() -> None:
    assert escape("a\u202eb\x00c\ud800d\u200be\u2028f") == ("a⟨U+202E⟩b⟨U+0000⟩c⟨U+D800⟩d⟨U+200B⟩e⟨U+2028⟩f")


def test_uzbek_text_is_left_as_it_is() -> None:
    assert escape("Oʻzbekiston — maʼno, ўзбек (1991)") == "Oʻzbekiston — maʼno, ўзбек (1991)"


@pytest.mark.parametrize("character", ["x", "|", "<", "\n", "\x00", "ʻ"])
def test_answer_of_a_megabyte_is_cut_and_its_length_said(character: str) -> None:
    cut = escape(character * 1_000_000, 400)
    assert cut.endswith("… (1,000,000 characters)")
    # The longest way to write one character is ⟨U+0000⟩.
    assert len(cut) <= 400 * len("⟨U+0000⟩") + len("… (1,000,000 characters)")


def test_text_as_long_as_the_limit_is_whole() -> None:
    assert escape("x" * 400, 400) == "x" * 400
    assert escape("x" * 401, 400) == "x" * 400 + "… (401 characters)"


def test_cut_is_made_in_the_text_and_never_in_an_entity() -> None:
    for limit in range(1, 6):
        assert ENTITY.sub("", escape("<<<<<<<", limit)) == "… (7 characters)"


# ---------------------------------------------------------------- the report of two runs


def two_runs(folder: Path, *, hostile: str = "javob", n: int = 6, names: tuple[str, str] = ("base", "tuned")) -> Any:
    """A base and a tuned run: n gained, two lost in Latin, half of that in Cyrillic, one answer missing."""
    count = n + 6

    def task(values: list[float | None], orthography: str, answers: list[str | None]) -> Asked:
        return Asked(
            {"acc": values, "f1": [None if value is None else value / 2 for value in values]},
            orthography=orthography,
            baselines={"majority": 0.125, "longest option": 0.25, "word overlap": 0.2},
            item_ids=[f"topic-{number:03d}" for number in range(count)],
            prompts=[f"Savol {number}: {hostile}" for number in range(count)],
            targets=[f"toʻgʻri {hostile}"] * count,
            responses=answers,
        )

    said: list[str | None] = [hostile] * (count - 1) + [None]
    base = [0.0] * n + [1.0] * 4 + [0.0, None]
    cand = [1.0] * n + [0.0] * 2 + [1.0] * 2 + [0.0, 1.0]
    one = made_run(
        folder / "base",
        task(base, "latin", said),
        task([0.0] * count, "cyrillic", said),
        by=Asker(names[0], hardware={"processor": hostile[:200], "cores": 2, "memory_gib": 8}),
    )
    two = made_run(
        folder / "cand",
        task(cand, "latin", said),
        task([1.0] * (n // 2) + [0.0] * (count - n // 2), "cyrillic", said),
        by=Asker(names[1], adapter=hostile[:200] or None, git_commit="abc+"),
    )
    return one, two, compare(one, two)


def sections(text: str) -> list[str]:
    tokens = parsed(text)
    return [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]


def cells(table_of: list[list[Any]]) -> list[list[str]]:
    return [["".join(child.content for child in cell.children) for cell in row] for row in table_of]


def report(runs: tuple[RunDirectory, RunDirectory, Any]) -> str:
    one, two, comparison = runs
    return render(comparison, one, two)


def test_report_has_headline_overall_other_metrics_alphabets_items_and_provenance(tmp_path: Path) -> None:
    assert sections(report(two_runs(tmp_path))) == [
        "tuned against base",
        "Primary metrics",
        "Macro average",
        "Other metrics",
        "Alphabets",
        "Gained",
        "Lost",
        "Provenance",
    ]


def test_headline_shows_each_primary_metric_with_its_numbers(tmp_path: Path) -> None:
    *_, comparison = two_runs(tmp_path)
    (rows,) = tables(headline_table(comparison))
    header, latin, cyrillic = cells(rows)
    said = dict(zip(header, latin, strict=True))
    # 11 documents scored by both, 4 right in the base, 8 in the candidate, 6 gained and 2 lost: the variance
    # of a difference is (8 - 16/11) / 10, its mean's error .2439, t of 10 degrees 2.2281; p = 2 · 37/256.
    assert said == {
        "task": "uz_topic",
        "alphabet": "Latin",
        "metric": "acc",
        "baseline": "25.0 % longest option",
        "base": "36.4 %",
        "tuned": "72.7 %",
        "Δ points": "+36.4",
        "95 %": "[−18.0, +90.7]",
        "p": ".289",
        "p adjusted": ".289",
        "n": "11 (1 unscored)",
        "+ / −": "6 / 2",
        "detectable": "± 68.3",
        "verdict": "unclear",
    }
    assert cyrillic[:6] == ["uz_topic", "Cyrillic", "acc", "25.0 % longest option", "0.0 %", "25.0 %"]


def test_verdicts_are_counted_in_a_sentence(tmp_path: Path) -> None:
    assert (
        "Of 2 primary results 0 are better, 0 worse, 0 the same within ± 3.0 points, and 2 unclear: "
        "the data can't tell."
    ) in report(two_runs(tmp_path))


def test_sure_verdict_stands_out(tmp_path: Path) -> None:
    *_, comparison = two_runs(tmp_path, n=40)
    assert comparison.rows[0].verdict == "better"
    assert "| **better** |" in headline_table(comparison)


def test_gained_and_lost_tables_show_question_and_both_answers(tmp_path: Path) -> None:
    text = report(two_runs(tmp_path))
    gained, lost = tables(text)[4:6]
    assert cells(gained)[0] == ["item", "question", "wanted", "base: base", "tuned: tuned"]
    assert [row[0] for row in cells(gained)[1:]] == [
        *(f"topic-{number:03d}" for number in range(6)),
        *(f"topic-{number:03d} (Cyrillic)" for number in range(3)),
    ]
    assert [row[0] for row in cells(lost)[1:]] == ["topic-006", "topic-007"]
    assert cells(gained)[1][1:] == ["Savol 0: javob", "toʻgʻri javob", "javob", "javob"]
    assert "## Gained\n\n9 of 9 items.\n" in text
    assert "## Lost\n\n2 of 2 items.\n" in text


def test_items_that_one_run_left_unscored_are_neither_gained_nor_lost(tmp_path: Path) -> None:
    assert "topic-011" not in report(two_runs(tmp_path))


def test_many_items_are_drawn_the_same_way_each_time(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, n=40)
    text = report(runs)
    assert f"## Gained\n\n{SHOWN_ITEMS} of 60 items.\n" in text
    gained = cells(tables(text)[-3])
    assert len(gained) == 1 + SHOWN_ITEMS
    assert report(runs) == text


def test_report_without_gains_says_so_and_has_no_empty_table(tmp_path: Path) -> None:
    one = made_run(tmp_path / "one", Asked({"acc": [1.0, 0.0]}))
    text = report((one, one, compare(one, one)))
    assert "## Gained\n\n0 of 0 items.\n" in text
    assert sections(text) == [
        "base-model against base-model",
        "Primary metrics",
        "Macro average",
        "Gained",
        "Lost",
        "Provenance",
    ]
    assert "> Both runs are of the same model.\n" in text


def test_missing_and_empty_answers_are_told_apart(tmp_path: Path) -> None:
    asked = Asked({"acc": [0.0, 0.0]}, responses=[None, " \t "])
    one = made_run(tmp_path / "base", asked)
    two = made_run(tmp_path / "cand", Asked({"acc": [1.0, 1.0]}), by=Asker("tuned"))
    gained = cells(tables(report((one, two, compare(one, two))))[2])
    assert [row[3] for row in gained[1:]] == ["(no answer)", "(empty)"]


def test_graded_answers_carry_their_score(tmp_path: Path) -> None:
    one = made_run(tmp_path / "base", Asked({"chrf": [0.25, 0.0]}, task="uz_summ"))
    two = made_run(tmp_path / "cand", Asked({"chrf": [0.5, 1.0]}, task="uz_summ"), by=Asker("tuned"))
    gained = cells(tables(report((one, two, compare(one, two))))[2])
    assert [row[3:] for row in gained[1:]] == [["javob · 0.25", "javob · 0.50"], ["javob", "javob"]]


def test_alphabets_table_pairs_each_model_with_its_own_latin(tmp_path: Path) -> None:
    gaps = cells(tables(report(two_runs(tmp_path)))[3])
    assert gaps[0] == ["model", "task", "metric", "alphabet", "Latin", "other", "gap", "95 %", "p", "items"]
    # The base: 4 of 11 in Latin, none in Cyrillic. The tuned one: 9 of 12, and 3 of 12.
    assert gaps[1][:7] == ["base", "uz_topic", "acc", "Cyrillic", "36.4 %", "0.0 %", "−36.4"]
    assert gaps[2][:7] == ["tuned", "uz_topic", "acc", "Cyrillic", "75.0 %", "25.0 %", "−50.0"]
    assert [gap[9] for gap in gaps[1:]] == ["11", "12"]


def test_slices_table_shows_both_models_on_each_part(tmp_path: Path) -> None:
    one, two, comparison = two_runs(tmp_path)
    part = SliceRow(
        *("uz_topic", "latin", "p1", "acc", "type", "a|b"),
        *(0.25, 0.5, 0.25, (0.125, 0.375), 0.04, 40, 40, 12, 2, True),
    )
    text = report((one, two, replace(comparison, slices=(part,))))
    (rows,) = (cells(found) for found in tables(text) if cells(found)[0][3:5] == ["by", "part"])
    assert rows[1:] == [
        [
            "uz_topic",
            "Latin",
            "acc",
            "type",
            "a|b",
            "25.0 %",
            "50.0 %",
            "+25.0",
            "[+12.5, +37.5]",
            ".040",
            "40",
            "12 / 2",
        ]
    ]


def made_series(name: str = "base") -> Series:
    sides = tuple(
        Side(f"run-{each}", each, each, None, "none", form, "key", False)
        for each, form in ((name, "plain"), (name, "alpaca"), (f"{name}-tuned", "alpaca"))
    )
    points = (
        CurvePoint(0, MACRO, "latin", "", 0.25, (0.2, 0.3), None, None, None, 5),
        CurvePoint(2, MACRO, "latin", "", 0.375, (0.325, 0.425), 0.125, (0.1, 0.15), 0.0001, 5),
        CurvePoint(0, "uz_topic", "latin", "acc", 0.5, None, None, None, None, 48),
        CurvePoint(2, "uz_topic", "latin", "acc", 0.75, (0.6, 0.9), 0.25, (0.1, 0.4), 0.002, 48),
    )
    row = SplitRow("uz_topic", "latin", "acc", 0.25, (0.1, 0.4), 0.0625, (0.0, 0.125), 0.1875, (0.05, 0.325), 48)
    return Series(sides, points, (FormatSplit(sides[0], sides[1], sides[2], (row,)),))


def test_series_shows_its_curve_and_splits_the_gain() -> None:
    text = render_series(made_series())
    curve, split = (cells(found) for found in tables(text))
    assert ["|".join(row) for row in curve[1:]] == [
        "1. base|macro average|Latin|—|25.0 %|[20.0, 30.0]|—|—|—|5 tasks",
        "3. base-tuned|macro average|Latin|—|37.5 %|[32.5, 42.5]|+12.5|[+10.0, +15.0]|< .001|5 tasks",
        "1. base|uz_topic|Latin|acc|50.0 %|—|—|—|—|48",
        "3. base-tuned|uz_topic|Latin|acc|75.0 %|[60.0, 90.0]|+25.0|[+10.0, +40.0]|.002|48",
    ]
    assert split[0][3:] == ["total", "95 %", "format", "95 %", "rest", "95 %", "n"]
    assert split[1][:5] == ["uz_topic", "Latin", "acc", "+25.0", "[+10.0, +40.0]"]
    assert split[1][5:] == ["+6.2", "[0.0, +12.5]", "+18.8", "[+5.0, +32.5]", "48"]
    assert "From base (plain) to base-tuned (alpaca)." in text


def test_series_lies_beside_its_curves(tmp_path: Path) -> None:
    text = write_series(made_series(), tmp_path / "series.md").read_text(encoding="utf-8")
    pictures = [child for token in parsed(text) for child in token.children or () if child.type == "image"]
    assert [(picture.attrs["src"], html.unescape(picture.content)) for picture in pictures] == [
        ("plots/curve-1.svg", "macro average, Latin"),
        ("plots/curve-2.svg", "uz_topic, acc, Latin"),
    ]
    assert all((tmp_path / picture.attrs["src"]).is_file() for picture in pictures)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_series_of_hostile_names_keeps_its_tables(text: str) -> None:
    rendered = render_series(made_series(text))
    assert [len(row) for found in tables(rendered) for row in found] == [10] * 7
    assert not kinds(parsed(rendered)) & {"html_block", "html_inline", "link_open", "image", "code_inline", "fence"}


def in_prompts(first: list[float], second: list[float], task: str = "uz_topic") -> list[Asked]:
    items = [f"topic-{number}" for number in range(len(first))]
    sides = {"p1": first, "p2": second}
    return [Asked({"acc": values}, task, prompt_id=name, item_ids=items) for name, values in sides.items()]


def test_prompts_table_shows_mean_spread_and_worst_of_both(tmp_path: Path) -> None:
    one = made_run(tmp_path / "base", *in_prompts([1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]))
    two = made_run(tmp_path / "cand", *in_prompts([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]), by=Asker("tuned"))
    text = report((one, two, compare(one, two)))
    (row,) = (row for found in tables(text) for row in cells(found)[1:] if cells(found)[0][3:4] == ["prompts"])
    # Of two values 25 and 50 points apart the standard deviation is 25/√2.
    assert row[:8] == ["uz_topic", "Latin", "acc", "2", "37.5 % ± 17.7", "25.0 % p1", "87.5 % ± 17.7", "75.0 % p2"]
    assert (row[8], row[11]) == ("+50.0", "+25.0 … +75.0")


def test_report_of_one_prompt_has_no_prompts_table(tmp_path: Path) -> None:
    assert "## Prompts" not in report(two_runs(tmp_path))


def test_tables_of_one_run_show_scores_prompts_and_alphabets(tmp_path: Path) -> None:
    turned = Asked({"acc": [0.0, 0.0]}, orthography="cyrillic", item_ids=["topic-0", "topic-1"])
    text = run_tables(made_run(tmp_path / "run", *in_prompts([1.0, 0.0], [1.0, 1.0]), turned))
    scores, prompts, gaps = (cells(found) for found in tables(text))
    assert [row[:4] for row in scores[1:]] == [
        ["uz_topic", "Latin", "acc", "50.0 %"],
        ["uz_topic p2", "Latin", "acc", "100.0 %"],
        ["uz_topic", "Cyrillic", "acc", "0.0 %"],
    ]
    assert prompts[1][:5] == ["uz_topic", "Latin", "acc", "2", "75.0 %"]
    assert prompts[1][-1] == "50.0 % p1"
    assert gaps[1][:6] == ["uz_topic", "acc", "Cyrillic", "50.0 %", "0.0 %", "−50.0"]


def test_tables_of_a_limited_run_say_so(tmp_path: Path) -> None:
    whole, part = Asked({"acc": [1.0, 0.0]}), Asked({"acc": [1.0, 0.0]}, n_all=48)
    assert "limited" not in run_tables(made_run(tmp_path / "whole", whole))
    assert "limited: a part of the documents" in run_tables(made_run(tmp_path / "part", part))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_name_of_a_model_stays_plain_in_the_tables_of_a_run(tmp_path: Path, text: str) -> None:
    tokens = parsed(run_tables(made_run(tmp_path / "run", Asked({"acc": [1.0, 0.0]}), by=Asker(text or "model"))))
    assert not kinds(tokens) & {"html_block", "html_inline", "link_open", "image", "code_inline", "fence"}


def test_provenance_says_what_was_run_and_where(tmp_path: Path) -> None:
    provenance = {row[0]: row[1:] for row in cells(tables(report(two_runs(tmp_path)))[-1])}
    assert provenance["run"] == ["base", "cand"]
    assert provenance["model"] == ["base", "tuned"]
    assert provenance["adapter"] == ["—", "javob"]
    assert provenance["prompt format"] == ["plain", "plain"]
    assert provenance["took"] == ["1 min 15 s", "1 min 15 s"]
    assert provenance["machine"] == ["javob, 2 cores, 8 GiB", "—"]
    assert provenance["commit"] == ["—", "abc+"]
    assert provenance["versions"] == ["python 3.11.7", "python 3.11.7"]


def test_runs_asked_differently_say_so_before_any_number(tmp_path: Path) -> None:
    one = made_run(tmp_path / "base", Asked({"acc": [1.0, 0.0]}))
    two = made_run(
        tmp_path / "cand",
        Asked({"acc": [1.0, 1.0]}, asked_as="alpaca"),
        by=Asker("t", prompt_format="alpaca"),
    )
    text = report((one, two, compare(one, two)))
    headline = text.index("**Asked differently:** the base in the format `plain`, the candidate in `alpaca`.")
    assert headline < text.index("## Primary metrics")


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("harmless")
    one, two, comparison = two_runs(folder)
    return write_report(comparison, one, two, folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_report_of_hostile_runs_keeps_its_sections_tables_and_columns(tmp_path: Path, harmless: str, text: str) -> None:
    one, two, comparison = two_runs(tmp_path, hostile=text, names=(f"a{text}", f"b{text}"))
    path = write_report(comparison, one, two, tmp_path / "report.md")
    hostile = path.read_text(encoding="utf-8")
    assert sections(hostile)[1:] == sections(harmless)[1:]
    assert [[len(row) for row in rows] for rows in tables(hostile)] == [
        [len(row) for row in rows] for rows in tables(harmless)
    ]
    assert kinds(parsed(hostile)) == kinds(parsed(harmless))
    # The only images are the plots, which lie beside the report and are whole XML.
    pictures = [child for token in parsed(hostile) for child in token.children or () if child.type == "image"]
    assert [picture.attrs["src"] for picture in pictures] == [
        "plots/deltas.svg",
        "plots/scores.svg",
        "plots/alphabets.svg",
    ]
    for picture in pictures:
        assert ElementTree.parse(tmp_path / picture.attrs["src"]).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert picture.content.startswith(("Differences", "Scores", "Gaps"))


def test_report_of_megabyte_answers_stays_a_page(tmp_path: Path) -> None:
    huge = "<b>|`[\n" * 150_000
    asked = Asked({"acc": [0.0]}, prompts=[huge], targets=[huge], responses=[huge])
    one = made_run(tmp_path / "base", asked)
    two = made_run(tmp_path / "cand", replace(asked, values={"acc": [1.0]}), by=Asker("tuned"))
    text = report((one, two, compare(one, two)))
    # Question, wanted and two answers, a character at its longest, and the page around them.
    assert len(text) < (PROMPT_LENGTH + 3 * ANSWER_LENGTH) * len("⟨U+0000⟩") + 5_000
    assert text.count("… (1,050,000 characters)") == 4
