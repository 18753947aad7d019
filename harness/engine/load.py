"""Loading a base once, with any number of its adapters, and switching between them."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers import logging as transformers_logging

from harness.engine.float8 import round_weights
from harness.engine.identity import Located
from harness.engine.jobs import Budget, EnginePlanner, Job, PaddedPlanner, Planner
from harness.engine.lm import NARROW_ROWS, SERVED, EngineLM, HFBackend
from harness.engine.stored import Computed
from harness.engine.tokens import Encoder
from harness.errors import ModelError, NetworkError, UsageError
from harness.records import RunSpec

CPU_BYTES = 2 << 30
"""Memory that a job may fill on a CPU, reckoned from its model's shape."""


def device() -> str:
    """What a model runs on here."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def devices(gpus: str) -> list[str]:
    """The devices to load a model on. gpus: a number, or "all".

    Raises UsageError where so many aren't there.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus == "all":
        return [f"cuda:{number}" for number in range(there)] or ["cpu"]
    if not gpus.isdigit() or not int(gpus):
        raise UsageError(f"--gpus {gpus}: expected a number from 1, or all.")
    if int(gpus) == 1:
        return [device()]
    if int(gpus) > there:
        raise UsageError(f"--gpus {gpus}: this machine has {there}. Try: --gpus all")
    return [f"cuda:{number}" for number in range(int(gpus))]


def resolved_dtype(spec: RunSpec, on: str) -> str:
    """What "auto" stands for: float32 on a CPU (bf16 products run over 100 times slower there), else bfloat16."""
    if spec.dtype != "auto":
        return spec.dtype
    return "float32" if on == "cpu" else "bfloat16"


def load_tokenizer(spec: RunSpec, base: Located) -> Any:
    """The base's tokenizer.

    Raises ModelError, NetworkError.
    """
    with one_line(spec.model):
        return AutoTokenizer.from_pretrained(
            base.path, revision=base.revision, trust_remote_code=spec.trust_remote_code
        )


def load_config(spec: RunSpec, base: Located) -> Any:
    """The base's configuration.

    Raises ModelError, NetworkError.
    """
    with one_line(spec.model):
        return AutoConfig.from_pretrained(base.path, revision=base.revision, trust_remote_code=spec.trust_remote_code)


def load_base(spec: RunSpec, base: Located, on: str) -> Any:
    """The base's weights, quantized as the spec says.

    Raises ModelError, NetworkError, UsageError.
    """
    dtype = getattr(torch, resolved_dtype(spec, on))
    with one_line(spec.model):
        model: Any = AutoModelForCausalLM.from_pretrained(
            base.path,
            revision=base.revision,
            dtype=dtype,
            quantization_config=quantization_config(spec.quantization, dtype),
            device_map={"": on},
            trust_remote_code=spec.trust_remote_code,
        )
    return settled(model, spec.quantization)


def settled(model: Any, kind: str) -> Any:
    """A base as it was loaded, made to compute as its quantization says; returns it."""
    if kind == "fp8":
        round_weights(model)
    if kind == "nf4":
        for module in model.modules():
            # Where a CPU has AVX512-BF16, bitsandbytes answers in bfloat16 whatever it is told, and logits move by 0.1.
            if getattr(module, "support_avx512bf16_for_cpu", False) and module.compute_dtype is torch.float32:
                module.support_avx512bf16_for_cpu = False
    return model


def served(spec: RunSpec, config: Any) -> bool:
    """Whether the engine answers; what it doesn't know goes lm-eval's way.

    That is another architecture, a model with further parts beside its text, one whose own code is run, and positions
    whose scale depends on the longest text of a batch.
    """
    own_code = spec.trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    known = config.model_type in SERVED and not own_code and not _ROPE_OF_BATCH & _rope_types(config)
    return spec.backend == "engine" and known


_ROPE_OF_BATCH = {"dynamic", "longrope"}


def _rope_types(config: Any) -> set[str]:
    """How positions are scaled: one way, or one for each type of layer."""
    given = getattr(config, "rope_parameters", None) or {}
    return {str(each.get("rope_type")) for each in (given, *given.values()) if isinstance(each, Mapping)}


def planner(spec: RunSpec, tokenizer: Any, config: Any, budget: Budget) -> Planner:
    """What divides requests into jobs for the backend that will answer."""
    encoder = Encoder(tokenizer, config.get_text_config())
    return (EnginePlanner if served(spec, config) else PaddedPlanner)(encoder, budget)


def measured_budget(spec: RunSpec, config: Any, on: str, free: int) -> Budget:
    """What a job may hold.

    on: "cpu" or "cuda". free: bytes of memory beside the loaded model; on a CPU CPU_BYTES, so that a job is always
    the same there.
    """
    width, by_engine = 4 if resolved_dtype(spec, on) == "float32" else 2, served(spec, config)
    config = config.get_text_config()
    n_heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    kept = 2 * width * config.num_hidden_layers * head_dim * (getattr(config, "num_key_value_heads", None) or n_heads)
    if by_engine:
        # A layer's activations, the widest three times, and the keys and values of the row.
        inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        per_token = width * (3 * inner + 12 * config.hidden_size) + kept
        most = 2048 if on == "cpu" else 16384
        rows = NARROW_ROWS if on == "cpu" else 256
        return Budget(_between(256, free // 3 // per_token, most), rows, max(2048, free // 2 // kept))
    # lm-eval's path keeps the logits of every position, twice, in 32 bits where it takes their softmax.
    per_token = 2 * 4 * config.vocab_size
    most = 2048 if on == "cpu" else 65536
    rows = NARROW_ROWS if on == "cpu" else 64
    return Budget(_between(256, free // 2 // per_token, most), rows, _between(2048, free // 4 // kept, 8 * most))


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))


class ModelServer:
    """A model in memory that answers as itself or as one of its adapters.

    model: with its adapters, if it has any. adapters: their names. by_engine: whether the engine serves it.
    """

    def __init__(self, model: Any, adapters: Iterable[str], tokenizer: Any, *, by_engine: bool):
        model.eval()
        self._model = model
        self._adapters = tuple(adapters)
        self.lm: HFBackend = (EngineLM if by_engine else HFBackend)(model, tokenizer)
        self.free_bytes = self._measured()

    @classmethod
    def loaded(
        cls, spec: RunSpec, base: Located, adapters: Mapping[str, Located], tokenizer: Any, on: str
    ) -> ModelServer:
        """One loaded base with adapters, name to place. on: "cpu", "cuda", "cuda:1".

        Raises ModelError, NetworkError, UsageError.
        """
        model = load_base(spec, base, on)
        by_engine = served(spec, model.config)
        for name, adapter in adapters.items():
            model = with_adapter(model, name, adapter, by_engine=by_engine)
        return cls(model, adapters, tokenizer, by_engine=by_engine)

    def _measured(self) -> int:
        """Memory that jobs may fill, beside the model: before the first, which leaves torch a cache."""
        device = self.lm.device
        if device.type == "cpu":
            return CPU_BYTES
        _give_back_memory()
        # A process may have been allowed a part of the device alone.
        allowed = torch.cuda.get_per_process_memory_fraction(device) * torch.cuda.mem_get_info(device)[1]
        return min(torch.cuda.mem_get_info(device)[0], int(allowed) - torch.cuda.memory_reserved(device))

    def close(self) -> None:
        """Lets go of the model, as it was before."""
        self.lm.close()
        del self._model, self.lm
        _give_back_memory()

    def compute(self, adapter: str | None, kind: str, jobs: Iterable[Job]) -> Computed:
        """Does jobs as the base (None) or as an adapter."""
        with self._answering_as(adapter):
            yield from self.lm.work(kind, jobs)

    @contextmanager
    def _answering_as(self, adapter: str | None) -> Iterator[None]:
        self.lm.forget()
        if adapter is not None:
            self._model.set_adapter(adapter)
            yield
        elif self._adapters:
            with self._model.disable_adapter():
                yield
        else:
            yield


def _give_back_memory() -> None:
    # What modules are patched with refers back to them: only the collector frees that.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def with_adapter(model: Any, name: str, adapter: Located, *, by_engine: bool = False) -> Any:
    """A base, or a base that has adapters, with one more.

    by_engine: the engine will call the base's own layers. Raises ModelError.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        if isinstance(model, PeftModel):
            model.load_adapter(adapter.path, adapter_name=name, revision=adapter.revision)
        else:
            model = PeftModel.from_pretrained(model, adapter.path, adapter_name=name, revision=adapter.revision)
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"Adapter {adapter.path} doesn't fit this base or is damaged: {first_line(error)}. "
            "Name the base it was trained on: --model"
        ) from error
    if by_engine and model.peft_config[name].is_prompt_learning:
        # The engine calls the base's own layers, in which such an adapter has no part.
        kind = getattr(model.peft_config[name].peft_type, "value", model.peft_config[name].peft_type)
        raise ModelError(f"Adapter {adapter.path} is of the kind {kind}, which puts tokens in front. Try: --backend hf")
    return model


def quantization_config(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """How bitsandbytes loads a base: int8, NF4 with double quantization, or None, as it doesn't know fp8.

    dtype: of arithmetic; on a CPU NF4 is 13 times faster in float32 than in bfloat16.
    Raises UsageError where bitsandbytes is missing.
    """
    if kind in ("none", "fp8"):
        return None
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise UsageError(f"--quantization {kind} needs bitsandbytes. Try: pip install 'uzbench[eval]'") from None
    # bitsandbytes says for every layer that int8 casts its input; it always does.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


@contextmanager
def one_line(model: str) -> Iterator[None]:
    """Turns what loading raises into one line that says what to do."""
    from huggingface_hub.errors import OfflineModeIsEnabled
    from safetensors import SafetensorError

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except SafetensorError as error:
        raise ModelError(f"Model {model} is damaged: {first_line(error)}. Fetch or copy its files again.") from error
    except (ConnectionError, OfflineModeIsEnabled) as error:
        raise NetworkError(f"Model {model}: the hub can't be reached ({first_line(error)}).") from error
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        text = str(error)
        # transformers wraps a lost connection into an OSError of its own.
        if "connect to" in text:
            raise NetworkError(f"Model {model}: the hub can't be reached ({first_line(error)}).") from error
        if "trust_remote_code" in text:
            raise ModelError(
                f"Model {model} carries code of its own, which isn't run unless you ask: --trust-remote-code"
            ) from error
        if isinstance(error, torch.OutOfMemoryError):
            raise ModelError(f"Model {model} doesn't fit the device's memory. Try: quantization nf4") from error
        raise ModelError(f"Model {model} can't be loaded: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")
