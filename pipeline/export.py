"""Export: a model to the ONNX file that every runtime is given."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim

from ..errors import CompressError
from ..model import Model
from ..passes.quantization.capture import capture
from ..passes.quantization.deploy import deployable, onnx_translations
from ..passes.quantization.placement import MATMULS, TRANSPOSED, layer_name, layers_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    from torch import fx

MAX_PROTOBUF = 2**31 - 2**20  # an ONNX file is one protobuf message; those end at 2 GiB


def export(model: Model, path: Path, opset: int = 19, ir_version: int = 9) -> Path:
    """Write `model` as ONNX with int8 weights and Q/DQ where it is quantized; the same bytes for the same model.

    Batch 1 stays dynamic when the model accepts any batch. Layers carry the names of their modules. An untouched
    ONNX input is copied as it is. Raises CompressError when the network has an operator without ONNX form.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if model.onnx_path is not None:
        shutil.copyfile(model.onnx_path, path)
        return path
    graph = capture(model)
    proto = _to_onnx(model, deployable(graph), opset)
    _fold_weight_transposes(proto)
    _name_layers(proto, graph)
    _strip(proto, ir_version)
    _check(proto, path)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return path


def _to_onnx(model: Model, module: torch.nn.Module, opset: int) -> onnx.ModelProto:
    # A batch of 1 would be taken for a constant by the exporter.
    inputs = tuple(
        torch.cat([x, x]) if model.dynamic_batch and x.shape[0] == 1 else x for x in model.example_inputs
    )
    batch = Dim.DYNAMIC
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=opset,
                input_names=list(model.input_names),
                output_names=list(model.output_names),
                dynamic_shapes=tuple({0: batch} for _ in inputs) if model.dynamic_batch else None,
                custom_translation_table=onnx_translations(),
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds, each with the operator in its message
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "aten" in line or "No decompositions" in line), lines[0] if lines else "")
        raise CompressError(
            f"{model.source or 'model'}: the ONNX exporter refused this network: {reason[:300]}. "
            "Rewrite the operator it names with ones that opset 19 has."
        ) from error
    assert program is not None
    return program.model_proto  # type: ignore[no-any-return]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs every step it takes; what matters comes back as an error or in the proof."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _fold_weight_transposes(proto: onnx.ModelProto) -> None:
    """int8 weight -> DequantizeLinear -> Transpose becomes a transposed int8 weight, as runtimes expect it."""
    from onnx import numpy_helper

    constants = {i.name: i for i in proto.graph.initializer}
    producers = {o: n for n in proto.graph.node for o in n.output}
    readers: dict[str, list[Any]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for transpose in [n for n in proto.graph.node if n.op_type == "Transpose"]:
        dequantize = producers.get(transpose.input[0])
        if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.input[0] not in constants:
            continue
        if len(readers[transpose.input[0]]) != 1 or len(readers[dequantize.input[0]]) != 1:
            continue
        initializer = constants[dequantize.input[0]]
        permutation = next(list(a.ints) for a in transpose.attribute if a.name == "perm")
        weight = numpy_helper.to_array(initializer).transpose(permutation)
        initializer.CopyFrom(numpy_helper.from_array(weight.copy(), initializer.name))
        for attribute in dequantize.attribute:
            if attribute.name == "axis":
                attribute.i = permutation.index(attribute.i)
        dequantize.output[0] = transpose.output[0]
        proto.graph.node.remove(transpose)


def _name_layers(proto: onnx.ModelProto, graph: fx.GraphModule) -> None:
    """Give convolutions, linear layers and matmuls the names that users know, in the order both graphs share."""
    kinds = {"Conv": "conv", "ConvTranspose": "transposed", "Gemm": "matmul", "MatMul": "matmul"}
    nodes = [n for n in proto.graph.node if n.op_type in kinds]
    layers = layers_of(graph)
    if [kinds[n.op_type] for n in nodes] != [_kind(n) for n in layers]:
        return  # an operator became several nodes, or none: the exporter's names stay
    used: set[str] = set()
    for node, layer in zip(nodes, layers, strict=True):
        name = layer_name(layer)
        node.name = name if name not in used else f"{name}#{layer.name}"
        used.add(node.name)


def _kind(node: fx.Node) -> str:
    if node.target in TRANSPOSED:
        return "transposed"
    return "matmul" if node.target in MATMULS or node.target is torch.ops.aten.linear.default else "conv"


def _strip(proto: onnx.ModelProto, ir_version: int) -> None:
    """Drop what differs between machines and runs: source locations, doc strings, the exporter's metadata."""
    proto.ir_version = ir_version
    proto.doc_string = ""
    proto.producer_name, proto.producer_version = "edgepress", ""
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.graph.value_info[:]  # shapes and types that follow from the rest, and go stale when a node is rewritten
    items: list[Sequence[Any]] = [
        proto.graph.node,
        proto.graph.input,
        proto.graph.output,
        proto.graph.initializer,
        proto.functions,
    ]
    for item in (i for group in items for i in group):
        item.doc_string = ""
        del item.metadata_props[:]


def _check(proto: onnx.ModelProto, path: Path) -> None:
    import onnx

    if proto.ByteSize() > MAX_PROTOBUF:
        raise CompressError(f"{path.name}: the model is over 2 GiB, more than one ONNX file can hold")
    onnx.checker.check_model(proto, full_check=True)
