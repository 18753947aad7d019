"""What the ROUGE filter takes: python -m train.selfinstruct.bench [--n 23000,100000,1000000]

Instructions of 14 words in the mean, drawn by Zipf's law from 60,000 words, of which a tenth are made from earlier ones
by changing a word or two. Each is held against all that were kept, as `uzbench generate` does it; beside that Stanford
Alpaca's way: rouge_score's LCS of the candidate with each kept one, in a new pool of 16 processes for every candidate
(https://github.com/tatsu-lab/stanford_alpaca/blob/main/generate_instruction.py). Its time grows with the kept ones: it
is measured at 1,000 and 5,000, and the sum over a set of n is extrapolated along that line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import Pool
from typing import Any

import numpy as np

from train.selfinstruct.novelty import Novelty

ALPACA_POOL, ALPACA_KEPT, ALPACA_CANDIDATES = 16, (1_000, 5_000), 4


def instructions(n: int, seed: int = 1) -> Iterator[list[str]]:
    """Instructions as words."""
    draw = np.random.default_rng(seed)
    weights = 1 / np.arange(1, 60_001)
    edges = np.cumsum(weights / weights.sum())
    earlier: list[list[str]] = []
    for _ in range(n):
        if earlier and draw.random() < 0.1:
            words = list(earlier[int(draw.integers(len(earlier)))])
            for _ in range(int(draw.integers(1, 3))):
                words[int(draw.integers(len(words)))] = f"w{int(np.searchsorted(edges, draw.random()))}"
        else:
            length = max(4, int(draw.poisson(14)))
            words = [f"w{place}" for place in np.searchsorted(edges, draw.random(length)).tolist()]
        if len(earlier) < 50_000:
            earlier.append(words)
        yield words


def ours(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Seconds and memory at each number of kept instructions."""
    import psutil

    novelty, found, refused = Novelty(0.7), [], 0
    todo = sorted(sizes)
    before = psutil.Process().memory_info().rss
    spent = 0.0
    for seen, words in enumerate(instructions(int(todo[-1] * 1.4) + 1_000), 1):
        begun = time.perf_counter()
        refused += novelty.keep_if_new(words) is not None
        spent += time.perf_counter() - begun
        if len(novelty) == todo[0]:
            memory = (psutil.Process().memory_info().rss - before) / 2**20
            found.append({"kept": todo.pop(0), "seen": seen, "refused": refused, "s": spent, "mib": round(memory)})
            if not todo:
                break
    return found


def _score(one: Sequence[str], two: Sequence[str]) -> float:
    from rouge_score.rouge_scorer import _score_lcs

    return float(_score_lcs(one, two).fmeasure)


def alpaca() -> dict[int, float]:
    """Seconds a candidate at each number of kept instructions, Alpaca's way."""
    import rouge_score.rouge_scorer  # noqa: F401, before the pools: their processes inherit it, as Alpaca's do

    found = {}
    for n in ALPACA_KEPT:
        texts = list(instructions(n + ALPACA_CANDIDATES, seed=2))
        kept, candidates = texts[:n], texts[n:]
        begun = time.perf_counter()
        for words in candidates:
            with Pool(ALPACA_POOL) as pool:
                pool.map(partial(_score, words), kept)
        found[n] = (time.perf_counter() - begun) / len(candidates)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", default="23000,100000,1000000", help="kept instructions, by comma")
    chosen = parser.parse_args()
    measured = ours([int(each) for each in chosen.n.split(",")])
    theirs = alpaca()
    (few, at_few), (many, at_many) = theirs.items()
    slope = (at_many - at_few) / (many - few)
    start = at_few - slope * few
    for each in measured:
        n = each["kept"]
        # Of each kept instruction its candidate is held against those before it: the sum of start + slope k.
        each["alpaca_s"] = start * n + slope * n * n / 2
        each["ratio"] = each["alpaca_s"] / each["s"]
    print(json.dumps({"alpaca_s_a_candidate": theirs, "ours": measured}, indent=2))


if __name__ == "__main__":
    main()
