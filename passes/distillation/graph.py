"""The graph that trains with quantizers in it, and the scales that they have learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, fx

from ..quantization.quantizers import (
    ActivationQuantizer,
    Grid,
    WeightQuantizer,
    insert_quantizers,
    quantizers_of,
    weight_quantizers_of,
)
from ..quantization.rebuild import WeightSpec, weight_quantizers
from ..quantization.state import State


def inserted(
    state: State,
    specs: Mapping[str, WeightSpec],
    points: Mapping[str, Tensor],
    least: Mapping[str, Tensor],
    limit: int,
) -> fx.GraphModule:
    """The state's graph with quantizers that can be trained; `least` steps of every weight's INT8 grid."""
    scales = state.scales | {name: least[name] for name in specs}
    make = weight_quantizers(specs, points, limit)
    network = insert_quantizers(state.graph, state.placement, state.grids, scales, make)
    for name, quantizer in weight_quantizers_of(network).items():
        if isinstance(quantizer, WeightQuantizer):
            quantizer.least, quantizer.limit = least[name], limit
    return network


def grids_of(network: fx.GraphModule, state: State) -> dict[str, Grid]:
    """The grids with the scales that they have now."""
    quantizers = {n: q for n, q in quantizers_of(network).items() if isinstance(q, ActivationQuantizer)}
    names = {name: f"activation_quantizer_{index}" for index, name in enumerate(state.placement.activations)}
    return {
        name: replace(state.grids[name], scale=float(quantizers[q].scale.detach()))
        for name, q in names.items()
    }


def scales_of(network: fx.GraphModule) -> dict[str, Tensor]:
    """The scales of 8-bit weights, as they are now."""
    return {
        name: quantizer.scale.detach().clone()
        for name, quantizer in weight_quantizers_of(network).items()
        if isinstance(quantizer, WeightQuantizer)
    }
