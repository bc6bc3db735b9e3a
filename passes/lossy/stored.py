"""What a plan of `l2` keeps: the coded tensors, those that are not, and the model that they make."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, fx

from ...model import CodedTensor, Model
from ..base import PassPlan
from ..quantization.capture import capture
from ..quantization.operators import set_tensor

CODES, VALUES, SCALE = "codes/", "values/", "scale/"


def rebuilt(model: Model, stored: Mapping[str, CodedTensor], others: Mapping[str, Tensor]) -> Model:
    """The model with the stored tensors in its captured graph, and the others, which learned too."""
    graph = capture(model)
    for name, tensor in others.items():
        set_tensor(graph, name, tensor.clone())
    for name, each in stored.items():
        set_tensor(graph, name, each.tensor())
    return model.successor(graph, coded=dict(stored))


def stored_in(plan: PassPlan) -> dict[str, CodedTensor]:
    """The coded tensors of a plan."""
    tensors = plan.tensors
    return {
        name: CodedTensor(tensors[CODES + name], tensors[VALUES + name], tensors.get(SCALE + name), axis)
        for name, axis in plan.structure["axes"].items()
    }


def uncoded_in(plan: PassPlan) -> dict[str, Tensor]:
    """The other tensors of a plan, which learned too."""
    return {n: t for n, t in plan.tensors.items() if not n.startswith((CODES, VALUES, SCALE))}


def flat(stored: Mapping[str, CodedTensor]) -> dict[str, Tensor]:
    """The coded tensors as a plan keeps them."""
    flat: dict[str, Tensor] = {}
    for name, each in stored.items():
        flat |= {CODES + name: each.indices, VALUES + name: each.values.clone()}
        if each.scale is not None:
            flat[SCALE + name] = each.scale
    return flat


def uncoded(network: fx.GraphModule, stored: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors of a network with codes that are none."""
    return {
        name: tensor.detach().clone()
        for name, tensor in network.state_dict().items()
        if not name.startswith("codes_") and name not in stored
    }
