"""One answer at a time, told while it is written: a model as a person talks to it.

The prompt is cut into tokens as training and evaluation cut it. Greedy unless a temperature is given; an answer ends
at an end token, before a stop string, or at its length.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from harness.engine.identity import check_adapter, locate_adapter, locate_model
from harness.engine.lm import widen_narrow_products
from harness.engine.load import device, load_base, load_tokenizer, with_adapter
from harness.errors import UsageError
from harness.records import RunSpec

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said. n_tokens: of the answer, end token included. ended: "end", or "length" where it was cut off."""

    text: str
    n_tokens: int
    ended: str


class Talker:
    """A loaded base, or one of its adapters, that answers.

    Raises ModelError, NetworkError, UsageError.
    """

    def __init__(self, spec: RunSpec):
        base = locate_model(spec.model, spec.revision)
        adapter = locate_adapter(spec.adapter) if spec.adapter else None
        if adapter is not None:
            check_adapter(adapter, base, str(spec.adapter))
        self._tokenizer = load_tokenizer(spec, base)
        with _quiet():
            model = load_base(spec, base, device())
            if adapter is not None:
                model = with_adapter(model, "default", adapter)
        self._model = model.eval()
        if self._model.device.type == "cpu":
            widen_narrow_products(self._model)

    @property
    def has_template(self) -> bool:
        """Whether it can be asked in the format chat."""
        return bool(self._tokenizer.chat_template)

    def answer(
        self,
        asked: str | Messages,
        *,
        stop: Sequence[str] = (),
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        write: Callable[[str], object] = lambda _: None,
    ) -> Answer:
        """Answers a rendered prompt, or the last of a chat's messages.

        write: is given each piece of the answer as soon as it stands.
        Raises UsageError where what is asked doesn't fit the model.
        """
        ids = self._tokens(asked)
        longest = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        room = max_new_tokens if longest is None else min(max_new_tokens, longest - len(ids))
        if room < 1:
            raise UsageError(f"The prompt has {len(ids)} tokens, the model takes {longest}. Shorten it, or type /clear")
        listener = _Listener(self._tokenizer, stop, write)
        given = torch.tensor([ids], device=self._model.device)
        with torch.inference_mode(), _quiet():
            self._model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                generation_config=self._settings(room, temperature),
                stopping_criteria=StoppingCriteriaList([listener]),
                streamer=listener,
            )
        cut = len(listener.tokens) == room and not listener.stopped and listener.tokens[-1] not in self._ends()
        return Answer(listener.told, len(listener.tokens), "length" if cut else "end")

    def _tokens(self, asked: str | Messages) -> list[int]:
        if not isinstance(asked, str):
            text = self._tokenizer.apply_chat_template(list(asked), tokenize=False, add_generation_prompt=True)
            # The template has put its own special tokens.
            return list(self._tokenizer.encode(text, add_special_tokens=False))
        ids = list(self._tokenizer.encode(asked))
        # Some tokenizers close every text themselves.
        return ids[:-1] if ids and ids[-1] == self._tokenizer.eos_token_id else ids

    def _ends(self) -> list[int]:
        named = self._model.generation_config.eos_token_id
        named = named if isinstance(named, list) else [named]
        return sorted({token for token in (*named, self._tokenizer.eos_token_id) if token is not None})

    def _settings(self, room: int, temperature: float) -> GenerationConfig:
        ends = self._ends()
        # What isn't named here is taken from the model's own settings, which a greedy answer must not be.
        return GenerationConfig(
            max_new_tokens=room,
            do_sample=temperature > 0,
            temperature=float(temperature) or 1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of other packages, which would stand in the middle of an answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Listener(BaseStreamer, StoppingCriteria):
    """Tells an answer on as far as it stands, and stops it at a stop string.

    told: what was told so far, without white space at its ends. tokens: of the answer.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], write: Callable[[str], object]):
        self._tokenizer, self._stop, self._write = tokenizer, stop, write
        self.tokens: list[int] = []
        self.told, self.stopped = "", False
        self._asked = True

    def put(self, value: torch.Tensor) -> None:
        """Hears of the prompt first, then of each token."""
        if self._asked:
            self._asked = False
            return
        self.tokens += value.flatten().tolist()
        self._tell(held=True)

    def end(self) -> None:
        """Nothing more will come: what was held back is told."""
        self._tell(held=False)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.stopped, device=input_ids.device)

    def _tell(self, *, held: bool) -> None:
        text = self._tokenizer.decode(self.tokens, skip_special_tokens=True)
        text, self.stopped = _until(text, self._stop)
        if held and not self.stopped:
            # A letter of several tokens is no letter yet.
            text = _sure(text, self._stop).rstrip("\ufffd")
        text = text.strip()
        if len(text) > len(self.told):
            self._write(text[len(self.told) :])
            self.told = text


def _until(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text up to the first stop string, and whether there was one."""
    places = [place for place in (text.find(each) for each in stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _sure(text: str, stop: Sequence[str]) -> str:
    """The text without an end that may become a stop string."""
    longest = max(
        (n for each in stop for n in range(1, len(each)) if text.endswith(each[:n])),
        default=0,
    )
    return text[: len(text) - longest]
