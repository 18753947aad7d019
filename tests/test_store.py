"""The store of answers: whole batches, and no model's answer for another."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import DiskFullError, RecordError
from harness.files import SCHEMA
from harness.store import Store, request_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


# ---------------------------------------------------------------- keys


def test_answers_of_two_models_are_never_shared(path: Path) -> None:
    with Store(path) as store:
        store.put("base", {"question": "Nukus", "only base": 1})
        store.put("tuned", {"question": "Xiva"})
        assert store.get("base", ["question", "only base"]) == {"question": "Nukus", "only base": 1}
        assert store.get("tuned", ["question", "only base"]) == {"question": "Xiva"}
        assert store.get("other", ["question"]) == {}
        assert (store.count("base"), store.count("tuned"), store.count("other"), store.count()) == (
            2,
            1,
            0,
            3,
        )


def test_answer_put_anew_replaces_the_one_of_its_model_alone(path: Path) -> None:
    with Store(path) as store:
        store.put("base", {"q": "old"})
        store.put("tuned", {"q": "old"})
        store.put("base", {"q": "new"})
        assert store.get("base", ["q"]) | store.get("tuned", ["q"]) == {"q": "old"}
        assert store.get("base", ["q"]) == {"q": "new"}


def test_keys_are_data_and_never_sql(path: Path) -> None:
    hostile = ["'; DROP TABLE answers; --", '"', "%", "?", "\x00", "oʻ", ""]
    with Store(path) as store:
        for key in hostile:
            store.put(key, {key: key})
        assert [store.get(key, hostile) for key in hostile] == [{key: key} for key in hostile]


REQUESTS: list[tuple[str, list[Any]]] = [
    ("loglikelihood", ["a", "b"]),
    ("loglikelihood", ["ab", ""]),
    ("loglikelihood", ["b", "a"]),
    ("generate_until", ["a", "b"]),
    ("generate_until", ["a", {"until": ["\n"], "max_gen_toks": 5}]),
    ("generate_until", ["a", {"until": ["\n"], "max_gen_toks": 6}]),
    ("generate_until", ["o'zbek", {}]),
    ("generate_until", ["oʻzbek", {}]),
    ("generate_until", ["\ud800", {}]),
]


def test_each_request_has_a_key_of_its_own() -> None:
    assert len({request_key(kind, arguments) for kind, arguments in REQUESTS}) == len(REQUESTS)


def test_request_is_known_again_whatever_the_order_of_its_settings() -> None:
    one = request_key("generate_until", ("a", {"until": ["\n"], "max_gen_toks": 5}))
    assert request_key("generate_until", ["a", {"max_gen_toks": 5, "until": ("\n",)}]) == one


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    "answer",
    [[-11.25, False], "ʻ ўзбек \ud800 \u2028 \x00", "", None, 0.1 + 0.2, {"a": [1, None]}, -1e-300],
    ids=repr,
)
def test_answer_comes_back_exactly_after_the_store_is_closed(path: Path, answer: Any) -> None:
    with Store(path) as store:
        store.put("m", {"q": answer})
    with Store(path) as store:
        assert store.get("m", ["q"]) == {"q": answer}


@pytest.mark.parametrize("n", [0, 1, 499, 500, 501, 2500])
def test_any_number_of_keys_is_asked_for_at_once(path: Path, n: int) -> None:
    wanted = {f"q{number}": number for number in range(n)}
    with Store(path) as store:
        store.put("m", wanted)
        assert store.get("m", iter([*wanted, "unknown"])) == wanted


def test_what_a_model_key_stands_for_is_kept_once(path: Path) -> None:
    with Store(path) as store:
        store.remember_model("m", {"weights": "abc"})
        store.remember_model("m", {"weights": "of a later run"})
    rows = sqlite3.connect(path).execute("SELECT model_key, identity FROM models").fetchall()
    assert [(key, json.loads(identity)) for key, identity in rows] == [("m", {"weights": "abc"})]


# ---------------------------------------------------------------- all or nothing


@pytest.mark.parametrize(
    ("bad", "error"),
    [({"q2": object()}, TypeError), ({None: "an answer without a key"}, sqlite3.IntegrityError)],
    ids=["answer that is no JSON", "key that is none"],
)
def test_batch_with_one_bad_answer_is_not_stored_at_all(
    path: Path, bad: dict[Any, Any], error: type[Exception]
) -> None:
    with Store(path) as store:
        store.put("m", {"q0": 0})
        with pytest.raises(error):
            store.put("m", {"q0": "changed", "q1": 1, **bad, "q3": 3})
        assert store.get("m", ["q0", "q1", "q2", "q3"]) == {"q0": 0}
        # The store goes on: no transaction is left open.
        store.put("m", {"q4": 4})
        assert store.count() == 2


def test_batch_that_finds_the_disk_full_is_not_stored_at_all(path: Path) -> None:
    with Store(path) as store:
        store.put("m", {"q": "kept"})
        # SQLite itself refuses to grow the file, as it does on a full disk.
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count={pages + 2}")
        with pytest.raises(DiskFullError, match=r"no space left on the device\. What was stored is whole"):
            store.put("m", {f"q{number}": "x" * 1000 for number in range(50)})
        assert store.count() == 1
        store._db.execute("PRAGMA max_page_count=1000000")
        store.put("m", {"after": "space was freed"})
    with Store(path) as store:
        assert store.get("m", ["q", "q0", "after"]) == {"q": "kept", "after": "space was freed"}


def test_two_stores_of_one_file_see_what_the_other_put(path: Path) -> None:
    with Store(path) as one, Store(path) as two:
        one.put("m", {"a": 1})
        two.put("m", {"b": 2})
        assert one.get("m", ["a", "b"]) == two.get("m", ["a", "b"]) == {"a": 1, "b": 2}


# ---------------------------------------------------------------- kills

BATCH = 500

# Puts batches of BATCH answers; argv: store, moment of the kill in SQLite instructions (0: by the parent).
PUTTING = f"""
import os, signal, sys
from pathlib import Path
from harness.store import Store

path, moment = Path(sys.argv[1]), int(sys.argv[2])
store = Store(path)
for batch in range(3 if moment else 100_000):
    store.put("m", {{f"{{batch:05d}}-{{n:04d}}": ["x" * 50, n] for n in range({BATCH})}})
    print(batch, flush=True)
store._db.set_progress_handler(lambda: os.kill(os.getpid(), signal.SIGKILL), moment)
store.put("m", {{f"{{batch + 1:05d}}-{{n:04d}}": ["x" * 50, n] for n in range({BATCH})}})
print("never killed", flush=True)
"""


def whole_batches(path: Path) -> int:
    """How many batches a store holds, each of them whole and with its own answers."""
    with Store(path) as store:
        rows = sqlite3.connect(path).execute("SELECT request_key, answer FROM answers").fetchall()
        held: dict[str, dict[int, Any]] = {}
        for key, answer in rows:
            batch, number = key.split("-")
            held.setdefault(batch, {})[int(number)] = json.loads(answer)
        for answers in held.values():
            assert answers == {number: ["x" * 50, number] for number in range(BATCH)}
        assert sorted(held) == [f"{batch:05d}" for batch in range(len(held))]
        # And it takes answers again.
        store.put("m", {"after": 1})
        assert store.count() == len(rows) + 1
    return len(held)


@pytest.mark.parametrize("moment", [1, 50, 1000, 5000])
def test_kill_in_the_middle_of_a_batch_leaves_the_batches_before_it(path: Path, moment: int) -> None:
    done = subprocess.run([sys.executable, "-c", PUTTING, str(path), str(moment)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.split() == ["0", "1", "2"]
    assert whole_batches(path) == 3


@pytest.mark.parametrize("n_seen", [1, 5, 12])
def test_kill_from_outside_leaves_only_whole_batches(path: Path, n_seen: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", PUTTING, str(path), "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(n_seen):
        assert process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    said = process.stdout.read().split()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    # A batch may be stored though the kill came before its line was printed; none that was printed is lost.
    assert n_seen + len(said) <= whole_batches(path) <= n_seen + len(said) + 1


def test_processes_that_put_at_once_wait_for_each_other(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from harness.store import Store\n"
        "with Store(Path(sys.argv[1])) as store:\n"
        "    for batch in range(20):\n"
        "        store.put(sys.argv[2], {f'{batch}-{n}': n for n in range(50)})"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("a", "b")]
    assert [process.wait() for process in processes] == [0, 0]
    with Store(path) as store:
        assert (store.count("a"), store.count("b")) == (1000, 1000)


# ---------------------------------------------------------------- files that are no store


def test_newer_store_is_refused_and_left_as_it_was(path: Path) -> None:
    with Store(path) as store:
        store.put("m", {"q": 1})
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={SCHEMA + 1}")
    db.close()
    with pytest.raises(RecordError, match=rf"schema {SCHEMA + 1}, this uzbench reads up to {SCHEMA}\. Try: pip"):
        Store(path)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA + 1
    assert db.execute("SELECT COUNT(*) FROM answers").fetchone()[0] == 1


@pytest.mark.parametrize(
    "content", [b"Answers of the model\n" * 100, b"\x00" * 4096, b"SQLite format 3\x00" + b"\xff" * 4096]
)
def test_file_that_is_no_database_is_refused_in_one_line_and_kept(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(RecordError) as caught:
        Store(path)
    assert str(caught.value).startswith(f"{path} isn't a store of answers (")
    assert str(caught.value).endswith("). Move it away, a new one is made.")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_store_makes_the_folders_on_the_way(tmp_path: Path) -> None:
    with Store(tmp_path / "a" / "b" / "store.sqlite") as store:
        assert store.count() == 0
