"""Models that don't answer in this process: several devices, and servers that lm-eval's own classes ask."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest
from openai_server import OpenAIServer, Request

from harness.cli import run_command
from harness.engine import load
from harness.engine.pool import ServerPool
from harness.errors import EXIT_ENVIRONMENT, EXIT_USER, EnvironmentFault, NetworkError, UsageError
from harness.evaluate import run
from harness.records import RunSpec
from harness.runs import RunDirectory

NOBODY = "http://127.0.0.1:9/v1"
"""An address where no server listens."""

TASKS = ("uz_topic", "uz_reading", "uz_qa")


def answers_of(found: RunDirectory) -> list[bytes]:
    return [(found.path / name).read_bytes() for name in ("samples.jsonl", "scores.jsonl", "result.json")]


# ------------------------------------------------------------ several devices


def test_two_devices_write_what_one_writes(
    tiny: Path, adapters: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RunSpec(model=str(tiny), tasks=TASKS, limit=10)
    named = [str(path) for path in adapters]
    alone = run(spec, adapters=named, out=tmp_path / "one", progress=False)
    monkeypatch.setattr(load, "devices", lambda gpus: ["cpu"] * int(gpus))
    together = run(spec, adapters=named, out=tmp_path / "two", gpus="2", progress=False)
    for one, two in zip(alone, together, strict=True):
        assert two.run.requests == one.run.requests
        assert answers_of(two) == answers_of(one)
    (again, *_) = run(spec, adapters=named, out=tmp_path / "two", gpus="2", progress=False)
    assert again.run.requests["asked"] == 0


def test_device_whose_process_dies_is_one_line_and_keeps_what_was_answered(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "devices", lambda gpus: ["cpu"] * int(gpus))
    receive, calls = ServerPool._receive, [0]

    def killed_later(self: ServerPool, number: int) -> object:
        calls[0] += 1
        if calls[0] == 5:
            os.kill(self._workers[0][0].pid, signal.SIGKILL)
        return receive(self, number)

    monkeypatch.setattr(ServerPool, "_receive", killed_later)
    spec = RunSpec(model=str(tiny), tasks=TASKS, limit=20)
    with pytest.raises(EnvironmentFault, match=r"process of device 0 ended \(exit code -9\).*type the same command"):
        run(spec, out=tmp_path, gpus="2", progress=False)
    monkeypatch.setattr(ServerPool, "_receive", receive)
    (found,) = run(spec, out=tmp_path, gpus="2", progress=False)
    assert found.run.complete
    assert found.run.requests["reused"] > 0


def test_what_a_worker_cant_load_is_the_line_that_one_process_says(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "model.safetensors").write_bytes(b"\0" * 100)
    monkeypatch.setattr(load, "devices", lambda gpus: ["cpu"] * int(gpus))
    arguments = ["run", "--model", str(broken), "--tasks", "uz_qa", "--limit", "1", "--out", str(tmp_path / "runs")]
    assert run_command([*arguments, "--gpus", "2"]) == EXIT_USER
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(("gpus", "message"), [("0", "expected a number"), ("x", "expected a number"), ("64", "has ")])
def test_number_of_gpus_that_isnt_there_is_refused(gpus: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"--gpus {gpus}: .*{message}"):
        load.devices(gpus)


# ------------------------------------------------------------ servers


def topic_of(request: Request) -> str:
    """An answer that depends on the prompt alone."""
    prompt = request.get("prompt") or request["messages"][-1]["content"]
    return f"javob {len(prompt)}\nva yana"


def api_spec(server: OpenAIServer, **more: object) -> RunSpec:
    return RunSpec(model="served", backend="api", base_url=server.url, tasks=("uz_qa",), limit=40, **more)  # type: ignore[arg-type]


def test_server_is_asked_with_the_tasks_settings_and_its_answers_are_kept(tmp_path: Path) -> None:
    with OpenAIServer(topic_of) as server:
        (found,) = run(api_spec(server), out=tmp_path, progress=False)
        assert len(server.requests) == 40
        (again,) = run(api_spec(server), out=tmp_path, progress=False)
        assert len(server.requests) == 40
    request = server.requests[0]
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("served", 0, 40)
    assert "\n" in request["stop"]
    assert {sample.response for sample in found.samples} == {
        topic_of({"prompt": sample.prompt}) for sample in found.samples
    }
    assert again.run.requests == {"asked": 0, "reused": 40, "distinct": 40, "split": 0}
    assert answers_of(again) == answers_of(found)


def test_chat_is_sent_as_messages(tmp_path: Path) -> None:
    with OpenAIServer(topic_of) as server:
        (found,) = run(api_spec(server, prompt_format="chat", n_shot=1), out=tmp_path, progress=False)
    messages = server.requests[0]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert found.run.model_key != "served"


@pytest.mark.parametrize("fault", [429, 500, 503, "cut", "malformed"])
def test_passing_fault_of_a_server_loses_no_answer(fault: int | str, tmp_path: Path) -> None:
    with OpenAIServer(topic_of) as server:
        (calm,) = run(api_spec(server), out=tmp_path / "calm", progress=False)
    with OpenAIServer(topic_of, faults=(fault, fault)) as server:
        (found,) = run(api_spec(server), out=tmp_path / "runs", progress=False)
        assert len(server.requests) == 42
    assert [s.response for s in found.samples] == [s.response for s in calm.samples]


def test_answer_without_content_is_unscored_not_wrong(tmp_path: Path) -> None:
    with OpenAIServer(topic_of, faults=("null",)) as server:
        (found,) = run(api_spec(server, prompt_format="chat"), out=tmp_path, progress=False)
    unscored = [score for score in found.scores if score.value is None]
    assert {score.unscored_reason for score in unscored} == {"no answer"}
    assert len({score.item_id for score in unscored}) == 1
    assert found.metrics[0].n_unscored == 1


def test_task_without_any_answer_is_in_the_result_with_all_its_documents(tmp_path: Path) -> None:
    with OpenAIServer(topic_of, faults=("null",) * 3) as server:
        spec = dataclasses.replace(api_spec(server), prompt_format="chat", limit=3)
        (found,) = run(spec, out=tmp_path, progress=False)
    (metric,) = (metric for metric in found.metrics if metric.primary)
    assert (metric.metric, metric.value, metric.n, metric.n_unscored) == ("exact_match", None, 0, 3)


def test_server_that_stays_away_is_one_line_and_the_run_goes_on_where_it_was(tmp_path: Path) -> None:
    with OpenAIServer(topic_of) as server:
        spec = api_spec(server)
        server.faults = [None] * 34 + [500] * 400  # type: ignore[list-item]
        with pytest.raises(NetworkError, match=r"The server at http://127.* failed .* goes on from there"):
            run(spec, out=tmp_path, progress=False)
        server.faults = []
        before = len(server.requests)
        (found,) = run(spec, out=tmp_path, progress=False)
        assert found.run.requests["reused"] == 32
        assert len(server.requests) == before + 8


@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
def test_choices_cant_be_scored_by_a_server_and_that_is_said_before_it_is_asked(
    prompt_format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with OpenAIServer(topic_of) as server:
        arguments = ["--model", "served", "--backend", "api", "--base-url", server.url, "--tasks", "uz_topic"]
        arguments += ["--prompt-format", prompt_format, "--limit", "2", "--out", str(tmp_path)]
        code = run_command(["run", *arguments])
        assert server.requests == []
    assert code == EXIT_USER
    assert "--backend api can't score texts" in capsys.readouterr().err.splitlines()[-1]


def test_server_of_llama_cpp_without_token_logprobs_is_one_line(tmp_path: Path) -> None:
    with OpenAIServer(topic_of) as server:
        spec = RunSpec(model="gemma.gguf", backend="gguf", base_url=server.url, tasks=("uz_topic",), limit=1)
        with pytest.raises(NetworkError, match="doesn't give what scoring needs"):
            run(spec, out=tmp_path, progress=False)


def test_answers_that_are_sampled_are_kept_by_their_seed(tmp_path: Path) -> None:
    with OpenAIServer(topic_of) as server:
        for seed, n_asked in ((1, 3), (2, 3), (1, 0)):
            spec = dataclasses.replace(api_spec(server), limit=3, seed=seed, gen_kwargs={"temperature": 0.7})
            (found,) = run(spec, out=tmp_path, progress=False)
            assert found.run.requests["asked"] == n_asked


def test_llama_cpps_server_is_asked_by_lm_evals_gguf_class(tmp_path: Path) -> None:
    with OpenAIServer(topic_of) as server:
        spec = RunSpec(model="gemma.gguf", backend="gguf", base_url=server.url, tasks=("uz_qa",), limit=3)
        (found,) = run(spec, out=tmp_path, progress=False)
    assert [s.response for s in found.samples] == [topic_of({"prompt": s.prompt}) for s in found.samples]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--backend", "api"], EXIT_USER, "--backend api needs a server. Try: --base-url"),
        (["--backend", "vllm"], EXIT_USER, "--backend vllm needs vllm, which wants an environment of its own"),
        (["--backend", "sglang"], EXIT_USER, "--backend sglang needs sglang"),
        (["--backend", "api", "--base-url", NOBODY, "--adapter", "a"], EXIT_USER, "--adapter goes with"),
        (["--backend", "api", "--base-url", NOBODY, "--quantization", "nf4"], EXIT_USER, "--quantization nf4 goes"),
        (["--backend", "vllm", "--gpus", "2"], EXIT_USER, "--gpus 2 goes with --backend engine or hf"),
        (["--backend", "api", "--base-url", NOBODY], EXIT_ENVIRONMENT, "The server at http://127"),
    ],
    ids=["no address", "no vllm", "no sglang", "adapter", "quantization", "GPUs", "nobody there"],
)  # fmt: skip
def test_backend_that_cant_answer_is_one_line(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["run", "--model", "served", "--tasks", "uz_qa", "--limit", "1", "--out", str(tmp_path)]
    assert run_command([*common, *arguments]) == code
    error = capsys.readouterr().err.strip()
    assert message in error.splitlines()[-1]
