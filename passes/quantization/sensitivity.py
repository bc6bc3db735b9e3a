"""Sensitivity: what quantizing each layer alone costs, and the fewest layers to give back to float."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import fx

from ...calibration.metric import ROUNDING
from ...calibration.sqnr import worst_sqnr_db
from ...progress import Progress
from ..graph.observe import Batch, judged_nodes, judged_values
from .placement import Placement
from .quantizers import ActivationQuantizer, AnyWeightQuantizer, quantizers_of


@dataclass(frozen=True)
class LayerSensitivity:
    """SQNR in dB of the network's outputs, the worst of them, when this layer's inputs and weight alone are rounded."""

    layer: str
    sqnr_db: float


def measure_sensitivity(
    quantized: fx.GraphModule, placement: Placement, batch: Batch, progress: Progress
) -> list[LayerSensitivity]:
    """Every quantized layer's sensitivity on one batch, the most sensitive first."""
    quantizers = quantizers_of(quantized)
    readers = _quantizers_by_layer(quantized, placement)
    results = []
    try:
        _enable(quantizers.values(), False)
        names = judged_nodes(quantized)
        reference = judged_values(quantized, batch, names)
        for layer, read in progress.track(readers.items(), "sensitivity of each layer", len(readers)):
            _enable([quantizers[n] for n in read], True)
            rounded = judged_values(quantized, batch, names)
            results.append(LayerSensitivity(layer, worst_sqnr_db(reference, rounded)))
            _enable([quantizers[n] for n in read], False)
    finally:
        _enable(quantizers.values(), True)
    return sorted(results, key=lambda r: r.sqnr_db)


def fewest_float_layers(
    ranked: Sequence[str], drop_with: Callable[[frozenset[str]], float], max_drop: float
) -> tuple[frozenset[str], dict[str, float]]:
    """The smallest set of layers found along `ranked` (most sensitive first) whose return meets `max_drop`.

    drop_with(layers kept in float) measures the drop. A doubling search finds how many of the first layers
    are needed, then each is quantized again if the drop allows. Returns the set and, for each layer in it,
    the drop (a fraction) that quantizing it again would bring. All layers when even that misses `max_drop`.
    """
    measured, limit = functools.cache(drop_with), max_drop + ROUNDING
    failing, count = -1, 0
    while count < len(ranked) and measured(frozenset(ranked[:count])) > limit:
        failing, count = count, min(len(ranked), max(1, 2 * count))
    while count - failing > 1:
        middle = (failing + count) // 2
        if measured(frozenset(ranked[:middle])) <= limit:
            count = middle
        else:
            failing = middle
    kept = set(ranked[:count])
    costs: dict[str, float] = {}
    for layer in reversed(ranked[:count]):
        drop = measured(frozenset(kept - {layer}))
        if drop <= limit:
            kept.discard(layer)
        else:
            costs[layer] = drop
    return frozenset(kept), {layer: costs[layer] for layer in kept}


def _quantizers_by_layer(module: fx.GraphModule, placement: Placement) -> dict[str, list[str]]:
    """The quantizers, for each quantized layer, that round what it reads: the nearest ones above it."""
    names = set(quantizers_of(module))
    nodes = {n.name: n for n in module.graph.nodes}
    readers: dict[str, set[str]] = {}
    for covered in placement.coverage:
        if covered.quantized:  # a module that is called twice is one layer
            nearest = (_nearest(operand, names) for operand in nodes[covered.node].all_input_nodes)
            readers.setdefault(covered.layer, set()).update(*nearest)
    return {layer: sorted(found) for layer, found in readers.items()}


def _nearest(node: fx.Node, names: set[str]) -> set[str]:
    if node.op == "call_module" and str(node.target) in names:
        return {str(node.target)}
    if node.op in ("placeholder", "get_attr"):
        return set()
    return {q for operand in node.all_input_nodes for q in _nearest(operand, names)}


def _enable(quantizers: Iterable[ActivationQuantizer | AnyWeightQuantizer], enabled: bool) -> None:
    for quantizer in quantizers:
        quantizer.enabled = enabled
