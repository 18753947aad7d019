"""Training's written-out passes against transformers and PEFT under autograd: by Triton's interpreter, on a GPU as
they are."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="Triton isn't installed: pip install 'uzbench[dev]'")
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from train import fused, kernels
from train.data import TokenRow
from train.packing import Packed
from train.plain import PlainLearner

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KINDS = ["llama", "mistral", "qwen2", "qwen3"]


def model_of(kind: str, dtype: torch.dtype = torch.float32, **lora: Any) -> Any:
    """Two layers with an adapter whose weights matter."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
    }  # fmt: skip
    if kind == "mistral":
        shape["sliding_window"] = 24
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape), dtype=dtype).to(DEVICE)
    chosen = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "init_lora_weights": False, **lora}
    peft = get_peft_model(base.requires_grad_(False), LoraConfig(task_type="CAUSAL_LM", **chosen))
    for parameter in peft.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return peft


def packed_rows(*lengths: int) -> Packed:
    rng = random.Random(1)
    return Packed.of([TokenRow([rng.randrange(3, 300) for _ in range(n)], max(1, n // 3)) for n in lengths])


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.requires_grad}


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], tolerance: float) -> None:
    for name, gradient in one.items():
        assert (gradient - two[name]).abs().max() <= tolerance * gradient.abs().max(), name


# In float32 a GPU's tensor cores round the inputs of a kernel's products to 10 bits.
EXACT = 5e-2 if DEVICE.type == "cuda" else 3e-5


@pytest.mark.parametrize(("kind", "recompute"), [*((kind, 0) for kind in KINDS), ("mistral", 1), ("qwen3", 2)])
def test_loss_and_gradients_are_those_of_autograd(kind: str, recompute: int) -> None:
    model, packed = model_of(kind), packed_rows(5, 66, 2)
    expected = PlainLearner(model).loss(packed, seed=1)
    reference = gradients(model, expected)
    found = fused.FusedLearner(model, recompute=recompute).loss(packed, seed=1)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4 if DEVICE.type == "cuda" else 1e-6)
    assert_same(reference, gradients(model, found), EXACT)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantized_weights_are_multiplied_as_they_are_dequantized(quantization: str) -> None:
    from harness.engine.shapes import quantize

    model, packed = model_of("llama"), packed_rows(6, 9)
    base = model.unload()
    quantize(base, quantization, torch.float32)
    exact = model_of("llama").unload()
    with torch.no_grad():
        for kept, layer in zip(base.model.layers.modules(), exact.model.layers.modules(), strict=True):
            if isinstance(layer, torch.nn.Linear):
                layer.weight.copy_(dequantized(kept))
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    found = []
    for part in (exact, base):
        torch.manual_seed(3)
        found.append(get_peft_model(part.requires_grad_(False), config))
    expected = PlainLearner(found[0]).loss(packed, seed=1)
    reference = gradients(found[0], expected)
    learner = fused.FusedLearner(found[1])
    for _ in range(2):
        loss = learner.loss(packed, seed=1)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4 if DEVICE.type == "cuda" else 1e-6)
        assert_same(reference, gradients(found[1], loss), EXACT)
        learner.unpack(1)


def dequantized(layer: Any) -> torch.Tensor:
    functional = pytest.importorskip("bitsandbytes").functional
    if type(layer).__name__ == "Linear4bit":
        return functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    whole, largest = fused._int8(layer)
    return whole.float() * largest[:, None] / 127


@pytest.mark.parametrize(
    ("lora", "fits"),
    [({}, True), ({"use_dora": True}, False), ({"lora_bias": True}, False), ({"target_modules": ["lm_head"]}, False)],
)
def test_only_adapters_that_the_passes_know_are_given_to_them(lora: dict[str, Any], fits: bool) -> None:
    assert fused.usual(model_of("llama", **lora)) is fits


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["down_proj"], ["o_proj", "up_proj"]])
def test_layers_without_an_adapter_only_pass_the_gradient_on(targets: list[str]) -> None:
    model, packed = model_of("llama", target_modules=targets), packed_rows(6, 9)
    reference = gradients(model, PlainLearner(model).loss(packed, seed=1))
    assert_same(reference, gradients(model, fused.FusedLearner(model).loss(packed, seed=1)), EXACT)


def test_the_models_own_forward_is_what_it_was() -> None:
    # Its weights are views of wider matrices now; evaluation asks the model itself.
    model = model_of("llama").eval()
    ids = torch.tensor([[5, 6, 7, 8]], device=DEVICE)
    with torch.no_grad():
        before = model(ids).logits
        fused.FusedLearner(model)
        assert torch.equal(model(ids).logits, before)


def test_changed_adapter_counts_from_the_next_refresh_on() -> None:
    model, packed = model_of("llama"), packed_rows(6, 9)
    learner = fused.FusedLearner(model)
    before = learner.loss(packed, seed=1).item()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter *= 1.5
    learner.refresh()
    after = learner.loss(packed, seed=1).item()
    assert after == pytest.approx(PlainLearner(model).loss(packed, seed=1).item(), rel=1e-4)
    assert after != pytest.approx(before, rel=1e-5)


def test_dropout_draws_by_its_seed_and_its_gradient_is_that_of_what_was_drawn() -> None:
    model, packed = model_of("llama", lora_dropout=0.4), packed_rows(6, 9)
    learner = fused.FusedLearner(model)
    losses = [learner.loss(packed, seed=seed).item() for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    found = gradients(model, learner.loss(packed, seed=1))
    if DEVICE.type == "cuda":
        return  # its products in float32 are too coarse for a difference quotient
    # A difference quotient along the gradient itself.
    length = sum(float((each**2).sum()) for each in found.values()) ** 0.5
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in found:
                    parameter += sign * 1e-3 * found[name] / length
            learner.refresh()
            ends.append(learner.loss(packed, seed=1).item())
            for name, parameter in model.named_parameters():
                if name in found:
                    parameter -= sign * 1e-3 * found[name] / length
    assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(length, rel=1e-2)


def test_dropout_keeps_its_share_and_the_mean() -> None:
    x = torch.ones(64, 1000, device=DEVICE)
    out = torch.empty_like(x)
    kernels.dropped(x, out, p=0.25, seed=7)
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert out.mean().item() == pytest.approx(1, abs=0.015)


def test_rows_are_cut_into_blocks_that_stay_inside_them() -> None:
    rows = kernels.Rows.of(np.array([130, 1, 64]), DEVICE)
    assert rows.first.tolist() == [0, 64, 128, 130, 131]
    assert rows.start.tolist() == [0, 0, 0, 130, 131]
    assert rows.end.tolist() == [130, 130, 130, 131, 195]


@pytest.mark.parametrize("nested", [True, False])
def test_nf4_weights_are_those_that_bitsandbytes_gives(nested: bool) -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    torch.manual_seed(0)
    weight = torch.randn(48, 128, device=DEVICE)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=nested)
    out = torch.zeros(48, 200, device=DEVICE)
    kernels.dequantize_nf4(packed, state, out[:, :128])
    assert torch.equal(out[:, :128], functional.dequantize_4bit(packed, state))
    assert not out[:, 128:].any()


def test_int8_weights_are_a_share_of_their_rows_largest() -> None:
    torch.manual_seed(0)
    weight = torch.randn(16, 96, device=DEVICE)
    largest = weight.abs().amax(dim=1)
    whole = (weight / largest[:, None] * 127).round().to(torch.int8)
    out = torch.empty(16, 96, device=DEVICE)
    kernels.dequantize_int8(whole, largest, out)
    assert torch.allclose(out, whole.float() * largest[:, None] / 127, rtol=1e-6)


def test_low_rank_sum_is_added_to_what_is_there() -> None:
    torch.manual_seed(0)
    y, a, b, residual = (torch.randn(*shape, device=DEVICE) for shape in ((70, 130), (70, 16), (16, 130), (70, 130)))
    expected = y + a @ b + residual
    out = torch.zeros(70, 160, device=DEVICE)
    kernels.add_low_rank(y, a, b, residual=residual, out=out[:, :130])
    assert torch.allclose(out[:, :130], expected, atol=1e-4 if DEVICE.type == "cpu" else 1e-1)
    kernels.add_low_rank(y, a, b)
    assert torch.allclose(y, expected - residual, atol=1e-4 if DEVICE.type == "cpu" else 1e-1)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_it_is_no_further_from_float32_than_autograd_is(kind: str) -> None:
    packed = packed_rows(60, 170, 33)
    exact = model_of(kind)
    reference = gradients(exact, PlainLearner(exact).loss(packed, seed=1))
    model = model_of(kind, torch.bfloat16)
    usual = gradients(model, PlainLearner(model).loss(packed, seed=1))
    ours = gradients(model, fused.FusedLearner(model).loss(packed, seed=1))

    def error(found: dict[str, torch.Tensor]) -> float:
        return sum(float(((found[name] - each) ** 2).sum()) for name, each in reference.items())

    assert error(ours) <= 1.2 * error(usual)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a CUDA device")
def test_the_same_pass_gives_the_same_bits() -> None:
    model, packed = model_of("llama", torch.bfloat16), packed_rows(60, 170, 33, 300)
    learner = fused.FusedLearner(model)
    one, two = (gradients(model, learner.loss(packed, seed=1)) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
