"""JSON and JSONL on the disk: whole or not at all, and errors with line and reason."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import DataError, DiskFullError, RecordError, disk_faults
from harness.files import (
    SCHEMA,
    atomic_writer,
    dumps,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
    write_text,
)

FULL = Path("/dev/full")


def left(folder: Path) -> list[str]:
    """The names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- whole or not at all


class Interrupted(Exception):
    """What stops a writer halfway."""


def write_half(path: Path, error: type[BaseException]) -> None:
    with atomic_writer(path) as file:
        file.write("half of the new")
        raise error


def test_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    with atomic_writer(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert left(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt, OSError])
def test_failed_writer_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_text() == "old"
    assert left(tmp_path) == ["a.txt"]


def test_failed_writer_of_a_new_file_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        write_half(tmp_path / "a.txt", Interrupted)
    assert left(tmp_path) == []


def test_row_that_is_no_json_keeps_the_old_lines(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"n": 1}])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(path, [{"n": 2}, {"n": math.nan}])
    assert [row["n"] for _, row in read_jsonl(path)] == [1]
    assert left(tmp_path) == ["a.jsonl"]


def test_writer_makes_the_folders_on_the_way(tmp_path: Path) -> None:
    assert write_text(tmp_path / "a" / "b" / "c.txt", "x").read_text() == "x"


def test_written_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        path = write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_lines_end_in_a_newline_alone_and_text_is_utf8(tmp_path: Path) -> None:
    assert write_text(tmp_path / "a.txt", "oʻ\nўғ\n").read_bytes() == "oʻ\nўғ\n".encode()


def test_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    code = (
        "import os, signal, sys; from pathlib import Path; from harness.files import atomic_writer\n"
        "with atomic_writer(Path(sys.argv[1])) as file:\n"
        "    file.write('half of the new'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)])
    assert done.returncode == -9
    assert path.read_text() == "old"


# ---------------------------------------------------------------- a full device


def test_full_device_is_said_in_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    if not FULL.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(DiskFullError) as caught, disk_faults(tmp_path / "run"), FULL.open("w") as file:
        file.write("x")
    assert str(caught.value).startswith(f"{tmp_path / 'run'}: no space left on the device. What was stored is whole.")
    assert "--out" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_full_sqlite_file_is_a_full_device(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "a.sqlite")
    db.execute("PRAGMA max_page_count=2")
    db.execute("CREATE TABLE a (b)")
    with pytest.raises(DiskFullError), disk_faults(tmp_path):
        db.execute("INSERT INTO a VALUES (zeroblob(100000))")
    db.close()


@pytest.mark.parametrize(
    "error",
    [PermissionError(errno.EACCES, "no"), sqlite3.OperationalError("no such table: a"), ValueError("no")],
)
def test_other_faults_pass_as_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, disk_faults(tmp_path):
        raise error
    assert caught.value is error


# Runs with a small file system of its own at argv[1]; prints what it saw.
ON_A_SMALL_DISK = """
import os, sys
from pathlib import Path
from harness.errors import DiskFullError
from harness.files import write_jsonl, write_text
from harness.store import Store

disk = Path(sys.argv[1])
old = write_text(disk / "old.txt", "old")
try:
    write_text(old, "x" * 2_000_000)
except DiskFullError as error:
    print("text:", error)
try:
    write_jsonl(disk / "rows.jsonl", ({"n": n, "text": "y" * 1000} for n in range(2000)))
except DiskFullError as error:
    print("rows:", error)
print("left:", sorted(os.listdir(disk)), old.read_text())
spare = write_text(disk / "spare", "s" * 200_000)
stored = 0
try:
    with Store(disk / "store.sqlite") as store:
        for batch in range(1000):
            store.put("model", {f"{batch}-{n}": "z" * 100 for n in range(10)})
            stored += 10
except DiskFullError as error:
    print("store:", error)
spare.unlink()
with Store(disk / "store.sqlite") as store:
    print("kept:", store.count() == stored, stored > 0)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="this system can't make a mount namespace")
def test_really_full_disk_keeps_old_file_and_stored_batches(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    mounted = 'mount -t tmpfs -o size=1m tmpfs "$1" && echo mounted && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        [*namespace, "sh", "-c", mounted, "sh", str(disk), sys.executable, ON_A_SMALL_DISK],
        capture_output=True,
        text=True,
    )
    if "mounted" not in done.stdout:
        pytest.skip(f"this system lets no one mount a small disk: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    text, rows, kept, store, count = done.stdout.splitlines()[1:]
    assert text.startswith(f"text: {disk / 'old.txt'}: no space left on the device.")
    assert rows.startswith(f"rows: {disk / 'rows.jsonl'}: no space left on the device.")
    assert kept == "left: ['old.txt'] old"
    assert store.startswith(f"store: {disk / 'store.sqlite'}: no space left on the device.")
    assert count == "kept: True True"


# ---------------------------------------------------------------- JSON


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["{}", "[{}]", "deep"])
def test_no_file_holds_nan_or_infinity(value: float, place: str, tmp_path: Path) -> None:
    held: Any = {"{}": value, "[{}]": [value], "deep": {"a": [{"b": value}]}}[place]
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps(held)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"held": held})
    assert left(tmp_path) == []


def test_uzbek_is_written_readably() -> None:
    assert dumps({"soʻz": "ўзбек"}) == '{"soʻz": "ўзбек"}'


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udc00\ud800", "ʻ\ud83d"])
def test_lone_surrogates_come_back_as_they_were(text: str, tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"said": text, text: 1})
    assert read_json(path) == {"schema": SCHEMA, "said": text, text: 1}
    rows = write_jsonl(tmp_path / "a.jsonl", [{"said": text}, {"said": "ʻ"}])
    assert [row["said"] for _, row in read_jsonl(rows)] == [text, "ʻ"]
    # The line without one stays readable.
    assert "ʻ" in rows.read_text(encoding="utf-8").splitlines()[1]


@pytest.mark.parametrize(
    "character", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\r", "\r\n", "\n", "\x00"]
)
def test_separators_inside_a_text_dont_break_a_line(character: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"said": f"a{character}b"}, {"said": "c"}])
    assert [(number, row["said"]) for number, row in read_jsonl(path)] == [(1, f"a{character}b"), (2, "c")]


def test_blank_lines_are_passed_over_and_still_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"n": 1}\r\n   \n{"n": 2}')
    assert [(number, row["n"]) for number, row in read_jsonl(path)] == [(2, 1), (4, 2)]


def test_empty_file_has_no_lines(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [])
    assert list(read_jsonl(path)) == []


# ---------------------------------------------------------------- what is wrong with a file


GOOD = b'{"n": 1}\n'


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (GOOD + b'{"n": }\n', 2, "not JSON: Expecting value (column 7)"),
        (GOOD + GOOD + b'{"n": 1', 3, "not JSON: Expecting ',' delimiter (column 8)"),
        (GOOD + b"\n[1]\n", 3, "expected a JSON object, saw list"),
        (b'"text"\n', 1, "expected a JSON object, saw str"),
        (GOOD + b"null\n", 2, "expected a JSON object, saw NoneType"),
        (GOOD + b'{"n": "\xff"}\n', 2, "not UTF-8 (byte 7)"),
        (GOOD + b"{'n': 1}\n", 2, "not JSON: Expecting property name enclosed in double quotes (column 2)"),
    ],
)
def test_bad_line_is_refused_with_its_number_and_the_reason(
    content: bytes, line: int, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_jsonl(path))
    assert (caught.value.path, caught.value.line, caught.value.reason) == (path, line, reason)
    assert str(caught.value) == f"{path}:{line}: {reason}"
    assert caught.value.exit_code == 2


def test_good_lines_before_a_bad_one_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + GOOD + b"!")
    rows = read_jsonl(path)
    assert [next(rows)[0], next(rows)[0]] == [1, 2]
    with pytest.raises(DataError):
        next(rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n"n":\n}', ":3: not JSON: Expecting value"),
        (b"[]", ": expected a JSON object, saw list"),
        (b"\xfe", ": not UTF-8 (byte 0)"),
        (b"", ":1: not JSON: Expecting value"),
    ],
)
def test_bad_document_is_refused_with_the_reason(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(path)
    assert str(caught.value) == f"{path}{message}"


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"gone\.json: no such file\."):
        read_json(tmp_path / "gone.json")
    with pytest.raises(RecordError, match=r"gone\.jsonl: no such file\."):
        list(read_jsonl(tmp_path / "gone.jsonl"))
    with pytest.raises(RecordError, match="a directory, where a JSONL file was expected"):
        list(read_jsonl(tmp_path))


def test_what_is_written_is_what_json_reads(tmp_path: Path) -> None:
    document = {"a": [1, 2.5, None, True, "ʻ\u2028"], "b": {"": {}}}
    path = write_json(tmp_path / "a.json", document)
    assert json.loads(path.read_bytes()) == {"schema": SCHEMA, **document}
    assert read_json(path) == {"schema": SCHEMA, **document}
