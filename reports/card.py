"""README.md beside an adapter or full weights: the model card, in the form that the hub reads."""

from __future__ import annotations

from harness.manifest import Merged
from reports.format import percent


def merged_sentence(merged: Merged) -> str:
    """How far full weights are from the adapter on its base, and what of that is explained."""
    found = merged.difference
    sentence = (
        f"Logits at {found.n} places of Uzbek text, adapter on its base against these weights: {found.mean:.2g} apart "
        f"on average, {found.largest:.2g} at most, KL {found.kl:.2g} nats, the same next token at "
        f"{percent(found.same_argmax)}. Rounding to {merged.dtype} explains up to {merged.rounding:.2g}"
    )
    if merged.activations:
        sentence += f"; int8's rounded activations, which float weights don't have, {merged.activations:.2g}"
    return f"{sentence}."
