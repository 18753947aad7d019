"""Token sequences laid out as one tree, each distinct token once.

Sequences stand in depth-first order in a single row, so that a token comes after all tokens it follows from, and
what descends from a token stands right behind it:

    prefix │ The cat ─┬─ sat          index   0    1    2    3    4
           │          └─ ran off      token  The  cat  sat  ran  off
                                      last    4    4    2    4    4

A token sees those before it whose subtree it belongs to: q sees k where k ≤ q ≤ last[k]. Nothing else is needed
to mask attention, whatever is shared and however deep.

Letters: P tokens of the prefix (computed before, kept as keys and values), T tokens of the row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
"""Token ids of one sequence, shape (n,)."""

Ints = npt.NDArray[np.int64]


def tokens(ids: Iterable[int]) -> Tokens:
    """Token ids as an array."""
    return np.fromiter(ids, dtype=np.int32)


def sort_key(sequence: Tokens) -> bytes:
    """A key whose order is the lexicographic order of token ids."""
    return sequence.astype(">u4").tobytes()


def common_length(one: Tokens, two: Tokens) -> int:
    """How many tokens two sequences begin with alike."""
    shortest = min(len(one), len(two))
    differs = one[:shortest] != two[:shortest]
    return int(differs.argmax()) if differs.any() else shortest


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighbours in the row that a dense mask serves together.

    start, end: their indices in the row. ancestors: indices in the row of what they share with earlier chunks.
    """

    start: int
    end: int
    ancestors: Ints


@dataclass(frozen=True, slots=True)
class Tree:
    """A row of T tokens behind a prefix of P.

    ids: (T,). depths: (T,) position of each in its own sequence, the prefix counted. last: (P + T,) index, in
    prefix and row together, of the last token that sees it. chunks: cover the row.
    """

    prefix: int
    ids: Ints
    depths: Ints
    last: Ints
    chunks: tuple[Chunk, ...]


class TreeBuilder:
    """Lays sequences out one after the other; those that share most should come side by side.

    prefix: tokens that all of them begin with and that aren't laid out again.
    chunk: tokens from which a new chunk begins, as soon as a sequence does.
    """

    def __init__(self, prefix: int = 0, *, chunk: int = 256):
        self._prefix, self._chunk = prefix, chunk
        self._length = 0
        self._ids: list[Tokens] = []
        self._depths: list[Ints] = []
        self._closed: list[tuple[int, int, int]] = []  # first index, index behind the last, their `last`
        self._chunks: list[tuple[int, Ints]] = []  # start, ancestors
        # The path of the newest sequence: from each depth of _from on, its tokens stand from _at on.
        self._from: list[int] = []
        self._at: list[int] = []
        self._newest: Tokens | None = None

    def __len__(self) -> int:
        """Tokens laid out so far."""
        return self._length

    def add(self, sequence: Tokens) -> None:
        """Adds a sequence, which begins with the prefix."""
        shared = self._prefix
        if self._newest is not None:
            shared = max(shared, common_length(self._newest, sequence))
            self._close(shared)
        added = len(sequence) - shared
        if added:
            if not self._chunks or self._length - self._chunks[-1][0] + added > self._chunk:
                self._chunks.append((self._length, self._path(self._prefix, shared)))
            self._ids.append(sequence[shared:])
            self._depths.append(np.arange(shared, len(sequence)))
            self._from.append(shared)
            self._at.append(self._length)
            self._length += added
        self._newest = sequence

    def path(self, first: int) -> Ints:
        """Indices in the row of the newest sequence's tokens from a depth on, which isn't inside the prefix."""
        assert self._newest is not None
        return self._path(first, len(self._newest))

    def build(self, multiple: int = 1) -> Tree:
        """The tree. multiple: the row is filled up to a multiple of so many tokens, which see only themselves."""
        self._close(self._prefix)
        n = self._length
        total = -(-n // multiple) * multiple
        ids, depths = np.zeros(total, dtype=np.int64), np.zeros(total, dtype=np.int64)
        ids[:n], depths[:n] = np.concatenate(self._ids), np.concatenate(self._depths)
        last = np.arange(total)
        for begin, end, seen_to in self._closed:
            last[begin:end] = seen_to
        starts = [start for start, _ in self._chunks]
        ends = [*starts[1:], total]
        return Tree(
            prefix=self._prefix,
            ids=ids,
            depths=depths,
            last=np.concatenate([np.full(self._prefix, n - 1), last]) + self._prefix,
            chunks=tuple(Chunk(start, end, up) for (start, up), end in zip(self._chunks, ends, strict=True)),
        )

    def _path(self, first: int, length: int) -> Ints:
        parts = [np.empty(0, dtype=np.int64)]
        for part in range(max(0, bisect_right(self._from, first) - 1), len(self._from)):
            begin = max(first, self._from[part])
            end = self._from[part + 1] if part + 1 < len(self._from) else length
            parts.append(np.arange(begin, end) - self._from[part] + self._at[part])
        return np.concatenate(parts)

    def _close(self, depth: int) -> None:
        """Nothing more descends from the newest sequence's tokens from a depth on."""
        assert self._newest is not None
        end = len(self._newest)
        while self._from and end > depth:
            begin = max(depth, self._from[-1])
            offset = self._at[-1] - self._from[-1]
            self._closed.append((begin + offset, end + offset, self._length - 1))
            end = begin
            if self._from[-1] < depth:
                break
            self._from.pop()
            self._at.pop()
