"""Recurrent layers run in float where all else is INT8: the share that runtimes execute in INT8, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from edgepress.calibration.data import DataParts, Part
from edgepress.calibration.metric import TopK
from edgepress.calibration.scheme import QuantScheme
from edgepress.model import Model
from edgepress.passes.base import PassContext
from edgepress.passes.quantize import Quantize
from edgepress.pipeline.export import export
from edgepress.targets import TARGETS
from edgepress.targets.base import BuiltOnly, TargetOptions
from edgepress.targets.graphs.attribution import precision_shares
from edgepress.targets.graphs.macs import node_macs
from edgepress.targets.layer import Layer
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

RUNTIMES = ("openvino", "onnxruntime")

# 4 x 16 pixels: convolutions 3 -> 8 -> 8 of 3 x 3, a recurrent layer over 4 rows of 8 · 16 features, a head of 10.
CONV, CONV2 = 4 * 16 * 8 * 3 * 9, 4 * 16 * 8 * 8 * 9
STEP_OF_ONE_GATE = 32 * (8 * 16 + 32)
LSTM, GRU = 4 * 4 * STEP_OF_ONE_GATE, 4 * 3 * STEP_OF_ONE_GATE
HEAD = 32 * 10


class Rows(nn.Module):
    """The rows of an image, read one after the other."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.rows = kind(128, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.conv2(torch.relu(self.conv(x)))).permute(0, 2, 1, 3).flatten(2)
        return self.head(self.rows(features)[0][:, -1])


def samples() -> list[tuple[tuple[Tensor, ...], Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [((torch.randn(3, 4, 16, generator=generator),), torch.tensor(i % 10)) for i in range(8)]


def context() -> PassContext:
    part = Part("x", samples())
    return PassContext(DataParts(part, part, part, None, "x"), TopK(1), QuantScheme(True))


def executed(runtime: str, path: Path, folder: Path) -> list[Layer]:
    engine = TARGETS[runtime].build(path, TargetOptions(batch=1), folder / runtime)
    assert not isinstance(engine, BuiltOnly)
    return engine.layers({"input": np.ones((1, 3, 4, 16), np.float32)}, 2)


@pytest.mark.parametrize(("kind", "recurrent"), [(nn.LSTM, LSTM), (nn.GRU, GRU)])
def test_a_quantized_recurrent_network(kind: type[nn.LSTM], recurrent: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model(Rows(kind).eval(), (torch.randn(1, 3, 4, 16),))
    whole = CONV + CONV2 + recurrent + HEAD
    assert model.facts().macs == whole
    result = Quantize().apply(model, context())
    share = (CONV + CONV2 + HEAD) / whole
    assert f"3 of 4 layers, {100 * share:.1f} % of MACs placed in INT8" in result.notes[0]
    path = tmp_path / "model.onnx"
    export(result.model, path)
    assert sum(macs or 0 for macs in node_macs(onnx.load(path)).values()) == whole
    # onnxruntime has no integer kernel where the result is not quantized: for the second convolution and the head.
    shares = {"openvino": share, "onnxruntime": CONV / whole}
    for runtime in RUNTIMES:
        layers = executed(runtime, path, tmp_path)
        assert precision_shares(layers)["int8"] == pytest.approx(shares[runtime]), runtime
        assert (
            sum(x.macs or 0 for x in layers if x.precision in ("f32", "bf16") and "rnn" in _kind(x))
            == recurrent
        )


def _kind(layer: Layer) -> str:
    """What both runtimes call recurrent layers, alike."""
    return layer.type.lower().replace("lstm", "rnn").replace("gru", "rnn")


DIRECTIONS = {1: "forward", 2: "bidirectional"}


def gates(op: str, names: tuple[str, str], output: list[str], ways: int) -> onnx.ModelProto:
    """A file by hand: a convolution in INT8, and a recurrent node called by `names` (the node's and its output's)."""
    rng = np.random.default_rng(0)
    count = {"LSTM": 4, "GRU": 3}[op]
    arrays = {
        "s": np.float32(0.05), "z": np.uint8(128), "ws": np.float32(0.01), "wz": np.int8(0), "z0": np.uint8(0),
        "w": rng.integers(-60, 60, (8, 3, 3, 3)).astype(np.int8),
        "flat": np.array([4, 0, 128]), "axis": np.array([0]),
        "W": rng.normal(0, 0.1, (ways, count * 32, 128)).astype(np.float32),
        "R": rng.normal(0, 0.1, (ways, count * 32, 32)).astype(np.float32),
    }  # fmt: skip
    make = helper.make_node
    nodes = [
        make("QuantizeLinear", ["input", "s", "z"], ["q"]),
        make("DequantizeLinear", ["q", "s", "z"], ["d"]),
        make("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        make("Conv", ["d", "wd"], ["c"], "conv", pads=[1] * 4),
        make("Relu", ["c"], ["r"]),
        make("QuantizeLinear", ["r", "s", "z0"], ["rq"]),
        make("DequantizeLinear", ["rq", "s", "z0"], ["rd"]),
        make("Transpose", ["rd"], ["t"], perm=[2, 0, 1, 3]),
        make("Reshape", ["t", "flat"], ["rows"]),
        make(op, ["rows", "W", "R"], output, names[0], hidden_size=32, direction=DIRECTIONS[ways]),
        make("ReduceMax", [names[1], "axis"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 4, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize(
    ("op", "names", "output", "ways", "recurrent"),
    [
        pytest.param("LSTM", ("lstm", "last"), ["", "last"], 1, LSTM, id="LSTM, its last state"),
        pytest.param("GRU", ("", "/rows/gru_output_0"), ["", "/rows/gru_output_0"], 1, GRU, id="GRU without a name"),
        pytest.param("LSTM", ("lstm", "all"), ["all"], 2, 2 * LSTM, id="both ways"),
    ],
)  # fmt: skip
def test_a_recurrent_file(
    op: str, names: tuple[str, str], output: list[str], ways: int, recurrent: int, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(gates(op, names, output, ways), path)
    share = CONV / (CONV + recurrent)
    assert node_macs(onnx.load(path)) == {"conv": CONV, names[0] or names[1]: recurrent}
    for runtime in RUNTIMES:
        layers = executed(runtime, path, tmp_path)
        assert precision_shares(layers)["int8"] == pytest.approx(share), runtime
        [layer] = [x for x in layers if x.macs == recurrent]
        assert layer.precision in ("f32", "bf16") and layer.ms is not None
