"""A quantized graph from what a pass stored of it: the same for the same plan, in any process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from ...model import Model
from ..graph.capture import capture
from ..graph.folding import ensure_biases
from ..graph.operators import set_tensor
from .bias_correction import correctable
from .bucket_quantizers import LearnedWeights, UniformWeights
from .buckets import Bucket
from .placement import BOTH_ADDENDS, WeightSite, place
from .quantizers import (
    WEIGHT_LIMIT,
    AnyWeightQuantizer,
    Grid,
    MakeWeightQuantizer,
    eight_bits,
    insert_quantizers,
    weight_scale,
)
from .rescale import insert_rescaling

SCALE_PREFIX, POINTS_PREFIX = "scale/", "points/"


@dataclass(frozen=True)
class WeightSpec:
    """How one weight is stored: its bits, what shares a scale, and whether its points are learned.

    The default is the INT8 of `quantize`, whose scales are tensors of their own. All others take theirs from the
    weight itself, and the tensor under the name of the scales is the least step of each channel's INT8 grid.
    """

    bits: int = 8
    bucket: Bucket = "channel"
    learned: bool = False


def weight_quantizers(
    specs: Mapping[str, WeightSpec], points: Mapping[str, Tensor], limit: int
) -> MakeWeightQuantizer:
    """Makes the quantizer of each weight: 8 bits a channel where `specs` does not name it."""

    def make(site: WeightSite, scale: Tensor) -> AnyWeightQuantizer:
        spec = specs.get(site.tensor, WeightSpec())
        if spec.learned:
            return LearnedWeights(points[site.tensor].clone(), site.axis, spec.bucket, scale, limit)
        if spec == WeightSpec():
            return eight_bits(site, scale)
        return UniformWeights(spec.bits, site.axis, spec.bucket, scale, limit)

    return make


def least_steps(weight: Tensor, axis: int, scale: Tensor, limit: int) -> Tensor:
    """The part of 8-bit scales, (channels,), that a layer's bias asked for and not its weights; 0 elsewhere."""
    return torch.where(scale > weight_scale(weight, axis, limit) * (1 + 1e-6), scale, 0.0)


def rebuild_graph(
    model: Model, structure: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> fx.GraphModule:
    """The capture of `model` with the tensors and quantizers of a plan in it."""
    graph = capture(model)
    graph.meta[BOTH_ADDENDS] = structure[BOTH_ADDENDS]
    for node_name in structure["rescaled"]:
        insert_rescaling(graph, node_name)
    ensure_biases(graph, correctable(graph, place(graph)))
    for name, tensor in tensors.items():
        if not name.startswith((SCALE_PREFIX, POINTS_PREFIX)):
            set_tensor(graph, name, tensor.clone())
    placement = place(graph, structure["keep_float"])
    if structure.get("float_activations"):
        placement = replace(placement, activations=())
    grids = {name: Grid(**grid) for name, grid in structure["grids"].items()}
    specs = {name: WeightSpec(**spec) for name, spec in structure.get("weights", {}).items()}
    points = _with_prefix(POINTS_PREFIX, tensors)
    make = weight_quantizers(specs, points, structure.get("weight_limit", WEIGHT_LIMIT))
    return insert_quantizers(graph, placement, grids, _with_prefix(SCALE_PREFIX, tensors), make)


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t.clone() for name, t in tensors.items() if name.startswith(prefix)}
