"""The README of every task is what the task says of itself. After a change: python tests/make_task_pages.py"""

from __future__ import annotations

import make_task_pages
import pytest

from tasks_uz import catalog
from tasks_uz.catalog import TaskInfo


@pytest.mark.parametrize("task", catalog.base_tasks(), ids=lambda task: task.name)
def test_page_of_a_task_is_made_from_the_task(task: TaskInfo) -> None:
    written = (task.path.parent / "README.md").read_text(encoding="utf-8")
    assert written == make_task_pages.page(task), "python tests/make_task_pages.py writes the pages anew"
