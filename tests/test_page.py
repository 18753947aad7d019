"""The page of a comparison and its plots, as text: policy, escaping, layout, which items it holds. In a real browser:
test_browser.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hostile import HOSTILE, visible
from synthetic import Asked, Asker, made_run

from harness.comparison import compare
from harness.records import MACRO, Comparison, CurvePoint, Series, Side, SliceRow
from harness.runs import RunDirectory
from reports import html, plots
from reports.html import render, write_page
from reports.items import Pair, draw, pairs
from reports.markdown import render as render_markdown
from reports.page import embedded, page, table, text
from reports.plots import Scale, steps

NAMES = {"html", "head", "meta", "title", "link", "style", "script", "body", "main", "noscript"}


class Reader(HTMLParser):
    """What stands in a document: its elements with attributes, and the text of each."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.comments: list[str] = []
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements:
            self.texts.append((self.elements[-1][0], data))

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text_of(self, tag: str) -> str:
        return "".join(data for name, data in self.texts if name == tag)


def hash_of(inline: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"


def policy_of(document: str) -> dict[str, str]:
    (content,) = (
        each["content"]
        for each in Reader(document).named("meta")
        if each.get("http-equiv") == "Content-Security-Policy"
    )
    assert content
    return dict(part.strip().split(" ", 1) for part in content.split(";"))


def data_of(document: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', document, re.DOTALL)
    return json.loads(found)


# ---------------------------------------------------------------- one document


def test_policy_names_the_style_and_the_script_by_their_hashes() -> None:
    document = page("x", "<p>x</p>", data={}, script=True)
    (style,) = re.findall(r"<style>(.*?)</style>", document, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", document, re.DOTALL)
    assert policy_of(document) == {
        "default-src": "'none'",
        "style-src": hash_of(style),
        "script-src": hash_of(script),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_policy_comes_before_anything_it_rules() -> None:
    document = page("x", "", script=True)
    assert document.index("Content-Security-Policy") < min(document.index("<style"), document.index("<script"))


def test_page_without_a_script_allows_none() -> None:
    document = page("x", "<p>x</p>")
    assert policy_of(document)["script-src"] == "'none'"
    assert "<script" not in document


def test_page_is_english_fits_phones_and_names_nothing_outside_itself() -> None:
    document = page("x", "<p>x</p>", script=True)
    reader = Reader(document)
    assert reader.named("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in reader.named("meta")
    assert [each.get("href") for each in reader.named("link")] == ["data:,"]
    # XML's name of SVG is no address that anybody asks for.
    assert not re.search(r"(?<!xmlns=\")https?://|url\(|@import", document)


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_between_tags_and_in_attributes_stays_text(hostile: str) -> None:
    reader = Reader(page(hostile, f"<p title=\"{text(hostile)}\" class='{text(hostile)}'>{text(hostile)}</p>"))
    assert {name for name, _ in reader.elements} <= NAMES | {"p"}
    assert reader.comments == []
    assert reader.named("p") == [{"title": visible(hostile), "class": visible(hostile)}]
    assert reader.text_of("p").strip() == visible(hostile).strip()
    assert reader.text_of("title").strip() == visible(hostile).strip()


def test_quotes_brackets_and_ampersands_are_entities() -> None:
    assert text("<a href=\"x\" id='y'>&amp;") == "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;amp;"


def test_characters_that_cannot_be_seen_are_named_in_html_too() -> None:
    assert text("a\u202eb\x00c\ud800d\ufffee") == "a⟨U+202E⟩b⟨U+0000⟩c⟨U+D800⟩d⟨U+FFFE⟩e"


def test_long_text_is_cut_and_its_length_said() -> None:
    assert text("<" * 1_000_000, 3) == "&lt;&lt;&lt;… (1,000,000 characters)"


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_data_come_back_as_they_were(hostile: str) -> None:
    value = {hostile: [hostile, None, 1.5, {"</script>": "<!-- <script>"}]}
    written = embedded(value)
    assert json.loads(written) == value
    assert not set("<>&\u2028\u2029") & set(written)
    written.encode("utf-8")


def test_data_cannot_end_their_script_element() -> None:
    document = page("x", "", data={"said": "</script><script>alert(1)</script><!--"}, script=True)
    assert len(Reader(document).named("script")) == 2
    assert data_of(document) == {"said": "</script><script>alert(1)</script><!--"}


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        embedded({"value": float("nan")})


def test_table_has_headings_of_columns_and_rows_in_a_box_that_scrolls() -> None:
    reader = Reader(table(["task", "n"], [["uz_topic", "48"], ["uz_qa", "24"]], "lr"))
    assert reader.named("div") == [{"class": "scroll", "tabindex": "0", "role": "group", "aria-label": "table"}]
    assert reader.named("th") == [
        {"scope": "col"},
        {"scope": "col", "class": "r"},
        {"scope": "row"},
        {"scope": "row"},
    ]
    assert reader.named("td") == [{"class": "r"}, {"class": "r"}]


# ---------------------------------------------------------------- plots


@pytest.mark.parametrize(
    ("value", "pixel"), [(-0.1, 100.0), (0.0, 200.0), (0.1, 300.0), (0.3, 500.0), (-0.2, 0.0), (0.05, 250.0)]
)
def test_scale_is_linear(value: float, pixel: float) -> None:
    assert Scale(-0.1, 0.3, 100, 500)(value) == pytest.approx(pixel)


def test_scale_may_run_upwards() -> None:
    upwards = Scale(0, 1, 200, 0)
    assert (upwards(0), upwards(0.25), upwards(1)) == (200, 150, 0)


@pytest.mark.parametrize(
    ("low", "high", "at_most", "ticks"),
    [
        (-0.1, 0.3, 8, [-0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.25]),
        (-0.1, 0.3, 9, [-0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (0.0, 1.0, 6, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.031, 0.029, 7, [-0.03, -0.02, -0.01, 0.0, 0.01, 0.02]),
        (0.412, 0.418, 5, [0.412, 0.414, 0.416, 0.418]),
    ],
)
def test_ticks_are_round_values_inside_the_scale(low: float, high: float, at_most: int, ticks: list[float]) -> None:
    if (low, at_most) == (-0.1, 8):
        # Nine multiples of .05 are one too many: the next step is .1.
        ticks = [-0.1, 0.0, 0.1, 0.2, 0.3]
    assert Scale(low, high, 0, 1).ticks(at_most) == pytest.approx(ticks)


def test_ticks_of_any_scale_are_few_and_inside() -> None:
    chance = random.Random(0)
    for _ in range(2_000):
        low = chance.uniform(-1, 1)
        scale = Scale(low, low + 10 ** chance.uniform(-6, 0.5), 0, 1)
        ticks = scale.ticks(7)
        assert 1 <= len(ticks) <= 7
        assert all(scale.low - 1e-9 <= tick <= scale.high + 1e-9 for tick in ticks)


def test_scale_over_one_value_has_room_around_it() -> None:
    scale = Scale.over([0.5, 0.5], 0, 100)
    assert (scale.low, scale.high, scale(0.5)) == (pytest.approx(0.49), pytest.approx(0.51), pytest.approx(50))


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["m-500", "m-1000", "m-1500"], [500, 1000, 1500]),
        (["checkpoint-1", "checkpoint-10"], [1, 10]),
        (["base", "m-500", "m-1000"], None),
        (["qwen2", "llama3"], None),
        (["m-1000", "m-500"], None),
        (["m-5", "m-5"], None),
        (["m-" + "9" * 1_000_000, "m-1"], None),
    ],
)
def test_steps_are_numbers_at_the_end_of_names_that_differ_in_nothing_else(
    names: list[str], numbers: list[int] | None
) -> None:
    assert steps(names) == numbers


def two_runs(folder: Path, hostile: str = "javob", n: int = 12) -> tuple[Comparison, RunDirectory, RunDirectory]:
    """Two thirds gained, one sixth lost; every text and name holds the same hostile part."""

    def asked(values: list[float | None], answer: str, orthography: str = "latin") -> Asked:
        count = len(values)
        return Asked(
            {"acc": values, f"f1{hostile}": values},
            f"uz_topic{hostile}",
            orthography=orthography,
            baselines={f"majority{hostile}": 0.25},
            item_ids=[f"topic-{number}{hostile}" for number in range(count)],
            prompts=[f"Savol {number} {hostile}" for number in range(count)],
            targets=[f"javob {hostile}"] * count,
            responses=[f"{answer} {hostile}"] * (count - 1) + [None],
            slices=[f"part {number % 2}{hostile}" for number in range(count)],
        )

    base: list[float | None] = [0.0] * (2 * n // 3) + [1.0] * (n // 3 - 1) + [None]
    cand: list[float | None] = [1.0] * (2 * n // 3) + [0.0] * (n // 6) + [1.0] * (n // 3 - n // 6)
    one = made_run(folder / "base", asked(base, "eski"), asked(base, "eski", "cyrillic"), by=Asker(f"base{hostile}"))
    two = made_run(
        folder / "cand",
        asked(cand, "yangi"),
        asked(base, "yangi", "cyrillic"),
        by=Asker(f"tuned{hostile}", adapter=f"out{hostile}"),
    )
    comparison = compare(one, two)
    part = SliceRow(
        *(f"uz_topic{hostile}", "latin", "p1", "acc", "type", f"part{hostile}"),
        *(0.25, 0.5, 0.25, (0.125, 0.375), 0.04, 40, 40, 12, 2, True),
    )
    return replace(comparison, slices=(part,), notes=(*comparison.notes, f"note {hostile}")), one, two


def series_of(name: str = "m") -> Series:
    sides = tuple(Side(f"r{n}", f"{name}-{n}00", name, None, "none", "plain", "key", False) for n in range(1, 4))
    points = [
        CurvePoint(n, task, "latin", metric, 0.25 + n / 8, (0.2 + n / 8, 0.3 + n / 8), None, None, None, 5)
        for task, metric in ((f"uz_topic{name}", "acc"), (MACRO, ""))
        for n in range(3)
    ]
    return Series(sides, tuple(points))


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("width", [plots.WIDE, plots.NARROW])
def test_forest_draws_each_interval_where_the_scale_says(tmp_path: Path, width: int) -> None:
    comparison, *_ = two_runs(tmp_path, n=60)
    drawn = parsed(plots.of_comparison(comparison)["deltas"].svg(width))
    ticks = {
        line.text: float(line.attrib["x"])
        for line in drawn.iter(f"{SVG}text")
        if line.get("class") == "soft middle" and line.text and not line.text.startswith("Δ")
    }
    last = max(ticks, key=lambda said: ticks[said])
    pixels = (ticks[last] - ticks["0"]) / (float(last) / 100)
    rows = [row for row in comparison.rows if row.primary]
    groups = [
        group
        for group in drawn.iter(f"{SVG}g")
        if group.get("class", "").split()[-1] in ("better", "worse", "same", "unclear")
    ]
    assert [group.get("class") for group in groups] == [
        rows[0].verdict,
        f"whole {comparison.overall['latin'].verdict}",
        rows[1].verdict,
        f"whole {comparison.overall['cyrillic'].verdict}",
    ]
    whisker = groups[0].find(f"{SVG}line")
    assert whisker is not None
    for end, value in zip(("x1", "x2"), rows[0].ci95, strict=True):
        # Coordinates are written with two digits.
        assert float(whisker.attrib[end]) == pytest.approx(ticks["0"] + value * pixels, abs=0.05)


def test_each_verdict_has_a_shape_of_its_own(tmp_path: Path) -> None:
    comparison, *_ = two_runs(tmp_path)
    row = comparison.rows[0]
    shapes = set()
    for verdict in ("better", "worse", "same", "unclear"):
        drawn = parsed(
            plots.of_comparison(replace(comparison, rows=(replace(row, verdict=verdict),), overall={}))["deltas"].svg()
        )
        (group,) = (each for each in drawn.iter(f"{SVG}g") if each.get("class") == verdict)
        (mark,) = (each for each in group if each.get("class") == f"mark {verdict}")
        points = [float(each.split(",")[1]) for each in mark.get("points", "").split()]
        shapes.add((mark.tag, points[0] < points[1] if points else None))
    assert len(shapes) == 4


def test_bars_are_as_long_as_the_scores(tmp_path: Path) -> None:
    comparison, *_ = two_runs(tmp_path)
    drawn = parsed(plots.of_comparison(comparison)["scores"].svg())
    bars = [bar for bar in drawn.iter(f"{SVG}rect") if bar.get("height") == "10" and bar.get("width") != "14"]
    row = comparison.rows[0]
    lengths = [float(bar.attrib["width"]) for bar in bars[:2]]
    assert [bar.get("class") for bar in bars[:2]] == ["base", "tuned"]
    assert lengths[0] / lengths[1] == pytest.approx(row.base / row.cand, abs=1e-3)
    floor = next(line for line in drawn.iter(f"{SVG}line") if line.get("class") == "floor")
    left = float(bars[0].attrib["x"])
    assert (float(floor.attrib["x1"]) - left) / lengths[0] == pytest.approx(0.25 / row.base, abs=1e-2)


def test_curve_stands_at_its_steps_and_the_macro_average_comes_first() -> None:
    first, second = plots.of_series(series_of())
    assert (first.title, second.title) == ("macro average, Latin", "uz_topicm, acc, Latin")
    drawn = parsed(first.svg(plots.NARROW))
    (line,) = drawn.iter(f"{SVG}polyline")
    at = [tuple(map(float, each.split(","))) for each in line.attrib["points"].split()]
    # 100, 200 and 300 steps; 25, 37.5 and 50 %.
    assert at[1][0] - at[0][0] == pytest.approx(at[2][0] - at[1][0], abs=0.05)
    assert at[0][1] - at[1][1] == pytest.approx(at[1][1] - at[2][1], abs=0.05) != 0
    labels = [each.text for each in drawn.iter(f"{SVG}text")]
    assert [label for label in labels if label in ("100", "200", "300", "steps")] == ["100", "200", "300", "steps"]


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_plots_of_hostile_names_are_whole_xml_of_known_elements(tmp_path: Path, hostile: str) -> None:
    comparison, *_ = two_runs(tmp_path, hostile)
    drawn = [*plots.of_comparison(comparison).values(), *plots.of_series(series_of(hostile))]
    assert len(drawn) == 5
    for plot in drawn:
        for svg in (plot.svg(), plot.svg(plots.NARROW), plots.standalone(plot.svg())):
            root = parsed(svg)
            assert {each.tag.removeprefix(SVG) for each in root.iter()} <= {
                *("svg", "title", "style", "rect", "line", "g", "text", "polygon", "circle", "polyline")
            }
            assert root.get("role") == "img"
            assert not [name for each in root.iter() for name in each.attrib if name.startswith("on")]


# ---------------------------------------------------------------- the page of a comparison


def test_page_has_its_sections_and_links_to_each(tmp_path: Path) -> None:
    comparison, one, two = two_runs(tmp_path)
    reader = Reader(render(comparison, one, two, series_of()))
    names = [each["id"] for each in reader.named("section")]
    assert names == ["differences", "scores", "alphabets", "slices", "metrics", "runs", "items", "provenance"]
    assert [each["href"] for each in reader.named("a")] == [f"#{name}" for name in names]
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_page_says_in_its_head_what_the_markdown_says(tmp_path: Path) -> None:
    comparison, one, two = two_runs(tmp_path)
    comparison = replace(comparison, asked_differently=True)
    written, seen = render_markdown(comparison, one, two), render(comparison, one, two)
    said = "".join(data for _, data in Reader(seen).texts)
    assert "# tuned" in written
    assert Reader(seen).text_of("h1").strip() == "tunedjavob against basejavob"
    for sentence in ("Of 2 primary results", "Asked differently:", "note javob"):
        assert sentence in written
        assert sentence in said


def test_page_of_the_same_runs_is_the_same(tmp_path: Path) -> None:
    comparison, one, two = two_runs(tmp_path)
    path = write_page(comparison, one, two, tmp_path / "out" / "report.html")
    assert path.read_text(encoding="utf-8") == render(comparison, one, two)


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_page_of_hostile_runs_has_the_elements_of_a_harmless_one(tmp_path: Path, hostile: str) -> None:
    seen = [
        Reader(render(*two_runs(tmp_path / name, each), series_of(each))) for name, each in (("a", hostile), ("b", "x"))
    ]
    assert Counter(name for name, _ in seen[0].elements) == Counter(name for name, _ in seen[1].elements)
    assert seen[0].comments == []
    for _, attributes in seen[0].elements:
        assert not [name for name in attributes if name == "style" or name.startswith("on")]


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_brackets_of_a_page_are_those_of_its_own_elements(tmp_path: Path, hostile: str) -> None:
    written = [
        write_page(*two_runs(tmp_path / name, each), tmp_path / name / "report.html").read_text(encoding="utf-8")
        for name, each in (("a", hostile), ("b", "x"))
    ]
    assert written[0].count("<") == written[1].count("<")
    assert "\x00" not in written[0]


def test_tables_are_plain_html_outside_the_browser_of_items(tmp_path: Path) -> None:
    document = render(*two_runs(tmp_path))
    reader = Reader(document)
    assert len(reader.named("table")) == 6
    assert document.index("<noscript>") > document.index("<table>")


def test_browser_holds_every_item_with_both_answers(tmp_path: Path) -> None:
    comparison, one, two = two_runs(tmp_path)
    data = data_of(render(comparison, one, two))
    assert data["tasks"] == ["uz_topicjavob"]
    assert set(data["alphabets"]) == {"Latin", "Cyrillic"}
    assert len(data["items"]) == 24
    first = data["items"][0]
    assert data["outcomes"][first.pop("outcome")] == ["gained", "gained"]
    assert data["slices"][first.pop("slice")] == "part 0javob"
    assert data["alphabets"][first.pop("alphabet")] == "Latin"
    assert first == {
        "task": 0,
        "id": "topic-0javob",
        "prompt": "Savol 0 javob",
        "target": "javob javob",
        "base": "eski javob",
        "base_score": "acc 0",
        "tuned": "yangi javob",
        "tuned_score": "acc 1",
    }
    last = data["items"][11]
    assert (last["base"], last["base_score"], data["outcomes"][last["outcome"]][0]) == (None, "not scored", "unscored")


def test_outcomes_count_as_the_comparison_does(tmp_path: Path) -> None:
    comparison, one, two = two_runs(tmp_path, n=60)
    counted = Counter((pair.orthography, pair.outcome) for pair in pairs(comparison, one, two))
    for row in comparison.rows:
        if row.primary:
            assert (row.gained, row.lost) == (counted[row.orthography, "gained"], counted[row.orthography, "lost"])


def test_items_of_a_metric_where_less_is_better_are_gained_when_it_falls(tmp_path: Path) -> None:
    one = made_run(tmp_path / "one", Asked({"error": [1.0, 0.0, 0.0]}, higher=False))
    two = made_run(tmp_path / "two", Asked({"error": [0.0, 1.0, 0.0]}, higher=False))
    assert [pair.outcome for pair in pairs(compare(one, two), one, two)] == ["gained", "lost", "right"]


def test_prompt_that_differs_is_shown_as_either_was_asked(tmp_path: Path) -> None:
    one = made_run(tmp_path / "one", Asked({"acc": [1.0, 0.0]}, prompts=["Savol", "Savol"]))
    two = made_run(
        tmp_path / "two",
        Asked({"acc": [1.0, 1.0]}, prompts=["### Savol", "Savol"], asked_as="alpaca"),
        by=Asker(prompt_format="alpaca"),
    )
    items = data_of(render(compare(one, two), one, two))["items"]
    assert [(item["prompt"], item.get("tuned_prompt")) for item in items] == [("Savol", "### Savol"), ("Savol", None)]


def test_long_prompt_keeps_its_beginning_and_the_question_at_its_end(tmp_path: Path) -> None:
    asked = Asked({"acc": [1.0]}, prompts=["A" * 600 + "B" * 1_000_000 + "C" * 1_000], responses=["D" * 1_000_000])
    one = made_run(tmp_path / "one", asked)
    (item,) = data_of(render(compare(one, one), one, one))["items"]
    assert item["prompt"] == "A" * 500 + "\n\n… (1,001,600 characters) …\n\n" + "C" * 1_000
    assert item["base"] == "D" * 1_000 + "… (1,000,000 characters)"


def pair(task: str, outcome: str, place: int) -> Pair:
    return Pair(task, "latin", "acc", 0.0, 1.0, outcome, place, place)


def test_draw_gives_each_item_once_and_gains_and_losses_first() -> None:
    items = [pair("uz_topic", ("gained", "right", "lost", "unchanged")[place % 4], place) for place in range(400)]
    drawn = list(draw(items))
    assert sorted(drawn) == list(range(400))
    assert drawn == list(draw(items))
    assert drawn[:100] != sorted(drawn[:100])
    # Of each turn of eight, three are gains, three losses.
    assert Counter(items[place].outcome for place in drawn[:80]) == {
        "gained": 30,
        "lost": 30,
        "right": 10,
        "unchanged": 10,
    }


def test_draw_lets_a_small_task_have_its_turn() -> None:
    items = [pair("large", "gained", place) for place in range(1_000)] + [
        pair("small", "gained", 1_000 + n) for n in range(6)
    ]
    assert Counter(items[place].task for place in list(draw(items))[:12]) == {"large": 6, "small": 6}


def test_page_of_many_items_stays_below_its_size_and_says_of_how_many_it_is_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 600
    asked = Asked(
        {"acc": [0.0] * n},
        # Each of these takes six bytes in JSON, and each name of a slice is another.
        prompts=["<" * 5_000] * n,
        responses=["&" * 5_000] * n,
        slices=[f"{number:03d}" * 100 for number in range(n)],
    )
    one = made_run(tmp_path / "one", asked)
    two = made_run(tmp_path / "two", replace(asked, values={"acc": [1.0] * 300 + [0.0] * 300}), by=Asker("tuned"))
    monkeypatch.setattr(html, "PAGE_BYTES", 2_000_000)
    document = render(compare(one, two), one, two)
    assert 1_900_000 < len(document.encode()) <= 2_000_000
    shown = len(data_of(document)["items"])
    assert f"A sample of {shown:,} of 600 items" in document
    assert 50 < shown < 300


def test_page_of_all_items_says_so(tmp_path: Path) -> None:
    assert "All 24 items of the primary results." in render(*two_runs(tmp_path))
