"""What an adapter, or full weights made of one, says of itself: the file that lies beside the weights.

`uzbench run --adapter` reads it: an adapter is asked in the prompt format it was trained in, on the base it
was trained on, quantized as it was trained. (An adapter made on an NF4 base and put on the float32 base
differs by up to 9.7 in a logit.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.files import read_json, write_json
from harness.records import Record

MANIFEST = "uzbench_manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest(Record):
    """How an adapter was made.

    base_digest: digest of the base's weights, None for a hub base whose files weren't at hand.
    data_sha256: of the file, as it was. n_rows: rows trained on; n_dropped: rows left out, by reason.
    n_tokens, n_trained_tokens: of one epoch, without padding; the second count only completions.
    adapter_digest: of the adapter that it started from, which the recipe names.
    losses: (step, mean loss of that step in nats a trained token, of dpo in nats a pair).
    scores: of evaluations on the way, (step, macro average in [0,1]), step 0 the base. best_step: the one whose adapter
    this is, None for the last.
    margins: of dpo, (step, mean over its pairs of beta times how much further than the model it started from it
    prefers the chosen answer, in nats).
    """

    base_model: str
    base_revision: str | None
    base_digest: str | None
    quantization: str
    dtype: str
    prompt_format: str
    data: str
    data_sha256: str
    n_rows: int
    n_dropped: dict[str, int]
    n_tokens: int
    n_trained_tokens: int
    steps: int
    seconds: float
    created: str
    recipe: dict[str, Any]
    adapter_digest: str | None = None
    losses: tuple[tuple[int, float], ...] = ()
    scores: tuple[tuple[int, float], ...] = ()
    best_step: int | None = None
    margins: tuple[tuple[int, float], ...] = ()
    git_commit: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Difference(Record):
    """How far the logits of two models are apart, over n positions of the same texts.

    largest, mean: of the absolute differences. kl: mean Kullback-Leibler divergence in nats.
    same_argmax: share of the positions in [0,1] where both would go on with the same token.
    """

    n: int
    largest: float
    mean: float
    kl: float
    same_argmax: float


@dataclass(frozen=True, slots=True)
class Merged(Record):
    """How full weights were made of an adapter and its base.

    quantization: of the base, as the adapter was trained on it; the weights themselves are in dtype.
    difference: between the adapter on its base and these weights as they were read back. rounding: the mean
    difference that rounding the weights explains; activations: the one that comes of int8's rounded activations.
    trained: the adapter's own manifest, None where it had none.
    """

    adapter: str
    adapter_digest: str
    base_model: str
    base_revision: str | None
    base_digest: str
    quantization: str
    dtype: str
    difference: Difference
    rounding: float
    activations: float
    created: str
    trained: Manifest | None = None
    notes: tuple[str, ...] = ()
    git_commit: str | None = None
    versions: dict[str, str] = field(default_factory=dict)


def write_merged(directory: Path, merged: Merged) -> Path:
    """Writes the manifest of full weights into their directory; returns its path."""
    return write_json(directory / MANIFEST, {"merged_from": merged.to_dict()})


def read_merged(directory: Path) -> Merged | None:
    """The manifest of full weights that were made of an adapter, or None where a directory has no such.

    Raises RecordError, DataError.
    """
    path = directory / MANIFEST
    made = read_json(path).get("merged_from") if path.is_file() else None
    return None if made is None else Merged.from_dict(made)


def write_manifest(adapter: Path, manifest: Manifest) -> Path:
    """Writes the manifest into an adapter's directory; returns its path."""
    return write_json(adapter / MANIFEST, manifest.to_dict())


def read_manifest(adapter: Path) -> Manifest | None:
    """The manifest of an adapter's directory, or None where it has none (it was made elsewhere).

    Raises RecordError, DataError.
    """
    path = adapter / MANIFEST
    return Manifest.from_dict(read_json(path)) if path.is_file() else None
