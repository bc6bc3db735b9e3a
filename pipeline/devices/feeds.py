"""Random inputs: something to feed an ONNX graph with when only its speed is asked for."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import CompressError
from ...targets.measuring.feeds import MOST_BYTES, FeedSequence
from ..onnx_files.file import graph_inputs, sample_shape, type_name

if TYPE_CHECKING:
    import onnx

Feeds = dict[str, "np.ndarray[Any, Any]"]
NOTE = (
    "the inputs are random: normal where the model takes floats, 0 or 1 where it takes integers, so that "
    "times which depend on the data (early exits, sparse inputs) may differ on real samples"
)


def batch_of(model: onnx.ModelProto, wanted: int) -> tuple[int, bool]:
    """The batch to feed, and whether the model lets it vary. `wanted` 0: the model's own, or 1.

    CompressError when `wanted` is not the batch that the model fixes.
    """
    first = [shape[0] for value in graph_inputs(model) if (shape := sample_shape(value))]
    fixed = next((size for size in first if isinstance(size, int) and size > 0), None)
    if fixed is None or any(isinstance(size, str) for size in first):
        return wanted or 1, True
    if wanted not in (0, fixed):
        raise CompressError(
            f"batch {wanted}: the model is exported with the fixed batch {fixed}; leave the batch out, or "
            "export it with a dynamic batch axis"
        )
    return fixed, False


def random_feeds(model: onnx.ModelProto, batch: int, seed: int) -> Feeds:
    """Seeded values for every input of the graph, `batch` of them where its first axis varies.

    CompressError names an input with another axis that varies, or with a type that numbers cannot fill.
    """
    return _drawn(model, batch, np.random.default_rng(seed))


def random_sequence(
    model: onnx.ModelProto, batch: int, seed: int, inputs: int = 1, asked: bool = True
) -> FeedSequence:
    """So many different inputs, each a batch, of which the first is that of `random_feeds`.

    asked: whether a user named their number: CompressError when they are more bytes than a launch is fed; else as many
    are made as it is.
    """
    one = sum(array.nbytes for array in random_feeds(model, batch, seed).values())
    fitting = max(1, MOST_BYTES // max(1, one))
    if not asked:
        inputs = min(inputs, fitting)
    if inputs > fitting:
        raise CompressError(
            f"{inputs:,} inputs are more than the {MOST_BYTES >> 20:,} MiB that a launch is fed; ask for fewer samples"
        )
    draw = np.random.default_rng(seed)
    told = (
        f"{inputs:,} random inputs, seed {seed}" if inputs > 1 else f"one random input, seed {seed}, repeated"
    )
    return FeedSequence(tuple(_drawn(model, batch, draw) for _ in range(inputs)), told)


def _drawn(model: onnx.ModelProto, batch: int, draw: np.random.Generator) -> Feeds:
    feeds: Feeds = {}
    for value in graph_inputs(model):
        shape, dtype = _fed_shape(value, batch), _dtype(value)
        values = draw.standard_normal(shape) if dtype.kind == "f" else draw.integers(0, 2, shape)
        feeds[value.name] = values.astype(dtype)
    return feeds


def _fed_shape(value: onnx.ValueInfoProto, batch: int) -> list[int]:
    shape: list[int] = []
    for axis, size in enumerate(sample_shape(value)):
        if isinstance(size, int) and size > 0:
            shape.append(size)
        elif axis == 0:
            shape.append(batch)
        else:
            raise CompressError(
                f"input {value.name!r}: axis {axis} ({size or 'unknown'}) has no fixed size; only the batch (axis 0)"
                f" may vary: say a sample's size by --input-shape {value.name}=3x224x224, or export with fixed sizes"
            )
    return shape


def _dtype(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    import onnx

    kind = value.type.tensor_type.elem_type
    with suppress(KeyError):  # a type that numpy has none for, or a number that ONNX does not know
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))
        if dtype.kind in "fiub":
            return dtype
    raise CompressError(
        f"input {value.name!r}: is of type {type_name(kind)}; only floats, integers and booleans can be fed"
    )
