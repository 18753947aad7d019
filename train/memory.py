"""What a run takes of a GPU's memory, reckoned from a model's shape before it is loaded, and a plan that fits.

The passes of train.fused are written out, so what they keep is known to the byte:

    a layer      its two inputs; normed inputs and what the adapters make of them; queries, keys, values; what
                 attention gave, and its log-sum-exp; gates and ups. The gated product is computed again.
    a gradient   its output's and its input's, the widest product's, float32 for the parameters
    the head     logits of some positions in float32 and once more in 16 bits, hidden states thrice

Letters as there: T tokens, H hidden width, N outputs, K inputs, R columns of the adapters of one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import ModelError
from train.loss import LOGITS_BYTES
from train.packing import passes
from train.recipe import ALL_LINEAR, Recipe

GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""The linear layers of a decoder layer, those together that read one input."""

SPARE = 0.94
"""Share of the free memory that is planned with: the rest is lost between blocks of different sizes."""

UNPACKED = 0.75
"""Share of the free memory up to which quantized weights are also kept in 16 bits: the rest is left to evaluation."""

WORK_OF_A_BYTE = 3200
"""Operations that an H100 doesn't do while it normalises, rotates, gates, attends and adds what an adapter makes, for
each byte that a layer keeps. Measured on a shape of 7B, and right within a twentieth on one of 1B."""

WORTHWHILE_TOKENS = 4096
"""Passes shorter than this leave a GPU's products half empty: then rather compute activations twice."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder of the Llama family with its adapters, as far as memory and arithmetic go.

    products: (N, K, ranks of its adapters) of each group of GROUPS. n_adapter: parameters that are trained.
    heads: of queries. turns: whether heads are normed. base: how the frozen base is kept.
    """

    n_layers: int
    hidden: int
    vocabulary: int
    heads: int
    products: tuple[tuple[int, int, int], ...]
    n_adapter: int
    turns: bool
    tied: bool
    base: str

    @classmethod
    def of(cls, config: Any, recipe: Recipe) -> Shape | None:
        """The shape of a base, from its config; None where it isn't of that family."""
        if not all(hasattr(config, name) for name in ("intermediate_size", "num_key_value_heads")):
            return None
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        key_heads = config.num_key_value_heads or config.num_attention_heads
        widths = {
            "q_proj": (config.num_attention_heads * head_dim, config.hidden_size),
            "k_proj": (key_heads * head_dim, config.hidden_size),
            "v_proj": (key_heads * head_dim, config.hidden_size),
            "o_proj": (config.hidden_size, config.num_attention_heads * head_dim),
            "gate_proj": (config.intermediate_size, config.hidden_size),
            "up_proj": (config.intermediate_size, config.hidden_size),
            "down_proj": (config.hidden_size, config.intermediate_size),
        }
        chosen = set(widths if recipe.lora_targets == (ALL_LINEAR,) else recipe.lora_targets) & set(widths)
        products = tuple(
            (sum(widths[name][0] for name in group), widths[group[0]][1], recipe.lora_rank * len(chosen & set(group)))
            for group in GROUPS
        )
        return cls(
            n_layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            vocabulary=config.vocab_size,
            heads=config.num_attention_heads,
            products=products,
            n_adapter=config.num_hidden_layers * recipe.lora_rank * sum(sum(widths[name]) for name in chosen),
            turns=config.model_type == "qwen3",
            tied=bool(config.tie_word_embeddings),
            base=recipe.quantization,
        )

    @property
    def n_linear(self) -> int:
        """Parameters of the layers' products."""
        return self.n_layers * sum(n * k for n, k, _ in self.products)

    def flops_per_token(self, trained_share: float, length: float) -> float:
        """Arithmetic of a trained token: forward, and the gradient by inputs, of weights that are frozen.

        trained_share: of the tokens, that pass the head. length: of the mean row, for attention.
        """
        weights = self.n_linear + trained_share * self.vocabulary * self.hidden
        heads_width = self.products[1][1]
        attention = 3.5 * 2 * self.n_layers * length * heads_width  # half of 4 · length · width is masked
        return 4 * weights + 6 * self.n_adapter + attention

    def work_per_token(self, trained_share: float, length: float) -> float:
        """What a token's time goes by: its arithmetic, and for what only moves bytes, the arithmetic it holds up."""
        logits = 4 * trained_share * self.vocabulary  # read and written twice as often as what a layer keeps
        moved = self.n_layers * kept_bytes(self)[0] + 2 * logits
        return self.flops_per_token(trained_share, length) + WORK_OF_A_BYTE * moved


def columns(ranks: int, base: str) -> int:
    """R of a product, for adapters of so many ranks together: a multiple of 64, so that products stay aligned."""
    if base == "fp8":
        # A power of 2, as the kernel that adds the adapters takes it.
        return 1 << max(6, (ranks - 1).bit_length()) if ranks else 0
    return -(-ranks // 64) * 64


def fixed_bytes(shape: Shape, unpacked: int = 0) -> int:
    """Weights, adapters with gradients and moments, dequantized weights of so many layers, or a buffer for them."""
    total = 2 * shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    total += shape.n_adapter * 16
    for n, k, ranks in shape.products:
        r = columns(ranks, shape.base)
        whole = 2 * (n + r) * (k + r)
        tails = 2 * r * (n + k)
        if shape.base == "none":
            total += shape.n_layers * whole
        elif shape.base == "fp8":
            total += shape.n_layers * (4 * n * k + tails)
        else:
            # NF4: 4 bits, a byte a block of 64 and a float a 256 of those; int8: a byte, and a float a row.
            weights = n * k // 2 + n * k // 64 + n * k // 64 // 64 if shape.base == "nf4" else n * k + 4 * n
            total += shape.n_layers * weights + (shape.n_layers - unpacked) * tails + (unpacked + 1) * whole
    return total


def kept_bytes(shape: Shape) -> tuple[int, int]:
    """A token's, of a layer that keeps all it needs, and of one that keeps its inputs."""
    (n_qkv, h, _), (_, k_o, _), (n_gate, _, _), _ = shape.products
    r = [columns(ranks, shape.base) for _, _, ranks in shape.products]
    inputs = 2 * 2 * h
    attention = 2 * ((h + r[0]) + n_qkv * (2 if shape.turns else 1) + (k_o + r[1])) + 4 * shape.heads + 4
    gated = 2 * ((h + r[2]) + (n_gate + r[2]) + r[3]) + 4
    return inputs + attention + gated, inputs


def peak_bytes(shape: Shape, n_tokens: int, n_trained: int, recompute: int, unpacked: int = 0) -> int:
    """The most that a pass of so many tokens takes at once, what is always there included."""
    (_, h, _), _, (n_gate, _, _), (_, inner, _) = shape.products
    r = [columns(ranks, shape.base) for _, _, ranks in shape.products]
    whole, inputs = kept_bytes(shape)
    recompute = min(recompute, shape.n_layers)
    kept = n_tokens * (inputs * recompute + whole * (shape.n_layers - recompute)) + 1024 * n_tokens
    # The gated half of the last layer sees the trained positions alone.
    last_gated = 2 * (2 * h + r[2] + n_gate + r[2] + r[3])
    if recompute < shape.n_layers:
        kept -= (n_tokens - n_trained) * last_gated
    own = (whole - inputs) * n_tokens if recompute else 0  # of a layer that is being computed again
    logits = min(LOGITS_BYTES, 4 * n_trained * shape.vocabulary)
    at_head = 2 * 3 * n_trained * h + logits * 5 // 2
    room = max(r)
    gradients = n_tokens * 2 * ((h + room) + inner + h + (h + room)) + 4 * 2 * max(r) * max(n_gate, inner)
    if shape.base == "fp8":
        gradients += n_tokens * max(n_gate, inner)  # an 8-bit copy of what is multiplied
    # When gradients reach the other layers, the last one's have been let go.
    freed = 0 if recompute else whole * n_tokens - (n_tokens - n_trained) * last_gated
    return fixed_bytes(shape, unpacked) + kept + max(at_head, own + gradients - freed)


def slowdown(shape: Shape, recompute: int) -> float:
    """How much longer it takes where so many layers are computed twice: a quarter of such a layer's time."""
    return 1 + 0.25 * min(recompute, shape.n_layers) / shape.n_layers


def planned(
    shape: Shape, steps: Sequence[tuple[Sequence[int], Sequence[int]]], free: int, recipe: Recipe
) -> tuple[int, int, int]:
    """Tokens of a pass, layers to compute twice and layers to keep unpacked, such that the largest pass fits.

    steps: of each optimizer step, its rows' tokens and trained tokens. free: bytes, the model's own included.
    Raises ModelError where nothing fits.
    """
    longest_row = max(max(lengths) for lengths, _ in steps)
    longest_step = max(sum(lengths) for lengths, _ in steps)
    share = max(sum(trained) / sum(lengths) for lengths, trained in steps)
    asked = recipe.micro_batch_tokens
    sizes = [asked] if asked else sorted({max(longest_row, -(-longest_step // n)) for n in range(1, 65)}, reverse=True)
    best = None
    for size in sizes:
        layers = [recipe.recompute_layers] if recipe.recompute_layers >= 0 else range(shape.n_layers + 1)
        for recompute in layers:
            if peak_bytes(shape, size, int(share * size), recompute) <= SPARE * free:
                n_passes = sum(len(passes(lengths, size)) for lengths, _ in steps[:50]) / len(steps[:50])
                # A pass below some thousand tokens leaves a part of the GPU idle.
                tokens = longest_step / n_passes
                cost = slowdown(shape, recompute) * (1 + max(0.0, WORTHWHILE_TOKENS / tokens - 1) * 0.5)
                if best is None or cost < best[0]:
                    best = (cost, size, recompute)
                break
    if best is None:
        needed = peak_bytes(shape, longest_row, int(share * longest_row), shape.n_layers)
        raise ModelError(
            f"The longest row, {longest_row} tokens, takes {needed / 2**30:.1f} GiB with this base, and "
            f"{free / 2**30:.1f} GiB are free. Try: quantization=nf4 or max_length={longest_row // 2}"
        )
    _, size, recompute = best
    unpacked = 0
    if shape.base in ("int8", "nf4") and not recompute:
        fitting = (
            layers
            for layers in range(shape.n_layers, 0, -1)
            if peak_bytes(shape, size, int(share * size), 0, layers) <= UNPACKED * free
        )
        unpacked = next(fitting, 0)
    return size, recompute, unpacked
