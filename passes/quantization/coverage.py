"""What a placement quantizes, as the report tells it."""

from __future__ import annotations

from typing import Any

from ...macs import listed
from .placement import Placement


def coverage_rows(placement: Placement) -> list[dict[str, Any]]:
    """One row of JSON values for each layer."""
    return [
        {"layer": c.layer, "kind": c.kind, "macs": c.macs, "quantized": c.quantized, "reason": c.reason}
        for c in placement.coverage
    ]


def coverage_note(placement: Placement, grid: str) -> str:
    """How much was placed in INT8, in words."""
    quantized = sum(c.quantized for c in placement.coverage)
    share = placement.int8_macs
    unknown = listed([f"{c.kind} in '{c.layer}'" for c in placement.coverage if c.macs is None])
    of_macs = f"{100 * share:.1f} % of MACs" if share is not None else f"an unknown share of MACs ({unknown})"
    return f"{quantized} of {len(placement.coverage)} layers, {of_macs} placed in INT8; activations {grid}"


def nothing_to_do(placement: Placement) -> str:
    """Why not one layer is quantized, in words."""
    reasons = list(dict.fromkeys(f"{c.layer}: {c.reason}" for c in placement.coverage))
    if not reasons:
        return "no convolution, linear layer or matmul to quantize"
    return "no layer can be quantized: " + "; ".join(reasons[:5]) + ("; …" if len(reasons) > 5 else "")
