"""Rows that are alike: their runs of three words hashed small, bucketed, and the pairs that are found compared in full.

Of each row 64 bytes are kept: the last byte of its least hash under 64 orders (MinHash, Broder 1997). Four of them in
a row are the key of one of 16 buckets; rows that share a bucket, and enough of the 64 bytes, are read again from the
file and compared exactly. Of pairs that are alike by 0.8, 99.9 % share a bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from train.shingles import Hashes, Places, Texts, mixed

RUN = 3
ALIKE = 0.8
"""The share of common runs of words, of all of two rows, from which they count as one row written twice."""

N_HASHES, N_BUCKETS = 64, 16

LIKELY = 42
"""Bytes of 64 that a pair must share to be compared: 51 are expected of one that is alike by 0.8, and 3 either way."""

NEIGHBOURS = 4
"""Rows before it in a bucket that a row is held against, beside the bucket's first."""

Sketches = NDArray[np.uint8]
Pairs = NDArray[np.int64]
Shares = NDArray[np.float64]

_ORDERS = mixed(np.arange(1, N_HASHES + 1, dtype=np.uint64)) | np.uint64(1)


def sketches(texts: Texts) -> Sketches:
    """The 64 bytes of each text; two without words share them only by chance."""
    hashes, owners = texts.runs(RUN)
    # A row without words is nobody's double: what it says is in no letters.
    found = np.random.default_rng(0).integers(0, 256, (len(texts), N_HASHES), np.uint8)
    starts = np.flatnonzero(np.append(True, owners[1:] != owners[:-1])) if len(owners) else owners
    for number, order in enumerate(_ORDERS):
        # The high half: the low bits of a product don't depend on all of the hash's.
        least = np.minimum.reduceat((hashes * order) >> np.uint64(32), starts) if len(starts) else hashes
        found[owners[starts], number] = mixed(least).astype(np.uint8)
    return found


def alike(one: Hashes, two: Hashes) -> float:
    """The common runs of two rows as a share of all of both (Jaccard); both without repeats."""
    common = len(np.intersect1d(one, two, assume_unique=True))
    return common / max(1, len(one) + len(two) - common)


def near_duplicates(kept: Sketches, compare: Callable[[Pairs], Shares]) -> Iterator[tuple[int, int, float]]:
    """(row, an earlier row, how alike) of each row that is alike to an earlier one.

    kept: the rows' sketches. compare: how alike the two rows of each pair are, (n, 2) → (n,).
    """
    single = np.ones(len(kept), bool)
    refused = np.empty(0, np.int64)
    for keys in np.ascontiguousarray(kept).view(np.uint32).T:
        for pairs in _pairs(keys):
            pairs = pairs[single[pairs[:, 0]]]
            pairs = pairs[_shared(kept, pairs) >= LIKELY]
            pairs = pairs[~np.isin(_number(pairs), refused)]
            shares = compare(pairs)
            refused = np.union1d(refused, _number(pairs[shares < ALIKE]))
            single[pairs[shares >= ALIKE, 0]] = False
            for (row, earlier), share in zip(pairs.tolist(), shares.tolist(), strict=True):
                if share >= ALIKE:
                    yield row, earlier, share


def _number(pairs: Pairs) -> Places:
    return pairs[:, 0] << 32 | pairs[:, 1]


def _pairs(keys: NDArray[np.uint32]) -> Iterator[Pairs]:
    """(row, earlier row) of rows with one key: each with the first of them, then with those just before it."""
    order = np.argsort(keys, kind="stable")
    places = np.arange(len(keys))
    begins = np.append(True, keys[order][1:] != keys[order][:-1])[: len(keys)]
    first = np.maximum.accumulate(np.where(begins, places, 0))
    for back in range(NEIGHBOURS + 1):
        earlier = places - back if back else first
        paired = (earlier < places) & ((earlier > first) if back else True)
        yield np.stack([order[paired], order[earlier[paired]]], axis=1)


def _shared(kept: Sketches, pairs: Pairs) -> Places:
    """How many bytes the sketches of each pair share; in pieces, so that memory stays flat."""
    pieces = np.array_split(pairs, len(pairs) // 2**16 + 1)
    return np.concatenate([(kept[piece[:, 0]] == kept[piece[:, 1]]).sum(1) for piece in pieces])
