"""Writes the command page of README.md from the program itself: python tests/make_readme.py

Each sub-command's help stands, fenced, between two markers, `top` being `uzbench --help`:

    <!-- help:run -->
    <!-- /help -->
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"

WIDTH = 100
"""Columns of the terminal that the page is written for."""

# A section holds no comment: a closing marker that was forgotten doesn't reach to the next section's.
SECTION = re.compile(r"(?s)<!-- help:([\w-]+) -->\n((?:(?!<!--).)*)<!-- /help -->")


def help_page(name: str) -> str:
    """What `uzbench NAME --help` prints."""
    command = [] if name == "top" else [name]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *command, "--help"],
        env={**os.environ, "COLUMNS": str(WIDTH)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"README.md has a section help:{name}, but the program says: {done.stderr.strip()}")
    return done.stdout


def fenced(page: str) -> str:
    return f"```text\n{page.strip()}\n```\n"


def rewritten(text: str) -> str:
    """The README with every section as the program prints it now."""
    return SECTION.sub(lambda found: f"<!-- help:{found[1]} -->\n{fenced(help_page(found[1]))}<!-- /help -->", text)


def main(path: Path = README) -> None:
    path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
