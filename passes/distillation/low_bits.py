"""Which bits each weight gets, where learned points start, and what the weights take on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, fx, nn

from ..base import PassContext
from ..graph.operators import get_tensor
from ..quantization.bucket_quantizers import weight_bytes
from ..quantization.buckets import (
    centred_points,
    quantile_points,
    redistribute,
    scaled,
    scaling,
    to_buckets,
    uniform_points,
)
from ..quantization.placement import Placement, WeightSite
from ..quantization.quantizers import WeightQuantizer, stored_bytes, weight_quantizers_of
from ..quantization.rebuild import WeightSpec, least_steps
from ..quantization.state import State
from ..teaching.information import drawn_gradients
from ..teaching.task import Task
from ..training.draws import generator
from .options import DistillOptions

SENSITIVITY_SAMPLES = 128


def choose_specs(
    options: DistillOptions, state: State, context: PassContext, task: Task, batch: int
) -> dict[str, WeightSpec]:
    """How each placed weight is stored, by tensor name; those of plain INT8 are left out."""
    assert options.weight_bits != "float"
    sites = state.placement.weights
    outer = {site.tensor for site in (*sites[:1], *sites[-1:])}
    bits: dict[str, int] = {
        site.tensor: options.first_last_bits if site.tensor in outer else options.weight_bits
        for site in sites
    }
    inner = [site for site in sites if site.tensor not in outer]
    if options.redistribute_bits and inner:
        least = 1 if options.points == "learned" and options.training.epochs == 0 else 2
        found = sensitivities(state, inner, options, context, task, batch)
        bits |= redistribute(found, options.weight_bits, least)
    specs = {name: WeightSpec(b, options.bucket) for name, b in bits.items()}
    return {name: spec for name, spec in specs.items() if spec != WeightSpec()}


def sensitivities(
    state: State,
    sites: list[WeightSite],
    options: DistillOptions,
    context: PassContext,
    task: Task,
    batch: int,
) -> dict[str, tuple[int, float]]:
    """The number of weights of each tensor, and its mean squared gradient times the mean square of its scales α.

    The gradients are those of the network's own predictions: of the log-likelihood of labels drawn from its outputs
    (the Fisher information, which is the curvature of the KL to the unrounded network, zero gradient as that has).
    """
    network = state.graph
    weights: dict[str, Tensor] = {
        site.tensor: nn.Parameter(get_tensor(network, site.tensor).clone()) for site in sites
    }
    squares = dict.fromkeys(weights, 0.0)
    draws = generator(context.seed, "sensitivity")
    count = 0
    part = context.data.calibration.head(max(SENSITIVITY_SAMPLES, batch))
    for samples, gradients in drawn_gradients(network, weights, part, batch, draws, task):
        for name, gradient in gradients.items():
            squares[name] += float((gradient.double() ** 2).mean())
        count += samples
    found = {}
    for site in sites:
        weight = weights[site.tensor].detach()
        alpha, _ = scaling(to_buckets(weight, site.axis, options.bucket))
        found[site.tensor] = (weight.numel(), squares[site.tensor] / count * float((alpha**2).mean()))
    return found


def least_scales(state: State, limit: int) -> dict[str, Tensor]:
    """The least steps of each weight's INT8 grid, (channels,), for its layer's bias."""
    return {
        site.tensor: least_steps(
            get_tensor(state.graph, site.tensor), site.axis, state.scales[site.tensor], limit
        )
        for site in state.placement.weights
    }


def start_points(
    trained: fx.GraphModule, specs: Mapping[str, WeightSpec], as_trained: bool
) -> dict[str, Tensor]:
    """Where the points of each tensor start: at the quantiles of its scaled weights (Polino et al. 2018, section 3.2),
    centred among the weights nearest to each.

    as_trained: the weights learned to lie between equally spaced points, and start from these.
    """
    points: dict[str, Tensor] = {}
    for name, quantizer in weight_quantizers_of(trained).items():
        if name not in specs:
            continue
        spec = specs[name]
        if as_trained:
            points[name] = uniform_points(spec.bits)
        else:
            rows = to_buckets(get_tensor(trained, name), quantizer.axis, spec.bucket)
            v = scaled(rows, *scaling(rows))
            points[name] = centred_points(v, quantile_points(v, spec.bits))
    return points


def as_executed(placement: Placement, specs: Mapping[str, WeightSpec], float_activations: bool) -> Placement:
    """The placement as runtimes will execute it: layers that are computed in float say why."""
    across = {s.layer for s in placement.weights if specs.get(s.tensor, WeightSpec()).bucket != "channel"}
    rows = []
    for row in placement.coverage:
        reason = "its activations stay float; its weight is stored in few bits" if float_activations else ""
        if row.layer in across:
            reason = (
                "a scale for so many consecutive weights has no INT8 kernel; its weight is stored in few bits"
            )
        rows.append(replace(row, quantized=False, reason=reason) if row.quantized and reason else row)
    return replace(placement, coverage=tuple(rows))


def sizes_note(network: fx.GraphModule) -> list[str]:
    """What the whole network takes with weights packed to their bits, and with an ideal entropy coder on top."""
    quantizers = weight_quantizers_of(network)
    packed = coded = 0
    bits: dict[int, int] = {}
    for name, quantizer in quantizers.items():
        if isinstance(quantizer, WeightQuantizer):
            bits[8] = bits.get(8, 0) + 1
            continue
        in_bits, in_entropy = weight_bytes(quantizer, get_tensor(network, name))
        packed, coded = packed + in_bits, coded + in_entropy
        bits[quantizer.bits] = bits.get(quantizer.bits, 0) + 1
    if not packed:
        return []
    total = stored_bytes(network)
    told = ", ".join(f"{count} of {b} bits" for b, count in sorted(bits.items()))
    return [
        f"weights: {told}; {total / 1e3:.1f} kB with all of them packed, {(total - packed + coded) / 1e3:.1f} kB with"
        " their levels at their order-0 entropy"
    ]
