"""What an ONNX file is fed: sizes that it leaves open are given and pinned; samples have the types that it declares."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..calibration.named import did_you_mean
from ..calibration.typed import in_type
from ..errors import CompressError
from .onnx_file import graph_inputs, input_types, read_graph, sample_shape

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

Shape = tuple[int, ...]
SEED = 0


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
            f"{what}: {_text(shape)} for input {value.name!r}, which the file declares as {_text(declared)}: give"
            f" {len(declared) - 1} sizes of one sample, or {len(declared)} with the batch first"
        )
    batch = declared[0] if known and declared and isinstance(declared[0], int) else 0
    whole = shape if known and len(shape) == len(declared) else (batch, *shape)
    for axis, (size, own) in enumerate(zip(whole, declared, strict=False)):
        if isinstance(own, int) and size != own:
            raise CompressError(
                f"{what}: {_text(shape)} for input {value.name!r}, whose axis {axis} the file fixes at {own}"
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
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        onnx.save(model, str(copy))
        yield copy


def open_axes(model: onnx.ModelProto) -> list[str]:
    """Inputs with an axis besides the batch whose size the file leaves open."""
    return [v.name for v in graph_inputs(model) if any(isinstance(size, str) for size in sample_shape(v)[1:])]


def example_inputs(
    model: onnx.ModelProto, path: Path, example: tuple[Tensor, ...] | None, given: GivenShapes
) -> tuple[Tensor, ...]:
    """One tensor for each input, shape (batch, ...), of the type that it declares: the data's, else random numbers.

    The batch is the file's where it fixes one. CompressError for data that do not fit the file, and where nobody
    says a size.
    """
    values, types = graph_inputs(model), input_types(model)
    for value in values:
        if any(d.HasField("dim_value") and d.dim_value == 0 for d in value.type.tensor_type.shape.dim):
            raise CompressError(
                f"model.source: {path}: input {value.name!r} has the size 0 on an axis, which no runtime can feed;"
                " export it again with a dynamic axis there"
            )
    sizes = sizes_of(model, given)
    if example is None:
        drawn = torch.Generator().manual_seed(SEED)
        return tuple(_random(v, t, sizes.get(v.name), drawn) for v, t in zip(values, types, strict=True))
    if len(values) != len(example):
        names = ", ".join(v.name for v in values)
        raise CompressError(
            f"model.source: {path} takes {len(values)} inputs ({names}), the data {len(example)}"
        )
    found = []
    for value, dtype, x in zip(values, types, example, strict=True):
        _require_fit(value, x, sizes.get(value.name), path, given.what)
        batch = sample_shape(value)[:1]
        if batch and isinstance(batch[0], int) and x.shape[0] != batch[0]:
            x = torch.cat([x[:1]] * batch[0])
        found.append(in_type(x, dtype, f"data: input {value.name!r}"))
    return tuple(found)


def _require_fit(value: onnx.ValueInfoProto, x: Tensor, stated: Shape | None, path: Path, what: str) -> None:
    declared, sample = sample_shape(value), list(x.shape[1:])
    if stated is not None and list(stated[1:]) != sample:
        raise CompressError(
            f"{what}: {_text(stated[1:])} for input {value.name!r}, and the data's samples are {_text(sample)}"
        )
    if not value.type.tensor_type.HasField("shape"):
        return
    wanted = declared[1:]
    fits = len(wanted) == len(sample) and all(
        isinstance(w, str) or w == s for w, s in zip(wanted, sample, strict=True)
    )
    if fits:
        return
    hint = ""
    if len(sample) == 3 and [sample[i] for i in (1, 2, 0)] == wanted:
        hint = ": channels come last there, move them with x.transpose(0, 2, 3, 1)"
    elif len(sample) == 3 and [sample[i] for i in (2, 0, 1)] == wanted:
        hint = ": channels come first there, move them with x.transpose(0, 3, 1, 2)"
    raise CompressError(
        f"model.source: {path}: input {value.name!r} takes {_text(wanted)} a sample, and the data's samples are"
        f" {_text(sample)}{hint}"
    )


def _random(
    value: onnx.ValueInfoProto, dtype: torch.dtype, stated: Shape | None, drawn: torch.Generator
) -> Tensor:
    shape = list(stated) if stated is not None else sample_shape(value)
    if shape and (isinstance(shape[0], str) or shape[0] == 0):
        shape[0] = 1
    if (not shape and not value.type.tensor_type.HasField("shape")) or any(isinstance(s, str) for s in shape):
        raise CompressError(
            f"model.input_shape: the file leaves the shape of input {value.name!r} open ({_text(sample_shape(value))});"
            f" give the shape of one sample, as {value.name}=3x224x224 by --input-shape, or in a recipe as"
            f" input_shape: {{{value.name}: [3, 224, 224]}}"
        )
    whole = [int(s) for s in shape]
    if dtype.is_floating_point:
        return torch.randn(whole, generator=drawn).to(dtype)
    high = 256 if dtype == torch.uint8 else 2
    return torch.randint(0, high, whole, generator=drawn).to(dtype)


def _text(shape: Sequence[int | str]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
