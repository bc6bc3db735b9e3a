"""Model files to .l2z files and back: checkpoints, and ONNX files with their graph."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...errors import CompressError, cause
from ...model import CodedTensor
from ...progress import Progress, Silent
from ..files import require_file, write_atomically
from ..ingest.checkpoint import read_weights
from ..ingest.removals import KEY, text_in
from ..l2z.codec import pack_tensors, unpack_tensors
from ..l2z.planes import bytes_of, tensor_of
from ..onnx_files.file import read_onnx
from .rounding import rounded_tensors

if TYPE_CHECKING:
    import onnx

SUFFIX = ".l2z"
LEAST_BYTES = 64
"""Smaller constants of a graph stay in it."""


def source_of(path: Path) -> Path:
    """The model file that `path` names: itself, or of a run folder the ONNX file, or what the run packed itself."""
    if not (path / "run.json").is_file():
        return path
    packed = path / f"model{SUFFIX}"
    return packed if packed.is_file() else path / "model.onnx"


def pack_file(
    path: Path,
    trust_pickle: str | None = None,
    coded: Mapping[str, CodedTensor] = MappingProxyType({}),
    error: float = 0.0,
    progress: Progress = Silent(),
) -> bytes:
    """The .l2z form of a checkpoint or an ONNX file; it was unpacked again and compared.

    trust_pickle: SHA-256 of a checkpoint that may be unpickled although it holds code. coded: tensors of an ONNX file
    that are known to hold few values, by name, or by what they hold where the exporter turned them. error: the squared
    error that each weight tensor may take, as a share of its energy; 0 keeps every bit.
    """
    require_file(path, "model")
    if path.suffix == SUFFIX:
        raise CompressError(f"pack: {path} is packed already")
    if path.suffix == ".onnx":
        model = read_onnx(path)
        graph, tensors = _taken_apart(model)
        found = _found_in(tensors, coded)
    else:
        graph, tensors, found = None, read_weights(path, trust_pickle, progress), {}
    if error:
        changed = rounded_tensors(tensors, error, progress)
        if not changed.coded and not changed.coarser:
            raise CompressError(
                f"pack: {path}: no tensor can be rounded at --error {100 * error:g}: it holds no large float or INT8"
                " weight of two axes or more; leave --error out"
            )
        tensors, found = changed.tensors, changed.coded
    content = pack_tensors(tensors, graph, found)
    back, graph_back = unpack_tensors(content, str(path))
    if graph is not None and graph_back is not None:
        _put_together(graph_back, back, path)  # which checks the graph
    if graph_back != graph or not _same(tensors, back):
        raise CompressError("pack: the file does not decode to what was packed; please report")
    return content


def unpack_file(path: Path, output: Path) -> None:
    """Write the tensors of an .l2z file to `output`, .safetensors, or its graph with them, .onnx."""
    tensors, graph = read_file(path)
    if output.suffix == ".onnx":
        if graph is None:
            raise CompressError(f"{path} holds tensors and no graph; unpack it to a .safetensors file")
        write_atomically(output, _put_together(graph, tensors, path))
    elif output.suffix == ".safetensors":
        if graph is not None:
            raise CompressError(
                f"{path} holds an ONNX graph with some of its tensors inside; unpack it to .onnx"
            )
        write_atomically(output, _safetensors(tensors, path))
    else:
        raise CompressError(f"unpack: {output}: expected a .safetensors or .onnx file to write")


def load(path: str | Path) -> dict[str, Tensor] | onnx.ModelProto:
    """The tensors of an .l2z file by name, or, where it holds a graph, the ONNX model."""
    path = Path(path)
    tensors, graph = read_file(path)
    if graph is None:
        return tensors
    import onnx

    model: onnx.ModelProto = onnx.ModelProto.FromString(_put_together(graph, tensors, path))
    return model


def read_file(path: Path) -> tuple[dict[str, Tensor], bytes | None]:
    """The tensors of an .l2z file by name, and its graph if it has one."""
    require_file(path, "model")
    return unpack_tensors(path.read_bytes(), str(path))


def _found_in(tensors: Mapping[str, Tensor], coded: Mapping[str, CodedTensor]) -> dict[str, CodedTensor]:
    """What is known of the tensors of a graph: an exporter renames matrices that it transposes."""
    known: dict[bytes, CodedTensor] = {}
    for each in coded.values():
        for view in (each, _transposed(each)) if each.indices.dim() == 2 and not each.trellis else (each,):
            known.setdefault(_fingerprint(view.tensor()), view)
    return {
        name: found
        for name, tensor in tensors.items()
        if tensor.dtype == torch.float32 and (found := known.get(_fingerprint(tensor))) is not None
    }


def _transposed(coded: CodedTensor) -> CodedTensor:
    axis = None if coded.axis is None else 1 - coded.axis
    return CodedTensor(coded.indices.T.contiguous(), coded.values, coded.scale, axis)


def _fingerprint(tensor: Tensor) -> bytes:
    digest = hashlib.sha256(str(tuple(tensor.shape)).encode())
    digest.update(bytes_of(tensor).data)
    return digest.digest()


def _safetensors(tensors: dict[str, Tensor], path: Path) -> bytes:
    from safetensors.torch import save

    if "__metadata__" in tensors:
        raise CompressError(f"{path}: .safetensors files cannot hold a tensor named '__metadata__'")
    if wrong := [name for name, tensor in tensors.items() if tensor.dtype == torch.complex128]:
        raise CompressError(
            f"{path}: tensor {wrong[0]!r} is complex128, which .safetensors files do not hold"
        )
    metadata = {KEY: text_in(tensors[KEY], path)} if KEY in tensors else None
    return bytes(
        save({name: tensor.contiguous() for name, tensor in tensors.items() if name != KEY}, metadata)
    )


def _same(packed: dict[str, Tensor], found: dict[str, Tensor]) -> bool:
    return list(packed) == list(found) and all(
        found[name].dtype == tensor.dtype
        and found[name].shape == tensor.shape
        and np.array_equal(bytes_of(found[name]), bytes_of(tensor))
        for name, tensor in packed.items()
    )


def _taken_apart(model: onnx.ModelProto) -> tuple[bytes, dict[str, Tensor]]:
    """The graph without the bytes of its larger initializers and Constant nodes, and these."""
    tensors: dict[str, Tensor] = {}
    for name, stored in _held(model):
        raw = stored.raw_data
        if len(raw) < LEAST_BYTES or name in tensors:
            continue
        content = np.frombuffer(raw, np.uint8).copy()
        dtype = _dtypes().get(stored.data_type, torch.uint8)
        shape = tuple(stored.dims) if stored.data_type in _dtypes() else (len(raw),)
        tensors[name] = tensor_of(content, dtype, shape)
        stored.raw_data = b""
    return model.SerializeToString(deterministic=True), tensors


def _held(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """The tensors that a file may hold beside its graph: initializers, then what Constant nodes of the graph make."""
    for initializer in model.graph.initializer:
        yield initializer.name, initializer
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.HasField("t"):
                    yield node.output[0], attribute.t


def _put_together(graph: bytes, tensors: dict[str, Tensor], path: Path) -> bytes:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.ModelProto.FromString(graph)
    except DecodeError as error:
        raise CompressError(f"{path}: its graph is not ONNX ({error})") from error
    left = dict(tensors)
    for name, stored in _held(model):
        if not stored.raw_data and name in left:
            tensor = left.pop(name)
            dtype = _dtypes().get(stored.data_type)
            if dtype is not None and (tensor.dtype, list(tensor.shape)) != (dtype, list(stored.dims)):
                raise CompressError(f"{path}: tensor {name!r} is not what its graph says")
            stored.raw_data = bytes_of(tensor).tobytes()
    if left:
        raise CompressError(f"{path}: its graph has no place for the tensor {next(iter(left))!r}")
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker raises ValidationError, ValueError, RuntimeError
        raise CompressError(f"{path}: its graph is not valid ONNX: {cause(error)}") from error
    return bytes(model.SerializeToString(deterministic=True))


@cache
def _dtypes() -> dict[int, torch.dtype]:
    """The torch type of an ONNX one, for those of whole bytes."""
    import onnx

    names = {
        "FLOAT": torch.float32, "DOUBLE": torch.float64, "FLOAT16": torch.float16, "BFLOAT16": torch.bfloat16,
        "INT8": torch.int8, "UINT8": torch.uint8, "INT16": torch.int16, "INT32": torch.int32,
        "INT64": torch.int64, "BOOL": torch.bool,
    }  # fmt: skip
    return {onnx.TensorProto.DataType.Value(name): dtype for name, dtype in names.items()}
