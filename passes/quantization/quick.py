"""A network quantized without a thought for its outputs: to see how fast it is, which its values do not decide."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...form import Form
from ...progress import Silent
from ..graph.capture import capture
from ..graph.folding import ensure_biases
from ..graph.layers import layer_name, layers_of
from ..graph.observe import observe
from .bias_correction import correctable
from .grids import grids_for
from .placement import BOTH_ADDENDS, factors, place
from .state import assembled

if TYPE_CHECKING:
    from ...calibration.scheme import QuantScheme
    from ...model import Model

WHAT = "quantizing to time it"


def quickly_quantized(model: Model, scheme: QuantScheme, keep_float: Sequence[str] = ()) -> Model:
    """`model` in INT8 where `quantize` would place it, on ranges of its example inputs alone.

    Nothing is equalized, corrected or given back to float for its outputs' sake. keep_float: names and patterns of
    layers that stay in float; one that matches none is no error, as a smaller network may lack a layer.
    """
    graph = capture(model)
    graph.meta[BOTH_ADDENDS] = scheme.both_addends
    ensure_biases(graph, correctable(graph, place(graph)))
    names = [layer_name(node) for node in layers_of(graph)]
    kept = {name: "kept" for name in names if any(fnmatch.fnmatch(name, p) for p in keep_float)}
    placement = place(graph, kept)
    observers = observe(graph, placement.activations, lambda: [model.example_inputs], Silent(), WHAT)
    centred = factors(graph) if scheme.centred_products else frozenset()
    grids = grids_for(observers, "minmax", scheme, centred)
    quantized = assembled(graph, kept, grids, scheme.weight_limit, ()).quantized
    return model.successor(quantized, Form.INT8)
