"""Sequences as one tree, and the plan of batches: nothing lost, nothing seen that doesn't belong, nothing twice."""

from __future__ import annotations

import random

import numpy as np
import pytest

from harness.engine.plan import SEGMENT, Batch, Part, Unit, plan
from harness.engine.tree import Tree, TreeBuilder, common_length, sort_key, tokens

RANDOM_SETS = 300


def some_tokens(source: random.Random, vocabulary: int, low: int, high: int) -> list[int]:
    return [source.randrange(vocabulary) for _ in range(source.randint(low, high))]


def seen(tree: Tree, index: int) -> set[int]:
    """Indices, in prefix and row together, that a token of the row sees."""
    number = index + tree.prefix
    keys = np.arange(len(tree.last))
    return set(np.flatnonzero((keys <= number) & (number <= tree.last)).tolist())


def random_row(seed: int) -> tuple[Tree, list[list[int]], list[list[int]], int]:
    """A tree of random sequences with much in common, the sequences, their paths, and the prefix's length."""
    source = random.Random(seed)
    vocabulary = source.choice([1, 2, 20])
    prefix = some_tokens(source, vocabulary, 0, 3)
    texts = [prefix + some_tokens(source, vocabulary, 1, 9) for _ in range(source.randint(1, 8))]
    if source.random() < 0.7:
        texts.sort()
    builder = TreeBuilder(len(prefix), chunk=8)
    paths = []
    for text in texts:
        builder.add(tokens(text))
        paths.append(builder.path(len(prefix)).tolist())
    return builder.build(4), texts, paths, len(prefix)


@pytest.mark.parametrize("first", range(0, RANDOM_SETS, 100))
def test_every_token_sees_its_own_path_and_nothing_else(first: int) -> None:
    for seed in range(first, first + 100):
        tree, texts, paths, prefix = random_row(seed)
        for text, path in zip(texts, paths, strict=True):
            assert tree.ids[path].tolist() == text[prefix:]
            assert tree.depths[path].tolist() == list(range(prefix, len(text)))
            for at, index in enumerate(path):
                assert seen(tree, index) == {*range(prefix), *(each + prefix for each in path[: at + 1])}


def test_sorted_sequences_are_laid_out_with_each_distinct_token_once() -> None:
    for seed in range(RANDOM_SETS):
        source = random.Random(seed)
        texts = sorted(some_tokens(source, 3, 1, 9) for _ in range(20))
        builder = TreeBuilder()
        for text in texts:
            builder.add(tokens(text))
        assert len(builder) == len({tuple(text[:end]) for text in texts for end in range(1, len(text) + 1)})


def test_filling_sees_itself_alone() -> None:
    builder = TreeBuilder(2)
    builder.add(tokens([1, 2, 3, 4]))
    tree = builder.build(8)
    assert len(tree.ids) == 8
    assert [seen(tree, index) for index in range(2, 8)] == [{index + 2} for index in range(2, 8)]


def test_chunks_cover_the_row_and_hold_with_their_ancestors_all_that_is_seen() -> None:
    for seed in range(RANDOM_SETS):
        tree, _, _, prefix = random_row(seed)
        edges = [chunk.start for chunk in tree.chunks] + [tree.chunks[-1].end]
        assert edges[0] == 0
        assert edges[-1] == len(tree.ids)
        assert edges == sorted(edges)
        for chunk in tree.chunks:
            held = {*range(prefix), *(chunk.ancestors + prefix).tolist()}
            held |= set(range(chunk.start + prefix, chunk.end + prefix))
            assert all(seen(tree, index) <= held for index in range(chunk.start, chunk.end))


def test_sort_key_orders_as_the_token_ids_do() -> None:
    source = random.Random(3)
    lists = [[source.choice([0, 1, 255, 256, 65536, 2**30]) for _ in range(source.randint(0, 4))] for _ in range(500)]
    assert sorted(lists) == sorted(lists, key=lambda ids: sort_key(tokens(ids)))


# ------------------------------------------------------------ plan


def random_units(seed: int) -> list[Unit]:
    """Documents behind shots that some of them share, in a vocabulary so small that more is shared by chance."""
    source = random.Random(seed)
    vocabulary = source.choice([1, 2, 4])
    shots = [some_tokens(source, vocabulary, 0, 60) for _ in range(2)]
    units = []
    for number in range(source.randint(1, 20)):
        context = tokens(source.choice(shots) + some_tokens(source, vocabulary, 1, 60))
        choices = [tokens(some_tokens(source, vocabulary, 1, 5)) for _ in range(source.randint(1, 4))]
        names = tuple(f"{number}-{choice}" for choice in range(len(choices)))
        units.append(Unit(names, tuple(Part(context, choice) for choice in choices)))
    return units


def laid_out(batch: Batch) -> TreeBuilder:
    builder = TreeBuilder(len(batch.prefix))
    for unit in batch.units:
        for part in unit.parts:
            builder.add(part.text)
    return builder


def test_every_request_is_in_one_batch_and_batches_keep_the_budget() -> None:
    for seed in range(RANDOM_SETS):
        units, budget = random_units(seed), random.Random(seed).choice([50, 200, 1000])
        batches = plan(units, budget)
        assert sorted(key for batch in batches for key in batch.keys) == sorted(key for u in units for key in u.keys)
        for batch in batches:
            assert batch.n_tokens <= budget or len(batch.units) == 1
            assert len(laid_out(batch)) == batch.n_tokens


def test_what_is_computed_before_a_batch_begins_all_of_its_texts_and_predicts_nothing_that_is_scored() -> None:
    for seed in range(RANDOM_SETS):
        for batch in plan(random_units(seed), 100):
            prefix = batch.prefix.tolist()
            assert list(batch.cuts) == sorted(set(batch.cuts))
            for unit in batch.units:
                for part in unit.parts:
                    assert part.text[: len(prefix)].tolist() == prefix
                    assert len(prefix) < len(part.context)


def test_parts_that_begin_differently_have_nothing_computed_before_them() -> None:
    alike = list(range(100, 200))
    units = [
        Unit((f"{n}a", f"{n}b"), (Part(tokens([*alike, n]), tokens([1, 2])), Part(tokens([9, *alike]), tokens([1]))))
        for n in range(10)
    ]
    for batch in plan(units, 150):
        assert batch.cuts == ()
        assert len(laid_out(batch)) == batch.n_tokens


def test_shots_are_computed_once_and_documents_once() -> None:
    source = random.Random(0)
    shots = some_tokens(source, 1000, 300, 300)
    units = []
    for number in range(50):
        context = tokens(shots + some_tokens(source, 1000, 40, 60))
        choices = tuple(Part(context, tokens(some_tokens(source, 1000, 3, 6))) for _ in range(4))
        units.append(Unit(tuple(f"{number}-{choice}" for choice in range(4)), choices))
    batches = plan(units, 512)
    assert len(batches) > 5
    assert {batch.cuts for batch in batches} == {(300,)}
    distinct = {tuple(part.text[:end]) for u in units for part in u.parts for end in range(1, len(part.text) + 1)}
    # Two documents that begin alike may part at the edge of a batch.
    assert len(distinct) <= 300 + sum(batch.n_tokens for batch in batches) <= 1.02 * len(distinct)


def test_passage_is_never_cut_from_its_questions_where_it_fits_a_batch() -> None:
    source = random.Random(1)
    units = []
    for passage in range(12):
        text = some_tokens(source, 1000, 50, 60)
        for question in range(3):
            context = tokens(text + some_tokens(source, 1000, 8, 12))
            units.append(Unit((f"{passage}-{question}",), (Part(context, tokens([1, 2])),)))
    for batch in plan(units, 150):
        passages = [key.split("-")[0] for key in batch.keys]
        assert all(passages.count(passage) == 3 for passage in passages)


def test_passages_of_a_task_with_shots_make_nested_segments() -> None:
    source = random.Random(2)
    shots, passage = some_tokens(source, 1000, 100, 100), some_tokens(source, 1000, 80, 80)
    long = [Unit((f"a{n}",), (Part(tokens(shots + passage + [n, 5, 6] * 10), tokens([1])),)) for n in range(20)]
    other = [Unit((f"b{n}",), (Part(tokens([*shots, 7, n] * 1), tokens([1])),)) for n in range(20)]
    cuts = {batch.cuts for batch in plan([*long, *other], 128)}
    assert (100, 180) in cuts
    assert (100,) in cuts


def test_little_in_common_makes_no_segment() -> None:
    shared = list(range(SEGMENT - 1))
    units = [Unit((str(n),), (Part(tokens([*shared, 100 + n] * 1), tokens([1])),)) for n in range(50)]
    assert {batch.cuts for batch in plan(units, 100)} == {()}


def test_halves_of_a_batch_hold_what_it_held() -> None:
    for seed in range(50):
        for batch in plan(random_units(seed), 300):
            halves = batch.halves()
            if halves is None:
                assert len(batch.units) == 1
                continue
            assert halves[0].units + halves[1].units == batch.units
            assert all(len(laid_out(half)) == half.n_tokens for half in halves)


def test_plan_doesnt_depend_on_the_order_of_the_requests() -> None:
    units = random_units(5)
    shuffled = random.Random(1).sample(units, len(units))
    assert [batch.keys for batch in plan(units, 100)] == [batch.keys for batch in plan(shuffled, 100)]


def test_ten_thousand_documents_are_planned_with_each_token_once() -> None:
    source = np.random.default_rng(0)
    shots = source.integers(3, 30000, 500).astype(np.int32)
    units = []
    for number in range(10_000):
        context = np.concatenate([shots, source.integers(3, 30000, 60).astype(np.int32)])
        parts = tuple(Part(context, source.integers(3, 30000, 4).astype(np.int32)) for _ in range(2))
        units.append(Unit((f"{number}a", f"{number}b"), parts))
    batches = plan(units, 4096)
    computed = sum(batch.n_tokens for batch in batches) + 500
    # Shots once, 60 of a context and 3 of each choice; the first of two random texts is rarely the same.
    assert 0.99 * (500 + 10_000 * 66) <= computed <= 500 + 10_000 * 66


def test_common_length_of_sequences_of_any_lengths() -> None:
    cases = (([], [1], 0), ([1, 2], [1, 2, 3], 2), ([1, 2], [1, 3], 1), ([1], [1], 1), ([2], [1], 0))
    for one, two, expected in cases:
        assert common_length(tokens(one), tokens(two)) == common_length(tokens(two), tokens(one)) == expected
