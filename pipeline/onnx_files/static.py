"""What in an ONNX graph does not depend on its inputs' values: constants, and what is computed from shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

BATCHES = (2, 3)
"""Two batch sizes tell what is fixed from what grows with the batch."""
MAX_VALUES = 2**28
MAX_ROUNDS = 8
_OF_SHAPE = frozenset({"Shape", "Size"})
_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


@dataclass(frozen=True)
class Static:
    """A tensor that inputs' values do not reach.

    value: it, or for one sample where it grows with the batch; by_batch: flat, True where it is to be multiplied by
    the batch; empty when nothing is.
    """

    value: np.ndarray[Any, Any]
    by_batch: tuple[bool, ...] = ()

    @property
    def varies(self) -> bool:
        """Whether the batch changes it."""
        return any(self.by_batch)


def static_values(
    model: onnx.ModelProto, example: Sequence[Tensor], dynamic_batch: bool
) -> dict[str, Static]:
    """The tensors at the border: computed from constants and shapes alone, and read by what is computed from inputs.

    They are taken from runs of onnxruntime on `example`, or on two batches of it where the batch is dynamic. A tensor
    that has more elements in a larger batch is no such value: what it is made from may be one.
    """
    found: dict[str, Static] = {}
    left: set[str] = set()
    for _ in range(MAX_ROUNDS):
        border = _border(model, left)
        unknown = [name for name in border if name not in found]
        if not unknown:
            break
        told = _told(model, unknown, example, dynamic_batch)
        found |= told
        left.update(name for name in unknown if name not in told)
    return {name: value for name, value in found.items() if name in _border(model, left)}


def _told(
    model: onnx.ModelProto, border: Sequence[str], example: Sequence[Tensor], dynamic_batch: bool
) -> dict[str, Static]:
    runs = [
        _evaluated(model, border, [_resized(x, batch) for x in example] if batch else list(example))
        for batch in (BATCHES if dynamic_batch else (0,))
    ]
    if any(run is None for run in runs):
        return {}
    found = {}
    for name in border:
        static = _compared([run[name] for run in runs if run is not None])
        if static is not None:
            found[name] = static
    return found


def _border(model: onnx.ModelProto, left: set[str]) -> list[str]:
    """Static tensors that others read, when the nodes that make those in `left` are not static."""
    stored = {i.name for i in model.graph.initializer}
    static = set(stored) | {""}
    for node in model.graph.node:
        plain = not any(a.HasField("g") or a.graphs for a in node.attribute) and node.op_type not in _RANDOM
        standard = node.domain in ("", "ai.onnx")
        kept = not left.intersection(node.output)
        if (
            plain
            and standard
            and kept
            and (node.op_type in _OF_SHAPE or all(name in static for name in node.input))
        ):
            static.update(node.output)
    computed = static - stored - {""}
    border = dict.fromkeys(output.name for output in model.graph.output if output.name in computed)
    for node in model.graph.node:
        if any(output in computed for output in node.output):
            continue
        for name in (*node.input, *_taken_by_bodies(node)):
            if name in computed:
                border[name] = None
    return list(border)


def _taken_by_bodies(node: onnx.NodeProto) -> set[str]:
    taken: set[str] = set()
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            for inner in graph.node:
                taken.update(inner.input)
                taken.update(_taken_by_bodies(inner))
            taken.update(output.name for output in graph.output)
    return taken


def _resized(x: Tensor, batch: int) -> Tensor:
    return x[:1].expand(batch, *x.shape[1:]).contiguous()


def _evaluated(
    model: onnx.ModelProto, names: Sequence[str], inputs: Sequence[Tensor]
) -> Mapping[str, np.ndarray[Any, Any]] | None:
    """Values of these tensors; None where onnxruntime cannot say them."""
    import onnx
    import onnxruntime

    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.output[:]
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            part.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        given = {value.name: x.numpy() for value, x in zip(model.graph.input, inputs, strict=True)}
        fed = {value.name: given[value.name] for value in session.get_inputs()}
        found = session.run(list(names), fed)
    except Exception:  # the graph then stays as it is, and the converter says what it lacks
        return None
    if sum(np.size(value) for value in found) > MAX_VALUES:
        return None
    return dict(zip(names, (np.asarray(value) for value in found), strict=True))


def _compared(values: Sequence[np.ndarray[Any, Any]]) -> Static | None:
    first, last = values[0], values[-1]
    if first.shape != last.shape or first.dtype != last.dtype:
        return None
    if np.array_equal(first, last, equal_nan=first.dtype.kind == "f"):
        return Static(first)
    if first.dtype.kind != "i" or first.ndim > 1:
        return None
    flat, other = first.reshape(-1).astype(np.int64), last.reshape(-1).astype(np.int64)
    low, high = BATCHES
    grows = flat != other
    if ((flat * high != other * low) & grows).any() or (flat[grows] % low).any():
        return None
    return Static(np.where(grows, flat // low, flat), tuple(bool(g) for g in grows))
