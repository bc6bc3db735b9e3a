"""Which executed layers of OpenVINO are the recurrent nodes of the ONNX file: its converter drops their names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

RECURRENT_LAYERS = frozenset({"rnnseq", "rnncell"})
"""What the runtime graph calls them, in lower case."""

_NODES = frozenset({"LSTM", "GRU", "RNN"})
_OPERATIONS = frozenset({"LSTMSequence", "GRUSequence", "RNNSequence", "TensorIterator"})
_PART = "/recurrent"
_BETWEEN = frozenset({"reshape", "reorder", "transpose", "concatenation"})


def name_recurrent(model: Any, onnx_model: onnx.ModelProto) -> None:
    """Name each recurrent operation of a converted model after its ONNX node; only what reorders its result was."""
    nodes = [node for node in onnx_model.graph.node if node.op_type in _NODES]
    if not nodes:
        return
    ports = [port for operation in model.get_ordered_ops() for port in operation.outputs()]
    made = {name: port.get_node() for port in ports for name in port.get_names()}
    for node in nodes:
        own = [output for output in node.output if output in made]
        pending = [made[output] for output in own]
        while pending:
            operation = pending.pop()
            if operation.get_type_name() in _OPERATIONS:
                operation.set_friendly_name((node.name or own[0]) + _PART)
                break
            names = {name for port in operation.outputs() for name in port.get_names()}
            if names <= set(own):  # else it belongs to another node
                pending += [port.get_source_output().get_node() for port in operation.inputs()]


def one_direction_of(layer: Any) -> Iterator[str]:
    """Names of the bidirectional operation whose half a layer of the runtime graph is.

    The runtime splits it in two layers of names of its own, and gives the old name to what joins their results.
    """
    pending = [layer]
    while pending:
        for port in pending.pop().outputs():
            for reader in port.get_target_inputs():
                operation = reader.get_node()
                facts = operation.get_rt_info()
                kind = facts["layerType"].astype(str).lower() if "layerType" in facts else ""
                name = operation.get_friendly_name()
                if kind == "concatenation":
                    if _PART in name:
                        yield name
                elif kind in _BETWEEN:
                    pending.append(operation)
