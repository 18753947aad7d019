"""Training's forward and backward pass on CUDA, for decoders of the Llama family, written out.

Through transformers, PEFT and autocast a layer is some hundred kernels that each read and write all tokens, and the
adapters' thin products are a quarter of a step. Here a layer is two functions with a gradient of their own, in which

- the linear layers that read one input are one matrix product, and their adapters are part of it:

      x = [ x  xA ]  (T, K + R)      S = [ W  B ]  N rows       y = x Sᵀ, over K + R columns
                                         [ A  0 ]  R rows      dx = [ dy  dyB ] S, over N + R rows

  so that an adapter costs no pass over the outputs (r is small beside K and N);
- rows lie behind one another, attention stays inside each (train.kernels), nothing is padded;
- a normalisation, a rotation, a gated product is one kernel, and its gradient one, in place where it may be;
- what the backward pass needs is kept, or computed again, layer by layer;
- what no trained position depends on is left out: the last layer's products beyond attention, the output head.

The adapters themselves stay PEFT's own parameters, in float32, with float32 gradients; products are in the base's
dtype. A quantized base is dequantized just before a product, into one buffer that all layers share, or once, where
memory allows to keep it. An int8 base is multiplied in 16 bits too: its weights are bitsandbytes', its inputs aren't
rounded.

Letters: T tokens, H hidden width, N outputs, K inputs, R columns of the adapters of one product.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.engine.attention import on_device
from harness.engine.float8 import rounded
from train import kernels
from train.loss import summed_loss
from train.memory import columns
from train.packing import Packed


@dataclass(slots=True)
class _Adapter:
    """One layer's adapter: a is (r, K), b is (n, r), both float32 parameters."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    dropout: float


@dataclass(slots=True)
class Pass:
    """One forward and backward pass over a packed batch.

    rows, cos, sin: where its tokens are. recompute: layers, from the first, that keep nothing but their input.
    seed: of dropout. wide: gradients by address, that have room for R more columns beside them.
    """

    rows: kernels.Rows
    cos: torch.Tensor
    sin: torch.Tensor
    recompute: int
    seed: int
    wide: dict[int, torch.Tensor] = field(default_factory=dict)


class Product:
    """The linear layers that read one input, as one matrix.

    scratch: buffers for dequantized weights by shape, shared with all other products. place: of dropout's seeds.
    dtype: of products.
    """

    def __init__(
        self, layers: Sequence[Any], scratch: dict[tuple[int, int], torch.Tensor], place: int, dtype: torch.dtype
    ):
        self.layers = [layer.base_layer if hasattr(layer, "base_layer") else layer for layer in layers]
        self.adapters = [_adapter(layer) for layer in layers]
        self.widths = [layer.out_features for layer in self.layers]
        self.N, self.K = sum(self.widths), self.layers[0].in_features
        ranks = [adapter.a.shape[0] if adapter else 0 for adapter in self.adapters]
        self.R = self.columns(sum(ranks))
        self.ends = [sum(ranks[: number + 1]) for number in range(len(ranks))]
        biases = [layer.bias for layer in self.layers]
        self.bias = torch.cat(biases).detach() if all(bias is not None for bias in biases) else None
        self._place, self.dtype = place, dtype
        self.dropout = max((adapter.dropout for adapter in self.adapters if adapter), default=0.0)
        self._scratch = scratch
        self._lay_out()

    @staticmethod
    def columns(ranks: int) -> int:
        """R, for adapters of so many ranks together."""
        return columns(ranks, "none")

    def _lay_out(self) -> None:
        weight = self.layers[0].weight
        self._kind = type(self.layers[0]).__name__
        shape, where = (self.N + self.R, self.K + self.R), {"dtype": self.dtype, "device": weight.device}
        if self._kind == "Linear":
            self._matrix = torch.zeros(shape, **where)
            for layer, part in zip(self.layers, self._parts(self._matrix), strict=True):
                part.copy_(layer.weight)
                layer.weight.data = part  # one copy of the weights, whoever asks for them
            self._a, self._b = self._matrix[self.N :, : self.K], self._matrix[: self.N, self.K :]
            return
        if shape not in self._scratch:
            self._scratch[shape] = torch.zeros(shape, **where)
        self._matrix = self._scratch[shape]
        self._a, self._b = torch.zeros(self.R, self.K, **where), torch.zeros(self.N, self.R, **where)

    def unpack(self) -> None:
        """Keeps the dequantized weights: a product costs no dequantization any more, and 16 bits a weight."""
        if self._kind != "Linear":
            self._matrix = torch.zeros_like(self._matrix)
            self._dequantize()
            self._kind = "Linear"
            self._matrix[self.N :, : self.K], self._matrix[: self.N, self.K :] = self._a, self._b
            self._a, self._b = self._matrix[self.N :, : self.K], self._matrix[: self.N, self.K :]

    def _dequantize(self) -> None:
        for layer, part in zip(self.layers, self._parts(self._matrix), strict=True):
            if self._kind == "Linear4bit":
                kernels.dequantize_nf4(layer.weight, layer.weight.quant_state, part)
            else:
                kernels.dequantize_int8(*_int8(layer), part)

    def _parts(self, matrix: torch.Tensor) -> list[torch.Tensor]:
        """The block of each layer's own weight in a matrix."""
        return list(matrix[: self.N, : self.K].split(self.widths))

    def tails(self) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
        """Where the adapters' weights go: (part of A or B, parameter, factor)."""
        found = []
        for number, adapter in enumerate(self.adapters):
            if adapter is not None:
                ranks, outputs = self._ranks(number), self._outputs(number)
                found.append((self._a[ranks], adapter.a, adapter.scale))
                found.append((self._b[outputs, ranks], adapter.b, 1.0))
        return found

    def _ranks(self, number: int) -> slice:
        return slice(self.ends[number - 1] if number else 0, self.ends[number])

    def _outputs(self, number: int) -> slice:
        return slice(sum(self.widths[:number]), sum(self.widths[: number + 1]))

    @property
    def parameters(self) -> list[torch.Tensor]:
        return [each for adapter in self.adapters if adapter for each in (adapter.a, adapter.b)]

    def matrix(self) -> torch.Tensor:
        """S, (N + R, K + R): the weights in the dtype of products, good until the next product's is asked for."""
        if self._kind == "Linear":
            return self._matrix
        self._dequantize()
        if self.R:
            self._matrix[self.N :, : self.K].copy_(self._a)
            self._matrix[: self.N, self.K :].copy_(self._b)
        return self._matrix

    def empty(self, n_tokens: int, like: torch.Tensor) -> torch.Tensor:
        """Room for an input and, behind it, for what the adapters make of it: (T, K + R)."""
        return like.new_empty(n_tokens, self.K + self.R)

    def forward(
        self,
        x: torch.Tensor,
        run: Pass,
        *,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """y, (T, N), with `residual` added, written into `out` where it is given.

        x: (T, K + R), whose last R columns are filled here.
        """
        matrix = self.matrix()
        self.fill(x, run)
        if residual is not None:
            y = torch.addmm(residual, x, matrix[: self.N].t(), out=out)
        else:
            y = torch.mm(x, matrix[: self.N].t(), out=out)
        return y if self.bias is None else y.add_(self.bias)

    def fill(self, x: torch.Tensor, run: Pass) -> None:
        """Puts what the adapters make of an input behind it. x: (T, K + R)."""
        if self.R:
            torch.mm(self._dropped(x[:, : self.K], run), self._a.t(), out=x[:, self.K :])

    def _dropped(self, x: torch.Tensor, run: Pass) -> torch.Tensor:
        """The adapters' input, (T, K): in training a share of it is left out, the same for all layers of a product."""
        if not self.dropout:
            return x
        found = x.new_empty(len(x), self.K)
        kernels.dropped(x, found, p=self.dropout, seed=run.seed + self._place)
        return found

    def backward(self, dy: torch.Tensor, run: Pass, *, wanted: bool = True) -> torch.Tensor | None:
        """dx, (T, K), if it is wanted. dy: (T, N + R), whose last R columns are filled here."""
        matrix = self.matrix()
        if self.R:
            torch.mm(dy[:, : self.N], self._b, out=dy[:, self.N :])
        if not wanted:
            return None
        if not self.dropout:
            return dy @ matrix[:, : self.K]
        dx = dy[:, : self.N] @ matrix[: self.N, : self.K]
        through = dy[:, self.N :] @ self._a
        kernels.dropped(through, dx, p=self.dropout, seed=run.seed + self._place, add=True)
        return dx

    def gradients(self, x: torch.Tensor, low: torch.Tensor, dy: torch.Tensor, run: Pass) -> list[torch.Tensor]:
        """Of the parameters, float32. x: (T, K), low: (T, R), what the adapters made of it. dy: (T, N + R), filled."""
        if not self.R:
            return []
        d_a = _product(dy[:, self.N :].t(), self._dropped(x, run))  # (R, K)
        d_b = _product(low.t(), dy[:, : self.N])  # (R, N)
        found = []
        for number, adapter in enumerate(self.adapters):
            if adapter is not None:
                ranks = self._ranks(number)
                found.append(d_a[ranks] * adapter.scale)
                found.append(d_b[ranks, self._outputs(number)].t())
        return found


class Float8Product(Product):
    """A product whose weights and inputs are float8; adapters stay in 16 bits, and are added to what it gives.

    Inputs and gradients have a scale a row, weights one for all: the backward pass then uses the very weights of the
    forward pass. An 8-bit product wants both sides side by side in memory, so weights are kept twice.
    """

    @staticmethod
    def columns(ranks: int) -> int:
        """R, for adapters of so many ranks together."""
        return columns(ranks, "fp8")

    def _lay_out(self) -> None:
        self._kind = "Linear"
        weight = self.layers[0].weight
        # The model's own weights have been rounded so already, as whoever asks it without these passes needs them.
        self._weight, self._scale = rounded([layer.weight for layer in self.layers])  # (N, K)
        self._turned = self._weight.t().contiguous()  # (K, N)
        self._a = weight.new_zeros(self.R, self.K)
        self._turned_b = weight.new_zeros(self.R, self.N)
        self._b = self._turned_b.t()

    def forward(
        self,
        x: torch.Tensor,
        run: Pass,
        *,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self.fill(x, run)
        y = self._scaled(x[:, : self.K], self._weight)
        if self.R:
            y = kernels.add_low_rank(y, x[:, self.K :], self._turned_b, residual=residual, out=out)
        else:
            y = torch.add(y, residual, out=out) if residual is not None else y if out is None else out.copy_(y)
        return y if self.bias is None else y.add_(self.bias)

    def backward(self, dy: torch.Tensor, run: Pass, *, wanted: bool = True) -> torch.Tensor | None:
        if self.R:
            torch.mm(dy[:, : self.N], self._b, out=dy[:, self.N :])
        if not wanted:
            return None
        dx = self._scaled(dy[:, : self.N], self._turned)
        if self.dropout:
            through = dy[:, self.N :] @ self._a
            kernels.dropped(through, dx, p=self.dropout, seed=run.seed + self._place, add=True)
        elif self.R:
            kernels.add_low_rank(dx, dy[:, self.N :], self._a)
        return dx

    def _scaled(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        eighth, scales = kernels.quantize_fp8(x)
        columns = self._scale.expand(1, len(weight)).contiguous()
        return torch._scaled_mm(eighth, weight.t(), scales, columns, out_dtype=self.dtype, use_fast_accum=True)


def _adapter(layer: Any) -> _Adapter | None:
    if not hasattr(layer, "lora_A") or "default" not in layer.lora_A:
        return None
    dropout = getattr(layer.lora_dropout["default"], "p", 0.0)
    return _Adapter(layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.scaling["default"], dropout)


def _int8(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """An int8 layer's weights and the largest magnitude of each row, wherever bitsandbytes keeps them by now."""
    if layer.weight.CB is not None:
        return layer.weight.CB, layer.weight.SCB
    return layer.state.CB, layer.state.SCB


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    if left.device.type == "cuda" and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)  # not rounded on the way
    return (left @ right).float()


class _Block:
    """Half a decoder layer: what it adds to the hidden states. number: of its layer, from 0."""

    number: int
    products: tuple[Product, ...]
    room: int
    """Columns that a gradient is given beside its own, for the block that comes before."""

    def forward(self, h: torch.Tensor, run: Pass, *, output: bool = True) -> tuple[torch.Tensor | None, Any]:
        """h + what it adds, and what the backward pass needs. output: else only the latter."""
        raise NotImplementedError

    def backward(
        self, d_out: torch.Tensor, h: torch.Tensor, kept: Any, run: Pass, *, wanted: bool
    ) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """The gradients by h, if wanted, and by the parameters, in their order."""
        raise NotImplementedError

    @property
    def parameters(self) -> list[torch.Tensor]:
        return [each for product in self.products for each in product.parameters]

    def _widened(self, d_out: torch.Tensor, product: Product, run: Pass) -> torch.Tensor:
        """d_out (T, N) with R columns beside it: its own, if it was given them, else a copy's."""
        wide = run.wide.pop(d_out.data_ptr(), None)
        if wide is None or wide.shape[1] < product.N + product.R:
            wide = d_out.new_empty(len(d_out), product.N + product.R)
            wide[:, : product.N] = d_out
        return wide[:, : product.N + product.R]

    def _normed_backward(
        self, dx: torch.Tensor, h: torch.Tensor, norm: Any, rstd: torch.Tensor, d_out: torch.Tensor, run: Pass
    ) -> torch.Tensor:
        wide = h.new_empty(len(h), h.shape[1] + self.room)
        dh = wide[:, : h.shape[1]]
        kernels.rms_norm_backward(dx, h, norm.weight, rstd, dh, residual=d_out)
        run.wide[dh.data_ptr()] = wide
        return dh


class _Attention(_Block):
    def __init__(self, number: int, layer: Any, product: Any):
        attention = layer.self_attn
        self.number, self.norm, self.head_dim = number, layer.input_layernorm, attention.head_dim
        # Mistral's layers leave the window to the model's settings, Qwen's have each their own.
        whose = attention if hasattr(attention, "sliding_window") else attention.config
        self.scale, self.window = attention.scaling, getattr(whose, "sliding_window", None)
        self.inner = product((attention.q_proj, attention.k_proj, attention.v_proj))
        self.outer = product((attention.o_proj,))
        self.products = (self.inner, self.outer)
        self.q_norm, self.k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)

    def forward(self, h: torch.Tensor, run: Pass, *, output: bool = True) -> tuple[torch.Tensor | None, Any]:
        inner, outer = self.inner, self.outer
        x = inner.empty(len(h), h)
        rstd = kernels.rms_norm(h, self.norm.weight, x[:, : inner.K], _eps(self.norm))
        given = inner.forward(x, run)
        qkv, rstds = given, None
        q, k, v = qkv.split(inner.widths, dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            qkv = torch.empty_like(given)
            normed_q, normed_k, copied_v = qkv.split(inner.widths, dim=1)
            rstds = (
                kernels.rms_norm(q, self.q_norm.weight, normed_q, _eps(self.q_norm)),
                kernels.rms_norm(k, self.k_norm.weight, normed_k, _eps(self.k_norm)),
            )
            copied_v.copy_(v)
            q, k, v = normed_q, normed_k, copied_v
        turned = inner.widths[0] + inner.widths[1]  # queries and keys lie side by side
        kernels.rotate(qkv[:, :turned], run.cos, run.sin, head_dim=self.head_dim)
        o = outer.empty(len(h), h)
        lse = kernels.attention(
            q, k, v, o[:, : outer.K], run.rows, head_dim=self.head_dim, scale=self.scale, window=self.window
        )
        if not output:
            outer.fill(o, run)
        out = outer.forward(o, run, residual=h) if output else None
        return out, (x, rstd, given if rstds else None, rstds, qkv, o, lse)

    def backward(
        self, d_out: torch.Tensor, h: torch.Tensor, kept: Any, run: Pass, *, wanted: bool
    ) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        inner, outer = self.inner, self.outer
        x, rstd, given, rstds, qkv, o, lse = kept
        d = self._widened(d_out, outer, run)
        do = outer.backward(d, run)
        gradients = outer.gradients(o[:, : outer.K], o[:, outer.K :], d, run)
        q, k, v = qkv.split(inner.widths, dim=1)
        d_qkv = h.new_empty(len(h), inner.N + inner.R)
        dq, dk, dv = d_qkv[:, : inner.N].split(inner.widths, dim=1)
        kernels.attention_backward(
            do, q, k, v, o[:, : outer.K], lse, dq, dk, dv, run.rows,
            head_dim=self.head_dim, scale=self.scale, window=self.window,
        )  # fmt: skip
        turned = inner.widths[0] + inner.widths[1]
        kernels.rotate(d_qkv[:, :turned], run.cos, run.sin, head_dim=self.head_dim, back=True)
        if self.q_norm is not None and self.k_norm is not None:
            q, k, _ = given.split(inner.widths, dim=1)
            kernels.rms_norm_backward(dq, q, self.q_norm.weight, rstds[0], dq)
            kernels.rms_norm_backward(dk, k, self.k_norm.weight, rstds[1], dk)
        dx = inner.backward(d_qkv, run, wanted=wanted)
        gradients = inner.gradients(x[:, : inner.K], x[:, inner.K :], d_qkv, run) + gradients
        return (self._normed_backward(dx, h, self.norm, rstd, d_out, run) if dx is not None else None), gradients


class _Gated(_Block):
    def __init__(self, number: int, layer: Any, product: Any):
        self.number, self.norm = number, layer.post_attention_layernorm
        self.inner = product((layer.mlp.gate_proj, layer.mlp.up_proj))
        self.outer = product((layer.mlp.down_proj,))
        self.products = (self.inner, self.outer)

    def forward(self, h: torch.Tensor, run: Pass, *, output: bool = True) -> tuple[torch.Tensor | None, Any]:
        inner, outer = self.inner, self.outer
        x = inner.empty(len(h), h)
        rstd = kernels.rms_norm(h, self.norm.weight, x[:, : inner.K], _eps(self.norm))
        gate_up = h.new_empty(len(h), inner.N + inner.R)
        inner.forward(x, run, out=gate_up[:, : inner.N])
        made = outer.empty(len(h), h)
        kernels.gated(gate_up, made[:, : outer.K])
        if not output:
            outer.fill(made, run)
        out = outer.forward(made, run, residual=h) if output else None
        # The widest of all is computed again by its own gradient; what the adapter made of it is kept.
        return out, (x, rstd, gate_up, made[:, outer.K :].clone())

    def backward(
        self, d_out: torch.Tensor, h: torch.Tensor, kept: Any, run: Pass, *, wanted: bool
    ) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        inner, outer = self.inner, self.outer
        x, rstd, gate_up, low = kept
        d = self._widened(d_out, outer, run)
        d_made = outer.backward(d, run)
        kernels.gated_backward(d_made, gate_up[:, : inner.N])  # and d_made is what it was the gradient of
        gradients = outer.gradients(d_made, low, d, run)
        dx = inner.backward(gate_up, run, wanted=wanted)
        gradients = inner.gradients(x[:, : inner.K], x[:, inner.K :], gate_up, run) + gradients
        return (self._normed_backward(dx, h, self.norm, rstd, d_out, run) if dx is not None else None), gradients


class _Run(torch.autograd.Function):
    """A block with its gradient."""

    @staticmethod
    def forward(ctx: Any, block: _Block, run: Pass, h: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        out, kept = block.forward(h, run)
        ctx.block, ctx.run = block, run
        ctx.kept = kept if block.number >= run.recompute else None
        ctx.save_for_backward(h)
        assert out is not None
        return out

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> Any:
        (h,) = ctx.saved_tensors
        kept = ctx.kept if ctx.kept is not None else ctx.block.forward(h, ctx.run, output=False)[1]
        ctx.kept = None
        dh, gradients = ctx.block.backward(d_out, h, kept, ctx.run, wanted=ctx.needs_input_grad[2])
        return None, None, dh, *gradients


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, norm: Any) -> torch.Tensor:
        out = torch.empty_like(h)
        ctx.norm, ctx.rstd = norm, kernels.rms_norm(h, norm.weight, out, _eps(norm))
        ctx.save_for_backward(h)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> Any:
        (h,) = ctx.saved_tensors
        dh = torch.empty_like(h)
        kernels.rms_norm_backward(d_out, h, ctx.norm.weight, ctx.rstd, dh)
        return dh, None


_USUAL = re.compile(r"\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.lora_[AB]\.default\.weight$")


def usual(model: Any) -> bool:
    """Whether all that is trained is LoRA's two matrices of layers: no DoRA, no biases, no head."""
    return all(_USUAL.search(name) for name, parameter in model.named_parameters() if parameter.requires_grad)


class FusedLearner:
    """A PEFT model on CUDA whose passes are those above.

    model: one that train.planning.written_out and `usual` say yes to. fp8: its base becomes float8.
    recompute: layers, from the first, whose activations are computed twice.
    """

    def __init__(self, model: Any, *, fp8: bool = False, recompute: int = 0):
        causal = model.get_base_model()
        self._model, self._decoder, self._head = model, causal.model, causal.lm_head
        self._config = causal.config
        self.recompute = recompute
        kind = Float8Product if fp8 else Product
        scratch: dict[tuple[int, int], torch.Tensor] = {}
        places = iter(range(10**6))
        blocks: list[tuple[_Block, _Block]] = []
        for number, layer in enumerate(self._decoder.layers):

            def product(layers: Sequence[Any]) -> Product:
                return kind(layers, scratch, next(places), self._decoder.norm.weight.dtype)

            blocks.append((_Attention(number, layer, product), _Gated(number, layer, product)))
        self._blocks = blocks
        products = [product for pair in blocks for block in pair for product in block.products]
        room = max(product.R for product in products)
        for pair in blocks:
            for block in pair:
                block.room = room
        self._products = products
        self.refresh()

    def unpack(self, layers: int) -> None:
        """Keeps the dequantized weights of so many layers, from the first."""
        for pair in self._blocks[:layers]:
            for block in pair:
                for product in block.products:
                    product.unpack()
        self.refresh()

    def refresh(self) -> None:
        """Takes the adapters' weights over into the products, after an optimizer step."""
        with torch.no_grad():
            tails = [tail for product in self._products for tail in product.tails()]
            places, parameters, factors = zip(*tails, strict=True)
            scaled = torch._foreach_mul(parameters, list(factors))
            torch._foreach_copy_(places, scaled)

    def learn(self, packed: Packed, *, seed: int, n_trained: int) -> torch.Tensor:
        """Adds a pass's part to the gradient of the mean over n_trained tokens; returns its part of that mean."""
        loss = self.loss(packed, seed=seed) / n_trained
        loss.backward()
        return loss.detach()

    def loss(self, packed: Packed, *, seed: int) -> torch.Tensor:
        """The loss of a pass, summed over its trained tokens, with its gradient; float32 ().

        seed: of this pass's dropout.
        """
        device = self._head.weight.device
        ids, positions, predictors, targets = (
            on_device(array, device) for array in (packed.ids, packed.positions, packed.predictors, packed.targets)
        )
        h = self._decoder.embed_tokens(ids)
        cos, sin = self._decoder.rotary_emb(h, positions[None])
        run = Pass(kernels.Rows.of(packed.lengths, device), cos[0], sin[0], self.recompute, seed)
        for attention, gated in self._blocks:
            h = _Run.apply(attention, run, h, *attention.parameters)
            if gated is self._blocks[-1][1]:
                # Nothing that comes after looks at another position.
                h = h.index_select(0, predictors)
            h = _Run.apply(gated, run, h, *gated.parameters)
        return summed_loss(_Norm.apply(h, self._decoder.norm), self._head, targets, self._config)


def _eps(norm: Any) -> float:
    return float(norm.variance_epsilon)
