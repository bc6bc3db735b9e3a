"""ONNX files, checked before anything else reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import CompressError, UnsafeInputError, cause
from ..files import require_file
from .functions import MAX_NODES, expanded_size
from .texts import require_text

if TYPE_CHECKING:
    import onnx
    import torch

MAX_FILE_BYTES = 2 * 2**30  # protobuf's own limit
MAX_EXTERNAL_BYTES = 64 * 2**30
MAX_INPUT_BYTES = 4 * 2**30  # what one call is fed, with every dynamic size 1
WEIGHTS_ALONE = (".safetensors", ".pt", ".pth")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization")


def _require_graph(path: Path, what: str) -> None:
    """CompressError unless there is a file, and by its name one that may hold a graph."""
    require_file(path, what)
    if path.suffix.lower() in WEIGHTS_ALONE:
        raise CompressError(
            f"{what}: {path} holds weights and no graph; give the ONNX file of that network, which in a run's folder is"
            " model.onnx"
        )


def read_onnx(path: Path) -> onnx.ModelProto:
    """The checked graph with its weights; UnsafeInputError if it reaches out of its folder."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    _require_graph(path, "model.source")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UnsafeInputError(
            f"{path} has {path.stat().st_size:,} bytes; ONNX files have at most {MAX_FILE_BYTES:,}"
        )
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, RecursionError) as error:
        raise CompressError(
            f"model.source: {path} is not an ONNX file, or it is cut short ({error})"
        ) from error
    require_text(model, path)
    if not model.graph.node or not model.opset_import:
        raise CompressError(f"model.source: {path} is not an ONNX file: it holds no graph")
    check_external_data(model, path)
    if not model.graph.output:
        raise CompressError(f"model.source: {path}: the graph has no output; export it again with one")
    if not graph_inputs(model):
        raise CompressError(f"model.source: {path}: the graph has no input besides its weights")
    _refuse_vast_inputs(model, path)
    _refuse_vast_functions(model, path)
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # the checker raises ValidationError, ValueError, RuntimeError
        text = cause(error)
        raise CompressError(f"model.source: {path} is not valid ONNX: {text}") from error
    onnx.load_external_data_for_model(model, str(path.parent))
    _refuse_unusable(model, path)
    return model


def read_graph(path: Path) -> onnx.ModelProto:
    """Any ONNX graph, external weights left where they are; whether it is valid, each runtime says itself.

    CompressError when the file is none; UnsafeInputError when its weights lie outside its own folder.
    """
    import onnx

    _require_graph(path, "model")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors, and those of the file system, share no base class
        raise CompressError(f"{path}: cannot be read as an ONNX model ({error}); export it again") from error
    require_text(model, path)
    if not model.graph.node:
        raise CompressError(f"{path}: holds no ONNX graph (no nodes); give the path of an exported model")
    check_external_data(model, path)
    _refuse_vast_inputs(model, path)
    _refuse_vast_functions(model, path)
    return model


def check_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Every external tensor must lie in a plain file inside the model's own folder, and wholly in it."""
    folder = path.parent.resolve()
    total = 0
    for tensor in _tensors(model):
        if not tensor.external_data:
            continue
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get("location", "")
        where = f"{path}: tensor {tensor.name!r} is stored in {location!r}"
        inside = PurePosixPath(location.replace("\\", "/"))
        target = folder / location if location.isprintable() else folder
        if (
            inside.is_absolute()
            or ".." in inside.parts
            or ":" in location
            or not target.resolve().is_relative_to(folder)
        ):
            raise UnsafeInputError(
                f"{where}, outside the model's own folder; export the model again as one file"
            )
        if not target.is_file():
            raise CompressError(
                f"model.source: {where}, and that file does not exist; copy it beside the model"
            )
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", target.stat().st_size - offset))
        except ValueError as error:
            raise CompressError(f"model.source: {where} with a damaged offset or length") from error
        if offset < 0 or length < 0 or offset + length > target.stat().st_size:
            raise CompressError(f"model.source: {where}, which is too short: {target.stat().st_size:,} bytes")
        total += length
    if total > MAX_EXTERNAL_BYTES:
        raise UnsafeInputError(
            f"{path} claims {total:,} bytes of external data; the limit is {MAX_EXTERNAL_BYTES:,}"
        )


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs a caller must feed: initializers may be listed as inputs in old files."""
    stored = {t.name for t in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in stored]


def type_name(code: int) -> str:
    """The name of an element type in small letters, as ONNX has it; "unknown (99)" for a number without one."""
    import onnx

    known = code in onnx.TensorProto.DataType.values()
    return onnx.TensorProto.DataType.Name(code).lower() if known else f"unknown ({code})"


def input_types(model: onnx.ModelProto) -> list[torch.dtype]:
    """The type that each input declares; CompressError for one that no sample can have, as strings."""
    import torch

    types = []
    for value in graph_inputs(model):
        kind = type_name(value.type.tensor_type.elem_type)
        name = {"float": "float32", "double": "float64"}.get(kind, kind)
        dtype = getattr(torch, name, None) if name in _SAMPLE_TYPES else None
        if dtype is None:
            raise CompressError(
                f"model.source: input {value.name!r} is of type {kind}; samples can be"
                f" {', '.join(_SAMPLE_TYPES)}: export the model with one of these"
            )
        types.append(dtype)
    return types


_SAMPLE_TYPES = ("float32", "float16", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")


def sample_shape(value: onnx.ValueInfoProto) -> list[int | str]:
    """Shape as the file states it: numbers, and names (or "?") where it is dynamic, as also -1 and 0 are."""
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.dim_value > 0 else d.dim_param or "?" for d in dims]


def _refuse_vast_inputs(model: onnx.ModelProto, path: Path) -> None:
    """Whoever runs the graph makes its inputs first."""
    for value in graph_inputs(model):
        shape = sample_shape(value)
        elements = prod(size for size in shape if isinstance(size, int) and size > 0)
        if elements * 4 > MAX_INPUT_BYTES:
            raise CompressError(
                f"model.source: {path}: input {value.name!r} of shape {shape} takes more than"
                f" {MAX_INPUT_BYTES / 2**30:g} GiB for one call; export it again with smaller fixed sizes"
            )


def _refuse_vast_functions(model: onnx.ModelProto, path: Path) -> None:
    """Every runtime puts functions in the place of their calls, however often that is."""
    if model.functions and expanded_size(model) > MAX_NODES:
        raise CompressError(
            f"model.source: {path}: its functions call each other until there are over {MAX_NODES:,} operators;"
            " export it again without functions"
        )


def _refuse_unusable(model: onnx.ModelProto, path: Path) -> None:
    """Refuse NaN in any tensor, and infinities in those that layers multiply with (a mask may hold -inf)."""
    from onnx import numpy_helper

    weights = {name for node in model.graph.node if node.op_type in _WEIGHTED for name in node.input[1:]}
    for tensor in _tensors(model):
        array = _read(numpy_helper.to_array, tensor, path)
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        if np.isnan(array).any() or tensor.name in weights:
            kind = "NaN" if np.isnan(array).any() else "infinite values"
            raise CompressError(
                f"model.source: {path}: tensor {tensor.name!r} holds {kind}; use an earlier checkpoint"
            )


def _read(
    to_array: Callable[[onnx.TensorProto], Any], tensor: onnx.TensorProto, path: Path
) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(to_array(tensor))
    except Exception as error:
        raise CompressError(
            f"model.source: {path}: tensor {tensor.name!r} cannot be read: {error}"
        ) from error


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every stored tensor: initializers and attributes of all graphs, nested ones and functions included."""
    graphs = [model.graph]
    nodes = [n for f in model.functions for n in f.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
            continue
        for attribute in nodes.pop().attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            graphs.extend([*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs])


def weight_tensors(model: onnx.ModelProto) -> list[tuple[str, onnx.TensorProto]]:
    """Name and tensor of every stored parameter: of initializers and Constant nodes, those of nested graphs included.

    A parameter is a float or 8-bit tensor with at least one axis; scales and zero points of quantizers are none.
    """
    names: list[tuple[str, onnx.TensorProto]] = []
    steps: set[str] = set()
    graphs, nodes = [model.graph], [n for f in model.functions for n in f.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            names += [(t.name, t) for t in graph.initializer]
            nodes.extend(graph.node)
            continue
        node = nodes.pop()
        steps.update(name for index in _STEPS.get(node.op_type, ()) for name in node.input[index : index + 1])
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                names.append((node.output[0], attribute.t))
            graphs.extend([*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs])
    return [(name, t) for name, t in names if t.dims and name not in steps and is_weight(t)]


_STEPS = {
    "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7), "ConvInteger": (2, 3), "MatMulInteger": (2, 3), "QGemm": (1, 2, 4, 5, 7, 8),
}  # fmt: skip
"""Which inputs of an operator are scales and zero points."""


def is_weight(tensor: onnx.TensorProto) -> bool:
    """Whether an initializer is a parameter: a float or 8-bit tensor, and no shape or axis."""
    import onnx

    types = onnx.TensorProto
    return tensor.data_type in (types.FLOAT, types.FLOAT16, types.DOUBLE, types.INT8, types.UINT8)
