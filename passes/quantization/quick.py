"""A network quantized without a thought for its outputs: to see how fast it is, which its values do not decide."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from ...form import Form
from ...progress import Silent
from ..graph.capture import capture
from ..graph.folding import ensure_biases
from ..graph.layers import layer_name, layers_of
from ..graph.observe import observe
from .attention import softmaxes, too_fine
from .bias_correction import correctable
from .grids import best_grids, grids_for
from .placement import BOTH_ADDENDS, factors, place
from .quantizers import Grid
from .state import assembled

if TYPE_CHECKING:
    from torch import fx

    from ...calibration.scheme import QuantScheme
    from ...model import Model

WHAT = "quantizing to time it"


def quickly_quantized(model: Model, scheme: QuantScheme, keep_float: Sequence[str] = ()) -> Model:
    """`model` in INT8 where `quantize` would place it, on ranges of its example inputs alone.

    Nothing is equalized, corrected or given back to float for its outputs' sake. keep_float: names and patterns of
    layers that stay in float; one that matches none is no error, as a smaller network may lack a layer.
    """
    graph = _with_biases(model, scheme)
    names = [layer_name(node) for node in layers_of(graph)]
    kept = {name: "kept" for name in names if any(fnmatch.fnmatch(name, p) for p in keep_float)}
    grids = _grids(graph, model, scheme, kept)
    return model.successor(assembled(graph, kept, grids, scheme.weight_limit, ()).quantized, Form.INT8)


def fine_products(model: Model, scheme: QuantScheme, least_db: float) -> tuple[str, ...]:
    """The products of attention that `quantize` would leave in float, as far as the example inputs tell.

    least_db: as its option `softmax_sqnr_db`.
    """
    graph = _with_biases(model, scheme)
    attention = {node.name for nodes in softmaxes(graph).values() for node in nodes}
    grids = {name: grid for name, grid in _grids(graph, model, scheme, {}).items() if name in attention}
    if not grids or not least_db:
        return ()
    generator = torch.Generator().manual_seed(0)
    _, sqnr = best_grids(graph, [grids], lambda: [model.example_inputs], generator, Silent(), WHAT)
    return tuple(too_fine(graph, place(graph), sqnr, least_db))


def _with_biases(model: Model, scheme: QuantScheme) -> fx.GraphModule:
    graph = capture(model)
    graph.meta[BOTH_ADDENDS] = scheme.both_addends
    ensure_biases(graph, correctable(graph, place(graph)))
    return graph


def _grids(
    graph: fx.GraphModule, model: Model, scheme: QuantScheme, kept: Mapping[str, str]
) -> dict[str, Grid]:
    names = place(graph, kept).activations
    observers = observe(graph, names, lambda: [model.example_inputs], Silent(), WHAT)
    return grids_for(observers, "minmax", scheme, factors(graph) if scheme.centred_products else frozenset())
