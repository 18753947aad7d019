"""Hub data from a mirror on the disk: layout, checksums, damage, what is said where there is none; filling one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks_uz.data import CHECKSUMS, MIRROR_VARIABLE, MirrorError, mirror_checksums, read_mirror

SHARED_MIRROR = Path(__file__).parents[2] / "shared" / "mirror"

ROWS = [
    {"index_id": 7, "category": "sports", "text": "Jamoa gʻalaba qozondi."},
    {"index_id": 9, "category": "travel", "text": "Poyezd Buxoroga yetib keldi."},
]


def mirror_of(folder: Path, content: bytes, relative: str = "Davlan/sib200/uzn_Latn/test.jsonl") -> Path:
    """A mirror that holds one file."""
    path = folder / relative
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return folder


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def checksums(mirror: Path, *written: str) -> None:
    (mirror / CHECKSUMS).write_text("\n".join(written) + "\n", encoding="utf-8")


def sib200(mirror: Path) -> list[dict[str, Any]]:
    return read_mirror(mirror, "Davlan/sib200", "uzn_Latn", "test")


def test_rows_are_found_by_owner_name_config_and_split(tmp_path: Path) -> None:
    assert sib200(mirror_of(tmp_path, lines(*ROWS))) == ROWS


@pytest.mark.parametrize(
    ("name", "config", "split"),
    [
        ("Davlan/sib200", "uzn_Latn", "train"),
        ("Davlan/sib200", "uzn_Cyrl", "test"),
        ("Davlan/sib", "uzn_Latn", "test"),
        ("sib200", "uzn_Latn", "test"),
    ],
)
def test_missing_file_is_named_with_the_layout_that_was_expected(
    tmp_path: Path, name: str, config: str, split: str
) -> None:
    mirror = mirror_of(tmp_path, lines(*ROWS))
    with pytest.raises(MirrorError) as caught:
        read_mirror(mirror, name, config, split)
    said = str(caught.value)
    assert f"{name}/{config}/{split}.jsonl" in said
    assert str(tmp_path) in said
    assert "DIR/<owner>/<name>/<config>/<split>.jsonl" in said
    assert "\n" not in said


def test_directory_in_the_place_of_a_file_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "Davlan/sib200/uzn_Latn/test.jsonl").mkdir(parents=True)
    with pytest.raises(MirrorError, match=r"has no Davlan/sib200/uzn_Latn/test\.jsonl"):
        sib200(tmp_path)


def test_mirror_without_checksums_is_taken(tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, lines(*ROWS))
    assert mirror_checksums(mirror) == {}
    assert sib200(mirror) == ROWS


# As `sha256sum` writes them: text mode with two spaces, binary mode with a star.
@pytest.mark.parametrize("mark", ["  ", " *"])
def test_file_that_is_what_its_checksum_says_is_taken(tmp_path: Path, mark: str) -> None:
    content = lines(*ROWS)
    mirror = mirror_of(tmp_path, content)
    checksums(mirror, f"{hashlib.sha256(content).hexdigest()}{mark}Davlan/sib200/uzn_Latn/test.jsonl")
    assert sib200(mirror) == ROWS


@pytest.mark.parametrize("mark", ["  ", " *"])
def test_file_that_is_not_what_its_checksum_says_is_refused(tmp_path: Path, mark: str) -> None:
    mirror = mirror_of(tmp_path, lines(*ROWS))
    other = hashlib.sha256(lines(ROWS[0])).hexdigest()
    checksums(mirror, f"{other}{mark}Davlan/sib200/uzn_Latn/test.jsonl")
    with pytest.raises(MirrorError, match=r"test\.jsonl isn't what SHA256SUMS says"):
        sib200(mirror)


def test_change_of_one_byte_is_noticed(tmp_path: Path) -> None:
    content = lines(*ROWS)
    mirror = mirror_of(tmp_path, content.replace(b"Poyezd", b"Poyezt"))
    checksums(mirror, f"{hashlib.sha256(content).hexdigest()}  Davlan/sib200/uzn_Latn/test.jsonl")
    with pytest.raises(MirrorError, match="isn't what SHA256SUMS says"):
        sib200(mirror)


def test_checksums_of_other_files_do_not_matter(tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, lines(*ROWS))
    checksums(mirror, f"{'0' * 64}  Davlan/sib200/uzn_Latn/train.jsonl")
    assert sib200(mirror) == ROWS


def test_malformed_line_is_named_by_file_and_number(tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, lines(ROWS[0]) + b"\n" + b'{"index_id": 9, "text": \n')
    with pytest.raises(MirrorError, match=r"test\.jsonl:3: not JSON"):
        sib200(mirror)


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, lines(ROWS[0]) + '{"text": "Ўзбек"}\n'.encode("cp1251"))
    with pytest.raises(MirrorError, match=r"test\.jsonl.*not UTF-8"):
        sib200(mirror)


def test_row_that_is_no_object_is_refused(tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, lines(ROWS[0], ["sports", "Jamoa gʻalaba qozondi."]))
    with pytest.raises(MirrorError, match=r"test\.jsonl:2: .*object"):
        sib200(mirror)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(MirrorError, match="empty, expected one JSON object a line"):
        sib200(mirror_of(tmp_path, content))


# U+2028, U+2029 and U+0085 end a line for str.splitlines(), not in JSONL.
@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x1e"])
def test_line_separator_inside_a_row_does_not_cut_it(tmp_path: Path, separator: str) -> None:
    row = {"index_id": 1, "category": "sports", "text": f"Birinchi gap.{separator}Ikkinchi gap."}
    # As a person's own tool may write it: JSON wants control characters escaped, these others not.
    text = json.dumps(row, ensure_ascii=False)
    assert ("\\u" in text) == (separator < " ")
    mirror = mirror_of(tmp_path, f"{text}\n{json.dumps(ROWS[1])}\n".encode())
    assert sib200(mirror) == [row, ROWS[1]]


def test_blank_lines_windows_line_ends_and_a_missing_last_line_end_are_read(tmp_path: Path) -> None:
    first, second = (json.dumps(row, ensure_ascii=False).encode() for row in ROWS)
    mirror = mirror_of(tmp_path, first + b"\r\n\r\n\n" + second)
    assert sib200(mirror) == ROWS


@pytest.mark.parametrize(
    ("name", "config", "split", "n", "keys"),
    [
        ("Davlan/sib200", "uzn_Latn", "test", 204, {"index_id", "category", "text"}),
        ("Davlan/sib200", "uzn_Latn", "train", 701, {"index_id", "category", "text"}),
        (
            "tahrirchi/uzlib",
            "default",
            "test",
            1861,
            {"question", "option_a", "option_b", "option_c", "option_d", "answer", "type"},
        ),
    ],
)
def test_mirror_beside_the_checkout_has_the_hubs_rows(
    name: str, config: str, split: str, n: int, keys: set[str]
) -> None:
    if not SHARED_MIRROR.is_dir():
        pytest.skip("no mirror beside this checkout")
    rows = read_mirror(SHARED_MIRROR, name, config, split)
    assert len(rows) == n
    assert all(keys <= set(row) for row in rows)


# ---------------------------------------------------------------- as a task loads it

# In a process of its own: `datasets` is heavy. Prints the texts, or the failure's name and message.
LOAD = """
import json, sys
from tasks_uz.uz_sib200.utils import SOURCES, document
from tasks_uz.data import from_hub
try:
    splits = from_hub(SOURCES[0], {"test": "test"}, document, mirror=json.loads(sys.argv[1]))
    print(json.dumps([row["text"] for row in splits["test"]]))
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def load(mirror: Path | None, cache: Path, **environment: str) -> list[str]:
    inherited = {key: value for key, value in os.environ.items() if key != MIRROR_VARIABLE}
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(mirror and str(mirror))],
        env={**inherited, **offline, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return list(json.loads(done.stdout.splitlines()[-1]))


def test_mirror_may_be_named_by_the_environment_and_an_argument_goes_first(tmp_path: Path) -> None:
    named = mirror_of(tmp_path / "named", lines(ROWS[0]))
    other = mirror_of(tmp_path / "other", lines(ROWS[1]))
    assert load(None, tmp_path / "cache", **{MIRROR_VARIABLE: str(other)}) == [ROWS[1]["text"]]
    assert load(named, tmp_path / "cache", **{MIRROR_VARIABLE: str(other)}) == [ROWS[0]["text"]]


def test_without_mirror_and_network_the_message_says_how_to_name_a_mirror(tmp_path: Path) -> None:
    kind, said = load(None, tmp_path / "cache")
    assert kind == "HubUnreachableError"
    assert "Davlan/sib200 (uzn_Latn, test)" in said
    assert "--mirror DIR or UZBENCH_MIRROR=DIR" in said
    assert "\n" not in said


def test_row_without_a_column_is_named_with_the_columns_it_has(tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, lines(ROWS[0], {"index_id": 9, "label": "travel", "text": "Poyezd keldi."}))
    kind, said = load(mirror, tmp_path / "cache")
    assert kind == "MirrorError"
    assert "Davlan/sib200 (uzn_Latn, test), row 2 has no column 'category', it has index_id, label, text" in said


@pytest.mark.parametrize("category", ["cooking", None, 3])
def test_row_with_an_unknown_value_is_named(tmp_path: Path, category: Any) -> None:
    mirror = mirror_of(tmp_path, lines(ROWS[0], {**ROWS[1], "category": category}))
    kind, said = load(mirror, tmp_path / "cache")
    assert kind == "MirrorError"
    assert "row 2" in said
    assert "\n" not in said


# ---------------------------------------------------------------- filling a mirror

SPLITS = ("test", "validation", "train")


def data_set(folder: Path, name: str, config: str, splits: dict[str, bytes]) -> Path:
    """A directory in which `datasets` finds a data set without the hub; the working directory of `fill`."""
    data = folder / name
    data.mkdir(parents=True, exist_ok=True)
    entries = [{"split": split, "path": f"{split}.jsonl"} for split in splits]
    configs = {"configs": [{"config_name": config, "data_files": entries}]}
    # JSON is YAML.
    (data / "README.md").write_text(f"---\n{json.dumps(configs)}\n---\n", encoding="utf-8")
    for split, content in splits.items():
        (data / f"{split}.jsonl").write_bytes(content)
    return folder


def hub_of(folder: Path) -> Path:
    """Davlan/sib200, the same two texts in each split."""
    return data_set(folder, "Davlan/sib200", "uzn_Latn", dict.fromkeys(SPLITS, lines(*ROWS)))


def fill(folder: Path, *arguments: str, tasks: str = "uz_sib200") -> subprocess.CompletedProcess[str]:
    """`uzbench mirror` to folder/out."""
    return subprocess.run(
        [sys.executable, "-m", "harness", "mirror", "--out", "out", "--tasks", tasks, *arguments],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
    )


def sums(folder: Path) -> dict[str, str]:
    return mirror_checksums(folder / "out")


def test_filled_mirror_is_read_as_a_mirror_and_carries_its_checksums(tmp_path: Path) -> None:
    hub = hub_of(tmp_path)
    done = fill(hub)
    assert done.returncode == 0, done.stderr
    written = sums(hub)
    assert "Davlan/sib200/uzn_Latn/test.jsonl" in written
    for name, digest in written.items():
        assert hashlib.sha256((hub / "out" / name).read_bytes()).hexdigest() == digest
    assert sib200(hub / "out") == ROWS
    # Classes come mixed.
    assert sorted(load(hub / "out", tmp_path / "other")) == sorted(row["text"] for row in ROWS)


def test_second_fill_leaves_whole_files_and_mends_damaged_ones(tmp_path: Path) -> None:
    hub = hub_of(tmp_path)
    assert fill(hub).returncode == 0
    written, test = sums(hub), hub / "out" / "Davlan/sib200/uzn_Latn/test.jsonl"
    train = test.with_name("train.jsonl")
    before = train.stat().st_mtime_ns
    test.write_bytes(b"cut")
    assert fill(hub).returncode == 0
    assert sums(hub) == written
    assert sib200(hub / "out") == ROWS
    assert train.stat().st_mtime_ns == before


def test_fill_says_as_json_what_it_wrote(tmp_path: Path) -> None:
    done = fill(hub_of(tmp_path), "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    written = {str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert document == {"schema": 1, "files": document["files"]}
    assert set(document["files"]) == written
    assert len(written) == 3


def test_fill_without_the_hub_exits_as_a_network_failure_and_keeps_what_it_got(tmp_path: Path) -> None:
    done = fill(hub_of(tmp_path), tasks="uz_sib200,uz_uzlib")
    assert done.returncode == 3
    (said,) = [line for line in done.stderr.splitlines() if "could not be fetched" in line]
    assert "Data that could not be fetched: tahrirchi/uzlib (default)." in said
    assert "Traceback" not in done.stderr
    assert sib200(tmp_path / "out") == ROWS


def test_fill_of_a_task_that_ships_with_the_package_is_refused(tmp_path: Path) -> None:
    done = fill(tmp_path, tasks="uz_topic")
    assert done.returncode == 2
    assert "uz_topic ships with uzbench" in done.stderr
    assert not (tmp_path / "out").exists()


def test_fill_of_an_unknown_task_names_the_near_one(tmp_path: Path) -> None:
    done = fill(tmp_path, tasks="uz_sib20")
    assert done.returncode == 2
    assert "Did you mean 'uz_sib200'?" in done.stderr


def test_date_comes_back_as_the_text_that_it_was(tmp_path: Path) -> None:
    name = "facebook/belebele"
    content = (Path(__file__).parent / "fixtures" / "mirror" / name / "uzn_Latn" / "test.jsonl").read_bytes()
    assert b'"ds": "2023-05-03"' in content
    done = fill(data_set(tmp_path, name, "uzn_Latn", {"test": content}), tasks="uz_belebele")
    assert done.returncode == 0, done.stderr
    first = json.loads((tmp_path / "out" / name / "uzn_Latn" / "test.jsonl").read_text(encoding="utf-8").split("\n")[0])
    assert first["ds"].startswith("2023-05-03")


def test_data_set_without_the_configuration_that_is_wanted_is_one_line(tmp_path: Path) -> None:
    done = fill(data_set(tmp_path, "Davlan/sib200", "uzb_Latn", {"test": lines(*ROWS)}))
    assert done.returncode == 3
    assert "Data that could not be fetched: Davlan/sib200 (uzn_Latn)." in done.stderr
    assert "Traceback" not in done.stderr
