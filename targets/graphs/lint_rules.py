"""What each runtime refuses, runs in float or clips silently: one function a rule, one list a runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ..base import Lint
from ..layer import Layer
from .onnx_graph import OnnxGraph

Rule = Callable[[OnnxGraph], Iterator[Lint]]

NEWEST_OPSET = 20
NEWEST_IR = 10
_QDQ = ("QuantizeLinear", "DequantizeLinear")


def nonzero_zero_points(graph: OnnxGraph) -> Iterator[Lint]:
    """TensorRT knows symmetric grids only."""
    for name, node in graph.of_type(*_QDQ):
        zero = graph.value(node.input[2]) if len(node.input) > 2 else None
        if zero is not None and np.any(zero.astype(np.int64)):
            yield Lint(
                name,
                "refused",
                f"zero point {int(zero[zero != 0].flat[0])}: TensorRT accepts zero points of 0 only",
                "quantize activations on the symmetric int8 grid (name a tensorrt target in the recipe)",
            )


def unsigned_activations(graph: OnnxGraph) -> Iterator[Lint]:
    """TensorRT reads uint8 Q/DQ as int8 at the same scale."""
    for name, node in graph.of_type("QuantizeLinear"):
        zero = graph.value(node.input[2]) if len(node.input) > 2 else np.zeros((), np.uint8)
        if zero is not None and zero.dtype == np.uint8 and not np.any(zero):
            yield Lint(
                name,
                "clips",
                "uint8 with zero point 0: TensorRT reads it as int8 at the same scale, so that values above "
                "127 x scale clip",
                "quantize activations to int8 with zero point 0",
            )


def int32_bias(graph: OnnxGraph) -> Iterator[Lint]:
    """TensorRT dequantizes 8-bit tensors only."""
    for name, node in graph.of_type("DequantizeLinear"):
        tensor = graph.initializers.get(node.input[0])
        value = graph.value(node.input[0]) if tensor is not None else None
        if value is not None and value.dtype == np.int32:
            yield Lint(
                name,
                "refused",
                f"dequantizes the int32 bias {node.input[0]!r}: TensorRT takes int8 here",
                "store the bias as float32 (onnxruntime: QuantizeBias=False; Brevitas: bias_quant=None)",
            )


def _clipped_weights(graph: OnnxGraph) -> Iterator[tuple[str, bool]]:
    """Clip nodes between a quantized weight and its DequantizeLinear, and whether it is stored in int8."""
    for name, node in graph.of_type("Clip"):
        readers = [graph.by_name[r].op_type for r in graph.readers.get(node.output[0], ())]
        if node.input[0] in graph.constants and "DequantizeLinear" in readers:
            maker = graph.by_name.get(graph.producer.get(node.input[0], ""))
            yield name, maker is None or maker.op_type == "Constant"


def int8_constant_clip(graph: OnnxGraph) -> Iterator[Lint]:
    """TensorRT wants DequantizeLinear right behind an int8 constant."""
    for name, stored in _clipped_weights(graph):
        if stored:
            yield Lint(
                name,
                "refused",
                "Clip stands between an int8 constant and its DequantizeLinear: TensorRT refuses to build it",
                "fold the Clip into the int8 initializer",
            )


def clipped_weights(graph: OnnxGraph) -> Iterator[Lint]:
    """OpenVINO does not recognize a weight with a Clip before its DequantizeLinear as quantized."""
    for name, stored in _clipped_weights(graph):
        source = "an int8 constant" if stored else "QuantizeLinear of a float weight"
        yield Lint(
            name,
            "float",
            f"Clip between {source} and DequantizeLinear: OpenVINO runs the layer that reads it in float",
            "fold the weight into an int8 initializer that DequantizeLinear reads directly",
        )


def scatter_reductions(graph: OnnxGraph) -> Iterator[Lint]:
    """TensorRT for RTX refuses every reduction."""
    for name, node in graph.of_type("ScatterElements", "ScatterND"):
        for attribute in node.attribute:
            if attribute.name == "reduction" and attribute.s not in {b"", b"none"}:
                yield Lint(
                    name,
                    "refused",
                    f"{node.op_type} with reduction {attribute.s.decode()!r}: TensorRT for RTX has none",
                    "write the sum as a product with a one-hot matrix",
                )


def float_operands(graph: OnnxGraph) -> Iterator[Lint]:
    """In a graph that is quantized elsewhere, a product whose factors are not runs in float."""
    if not any(True for _ in graph.of_type("DequantizeLinear")):
        return
    for name, node in graph.computed_macs():
        bare = [tensor for tensor in node.input[:2] if not graph.dequantized(tensor)]
        if bare:
            yield Lint(
                name,
                "float",
                f"{node.op_type} reads {' and '.join(repr(t) for t in bare)} without Q/DQ, while others "
                "of the model are quantized: it runs in float",
                "quantize both factors, or accept the float layer",
            )


def half_precision_qdq(graph: OnnxGraph) -> Iterator[Lint]:
    """onnxruntime has integer kernels for float32 scales only."""
    for name, node in graph.of_type(*_QDQ):
        scale = graph.value(node.input[1])
        if scale is not None and scale.dtype != np.float32:
            yield Lint(
                name,
                "float",
                f"{node.op_type} with a {scale.dtype} scale: onnxruntime runs the layers around it in float",
                "export the model in float32; Q/DQ already makes it INT8",
            )


def wrapping_pads(graph: OnnxGraph) -> Iterator[Lint]:
    """OpenVINO has no circular padding."""
    for name, node in graph.of_type("Pad"):
        if any(a.name == "mode" and a.s == b"wrap" for a in node.attribute):
            yield Lint(
                name,
                "refused",
                "Pad with mode 'wrap' (circular padding): OpenVINO has no such mode",
                "write it as slices and a concatenation, as edgepress does where it exports or builds itself",
            )


def rounded_up_pools(graph: OnnxGraph) -> Iterator[Lint]:
    """Sizes rounded up and padding that counts, in one pool: runtimes divide by other counts than the standard."""
    for name, node in graph.of_type("AveragePool"):
        asked = {a.name for a in node.attribute if a.i and a.name in ("ceil_mode", "count_include_pad")}
        if len(asked) == 2 and any(any(a.ints) for a in node.attribute if a.name == "pads"):
            yield Lint(
                name,
                "wrong",
                "AveragePool with ceil_mode and count_include_pad: computed with wrong values at the border",
                "write a Pad before an AveragePool without both, as edgepress does where it exports or builds itself",
            )


def too_new(graph: OnnxGraph) -> Iterator[Lint]:
    """Runtimes on devices are older than the exporter."""
    model = graph.model
    if graph.opset > NEWEST_OPSET:
        yield Lint(
            "",
            "refused",
            f"opset {graph.opset}: released runtimes do not implement all operators beyond opset {NEWEST_OPSET}",
            f"export at opset 18 to {NEWEST_OPSET}",
        )
    if model.ir_version > NEWEST_IR:
        yield Lint(
            "",
            "refused",
            f"IR version {model.ir_version}: runtime releases in the field read up to IR version {NEWEST_IR}",
            f"set model.ir_version to 8, 9 or {NEWEST_IR} before saving",
        )


TENSORRT: tuple[Rule, ...] = (
    too_new,
    nonzero_zero_points,
    unsigned_activations,
    int32_bias,
    int8_constant_clip,
    scatter_reductions,
    float_operands,
)
OPENVINO: tuple[Rule, ...] = (too_new, wrapping_pads, rounded_up_pools, clipped_weights, float_operands)
ONNXRUNTIME: tuple[Rule, ...] = (too_new, rounded_up_pools, half_precision_qdq, float_operands)


def check(graph: OnnxGraph, rules: Iterable[Rule]) -> list[Lint]:
    """Every finding of `rules`, in their order."""
    return [lint for rule in rules for lint in rule(graph)]


def with_float_layers(
    graph: OnnxGraph, found: list[Lint], layers: Iterable[Layer], runtime: str
) -> list[Lint]:
    """`found`, and every product with Q/DQ on both factors that the built engine still runs in float."""
    explained = {lint.node for lint in found}
    extra = []
    for layer in layers:
        for name in layer.onnx_nodes if layer.precision != "int8" else ():
            node = graph.by_name[name]
            multiplies = node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}
            if multiplies and name not in explained and graph.quantized_operands(node):
                extra.append(
                    Lint(
                        name,
                        "float",
                        f"has Q/DQ on both factors, but {runtime} says that it runs it in {layer.precision}",
                        "check that its output is quantized too, on the same grid type as its input, and "
                        "that its weight is an int8 initializer with a DequantizeLinear of its own",
                    )
                )
    return found + extra
