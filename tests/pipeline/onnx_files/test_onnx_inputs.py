"""What an ONNX file is given: samples of its own types, and sizes where it leaves them open."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from edgepress.calibration.typed import in_type
from edgepress.cli import cli
from edgepress.errors import CompressError
from edgepress.passes import PASSES
from edgepress.pipeline.export import export
from edgepress.pipeline.ingest.model import ingest
from edgepress.pipeline.onnx_files.inputs import GivenShapes, with_shapes
from edgepress.pipeline.onnx_files.quantized import how_quantized
from edgepress.pipeline.recipe.sections import ModelSection
from edgepress.targets.graphs import onnx_graph
from onnx import TensorProto, helper, numpy_helper

WEIGHT = np.arange(72, dtype="f4").reshape(2, 4, 3, 3) / 72


def saved(folder: Path, shape, kind=TensorProto.FLOAT, constant=False) -> Path:
    """A convolution of `image`, cast first where it is no float."""
    stored = numpy_helper.from_array(WEIGHT, "w")
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    if constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=stored))
    ends = [
        helper.make_tensor_value_info(n, k, s)
        for n, k, s in (("image", kind, shape), ("y", 1, ["n", 2, "p", "q"]))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [] if constant else [stored])
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        pytest.param([0.0, 3.0, 255.0], torch.uint8, id="whole floats"),
        pytest.param(np.array([0, 255], np.uint8), torch.float32, id="bytes as floats"),
        pytest.param(np.array([2**31 - 1]), torch.int32, id="an int64 that fits"),
        pytest.param([0.0, 1.0], torch.bool, id="zero and one"),
        pytest.param(np.array([7], np.int32), torch.float16, id="a small whole number as float16"),
    ],
)
def test_values_go_in_as_they_are(given, wanted: torch.dtype) -> None:
    x = torch.as_tensor(given)
    assert in_type(x, wanted, "x").tolist() == x.tolist()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        pytest.param([0.5], torch.uint8, id="a fraction"),
        pytest.param([-1.0], torch.uint8, id="below zero"),
        pytest.param([256], torch.uint8, id="too large"),
        pytest.param([2**31], torch.int32, id="beyond int32"),
        pytest.param([2**24 + 1], torch.float32, id="more digits than float32 has"),
        pytest.param([2.0], torch.bool, id="no truth value"),
        pytest.param([1e6], torch.float16, id="infinite in float16"),
    ],
)
def test_values_that_would_change_are_an_error(given, wanted: torch.dtype) -> None:
    with pytest.raises(
        CompressError, match=f"x is .* and the network takes {str(wanted)[6:]}.*give the data as"
    ):
        in_type(torch.as_tensor(given), wanted, "x")


def test_a_byte_image_is_fed_bytes(tmp_path: Path) -> None:
    path = saved(tmp_path, ["n", 4, 6, 8], TensorProto.UINT8)
    model = ingest(ModelSection(source=str(path)), (torch.full((1, 4, 6, 8), 3.0),))
    assert model.example_inputs[0].dtype == torch.uint8
    with pytest.raises(CompressError, match=r"input 'image' is float32 and holds 0\.5"):
        ingest(ModelSection(source=str(path)), (torch.full((1, 4, 6, 8), 0.5),))


def test_channels_on_the_wrong_side_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, ["n", 4, 6, 8])
    with pytest.raises(
        CompressError, match=r"takes 4 x 6 x 8 a sample, .* 6 x 8 x 4: channels come first there"
    ):
        ingest(ModelSection(source=str(path)), (torch.zeros(1, 6, 8, 4),))


def test_open_sizes_are_pinned_to_the_datas_and_said(tmp_path: Path) -> None:
    path = saved(tmp_path, ["b", 4, "h", "w"])
    model = ingest(ModelSection(source=str(path)), (torch.zeros(1, 4, 6, 8),))
    assert "they are fixed to the data's, a sample being image 4 x 6 x 8" in model.source
    written = onnx.load(export(model, tmp_path / "float.onnx")).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in written] == ["b", 4, 6, 8]


@pytest.mark.parametrize("batch", [-1, "unk__12", None])
@pytest.mark.parametrize("shape", ["4x6x8", "2x4x6x8", "image=4x6x8"])
def test_inspect_counts_at_the_shape_that_is_given(tmp_path: Path, batch, shape: str) -> None:
    path = saved(tmp_path, [batch, 4, "h", None], constant=True)
    result = CliRunner().invoke(cli, ["inspect", str(path), "--input-shape", shape, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["macs"], found["params"]) == (2 * 4 * 6 * 36, 72)  # 4 x 6 positions
    applies = {row["name"]: row["applies"] for row in found["passes"]}
    # Of one layer nothing can be removed, and it is no transformer.
    assert applies == dict.fromkeys(PASSES, True) | {"gates": False, "tokens": False}


@pytest.mark.parametrize("command", ["inspect", "lint"])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("imge=4x6x8", "the model has no input 'imge'; did you mean 'image'?; it takes image"),
        ("6x8", "for input 'image', which the file declares as n x 4 x h x w: give 3 sizes"),
        ("5x6x8", "whose axis 1 the file fixes at 4"),
        ("4x-6x8", "expected whole numbers from 1"),
    ],
)
def test_shapes_that_do_not_fit(tmp_path: Path, shape: str, message: str, command: str) -> None:
    path = saved(tmp_path, ["n", 4, "h", "w"])
    result = CliRunner().invoke(cli, [command, str(path), "--input-shape", shape])
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_quantized_file_is_recognized() -> None:
    def graph(*kinds: str) -> onnx.ModelProto:
        nodes = [helper.make_node(kind, ["x"], ["y"]) for kind in kinds]
        return helper.make_model(helper.make_graph(nodes, "g", [], []))

    assert (
        how_quantized(graph("QuantizeLinear", "DequantizeLinear"))
        == "with Q/DQ (1 DequantizeLinear, 1 QuantizeLinear)"
    )
    assert how_quantized(graph("QuantizeLinear", "QLinearConv")).startswith(
        "with integer operators (1 QLinearConv)"
    )
    assert how_quantized(graph("DynamicQuantizeLinear", "MatMulInteger")).startswith("dynamically")
    assert how_quantized(graph("Conv", "Cast")) == ""


@pytest.mark.parametrize("constant", [True, False])
def test_packing_says_when_nothing_can_be_rounded(tmp_path: Path, constant: bool) -> None:
    path = saved(tmp_path, ["n", 4, 6, 8], constant=constant)  # 72 weights are too few
    result = CliRunner().invoke(cli, ["pack", str(path), "--error", "0.3"])
    assert result.exit_code == 2 and "no tensor can be rounded at --error 0.3" in result.stderr


def test_a_model_that_one_file_cannot_hold_is_refused_where_it_is_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, ["n", 4, "h", "w"])
    monkeypatch.setattr(onnx_graph, "MAX_PROTOBUF", 100)
    with (
        pytest.raises(CompressError, match=r"^net\.onnx: the model is over 2 GiB, more than one ONNX file"),
        with_shapes(path, GivenShapes({"image": (4, 8, 8)})),
    ):
        pass
