"""What answers a run: a model loaded here, or one that lm-eval reaches through a class of its own.

Both are known before anything is loaded; loading waits until an answer is missing from the store.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from harness.engine import load
from harness.engine.identity import Located, model_identity, versions
from harness.engine.jobs import Budget, InstancePlanner, Job, Planner
from harness.engine.pool import ServerPool
from harness.engine.stored import Computed, Speaker
from harness.errors import NetworkError, UsageError
from harness.records import RunSpec

log = logging.getLogger(__name__)

AT_ONCE = 32
"""Requests of one job to a server; a kill loses at most so many answers."""

CONCURRENT = 16
"""Requests that a server is sent before it has answered the first."""

NO_ANSWER = "\0no answer\0"
"""What lm-eval is told to put in the place of an answer that never came: its own choice, "", may be an answer."""

LM_EVAL_NAMES = {"vllm": "vllm", "sglang": "sglang", "gguf": "gguf", "api": "local-completions"}
"""Our names of backends to lm-eval's."""


class Model(Protocol):
    """What answers requests, as itself or as one of its adapters.

    speaker: writes chats out. load_seconds: spent on loading so far.
    """

    speaker: Speaker
    load_seconds: float

    def identity(self, spec: RunSpec, adapter: Located | None) -> dict[str, Any]:
        """All that changes an answer."""
        ...

    def budget(self) -> Budget:
        """What a job may hold."""
        ...

    def planner(self, budget: Budget) -> Planner:
        """What divides requests into jobs."""
        ...

    def compute(self, adapter: str | None, kind: str, jobs: Sequence[Job]) -> Computed:
        """Does jobs as the base (None) or as an adapter, by its name."""
        ...

    def close(self) -> None:
        """Lets go of what was loaded."""
        ...


class TokenizerSpeaker:
    """Chats in the words of a tokenizer's template."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer

    @property
    def tokenizer_name(self) -> str:
        return str(self._tokenizer.name_or_path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        return self._tokenizer.chat_template or ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> Any:
        return self._tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )


class _HereModel:
    """A model in this process, with adapters by the names that PEFT has for them.

    on: "cpu" or "cuda". names: of an adapter in a run, to PEFT's.
    """

    def __init__(self, spec: RunSpec, base: Located, tokenizer: Any, config: Any, on: str, names: Mapping[str, str]):
        self._spec, self._base, self._tokenizer, self._config = spec, base, tokenizer, config
        self._on, self._names = on, names
        self._server: load.ModelServer | ServerPool | None = None
        self.speaker: Speaker = TokenizerSpeaker(tokenizer)
        self.load_seconds = 0.0

    def identity(self, spec: RunSpec, adapter: Located | None) -> dict[str, Any]:
        return model_identity(spec, self._base, adapter, load.resolved_dtype(spec, self._on), self._on)

    def budget(self) -> Budget:
        # On a GPU the memory is measured beside the loaded model.
        free = load.CPU_BYTES if self._on == "cpu" else self._loaded().free_bytes
        return load.measured_budget(self._spec, self._config, self._on, free)

    def planner(self, budget: Budget) -> Planner:
        return load.planner(self._spec, self._tokenizer, self._config, budget)

    def compute(self, adapter: str | None, kind: str, jobs: Sequence[Job]) -> Computed:
        return self._loaded().compute(adapter and self._names[adapter], kind, jobs)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _loaded(self) -> load.ModelServer | ServerPool:
        if self._server is None:
            start = time.perf_counter()
            self._server = self._load()
            self.load_seconds += time.perf_counter() - start
        return self._server

    def _load(self) -> load.ModelServer | ServerPool:
        raise NotImplementedError


class LocalModel(_HereModel):
    """A base and its adapters, loaded once a device.

    adapters: name to place. gpus: how many share the work, or "all".
    Raises ModelError, NetworkError, UsageError.
    """

    def __init__(self, spec: RunSpec, base: Located, adapters: Mapping[str, Located], gpus: str):
        self._devices = load.devices(gpus)
        tokenizer = load.load_tokenizer(spec, base)
        if spec.prompt_format == "chat" and not tokenizer.chat_template:
            raise UsageError(f"Model {spec.model} has no chat template. Ask it with --prompt-format plain")
        config = load.load_config(spec, base)
        if spec.backend == "engine" and not load.served(spec, config):
            log.warning("engine: the architecture %s is served by lm-eval's own path", config.model_type)
        # Names of PEFT adapters become module names, which hold no dots.
        names = {name: f"adapter{number}" for number, name in enumerate(adapters)}
        super().__init__(spec, base, tokenizer, config, self._devices[0].partition(":")[0], names)
        self._adapters = {names[name]: place for name, place in adapters.items()}

    def _load(self) -> load.ModelServer | ServerPool:
        if len(self._devices) > 1:
            return ServerPool(self._spec, self._base, self._adapters, self._devices)
        return load.ModelServer.loaded(self._spec, self._base, self._adapters, self._tokenizer, self._devices[0])


class LiveModel(_HereModel):
    """A PEFT model that is being trained, asked as it is; closed, it can be trained on as if nothing had been asked.

    base: what its frozen weights are. name: of its adapter in a run.
    """

    def __init__(self, spec: RunSpec, base: Located, model: Any, tokenizer: Any, name: str):
        super().__init__(spec, base, tokenizer, model.config, model.device.type, {name: model.active_adapter})
        self._model = model
        self._modes: dict[Any, bool] = {}
        self._trained: list[Any] = []

    def _load(self) -> load.ModelServer:
        self._modes = {module: module.training for module in self._model.modules()}
        self._trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        by_engine = load.served(self._spec, self._config)
        return load.ModelServer(self._model, self._names.values(), self._tokenizer, by_engine=by_engine)

    def close(self) -> None:
        super().close()
        for module, training in self._modes.items():
            module.training = training
        # PEFT freezes an adapter that it puts aside.
        for parameter in self._trained:
            parameter.requires_grad_(True)


class LmEvalModel:
    """A model behind one of lm-eval's own classes: vLLM and SGLang here, or a server that speaks OpenAI's protocol.

    Raises UsageError where the package or the server's address is missing.
    """

    def __init__(self, spec: RunSpec, gpus: str):
        self._spec = spec
        for option, value, usual in (("--quantization", spec.quantization, "none"), ("--gpus", gpus, "1")):
            if value != usual:
                raise UsageError(
                    f"{option} {value} goes with --backend engine or hf. Whoever serves the model decides it there."
                )
        if spec.backend in ("vllm", "sglang") and find_spec(spec.backend) is None:
            raise UsageError(
                f"--backend {spec.backend} needs {spec.backend}, which wants an environment of its own. Install it "
                f"there, or serve the model from it and ask with --backend api --base-url URL"
            )
        if spec.backend in ("api", "gguf") and not spec.base_url:
            raise UsageError(f"--backend {spec.backend} needs a server. Try: --base-url http://localhost:8000/v1")
        self._lm: Any = None
        self.speaker: Speaker = _Messages(spec.model) if spec.backend in ("api", "gguf") else self._tokenizer()
        self.load_seconds = 0.0

    def _tokenizer(self) -> TokenizerSpeaker:
        from harness.engine.identity import locate_model

        return TokenizerSpeaker(load.load_tokenizer(self._spec, locate_model(self._spec.model, self._spec.revision)))

    def identity(self, spec: RunSpec, adapter: Located | None) -> dict[str, Any]:
        return {
            "model": spec.model,
            "revision": spec.revision,
            "server": spec.base_url,
            "backend": spec.backend,
            "quantization": spec.quantization,
            "dtype": spec.dtype,
            "versions": versions("lm_eval", spec.backend),
            "prompt_format": spec.prompt_format if spec.prompt_format == "chat" else None,
        }

    def budget(self) -> Budget:
        return Budget(tokens=0, rows=AT_ONCE if self._spec.base_url else 8 * AT_ONCE, cache_tokens=0)

    def planner(self, budget: Budget) -> Planner:
        return InstancePlanner(budget.rows)

    def compute(self, adapter: str | None, kind: str, jobs: Sequence[Job]) -> Computed:
        from aiohttp import ClientError
        from requests import RequestException

        if kind != "generate_until" and self._spec.backend == "api":
            # What a server says of a prompt's tokens can be read with the model's own tokenizer alone.
            raise UsageError(
                "--backend api can't score texts, as tasks with choices want it: ask tasks with written answers, "
                "such as --tasks uz_qa,uz_summ,uz_headline, or load the model here."
            )
        lm = self._loaded()
        # lm-eval's class for llama.cpp gives up with an error that has no name.
        faults = (RuntimeError,) if self._spec.backend == "gguf" else ()
        for job in jobs:
            try:
                answers = getattr(lm, kind)(list(job.instances), disable_tqdm=True)  # type: ignore[attr-defined]
            except NotImplementedError as error:
                raise UsageError(f"--backend {self._spec.backend} can't score texts: {str(error)[:200]}") from error
            except (RequestException, ClientError, TimeoutError, ConnectionError, *faults) as error:
                raise NetworkError(
                    f"The server at {self._spec.base_url} failed ({type(error).__name__}: {str(error)[:200]}). "
                    "What was answered is kept; the same command goes on from there."
                ) from error
            if len(answers) != len(job.keys):
                raise NetworkError(
                    f"The server at {self._spec.base_url} answered {len(answers)} of {len(job.keys)} requests: it "
                    "doesn't give what scoring needs (token_logprobs)."
                )
            yield job, {key: None if one == NO_ANSWER else one for key, one in zip(job.keys, answers, strict=True)}

    def close(self) -> None:
        self._lm = None

    def _loaded(self) -> Any:
        if self._lm is None:
            from lm_eval.api.registry import get_model
            from lm_eval.models import api_models

            api_models.LMEVAL_MODEL_NONE_ANSWER_PLACEHOLDER = NO_ANSWER

            start = time.perf_counter()
            name, arguments = LM_EVAL_NAMES[self._spec.backend], self._arguments()
            if self._spec.backend == "api" and self._spec.prompt_format == "chat":
                name = "local-chat-completions"
            self._lm = get_model(name).create_from_arg_obj(arguments, {"batch_size": arguments.pop("batch_size", 1)})
            self.load_seconds += time.perf_counter() - start
        return self._lm

    def _arguments(self) -> dict[str, Any]:
        spec = self._spec
        if spec.backend == "gguf":
            return {"base_url": _root(spec.base_url)}
        if spec.backend == "api":
            place = "chat/completions" if spec.prompt_format == "chat" else "completions"
            return {
                "model": spec.model,
                "base_url": f"{_root(spec.base_url)}/v1/{place}",
                "num_concurrent": CONCURRENT,
                "max_retries": 5,
                "seed": spec.seed,
                "tokenized_requests": False,
                "tokenizer_backend": None,
            }
        arguments: dict[str, Any] = {"pretrained": spec.model, "dtype": spec.dtype, "batch_size": "auto"}
        if spec.revision:
            arguments["revision"] = spec.revision
        if spec.trust_remote_code:
            arguments["trust_remote_code"] = True
        return arguments


class _Messages:
    """Chats as the messages of OpenAI's protocol: the server has the template."""

    def __init__(self, model: str):
        self.tokenizer_name = model.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        return ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> Any:
        from lm_eval.models.api_models import JsonChatStr

        return JsonChatStr(json.dumps(chat_history, ensure_ascii=False))


def _root(address: str | None) -> str:
    """A server's address without the path of the protocol's version."""
    return (address or "").rstrip("/").removesuffix("/v1")
