"""What tasks_uz.make writes stands there as it would be written now. After a change: python -m tasks_uz.make"""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks_uz import catalog, make
from tasks_uz.data import ROOT

OUTPUTS = make.outputs()


@pytest.mark.parametrize("path", sorted(OUTPUTS), ids=lambda path: str(path.relative_to(ROOT)))
def test_written_file_is_what_the_tasks_say(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == OUTPUTS[path], "python -m tasks_uz.make writes it anew"


def test_every_variant_and_group_that_is_there_is_written_by_the_script() -> None:
    bases = {task.path for task in catalog.base_tasks()}
    assert {path for path in ROOT.glob("**/*.yaml") if path not in OUTPUTS} == bases


def test_page_says_in_bold_where_a_shortcut_beats_chance_by_more_than_ten_points() -> None:
    task = catalog.tasks()["uz_reading"]
    page = make.page(task, {"chance": 0.25, "longest choice": 0.36, "word overlap": 0.34})
    assert "**longest choice 0.3600**" in page
    assert "**word overlap" not in page
