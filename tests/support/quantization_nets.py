"""What the quantization tests share: a model around a net, and data for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from edgepress.calibration.data import DataParts, Part
from edgepress.calibration.metric import TopK
from edgepress.calibration.scheme import QuantScheme
from edgepress.model import Model
from edgepress.passes.base import PassContext
from torch import Tensor, fx, nn


class Net(nn.Module):
    """Modules by name, and a forward that is given as a function of the module."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self._forward(self, *inputs)


def model_of(module: nn.Module, *shape: int, **options: object) -> Model:
    """A model whose example is one random sample of `shape`."""
    torch.manual_seed(1)
    return Model(module.eval(), (torch.randn(1, *shape),), **options)  # type: ignore[arg-type]


def samples(count: int, *shape: int, seed: int = 0, classes: int = 3) -> Part:
    """A part of random samples and labels."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        ((torch.randn(*shape, generator=generator),), torch.tensor(index % classes)) for index in range(count)
    ]
    return Part("calibration", rows)


def labelled_by(module: nn.Module, part: Part) -> Part:
    """The part's inputs, labelled with what `module` says: it scores 100 % on them."""
    with torch.no_grad():
        return Part("validation", [(x, module(x[0][None]).argmax(-1)[0]) for x, _ in part.samples])


def context_of(part: Part, validation: Part | None = None, **options: object) -> PassContext:
    """A context over one part; `scheme=QuantScheme(asymmetric=True)` and the like go through."""
    data = DataParts(part, part, validation or part, None, manifest="0")
    return PassContext(data, TopK(1), **options)  # type: ignore[arg-type]


def operators(graph: fx.GraphModule) -> list[str]:
    """The operator names of a graph in order: conv2d, relu, …"""
    return [
        str(n.target).removeprefix("aten.").split(".")[0]
        for n in graph.graph.nodes
        if n.op == "call_function"
    ]


def largest_difference(one: Tensor, other: Tensor) -> float:
    """Over the largest value of `one`."""
    return float((one - other).detach().abs().max() / one.detach().abs().max())


SYMMETRIC, ASYMMETRIC = QuantScheme(False), QuantScheme(True)


def settled(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random BatchNorm statistics, so that folding is no identity."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and layer.running_mean is not None:
            layer.running_mean.copy_(torch.randn(layer.num_features, generator=generator))
            layer.running_var.copy_(torch.rand(layer.num_features, generator=generator) + 0.5)
            if layer.weight is not None:
                nn.init.uniform_(layer.weight, 0.5, 2.0, generator=generator)
                nn.init.uniform_(layer.bias, -1.0, 1.0, generator=generator)
    return module.eval()


class ResidualNet(nn.Module):
    """A residual block with BatchNorm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.one = nn.Conv2d(8, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.two(torch.relu(self.one(x))) + x)
        return self.head(x.mean((2, 3)))


def residual_model(**options: object) -> Model:
    torch.manual_seed(3)
    return model_of(ResidualNet(), 3, 8, 8, **options)
