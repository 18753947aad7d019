"""The page in a real Chromium: nothing hostile runs, nothing asks the network, the browser of items does its work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hostile import HOSTILE, visible
from synthetic import Asked, Asker, made_run
from test_page import series_of, two_runs

from harness.comparison import compare
from reports.html import write_page
from reports.markdown import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed: pip install 'uzbench[dev]'")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Each sets a mark on the window if it runs. None may.
ATTACKS = {
    "script": "<script>window.hit = 1</script>",
    "end of script": "</script><script>window.hit = 2</script>",
    "end of style and title": "</style></title><script>window.hit = 3</script>",
    "image": '<img src="https://evil.example/x.png" onerror="window.hit = 4">',
    "svg": '<svg onload="window.hit = 5"><script>window.hit = 5</script></svg>',
    "attribute": '" onmouseover="window.hit = 6" autofocus onfocus="window.hit = 6" x="',
    "single quotes": "' onmouseover='window.hit = 7' x='",
    "link": "](javascript:window.hit=8) <a href='javascript:window.hit=8'>x</a>",
    "frame": '<iframe srcdoc="<script>parent.hit = 9</script>"></iframe>',
    "refresh": '<meta http-equiv="refresh" content="0;url=https://evil.example">',
    "base": '<base href="https://evil.example/"><link rel="stylesheet" href="x.css">',
    "comment": "<!-- --> --!> <!--<script>",
    "comment end": "-->",
    "template": "${window.hit = 10} {{constructor.constructor('window.hit = 10')()}}",
    "style": '<style>*{display:none}</style><p style="background:url(https://evil.example/)">',
    "dialog": "<script>alert(1)</script>",
    "prototype": "__proto__ constructor toString",
    "long": "<b>" * 30_000,
    "wide word": "ў" * 5_000,
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium of this machine."""
    found = os.environ.get("UZBENCH_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip(f"no Chromium is installed (one of {', '.join(NAMES)}, or UZBENCH_CHROMIUM)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """An open page, and what it did that it shouldn't."""

    page: Any
    faults: list[str] = field(default_factory=list)

    @property
    def cards(self) -> Any:
        return self.page.locator("article.item")

    @property
    def count(self) -> str:
        return str(self.page.locator("#count").inner_text())

    def names(self) -> list[str]:
        """The items that are shown: their ids without what came of them."""
        return [
            str(each)
            for each in self.page.locator("article.item h3").evaluate_all("all => all.map(e => e.firstChild.data)")
        ]

    def choose(self, control: str, label: str) -> None:
        self.page.get_by_label(control, exact=True).select_option(label=label)

    def search(self, words: str, count: str) -> None:
        self.page.get_by_label("search").fill(words)
        playwright.expect(self.page.locator("#count")).to_have_text(count)


@contextmanager
def visit(
    chromium: Any, path: Path, *, width: int = 1280, script: bool = True, scheme: str = "light"
) -> Iterator[Visit]:
    """Opens a page; at its end it must have had no fault."""
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, java_script_enabled=script, color_scheme=scheme
    )
    context.set_default_timeout(10_000)
    page = context.new_page()
    seen = Visit(page)
    page.on("console", lambda message: seen.faults.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: seen.faults.append(f"error: {error}"))

    def dialog(opened: Any) -> None:
        seen.faults.append(f"dialog: {opened.message}")
        opened.dismiss()

    page.on("dialog", dialog)
    page.on("popup", lambda _: seen.faults.append("a window was opened"))
    page.on("request", lambda request: seen.faults.append(f"request: {request.url}"))
    page.add_init_script(
        "window.broken = [];"
        "addEventListener('securitypolicyviolation', event => window.broken.push(event.violatedDirective));"
    )
    page.goto(path.as_uri())
    # The page itself was the one thing to ask for.
    assert seen.faults == [f"request: {path.as_uri()}"]
    seen.faults.clear()
    yield seen
    if script:
        assert page.evaluate("[window.hit ?? null, window.broken]") == [None, []]
    assert page.url.partition("#")[0] == path.as_uri()
    assert seen.faults == []
    context.close()


def hostile_page(folder: Path, hostile: str) -> Path:
    return write_page(*two_runs(folder, hostile), folder / "report.html", series_of(hostile[:100]))


@pytest.mark.parametrize("hostile", ATTACKS.values(), ids=ATTACKS)
def test_hostile_runs_open_without_a_script_a_request_or_a_complaint(
    chromium: Any, tmp_path: Path, hostile: str
) -> None:
    with visit(chromium, hostile_page(tmp_path, hostile)) as seen:
        assert seen.count == "24 of 24 items"
        assert seen.cards.count() == 10
        assert seen.page.locator("table").count() == 7
        assert seen.page.locator("main img, main iframe, main script, main style, main a:not([href^='#'])").count() == 0
        seen.page.get_by_role("button", name="Next").first.click()
        seen.choose("outcome", "gained")
        seen.page.mouse.move(300, 300)
        assert seen.count == "8 of 24 items"


def test_hostile_answers_are_shown_as_the_text_they_are(chromium: Any, tmp_path: Path) -> None:
    said = [text for text in (*HOSTILE.values(), *ATTACKS.values()) if visible(text) and len(text) < 500]
    asked = Asked({"acc": [0.0] * len(said)}, responses=said, prompts=said, targets=said, slices=said, item_ids=said)
    one = made_run(tmp_path / "one", asked)
    path = write_page(compare(one, one), one, one, tmp_path / "report.html")
    with visit(chromium, path) as seen:
        shown: list[str] = []
        while len(shown) < len(said):
            shown += seen.page.locator(".answer.base .said").all_text_contents()
            if len(shown) < len(said):
                seen.page.get_by_role("button", name="Next").first.click()
        assert [text.split() for text in shown] == [visible(text).split() for text in said]
        seen.choose("slice", "<script>window.hit = 1</script>")
        assert seen.names() == ["<script>window.hit = 1</script>"]


def test_answers_and_prompts_of_a_megabyte_are_cut_and_their_length_said(chromium: Any, tmp_path: Path) -> None:
    huge = "</script><b>" * 90_000
    asked = Asked({"acc": [0.0]}, prompts=[huge], responses=[huge], targets=[huge])
    one = made_run(tmp_path / "one", asked)
    two = made_run(tmp_path / "two", replace(asked, responses=[f"<i>{huge}"]), by=Asker(huge[:1_000]))
    path = write_page(compare(one, two), one, two, tmp_path / "report.html")
    assert path.stat().st_size < 200_000
    with visit(chromium, path) as seen:
        assert seen.page.locator(".answer.base .said").inner_text().endswith("… (1,080,000 characters)")
        assert "… (1,080,000 characters) …" in seen.page.locator(".asked .said").first.inner_text()


def test_plots_of_hostile_names_open_as_files_without_a_script_or_a_request(chromium: Any, tmp_path: Path) -> None:
    comparison, one, two = two_runs(tmp_path, "".join(text for text in ATTACKS.values() if len(text) < 500))
    write_report(comparison, one, two, tmp_path / "report.md")
    for path in sorted((tmp_path / "plots").iterdir()):
        with visit(chromium, path) as seen:
            assert seen.page.locator("text").count() > 5
            assert seen.page.locator("script, image, a, foreignObject").count() == 0


# ---------------------------------------------------------------- the browser of items


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Topic: 4 gained, 2 lost, 18 right; QA: 6 wrong in both; of each a half in either slice."""
    folder = tmp_path_factory.mktemp("plain")

    def run(name: str, topic: list[float], topic_said: list[str], qa_said: list[str]) -> Any:
        slices = ["yangilik", "suhbat"]
        return made_run(
            folder / name,
            Asked(
                {"acc": topic},
                "uz_topic",
                prompts=[f"Mavzu {number}: Oʻzbekiston bankining stavkasi" for number in range(24)],
                responses=topic_said,
                slices=[slices[number % 2] for number in range(24)],
            ),
            Asked(
                {"exact_match": [0.0] * 6},
                "uz_qa",
                prompts=[f"Savol {number}: poytaxt" for number in range(6)],
                responses=qa_said,
                slices=[slices[number % 2] for number in range(6)],
            ),
            by=Asker(name),
        )

    before = ["Bu matn siyosat haqida yozilgan"] * 24
    after = ["Bu matn sport va iqtisod haqida"] * 24
    one = run("base", [0.0] * 4 + [1.0] * 20, before, ["Buxoro"] * 5 + [""])
    two = run("tuned", [1.0] * 4 + [0.0] * 2 + [1.0] * 18, after, ["Xiva"] * 6)
    return write_page(compare(one, two), one, two, folder / "report.html")


def test_items_are_filtered_by_task_outcome_slice_and_all_at_once(chromium: Any, plain: Path) -> None:
    with visit(chromium, plain) as seen:
        assert seen.count == "30 of 30 items"
        seen.choose("task", "uz_qa")
        assert seen.count == "6 of 30 items"
        assert seen.names() == [f"uz_qa-{number:03d}" for number in range(6)]
        seen.choose("task", "all tasks")
        seen.choose("outcome", "lost")
        assert seen.names() == ["uz_topic-004", "uz_topic-005"]
        seen.choose("slice", "suhbat")
        assert seen.names() == ["uz_topic-005"]
        seen.choose("task", "uz_qa")
        assert (seen.count, seen.names()) == ("0 of 30 items", [])
        seen.page.get_by_role("button", name="Clear").click()
        assert seen.count == "30 of 30 items"


def test_filter_with_one_choice_is_not_shown(chromium: Any, plain: Path) -> None:
    with visit(chromium, plain) as seen:
        assert seen.page.get_by_label("task", exact=True).is_visible()
        assert not seen.page.get_by_label("alphabet", exact=True).is_visible()


def test_search_finds_words_of_prompts_answers_and_ids_in_any_case(chromium: Any, plain: Path) -> None:
    with visit(chromium, plain) as seen:
        seen.search("POYTAXT", "6 of 30 items")
        seen.search("iqtisod", "24 of 30 items")
        seen.search("uz_topic-007", "1 of 30 items")
        seen.search("mavzu 3 bank", "3 of 30 items")
        seen.search("<script>", "0 of 30 items")


@pytest.mark.parametrize("mark", "'‘’ʻʼ`")
def test_search_takes_any_of_the_marks_that_stand_for_okina(chromium: Any, plain: Path, mark: str) -> None:
    with visit(chromium, plain) as seen:
        seen.search(f"o{mark}zbekiston", "24 of 30 items")


def test_pages_turn_forth_and_back_and_end(chromium: Any, plain: Path) -> None:
    with visit(chromium, plain) as seen:
        before, after = (seen.page.get_by_role("button", name=name).first for name in ("Previous", "Next"))
        place = seen.page.locator(".place").first
        assert before.is_disabled()
        after.click()
        after.click()
        assert (place.inner_text(), seen.names()[-1]) == ("page 3 of 3", "uz_qa-005")
        assert after.is_disabled()
        before.click()
        assert (place.inner_text(), seen.names()[0]) == ("page 2 of 3", "uz_topic-010")
        seen.choose("outcome", "gained")
        assert not place.is_visible()
        assert seen.cards.count() == 4


def test_both_answers_are_shown_and_the_words_that_differ_marked(chromium: Any, plain: Path) -> None:
    with visit(chromium, plain) as seen:
        card = seen.cards.first
        base, tuned = card.locator(".answer.base"), card.locator(".answer.tuned")
        assert base.locator(".said").text_content() == "Bu matn siyosat haqida yozilgan"
        assert tuned.locator(".said").text_content() == "Bu matn sport va iqtisod haqida"
        assert base.locator("mark").all_text_contents() == ["siyosat", "yozilgan"]
        assert tuned.locator("mark").all_text_contents() == ["sport va iqtisod"]
        assert base.locator("h4").inner_text().split() == ["base", "acc", "0"]
        assert card.locator(".outcome").inner_text() == "gained"
        seen.choose("task", "uz_qa")
        assert seen.cards.last.locator(".answer.base .said").inner_text() == "empty"
        assert seen.cards.last.locator("mark").count() == 0


def test_browser_of_items_needs_no_mouse(chromium: Any, plain: Path) -> None:
    with visit(chromium, plain) as seen:
        seen.page.get_by_label("task", exact=True).focus()
        seen.page.keyboard.press("ArrowDown")
        seen.page.keyboard.press("ArrowDown")
        assert seen.count == "6 of 30 items"
        for _ in range(3):
            seen.page.keyboard.press("Tab")
        seen.page.keyboard.type("savol 2")
        seen.page.keyboard.press("Enter")
        playwright.expect(seen.page.locator("#count")).to_have_text("1 of 30 items")
        seen.page.keyboard.press("Tab")
        seen.page.keyboard.press("Enter")
        playwright.expect(seen.page.locator("#count")).to_have_text("30 of 30 items")
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("document.activeElement.className") == "next"
        seen.page.keyboard.press("Space")
        assert seen.names()[0] == "uz_topic-010"


def test_count_is_told_to_who_cannot_see_it(chromium: Any, plain: Path) -> None:
    with visit(chromium, plain) as seen:
        assert seen.page.locator("#count").get_attribute("aria-live") == "polite"
        for control in ("task", "outcome", "slice", "search"):
            assert seen.page.get_by_label(control, exact=True).count() == 1
        assert seen.page.get_by_role("img", name="Differences with 95 % intervals, tuned against base").count() == 1


# ---------------------------------------------------------------- without a script, on a phone, in the dark


def test_tables_plots_and_a_word_about_the_items_are_there_without_a_script(chromium: Any, plain: Path) -> None:
    with visit(chromium, plain, script=False) as seen:
        assert seen.page.locator("noscript p").is_visible()
        assert not seen.page.locator("#browser").is_visible()
        assert seen.page.locator("table").first.is_visible()
        assert seen.page.locator("table").first.locator("tbody tr").count() == 2
        assert seen.page.locator("svg.plot").first.is_visible()


@pytest.mark.parametrize("kind", ["plain", "wide word", "long", "prototype"])
def test_no_width_scrolls_the_whole_page_sideways(chromium: Any, plain: Path, tmp_path: Path, kind: str) -> None:
    path = plain if kind == "plain" else hostile_page(tmp_path, ATTACKS[kind])
    with visit(chromium, path, width=390) as seen:
        for width in (390, 320, 600, 768, 1024, 1280):
            seen.page.set_viewport_size({"width": width, "height": 900})
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        # What is too wide scrolls in a box of its own.
        boxes = seen.page.locator(".scroll").evaluate_all("all => all.map(e => getComputedStyle(e).overflowX)")
        assert set(boxes) == {"auto"}


def test_phone_gets_plots_of_its_own(chromium: Any, plain: Path) -> None:
    with visit(chromium, plain, width=390) as seen:
        shown = seen.page.locator("#differences svg.plot:visible")
        assert shown.count() == 1
        box, sizes = shown.bounding_box(), shown.get_attribute("viewBox").split()
        # Its text is about as large as it was drawn.
        assert box["width"] / float(sizes[2]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_ink_stands_out_from_the_ground(chromium: Any, plain: Path, scheme: str) -> None:
    with visit(chromium, plain, scheme=scheme) as seen:
        ground, *inks = seen.page.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor,
                ...['body', '.soft', 'thead th', '.verdict', '.answer h4'].map(
                    name => getComputedStyle(document.querySelector(name)).color),
                getComputedStyle(document.querySelector('svg.plot text')).fill,
                getComputedStyle(document.querySelector('svg.plot .soft')).fill]"""
        )
        # WCAG 2.2, 1.4.3: text of this size needs 4.5 : 1.
        assert min(contrast(ink, ground) for ink in inks) >= 4.5


def contrast(one: str, two: str) -> float:
    """The ratio of two colours' luminances, as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
