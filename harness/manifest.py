"""What an adapter says of itself: the file that training leaves beside its weights.

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
    losses: (step, mean loss of that step in nats a trained token).
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
    losses: tuple[tuple[int, float], ...] = ()
    git_commit: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)


def write_manifest(adapter: Path, manifest: Manifest) -> Path:
    """Writes the manifest into an adapter's directory; returns its path."""
    return write_json(adapter / MANIFEST, manifest.to_dict())


def read_manifest(adapter: Path) -> Manifest | None:
    """The manifest of an adapter's directory, or None where it has none (it was made elsewhere).

    Raises RecordError, DataError.
    """
    path = adapter / MANIFEST
    return Manifest.from_dict(read_json(path)) if path.is_file() else None
