"""What a data file would do to a training run, before it does: faults, doubles, refusals, and eval items.

    rows.jsonl:12: not JSON: Expecting value (column 1) (and 14 more faults). All of them: uzbench check-data rows.jsonl

The file is read once, by as many processes as there are cores; of each row some hundred bytes of numbers are kept, no
text, so that memory follows the number of rows alone (and not what they say). Rows that look alike are read again and
compared in full. Errors are what training refuses; warnings are for a person to judge.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import nsmallest
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pycld2  # noqa: F401, the language is told by it: better missed before a file is read than after
from numpy.typing import NDArray
from tqdm import tqdm

from harness.errors import DataError, UnknownNameError
from harness.provenance import file_digest
from harness.records import Record
from tasks_uz.answers import alphabets, is_uzbek
from tasks_uz.prompts import render_row
from train.contamination import Hit, Index, eval_index
from train.data import Row, read_row, split_tokens
from train.duplicates import ALIKE, RUN, Pairs, Shares, Sketches, alike, near_duplicates, sketches
from train.faults import invisible, left_over, mixed_word, refuses
from train.shingles import Hashes, Texts

LISTED = 100
"""Places that a finding names; it counts them all."""

LONGEST_LINE = 1 << 20
"""Bytes of a line: what is longer is no row, and would have to be held in memory to say so."""

BLOCK = 1 << 20
"""Bytes of lines that are looked at together."""

SMALL = 8 << 20
"""Bytes of a file below which processes cost more than they save."""

PAIRS = 2000
"""Pairs of rows that are compared at once."""

KINDS = (
    *(ERRORS := ("schema", "special_token", "max_length", "contaminated")),
    *("duplicate", "conflict", "near_duplicate", "refusal", "left_over"),
    *("mixed_alphabets", "invisible", "language", "dropped", "marks"),
)
"""Of findings, in the order in which they are told; the first ones are refused."""

WAYS = ("ʻʼ", "'", "‘’", "`")
"""Of writing the marks of oʻ, gʻ and ʼ."""

_MARKS = "".join(WAYS)
_MARK = re.compile(rf"(?<=\w)[{_MARKS}]")


@dataclass(frozen=True, slots=True)
class Place(Record):
    """Where something was found. line: None for the file as a whole; earlier: the line that it repeats."""

    line: int | None
    says: str
    earlier: int | None = None
    hit: Hit | None = None


@dataclass(frozen=True, slots=True)
class Finding(Record):
    """One kind of fault. n: all of it; places: the first of them.

    kind: schema, special_token, max_length, contaminated; duplicate, conflict, near_duplicate, refusal, left_over,
    mixed_alphabets, invisible, language, dropped, marks. what: the same for a reader.
    """

    kind: str
    what: str
    n: int
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Lengths(Record):
    """Tokens of a row, prompt, answer and end token. n_over: rows that are left out, by reason, as training has it."""

    mean: float
    p50: int
    p95: int
    max: int
    tokens_per_word: float
    n_over: dict[str, int]


@dataclass(frozen=True, slots=True)
class DataReport(Record):
    """What a data file is like.

    errors: what training refuses. warnings: what it takes and a person should see.
    alphabets: answers by alphabet; latin_any has no letter of either Latin alphabet, mixed letters of two.
    marks: how often each character stands for the mark of oʻ, gʻ and ʼ, in answers.
    n_told, n_uzbek: answers long enough to tell their language, and those in Uzbek.
    tasks: whose items were looked for; unread: whose weren't, and why; untold: items too short to be told.
    """

    path: str
    sha256: str
    n_rows: int
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    alphabets: dict[str, int]
    marks: dict[str, int]
    n_told: int
    n_uzbek: int
    lengths: Lengths | None
    tasks: tuple[str, ...]
    unread: dict[str, str]
    untold: tuple[str, ...]

    def error(self) -> DataError | None:
        """The first error in one line, with the number of others; None where there is none."""
        places = [place for finding in self.errors for place in finding.places]
        if not places:
            return None
        first = min(places, key=lambda place: place.line or 0)
        others = sum(finding.n for finding in self.errors) - 1
        more = f" (and {others} more fault{'s' if others > 1 else ''})" if others else ""
        return DataError(self.path, f"{first.says}{more}. All of them: uzbench check-data {self.path}", line=first.line)


def check_data(
    path: Path | str,
    *,
    tokenizer: Any = None,
    prompt_format: str = "alpaca",
    max_length: int = 1024,
    allow: Iterable[str] = (),
    progress: bool = True,
) -> DataReport:
    """Looks at every row of a data file; faults are collected, not raised.

    tokenizer: where lengths and special tokens are to be looked at. allow: tasks whose items may stand in rows.
    progress: a bar on stderr.
    Raises DataError where there is no file, UnknownNameError for a task.
    """
    path, allow = Path(path), frozenset(allow)
    index, unread = eval_index()
    for task in allow:
        if task not in index.tasks and task not in unread:
            raise UnknownNameError("Task", task, [*index.tasks, *unread], "All tasks: uzbench tasks")
    look = _Look(path, index, tokenizer, prompt_format, max_length)
    seen = _Seen()
    try:
        size, whole = path.stat().st_size, _is_array(path)
        with _Workers(look, size) as workers, _bar(size, progress) as bar:
            for n_bytes, each in workers.map("examine", () if whole else _blocks(path)):
                seen.add(each)
                bar.update(n_bytes)
            bar.set_description("comparing rows")
            _find_repeated(seen, workers)
    except FileNotFoundError:
        raise DataError(path, "no such file; expected JSONL, one object a line") from None
    except IsADirectoryError:
        raise DataError(path, "a directory, where a JSONL file was expected") from None
    if whole:
        says = f"a JSON array, expected JSONL, one object a line. Try: jq -c '.[]' {path} > rows.jsonl"
        seen.note("schema", "a JSON array", Place(None, says))
    lengths = _lengths(seen, max_length)
    if not seen.n_rows and not seen.found:
        seen.note("schema", "empty", Place(None, "empty, expected one JSON object a line"))
    _note_marks(seen)
    findings = seen.findings()
    refused = [each for each in findings if each.kind in ERRORS and each.what not in map(_items_of, allow)]
    return DataReport(
        path=str(path),
        sha256=file_digest(path),
        n_rows=seen.n_rows,
        errors=tuple(refused),
        warnings=tuple(each for each in findings if each not in refused),
        alphabets=dict(sorted(seen.alphabets.items())),
        marks=dict(seen.marks.most_common()),
        n_told=seen.n_told,
        n_uzbek=seen.n_uzbek,
        lengths=lengths,
        tasks=index.tasks,
        unread=unread,
        untold=tuple(f"{task}/{item}" for task, item in index.untold),
    )


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a model: directory, packaged model's name or hub id.

    Raises ModelError, NetworkError.
    """
    from transformers import AutoTokenizer

    from harness.engine.identity import locate_model
    from harness.engine.load import one_line

    found = locate_model(model)
    with one_line(model):
        return AutoTokenizer.from_pretrained(found.path, revision=found.revision)


@dataclass(slots=True)
class _Block:
    """Lines as they stand in the file. number, offset: of the first. too_long: bytes of one that isn't here."""

    number: int
    offset: int
    lines: list[bytes]
    too_long: int = 0


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(BLOCK).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _blocks(path: Path) -> Iterator[_Block]:
    number, offset = 1, 0
    with path.open("rb") as file:
        block = _Block(number, offset, [])
        while line := file.readline(LONGEST_LINE + 1):
            length = len(line)
            if length > LONGEST_LINE:
                while not line.endswith(b"\n") and (line := file.readline(LONGEST_LINE)):
                    length += len(line)
                yield block
                yield _Block(number, offset, [], length)
            else:
                block.lines.append(line)
            number, offset = number + 1, offset + length
            if length > LONGEST_LINE or offset - block.offset >= BLOCK:
                if block.lines and length <= LONGEST_LINE:
                    yield block
                block = _Block(number, offset, [])
        yield block


@dataclass(slots=True)
class _Seen:
    """What was found so far, in a block or in the file; of each row only numbers."""

    n_rows: int = 0
    found: dict[tuple[str, str], tuple[int, list[Place]]] = field(default_factory=dict)
    alphabets: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    n_told: int = 0
    n_uzbek: int = 0
    n_words: int = 0
    n_over: Counter[str] = field(default_factory=Counter)
    lines: list[NDArray[np.int64]] = field(default_factory=list)
    offsets: list[NDArray[np.int64]] = field(default_factory=list)
    asked: list[Hashes] = field(default_factory=list)
    whole: list[Hashes] = field(default_factory=list)
    sketches: list[Sketches] = field(default_factory=list)
    tokens: list[NDArray[np.int32]] = field(default_factory=list)

    def note(self, kind: str, what: str, *places: Place, n: int | None = None) -> None:
        """Takes up places of one kind of fault, in the order of lines; n: of all, where not all are named."""
        count, listed = self.found.get((kind, what), (0, []))
        listed.extend(places[: LISTED - len(listed)])
        self.found[kind, what] = count + (len(places) if n is None else n), listed

    def add(self, other: _Seen) -> None:
        for (kind, what), (n, places) in other.found.items():
            self.note(kind, what, *places, n=n)
        for name in ("n_rows", "n_told", "n_uzbek", "n_words"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("alphabets", "marks", "n_over"):
            getattr(self, name).update(getattr(other, name))
        for name in ("lines", "offsets", "asked", "whole", "sketches", "tokens"):
            getattr(self, name).extend(getattr(other, name))

    def findings(self) -> list[Finding]:
        return [
            Finding(kind, what, n, tuple(places))
            for (kind, what), (n, places) in sorted(self.found.items(), key=lambda each: KINDS.index(each[0][0]))
        ]


class _Look:
    """What each process does with a block of lines."""

    def __init__(self, path: Path, index: Index, tokenizer: Any, prompt_format: str, max_length: int):
        self._path, self._index, self._tokenizer = path, index, tokenizer
        self._prompt_format, self._max_length = prompt_format, max_length

    def examine(self, block: _Block) -> tuple[int, _Seen]:
        """(bytes, what was found)."""
        seen = _Seen()
        if block.too_long:
            says = f"a line of {block.too_long:,} bytes, expected at most {LONGEST_LINE:,}"
            seen.note("schema", "a line too long", Place(block.number, says))
            return block.too_long, seen
        rows, offset = [], block.offset
        for number, line in enumerate(block.lines, block.number):
            if line.strip():
                row = self._row(number, line, seen)
                if row:
                    rows.append((offset, row))
            offset += len(line)
        if rows:
            self._look_at([row for _, row in rows], seen)
            seen.offsets.append(np.array([offset for offset, _ in rows]))
        return offset - block.offset, seen

    def _row(self, number: int, line: bytes, seen: _Seen) -> Row | None:
        if b"\0" in line or b"\\u0000" in line:
            seen.note("schema", "a NUL character", Place(number, "a NUL character; text has none, UTF-16 has many"))
            return None
        if number > 1 and line.startswith(b"\xef\xbb\xbf"):
            says = "a byte order mark inside the file, as where files were joined"
            seen.note("schema", "a byte order mark", Place(number, says))
            return None
        try:
            return read_row(self._path, number, line.rstrip(b"\r\n"))
        except DataError as error:
            # What varies between lines stands behind a colon or in brackets.
            what = re.split(r": | \(|, saw", error.reason)[0]
            seen.note("schema", what, Place(number, _shortened(error.reason)))
            return None

    def _look_at(self, rows: Sequence[Row], seen: _Seen) -> None:
        texts = Texts(_text(row) for row in rows)
        seen.n_rows = len(rows)
        seen.n_words = int(texts.words().sum())
        seen.lines.append(np.array([row.line for row in rows]))
        seen.asked.append(_digests(f"{row.instruction} \0 {row.input}" for row in rows))
        seen.whole.append(_digests(f"{row.instruction} \0 {row.input} \0 {row.output}" for row in rows))
        seen.sketches.append(sketches(texts))
        for place, hits in sorted(self._index.find(texts).items()):
            for hit in hits:
                says = f"holds item {hit.item} of {hit.task} ({_share(hit)})"
                seen.note("contaminated", _items_of(hit.task), Place(rows[place].line, says, hit=hit))
        for row in rows:
            self._look_at_answer(row, seen)
        if self._tokenizer is not None:
            self._count_tokens(rows, seen)

    def _look_at_answer(self, row: Row, seen: _Seen) -> None:
        def note(kind: str, what: str, says: str) -> None:
            seen.note(kind, what, Place(row.line, says))

        if refuses(row.output):
            note("refusal", "answers that refuse", f"refuses: {_shortened(row.output, 60)}")
        if left := left_over(row.output, row.input):
            note("left_over", "left over from generating", f"left over: {_shortened(left, 60)!r}")
        if word := mixed_word(row.output):
            note(
                "mixed_alphabets", "letters of two alphabets in one word", f"two alphabets in {_shortened(word, 40)!r}"
            )
        if hidden := invisible(f"{row.instruction} {row.input} {row.output}"):
            note("invisible", "invisible characters", f"an invisible character, U+{ord(hidden):04X}")
        seen.alphabets[_alphabet(row.output)] += 1
        seen.marks.update(_MARK.findall(row.output))
        uzbek = is_uzbek(row.output)
        if uzbek is not None:
            seen.n_told += 1
            seen.n_uzbek += int(uzbek)
            if not uzbek:
                note("language", "answers not in Uzbek", f"not in Uzbek: {_shortened(row.output, 60)}")

    def _count_tokens(self, rows: Sequence[Row], seen: _Seen) -> None:
        """As training counts them (train.data.tokenize), many rows at once."""
        tokenizer = self._tokenizer
        written = [render_row(row.instruction, row.input, row.output, self._prompt_format) for row in rows]
        encoded = tokenizer(
            [prompt + completion for prompt, completion in written],
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        n_bos = int(tokenizer.encode("a")[:1] == [tokenizer.bos_token_id])
        special = {tokenizer.eos_token_id: tokenizer.eos_token, tokenizer.bos_token_id: tokenizer.bos_token}
        lengths = []
        for row, (prompt, completion), ids in zip(rows, written, encoded, strict=True):
            closed = ids[-1:] == [tokenizer.eos_token_id]
            spelt = next((special[token] for token in ids[n_bos : len(ids) - closed] if token in special), None)
            if spelt is not None:
                says = f"the text spells the model's special token {spelt!r}"
                seen.note("special_token", "special tokens spelt out", Place(row.line, says))
            length = len(ids) + (not closed)
            lengths.append(length)
            if length > self._max_length:
                _, n_prompt = split_tokens(tokenizer, prompt, completion)
                part = "answer" if n_prompt < self._max_length else "prompt"
                seen.n_over[f"{part}_over_max_length"] += 1
                says = f"{length:,} tokens, the {part} goes over max_length {self._max_length}"
                seen.note("dropped", "rows left out for their length", Place(row.line, says))
        seen.tokens.append(np.array(lengths, np.int32))

    def compare(self, offsets: Pairs) -> Shares:
        """How alike the rows at each two offsets of the file are."""
        each, places = np.unique(offsets, return_inverse=True)
        rows = []
        with self._path.open("rb") as file:
            for offset in each.tolist():
                file.seek(offset)
                rows.append(_text(read_row(self._path, 0, file.readline())))
        hashes, owners = Texts(rows).runs(RUN)
        runs = [np.unique(part) for part in np.split(hashes, np.searchsorted(owners, np.arange(1, len(rows))))]
        return np.array([alike(runs[one], runs[two]) for one, two in places.reshape(-1, 2).tolist()])


_look: _Look
"""Of a worker process."""


def _begin(look: _Look) -> None:
    global _look
    _look = look
    # Ctrl-C is the parent's to answer; and a tokenizer that had threads before the fork has none behind it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _in_worker(name: str, item: Any) -> Any:
    return getattr(_look, name)(item)


class _Workers:
    """One process a core for a file that is worth it, else this one."""

    def __init__(self, look: _Look, size: int):
        self._look, self._pool = look, None
        # Only where a process can be forked: a new one would import the caller's script again.
        if size > SMALL and sys.platform == "linux":
            cores = len(os.sched_getaffinity(0))
            self._pool = get_context("fork").Pool(cores, _begin, (look,)) if cores > 1 else None

    def map(self, name: str, items: Iterable[Any]) -> Iterator[Any]:
        """A method of _Look of each item, in order."""
        if self._pool is None:
            return map(getattr(self._look, name), items)
        return self._pool.imap(partial(_in_worker, name), items)

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()


def _find_repeated(seen: _Seen, workers: _Workers) -> None:
    """Notes the rows that stand in the file twice, ask the same and answer otherwise, or are nearly the same."""
    if not seen.n_rows:
        return
    lines, offsets = np.concatenate(seen.lines), np.concatenate(seen.offsets)
    whole, asked, kept = np.concatenate(seen.whole), np.concatenate(seen.asked), np.concatenate(seen.sketches)
    rows = np.arange(len(lines))
    for kind, what, says, digests in (
        ("duplicate", "rows written twice", "the same as line {}", whole),
        ("conflict", "questions answered in two ways", "asks what line {} asks, and answers otherwise", asked),
    ):
        _, first, group = np.unique(digests[rows], return_index=True, return_inverse=True)
        firsts = rows[first[group]]
        again = np.flatnonzero(firsts != rows)
        if len(again):
            places = [
                Place(line, says.format(earlier), earlier)
                for line, earlier in zip(
                    lines[rows[again[:LISTED]]].tolist(), lines[firsts[again[:LISTED]]].tolist(), strict=True
                )
            ]
            seen.note(kind, what, *places, n=len(again))
        rows = np.delete(rows, again)

    def compare(pairs: Pairs) -> Shares:
        pieces = np.array_split(offsets[rows[pairs]], len(pairs) // PAIRS + 1)
        return np.concatenate(list(workers.map("compare", pieces)))

    n_near = count()
    found = ((row, earlier, share) for row, earlier, share in near_duplicates(kept[rows], compare) if next(n_near) >= 0)
    places = [
        Place(int(lines[rows[row]]), f"{share:.2f} of line {lines[rows[earlier]]}", int(lines[rows[earlier]]))
        for row, earlier, share in nsmallest(LISTED, found)
    ]
    if places:
        seen.note(
            "near_duplicate", f"rows that share {ALIKE} and more of their runs of {RUN} words", *places, n=next(n_near)
        )


def _note_marks(seen: _Seen) -> None:
    ways = {way: sum(seen.marks[mark] for mark in way) for way in WAYS}
    rarer = seen.marks.total() - max(ways.values())
    if rarer > 0.01 * seen.marks.total():
        used = ", ".join(f"{way} {n:,}" for way, n in ways.items() if n)
        says = f"oʻ, gʻ and ʼ are written in several ways ({used}); a model learns all of them"
        seen.note("marks", "marks unlike the file's others", Place(None, says), n=rarer)


def _lengths(seen: _Seen, max_length: int) -> Lengths | None:
    """Of all rows; notes it where none is short enough."""
    if not seen.tokens:
        return None
    tokens = np.concatenate(seen.tokens)
    if int(tokens.min()) > max_length:
        says = f"no row fits into max_length {max_length}, the shortest has {tokens.min()} tokens"
        seen.note("max_length", "no row is short enough", Place(None, f"{says}. Try: max_length={tokens.min()}"))
    p50, p95 = np.quantile(tokens, [0.5, 0.95], method="higher").tolist()
    per_word = float(tokens.sum()) / max(1, seen.n_words)
    return Lengths(
        round(float(tokens.mean()), 1),
        p50,
        p95,
        int(tokens.max()),
        round(per_word, 2),
        dict(sorted(seen.n_over.items())),
    )


def _text(row: Row) -> str:
    return f"{row.instruction} {row.input} {row.output}"


def _digests(texts: Iterable[str]) -> Hashes:
    """Of texts without regard to case, white space and the kind of marks; another alphabet is another text here."""
    return np.frombuffer(b"".join(map(_digest, texts)), np.uint64)


def _digest(text: str) -> bytes:
    plain = unicodedata.normalize("NFC", text).lower()
    for mark in _MARKS:
        plain = plain.replace(mark, "ʼ")
    return hashlib.blake2b(" ".join(plain.split()).encode(), digest_size=8).digest()


def _alphabet(text: str) -> str:
    found = alphabets(text)
    if len(found) == 1:
        return next(iter(found))
    return "latin_any" if found else "mixed" if re.search(r"[A-Za-z\u0400-\u04ff]", text) else "none"


def _items_of(task: str) -> str:
    return f"items of {task}"


def _share(hit: Hit) -> str:
    parts = [f"{hit.share:.2f} of its text"] * (hit.share > 0) + [f"{hit.n_words} words in a row"] * (hit.n_words > 0)
    return ", ".join(parts)


def _shortened(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _bar(size: int, shown: bool) -> Any:
    return tqdm(desc="checking data", total=size, unit="B", unit_scale=True, file=sys.stderr, disable=not shown)
