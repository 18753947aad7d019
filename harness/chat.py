"""Talking to a model: one answer, or a conversation. What is asked is written out by tasks_uz.prompts.

In the format chat the model's own template keeps the conversation. The other formats know single questions, as
adapters are trained on them: each turn stands alone there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.evaluate import adapter_defaults
from harness.manifest import read_merged
from harness.records import RunSpec
from reports.format import harmless
from tasks_uz.prompts import STOP, Prompt, render

if TYPE_CHECKING:
    from harness.engine.speak import Answer

PROMPT = "> "


class Conversation:
    """A model and what was said so far.

    spec: model, adapter and quantization. prompt_format: None for the one it was trained in, else chat where the
    model has a template, else plain.
    Raises ModelError, NetworkError, UsageError.
    """

    def __init__(self, spec: RunSpec, prompt_format: str | None, *, max_new_tokens: int, temperature: float):
        if max_new_tokens < 1:
            raise UsageError(f"--max-new-tokens {max_new_tokens}: expected 1 or more.")
        if not 0 <= temperature <= 10:
            raise UsageError(f"--temperature {temperature}: expected 0 (the likeliest word) to 10.")
        # Only now: torch takes ten seconds to say that a number is wrong.
        from harness.engine.speak import Talker

        self._talker = Talker(spec)
        self.prompt_format = prompt_format or trained_format(spec) or ("chat" if self._talker.has_template else "plain")
        if self.prompt_format == "chat" and not self._talker.has_template:
            raise UsageError(f"Model {spec.model} has no chat template. Ask it with --prompt-format plain")
        self._max_new_tokens, self._temperature = max_new_tokens, temperature
        self._messages: list[dict[str, str]] = []

    def ask(self, text: str, write: Callable[[str], object] = lambda _: None) -> Answer:
        """The answer to one turn; write is given its pieces as they come."""
        said = render(Prompt(text), self.prompt_format)
        turn = {"role": "user", "content": said}
        answer = self._talker.answer(
            [*self._messages, turn] if self.prompt_format == "chat" else said,
            stop=STOP[self.prompt_format],
            max_new_tokens=self._max_new_tokens,
            temperature=self._temperature,
            write=write,
        )
        self._messages += [turn, {"role": "assistant", "content": answer.text}]
        return answer

    def clear(self) -> None:
        """Forgets what was said."""
        self._messages.clear()


def trained_format(spec: RunSpec) -> str | None:
    """The prompt format that an adapter, or full weights made of one, was trained in; None where nothing says it."""
    if spec.adapter:
        return adapter_defaults([spec.adapter]).prompt_format
    merged = read_merged(Path(spec.model))
    return merged.trained.prompt_format if merged and merged.trained else None


def tell(piece: str) -> None:
    """Writes a piece of an answer to stdout, so that it can't steer a terminal."""
    print(harmless(piece), end="", flush=True)


def converse(conversation: Conversation) -> None:
    """Asks for turns until /exit or the end of input."""
    import readline  # noqa: F401, input() edits lines with it

    alone = "" if conversation.prompt_format == "chat" else " Each turn stands alone: the format keeps no history."
    print(f"Format {conversation.prompt_format}.{alone} /clear forgets, /exit ends.", file=sys.stderr)
    while True:
        try:
            text = _typed().strip()
        except EOFError:
            print(file=sys.stderr)
            return
        if text == "/exit":
            return
        if text == "/clear":
            conversation.clear()
        elif text.startswith("/"):
            print(f"{harmless(text)} is no command. There are /clear and /exit.", file=sys.stderr)
        elif text:
            try:
                answer = conversation.ask(text, tell)
            except UsageError as error:
                print(harmless(str(error)), file=sys.stderr)
                continue
            print(" …" if answer.ended == "length" else "")


def _typed() -> str:
    if sys.stdout.isatty():
        return input(PROMPT)
    print(PROMPT, end="", file=sys.stderr, flush=True)
    return input()
