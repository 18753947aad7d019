"""Loading a base once, with any number of its adapters, and switching between them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers import logging as transformers_logging

from harness.engine.identity import Located
from harness.engine.lm import EngineLM, HFBackend
from harness.errors import ModelError, NetworkError, UsageError
from harness.records import RunSpec


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


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


def token_budget(spec: RunSpec, base: Located, on: str) -> int:
    """Tokens a batch, padding counted: on a CPU from the model's shape alone, so that it is always the same; on a
    GPU from the memory that is free now."""
    config = AutoConfig.from_pretrained(base.path, revision=base.revision, trust_remote_code=spec.trust_remote_code)
    config = getattr(config, "text_config", config)
    if on == "cpu":
        free, most = 2 << 30, 2048
    else:
        free, most = torch.cuda.mem_get_info()[0] // 2, 65536
    # The engine keeps a layer's activations; lm-eval's path the logits of every position, twice.
    if spec.backend == "engine":
        inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        per_token = 4 * (3 * inner + 8 * config.hidden_size)
    else:
        per_token = 2 * 4 * config.vocab_size
    return int(min(most, max(256, free // per_token)))


class ModelServer:
    """One loaded base that answers as itself or as one of its adapters.

    adapters: name to place. Raises ModelError, NetworkError, UsageError.
    """

    def __init__(self, spec: RunSpec, base: Located, adapters: Mapping[str, Located], tokenizer: Any):
        on = device()
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
        for name, adapter in adapters.items():
            model = _with_adapter(model, name, adapter)
        model.eval()
        self._model = model
        self._adapters = tuple(adapters)
        backend = EngineLM if spec.backend == "engine" else HFBackend
        self.lm = backend(model, tokenizer)

    @contextmanager
    def answering_as(self, adapter: str | None) -> Iterator[HFBackend]:
        """The language model as the base (None) or as an adapter, for the length of the block."""
        if adapter is not None:
            self._model.set_adapter(adapter)
            yield self.lm
        elif self._adapters:
            with self._model.disable_adapter():
                yield self.lm
        else:
            yield self.lm


def _with_adapter(model: Any, name: str, adapter: Located) -> Any:
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        if isinstance(model, PeftModel):
            model.load_adapter(adapter.path, adapter_name=name, revision=adapter.revision)
            return model
        return PeftModel.from_pretrained(model, adapter.path, adapter_name=name, revision=adapter.revision)
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"Adapter {adapter.path} doesn't fit this base or is damaged: {first_line(error)}. "
            "Name the base it was trained on: --model"
        ) from error


def quantization_config(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """How bitsandbytes loads a base: None, int8, or NF4 with double quantization.

    dtype: of arithmetic; on a CPU NF4 is 13 times faster in float32 than in bfloat16.
    Raises UsageError where bitsandbytes is missing.
    """
    if kind == "none":
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
