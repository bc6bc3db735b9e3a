"""Sizes that an ONNX file leaves open: given by a user or by the data, and pinned."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...calibration.named import did_you_mean
from ...errors import CompressError
from ...targets.graphs.onnx_graph import require_one_file
from .file import graph_inputs, read_graph, sample_shape

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]


@dataclass(frozen=True)
class GivenShapes:
    """Shapes that a user states: by the inputs' names, or in their order. what: the option, for messages."""

    named: Mapping[str, Shape]
    ordered: Sequence[Shape] = ()
    what: str = "--input-shape"

    def __bool__(self) -> bool:
        return bool(self.named) or bool(self.ordered)


NOTHING = GivenShapes({})


def sizes_of(model: onnx.ModelProto, given: GivenShapes) -> dict[str, Shape]:
    """The whole shape of each input that `given` speaks of, batch included: 0 there where nobody fixes it.

    A shape of the input's rank has the batch first; one of a number less is a sample's. CompressError for an input that
    is not there, a wrong rank, or a size that contradicts the file.
    """
    inputs = {value.name: value for value in graph_inputs(model)}
    if len(given.ordered) > len(inputs):
        raise CompressError(
            f"{given.what}: {len(given.ordered)} shapes, and the model takes {len(inputs)} inputs"
        )
    stated = dict(zip(inputs, given.ordered, strict=False)) | dict(given.named)
    found = {}
    for name, shape in stated.items():
        if name not in inputs:
            raise CompressError(
                f"{given.what}: the model has no input {name!r}{did_you_mean(name, list(inputs))};"
                f" it takes {', '.join(inputs)}"
            )
        found[name] = _whole(inputs[name], shape, given.what)
    return found


def _whole(value: onnx.ValueInfoProto, shape: Shape, what: str) -> Shape:
    declared = sample_shape(value)
    known = value.type.tensor_type.HasField("shape")
    if known and len(shape) not in (len(declared), len(declared) - 1):
        raise CompressError(
            f"{what}: {dims(shape)} for input {value.name!r}, which the file declares as {dims(declared)}: give"
            f" {len(declared) - 1} sizes of one sample, or {len(declared)} with the batch first"
        )
    batch = declared[0] if known and declared and isinstance(declared[0], int) else 0
    whole = shape if known and len(shape) == len(declared) else (batch, *shape)
    for axis, (size, own) in enumerate(zip(whole, declared, strict=False)):
        if isinstance(own, int) and size != own:
            raise CompressError(
                f"{what}: {dims(shape)} for input {value.name!r}, whose axis {axis} the file fixes at {own}"
            )
    return whole


def pin(model: onnx.ModelProto, sizes: Mapping[str, Shape]) -> bool:
    """Fix the open axes of the inputs at these sizes, in place; 0 leaves one open. Whether anything was changed.

    What is noted of inner tensors' shapes is forgotten, since it may name the axes that are fixed now.
    """
    changed = False
    names: dict[str, int] = {}
    for value in graph_inputs(model):
        shape = sizes.get(value.name, ())
        noted = value.type.tensor_type.shape
        if shape and not value.type.tensor_type.HasField("shape"):
            for _ in shape:
                noted.dim.add()
        for axis, dimension in enumerate(noted.dim):
            size = shape[axis] if axis < len(shape) else 0
            if dimension.dim_value > 0:
                continue
            if size:
                names[dimension.dim_param] = size
                dimension.dim_value = size
                changed = True
            elif dimension.HasField("dim_value"):  # -1 and 0 say that it varies, in no words of ONNX
                dimension.dim_param = "batch" if axis == 0 else f"{value.name}_{axis}"
                changed = True
    if changed:
        del model.graph.value_info[:]
        for output in model.graph.output:
            for axis, dimension in enumerate(output.type.tensor_type.shape.dim):
                _say_again(dimension, axis, names)
    return changed


def _say_again(dimension: onnx.TensorShapeProto.Dimension, axis: int, names: Mapping[str, int]) -> None:
    """An output's axis after inputs' were fixed: known where it is named as one of theirs, else open without a name."""
    if dimension.HasField("dim_value"):
        if dimension.dim_value <= 0:
            dimension.Clear()
            if axis == 0:
                dimension.dim_param = "batch"
    elif dimension.dim_param in names and dimension.dim_param:
        dimension.dim_value = names[dimension.dim_param]
    elif axis:
        dimension.Clear()


@contextmanager
def with_shapes(path: Path, given: GivenShapes) -> Iterator[Path]:
    """The ONNX file at `path` with these shapes pinned: itself where there are none, else a copy of the same name."""
    import onnx

    if not given:
        yield path
        return
    model = read_graph(path)
    sizes = sizes_of(model, given)
    onnx.load_external_data_for_model(model, str(path.parent))
    pin(model, sizes)
    require_one_file(model, path)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        onnx.save(model, str(copy))
        yield copy


def open_axes(model: onnx.ModelProto) -> list[str]:
    """Inputs with an axis besides the batch whose size the file leaves open."""
    return [v.name for v in graph_inputs(model) if any(isinstance(size, str) for size in sample_shape(v)[1:])]


def dims(shape: Sequence[int | str]) -> str:
    """A shape as messages have it: "3 x 224 x 224"."""
    return " x ".join(map(str, shape)) or "a single number"
