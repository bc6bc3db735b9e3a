"""Multiply-accumulates of each ONNX node, from its shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...macs import OperatorMacs, total_macs
from .onnx_formulas import STANDARD, Shape, Sized, UnknownSizeError, formula_of, is_free
from .onnx_graph import OnnxGraph, folded

if TYPE_CHECKING:
    import onnx

NO_FORMULA = "what it multiplies is not known"
NO_SIZES = "its sizes cannot be inferred; export with fixed sizes"
BRANCHES_DIFFER = "its branches cost differently, and which one runs is not known"
CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})

Count = tuple["int | None", str]
"""Multiply-accumulates, or None and why they are not known."""


def node_macs(model: onnx.ModelProto) -> dict[str, int | None]:
    """Multiply-accumulates of ONE sample for every node that multiplies at inference, None for one that may.

    A symbolic batch counts as 1; a fixed batch of B is divided out. Keys are the nodes' names (their first
    output's where they have none). Bias additions are not counted; what folds into constants has no entry.
    A Loop counts its body as often as it runs, an If what either branch costs (None where they differ, or where a
    condition may end the Loop), a function what its body does.
    """
    return {found.place: found.macs for found in operator_macs(model)}


def operator_macs(model: onnx.ModelProto) -> list[OperatorMacs]:
    """The multiply-accumulates of each node with its operator, and why what is unknown is."""
    graph = OnnxGraph(model)
    nodes = [
        (n, node) for n, node in graph.by_name.items() if not is_free(node) and not _is_folded(graph, node)
    ]
    if not nodes:
        return []
    single, batch, varying = _one_sample(model)
    counter = _Counter({(f.domain, f.name): f for f in model.functions}, OnnxGraph(_inferred(single)))
    nodes = [(name, counter.graph.by_name[name]) for name, _ in nodes]  # whose bodies hold shapes too
    shapes = counter.shapes_of(counter.graph.model.graph, {})
    constants = graph.constants
    missing = [
        node for _, node in nodes if formula_of(node) and counter.count(node, shapes, constants)[0] is None
    ]
    if missing and not varying:
        shapes = {**shapes, **_measured_shapes(single, missing)}
    found = []
    for name, node in nodes:
        macs, why = counter.count(node, shapes, constants)
        if macs != 0:
            why = varying if why == NO_SIZES and varying else why
            found.append(OperatorMacs(name, node.op_type, macs // batch if macs is not None else None, why))
    return found


def _is_folded(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    return all(output in graph.constants for output in node.output)


@dataclass
class _Counter:
    """Counts nodes, and what they hold: branches, loop bodies and the functions of the file."""

    functions: Mapping[tuple[str, str], onnx.FunctionProto]
    graph: OnnxGraph
    known: dict[object, Count] = field(default_factory=dict)

    def count(self, node: onnx.NodeProto, shapes: Mapping[str, Shape], constants: set[str]) -> Count:
        """What one node costs, with the shapes and constants that it sees."""
        function = self.functions.get((node.domain, node.op_type))
        if function is not None:
            return self._function(node, function, shapes)
        if is_free(node):
            return 0, ""
        if node.domain in STANDARD and node.op_type in CONTROL_FLOW:
            return self._control_flow(node, shapes, constants)
        formula = formula_of(node)
        if formula is None:
            return None, NO_FORMULA
        try:
            macs = formula(Sized(node, shapes))
        except (UnknownSizeError, ValueError, IndexError, TypeError, ZeroDivisionError):
            return None, NO_SIZES
        return (macs, "") if macs is not None else (None, NO_FORMULA)

    def shapes_of(self, graph: onnx.GraphProto, outer: Mapping[str, Shape]) -> dict[str, Shape]:
        """Shapes of the tensors that a graph sees: its own, as far as they are fixed, and those around it."""
        shapes = dict(outer)
        shapes.update({i.name: tuple(i.dims) for i in graph.initializer})
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
                shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
        return shapes

    def _total(
        self, nodes: Iterable[onnx.NodeProto], shapes: Mapping[str, Shape], constants: set[str]
    ) -> Count:
        counts = []
        for node in nodes:
            macs, why = self.count(node, shapes, constants)
            if macs is None:
                return None, why
            counts.append(macs)
        return total_macs(counts), ""

    def _body(self, graph: onnx.GraphProto, shapes: Mapping[str, Shape], constants: set[str]) -> Count:
        held = constants | folded(graph, constants)
        nodes = [n for n in graph.node if not all(o in held for o in n.output)]
        return self._total(nodes, self.shapes_of(graph, shapes), held)

    def _control_flow(self, node: onnx.NodeProto, shapes: Mapping[str, Shape], constants: set[str]) -> Count:
        """An If whose branches cost the same; the body of a Loop or a Scan as often as it runs."""
        graphs = [a.g for a in node.attribute if a.HasField("g")]
        bodies = [self._body(graph, shapes, constants) for graph in graphs]
        unknown = next((why for macs, why in bodies if macs is None), None)
        if unknown is not None:
            return None, unknown
        costs = {macs for macs, _ in bodies if macs is not None}
        most = max(costs, default=0)
        if node.op_type == "If":
            return (None, BRANCHES_DIFFER) if len(costs) > 1 else (most, "")
        if most == 0:
            return 0, ""
        turns = _scan_turns(node, shapes) if node.op_type == "Scan" else self._loop_turns(node, graphs[0])
        return (most * turns, "") if turns is not None else (None, "how often it runs is not known")

    def _loop_turns(self, node: onnx.NodeProto, body: onnx.GraphProto) -> int | None:
        """How often a Loop runs: its trip count, where that is a constant and no condition ends it before."""
        value = self.constant(node.input[0]) if node.input and node.input[0] else None
        if value is None:
            return None
        first = self.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else 1
        if first == 0:
            return 0
        return max(0, value) if first and _stays_true(body) else None

    def constant(self, tensor: str) -> int | None:
        """The one integer of an initializer or a Constant node of the main graph."""
        value = self.graph.value(tensor)
        return int(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def _function(
        self, node: onnx.NodeProto, function: onnx.FunctionProto, shapes: Mapping[str, Shape]
    ) -> Count:
        """What a function's body does for these arguments; counted once for calls that are alike."""
        given = tuple(shapes.get(name) for name in node.input)
        key = (node.domain, node.op_type, given, tuple(a.SerializeToString() for a in node.attribute))
        if key not in self.known:
            self.known[key] = None, NO_FORMULA  # a function that calls itself is none
            body = _called(self.graph.model, function, node, given)
            self.known[key] = self._total(body.node, self.shapes_of(body, {}), set())
        return self.known[key]


def _stays_true(body: onnx.GraphProto) -> bool:
    """Whether a Loop's body hands on the condition that it was given, or a constant true."""
    from onnx import numpy_helper

    makers = {output: node for node in body.node for output in node.output}
    tensor = body.output[0].name
    seen = set()
    while tensor in makers and makers[tensor].op_type == "Identity" and tensor not in seen:
        seen.add(tensor)
        tensor = makers[tensor].input[0]
    if len(body.input) > 1 and tensor == body.input[1].name:
        return True
    stored = [i for i in body.initializer if i.name == tensor]
    if tensor in makers and makers[tensor].op_type == "Constant":
        stored += [a.t for a in makers[tensor].attribute if a.name == "value"]
    return bool(stored) and bool(numpy_helper.to_array(stored[0]).all())


def _scan_turns(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """The size of the axis that a Scan goes along."""
    count = next(a.i for a in node.attribute if a.name == "num_scan_inputs")
    axes = next((list(a.ints) for a in node.attribute if a.name == "scan_input_axes"), [0] * count)
    shape = shapes.get(node.input[len(node.input) - count])
    return shape[axes[0]] if shape is not None else None


def _called(
    model: onnx.ModelProto,
    function: onnx.FunctionProto,
    call: onnx.NodeProto,
    given: Sequence[Shape | None],
) -> onnx.GraphProto:
    """A function's body as a graph with the shapes of its arguments and the attributes of the call."""
    import onnx
    from onnx import TensorProto, helper

    values = {a.name: a for a in (*function.attribute_proto, *call.attribute)}
    nodes = []
    for node in function.node:
        own = onnx.NodeProto()
        own.CopyFrom(node)
        del own.attribute[:]
        for attribute in node.attribute:
            taken = values.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
            if taken is not None:
                own.attribute.add().CopyFrom(taken)
                own.attribute[-1].name = attribute.name
        nodes.append(own)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(function.input, given, strict=False)
    ]
    graph = helper.make_graph(nodes, function.name, inputs, [])
    whole = helper.make_model(graph, opset_imports=function.opset_import, functions=model.functions)
    whole.ir_version = model.ir_version
    return _inferred(whole).graph


def _one_sample(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int, str]:
    """A copy whose symbolic batch is 1 and whose other value shapes are forgotten, its batch size, and what varies."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    constants = {i.name for i in copy.graph.initializer}
    inputs = [i for i in copy.graph.input if i.name not in constants]
    varying = ""
    for value in inputs:
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.dim_value > 0:
                continue
            if axis == 0:
                size.dim_value = 1
                continue
            varying = varying or (
                f"input {value.name!r}: axis {axis} ({size.dim_param or 'unknown'}) has no fixed size; only the "
                "batch (axis 0) may vary, export the other axes with fixed sizes"
            )
            size.dim_param = size.dim_param or f"{value.name}.{axis}"
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    dims = inputs[0].type.tensor_type.shape.dim if inputs else []
    return copy, (dims[0].dim_value if len(dims) > 1 else 1), varying


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all shapes that onnx can infer."""
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # bare errors of several kinds; the nodes whose shapes stay unknown are named
        return model


def _measured_shapes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> dict[str, Shape]:
    """Shapes seen in one onnxruntime run on zeros, where shape inference gave up."""
    import numpy as np
    import onnx
    import onnxruntime

    held = {i.name for i in model.graph.initializer}
    wanted = {t for node in nodes for t in (*node.input, node.output[0]) if t and t not in held}
    present = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted - present))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    feeds = {}
    try:
        for value in model.graph.input:
            if value.name not in held:
                kind = value.type.tensor_type
                dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
                feeds[value.name] = np.zeros([d.dim_value for d in kind.shape.dim], dtype)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [o.name for o in session.get_outputs() if o.name in wanted]
        arrays = session.run(names, feeds)
    except Exception:  # the caller names the node whose shape stays unknown
        return {}
    return {name: tuple(np.shape(array)) for name, array in zip(names, arrays, strict=True)}
