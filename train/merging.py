"""An adapter merged into its base as it was trained: full weights in float, checked before they take their name.

out/model*.safetensors, config.json, tokenizer…     what transformers loads
out/uzbench_manifest.json                           harness.manifest.Merged

An adapter learned on a quantized base belongs to the values which that base has after quantization. So the base
is quantized by bitsandbytes once more and dequantized, PEFT adds the adapter in float32, and the sum is rounded once,
to the dtype that is written. It is never quantized again: quantizing a sum isn't the sum of the quantized.

The check: A, the adapter on its base, and B, what was written and read back, are asked the same rows, both in float32
arithmetic. How far rounding may part them is measured on B: each weight is moved by half a unit in its last place, the
most that rounding moves it, up or down at random. Twice the logits' mean shift is the bound, for one draw may miss the
few weights that matter most; sums in another order add some millionths of a logit's size. int8 rounds activations too,
which float weights can't: there B is held against A with its base dequantized, and what lies between the two A is said.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.engine.identity import Located, adapter_manifest, check_adapter, locate_adapter, locate_model
from harness.engine.load import device, first_line, one_line, quantization_config, settled, with_adapter
from harness.errors import ModelError, UnknownNameError, UsageError
from harness.files import atomic_directory, read_json
from harness.manifest import Difference, Manifest, Merged, read_merged, write_merged
from harness.provenance import git_commit, now, package_versions
from tasks_uz.prompts import render_row
from train.data import read_rows
from train.disk import weights_disk_faults

DTYPES = ("auto", "float32", "bfloat16")

ROWS = Path(__file__).parent / "data" / "starter_uz.jsonl"
N_ROWS, ROW_LENGTH, POSITIONS = 8, 300, 16
"""The check looks at the last positions of some short rows: with 262k words each set of logits takes 134 MB."""

ARITHMETIC = 1e-5
"""What the order of float32 sums does to a logit, as a share of its size."""

MARGIN = 2

MOST_KL = 0.5
"""Nats; beyond it the written model is another, whatever explains it. int8's activations cost SmolLM2 0.04."""

REFUSED = {
    "layer_replication": "repeats layers of its base",
    "alora_invocation_tokens": "works from a token on",
    "arrow_config": "routes between adapters",
}
"""Kinds of LoRA that are no sum of weights, by their key in adapter_config.json."""


@dataclass(frozen=True, slots=True)
class MergeResult:
    """Full weights and what is known of them."""

    directory: Path
    merged: Merged


def merge(
    adapter: Path | str, out: Path | str, *, model: str | None = None, dtype: str = "auto", progress: bool = True
) -> MergeResult:
    """Writes the full weights of an adapter on its base into out, whole or not at all.

    adapter: directory or hub id. model: the base, where it lies elsewhere than the adapter says.
    dtype: of the weights; auto is the base checkpoint's own. progress: a bar on stderr.
    Raises DataError, ModelError, NetworkError, UsageError, UnknownNameError, DiskFullError.
    """
    out = Path(out)
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES, f"One of: {', '.join(DTYPES)}.")
    check_out(out)
    place = _at_hand(locate_adapter(str(adapter)))
    config = _readable(place, str(adapter))
    manifest = adapter_manifest(place)
    base, base_name = _base(place, config, manifest, str(adapter), model)
    quantization = manifest.quantization if manifest else "none"
    with one_line(base_name):
        tokenizer = _tokenizer(place, base)
    texts = _texts(tokenizer, manifest.prompt_format if manifest else "plain")

    n_passes = 3 + (quantization == "int8")
    with (
        tqdm(desc="merging", unit="step", file=sys.stderr, disable=not progress, total=n_passes * len(texts)) as bar,
        _quiet(),
    ):
        with one_line(base_name):
            loaded = _load(base.path, base.revision, quantization, manifest.dtype if manifest else "auto")
        written = _own_dtype(base, base_name) if dtype == "auto" else getattr(torch, dtype)
        tuned = with_adapter(loaded, "default", place)
        trained = _logits(_in_float32(tuned), texts, bar)
        wanted = trained
        if quantization != "none":
            tuned = _in_float32(with_adapter(_dequantized(tuned.unload()), "default", place))
        if quantization == "int8":
            wanted = _logits(tuned, texts, bar)
        merged = _merged(tuned, written, str(adapter), bar)
        del loaded, tuned
        with atomic_directory(out) as part:
            with weights_disk_faults(out):
                merged.save_pretrained(part, max_shard_size="5GB")
                tokenizer.save_pretrained(part)
            del merged
            gc.collect()
            again = _in_float32(_load(str(part), None, "none", "auto"))
            found = _logits(again, texts, bar)
            shaken = _logits(_in_float32(again, shake=torch.finfo(written).eps / 2), texts, bar)
            record = Merged(
                adapter=str(adapter),
                adapter_digest=place.weights,
                base_model=base_name,
                base_revision=base.revision,
                base_digest=base.weights,
                quantization=quantization,
                dtype=str(written).removeprefix("torch."),
                difference=_difference(trained, found),
                rounding=MARGIN * _apart(found, shaken) + ARITHMETIC * float(found.abs().mean()),
                activations=_apart(trained, wanted),
                created=now(),
                trained=manifest,
                notes=() if manifest else (_UNKNOWN,),
                git_commit=git_commit(),
                versions=package_versions(),
            )
            _check(record, _apart(wanted, found))
            write_merged(part, record)
    return MergeResult(out, record)


_UNKNOWN = "The adapter has no manifest of ours: its base is taken as it lies, without quantization."


def check_out(out: Path) -> None:
    """Refuses a place that holds something else than an earlier merge.

    Raises UsageError.
    """
    empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty and not (out.is_dir() and read_merged(out)):
        raise UsageError(f"{out} exists and isn't what an earlier merge left; it is left alone. Try: --out ANOTHER")


def _at_hand(adapter: Located) -> Located:
    """The same with its files on this disk."""
    if adapter.directory:
        return adapter
    from huggingface_hub import snapshot_download

    with one_line(adapter.path):
        return locate_adapter(snapshot_download(adapter.path, revision=adapter.revision))


def _readable(place: Located, name: str) -> dict[str, Any]:
    config = read_json(Path(place.path) / "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise ModelError(f"Adapter {name} is of the kind {config.get('peft_type')}, only LORA can be merged.")
    for key, what in REFUSED.items():
        if config.get(key):
            raise ModelError(f"Adapter {name} {what} ({key}), which no full weights can. Ask it with --adapter.")
    return config


def _base(
    place: Located, config: dict[str, Any], manifest: Manifest | None, adapter: str, model: str | None
) -> tuple[Located, str]:
    named = manifest.base_model if manifest else config.get("base_model_name_or_path")
    name = model or named
    if not name:
        raise ModelError(f"Adapter {adapter} names no base. Try: --model BASE")
    revision = manifest.base_revision if manifest else config.get("revision")
    try:
        base = locate_model(name, revision if name == named else None)
    except ModelError as error:
        if model:
            raise
        raise ModelError(f"Adapter {adapter}: {error} Where its base lies elsewhere: --model BASE") from None
    check_adapter(place, base, adapter)
    return base, name


def _tokenizer(place: Located, base: Located) -> Any:
    # An adapter made elsewhere may bring its own, with a chat template or further tokens.
    if (Path(place.path) / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(place.path)
    return AutoTokenizer.from_pretrained(base.path, revision=base.revision)


def _texts(tokenizer: Any, prompt_format: str) -> list[torch.Tensor]:
    """The rows of the check in tokens, each (1, T), written out as the adapter was trained."""
    rows = [render_row(row.instruction, row.input, row.output, prompt_format) for row in read_rows(ROWS)]
    texts = [prompt + answer for prompt, answer in rows if len(prompt + answer) <= ROW_LENGTH]
    return [torch.tensor([tokenizer.encode(text)]) for text in texts[:N_ROWS]]


def _load(path: str, revision: str | None, quantization: str, dtype: str) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(
        path,
        revision=revision,
        dtype=dtype,
        quantization_config=quantization_config(quantization, torch.float32),
        device_map={"": device()},
    )
    return settled(model, quantization).eval()


def _own_dtype(base: Located, name: str) -> torch.dtype:
    from transformers import AutoConfig

    with one_line(name):
        own = AutoConfig.from_pretrained(base.path, revision=base.revision).get_text_config().dtype
    return own or torch.float32


def _in_float32(model: Any, shake: float = 0.0) -> Any:
    """Makes a model compute in float32; the matrices stay as they are and are widened one at a time.

    shake: moves each weight by so much of itself, up or down.
    """
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    matrices = {id(module.weight) for module in linear}
    for module in linear:
        if module.weight.is_floating_point():
            module.forward = partial(_linear, module, shake)
        # bitsandbytes would pack NF4 weights for AVX-512 on first use, in a form that isn't dequantized any more.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    embedding = model.get_input_embeddings().weight
    for parameter in model.parameters():
        if parameter.is_floating_point() and (parameter is embedding or id(parameter) not in matrices):
            parameter.data = _shaken(parameter.data.float(), shake)
    return model


def _linear(module: torch.nn.Linear, shake: float, given: torch.Tensor) -> torch.Tensor:
    bias = None if module.bias is None else module.bias.float()
    return torch.nn.functional.linear(given, _shaken(module.weight.float(), shake), bias)


def _shaken(weights: torch.Tensor, shake: float) -> torch.Tensor:
    if not shake:
        return weights
    # A sign for each row times one for each column: as good as one for each weight, and a hundred times cheaper.
    signs = [torch.randint(0, 2, (size,), device=weights.device) * 2.0 - 1 for size in weights.shape[-2:]]
    moved = shake * (signs[0] if len(signs) == 1 else signs[0][:, None] * signs[1])
    return weights + weights * moved


@torch.inference_mode()
def _logits(model: Any, texts: list[torch.Tensor], bar: Any) -> torch.Tensor:
    """Logits (positions, V) of the last positions of each text, on the CPU."""
    torch.manual_seed(0)  # of what _shaken draws
    found = []
    for ids in texts:
        out = model(input_ids=ids.to(model.device), logits_to_keep=POSITIONS, use_cache=False)
        found.append(out.logits[0, -POSITIONS:].float().cpu())
        bar.update()
    return torch.cat(found)


def _apart(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).abs().mean())


def _difference(one: torch.Tensor, two: torch.Tensor) -> Difference:
    first, second = one.log_softmax(dim=-1), two.log_softmax(dim=-1)
    return Difference(
        n=len(one),
        largest=float((one - two).abs().max()),
        mean=_apart(one, two),
        kl=max(0.0, float((first.exp() * (first - second)).sum(dim=-1).mean())),
        same_argmax=float((one.argmax(dim=-1) == two.argmax(dim=-1)).double().mean()),
    )


def _dequantized(model: Any) -> Any:
    plain = model.dequantize()
    plain.is_quantized = False
    return plain


def _merged(tuned: Any, dtype: torch.dtype, name: str, bar: Any) -> Any:
    """The base with the adapter in it: PEFT's own sums, layer by layer in float32, each rounded once."""
    layers = [module for module in tuned.modules() if isinstance(module, LoraLayer)]
    bar.total += len(layers)
    for layer in layers:
        base = layer.get_base_layer()
        # A parameter of its own: what was tied to another isn't, once an adapter has changed one of the two.
        base.weight = torch.nn.Parameter(base.weight.data.float(), requires_grad=False)
        try:
            layer.merge(safe_merge=True)
        except (ValueError, NotImplementedError, RuntimeError) as error:
            raise ModelError(f"Adapter {name} can't be merged: {first_line(error)}.") from error
        base.weight = torch.nn.Parameter(base.weight.data.to(dtype), requires_grad=False)
        bar.update()
    # Of LoRA nothing is left to merge; modules that were trained whole take their places.
    return tuned.merge_and_unload().to(dtype)


def _check(merged: Merged, apart: float) -> None:
    """apart: how far the weights are from what they should be, as a mean of logits."""
    kl = merged.difference.kl
    if apart <= merged.rounding and kl <= MOST_KL:
        return
    raise ModelError(
        f"Adapter {merged.adapter}: merged into {merged.dtype}, its logits are off by {apart:.2g} on average, where "
        f"rounding explains {merged.rounding:.2g} (KL {kl:.2g} nats). Nothing was written. Ask the adapter on its "
        "base: --adapter"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of other packages that a person can do nothing about."""
    with warnings.catch_warnings():
        # PEFT speaks of tied embeddings, of layers that are merged already and of rounding: all three are checked here.
        warnings.simplefilter("ignore")
        yield
