"""README.md: its command page is what the program prints, and what it tells to type is there.

After a change of the command: python tests/make_readme.py
"""

from __future__ import annotations

import re
from pathlib import Path

import make_readme
import pytest

from harness.cli import app

ROOT = Path(__file__).parent.parent

NAMES = [
    "top",
    *(command.name or command.callback.__name__ for command in app.registered_commands if command.callback),
]

# Homes of people and of build machines; /tmp is anybody's.
MACHINE_PATH = re.compile(r"(?<![\w.])(?:/(?:home|root|Users|work|workspace|mnt|private|var)/\S*|[A-Z]:\\\S*)")


@pytest.fixture(scope="module")
def readme() -> str:
    path = ROOT / "README.md"
    assert path.is_file(), "there is no README.md"
    return path.read_text(encoding="utf-8")


def test_every_command_has_one_section(readme: str) -> None:
    assert sorted(found[1] for found in make_readme.SECTION.finditer(readme)) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_section_is_what_the_program_prints(readme: str, name: str) -> None:
    sections = {found[1]: found[2] for found in make_readme.SECTION.finditer(readme)}
    assert name in sections, f"expected <!-- help:{name} --> … <!-- /help -->"
    fence = re.fullmatch(r"\s*```\w*\n(.*?)\n```\s*", sections[name], re.DOTALL)
    assert fence, f"help:{name}: expected one fenced text"
    printed = make_readme.help_page(name)
    assert f"Usage: uzbench {'' if name == 'top' else name}".rstrip() in printed
    assert fence[1].strip() == printed.strip(), "python tests/make_readme.py writes the page anew"


def test_targets_of_make_that_the_readme_names_exist(readme: str) -> None:
    named = set(re.findall(r"\bmake ([a-z][a-z-]+)", " ".join(re.findall(r"`[^`]+`|(?m:^ *\$? *make .*$)", readme))))
    assert {"demo", "test"} <= named
    assert named <= targets()


def test_targets_of_make_that_its_first_lines_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"(?m)^# make ([a-z][a-z-]*)", makefile))
    assert {"demo", "test"} <= named <= targets()


def targets() -> set[str]:
    return set(re.findall(r"(?m)^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8")))


def test_readme_names_no_path_of_a_machine(readme: str) -> None:
    assert MACHINE_PATH.findall(readme) == []


def test_files_that_the_readme_links_to_exist(readme: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", readme)
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (ROOT / link).exists()] == []


# ---------------------------------------------------------------- the script


def test_script_rewrites_its_sections_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(
        "# UzBench\n\n<!-- help:tasks -->\nstale\n<!-- /help -->\nbetween\n<!-- help:top --><!-- /help -->\n"
        "<!-- help:runs -->\n```text\nold\n```\n<!-- /help -->\n```text\nend\n```\n",
        encoding="utf-8",
    )
    make_readme.main(path)
    once = path.read_text(encoding="utf-8")
    assert "stale" not in once
    assert "\nold\n" not in once
    assert once.startswith("# UzBench\n\n<!-- help:tasks -->\n```text\nUsage: uzbench tasks")
    # A marker that isn't alone on its line is left as it is.
    assert "\nbetween\n<!-- help:top --><!-- /help -->\n" in once
    assert once.endswith("```\n<!-- /help -->\n```text\nend\n```\n")
    make_readme.main(path)
    assert path.read_text(encoding="utf-8") == once


def test_script_refuses_a_section_of_a_command_that_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    text = "<!-- help:leadership -->\n<!-- /help -->\n"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"help:leadership.*No such command"):
        make_readme.main(path)
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    "text", ["cd /home/anna/uz", "see /root/x.md", "`/Users/b/c`", "C:\\Users\\b", "/work/main/runs"]
)
def test_path_of_a_machine_would_be_found(text: str) -> None:
    assert MACHINE_PATH.search(text)


@pytest.mark.parametrize("text", ["uzbench demo --out /tmp/demo", "https://example.org/home/x", "train/work/x.yaml"])
def test_other_paths_are_let_pass(text: str) -> None:
    assert not MACHINE_PATH.search(text)
