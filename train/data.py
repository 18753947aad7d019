"""Rows to learn from: read, checked, written out as prompts, and cut into tokens.

    {"instruction": "Shu yangilikning ruknini ayting.", "input": "Jamoa finalga chiqdi.", "output": "sport"}

becomes, with gemma's tokenizer (· is a masked token, the last is the end token, trained too):

    <bos> ### Instruction : \\n … \\n \\n ### Response :   \\n sport <eos>
      ·    ·      ·       ·  ·     ·  ·   ·     ·     ·

The boundary is the one that evaluation sees. lm-eval moves trailing white space of the context to the
continuation, encodes context + continuation as one string, and splits by the length of the encoded context:
https://github.com/EleutherAI/lm-evaluation-harness/blob/v0.4.13/lm_eval/api/model.py (`_encode_pair`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DataError, ModelError
from tasks_uz.prompts import render_row

IGNORED = -100
"""The label of a token that carries no loss."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a data file. line: its number, from 1. input: may be empty."""

    line: int
    instruction: str
    input: str
    output: str


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One row in tokens. n_prompt: how many of the first carry no loss."""

    ids: list[int]
    n_prompt: int

    @property
    def labels(self) -> list[int]:
        return [IGNORED] * self.n_prompt + self.ids[self.n_prompt :]


@dataclass(frozen=True, slots=True)
class TokenData:
    """The rows that are trained on. dropped: rows left out, by reason."""

    rows: tuple[TokenRow, ...]
    dropped: dict[str, int]

    @property
    def n_tokens(self) -> int:
        return sum(len(row.ids) for row in self.rows)

    @property
    def n_trained_tokens(self) -> int:
        return sum(len(row.ids) - row.n_prompt for row in self.rows)


def read_rows(path: Path | str) -> list[Row]:
    """Reads JSONL of `instruction`, `input` (may be absent) and `output`; other keys are ignored.

    Raises DataError with line and reason.
    """
    path = Path(path)
    return [read_row(path, number, line) for number, line in read_lines(path)]


def read_lines(path: Path) -> list[tuple[int, bytes]]:
    """The lines of a data file that hold something, each with its number, from 1.

    Raises DataError for a file that is missing or empty.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise DataError(path, "no such file. Try: data=FILE.jsonl") from None
    except IsADirectoryError:
        raise DataError(path, "a directory, where a JSONL file was expected") from None
    held = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not held:
        raise DataError(path, "empty, expected one JSON object a line")
    return held


def read_row(path: Path, number: int, line: bytes) -> Row:
    """The row of one line. path, number: for messages.

    Raises DataError with line and reason.
    """
    row = read_object(path, number, line)
    return Row(number, **read_texts(path, number, row, ("instruction", "output"), ("input",)))


def read_object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """The JSON object of one line. path, number: for messages.

    Raises DataError with line and reason.
    """
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(path, f"not UTF-8 (byte {error.start})", line=number) from None
    except json.JSONDecodeError as error:
        raise DataError(path, f"not JSON: {error.msg} (column {error.colno})", line=number) from None
    if not isinstance(row, dict):
        reason = f"expected a JSON object, saw {type(row).__name__}; the format is JSONL, one row a line"
        raise DataError(path, reason, line=number)
    return row


def read_texts(
    path: Path, number: int, row: dict[str, Any], needed: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, str]:
    """The texts of an object's keys. needed: may be neither absent nor empty. path, number: for messages.

    Raises DataError with line and reason.
    """
    for key in needed:
        if key not in row:
            raise DataError(path, f"key {key!r} is missing", line=number)
    texts = {key: row.get(key, "") for key in (*needed, *optional)}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise DataError(path, f"{key!r} isn't text: {text!r}", line=number)
        if not text.strip() and key in needed:
            raise DataError(path, f"{key!r} is empty", line=number)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(path, f"{key!r} holds half a surrogate pair, which isn't text", line=number) from None
    return texts


def tokenize(rows: Iterable[Row], tokenizer: Any, *, prompt_format: str, max_length: int, source: object) -> TokenData:
    """Rows in tokens: at most one BOS, the answer and EOS trained, rows over max_length dropped and counted.

    source: the data file, for messages.
    Raises DataError for a row that spells a special token, or where no row is left; ModelError.
    """
    cutter = Cutter(tokenizer, prompt_format, source)
    kept, dropped, shortest = [], Counter[str](), 0
    for each in rows:
        row = cutter.tokens(each)
        if len(row.ids) <= max_length:
            kept.append(row)
            continue
        dropped["answer_over_max_length" if row.n_prompt < max_length else "prompt_over_max_length"] += 1
        shortest = min(shortest or len(row.ids), len(row.ids))
    if not kept:
        raise no_row_fits(source, max_length, shortest)
    return TokenData(tuple(kept), dict(dropped))


def no_row_fits(source: object, max_length: int, shortest: int) -> DataError:
    """What is said where every row is dropped. shortest: tokens of the shortest row."""
    reason = f"no row fits into max_length {max_length}, the shortest has {shortest} tokens"
    return DataError(source, f"{reason}. Try: max_length={shortest}")


class Cutter:
    """Cuts rows into tokens. source: the data file, for messages.

    Raises ModelError for a tokenizer that can't end an answer.
    """

    def __init__(self, tokenizer: Any, prompt_format: str, source: object):
        if tokenizer.eos_token_id is None:
            # Without it a tuned model never learns to stop.
            raise ModelError("The model's tokenizer names no end-of-sequence token (eos_token), expected one.")
        self._tokenizer, self._prompt_format, self._source = tokenizer, prompt_format, source
        self._special = {tokenizer.eos_token_id: tokenizer.eos_token, tokenizer.bos_token_id: tokenizer.bos_token}
        self._n_bos = int(_encode(tokenizer, "a")[:1] == [tokenizer.bos_token_id])

    def tokens(self, row: Row) -> TokenRow:
        """A row with at most one BOS, its answer and EOS trained, of whatever length.

        Raises DataError for a row that spells a special token.
        """
        prompt, completion = render_row(row.instruction, row.input, row.output, self._prompt_format)
        ids, n_prompt = split_tokens(self._tokenizer, prompt, completion)
        for token in ids[self._n_bos :]:
            if token in self._special:
                reason = f"the text spells the model's special token {self._special[token]!r}"
                raise DataError(self._source, reason, line=row.line)
        return TokenRow([*ids, self._tokenizer.eos_token_id], n_prompt)


def split_tokens(tokenizer: Any, prompt: str, completion: str) -> tuple[list[int], int]:
    """Token ids of prompt + completion, and how many of them are the prompt's, as lm-eval splits them."""
    context = prompt.rstrip()
    # "### Response:\n" + "sport": the line break goes over to the answer, as lm-eval moves it.
    return _encode(tokenizer, prompt + completion), len(_encode(tokenizer, context))


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids = list(tokenizer.encode(text))
    # Some tokenizers close every text themselves; the end token is put once, after the answer.
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
