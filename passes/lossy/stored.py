"""What a plan of `l2` keeps: the coded tensors, the wide ones, and the model that they make."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...form import Form
from ...model import CodedTensor, Model
from ..base import PassPlan
from ..graph.capture import capture
from ..graph.operators import set_tensor
from .coded import Codes
from .counter import alike, entropy_bits
from .integers import integers_of, settled

CODES, VALUES, SCALE = "codes/", "values/", "scale/"


def rebuilt(model: Model, stored: Mapping[str, CodedTensor], others: Mapping[str, Tensor]) -> Model:
    """The model with the stored tensors in its captured graph, and the others, the wide ones."""
    graph = capture(model)
    integers = integers_of(graph)
    if integers:
        graph = settled(graph, integers)
    for name, tensor in others.items():
        set_tensor(graph, name, tensor.clone())
    for name, each in stored.items():
        set_tensor(graph, name, each.tensor())
    coded = {name: each for name, each in stored.items() if name not in integers}
    form = Form.INT8_CODES if model.form is Form.INT8 else Form.CODES
    return model.successor(graph, form, coded=coded)


def stored_in(plan: PassPlan) -> dict[str, CodedTensor]:
    """The coded tensors of a plan."""
    tensors = plan.tensors
    return {
        name: CodedTensor(tensors[CODES + name], tensors[VALUES + name], tensors.get(SCALE + name), axis)
        for name, axis in plan.structure["axes"].items()
    }


def others_in(plan: PassPlan) -> dict[str, Tensor]:
    """The other tensors of a plan, the wide ones."""
    return {n: t for n, t in plan.tensors.items() if not n.startswith((CODES, VALUES, SCALE))}


def flat(stored: Mapping[str, CodedTensor]) -> dict[str, Tensor]:
    """The coded tensors as a plan keeps them."""
    flat: dict[str, Tensor] = {}
    for name, each in stored.items():
        flat |= {CODES + name: each.indices, VALUES + name: each.values.clone()}
        if each.scale is not None:
            flat[SCALE + name] = each.scale
    return flat


def wide_in(codes: Mapping[str, Codes]) -> dict[str, Tensor]:
    """The tensors whose codes a file holds as floats."""
    return {name: each().detach().clone() for name, each in codes.items() if each.wide}


def symbols_of(coded: CodedTensor) -> Tensor:
    """The codes of a tensor, whole numbers about zero."""
    return coded.indices.float() - len(coded.values) // 2


def bits_taken(coded: CodedTensor) -> float:
    """Bits of a tensor's codes, by the counter."""
    symbols = symbols_of(coded)
    return entropy_bits(symbols, alike(symbols))
