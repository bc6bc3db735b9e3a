"""The normal form of an ONNX graph: equal in meaning, in words that a converter to PyTorch takes.

Exporters write one network in many ways: weights as initializers or Constant nodes, axes as attributes or as inputs,
shapes computed from shapes. The normal form knows one: constants are initializers, what depends on shapes alone is
computed, functions are inlined, and operators stand as opset 17 has them or, where `onnx_operators` converts them
itself, under names that begin with `OWN`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .functions import MAX_NODES, expanded_size
from .operators.table import OWN, OWN_KINDS
from .static import Static, static_values

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

OPSET = 17
"""The newest that onnx2torch knows fully."""
_STANDARD = ("", "ai.onnx")


class InexpressibleError(Exception):
    """A graph has something that the normal form has no words for; the message says which operator."""


def normal_form(model: onnx.ModelProto, example: Sequence[Tensor], dynamic_batch: bool) -> onnx.ModelProto:
    """A new graph of the same inputs and outputs, of the same meaning for inputs shaped like `example`.

    example: one tensor a graph input, shape (batch, ...); sizes besides a dynamic batch are taken as fixed.
    Raises InexpressibleError for an operator that opset 17 and `OWN` have no words for.
    """
    graph = with_constants_stored(_inlined(model))
    _drop_stored_inputs(graph)
    static = static_values(graph, example, dynamic_batch)
    _store(graph, {name: found.value for name, found in static.items() if not found.varies})
    _pin_inputs(graph, example, dynamic_batch)
    graph = _with_shapes(graph)
    _single_outputs(graph)
    stored = {i.name for i in graph.graph.initializer}
    batch_source = graph.graph.input[0].name
    opset = next((o.version for o in graph.opset_import if o.domain in _STANDARD), OPSET)
    for node in graph.graph.node:
        while node.input and not node.input[-1]:
            del node.input[-1]
        if node.domain in _STANDARD and node.op_type in OWN_KINDS:
            _to_own(node, stored, static, batch_source)
        if node.domain in _STANDARD and opset > OPSET and not node.op_type.startswith(OWN):
            _to_opset(node, opset)
    _drop_dead(graph)
    del graph.opset_import[:]
    graph.opset_import.add(domain="", version=min(opset, OPSET))
    return graph


def with_constants_stored(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose top-level Constant nodes of numbers are initializers of the same names."""
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    kept = []
    for node in copied.graph.node:
        tensor = constant_tensor(node)
        if tensor is None:
            kept.append(node)
            continue
        stored = copied.graph.initializer.add()
        stored.CopyFrom(tensor)
        stored.name = node.output[0]
    if len(kept) < len(copied.graph.node):
        remaining = [_copy_of(node) for node in kept]
        del copied.graph.node[:]
        copied.graph.node.extend(remaining)
    return copied


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant node of numbers holds, however it says it; None for any other node."""
    from onnx import numpy_helper

    if node.op_type != "Constant" or node.domain not in _STANDARD or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor: onnx.TensorProto = attribute.t
        return tensor
    plain: Mapping[str, Any] = {
        "value_float": lambda: np.float32(attribute.f),
        "value_floats": lambda: np.array(attribute.floats, np.float32),
        "value_int": lambda: np.int64(attribute.i),
        "value_ints": lambda: np.array(attribute.ints, np.int64),
    }
    if attribute.name not in plain:
        return None
    return numpy_helper.from_array(np.asarray(plain[attribute.name]()), node.output[0])


def _copy_of(node: onnx.NodeProto) -> onnx.NodeProto:
    import onnx

    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the file's own functions in place."""
    if not model.functions:
        return model
    from onnx import inliner

    if expanded_size(model) > MAX_NODES:
        raise InexpressibleError(
            f"its functions call each other until there are over {MAX_NODES:,} operators"
        )
    inlined: onnx.ModelProto = inliner.inline_local_functions(model)
    return inlined


def _drop_stored_inputs(model: onnx.ModelProto) -> None:
    stored = {i.name for i in model.graph.initializer}
    inputs = [_value_copy(i) for i in model.graph.input if i.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(inputs)


def _value_copy(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    import onnx

    copied = onnx.ValueInfoProto()
    copied.CopyFrom(value)
    return copied


def _store(model: onnx.ModelProto, values: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Make initializers of what is known, in place of the nodes that compute it."""
    from onnx import numpy_helper

    stored = {i.name for i in model.graph.initializer}
    for name, value in values.items():
        if name not in stored:
            model.graph.initializer.append(
                numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
            )
    kept = []
    for node in model.graph.node:
        for index, output in enumerate(node.output):
            if output in values:
                node.output[index] = ""
        if any(node.output):
            kept.append(_copy_of(node))
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _pin_inputs(model: onnx.ModelProto, example: Sequence[Tensor], dynamic_batch: bool) -> None:
    for value, tensor in zip(model.graph.input, example, strict=True):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for axis, size in enumerate(tensor.shape):
            dimension = shape.dim.add()
            if axis == 0 and dynamic_batch:
                dimension.dim_param = "batch"
            else:
                dimension.dim_value = size
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _single_outputs(model: onnx.ModelProto) -> None:
    """Let each output of the graph be the only one of a node, which an input, a weight or a Split's half is not."""
    from onnx import helper

    single = {node.output[0] for node in model.graph.node if len(node.output) == 1}
    seen: set[str] = set()
    for index, output in enumerate(model.graph.output):
        if output.name in single and output.name not in seen:
            seen.add(output.name)
            continue
        name = f"{output.name}/returned/{index}"
        model.graph.node.append(helper.make_node("Identity", [output.name], [name], name=name))
        output.name = name


def _to_own(node: onnx.NodeProto, stored: set[str], static: Mapping[str, Static], batch_source: str) -> None:
    """Give a node a name of ours when all inputs that must be known are; what varies with the batch says how.

    Such an input becomes the attributes `sizes_I` (its values for one sample) and `by_batch_I` (1 where they are
    multiplied by the batch), and the graph input that tells the batch is appended to the node's inputs.
    """
    from onnx import helper

    kind = OWN_KINDS[node.op_type]
    varying: dict[int, Static] = {}
    for index, name in enumerate(node.input):
        if name in stored or not name or not kind.must_know(index):
            continue
        found = static.get(name)
        if found is None or not found.varies:
            return
        varying[index] = found
    if not kind.takes(node, stored):
        return
    node.name = node.name or node.op_type
    node.op_type = OWN + node.op_type
    for index, found in varying.items():
        node.attribute.append(
            helper.make_attribute(f"sizes_{index}", [int(v) for v in found.value.reshape(-1)])
        )
        node.attribute.append(helper.make_attribute(f"by_batch_{index}", [int(v) for v in found.by_batch]))
        node.input[index] = ""
    if varying:
        node.input.append(batch_source)


def _to_opset(node: onnx.NodeProto, opset: int) -> None:
    """Say a node in opset 17: later ones added types, and attributes whose default is the old meaning."""
    from onnx import defs

    try:
        new = defs.get_schema(node.op_type, opset, "")
    except Exception as error:  # onnx raises SchemaError, which it does not export
        raise InexpressibleError(f"{node.op_type} is no operator of opset {opset}") from error
    if new.since_version <= OPSET:
        return
    try:
        old = defs.get_schema(node.op_type, OPSET, "")
    except Exception as error:
        raise InexpressibleError(f"the operator {node.op_type} of opset {new.since_version}") from error
    for attribute in list(node.attribute):
        if attribute.name in old.attributes:
            continue
        default = new.attributes[attribute.name].default_value
        if attribute.SerializeToString() != default.SerializeToString() and not _same(attribute, default):
            raise InexpressibleError(
                f"the operator {node.op_type} with {attribute.name}, which came with opset {new.since_version}"
            )
        node.attribute.remove(attribute)
    if sum(bool(name) for name in node.input[old.max_input :]):
        raise InexpressibleError(f"the operator {node.op_type} with the inputs of opset {new.since_version}")


def _same(attribute: onnx.AttributeProto, default: onnx.AttributeProto) -> bool:
    from onnx import helper

    if not default.type:
        return False
    return bool(helper.get_attribute_value(attribute) == helper.get_attribute_value(default))


def _drop_dead(model: onnx.ModelProto) -> None:
    """Drop nodes and initializers that no output needs."""
    needed = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed.intersection(filter(None, node.output)):
            needed.update(_read_by(node))
            kept.append(_copy_of(node))
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    initializers = [i for i in model.graph.initializer if i.name in needed]
    if len(initializers) < len(model.graph.initializer):
        for stored in [i for i in model.graph.initializer if i.name not in needed]:
            model.graph.initializer.remove(stored)


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Tensors that a node reads, those that its sub-graphs take from outside included."""
    yield from node.input
    for attribute in node.attribute:
        graphs = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
        for graph in graphs:
            for inner in graph.node:
                yield from _read_by(inner)
            yield from (output.name for output in graph.output)
