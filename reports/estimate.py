"""What a training run will take, as a table.

| | |
| --- | --- |
| tokens | 17,871,000 in 2,157 steps of 32 rows |
| time | 16 min |
| peak memory | 53.0 of 78.9 GiB |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.format import duration, escape, table


def render_estimate(found: Mapping[str, Any]) -> str:
    """An estimate (train.estimate.Estimate as a dictionary) as Markdown."""
    left_out = f", {found['n_dropped']:,} left out" if found["n_dropped"] else ""
    passes = f"{found['pass_tokens']:,} tokens at once"
    if found["recompute_layers"]:
        passes += f", activations of {found['recompute_layers']} layers computed twice"
    if found["unpacked_layers"]:
        passes += f", weights of {found['unpacked_layers']} layers also kept in 16 bits"
    rows = [
        ["model", f"{escape(found['model'])}, {found['quantization']}"],
        ["device", escape(found["device"])],
        ["rows", f"{found['n_rows']:,}{left_out}"],
        ["tokens", f"{found['n_tokens']:,} in {found['steps']:,} steps of {found['rows_per_step']} rows"],
        ["passes", passes],
        ["peak memory", _memory(found)],
        ["time", duration(60 * found["minutes"]) if found["minutes"] is not None else "unknown on this device"],
    ]
    if found["usd"] is not None:
        rows.append(["cost", f"${found['usd']:.2f}"])
    if found["disk_mib"] is not None:
        rows.append(["disk", f"{found['disk_mib']:,.0f} MiB, {found['adapter_mib']:,.0f} of them stay"])
    return table(["", ""], rows, "ll")


def _memory(found: Mapping[str, Any]) -> str:
    if found["peak_gib"] is None:
        return "reckoned on a GPU alone, for architectures whose passes are written out"
    return f"{found['peak_gib']:.1f} of {found['free_gib']:.1f} GiB"
