"""What is taken out of a network, as data, and taking it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .surgery import Cut, copied, keep_blocks, keep_channels, plain_parameters


class Skipped(nn.Module):
    """In the place of a block that was taken out: hands on the tensor that it is given, whatever else comes with it."""

    def forward(self, *given: object, **named: object) -> Tensor:
        """The first tensor among the arguments."""
        return next(x for x in (*given, *named.values()) if isinstance(x, Tensor))


@dataclass(frozen=True)
class Removal:
    """What is taken out of a network. cut: the channels that stay; skipped: blocks that are passed over.

    factors: by which tensors are multiplied, by name, so that what is left computes what it did; a list has one for
    each row (dimension 0) that is left.
    children: of a container those that stay, numbered anew where they are numbered; all other names here are those that
    parts have then.
    """

    cut: Cut = field(default_factory=Cut)
    skipped: tuple[str, ...] = ()
    factors: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    children: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "cut": self.cut.to_json(),
            "skipped": list(self.skipped),
            "factors": dict(self.factors),
            "children": {name: list(keys) for name, keys in self.children.items()},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Removal:
        """What `to_json` wrote."""
        cut = Cut.from_json(stored["cut"])
        return cls(cut, tuple(stored["skipped"]), dict(stored["factors"]), dict(stored["children"]))


def removed(module: nn.Module, removal: Removal) -> nn.Module:
    """A copy of a network without what is taken out, in eval mode; every parameter of it can be trained.

    AttributeError, IndexError or KeyError when the removal is of another network.
    """
    smaller = copied(module)
    smaller.eval()  # some return nothing
    keep_blocks(smaller, removal.children)
    keep_channels(smaller, removal.cut)
    with torch.no_grad():
        for name, factor in removal.factors.items():
            parameter = smaller.get_parameter(name)
            rows = torch.tensor(factor, dtype=torch.float64).reshape(-1, *[1] * (parameter.dim() - 1))
            parameter.mul_(rows.to(parameter))
    for name in removal.skipped:
        parent, _, key = name.rpartition(".")
        container = smaller.get_submodule(parent)
        container.get_submodule(key)  # which must be there
        container._modules[key] = Skipped()
    plain_parameters(smaller)
    return smaller
