"""Contestant of `qat_peers.py`: Brevitas' plain QAT, as far as OpenVINO executes what it exports.

Brevitas maps layers by exact type and folds BatchNorm by pattern, so the network is first rewritten to layers
that it knows; and what it exports is rewritten to the form of weights that OpenVINO executes in INT8.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, fx, nn


def build(
    network: nn.Module, calibration: list[Tensor], tune: Callable[[nn.Module], None], ir: Path
) -> nn.Module:
    """Quantize, calibrate, train by `tune`, write the IR; returns the trained network. `network` is changed."""
    quantized = _quantize(network)
    _calibrate(quantized, calibration)
    tune(quantized)
    _to_openvino(quantized, calibration[0], ir)
    return quantized


def _quantize(network: nn.Module) -> fx.GraphModule:
    """Brevitas' graph mode: INT8 weights per channel, INT8 activations (UINT8 behind a ReLU) per tensor."""
    import brevitas.graph.quantize as graph
    from brevitas.graph import quantize_impl
    from brevitas.nn import QuantConv2d, QuantLinear
    from brevitas.quant import Int8WeightPerChannelFloat
    from torch import nn

    layer = {"weight_quant": Int8WeightPerChannelFloat, "bias_quant": None, "return_quant_tensor": False}
    layers = {nn.Conv2d: (QuantConv2d, layer), nn.Linear: (QuantLinear, layer)}
    # Zeros are on every grid. Brevitas does not know it and would quantize a padded tensor a second time.
    quantize_impl.PRECISION_PRESERVING_MODULES += (nn.ZeroPad2d,)
    # Its default would turn ReLU6 into ReLU, which is another network.
    traced = graph.preprocess_for_quantize(_with_plain_convolutions(network), relu6_to_relu=False)
    # Layers' inputs are quantized either way; their outputs as well would quantize the logits.
    quantized = graph.quantize(traced, compute_layer_map=layers, requantize_layer_handler_output=False)
    found = sum(isinstance(module, (QuantConv2d, QuantLinear)) for module in quantized.modules())
    expected = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in network.modules())
    if found != expected:
        raise RuntimeError(f"Brevitas quantized {found} of {expected} layers")
    return quantized


def _with_plain_convolutions(network: nn.Module) -> nn.Module:
    """Convolutions that pad themselves as `nn.Conv2d`, behind an `nn.ZeroPad2d` where the sides differ."""
    from torch import nn

    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and type(child) is not nn.Conv2d:
                setattr(parent, name, _plain(child))
    return network


def _plain(own: Any) -> nn.Module:
    from torch import nn

    left, right, top, bottom = getattr(own.static_padding, "padding", (0, 0, 0, 0))
    even = left == right and top == bottom
    plain = nn.Conv2d(
        own.in_channels,
        own.out_channels,
        own.kernel_size,
        tuple(own.stride),
        padding=(top, left) if even else 0,
        groups=own.groups,
        bias=own.bias is not None,
    )
    plain.load_state_dict({name: own.state_dict()[name] for name in plain.state_dict()})
    return plain if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), plain)


def _calibrate(quantized: nn.Module, calibration: list[Tensor]) -> None:
    import torch
    from brevitas.graph.calibrate import calibration_mode

    quantized.eval()
    with torch.no_grad(), calibration_mode(quantized):
        for inputs in calibration:
            quantized(inputs)


def _to_openvino(quantized: nn.Module, example: Tensor, ir: Path) -> None:
    """QCDQ by the dynamo exporter, INT8 weights as initializers, then OpenVINO's own converter."""
    import onnx
    import openvino
    from brevitas.export import export_onnx_qcdq

    path = ir.with_suffix(".onnx")
    export_onnx_qcdq(
        quantized.eval(),
        args=example,
        export_path=str(path),
        dynamo=True,
        optimize=True,
        opset_version=19,
        input_names=["input"],
        keep_initializers_as_inputs=False,
        external_data=False,
        verbose=False,
    )
    model = onnx.load(path)
    _store_int8_weights(model.graph)
    onnx.save(model, path)
    openvino.save_model(openvino.convert_model(str(path)), str(ir), compress_to_fp16=False)


def _store_int8_weights(graph: onnx.GraphProto) -> None:
    """float weight -> QuantizeLinear -> Clip becomes an INT8 initializer: OpenVINO runs the former in float."""
    from onnx import numpy_helper

    constants = {i.name: i for i in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    for clip in [node for node in graph.node if node.op_type == "Clip"]:
        quantize = producers[clip.input[0]]
        weight, scale, zero, low, high = (
            numpy_helper.to_array(constants[name]) for name in (*quantize.input, *clip.input[1:])
        )
        [axis] = [attribute.i for attribute in quantize.attribute if attribute.name == "axis"]
        along = [-1 if position == axis else 1 for position in range(weight.ndim)]
        steps = np.rint(weight / scale.reshape(along)) + zero.reshape(along)
        stored = np.clip(steps, low, high).astype(zero.dtype)
        graph.initializer.append(numpy_helper.from_array(stored, clip.output[0]))
        for node in (quantize, clip):
            graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for unused in [i for i in graph.initializer if i.name not in used]:
        graph.initializer.remove(unused)
