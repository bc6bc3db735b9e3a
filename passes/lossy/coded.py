"""Tensors of a captured graph as codes: modules that stand where the tensors stood, and what remains of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from ...model import CodedTensor
from ..graph.operators import along, get_tensor
from .names import TransformName
from .transforms import EDGES, EVEN, LARGEST, Transform

WIDEST = 2.0**20
"""Where codes of wide tensors end, which the file holds as floats."""
SHRINK_LIMIT = 4.0
"""Most that steps and edges may shrink or grow in all, as a logarithm."""


@dataclass(frozen=True)
class Unit:
    """The unit that a tensor is measured in: one number, or one for each slice along `axis`.

    wide: its codes need more than a byte each, so that the file holds whole multiples of the unit as floats. reach: of
    a tensor on a grid of its own, whose codes are whole multiples of the unit and stay so, the largest code.
    """

    values: Tensor
    axis: int | None = None
    wide: bool = False
    reach: int | None = None

    def shaped(self, rank: int) -> Tensor:
        """The unit as a tensor of so many axes is multiplied by it."""
        return self.values if self.axis is None else along(self.values, self.axis, rank)


class Codes(nn.Module):
    """A tensor as codes: latent values in units, rounded on the way; the gradient passes straight through.

    Step and edge are kept as logarithms, relative to a unit, so that one learning rate suits all of them. On a grid of
    its own a tensor has neither to learn.
    """

    unit: Tensor

    def __init__(self, tensor: Tensor, unit: Unit, transform: TransformName) -> None:
        super().__init__()
        self.on_grid = unit.reach is not None
        self.axis, self.wide, self.reach = unit.axis, unit.wide, unit.reach or LARGEST
        self.name: TransformName = "scale" if self.on_grid else transform
        self.register_buffer("unit", unit.shaped(tensor.dim()))
        self.latent = nn.Parameter(tensor.detach() / self.unit)
        self.log_step = nn.Parameter(torch.zeros(()))
        self.log_edge = nn.Parameter(torch.tensor(EDGES[self.name]).log())

    def learn_from(self, other: Codes) -> None:
        """Take over what another's transform learned."""
        self.log_step.data, self.log_edge.data = other.log_step.data.clone(), other.log_edge.data.clone()

    def transform(self) -> Transform:
        """The transform with the step and edge as they are now."""
        start = float(torch.tensor(EDGES[self.name]).log())
        step, edge = (
            x.clamp(at - SHRINK_LIMIT, at + SHRINK_LIMIT)
            for x, at in ((self.log_step, 0.0), (self.log_edge, start))
        )
        return Transform(self.name, step.exp(), edge.exp())

    def codes(self) -> Tensor:
        """The codes before rounding, of the tensor's shape."""
        return self._limited(self.transform().encode(self.latent))

    def symbols(self) -> Tensor:
        """Rounded codes, without a gradient."""
        return self.rounded_codes(self.latent.detach())

    def rounded_codes(self, latent: Tensor) -> Tensor:
        """The codes of other values in units, of any shape."""
        with torch.no_grad():
            return torch.round(self._limited(self.transform().encode(latent))) + 0.0  # no negative zeros

    def _limited(self, codes: Tensor) -> Tensor:
        limit = WIDEST if self.wide else self.reach
        return codes.clamp(-limit, limit)

    def forward(self) -> Tensor:
        """The tensor as it is decoded from its codes."""
        codes = self.codes()
        rounded = codes + (torch.round(codes) - codes).detach()
        return self.transform().decode(rounded) * self.unit

    def coded(self, symbols: Tensor) -> CodedTensor:
        """What is stored of the tensor, given its codes as whole numbers."""
        most = int(symbols.abs().max())
        factor = self.unit if self.axis is None else torch.ones(())
        with torch.no_grad():
            above = self.transform().decode(torch.arange(1.0, most + 1)) * factor.reshape(())
        scale = None if self.axis is None else self.unit.reshape(-1).clone()
        values = about_zero(evenly(above) if self.name in EVEN else above)
        return CodedTensor((symbols + most).to(torch.uint8), values, scale, self.axis)


def evenly(above: Tensor) -> Tensor:
    """Values of codes 1, 2, …, that lie on a line from the second on, as float32 of the very same line in binary64: a
    file tells the first two."""
    if len(above) < 3:
        return above
    first, second = above[:2].double()
    line = second + torch.arange(len(above) - 2, dtype=torch.float64).add(1) * (second - first)
    return torch.cat([above[:2], line.float()])


def about_zero(above: Tensor) -> Tensor:
    """The values of all codes from those above 0."""
    return torch.cat([-above.flip(0), torch.zeros(1), above])


def codes_for(graph: fx.GraphModule, units: Mapping[str, Unit], transform: TransformName) -> dict[str, Codes]:
    """The codes of the named tensors of a graph, in units of their own."""
    # What is no layer's weight is measured in one number and has no tail: its steps are all of one width.
    return {
        name: Codes(get_tensor(graph, name), unit, transform if unit.axis is not None else "scale")
        for name, unit in units.items()
    }


def insert_codes(graph: fx.GraphModule, codes: Mapping[str, Codes]) -> fx.GraphModule:
    """A copy of a captured graph in which the named tensors come out of their codes, the modules `l2_codes_0`, …"""
    coded = copy.deepcopy(graph)
    names = {tensor: f"l2_codes_{index}" for index, tensor in enumerate(sorted(codes))}
    for tensor, name in names.items():
        coded.add_submodule(name, codes[tensor])
    for node in list(coded.graph.nodes):
        if node.op == "get_attr" and str(node.target) in names:
            with coded.graph.inserting_before(node):
                made = coded.graph.call_module(names[str(node.target)])
            made.meta.update(node.meta)
            node.replace_all_uses_with(made)
            coded.graph.erase_node(node)
    for tensor in names:
        owner, _, attribute = tensor.rpartition(".")
        delattr(coded.get_submodule(owner), attribute)
    coded.graph.lint()
    coded.recompile()
    return coded
