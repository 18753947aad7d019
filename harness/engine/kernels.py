"""Triton kernels of the engine on CUDA, for 16-bit floats: attention over a tree, a decoding step's attention, and
the element-wise work of a layer in one pass each.

Attention is FlashAttention's online softmax (Dao 2023, arXiv 2307.08691) over lists of blocks: the rule "q sees k
where k ≤ q ≤ last[k]" leaves most blocks out, and most of the rest need no mask. Written here and not taken from
FlexAttention: that compiles for half a minute on a new machine, is a third slower when lengths vary, and can't go on
from the softmax of a prefix that another kernel computed.

Letters: H query heads, G key heads, T queries, N keys, D head width, B rows, L width of the cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 128
"""Tokens of a block of queries and of a block of keys in the lists; rows are a multiple of it."""

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _tree_kernel(
    query, key, value, out, start_out, start_lse, last, depth, counts, lists, whole_counts, whole_lists,
    q_head, q_token, k_head, k_token, v_head, v_token, o_head, o_token, s_head, s_token,
    n_keys, n_queries, n_lists, scale, window,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, LISTED: tl.constexpr,
    WINDOWED: tl.constexpr, STARTED: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head. key: what stands before the row, then the row: query t is key N - T + t."""
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    width = tl.arange(0, D)
    q = tl.load(query + head * q_head + rows[:, None].to(tl.int64) * q_token + width[None, :])
    number = rows + n_keys - n_queries
    query_depth = tl.load(depth + number)
    keys, values = key + head // GROUP * k_head, value + head // GROUP * v_head
    log2_scale = scale * _LOG2E
    if STARTED:
        # Goes on from a softmax over other keys: its result counts as one key of that weight.
        total = tl.full([BLOCK_M], 1.0, tl.float32)
        top = tl.load(start_lse + head * n_queries + rows) * _LOG2E
        acc = tl.load(start_out + head * s_head + rows[:, None].to(tl.int64) * s_token + width[None, :]).to(tl.float32)
    else:
        total = tl.zeros([BLOCK_M], tl.float32)
        top = tl.full([BLOCK_M], float("-inf"), tl.float32)
        acc = tl.zeros([BLOCK_M, D], tl.float32)
    listed = block * BLOCK_M // LISTED

    for at in range(tl.load(whole_counts + listed) * (LISTED // BLOCK_N)):
        first = tl.load(whole_lists + listed * n_lists + at // (LISTED // BLOCK_N)) * LISTED
        columns = first + at % (LISTED // BLOCK_N) * BLOCK_N + tl.arange(0, BLOCK_N)
        k = tl.load(keys + columns[None, :].to(tl.int64) * k_token + width[:, None])
        score = tl.dot(q, k) * log2_scale
        higher = tl.maximum(top, tl.max(score, 1))
        p = tl.exp2(score - higher[:, None])
        factor = tl.exp2(top - higher)
        total = total * factor + tl.sum(p, 1)
        v = tl.load(values + columns[:, None].to(tl.int64) * v_token + width[None, :])
        acc = tl.dot(p.to(v.dtype), v, acc * factor[:, None])
        top = higher

    for at in range(tl.load(counts + listed) * (LISTED // BLOCK_N)):
        first = tl.load(lists + listed * n_lists + at // (LISTED // BLOCK_N)) * LISTED
        columns = first + at % (LISTED // BLOCK_N) * BLOCK_N + tl.arange(0, BLOCK_N)
        inside = columns < n_keys
        k = tl.load(keys + columns[None, :].to(tl.int64) * k_token + width[:, None], mask=inside[None, :], other=0.0)
        seen_to = tl.load(last + columns, mask=inside, other=-1)
        sees = (columns[None, :] <= number[:, None]) & (number[:, None] <= seen_to[None, :])
        if WINDOWED:
            key_depth = tl.load(depth + columns, mask=inside, other=0)
            sees = sees & (query_depth[:, None] - key_depth[None, :] < window)
        score = tl.where(sees, tl.dot(q, k) * log2_scale, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        # A query that has seen nothing yet has no highest score: 0 keeps its weights at 0 instead of NaN.
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(score - finite[:, None])
        factor = tl.exp2(top - finite)
        total = total * factor + tl.sum(p, 1)
        v = tl.load(values + columns[:, None].to(tl.int64) * v_token + width[None, :], mask=inside[:, None], other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * factor[:, None])
        top = higher

    found = acc / total[:, None]
    tl.store(
        out + head * o_head + rows[:, None].to(tl.int64) * o_token + width[None, :], found.to(out.dtype.element_ty)
    )


def tree_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    last: torch.Tensor,
    depth: torch.Tensor,
    some: tuple[torch.Tensor, torch.Tensor],
    whole: tuple[torch.Tensor, torch.Tensor],
    scale: float,
    window: int | None = None,
    start: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Attention of T queries to N keys, of which the last T are the queries' own.

    query: (1, H, T, D), T a multiple of BLOCK. key, value: (1, G, N, D). last, depth: (N,) int32, of the keys.
    some, whole: for each block of queries, how many blocks of keys need the mask, or need none, and which: int32
    (T / BLOCK,) and (T / BLOCK, blocks of keys). window: keys further back in depth aren't seen.
    start: a softmax over other keys to go on from: its result (1, H, T, D) and its log-sum-exp (1, H, T).
    Returns (1, H, T, D).
    """
    _, n_heads, n_queries, size = query.shape
    if size != triton.next_power_of_2(size):
        # Channels of zeros change no product.
        missing = (0, triton.next_power_of_2(size) - size)
        query, key, value = (torch.nn.functional.pad(each, missing) for each in (query, key, value))
        if start is not None:
            start = torch.nn.functional.pad(start[0], missing), start[1]
        found = tree_attention(
            query, key, value, last=last, depth=depth, some=some, whole=whole, scale=scale, window=window, start=start
        )
        return found[..., :size]
    query, key, value = (each if each.stride(3) == 1 else each.contiguous() for each in (query, key, value))
    out = torch.empty_like(query)
    start_out, start_lse = start if start is not None else (out, out)
    block_m, block_n, warps, stages = (64, 64, 4, 3) if size <= 128 else (64, 32, 4, 2)
    _tree_kernel[(n_queries // block_m, n_heads)](
        query, key, value, out, start_out, start_lse, last, depth, *some, *whole,
        query.stride(1), query.stride(2), key.stride(1), key.stride(2), value.stride(1), value.stride(2),
        out.stride(1), out.stride(2), start_out.stride(1), start_out.stride(2),
        key.shape[2], n_queries, some[1].shape[1], scale, window or 0,
        GROUP=n_heads // key.shape[1], D=size, BLOCK_M=block_m, BLOCK_N=block_n, LISTED=BLOCK,
        WINDOWED=window is not None, STARTED=start is not None, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


@triton.jit
def _decode_kernel(
    query, key, value, out, places,
    q_head, q_row, o_head, o_row, k_row, k_head, k_token, scale, window,
    GROUP: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, WINDOWED: tl.constexpr,
):  # fmt: skip
    """One row and key head: the query heads that share it, against the cache up to the row's own place."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    heads, width = tl.arange(0, ROWS), tl.arange(0, D)
    at = query + row * q_row + (head * GROUP + heads[:, None]) * q_head + width[None, :]
    q = tl.load(at, mask=heads[:, None] < GROUP, other=0.0)
    place = tl.load(places + row)
    keys, values = key + row * k_row + head * k_head, value + row * k_row + head * k_head
    total, top = tl.zeros([ROWS], tl.float32), tl.full([ROWS], float("-inf"), tl.float32)
    acc = tl.zeros([ROWS, D], tl.float32)
    begin = 0
    if WINDOWED:
        begin = tl.maximum(place - window + 1, 0) // BLOCK_N * BLOCK_N
    for first in range(begin, place + 1, BLOCK_N):
        columns = first + tl.arange(0, BLOCK_N)
        sees = columns <= place
        if WINDOWED:
            sees = sees & (place - columns < window)
        k = tl.load(keys + columns[None, :] * k_token + width[:, None], mask=sees[None, :], other=0.0)
        score = tl.where(sees[None, :], tl.dot(q, k) * (scale * _LOG2E), float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(score - finite[:, None])
        factor = tl.exp2(top - finite)
        total = total * factor + tl.sum(p, 1)
        v = tl.load(values + columns[:, None] * k_token + width[None, :], mask=sees[:, None], other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * factor[:, None])
        top = higher
    at = out + row * o_row + (head * GROUP + heads[:, None]) * o_head + width[None, :]
    tl.store(at, (acc / total[:, None]).to(out.dtype.element_ty), mask=heads[:, None] < GROUP)


def decode_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    places: torch.Tensor,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Attention of one query a row to that row's cache, up to and with its own place; no more of it is read.

    query: (B, H, D). key, value: (B, G, L, D), of equal strides. places: (B,). Returns (B, H, D).
    """
    n_rows, n_heads, size = query.shape
    query = query if query.stride(2) == 1 else query.contiguous()
    out = torch.empty_like(query)
    group = n_heads // key.shape[1]
    _decode_kernel[(n_rows, key.shape[1])](
        query, key, value, out, places,
        query.stride(1), query.stride(0), out.stride(1), out.stride(0), key.stride(0), key.stride(1), key.stride(2),
        scale, window or 0,
        GROUP=group, ROWS=max(16, triton.next_power_of_2(group)), D=size, BLOCK_N=64 if size <= 128 else 32,
        WINDOWED=window is not None, num_warps=4, num_stages=3,
    )  # fmt: skip
    return out


@triton.jit
def _norm_kernel(given, weight, out, g_row, o_row, size, eps, offset, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < size
    x = tl.load(given + row * g_row + columns, mask=inside, other=0.0).to(tl.float32)
    scaled = x * tl.rsqrt(tl.sum(x * x, 0) / size + eps)
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32) + offset
    tl.store(out + row * o_row + columns, (scaled * w).to(out.dtype.element_ty), mask=inside)


def rms_norm(given: torch.Tensor, weight: torch.Tensor, eps: float, offset: float = 0.0) -> torch.Tensor:
    """Root-mean-square normalisation over the last dimension, in float32: x / rms(x) · (weight + offset)."""
    if given.dim() == 4 and not given.is_contiguous() and given.transpose(1, 2).is_contiguous():
        # The heads of a row, turned to the front for attention: taken as they lie.
        return rms_norm(given.transpose(1, 2), weight, eps, offset).transpose(1, 2)
    size = given.shape[-1]
    rows = given.reshape(-1, size)
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    out = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    width = triton.next_power_of_2(size)
    _norm_kernel[(len(rows),)](
        rows, weight, out, rows.stride(0), out.stride(0), size, eps, offset,
        WIDTH=width, num_warps=max(1, min(16, width // 512)),
    )  # fmt: skip
    return out.view(given.shape)


@triton.jit
def _gated_kernel(gate, up, out, total, GELU: tl.constexpr, WIDTH: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
    inside = at < total
    g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    # GELU in its tanh form: tanh(z) is 2 σ(2z) - 1, so x · (1 + tanh(z)) / 2 is x · σ(2z).
    z = 1.5957691216057308 * (g + 0.044715 * g * g * g) if GELU else g
    active = g * tl.sigmoid(z)
    tl.store(out + at, (active * u).to(out.dtype.element_ty), mask=inside)


def gated(gate: torch.Tensor, up: torch.Tensor, *, gelu: bool) -> torch.Tensor:
    """act(gate) · up, act being SiLU or GELU in its tanh form, in float32."""
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    total = gate.numel()
    _gated_kernel[(triton.cdiv(total, 4096),)](gate, up, out, total, GELU=gelu, WIDTH=4096, num_warps=8)
    return out


@triton.jit
def _rotate_kernel(
    x, cos, sin, x_head, x_token, c_token, n_heads, HALF: tl.constexpr, HEADS: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    half = tl.arange(0, HALF)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    inside = (heads < n_heads)[:, None]
    at = x + token * x_token + heads[:, None].to(tl.int64) * x_head + half[None, :]
    one = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    two = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    c_one = tl.load(cos + token * c_token + half).to(tl.float32)[None, :]
    s_one = tl.load(sin + token * c_token + half).to(tl.float32)[None, :]
    c_two = tl.load(cos + token * c_token + HALF + half).to(tl.float32)[None, :]
    s_two = tl.load(sin + token * c_token + HALF + half).to(tl.float32)[None, :]
    tl.store(at, (one * c_one - two * s_one).to(x.dtype.element_ty), mask=inside)
    tl.store(at + HALF, (two * c_two + one * s_two).to(x.dtype.element_ty), mask=inside)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotary position embedding in place: the halves of the first 2R channels of each head turn against each other.

    x: (1, H, T, D), the channels of a head side by side. cos, sin: (1, T, 2R), 2R ≤ D, a power of two.
    """
    _, n_heads, n_tokens, _ = x.shape
    heads = min(8, triton.next_power_of_2(n_heads))
    _rotate_kernel[(n_tokens, triton.cdiv(n_heads, heads))](
        x, cos, sin, x.stride(1), x.stride(2), cos.stride(1), n_heads,
        HALF=cos.shape[-1] // 2, HEADS=heads, num_warps=1 if heads < 4 else 4,
    )  # fmt: skip
