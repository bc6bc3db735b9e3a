"""Export: a model to the ONNX file that every runtime is given."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim

from ..errors import CompressError, cause
from ..model import Model
from ..passes.graph.capture import capture, quiet
from ..passes.graph.layers import layer_name, layers_of
from ..passes.graph.operators import CONVOLUTIONS, TRANSPOSED, aten
from ..passes.quantization.deploy import deployable, onnx_translations
from ..targets.graphs.onnx_graph import require_one_file
from ..targets.graphs.portable import portable
from .exporter_knowledge import gathered_once
from .files import write_atomically
from .onnx_files.inputs import pin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx
    from torch import fx


def export(model: Model, path: Path, opset: int = 19, ir_version: int = 9) -> Path:
    """Write `model` as ONNX, with int8 weights and Q/DQ where it is quantized; the same bytes each time.

    The batch stays dynamic when the model accepts any. Layers carry the names of their modules. An untouched
    ONNX input is copied as it is. Raises CompressError when the network has an operator without ONNX form.
    """
    if model.onnx_path is not None:
        import onnx

        # With weights in files beside it, one file is made of them; the run folder must not point out of itself.
        whole = onnx.load(model.onnx_path)
        samples = zip(model.input_names, model.example_inputs, strict=True)
        pin(whole, {name: (0, *x.shape[1:]) for name, x in samples})
        require_one_file(whole, path)
        write_atomically(path, whole.SerializeToString(deterministic=True))
        return path
    graph = capture(model)
    proto = to_program(model, deployable(graph), opset).model_proto
    _name_batch(proto, model)
    _fold_weight_transposes(proto)
    portable(proto)
    _name_layers(proto, graph)
    _strip(proto, ir_version)
    _check(proto, path)
    write_atomically(path, proto.SerializeToString(deterministic=True))
    return path


def to_program(model: Model, module: torch.nn.Module, opset: int) -> torch.onnx.ONNXProgram:
    """The exporter's own form of `module`, whose tensors bear the names of the traced graph's nodes."""
    # A batch of 1 would be taken for a constant by the exporter.
    inputs = tuple(
        torch.cat([x, x]) if model.dynamic_batch and x.shape[0] == 1 else x for x in model.example_inputs
    )
    batch = Dim.DYNAMIC
    translations = onnx_translations(opset)
    try:
        with quiet(), torch.no_grad(), gathered_once():
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=opset,
                input_names=list(model.input_names),
                output_names=list(model.output_names),
                dynamic_shapes=tuple({0: batch} for _ in inputs) if model.dynamic_batch else None,
                custom_translation_table=translations,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds, each with the operator in its message
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        named = [line for line in lines if "aten" in line or "No decompositions" in line]
        reason = (named or lines or [type(error).__name__])[0]
        raise CompressError(
            f"{model.source or 'model'}: the ONNX exporter refused this network: {cause(reason)}. "
            f"Rewrite the operator it names with ones that opset {opset} has."
        ) from error
    assert program is not None
    return program


def _name_batch(proto: onnx.ModelProto, model: Model) -> None:
    """Call the dynamic dimension `batch`; torch's own symbol for it (s77) means nothing to a reader."""
    dimensions = [i.type.tensor_type.shape.dim[0] for i in proto.graph.input if model.dynamic_batch]
    symbols = "|".join(sorted({re.escape(d.dim_param) for d in dimensions if d.dim_param}))
    if not symbols:
        return
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:  # also inside an expression, as 64*s77
                dimension.dim_param = re.sub(rf"\b({symbols})\b", "batch", dimension.dim_param)


def _fold_weight_transposes(proto: onnx.ModelProto) -> None:
    """int8 weight -> DequantizeLinear -> Transpose becomes a transposed int8 weight, as runtimes want it."""
    constants = {i.name: i for i in proto.graph.initializer}
    stale: set[str] = set()  # shapes noted by the exporter that no longer hold
    readers: dict[str, list[Any]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for dequantize in [n for n in proto.graph.node if n.op_type == "DequantizeLinear"]:
        weight, transposes = constants.get(dequantize.input[0]), readers.get(dequantize.output[0], [])
        if weight is None or len(readers[weight.name]) != 1 or not transposes:
            continue
        permutations = [_attribute(n, "perm").ints for n in transposes if n.op_type == "Transpose"]
        if len(permutations) != len(transposes) or any(p != permutations[0] for p in permutations):
            continue
        _transpose_weight(weight, dequantize, list(permutations[0]))
        stale |= {weight.name, dequantize.output[0]}
        dequantize.output[0] = transposes[0].output[0]
        for transpose in transposes:
            for reader in readers.get(transpose.output[0], []):
                _read_instead(reader, transpose.output[0], dequantize.output[0])
            proto.graph.node.remove(transpose)
    shapes = [value for value in proto.graph.value_info if value.name not in stale]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(shapes)


def _transpose_weight(weight: onnx.TensorProto, dequantize: onnx.NodeProto, permutation: list[int]) -> None:
    from onnx import numpy_helper

    values = numpy_helper.to_array(weight).transpose(permutation)
    weight.CopyFrom(numpy_helper.from_array(values.copy(), weight.name))
    axis = _attribute(dequantize, "axis")
    axis.i = permutation.index(axis.i)


def _attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    attribute: onnx.AttributeProto = next(a for a in node.attribute if a.name == name)
    return attribute


def _read_instead(node: onnx.NodeProto, old: str, new: str) -> None:
    for position, name in enumerate(node.input):
        if name == old:
            node.input[position] = new


ONNX_KINDS = {
    "Conv": "conv",
    "ConvTranspose": "transposed",
    "Gemm": "matmul",
    "MatMul": "matmul",
    "Einsum": "einsum",
}


def _name_layers(proto: onnx.ModelProto, graph: fx.GraphModule) -> None:
    """Give layers the names that users know: both graphs hold them in the same order."""
    nodes = [n for n in proto.graph.node if n.op_type in ONNX_KINDS]
    layers = [(layer, kind) for layer in layers_of(graph) for kind in _kinds(layer)]
    if [ONNX_KINDS[n.op_type] for n in nodes] != [kind for _, kind in layers]:
        return  # an operator became several nodes, or none: the exporter's names stay
    calls: Counter[str] = Counter()
    for node, (layer, _) in zip(nodes, layers, strict=True):
        name = layer_name(layer)
        calls[name] += 1  # a module that is called again
        node.name = name if calls[name] == 1 else f"{name}#{calls[name]}"


def _kinds(layer: fx.Node) -> tuple[str, ...]:
    """What the exporter makes of a layer, in `ONNX_KINDS`' words."""
    if layer.target in CONVOLUTIONS:
        return ("conv",)
    if layer.target in TRANSPOSED:
        return ("transposed",)
    if layer.target is aten.einsum.default:
        return ("einsum",)
    if layer.target in (aten.lstm.input, aten.gru.input):
        return ()
    return ("matmul", "matmul") if layer.target is aten.scaled_dot_product_attention.default else ("matmul",)


def _strip(proto: onnx.ModelProto, ir_version: int) -> None:
    """Drop what differs between machines and runs: source locations, doc strings, the exporter's metadata."""
    proto.ir_version = ir_version
    proto.doc_string = ""
    proto.producer_name, proto.producer_version = "edgepress", ""
    del proto.metadata_props[:]
    for graph in _graphs(proto.graph):
        del graph.metadata_props[:]
        for group in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
            _strip_items(group)
    _strip_items(proto.functions)
    for function in proto.functions:
        _strip_items(function.node)


def _strip_items(items: Iterable[Any]) -> None:
    for item in items:
        item.doc_string = ""
        del item.metadata_props[:]


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside it: the branches of `If`, the bodies of loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _check(proto: onnx.ModelProto, path: Path) -> None:
    import onnx

    require_one_file(proto, path)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CompressError(f"{path.name}: the exported graph is not valid ONNX: {error}") from error
