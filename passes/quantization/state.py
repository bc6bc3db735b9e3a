"""A calibrated quantization of one graph, as the steps of `quantize` hand it on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, fx

from .placement import BOTH_ADDENDS, Placement, place
from .quantizers import Grid, insert_quantizers, of_quantizer, weight_scales
from .rebuild import SCALE_PREFIX


@dataclass(frozen=True)
class State:
    """A calibrated quantization of one graph.

    kept: the layers in float, and why; rescaled: the nodes that equalization gave an operator of their own.
    """

    graph: fx.GraphModule
    quantized: fx.GraphModule
    placement: Placement
    grids: dict[str, Grid]
    scales: dict[str, Tensor]
    kept: Mapping[str, str]
    rescaled: tuple[str, ...]

    def structure(self) -> dict[str, Any]:
        """What `rebuild_graph` needs beside the tensors."""
        return {
            BOTH_ADDENDS: bool(self.graph.meta.get(BOTH_ADDENDS)),
            "keep_float": dict(sorted(self.kept.items())),
            "rescaled": list(self.rescaled),
            "grids": {name: asdict(grid) for name, grid in sorted(self.grids.items())},
        }

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the graph, weights in float, and the weights' scales."""
        kept = {
            name: tensor.detach().clone().contiguous()
            for name, tensor in self.quantized.state_dict().items()
            if not of_quantizer(name)
        }
        return kept | {SCALE_PREFIX + name: scale for name, scale in self.scales.items()}


def assembled(
    graph: fx.GraphModule,
    kept: Mapping[str, str],
    grids: Mapping[str, Grid],
    limit: int,
    rescaled: tuple[str, ...],
) -> State:
    """The state of a graph whose layers have biases: placed, with these grids, and weights of up to `limit`.

    grids: by node name, of all tensors that the placement rounds, and maybe of more.
    """
    placement = place(graph, kept)
    used = {name: grids[name] for name in placement.activations}
    scales = weight_scales(graph, placement, used, limit)
    quantized = insert_quantizers(graph, placement, used, scales)
    return State(graph, quantized, placement, used, scales, kept, rescaled)
