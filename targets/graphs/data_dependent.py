"""Whether an inference takes work that depends on what its inputs hold, and not on their sizes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
SIZED_BY: Mapping[str, tuple[int, ...]] = {
    **{"NonZero": (0,), "Compress": (1,), "Unique": (0,), "NonMaxSuppression": (0, 1, 2, 3, 4)},
    **{"Reshape": (1,), "Expand": (1,), "Tile": (1,), "Slice": (1, 2, 3, 4), "Pad": (1, 3), "TopK": (1,)},
    **{"Range": (0, 1, 2), "ConstantOfShape": (0,), "OneHot": (1,), "Resize": (1, 2, 3), "Upsample": (1,)},
    **{"Split": (1,), "SplitToSequence": (1,), "Squeeze": (1,), "Unsqueeze": (1,), "CenterCropPad": (1,)},
    **{"SequenceAt": (1,), "SequenceErase": (1,), "MaxUnpool": (2,), "Col2Im": (1, 2), "AffineGrid": (1,)},
    **{"DFT": (1, 2), "STFT": (1, 3), "HannWindow": (0,), "HammingWindow": (0,), "BlackmanWindow": (0,)},
    **{"RNN": (4,), "GRU": (4,), "LSTM": (4,), "ImageDecoder": (0,), **dict.fromkeys(_REDUCTIONS, (1,))},
}
"""Inputs of an operator, by place, whose values decide how large what it makes is, or how long it works."""
_SIZES_ONLY = frozenset({"Shape", "Size"})


def data_dependent(model: onnx.ModelProto) -> str | None:
    """The first operator whose work depends on the values of the graph's inputs, as "If 'exit'"; None for none.

    That is a condition or a number of rounds computed from them (If, Loop), or a size (NonZero, a shape that is
    computed). What a shape of fixed or symbolic size is computed from, and what folds into constants, does not count.
    """
    if model.functions:
        from onnx.inliner import inline_local_functions

        model = inline_local_functions(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    return _walk(model.graph, {value.name for value in model.graph.input} - stored)


def _walk(graph: onnx.GraphProto, varying: set[str]) -> str | None:
    """The first such operator of a graph, or None with every tensor added to `varying` that depends on the inputs."""
    for node in graph.node:
        told = f"{node.op_type} {node.name or next(iter(node.output), '')!r}"
        decisive = SIZED_BY.get(node.op_type, ()) if node.domain in ("", "ai.onnx") else ()
        if any(node.input[i] in varying for i in decisive if i < len(node.input)):
            return told
        bodies = [a.g for a in node.attribute if a.HasField("g")]
        if node.op_type == "If":
            found = told if node.input[0] in varying else _branches(node, bodies, varying)
        elif node.op_type == "Loop":
            found = told if varying & set(node.input[:2]) else _rounds(node, bodies[0], varying, told)
        elif bodies:  # Scan goes on as long as its sequence is, whose size is known
            found = _rounds(node, bodies[0], varying, None)
        else:
            found = None
            if node.op_type not in _SIZES_ONLY and varying & set(node.input):
                varying.update(node.output)
        if found is not None:
            return found
    return None


def _branches(node: onnx.NodeProto, bodies: list[onnx.GraphProto], varying: set[str]) -> str | None:
    """Of an If whose branch is chosen without the inputs."""
    for body in bodies:
        inside = set(varying)
        if found := _walk(body, inside):
            return found
        varying.update(o for o, own in zip(node.output, body.output, strict=True) if own.name in inside)
    return None


def _rounds(node: onnx.NodeProto, body: onnx.GraphProto, varying: set[str], loop: str | None) -> str | None:
    """Of a body that runs in rounds and hands values on; loop: what to tell when it decides itself how many."""
    first = 2 if loop else 0  # of a Loop: the round and its condition are no values that are handed on
    given = list(node.input)[-(len(body.input) - first) :] if len(body.input) > first else []
    inside = set(varying)
    inside.update(b.name for b, a in zip(body.input[first:], given, strict=False) if a in varying)
    carried = body.output[1:] if loop else body.output
    while True:
        before = len(inside)
        if found := _walk(body, inside):
            return found
        if loop and body.output[0].name in inside:
            return loop
        states = zip(body.input[first:], carried, strict=False)
        inside.update(own.name for own, made in states if made.name in inside)
        if len(inside) == before:
            break
    varying.update(o for o, made in zip(node.output, carried, strict=False) if made.name in inside)
    return None
