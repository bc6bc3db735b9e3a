"""The tensors that an ONNX file is fed as an example, of the types and sizes that it declares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...calibration.typed import in_type
from ...errors import CompressError
from .file import graph_inputs, input_types, sample_shape
from .inputs import GivenShapes, Shape, dims, sizes_of

if TYPE_CHECKING:
    import onnx

SEED = 0


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
            f"{what}: {dims(stated[1:])} for input {value.name!r}, and the data's samples are {dims(sample)}"
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
        f"model.source: {path}: input {value.name!r} takes {dims(wanted)} a sample, and the data's samples are"
        f" {dims(sample)}{hint}"
    )


def _random(
    value: onnx.ValueInfoProto, dtype: torch.dtype, stated: Shape | None, drawn: torch.Generator
) -> Tensor:
    shape = list(stated) if stated is not None else sample_shape(value)
    if shape and (isinstance(shape[0], str) or shape[0] == 0):
        shape[0] = 1
    if (not shape and not value.type.tensor_type.HasField("shape")) or any(isinstance(s, str) for s in shape):
        raise CompressError(
            f"model.input_shape: the file leaves the shape of input {value.name!r} open ({dims(sample_shape(value))});"
            f" give the shape of one sample, as {value.name}=3x224x224 by --input-shape, or in a recipe as"
            f" input_shape: {{{value.name}: [3, 224, 224]}}"
        )
    whole = [int(s) for s in shape]
    if dtype.is_floating_point:
        return torch.randn(whole, generator=drawn).to(dtype)
    high = 256 if dtype == torch.uint8 else 2
    return torch.randint(0, high, whole, generator=drawn).to(dtype)
