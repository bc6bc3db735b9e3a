"""Keep equal weights of a convolution and a transposed one apart in OpenVINO's files, which store equal bytes once."""

from __future__ import annotations

from typing import Any

import numpy as np

_CONVOLUTIONS = frozenset({"Convolution", "GroupConvolution"})
_TRANSPOSED = frozenset({"ConvolutionBackpropData", "GroupConvolutionBackpropData"})


def part_equal_weights(model: Any) -> None:
    """Store a transposed convolution's weight in another order where a convolution has the same bytes.

    `save_model` writes equal constants to one place, and OpenVINO 2026.4 prepares what lies at one place once, for
    its first reader: the other convolution then multiplies by weights in the wrong order. A Transpose, which is
    computed while compiling, gives back the old order, and the same values.
    """
    read = {kinds: _weights(model, kinds) for kinds in (_CONVOLUTIONS, _TRANSPOSED)}
    seen = {values.tobytes() for _, values in read[_CONVOLUTIONS]}
    for port, values in read[_TRANSPOSED]:
        if values.tobytes() in seen:
            _reorder(port, values)


def _weights(model: Any, kinds: frozenset[str]) -> list[tuple[Any, np.ndarray[Any, Any]]]:
    """The ports through which operations of these kinds read their weight from a constant, and its values."""
    found = []
    for operation in model.get_ordered_ops():
        if operation.get_type_name() in kinds:
            port = operation.input(1)
            while port.get_source_output().get_node().get_type_name() == "Reshape":
                port = port.get_source_output().get_node().input(0)
            constant = port.get_source_output().get_node()
            if constant.get_type_name() == "Constant":
                found.append((port, np.array(constant.data)))
    return found


def _reorder(port: Any, values: np.ndarray[Any, Any]) -> None:
    from openvino import opset13

    last_first = np.array([values.ndim - 1, *range(values.ndim - 1)], dtype=np.int64)
    stored = opset13.constant(np.ascontiguousarray(np.moveaxis(values, 0, -1)))
    port.replace_source_output(opset13.transpose(stored, opset13.constant(last_first)).output(0))
