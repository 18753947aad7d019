"""Which model it is, before any weight is loaded: where it lies, and the hash of all that changes its answers."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from harness.engine.packaged import GEMMA, SMOLLM2, checkpoint
from harness.errors import DataError, ModelError, NetworkError, nearest
from harness.files import read_json
from harness.manifest import Manifest, read_manifest
from harness.provenance import ADAPTER, TOKENIZER, WEIGHTS, directory_digest
from harness.records import RunSpec, digest

PACKAGED = {model.name: model for model in (GEMMA, SMOLLM2)}

ENGINE_VERSION = 1
"""Raised when a change to our backends changes answers beyond float noise: stored answers then count no more."""


@dataclass(frozen=True, slots=True)
class Located:
    """A model or adapter that was found.

    path: its directory, or the hub id where its files are the hub library's to fetch.
    revision: the hub commit, None for a directory. weights: digest of its weights, or hub id and commit.
    """

    path: str
    revision: str | None
    weights: str

    @property
    def directory(self) -> Path | None:
        return Path(self.path) if Path(self.path).is_dir() else None


def locate_model(name: str, revision: str | None = None) -> Located:
    """Finds a model: a directory, a packaged model's name, or a hub id.

    Raises ModelError, NetworkError.
    """
    directory = Path(name)
    if not directory.exists() and name in PACKAGED:
        directory = checkpoint(PACKAGED[name])
    if directory.exists():
        return _located_directory(directory, "model", "config.json", WEIGHTS)
    return _located_on_hub(name, revision, "model", "config.json")


def locate_adapter(name: str) -> Located:
    """Finds a LoRA adapter: a directory or a hub id.

    Raises ModelError, NetworkError.
    """
    directory = Path(name)
    if directory.exists():
        return _located_directory(directory, "adapter", "adapter_config.json", ADAPTER)
    return _located_on_hub(name, None, "adapter", "adapter_config.json")


def _located_directory(directory: Path, kind: str, mark: str, patterns: tuple[str, ...]) -> Located:
    if not directory.is_dir():
        raise ModelError(f"{directory} is a file, expected the directory of a {kind} (with {mark}).")
    if not (directory / mark).is_file():
        other = {"model": "adapter_config.json", "adapter": "config.json"}[kind]
        hint = ""
        if (directory / other).is_file():
            hint = " It is an adapter: --adapter." if kind == "model" else " It is a whole model: --model."
        article = "an" if kind == "adapter" else "a"
        raise ModelError(f"{directory} isn't {article} {kind} directory: it has no {mark}.{hint}")
    weights = [path for path in directory.iterdir() if path.suffix in (".safetensors", ".bin")]
    if not weights:
        raise ModelError(f"{directory} has no weights (*.safetensors), expected some beside {mark}.")
    return Located(str(directory), None, directory_digest(directory, patterns))


def _located_on_hub(name: str, revision: str | None, kind: str, mark: str) -> Located:
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    guess = nearest(name, PACKAGED)
    near = f" Did you mean {guess!r}?" if guess else ""
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"{kind.capitalize()} {name!r}: no such directory.{near}")
    try:
        cached = try_to_load_from_cache(name, mark, revision=revision)
        if constants.HF_HUB_OFFLINE or not _hub_resolves():
            if isinstance(cached, str):
                commit = Path(cached).parent.name
                return Located(name, commit, f"{name}@{commit}")
            raise NetworkError(
                f"{kind.capitalize()} {name!r} is neither a directory here nor in the hub's cache, and the model hub "
                f"can't be reached.{near} Name a directory, or try again with a network."
            )
        info = HfApi().model_info(name, revision=revision)
    except (RepositoryNotFoundError, HFValidationError) as error:
        if isinstance(error, GatedRepoError):
            raise ModelError(
                f"{kind.capitalize()} {name!r} is gated: accept its terms on the hub and set HF_TOKEN."
            ) from None
        raise ModelError(
            f"{kind.capitalize()} {name!r} is neither a directory here nor a repository of the hub.{near}"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        if isinstance(error, NetworkError):
            raise
        raise NetworkError(f"The model hub failed while looking for {name!r}: {error}") from None
    return Located(name, info.sha, f"{name}@{info.sha}")


def _hub_resolves() -> bool:
    # The hub library retries for half a minute where there is no network at all; a look-up knows at once.
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    from huggingface_hub import constants

    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def adapter_manifest(adapter: Located) -> Manifest | None:
    """What training left beside the adapter, or None for an adapter made elsewhere."""
    return read_manifest(adapter.directory) if adapter.directory else None


def check_adapter(adapter: Located, base: Located, name: str) -> None:
    """Refuses an adapter that says it was made on another base.

    Raises ModelError; DataError for a damaged adapter_config.json.
    """
    manifest = adapter_manifest(adapter)
    if manifest is not None and manifest.base_digest not in (None, base.weights):
        raise ModelError(
            f"Adapter {name} was trained on {manifest.base_model} (weights {str(manifest.base_digest)[:12]}), "
            f"not on {base.path} (weights {base.weights[:12]}). Name its own base: --model {manifest.base_model}"
        )
    if adapter.directory:
        config = read_json(adapter.directory / "adapter_config.json")
        if "peft_type" not in config:
            raise DataError(
                adapter.directory / "adapter_config.json",
                "no peft_type, expected a PEFT adapter's configuration",
            )


def model_identity(spec: RunSpec, base: Located, adapter: Located | None, dtype: str, device: str) -> dict[str, Any]:
    """All that changes an answer, readable; `model_key` hashes it.

    dtype: the one that "auto" stands for. device: "cpu" or "cuda".
    """
    directory = base.directory
    return {
        "weights": base.weights,
        "adapter": adapter.weights if adapter else None,
        "quantization": spec.quantization,
        "dtype": dtype,
        "device": device,
        "backend": spec.backend,
        "engine": ENGINE_VERSION,
        "versions": versions("lm_eval", "torch", "transformers", "bitsandbytes"),
        "tokenizer": directory_digest(directory, TOKENIZER) if directory else base.weights,
        "prompt_format": spec.prompt_format if spec.prompt_format == "chat" else None,
        "trust_remote_code": spec.trust_remote_code,
    }


def model_key(identity: dict[str, Any]) -> str:
    """SHA-256 (hex) of a model's identity."""
    return digest(identity)


def versions(*packages: str) -> dict[str, str | None]:
    """Installed versions, None where a package isn't there."""
    found: dict[str, str | None] = dict.fromkeys(packages)
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def model_type(base: Located) -> str | None:
    """The architecture a local model's config names; None for a hub model or a damaged config."""
    if base.directory is None:
        return None
    try:
        return json.loads((base.directory / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, OSError):
        return None
