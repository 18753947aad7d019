"""Asking real (tiny) models through real lm-eval: stored answers, resuming, adapters, importing, faults."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import save_tiny

from harness.comparison import compare
from harness.errors import DiskFullError, ModelError, UsageError
from harness.evaluate import run, select
from harness.files import read_json
from harness.imports import import_runs
from harness.manifest import Manifest, write_manifest
from harness.records import RunSpec
from harness.runs import RunDirectory, open_run
from harness.store import STORE, Store
from tasks_uz import catalog

ROOT = Path(__file__).resolve().parent.parent
CHOICE = ("uz_topic", "uz_reading")


def ask(
    model: Path, out: Path, *, limit: int = 4, adapters: tuple[Path, ...] = (), **spec: object
) -> list[RunDirectory]:
    asked = RunSpec(model=str(model), **{"tasks": ("uz_topic", "uz_qa"), "limit": limit, **spec})  # type: ignore[arg-type]
    return run(asked, out=out, adapters=[str(path) for path in adapters], progress=False)


# ------------------------------------------------------------ what is asked


def test_group_stands_for_its_tasks_in_every_orthography_asked() -> None:
    names, subset = select(RunSpec("m", tasks=("uz_core",), orthographies=("latin", "cyrillic")))
    assert {"uz_topic", "uz_topic_cyrl", "uz_summ", "uz_summ_cyrl"} <= set(names)
    assert "uz_topic_2026" not in names
    assert subset is None


def test_variant_stands_for_itself_alone() -> None:
    assert select(RunSpec("m", tasks=("uz_qa_2026",)))[0] == ["uz_qa_2026"]


def test_task_that_is_not_written_in_an_alphabet_says_in_which_it_is() -> None:
    with pytest.raises(UsageError, match=r"uz_sib200 isn't asked in cyrillic. It is asked in: latin"):
        select(RunSpec("m", tasks=("uz_sib200",), orthographies=("cyrillic",)))


def test_demo_subset_asks_its_own_items_and_counts_as_limited(tiny: Path, tmp_path: Path) -> None:
    (found,) = ask(tiny, tmp_path, tasks=("uz_demo",), limit=5)
    assert found.run.limited
    assert found.run.subset == "uz_demo"
    for task, ids in catalog.demo_items().items():
        assert {sample.item_id for sample in found.samples if sample.task == task} <= set(ids)


# ------------------------------------------------------------ records of a run


def test_run_directory_holds_a_sample_a_document_and_a_score_a_metric(tiny: Path, tmp_path: Path) -> None:
    (found,) = ask(tiny, tmp_path)
    assert found.run.complete
    assert len(found.samples) == 8
    assert {score.metric for score in found.scores} >= {"acc", "acc_bytes", "exact_match", "f1", "empty"}
    choice = next(sample for sample in found.samples if sample.task == "uz_topic")
    assert len(choice.choices) == len(choice.logprobs) == 8
    assert choice.response == choice.choices[max(range(8), key=choice.logprobs.__getitem__)]
    assert choice.item_id.startswith("topic-")
    assert choice.target in choice.choices


def test_answer_of_a_cloze_task_is_the_choice_that_is_scored(tiny: Path, tmp_path: Path) -> None:
    (found,) = ask(tiny, tmp_path, tasks=("uz_topic_cloze", "uz_topic"), limit=24)
    right = {
        (score.task_key, score.item_id): score.value
        for score in found.scores
        if score.metric == {"cloze": "acc_bytes", "p1": "acc"}[score.prompt_id]
    }
    for sample in found.samples:
        key = (sample.task, sample.orthography, sample.prompt_id), sample.item_id
        assert right[key] == float(sample.response == sample.target)


def test_prompts_of_a_group_are_asked_in_the_alphabets_that_it_names() -> None:
    names = {group: select(RunSpec(model="m", tasks=(group,), prompts="all"))[0] for group in catalog.groups()}
    assert {"uz_topic_cyrl", "uz_topic_cyrl_p2", "uz_reading_cyrl_cloze_p3"} <= set(names["uz_core_cyrl"])
    assert {catalog.tasks()[name].orthography for name in names["uz_core_cyrl"]} == {"cyrillic"}
    assert len(names["uz_core_cyrl"]) == len(names["uz_core_2026"]) == len(names["uz_core"])
    assert set(names["uz_core_all"]) == {*names["uz_core"], *names["uz_core_cyrl"], *names["uz_core_2026"]}


def test_variant_that_is_named_itself_is_asked_alone() -> None:
    spec = RunSpec(model="m", tasks=("uz_topic_cyrl",), prompts="all", orthographies=("all",))
    assert select(spec)[0] == ["uz_topic_cyrl"]


def test_same_item_in_another_alphabet_keeps_its_id_and_changes_its_hash(tiny: Path, tmp_path: Path) -> None:
    (found,) = ask(tiny, tmp_path, tasks=("uz_topic",), orthographies=("all",), limit=2)
    by_alphabet = {
        alphabet: [sample for sample in found.samples if sample.orthography == alphabet]
        for alphabet in ("latin", "cyrillic", "latin2026")
    }
    assert len({tuple(s.item_id for s in samples) for samples in by_alphabet.values()}) == 1
    assert len({s.doc_hash for s in found.samples}) == 6
    assert "Қ" in by_alphabet["cyrillic"][0].prompt or "қ" in by_alphabet["cyrillic"][0].prompt


def test_alpaca_format_changes_the_prompt_and_not_the_document(tiny: Path, tmp_path: Path) -> None:
    (plain,) = ask(tiny, tmp_path)
    (alpaca,) = ask(tiny, tmp_path, prompt_format="alpaca")
    for one, two in zip(plain.samples, alpaca.samples, strict=True):
        assert one.doc_hash == two.doc_hash
        assert one.prompt_hash != two.prompt_hash
        assert two.prompt.startswith("### Instruction:\n")
        assert two.prompt.endswith("### Response:\n")
    assert compare(plain, alpaca).asked_differently


def test_shots_stand_before_the_question_in_its_format(tiny: Path, tmp_path: Path) -> None:
    (found,) = ask(tiny, tmp_path, tasks=("uz_topic",), limit=1, n_shot=2, prompt_format="alpaca")
    assert found.samples[0].prompt.count("### Response:\n") == 3


def test_more_shots_than_there_are_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--shots 99: task uz_topic has 8 worked examples"):
        ask(tiny, tmp_path, tasks=("uz_topic",), n_shot=99)


# ------------------------------------------------------------ stored answers


def test_second_run_asks_nothing_again_and_writes_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    (first,) = ask(tiny, tmp_path)
    before = answers_of(first)
    (second,) = ask(tiny, tmp_path)
    assert second.path == first.path
    assert second.run.requests["asked"] == 0
    assert second.run.requests["reused"] == second.run.requests["distinct"] > 0
    assert answers_of(second) == before


def test_two_adapters_of_one_base_never_share_an_answer(
    tiny: Path, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    runs = ask(tiny, tmp_path, tasks=("uz_topic",), adapters=adapters)
    assert [each.run.requests["reused"] for each in runs] == [0, 0, 0]
    assert len({each.run.model_key for each in runs}) == 3
    values = [tuple(sample.logprobs for sample in each.samples) for each in runs]
    assert len(set(values)) == 3
    with Store(tmp_path / STORE) as store:
        assert {store.count(each.run.model_key) for each in runs} == {32}


def test_base_answers_with_adapters_loaded_as_it_does_alone(
    tiny: Path, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    (alone,) = ask(tiny, tmp_path / "alone")
    beside = ask(tiny, tmp_path / "beside", adapters=adapters)[0]
    assert [(s.response, s.logprobs) for s in alone.samples] == [(s.response, s.logprobs) for s in beside.samples]


def test_int8_and_float32_of_one_model_never_share_an_answer(tiny: Path, tmp_path: Path) -> None:
    (full,) = ask(tiny, tmp_path, tasks=("uz_topic",))
    (int8,) = ask(tiny, tmp_path, tasks=("uz_topic",), quantization="int8")
    assert full.run.model_key != int8.run.model_key
    assert int8.run.requests["reused"] == 0
    assert [s.logprobs for s in full.samples] != [s.logprobs for s in int8.samples]


def answers_of(found: RunDirectory) -> tuple[bytes, bytes, bytes]:
    names = ("samples.jsonl", "scores.jsonl", "result.json")
    one, two, three = ((found.path / name).read_bytes() for name in names)
    return one, two, three


def command(model: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    arguments = [
        "run",
        "--model",
        str(model),
        "--tasks",
        "uz_topic,uz_qa",
        "--limit",
        "60",
        "--out",
        str(out),
        *more,
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        # A shell's background jobs ignore Ctrl-C, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def stored(out: Path) -> int:
    if not (out / STORE).is_file():
        return 0
    try:
        with sqlite3.connect(f"file:{out / STORE}?mode=ro", uri=True, timeout=5) as database:
            return int(database.execute("SELECT COUNT(*) FROM answers").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def wait_for(out: Path, answers: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while stored(out) < answers and process.poll() is None:
        assert time.monotonic() < deadline, "the run stored nothing for four minutes"
        time.sleep(0.01)


def test_run_killed_three_times_ends_in_the_bytes_of_an_undisturbed_one(tiny: Path, tmp_path: Path) -> None:
    undisturbed = command(tiny, tmp_path / "calm")
    path, errors = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, errors
    calm = open_run(path.strip())

    out = tmp_path / "killed"
    kept = 0
    moments = random.Random(7)
    for _ in range(3):
        process = command(tiny, out)
        wait_for(out, kept + 1, process)
        time.sleep(moments.random() / 20)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert stored(out) >= kept
        kept = stored(out)
    assert not open_run(next(path for path in out.iterdir() if path.is_dir()), complete=False).run.complete
    last = command(tiny, out)
    path, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    resumed = open_run(path.strip())
    assert answers_of(resumed) == answers_of(calm)
    requests = resumed.run.requests
    # What had been stored was not asked again: no batch that was whole is computed twice.
    assert requests["reused"] == kept
    assert requests["asked"] == calm.run.requests["asked"] - kept
    assert f"{kept} not asked again" in errors


def test_ctrl_c_exits_130_and_keeps_what_was_answered(tiny: Path, tmp_path: Path) -> None:
    process = command(tiny, tmp_path)
    wait_for(tmp_path, 1, process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert output == ""
    assert "the same command goes on" in errors
    assert stored(tmp_path) > 0


# ------------------------------------------------------------ importing


def test_imported_stock_run_has_the_scores_of_our_own(tiny: Path, tmp_path: Path) -> None:
    stock = tmp_path / "stock"
    done = subprocess.run(
        [
            sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={tiny},dtype=float32",
            "--include_path", str(ROOT / "tasks_uz"), "--tasks", "uz_topic,uz_qa", "--limit", "4", "--device", "cpu",
            "--output_path", str(stock), "--log_samples",
        ],
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (imported,) = import_runs(stock, out=tmp_path / "runs")
    (ours,) = ask(tiny, tmp_path / "runs")
    assert {(s.doc_hash, s.metric, s.value) for s in imported.scores} == {
        (s.doc_hash, s.metric, s.value) for s in ours.scores
    }
    comparison = compare(imported, ours)
    assert all(row.delta == 0 and row.n_pairs == 4 for row in comparison.rows)
    assert imported.run.source == "lm-eval"
    assert imported.run.limited


# ------------------------------------------------------------ bad input


def test_damaged_weights_are_one_line(tiny: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(tiny, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"broken is damaged: .*Fetch or copy its files again"):
        ask(broken, tmp_path / "runs")


def test_damaged_adapter_is_one_line(tiny: Path, adapters: tuple[Path, Path], tmp_path: Path) -> None:
    broken = Path(shutil.copytree(adapters[0], tmp_path / "broken"))
    (broken / "adapter_model.safetensors").write_bytes(b"\x08" + b"\0" * 40)
    with pytest.raises(ModelError, match="doesn't fit this base or is damaged"):
        ask(tiny, tmp_path / "runs", adapters=(broken,))


def test_adapter_of_another_shape_is_refused(
    adapters: tuple[Path, Path], tokenizer_directory: Path, tmp_path: Path
) -> None:
    other = save_tiny(tmp_path / "other", tokenizer_directory, hidden_size=32)
    with pytest.raises(ModelError, match="doesn't fit this base"):
        ask(other, tmp_path / "runs", adapters=(adapters[0],))


def test_adapter_whose_manifest_names_other_weights_is_refused_before_anything_is_loaded(
    tiny: Path, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(adapters[0], tmp_path / "made-elsewhere"))
    write_manifest(
        adapter,
        Manifest(
            base_model="another", base_revision=None, base_digest="0" * 64, quantization="none", dtype="float32",
            prompt_format="alpaca", data="rows.jsonl", data_sha256="0" * 64, n_rows=1, n_dropped={}, n_tokens=1,
            n_trained_tokens=1, steps=1, seconds=1.0, created="2026-01-01T00:00:00Z", recipe={},
        ),
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"was trained on another .*Name its own base: --model another"):
        ask(tiny, tmp_path / "runs", adapters=(adapter,))
    assert not (tmp_path / "runs").exists()


def test_full_disk_stops_with_one_line_and_goes_on_when_there_is_room(tiny: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system can't be mounted here")
    try:
        with pytest.raises(DiskFullError, match=r"no space left on the device. What was stored is whole"):
            ask(tiny, small / "runs", limit=40)
        subprocess.run(["mount", "-o", "remount,size=16m", str(small)], check=True)
        (found,) = ask(tiny, small / "runs", limit=40)
        assert found.run.complete
        assert not list(found.path.glob(".*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_record_of_a_run_says_what_it_was_made_with(tiny: Path, tmp_path: Path) -> None:
    (found,) = ask(tiny, tmp_path, tasks=("uz_qa",), limit=1)
    document = read_json(found.path / "run.json")
    assert {"lm_eval", "torch", "transformers", "python"} <= set(document["versions"])
    assert document["hardware"]["cores"] == len(os.sched_getaffinity(0))
    assert document["spec"]["limit"] == 1
    assert json.loads((found.path / "plan.json").read_text())["budget"]["tokens"] > 0
