"""What the layers of the whole network put out, which those of the smaller one are to put out, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..channels.surgery import Cut
from .products import Call, Product, Products, Sampled, sample_axis

LEAST_ROWS, ROWS_PER_INPUT = 4096, 8
"""How many rows a layer is fitted to, where the samples have so many: the larger of the two."""
HELD = 2**28
"""Outputs that are held at once, over all layers; for more the network is run again."""
Batch = tuple[Tensor, ...]


def kept_outputs(cut: Cut, name: str) -> list[int] | None:
    """The outputs that a layer keeps; None where it keeps all."""
    return cut.tensors.get(f"{name}.weight", {}).get(0)


class WholeOutputs:
    """What the layers of the whole network put out: as many at once as may be held."""

    def __init__(
        self,
        whole: nn.Module,
        inputs: Batch,
        share: float,
        calls: dict[str, Call],
        cut: Cut,
        factors: Mapping[str, float | Sequence[float]],
        matters: Mapping[str, Tensor],
    ) -> None:
        """share: of the inputs, that layers are fitted to. calls: of the layers that are asked for, in their order.

        cut, factors: what is kept of the outputs, and by what weights are multiplied, and matters: how much positions
        count, as `compensate` has them.
        """
        self.whole, self.inputs, self.share, self.calls = whole, inputs, share, calls
        self.cut, self.factors, self.matters, self.order = cut, factors, matters, list(calls)
        self.held: dict[str, tuple[Sampled, Tensor] | None] = {}

    def take(self, name: str) -> tuple[Sampled, Tensor] | None:
        """Where a layer is looked at, and its kept outputs there, (samples, positions, outputs); None of some.

        Asked in the order of the calls; what was taken is held no longer.
        """
        if name not in self.calls:
            return None
        if name not in self.held:
            self._hold(self.order.index(name))
        return self.held.pop(name)

    def _hold(self, first: int) -> None:
        """Run the whole network, and hold outputs of its layers from the `first` one on."""
        self.held, coming = {}, set(self.order[first:])

        def keep(product: Product, outputs: Tensor) -> None:
            held = sum(rows.numel() for _, rows in filter(None, self.held.values()))
            if product.name in coming and held < HELD:
                self.held[product.name] = self._rows(product, outputs)

        with Products(self.whole, after=keep):
            self.whole(*self.inputs)

    def _rows(self, product: Product, outputs: Tensor) -> tuple[Sampled, Tensor] | None:
        axis = sample_axis(self.calls[product.name].product, product, len(self.inputs[0]))
        if axis is None:
            return None
        channels, samples = outputs.shape[product.channel_axis], outputs.shape[axis]
        asked = max(LEAST_ROWS, ROWS_PER_INPUT * product.weight[0].numel())
        alike = torch.ones(outputs.numel() // (channels * samples))
        sampled = Sampled.drawn(axis, self.matters.get(product.name, alike), asked / (samples * self.share))
        kept, factor = kept_outputs(self.cut, product.name), self.factors.get(f"{product.name}.weight", 1.0)
        rows = product.made(outputs, sampled)
        rows = rows if kept is None else rows[..., kept]
        return sampled, rows * torch.tensor(factor, dtype=rows.dtype, device=rows.device)
