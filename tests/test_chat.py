"""Talking to a model: pieces as they are written, where an answer ends, and a terminal that nothing steers."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hostile import HOSTILE, visible
from test_merge import made_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.chat import Conversation, tell, trained_format
from harness.cli import run_command
from harness.engine.packaged import SMOLLM2
from harness.engine.speak import Talker, _Listener
from harness.errors import ModelError, UsageError
from harness.records import RunSpec
from tasks_uz.prompts import Prompt, render
from train.merging import merge

ASKED = "Oʻzbekiston poytaxti?"


class Letters:
    """A tokenizer whose tokens are the bytes of a text, so that ʻ takes two."""

    def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")


def heard(text: str, *stop: str) -> tuple[list[str], _Listener]:
    """The pieces of a text that comes byte by byte, up to where the listener stops it."""
    pieces: list[str] = []
    listener = _Listener(Letters(), stop, pieces.append)
    listener.put(torch.tensor([[1, 2, 3]]))
    for byte in text.encode():
        listener.put(torch.tensor([byte]))
        if bool(listener(torch.zeros(1, 1), None)[0]):
            break
    listener.end()
    return pieces, listener


# ---------------------------------------------------------------- what is told, and when


def test_answer_is_told_piece_by_piece_and_its_letters_are_whole() -> None:
    pieces, listener = heard("Bu Oʻzbekiston.")
    assert "".join(pieces) == listener.told == "Bu Oʻzbekiston."
    assert len(pieces) > 5
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("text", ["Toshkent\n### Instruction:\nYana", "Toshkent ### yana", "Toshkent### "])
def test_nothing_of_a_stop_string_is_told_and_nothing_after_it(text: str) -> None:
    pieces, listener = heard(text, "### ")
    assert "".join(pieces) == "Toshkent"
    assert listener.stopped


@pytest.mark.parametrize("text", ["C# va ##", "Narxi 5 #", "###"])
def test_what_only_looks_like_a_stop_string_is_told_at_the_end(text: str) -> None:
    pieces, listener = heard(text, "### ")
    assert "".join(pieces) == text
    assert not listener.stopped


def test_white_space_around_an_answer_is_not_told() -> None:
    assert "".join(heard("\n\n  bir\n\nikki \n\n")[0]) == "bir\n\nikki"


def test_half_a_letter_at_the_end_is_shown_as_such() -> None:
    listener = _Listener(Letters(), (), lambda _: None)
    listener.put(torch.tensor([[1]]))
    listener.put(torch.tensor([0xCA]))
    assert listener.told == ""
    listener.end()
    assert listener.told == "\ufffd"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_answer_cannot_steer_a_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for character in text:
        tell(character)
    shown = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert visible("a\x1b]0;x\x07\u202eb") == "a⟨U+001B⟩]0;x⟨U+0007⟩⟨U+202E⟩b"


# ---------------------------------------------------------------- a model's answers


def generated(place: Path, prompt: str, n: int, **options: Any) -> str:
    """What transformers says greedily, by itself."""
    tokenizer = AutoTokenizer.from_pretrained(place)
    ids = tokenizer(prompt, return_tensors="pt", **options).input_ids
    out = AutoModelForCausalLM.from_pretrained(place).generate(ids, max_new_tokens=n, do_sample=False)
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()


@pytest.mark.parametrize("prompt_format", ["plain", "alpaca"])
def test_greedy_answer_is_the_models_own_in_the_format_of_the_renderer(tiny: Path, prompt_format: str) -> None:
    talk = Conversation(RunSpec(model=str(tiny)), prompt_format, max_new_tokens=12, temperature=0)
    pieces: list[str] = []
    answer = talk.ask(ASKED, pieces.append)
    wanted = generated(tiny, render(Prompt(ASKED), prompt_format), 12)
    assert answer.text == "".join(pieces) == wanted.split("### ")[0].strip()
    assert (answer.ended, answer.n_tokens) == ("length", 12)


def test_chat_template_keeps_the_conversation_and_clear_forgets_it(tiny: Path) -> None:
    talk = Conversation(RunSpec(model=str(tiny)), None, max_new_tokens=6, temperature=0)
    assert talk.prompt_format == "chat"
    first, second = talk.ask("Salom!"), talk.ask("Yana?")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    turns = ["Salom!", first.text, "Yana?"]
    chat = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), turns, strict=True)]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert second.text == generated(tiny, prompt, 6, add_special_tokens=False)
    talk.clear()
    assert talk.ask("Salom!") == first


def test_alpaca_turns_stand_alone(tiny: Path) -> None:
    talk = Conversation(RunSpec(model=str(tiny)), "alpaca", max_new_tokens=6, temperature=0)
    first = talk.ask("Salom!")
    talk.ask("Yana?")
    assert talk.ask("Salom!") == first


def test_temperature_draws_and_greedy_does_not(tiny: Path) -> None:
    hot = Conversation(RunSpec(model=str(tiny)), "plain", max_new_tokens=12, temperature=2)
    assert len({hot.ask(ASKED).text for _ in range(4)}) > 1
    cold = Conversation(RunSpec(model=str(tiny)), "plain", max_new_tokens=12, temperature=0)
    assert len({cold.ask(ASKED).text for _ in range(3)}) == 1


def test_answer_ends_at_the_end_token(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = Talker(RunSpec(model=str(tiny)))
    first = talker.answer(ASKED, max_new_tokens=8)
    tokens = AutoTokenizer.from_pretrained(tiny).encode(ASKED)
    with torch.inference_mode():
        ids = talker._model.generate(torch.tensor([tokens]), max_new_tokens=8, do_sample=False)[0, len(tokens) :]
    monkeypatch.setattr(talker._model, "generation_config", SimpleNamespace(eos_token_id=[int(ids[3])]))
    settings = talker._settings(8, 0)
    assert int(ids[3]) in settings.eos_token_id
    monkeypatch.undo()
    talker._model.generation_config.eos_token_id = [int(ids[3])]
    again = talker.answer(ASKED, max_new_tokens=8)
    assert again.ended == "end"
    assert again.n_tokens == ids.tolist().index(int(ids[3])) + 1
    assert first.ended == "length"


def test_prompt_longer_than_the_model_is_refused(tiny: Path) -> None:
    talk = Conversation(RunSpec(model=str(tiny)), "plain", max_new_tokens=6, temperature=0)
    with pytest.raises(UsageError, match="the model takes 4096"):
        talk.ask("bir ikki uch " * 3000)


def test_adapter_changes_the_answer_and_says_its_format(tiny: Path, tmp_path: Path) -> None:
    adapter = made_adapter(tmp_path / "adapter", tiny, quantization="nf4", lora_alpha=64)
    spec = RunSpec(model=str(tiny), adapter=str(adapter), quantization="nf4")
    talk = Conversation(spec, None, max_new_tokens=8, temperature=0)
    assert talk.prompt_format == "alpaca"
    assert talk.ask(ASKED) != Conversation(
        RunSpec(model=str(tiny), quantization="nf4"), "alpaca", max_new_tokens=8, temperature=0
    ).ask(ASKED)
    assert any(type(module).__name__ == "Linear4bit" for module in talk._talker._model.modules())


def test_merged_weights_remember_the_format_they_were_trained_in(tiny: Path, tmp_path: Path) -> None:
    merge(made_adapter(tmp_path / "adapter", tiny), tmp_path / "merged", progress=False)
    assert trained_format(RunSpec(model=str(tmp_path / "merged"))) == "alpaca"
    assert trained_format(RunSpec(model=str(tiny))) is None


def test_adapter_of_another_base_is_refused(tiny: Path, tmp_path: Path, tokenizer_directory: Path) -> None:
    adapter = made_adapter(tmp_path / "adapter", tiny)
    with pytest.raises(ModelError, match="was trained on"):
        Talker(RunSpec(model=str(tokenizer_directory), adapter=str(adapter)))


# ---------------------------------------------------------------- the command


def test_adapter_on_an_int8_base_answers_without_a_warning(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = made_adapter(tmp_path / "adapter", tiny, quantization="int8")
    capsys.readouterr()
    assert run_command(["chat", "--model", str(tiny), "--adapter", str(adapter), "--max-new-tokens", "4", ASKED]) == 0
    assert capsys.readouterr().err == ""


def test_one_answer_goes_to_stdout_and_nothing_else(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["chat", "--model", str(tiny), "--prompt-format", "plain", "--max-new-tokens", "8", ASKED]
    assert run_command(command) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == generated(tiny, ASKED, 8)
    assert printed.err == ""


def test_piped_text_is_asked_and_json_is_one_document(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Salom!\n"))
    assert run_command(["chat", "--model", str(tiny), "--json", "--max-new-tokens", "4"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["prompt"] == "Salom!"
    assert (document["prompt_format"], document["tokens"], document["ended"]) == ("chat", 4, "length")


@pytest.mark.parametrize(
    ("options", "given", "said"),
    [
        ([], "", "Nothing is asked"),
        (["--temperature", "-1", "Salom"], None, "--temperature -1"),
        (["--max-new-tokens", "0", "Salom"], None, "--max-new-tokens 0"),
        (["--prompt-format", "alpacka", "Salom"], None, "Did you mean 'alpaca'?"),
        (["--quantization", "int4", "Salom"], None, "quantization 'int4'"),
        (["--adapter", "nowhere", "Salom"], None, "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistake_is_one_line(
    tiny: Path,
    options: list[str],
    given: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    assert run_command(["chat", "--model", str(tiny), *options]) in (2, 3)
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


class Terminal:
    """`uzbench chat` at a terminal of its own."""

    def __init__(self, *arguments: str):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "harness", "chat", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # A run that was started in the background has been told to ignore Ctrl-C, and hands that on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(slave)
        self.seen = ""

    def until(self, text: str, timeout_s: float = 400) -> str:
        """Reads on until a text has come; returns all that came with it."""
        new, deadline = "", time.monotonic() + timeout_s
        while text not in new:
            assert time.monotonic() < deadline, self.seen + new
            if select.select([self.master], [], [], 1)[0]:
                new += os.read(self.master, 4096).decode(errors="replace")
        self.seen += new
        return new

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


def test_conversation_at_a_terminal_has_a_prompt_and_commands_and_ends_with_control_d(tiny: Path) -> None:
    terminal = Terminal("--model", str(tiny), "--prompt-format", "alpaca", "--max-new-tokens", "4")
    said = terminal.until("> ")
    assert "Each turn stands alone" in said
    terminal.type("Salom!\n")
    terminal.until("> ")
    terminal.type("/help\n")
    assert "There are /clear and /exit" in terminal.until("> ")
    terminal.type("/clear\n")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0


@pytest.mark.parametrize("typed", ["/exit\n", None], ids=["exit", "control c"])
def test_conversation_ends_by_exit_with_0_and_by_control_c_with_130(tiny: Path, typed: str | None) -> None:
    terminal = Terminal("--model", str(tiny), "--max-new-tokens", "4")
    terminal.until("> ")
    if typed:
        terminal.type(typed)
        assert terminal.process.wait(30) == 0
        return
    os.kill(terminal.process.pid, signal.SIGINT)
    said = terminal.until("stopped.")
    assert terminal.process.wait(30) == 130
    assert "Traceback" not in said
    assert "is kept" not in said


@pytest.mark.model
def test_small_real_model_answers_in_english() -> None:
    talk = Conversation(RunSpec(model=SMOLLM2.name), None, max_new_tokens=24, temperature=0)
    answer = talk.ask("What is the capital of France? Answer in one word.")
    assert "Paris" in answer.text
    assert answer.ended == "end"
