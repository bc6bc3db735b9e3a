"""An ONNX graph as the targets read it: one name for every node, who makes a tensor, who reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CompressError

if TYPE_CHECKING:
    import numpy as np
    import onnx

MAC_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

# Ops that move values without changing them: what is quantized before one is quantized after it.
MOVING_OPS = frozenset(
    {
        "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Identity",
        "Expand", "Concat", "MaxPool", "DepthToSpace", "SpaceToDepth", "Pad",
    }
)  # fmt: skip

MAX_PROTOBUF = 2**31 - 2**20  # an ONNX file is one protobuf message; those end at 2 GiB


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file; CompressError when there is none or it is something else."""
    import onnx

    if not path.is_file():
        raise CompressError(f"{path}: there is no such file; give the path of an ONNX model")
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's DecodeError, missing external data, or a permission
        raise CompressError(f"{path}: cannot be read as an ONNX model ({error}); export it again") from error
    if not model.graph.node:
        raise CompressError(f"{path}: holds no ONNX graph (no nodes); give the path of an exported model")
    return model


def require_one_file(model: onnx.ModelProto, path: Path) -> None:
    """CompressError for a model that one ONNX file cannot hold with its weights; `path` is for the message."""
    from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

    try:
        fits = model.ByteSize() <= MAX_PROTOBUF
    except EncodeError:  # what counts the bytes writes them
        fits = False
    if not fits:
        raise CompressError(f"{path.name}: the model is over 2 GiB, more than one ONNX file can hold")


class OnnxGraph:
    """The top-level graph of a model with its look-up tables.

    names: a unique name for every node, in order: its own, else (none, or taken) its first output's.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.names: list[str] = list(stable_names(self.nodes))
        self.by_name = dict(zip(self.names, self.nodes, strict=True))
        self.initializers: dict[str, onnx.TensorProto] = {i.name: i for i in model.graph.initializer}
        self.producer: dict[str, str] = {
            output: name for name, node in self.by_name.items() for output in node.output if output
        }
        self.readers: dict[str, list[str]] = {}
        for name, node in self.by_name.items():
            for tensor in node.input:
                self.readers.setdefault(tensor, []).append(name)
        self.constants = self._constants()

    @property
    def opset(self) -> int:
        """The version of the standard operators, 0 where the model says none."""
        return next((o.version for o in self.model.opset_import if o.domain in {"", "ai.onnx"}), 0)

    def _constants(self) -> set[str]:
        """Tensors that no graph input reaches: a runtime folds them before the first inference."""
        return folded(self.model.graph, {""})

    def value(self, tensor: str) -> np.ndarray[Any, Any] | None:
        """The array of an initializer or a Constant node, None for anything that is computed."""
        from onnx import numpy_helper

        if tensor in self.initializers:
            return numpy_helper.to_array(self.initializers[tensor])
        maker = self.by_name.get(self.producer.get(tensor, ""))
        if maker is not None and maker.op_type == "Constant":
            for attribute in maker.attribute:
                if attribute.name == "value":
                    return numpy_helper.to_array(attribute.t)
        return None

    def of_type(self, *op_types: str) -> Iterator[tuple[str, onnx.NodeProto]]:
        """Name and node of every node of these types."""
        for name, node in self.by_name.items():
            if node.op_type in op_types:
                yield name, node

    def computed_macs(self) -> Iterator[tuple[str, onnx.NodeProto]]:
        """The multiplying nodes that run at inference: not those that fold into constants."""
        for name, node in self.of_type(*MAC_OPS):
            if node.output[0] not in self.constants:
                yield name, node

    def dequantized(self, tensor: str) -> bool:
        """Whether `tensor` comes from a DequantizeLinear, at most moved or scaled by a constant."""
        pending, seen = [tensor], set()
        while pending:
            current = pending.pop()
            if current in seen:
                continue
            seen.add(current)
            node = self.by_name.get(self.producer.get(current, ""))
            if node is None:
                return False
            if node.op_type == "DequantizeLinear":
                continue
            computed = [t for t in node.input if t not in self.constants]
            scales = node.op_type in {"Mul", "Div"} and len(computed) == 1
            if not (node.op_type in MOVING_OPS or scales) or not computed:
                return False
            pending.extend(computed if node.op_type == "Concat" else computed[:1])
        return True

    def quantized_operands(self, node: onnx.NodeProto) -> bool:
        """Whether both factors of a multiplying node come out of Q/DQ."""
        return len(node.input) > 1 and all(self.dequantized(tensor) for tensor in node.input[:2])


def folded(graph: onnx.GraphProto, outer: set[str]) -> set[str]:
    """The tensors of a graph that no input reaches, `outer` being those around it of which that is known."""
    constants = outer | {i.name for i in graph.initializer}
    for node in graph.node:  # ONNX nodes are in topological order
        if node.input or node.op_type == "Constant":
            has_body = any(a.HasField("g") for a in node.attribute)
            if not has_body and all(tensor in constants for tensor in node.input):
                constants.update(node.output)
    return constants


def stable_names(nodes: list[onnx.NodeProto]) -> Iterator[str]:
    """A unique name for each node: its own if that is the first of its kind, else its first output's."""
    taken: set[str] = set()
    for index, node in enumerate(nodes):
        choices = [node.name, *[o for o in node.output if o][:1], f"{node.op_type}_{index}"]
        name = next(c for c in choices if c and c not in taken)
        taken.add(name)
        yield name
