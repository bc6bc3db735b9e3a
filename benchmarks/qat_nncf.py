"""Contestant of `qat_peers.py`: NNCF's QAT on the PyTorch network, by the route of its documentation.

Also what OpenVINO executes of an IR, told from the IR alone: NNCF's comes from no ONNX file.

`nncf.quantize`, training, `openvino.convert_model` of the network as it is. `nncf.strip`, which older texts put in
between, needs torchao; the engine it led to gave logits within 0.03 of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def build(
    network: nn.Module, calibration: list[Tensor], tune: Callable[[nn.Module], None], ir: Path
) -> nn.Module:
    """Quantize, train by `tune`, write the IR; returns the trained network. `network` is changed."""
    import nncf
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # NNCF's documentation: turn dropout off
    quantized = nncf.quantize(
        network,
        nncf.Dataset(calibration),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(calibration),
    )
    tune(quantized)
    _to_openvino(quantized.eval(), calibration[0], ir)
    return quantized


def _to_openvino(quantized: nn.Module, example: Tensor, ir: Path) -> None:
    import openvino

    model = openvino.convert_model(quantized, example_input=example, input=list(example.shape))
    [port] = model.inputs
    port.get_tensor().set_names({"input"})  # as the other engines call it: they are timed on the same feeds
    port.get_node().set_friendly_name("input")
    openvino.save_model(model, str(ir), compress_to_fp16=False)


def precisions(ir: Path) -> dict[str, dict[str, float]]:
    """Layers, and their share of the multiply-accumulates, in each precision that OpenVINO says it executes."""
    import openvino

    core = openvino.Core()
    model = core.read_model(str(ir))
    model.reshape([1, *list(model.input(0).partial_shape)[1:]])
    compiled = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    executed: dict[str, str] = {}
    for layer in compiled.get_runtime_model().get_ordered_ops():
        facts = {key: value.astype(str) for key, value in layer.get_rt_info().items()}
        if facts["layerType"] in ("Convolution", "FullyConnected", "MatMul"):
            names = facts["originalLayersNames"].split(",")
            names += [
                name.removesuffix("/DequantizationMultiply") for name in names
            ]  # where it replaced them
            executed |= dict.fromkeys(names, facts["runtimePrecision"])
    found: dict[str, dict[str, float]] = {}
    for node in model.get_ordered_ops():
        if macs := _macs(node):
            told = executed.get(node.get_friendly_name(), "unknown")
            row = found.setdefault({"u8": "int8", "i8": "int8"}.get(told, told), {"layers": 0, "macs": 0})
            row["layers"] += 1
            row["macs"] += macs
    whole = sum(row["macs"] for row in found.values())
    return {name: {"layers": row["layers"], "share": row["macs"] / whole} for name, row in found.items()}


def _macs(node: Any) -> int:
    """Multiply-accumulates of a layer for one sample, 0 for what does not multiply."""
    outputs_of_weight = {
        "Convolution": 1,
        "GroupConvolution": 2,
    }  # its leading dimensions; the others are summed
    kind = node.get_type_name()
    if kind == "MatMul":
        return math.prod(node.output(0).shape) * int(node.input_value(0).shape[-1])
    if kind not in outputs_of_weight:
        return 0
    summed = list(node.input_value(1).shape)[outputs_of_weight[kind] :]
    return math.prod(node.output(0).shape) * math.prod(summed)
