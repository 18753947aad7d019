"""Pairs to prefer by: a question, a better answer and a worse one, read, checked and cut into tokens.

    {"prompt": "Qoraqalpogʻiston poytaxti qaysi shahar?", "chosen": "Nukus.", "rejected": "Poytaxti — Urganch shahri."}

The question may also stand as `instruction` and `input`; either way it is written out in the recipe's format, as
training on rows and evaluation write it. Each answer is cut and ended as a row's is (train.data).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DataError
from train.contamination import eval_index
from train.data import Cutter, Row, TokenData, TokenRow, no_row_fits, read_lines, read_object, read_texts
from train.shingles import Texts

ANSWERS = ("chosen", "rejected")

HEADING = "### Response:"
"""What a question has that was already written out elsewhere; written out twice, it would never be asked so."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One question with the answer preferred and the other one."""

    chosen: Row
    rejected: Row


@dataclass(frozen=True, slots=True)
class PairData(TokenData):
    """The pairs that are trained on. rows: their chosen answers; rejected: the other ones, in the same order."""

    rejected: tuple[TokenRow, ...]

    @property
    def n_tokens(self) -> int:
        return sum(len(row.ids) for row in (*self.rows, *self.rejected))

    @property
    def n_trained_tokens(self) -> int:
        return sum(len(row.ids) - row.n_prompt for row in (*self.rows, *self.rejected))


def read_pairs(path: Path | str) -> list[Pair]:
    """Reads JSONL of `prompt`, or `instruction` and `input`, and of `chosen` and `rejected`; other keys are ignored.

    Raises DataError with line and reason.
    """
    path = Path(path)
    return [_pair(path, number, line) for number, line in read_lines(path)]


def _pair(path: Path, number: int, line: bytes) -> Pair:
    row = read_object(path, number, line)
    if ("prompt" in row) == ("instruction" in row):
        seen = "both" if "prompt" in row else "neither"
        raise DataError(path, f"{seen} of the keys 'prompt' and 'instruction', expected one of them", line=number)
    question = "prompt" if "prompt" in row else "instruction"
    texts = read_texts(path, number, row, (question, *ANSWERS), ("input",))
    if question == "prompt" and texts["input"]:
        raise DataError(path, "'input' beside 'prompt', expected it beside 'instruction'", line=number)
    if HEADING in texts[question]:
        reason = f"{question!r} holds {HEADING!r}, expected the question alone: it is written out here"
        raise DataError(path, reason, line=number)
    if texts["chosen"].strip() == texts["rejected"].strip():
        raise DataError(path, "'chosen' and 'rejected' are the same answer", line=number)
    chosen, rejected = (Row(number, texts[question], texts["input"], texts[key]) for key in ANSWERS)
    return Pair(chosen, rejected)


def check_pairs(pairs: Sequence[Pair], source: object, allow: Sequence[str] = ()) -> None:
    """Raises DataError for a pair that holds an item of an eval task, unless it is one of `allow`."""
    index, _ = eval_index()
    texts = Texts(
        "\n".join((pair.chosen.instruction, pair.chosen.input, pair.chosen.output, pair.rejected.output))
        for pair in pairs
    )
    for number, hits in sorted(index.find(texts).items()):
        for hit in hits:
            if hit.task not in allow:
                reason = f"holds item {hit.item} of {hit.task}. Take the pair out, or: allow_overlap=[{hit.task}]"
                raise DataError(source, reason, line=pairs[number].chosen.line)


def tokenize_pairs(
    pairs: Iterable[Pair], tokenizer: Any, *, prompt_format: str, max_length: int, source: object
) -> PairData:
    """Pairs in tokens, as train.data.tokenize cuts rows; where either answer is over max_length, both are dropped.

    source: the data file, for messages.
    Raises DataError for a pair that spells a special token, or where no pair is left; ModelError.
    """
    cutter = Cutter(tokenizer, prompt_format, source)
    kept, dropped, shortest = [], Counter[str](), 0
    for pair in pairs:
        chosen, rejected = cutter.tokens(pair.chosen), cutter.tokens(pair.rejected)
        longest = max(len(chosen.ids), len(rejected.ids))
        if longest <= max_length:
            kept.append((chosen, rejected))
            continue
        dropped["answer_over_max_length" if chosen.n_prompt < max_length else "prompt_over_max_length"] += 1
        shortest = min(shortest or longest, longest)
    if not kept:
        raise no_row_fits(source, max_length, shortest)
    return PairData(tuple(chosen for chosen, _ in kept), dict(dropped), tuple(rejected for _, rejected in kept))
