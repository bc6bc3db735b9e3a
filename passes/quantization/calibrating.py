"""A graph calibrated: its tensors observed, and grids for them by each way of choosing ranges."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from ...calibration.scheme import RangeChoice
from ..base import PassContext
from ..graph.folding import ensure_biases
from ..graph.observe import observe
from .attention import softmaxes, too_fine
from .bias_correction import correctable
from .choices import Calibrated, Choices, StepOptions
from .grids import METHODS, best_grids, grids_for
from .placement import factors, place
from .quantizers import Grid

Samples = Callable[[], Iterator[tuple[Tensor, ...]]]
"""Batches of inputs, as often as asked for."""


def calibrate(
    choices: Choices, samples: Samples, trials: Samples, options: StepOptions, context: PassContext
) -> Calibrated:
    """A copy of the graph of `choices`, calibrated on `samples`; ways are compared tensor by tensor on `trials`."""
    graph = copy.deepcopy(choices.graph)
    ensure_biases(graph, correctable(graph, place(graph)))
    placement = place(graph, choices.kept)
    observers = observe(graph, placement.activations, samples, context.progress, options.what)
    scheme, method = context.scheme, options.ranges
    methods = METHODS if method == "auto" else (method,)
    centred = factors(graph) if scheme.centred_products else frozenset()
    grids: dict[RangeChoice, Mapping[str, Grid]] = {
        m: grids_for(observers, m, scheme, centred) for m in methods
    }
    judged = set(observers)
    if method != "auto":
        fine = {node.name for nodes in softmaxes(graph).values() for node in nodes}
        judged &= fine if options.softmax_sqnr_db else set()
    sqnr: dict[str, float] = {}
    best: dict[str, Grid] = {}
    if judged:
        best, sqnr = best_grids(
            graph,
            [{name: found[name] for name in sorted(judged)} for found in grids.values()],
            trials,
            context.generator(),
            context.progress,
            options.what,
        )
    grids["auto"] = {**grids[methods[0]], **best}
    return Calibrated(graph, grids, too_fine(graph, placement, sqnr, options.softmax_sqnr_db))
