"""Triton kernels of training on CUDA: attention inside packed rows with its gradient, a layer's element-wise work in
one pass each, and quantized weights laid out for a matrix product.

Attention is FlashAttention-2 (Dao 2023, arXiv 2307.08691) on rows that lie behind one another. Its gradient has a
kernel for the queries and one for keys and values, and nothing is added by atomics: the same input gives the same
bits, which the library's own does not. On rows of some 260 tokens it takes half the time of that.

Letters: T tokens of all rows, H query heads, G key heads, D head width, N outputs, K inputs of a linear layer.
Every tensor may be a part of a wider one: rows are addressed by stride, columns lie side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

BLOCK = 64
"""Tokens of a block of queries or keys."""

_VARY = ["n_tokens"]
"""What differs from pass to pass: else a kernel is compiled again where it happens to be a multiple of 16."""

_LOG2E = tl.constexpr(1.4426950408889634)


@dataclass(frozen=True, slots=True)
class Rows:
    """Where rows lie in a packed sequence, cut into blocks: int32 tensors (number of blocks,).

    first: a block's first token. start, end: of the row that it belongs to.
    """

    first: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor

    @classmethod
    def of(cls, lengths: np.ndarray, device: torch.device) -> Rows:
        """lengths: tokens of each row, int (number of rows,)."""
        ends = np.cumsum(lengths)
        starts = ends - lengths
        n_blocks = -(-lengths // BLOCK)
        row = np.repeat(np.arange(len(lengths)), n_blocks)
        number = np.arange(len(row)) - np.repeat(np.cumsum(n_blocks) - n_blocks, n_blocks)
        tables = np.stack([starts[row] + number * BLOCK, starts[row], ends[row]]).astype(np.int32)
        first, start, end = torch.from_numpy(tables).to(device)
        return cls(first, start, end)


@triton.jit(do_not_specialize=_VARY)
def _attention_forward(
    query, key, value, out, lse, block_first, row_start, row_end,
    q_token, k_token, v_token, o_token, n_tokens, scale, window,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, WINDOWED: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head."""
    block, head = tl.program_id(0), tl.program_id(1)
    first, start, end = tl.load(block_first + block), tl.load(row_start + block), tl.load(row_end + block)
    rows = first + tl.arange(0, BLOCK)
    inside = rows < end
    width = tl.arange(0, D)
    at_rows = rows[:, None].to(tl.int64)
    q = tl.load(query + at_rows * q_token + head * D + width[None, :], mask=inside[:, None], other=0.0)
    total = tl.zeros([BLOCK], tl.float32)
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    acc = tl.zeros([BLOCK, D], tl.float32)
    low = start
    if WINDOWED:
        low = tl.maximum(start, start + (first - window + 1 - start) // BLOCK * BLOCK)
    for at in range(low, tl.minimum(first + BLOCK, end), BLOCK):
        columns = at + tl.arange(0, BLOCK)
        at_columns = columns.to(tl.int64)
        there = columns < end
        k = tl.load(
            key + at_columns[None, :] * k_token + head // GROUP * D + width[:, None], mask=there[None, :], other=0.0
        )
        sees = columns[None, :] <= rows[:, None]
        if WINDOWED:
            sees = sees & (rows[:, None] - columns[None, :] < window)
        score = tl.where(sees, tl.dot(q, k) * (scale * _LOG2E), float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        # A query that has seen nothing yet has no highest score: 0 keeps its weights at 0 instead of NaN.
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(score - finite[:, None])
        factor = tl.exp2(top - finite)
        total = total * factor + tl.sum(p, 1)
        v = tl.load(
            value + at_columns[:, None] * v_token + head // GROUP * D + width[None, :], mask=there[:, None], other=0.0
        )
        acc = acc * factor[:, None] + tl.dot(p.to(v.dtype), v)
        top = higher
    found = acc / total[:, None]
    tl.store(out + at_rows * o_token + head * D + width[None, :], found.to(out.dtype.element_ty), mask=inside[:, None])
    tl.store(lse + head * n_tokens + rows, top + tl.log2(total), mask=inside)


@triton.jit(do_not_specialize=_VARY)
def _attention_backward_query(
    query, key, value, out, d_out, d_query, lse, delta, block_first, row_start, row_end,
    q_token, k_token, v_token, o_token, do_token, dq_token, n_tokens, scale, window,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, WINDOWED: tl.constexpr,
):  # fmt: skip
    """The gradient of one block of queries of one head, and of each query the sum of output × its gradient."""
    block, head = tl.program_id(0), tl.program_id(1)
    first, start, end = tl.load(block_first + block), tl.load(row_start + block), tl.load(row_end + block)
    rows = first + tl.arange(0, BLOCK)
    inside = rows < end
    width = tl.arange(0, D)
    at_rows = rows[:, None].to(tl.int64)
    q = tl.load(query + at_rows * q_token + head * D + width[None, :], mask=inside[:, None], other=0.0)
    o = tl.load(out + at_rows * o_token + head * D + width[None, :], mask=inside[:, None], other=0.0)
    do = tl.load(d_out + at_rows * do_token + head * D + width[None, :], mask=inside[:, None], other=0.0)
    sums = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    tl.store(delta + head * n_tokens + rows, sums, mask=inside)
    weight = tl.load(lse + head * n_tokens + rows, mask=inside, other=0.0)
    acc = tl.zeros([BLOCK, D], tl.float32)
    low = start
    if WINDOWED:
        low = tl.maximum(start, start + (first - window + 1 - start) // BLOCK * BLOCK)
    for at in range(low, tl.minimum(first + BLOCK, end), BLOCK):
        columns = at + tl.arange(0, BLOCK)
        at_columns = columns[:, None].to(tl.int64)
        there = columns[:, None] < end
        k = tl.load(key + at_columns * k_token + head // GROUP * D + width[None, :], mask=there, other=0.0)
        v = tl.load(value + at_columns * v_token + head // GROUP * D + width[None, :], mask=there, other=0.0)
        sees = columns[None, :] <= rows[:, None]
        if WINDOWED:
            sees = sees & (rows[:, None] - columns[None, :] < window)
        score = tl.dot(q, tl.trans(k)) * (scale * _LOG2E)
        p = tl.where(sees, tl.exp2(score - weight[:, None]), 0.0)
        ds = p * (tl.dot(do, tl.trans(v)) - sums[:, None])
        acc += tl.dot(ds.to(k.dtype), k)
    place = d_query + at_rows * dq_token + head * D + width[None, :]
    tl.store(place, (acc * scale).to(d_query.dtype.element_ty), mask=inside[:, None])


@triton.jit(do_not_specialize=_VARY)
def _attention_backward_key(
    query, key, value, d_out, d_key, d_value, lse, delta, block_first, row_start, row_end,
    q_token, k_token, v_token, do_token, dk_token, dv_token, n_tokens, scale, window,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, WINDOWED: tl.constexpr,
):  # fmt: skip
    """The gradients of one block of keys and values of one key head, over all its query heads."""
    block, head = tl.program_id(0), tl.program_id(1)
    first, end = tl.load(block_first + block), tl.load(row_end + block)
    columns = first + tl.arange(0, BLOCK)
    there = columns < end
    width = tl.arange(0, D)
    at_columns = columns[:, None].to(tl.int64)
    k = tl.load(key + at_columns * k_token + head * D + width[None, :], mask=there[:, None], other=0.0)
    v = tl.load(value + at_columns * v_token + head * D + width[None, :], mask=there[:, None], other=0.0)
    dk = tl.zeros([BLOCK, D], tl.float32)
    dv = tl.zeros([BLOCK, D], tl.float32)
    high = end
    if WINDOWED:
        high = tl.minimum(end, first + BLOCK + window - 1)
    n_blocks = (high - first + BLOCK - 1) // BLOCK
    for step in range(n_blocks * GROUP):
        q_head = head * GROUP + step % GROUP
        rows = first + step // GROUP * BLOCK + tl.arange(0, BLOCK)
        inside = rows < end
        at_rows = rows[:, None].to(tl.int64)
        q = tl.load(query + at_rows * q_token + q_head * D + width[None, :], mask=inside[:, None], other=0.0)
        do = tl.load(d_out + at_rows * do_token + q_head * D + width[None, :], mask=inside[:, None], other=0.0)
        weight = tl.load(lse + q_head * n_tokens + rows, mask=inside, other=0.0)
        sums = tl.load(delta + q_head * n_tokens + rows, mask=inside, other=0.0)
        sees = (columns[:, None] <= rows[None, :]) & inside[None, :]
        if WINDOWED:
            sees = sees & (rows[None, :] - columns[:, None] < window)
        score = tl.dot(k, tl.trans(q)) * (scale * _LOG2E)
        p = tl.where(sees, tl.exp2(score - weight[None, :]), 0.0)
        dv += tl.dot(p.to(do.dtype), do)
        ds = p * (tl.dot(v, tl.trans(do)) - sums[None, :])
        dk += tl.dot(ds.to(q.dtype), q)
    place = at_columns * dk_token + head * D + width[None, :]
    tl.store(d_key + place, (dk * scale).to(d_key.dtype.element_ty), mask=there[:, None])
    place = at_columns * dv_token + head * D + width[None, :]
    tl.store(d_value + place, dv.to(d_value.dtype.element_ty), mask=there[:, None])


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    rows: Rows,
    *,
    head_dim: int,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Causal attention inside each row, written into `out`.

    query, out: (T, H · D). key, value: (T, G · D). window: tokens a query sees, itself counted.
    Returns the log-sum-exp of each query's scores to the base 2, float32 (H, T).
    """
    n_tokens, n_heads, group = len(query), query.shape[1] // head_dim, query.shape[1] // key.shape[1]
    lse = torch.empty(n_heads, n_tokens, dtype=torch.float32, device=query.device)
    _attention_forward[(len(rows.first), n_heads)](
        query, key, value, out, lse, rows.first, rows.start, rows.end,
        query.stride(0), key.stride(0), value.stride(0), out.stride(0), n_tokens, scale, window or 0,
        GROUP=group, D=head_dim, BLOCK=BLOCK, WINDOWED=window is not None, num_warps=4, num_stages=3,
    )  # fmt: skip
    return lse


def attention_backward(
    d_out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    d_query: torch.Tensor,
    d_key: torch.Tensor,
    d_value: torch.Tensor,
    rows: Rows,
    *,
    head_dim: int,
    scale: float,
    window: int | None = None,
) -> None:
    """The gradient of `attention`, written into d_query (T, H · D), d_key and d_value (T, G · D)."""
    n_tokens, n_heads, n_keys = len(query), query.shape[1] // head_dim, key.shape[1] // head_dim
    delta = torch.empty_like(lse)
    shared = {
        "GROUP": n_heads // n_keys, "D": head_dim, "BLOCK": BLOCK, "WINDOWED": window is not None, "num_warps": 4,
    }  # fmt: skip
    _attention_backward_query[(len(rows.first), n_heads)](
        query, key, value, out, d_out, d_query, lse, delta, rows.first, rows.start, rows.end,
        query.stride(0), key.stride(0), value.stride(0), out.stride(0), d_out.stride(0), d_query.stride(0),
        n_tokens, scale, window or 0, **shared, num_stages=2,
    )  # fmt: skip
    _attention_backward_key[(len(rows.first), n_keys)](
        query, key, value, d_out, d_key, d_value, lse, delta, rows.first, rows.start, rows.end,
        query.stride(0), key.stride(0), value.stride(0), d_out.stride(0), d_key.stride(0), d_value.stride(0),
        n_tokens, scale, window or 0, **shared, num_stages=2,
    )  # fmt: skip


@triton.jit
def _norm_kernel(x, weight, out, rstd, x_token, o_token, n, eps, HEADS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    token, head = row // HEADS, row % HEADS
    columns = tl.arange(0, BLOCK)
    inside = columns < n
    values = tl.load(x + token * x_token + head * n + columns, mask=inside, other=0.0)
    wide = values.to(tl.float32)
    scale = 1 / tl.sqrt(tl.sum(wide * wide, 0) / n + eps)
    # transformers rounds before it multiplies by the weight.
    normed = (wide * scale).to(values.dtype)
    w = tl.load(weight + columns, mask=inside, other=0.0)
    tl.store(out + token * o_token + head * n + columns, (normed * w).to(out.dtype.element_ty), mask=inside)
    tl.store(rstd + row, scale)


@triton.jit
def _norm_backward_kernel(
    d_out, x, weight, rstd, residual, d_x, do_token, x_token, r_token, dx_token, n,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    token, head = row // HEADS, row % HEADS
    columns = tl.arange(0, BLOCK)
    inside = columns < n
    place = head * n + columns
    scale = tl.load(rstd + row)
    normed = tl.load(x + token * x_token + place, mask=inside, other=0.0).to(tl.float32) * scale
    given = tl.load(d_out + token * do_token + place, mask=inside, other=0.0).to(tl.float32)
    given *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    found = scale * (given - normed * (tl.sum(given * normed, 0) / n))
    if ADD:
        found += tl.load(residual + token * r_token + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(d_x + token * dx_token + place, found.to(d_x.dtype.element_ty), mask=inside)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square normalisation over each of the heads of x (T, heads · n), weight (n,), written into `out`.

    Returns the factors, float32 (T · heads,).
    """
    n = len(weight)
    heads = x.shape[1] // n
    rstd = torch.empty(len(x) * heads, dtype=torch.float32, device=x.device)
    _norm_kernel[(len(rstd),)](
        x, weight, out, rstd, x.stride(0), out.stride(0), n, eps,
        HEADS=heads, BLOCK=triton.next_power_of_2(n), num_warps=8 if n > 1024 else 1,
    )  # fmt: skip
    return rstd


def rms_norm_backward(
    d_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
    d_x: torch.Tensor,
    residual: torch.Tensor | None = None,
) -> None:
    """The gradient of rms_norm by its input, with `residual` added, written into d_x (T, heads · n)."""
    n = len(weight)
    _norm_backward_kernel[(len(rstd),)](
        d_out, x, weight, rstd, residual, d_x,
        d_out.stride(0), x.stride(0), residual.stride(0) if residual is not None else 0, d_x.stride(0), n,
        HEADS=x.shape[1] // n, BLOCK=triton.next_power_of_2(n), ADD=residual is not None,
        num_warps=8 if n > 1024 else 1,
    )  # fmt: skip


@triton.jit
def _rotate_kernel(x, cos, sin, x_token, c_token, n_heads, sign, HALF: tl.constexpr, HEADS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    width = tl.arange(0, HALF)
    c = tl.load(cos + token * c_token + width)[None, :].to(tl.float32)
    s = tl.load(sin + token * c_token + width)[None, :].to(tl.float32) * sign
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    place = x + token * x_token + heads[:, None] * 2 * HALF + width[None, :]
    inside = heads[:, None] < n_heads
    one = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    two = tl.load(place + HALF, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, (one * c - two * s).to(x.dtype.element_ty), mask=inside)
    tl.store(place + HALF, (two * c + one * s).to(x.dtype.element_ty), mask=inside)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, head_dim: int, back: bool = False) -> None:
    """Rotary positions in place, x: (T, heads · D), cos, sin: (T, D), both halves alike. back: its gradient."""
    n_heads = x.shape[1] // head_dim
    _rotate_kernel[(len(x), triton.cdiv(n_heads, 8))](
        x, cos, sin, x.stride(0), cos.stride(0), n_heads, -1.0 if back else 1.0,
        HALF=head_dim // 2, HEADS=8, num_warps=2,
    )  # fmt: skip


@triton.jit
def _gated_kernel(gate, up, out, g_token, o_token, n, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < n
    g = tl.load(gate + token * g_token + columns, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + token * g_token + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * o_token + columns, (g * tl.sigmoid(g) * u).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gated_backward_kernel(d_out, gate, up, g_token, o_token, n, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < n
    place = token * g_token + columns
    g = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(d_out + token * o_token + columns, mask=inside, other=0.0).to(tl.float32)
    share = tl.sigmoid(g)
    silu = g * share
    kind = gate.dtype.element_ty
    tl.store(gate + place, (d * u * (share + silu * (1 - share))).to(kind), mask=inside)
    tl.store(up + place, (d * silu).to(kind), mask=inside)
    tl.store(d_out + token * o_token + columns, (silu * u).to(kind), mask=inside)


_GATED_BLOCK = 2048


def gated(gate_up: torch.Tensor, out: torch.Tensor) -> None:
    """silu(gate) · up into `out` (T, n). gate_up: (T, 2 n), the gates first."""
    n = out.shape[1]
    _gated_kernel[(len(out), triton.cdiv(n, _GATED_BLOCK))](
        gate_up, gate_up[:, n:], out, gate_up.stride(0), out.stride(0), n, BLOCK=_GATED_BLOCK, num_warps=8
    )


def gated_backward(d_out: torch.Tensor, gate_up: torch.Tensor) -> None:
    """The gradient of `gated`, in place: gate_up becomes its gradient, and d_out what `gated` gave."""
    n = d_out.shape[1]
    _gated_backward_kernel[(len(d_out), triton.cdiv(n, _GATED_BLOCK))](
        d_out, gate_up, gate_up[:, n:], gate_up.stride(0), d_out.stride(0), n, BLOCK=_GATED_BLOCK, num_warps=8
    )


@triton.jit
def _nf4_kernel(
    packed, code, absmax, absmax_code, absmax_scale, offset, out, o_row, K,
    PER_SCALE: tl.constexpr, PER_OUTER: tl.constexpr, NESTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    pairs = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = pairs < K // 2
    at = row * (K // 2) + pairs
    byte = tl.load(packed + at, mask=inside, other=0).to(tl.int32)
    scale_at = at * 2 // PER_SCALE
    if NESTED:
        inner = tl.load(absmax + scale_at, mask=inside, other=0).to(tl.int32)
        outer = tl.load(absmax_scale + scale_at // PER_OUTER, mask=inside, other=0.0)
        scale = tl.load(absmax_code + inner) * outer + tl.load(offset)
    else:
        scale = tl.load(absmax + scale_at, mask=inside, other=0.0)
    high = tl.load(code + (byte >> 4)) * scale
    low = tl.load(code + (byte & 15)) * scale
    both = tl.interleave(high, low).to(out.dtype.element_ty)
    columns = tl.program_id(1) * 2 * BLOCK + tl.arange(0, 2 * BLOCK)
    tl.store(out + row * o_row + columns, both, mask=columns < K)


def dequantize_nf4(weight: torch.Tensor, state: object, out: torch.Tensor) -> None:
    """A bitsandbytes NF4 weight written into `out` (N, K); K is even.

    weight: packed bytes, the first of each pair high. state: its QuantState, scales quantized again or not
    (bitsandbytes 0.50, functional.py, dequantize_4bit).
    """
    n, k = out.shape
    nested = state.nested  # type: ignore[attr-defined]
    inner = state.state2 if nested else None  # type: ignore[attr-defined]
    pairs = 1024
    _nf4_kernel[(n, triton.cdiv(k // 2, pairs))](
        weight, state.code, state.absmax,  # type: ignore[attr-defined]
        inner.code if inner else None, inner.absmax if inner else None,
        state.offset if nested else None, out, out.stride(0), k,  # type: ignore[attr-defined]
        PER_SCALE=state.blocksize, PER_OUTER=inner.blocksize if inner else 1,  # type: ignore[attr-defined]
        NESTED=nested, BLOCK=pairs, num_warps=4,
        # A fused multiply-add would round a few weights otherwise than bitsandbytes does.
        enable_fp_fusion=False,
    )  # fmt: skip


@triton.jit
def _int8_kernel(whole, absmax, out, o_row, K, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < K
    scale = tl.load(absmax + row) / 127
    values = tl.load(whole + row * K + columns, mask=inside, other=0).to(tl.float32) * scale
    tl.store(out + row * o_row + columns, values.to(out.dtype.element_ty), mask=inside)


def dequantize_int8(weight: torch.Tensor, absmax: torch.Tensor, out: torch.Tensor) -> None:
    """An int8 weight (N, K) with the largest magnitude of each row (N,), written into `out` (N, K)."""
    n, k = out.shape
    _int8_kernel[(n, triton.cdiv(k, 2048))](weight, absmax, out, out.stride(0), k, BLOCK=2048, num_warps=4)


@triton.jit(do_not_specialize=["seed"])
def _dropped_kernel(x, out, x_token, o_token, n, p, seed, ADD: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < n
    kept = tl.rand(seed, (token * n + columns).to(tl.int32)) >= p
    values = tl.load(x + token * x_token + columns, mask=inside, other=0.0).to(tl.float32)
    values = tl.where(kept, values / (1 - p), 0.0)
    place = out + token * o_token + columns
    if ADD:
        values += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, values.to(out.dtype.element_ty), mask=inside)


def dropped(x: torch.Tensor, out: torch.Tensor, *, p: float, seed: int, add: bool = False) -> None:
    """Dropout of x (T, n) into `out`, or added to it; the same seed drops the same places."""
    n = x.shape[1]
    _dropped_kernel[(len(x), triton.cdiv(n, 1024))](
        x, out, x.stride(0), out.stride(0), n, p, seed, ADD=add, BLOCK=1024, num_warps=4
    )


@triton.jit
def _quantize_kernel(x, out, scales, x_token, n, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < n
    values = tl.load(x + token * x_token + columns, mask=inside, other=0.0).to(tl.float32)
    # 448 is the largest float8_e4m3fn; a row of zeros keeps a scale that can be divided by.
    scale = tl.maximum(tl.max(tl.abs(values), 0), 1e-12) / 448
    tl.store(out + token * n + columns, (values / scale).to(out.dtype.element_ty), mask=inside)
    tl.store(scales + token, scale)


def quantize_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x (T, n) in float8_e4m3fn, each row by its own scale: (T, n) and float32 (T, 1)."""
    n = x.shape[1]
    out = torch.empty(len(x), n, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(n)
    _quantize_kernel[(len(x),)](x, out, scales, x.stride(0), n, BLOCK=block, num_warps=16 if block > 8192 else 8)
    return out, scales


@triton.jit(do_not_specialize=_VARY)
def _low_rank_kernel(
    y, a, b, residual, out, y_token, a_token, b_row, r_token, o_token, n_tokens, n,
    R: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tokens = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ranks = tl.arange(0, R)
    inside = (tokens[:, None] < n_tokens) & (columns[None, :] < n)
    at = tokens[:, None].to(tl.int64)
    acc = tl.load(y + at * y_token + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    if ADD:
        acc += tl.load(residual + at * r_token + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    left = tl.load(a + at * a_token + ranks[None, :], mask=tokens[:, None] < n_tokens, other=0.0)
    right = tl.load(b + ranks[:, None].to(tl.int64) * b_row + columns[None, :], mask=columns[None, :] < n, other=0.0)
    acc += tl.dot(left, right)
    tl.store(out + at * o_token + columns[None, :], acc.to(out.dtype.element_ty), mask=inside)


def add_low_rank(
    y: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    *,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """y + a @ b, + `residual`, in one pass, into `out` or in place.

    y, residual, out: (T, n). a: (T, R), b: (R, n), R a power of 2 from 16.
    """
    n_tokens, n = y.shape
    out = y if out is None else out
    _low_rank_kernel[(triton.cdiv(n, 64), triton.cdiv(n_tokens, 64))](
        y, a, b, residual, out, y.stride(0), a.stride(0), b.stride(0),
        residual.stride(0) if residual is not None else 0, out.stride(0),
        n_tokens, n, R=a.shape[1], ADD=residual is not None, BLOCK=64, num_warps=4,
    )  # fmt: skip
    return out
