"""The GPU's kernels against PyTorch's own operations: on a GPU as they are, elsewhere by Triton's interpreter."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import save_tiny

pytest.importorskip("triton")

from harness.engine import fused, kernels, sparse
from harness.engine.attention import visible
from harness.engine.lm import EngineLM
from harness.engine.plan import Part, Unit, plan
from harness.engine.tree import Tree, TreeBuilder, tokens

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# float32 sums of a hundred terms near 1, added in another order; a GPU multiplies float32 in parts of tf32.
TOLERANCE = 1e-5 if DEVICE.type == "cpu" else 5e-3


def attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition of attention, and its log-sum-exp."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, -1) @ value, torch.logsumexp(scores, -1)


def random_tree(seed: int, prefix: int) -> tuple[Tree, int]:
    """A row of documents with choices behind a prefix, filled up to whole blocks, and its length before that."""
    source = random.Random(seed)
    before = [source.randrange(9) for _ in range(prefix)]
    texts = []
    for _ in range(source.randint(1, 5)):
        document = before + [source.randrange(9) for _ in range(source.randint(1, 90))]
        texts += [document + [source.randrange(9) for _ in range(source.randint(1, 6))] for _ in range(3)]
    builder = TreeBuilder(prefix)
    for text in sorted(texts):
        builder.add(tokens(text))
    return builder.build(kernels.BLOCK), len(builder)


def heads(n: int, length: int, size: int) -> torch.Tensor:
    """(1, n, length, size), as transformers turns a row's heads to the front."""
    return torch.randn(1, length, n, size, device=DEVICE).transpose(1, 2)


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize(("prefix", "n_heads", "n_groups", "size"), [(0, 2, 1, 16), (70, 4, 2, 16), (130, 3, 1, 24)])
def test_tree_attention_is_attention_under_the_trees_mask(
    window: int | None, prefix: int, n_heads: int, n_groups: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    tree, length = random_tree(prefix, prefix)
    total, scale = len(tree.ids), size**-0.5
    query, key, value = (heads(n, total, size) for n in (n_heads, n_groups, n_groups))
    before = heads(n_groups, prefix, size), heads(n_groups, prefix, size)
    mask = torch.from_numpy(visible(tree, slice(0, total), np.arange(prefix + total), window)).to(DEVICE)
    keys, values = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
    wanted, _ = attended(query, keys, values, mask, scale)
    seen = torch.ones(total, prefix, dtype=torch.bool, device=DEVICE)

    def dense(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return attended(given[0], given[1], given[2], seen, scale)

    # The prefix through another kernel first, and prefix and row together.
    for first in (dense, lambda *_: None):
        monkeypatch.setattr(sparse, "_dense", first)
        attend = sparse.SparseAttention(tree, [before] if prefix else None, DEVICE)
        found = attend(0, query, key, value, scale, window)
        assert (found - wanted)[:, :, :length].abs().max() < TOLERANCE
        assert not found.isnan().any()


@pytest.mark.parametrize("window", [None, 30])
def test_decoding_attends_up_to_each_rows_own_place(window: int | None) -> None:
    torch.manual_seed(1)
    places = torch.tensor([0, 77, 127], device=DEVICE)
    key, value = (torch.randn(3, 2, 128, 16, device=DEVICE) for _ in range(2))
    query = torch.randn(6, 3, 16, device=DEVICE).transpose(0, 1)
    back = places[:, None] - torch.arange(128, device=DEVICE)
    mask = (back >= 0) & (back < (window or 1000))
    wanted, _ = attended(query[:, :, None], key, value, mask[:, None, None], 0.25)
    found = kernels.decode_attention(query, key, value, places, 0.25, window)
    assert (found - wanted[:, :, 0]).abs().max() < TOLERANCE


def test_blocks_named_whole_are_seen_whole_and_no_block_with_something_seen_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sparse, "BLOCK", 8)
    for seed in range(100):
        tree, _ = random_tree(seed, (0, 5, 17)[seed % 3])
        total = len(tree.ids)
        for window in (None, 7):
            for prefix in {0, tree.prefix}:
                mask = visible(tree, slice(0, total), np.arange(tree.prefix - prefix, tree.prefix + total), window)
                some, every = sparse.blocks(tree, prefix, window)
                for row, column in np.ndindex(some.shape):
                    block = mask[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                    assert some[row, column] or not block.any()
                    assert not every[row, column] or (some[row, column] and block.all() and block.shape == (8, 8))


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("turned", [None, (1, 2), (0, 2)])
def test_norm_is_the_models_own(kind: str, turned: tuple[int, int] | None) -> None:
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm = {"llama": LlamaRMSNorm, "gemma3": Gemma3RMSNorm}[kind](24).to(DEVICE)
    norm.weight.data.normal_()
    given = torch.randn(1, 5, 3, 24, device=DEVICE)
    if turned == (1, 2):
        given = given.transpose(1, 2)
    elif turned:  # channels that don't lie side by side, as a transposed product leaves them
        given = torch.randn(24, 5, device=DEVICE).t()[None]
    wanted = norm(given)
    fused.fuse(torch.nn.ModuleList([norm]))
    assert (norm(given) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("gelu", [False, True])
def test_gated_product_is_the_activation_times_the_other(gelu: bool) -> None:
    gate, up = torch.randn(3, 5000, device=DEVICE), torch.randn(3, 5000, device=DEVICE)
    active = torch.nn.functional.gelu(gate, approximate="tanh") if gelu else torch.nn.functional.silu(gate)
    assert (kernels.gated(gate, up, gelu=gelu) - active * up).abs().max() < 1e-5


@pytest.mark.parametrize("channels", [16, 8])
def test_rotation_in_place_is_transformers_rotation(channels: int) -> None:
    from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

    query, key = heads(4, 37, 16), heads(2, 37, 16)
    angles = torch.randn(1, 37, channels // 2, device=DEVICE).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    wanted = apply_rotary_pos_emb(query, key, cos, sin)
    for given, rotated in zip((query, key), wanted, strict=True):
        kernels.rotate(given, cos, sin)
        assert (given - rotated).abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["gemma3_text", "phi3"])
def test_model_with_kernels_scores_and_goes_on_as_without(
    kind: str, tokenizer_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.engine.jobs import Generation, prefill

    path = save_tiny(tmp_path / kind, tokenizer_directory, kind)
    tokenizer = AutoTokenizer.from_pretrained(path)
    source = random.Random(0)
    shots = [source.randrange(3, 1000) for _ in range(40)]
    units = [
        Unit((f"{n}a", f"{n}b"), (Part(context, tokens([5, 6, 7])), Part(context, tokens([8]))))
        for n in range(2)
        for context in [tokens([*shots, *(source.randrange(3, 1000) for _ in range(20))])]
    ]
    prompts = tuple(unit.parts[0].context for unit in units)
    names = tuple(unit.keys[0] for unit in units)
    job = Generation(names, prompts, prefill(names, prompts, 96), 3, ())

    def answers(engine: EngineLM) -> tuple[dict[str, Any], dict[str, str]]:
        scores: dict[str, Any] = {}
        for _, found in engine.work("loglikelihood", plan(units, 96)):
            scores.update(found or {})
        return scores, engine.start("generate_until", job)()

    plain = EngineLM(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval(), tokenizer)
    scores, texts = answers(plain)
    engine = EngineLM(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval(), tokenizer)
    modeling = __import__(type(engine.decoder).__module__, fromlist=["x"])
    monkeypatch.setattr(modeling, "apply_rotary_pos_emb", modeling.apply_rotary_pos_emb)  # put back afterwards
    fused.fuse(engine.decoder)
    engine.kernels, engine._attention, engine._multiple = kernels, sparse.SparseAttention, kernels.BLOCK
    with_kernels, with_texts = answers(engine)
    assert with_texts == texts
    for key, (score, greedy) in scores.items():
        assert with_kernels[key][1] == greedy
        assert abs(with_kernels[key][0] - score) < 1e-4
