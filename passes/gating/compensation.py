"""Compensation: what was removed is taken over by the weights that are left, layer by layer, by regression.

After a removal each layer that lost inputs, or whose inputs are others than before, is fitted to what the same layer
puts out in the whole network: W, b = argmin Σ m ||y - W x - b||² + λ ||W - W_S||², where x are the inputs as the
smaller network gives them, all layers before compensated already, y the whole network's outputs of the same samples,
m how much their position matters to its answer (`matters.py`: of a transformer that classifies, one token of many), and
W_S the weights that are left (OSSCAR, Meng et al. 2024, arXiv 2403.12983; CORP 2026). Nothing is trained, and no label
is looked at. That layers whose inputs merely changed are fitted as well matters most behind a removed block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..channels.surgery import Cut, kept_of
from .products import Call, Product, Products, calls_in_order, weight_names
from .ridge import Rows, best_change, weighted_energy, weighted_mean
from .whole_outputs import Batch, WholeOutputs, kept_outputs

ROUNDING = 1e-9
"""Share of the outputs' energy up to which a difference is that of sums in another order."""
LEAST_SCALE = 1e-6
"""Of a norm's largest scale."""
SMALLEST = 1e-30  # outputs that are always the same have no variance


@dataclass(frozen=True)
class Compensated:
    """What became of a layer.

    before, after: the squared error of its outputs on held-out samples, over their variance, positions weighted as they
    matter; None where it was not measured. ridge: λ over the mean diagonal of XᵀX, None where the layer stays as it
    was. left: why, in words.
    """

    name: str
    before: float | None = None
    after: float | None = None
    ridge: float | None = None
    left: str = ""


def compensate(
    whole: nn.Module,
    smaller: nn.Module,
    cut: Cut,
    fit: Sequence[Batch],
    held_out: Sequence[Batch],
    factors: Mapping[str, float | Sequence[float]] = MappingProxyType({}),
    matters: Mapping[str, Tensor] = MappingProxyType({}),
) -> list[Compensated]:
    """Compensate the layers of `smaller` in place, in the order of their calls; a row for each that was to be.

    whole, smaller: in eval mode, layers of the same names; what `cut` says is kept is what `smaller` has left, tensors
    multiplied by their `factors`. Both take any number of samples: all go through at once, so that a layer is fitted
    with those before it fitted already.
    matters: how much each position of the outputs of a layer of `whole` counts, (positions,), positive: all axes but
    the samples' and the channels', flattened in their order. All alike of a layer that is not named.
    fit, held_out: batches of inputs. A layer takes of a few λ the one that serves the held-out samples best, none where
    none makes its error smaller. Whether that serves the network's outputs is for the caller to see.
    Only weights and biases change, and the running means of BatchNorms, which stand for the bias that a layer before
    one lacks. Layers that see what they saw before stay bit for bit.
    """
    run = _Compensation(whole, smaller, cut, factors, matters, fit, held_out)
    run.fit_all()
    return run.rows


class _Compensation:
    """One run of both networks."""

    def __init__(
        self,
        whole: nn.Module,
        smaller: nn.Module,
        cut: Cut,
        factors: Mapping[str, float | Sequence[float]],
        matters: Mapping[str, Tensor],
        fit: Sequence[Batch],
        held_out: Sequence[Batch],
    ) -> None:
        self.whole, self.smaller, self.cut = whole, smaller, cut
        inputs = tuple(torch.cat(column) for column in zip(*fit, *held_out, strict=True))
        self.share = sum(len(batch[0]) for batch in fit) / len(inputs[0])
        self.inputs, self.rows = inputs, list[Compensated]()
        self.calls = calls_in_order(whole, tuple(x[:1] for x in inputs))
        left = {name for name, _ in smaller.named_modules()}
        fittable = {name: call for name, call in self.calls.items() if name in left and not _unfit(call)}
        self.wanted = WholeOutputs(whole, inputs, self.share, fittable, cut, factors, matters)

    def fit_all(self) -> None:
        """Run the smaller network once, and fit each layer when it is come to, before it multiplies."""
        with torch.no_grad(), Products(self.smaller, before=self._fit):
            self.smaller(*self.inputs)
        seen = {row.name for row in self.rows}
        names = [name for name in _lost_inputs(self.smaller, self.cut) if name not in seen]
        self.rows += [Compensated(name, left=self._why(name)) for name in names]

    def _fit(self, product: Product) -> None:
        found = self.wanted.take(product.name)
        if found is None:
            return
        sampled, made = found
        wanted = self._before_norm(product.name, made)
        inputs = product.rows(sampled)
        outputs = inputs @ product.weight.flatten(1).T
        lacking = wanted - (outputs if product.bias is None else outputs + product.bias)
        split = round(len(inputs) * self.share)
        weights = sampled.weights.expand(len(inputs), -1)
        fit, held_out = (
            Rows(inputs[part].flatten(0, 1), lacking[part].flatten(0, 1), weights[part].flatten())
            for part in (slice(split), slice(split, None))
        )
        judged = wanted[split:].flatten(0, 1)
        if held_out.energy() > ROUNDING * weighted_energy(judged, held_out.weights):
            mean = weighted_mean(judged, held_out.weights)
            spread = weighted_energy(judged, held_out.weights, around=mean)
            self._change(product, fit, held_out, max(spread, SMALLEST))

    def _before_norm(self, name: str, made: Tensor) -> Tensor:
        """What a layer is to put out so that the norm behind it, which may have changed, puts out what it did."""
        norm = self.calls[name].norm
        if norm is None:
            return made
        kept = kept_outputs(self.cut, name)
        scale, shift = (
            kept_of(x, {0: kept} if kept else {}) for x in _affine(self.whole.get_submodule(norm))
        )
        own_scale, own_shift = _affine(self.smaller.get_submodule(norm))
        # What is scaled by next to nothing is a constant behind the norm, whatever the layer puts out.
        seen = own_scale.abs() > LEAST_SCALE * own_scale.abs().max()
        factor = torch.where(seen, scale / own_scale, 1.0)
        offset = torch.where(seen, (shift - own_shift) / own_scale, 0.0)
        return (made * factor + offset).to(made.dtype)

    def _change(self, product: Product, fit: Rows, held_out: Rows, spread: float) -> None:
        """Change the layer where that helps. spread: the sum of squares that its held-out error is told over."""
        layer, norm = self.smaller.get_submodule(product.name), self.calls[product.name].norm
        own = product.bias is not None and product.bias is layer._parameters.get("bias")
        best = best_change(fit, held_out, with_bias=own or norm is not None)
        before = held_out.energy() / spread
        if best is None:
            self.rows.append(
                Compensated(product.name, before, before, left="no change helps held-out samples")
            )
            return
        change, after = best
        product.weight.add_(change.weight.reshape(product.weight.shape))
        if own:
            assert product.bias is not None
            product.bias.add_(change.bias)
        elif norm is not None:  # it subtracts the mean, where a bias would be added
            self.smaller.get_buffer(f"{norm}.running_mean").sub_(change.bias)
        self.rows.append(Compensated(product.name, before, after / spread, change.ridge))

    def _why(self, name: str) -> str:
        """Why a layer that lost inputs was not looked at."""
        if name in self.calls:
            return (
                _unfit(self.calls[name])
                or "it sees what it saw before, or its inputs do not grow with the samples"
            )
        shared = any(name in names for names in weight_names(self.smaller).values() if len(names) > 1)
        return (
            "another layer shares its weight" if shared else "nothing is multiplied with its weight as it is"
        )


def _unfit(call: Call) -> str:
    """Why a layer cannot be fitted, in words; "" where it can."""
    if call.times > 1:
        return f"it is called {call.times} times"
    if call.product.settings.get("groups", 1) > 1:
        return "it is a grouped convolution"
    return "" if call.product.batched else "its inputs have no dimension for the samples"


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift, float64, that a BatchNorm is in eval mode."""
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def _lost_inputs(network: nn.Module, cut: Cut) -> list[str]:
    """The layers that are left with fewer inputs."""
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, layers) and 1 in cut.tensors.get(f"{name}.weight", {})
    ]
