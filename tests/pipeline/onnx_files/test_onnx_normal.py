"""Graphs as exporters write them become torch networks that compute what onnxruntime computes, for any batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from edgepress.pipeline.ingest.model import ingest
from edgepress.pipeline.onnx_files.file import read_onnx
from edgepress.pipeline.onnx_files.network import as_network, why_no_pass
from edgepress.pipeline.recipe.sections import ModelSection
from onnx import TensorProto, helper, numpy_helper
from torch import nn

F, WHOLE = TensorProto.FLOAT, TensorProto.INT64
IMAGE = ["n", 4, 6, 8]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def model_of(nodes, constants, shape=IMAGE, outputs=("y",), opset=20, functions=()) -> onnx.ModelProto:
    """A model with input x and float outputs, whose shapes are inferred."""
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    stored = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    inputs = [helper.make_tensor_value_info("x", F, shape)]
    ends = [helper.make_tensor_value_info(o, F, None) for o in outputs]
    graph = helper.make_graph(nodes, "g", inputs, ends, stored)
    model = helper.make_model(graph, opset_imports=imports, ir_version=9, functions=functions)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for output in model.graph.output:
        if not output.type.tensor_type.HasField("shape"):
            output.CopyFrom(helper.make_tensor_value_info(output.name, F, ["n", None, None, None]))
    return model


def converted(model: onnx.ModelProto, folder: Path, shape=(4, 6, 8)) -> nn.Module:
    """The torch network; as_network has proven it on one and two samples."""
    path = folder / "m.onnx"
    onnx.save(model, path)
    example = (torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)),)
    network = as_network(read_onnx(path), path, example)
    assert why_no_pass(network) is None
    return network


def op(kind: str, *inputs: str, **attributes) -> list:
    return [helper.make_node(kind, ["x", *inputs], ["y"], name="node", **attributes)]


SINGLE = {
    **{
        f"{kind} takes its axes as an input": (op(kind, "a", keepdims=k), {"a": ints(2, -1)}, 20)
        for kind, k in [("ReduceMean", 0), ("ReduceSum", 1), ("ReduceMax", 0), ("ReduceMin", 1), ("ReduceL1", 0),
                        ("ReduceL2", 1), ("ReduceProd", 0), ("ReduceLogSumExp", 1), ("ReduceSumSquare", 0)]
    },
    "a reduction without axes that may do nothing": (op("ReduceMean", noop_with_empty_axes=1), {}, 18),
    "a reduction over all axes": (op("ReduceMax"), {}, 20),
    "axes as an attribute, as of old": (op("ReduceMean", axes=[2, 3]), {}, 13),
    "Gelu with erf": (op("Gelu"), {}, 20),
    "Gelu with tanh": (op("Gelu", approximate="tanh"), {}, 20),
    "HardSwish of opset 22": (op("HardSwish"), {}, 22),
    "Mish": (op("Mish"), {}, 18),
    "LayerNormalization without bias": (op("LayerNormalization", "s"), {"s": np.arange(8, dtype="f4")}, 17),
    "LayerNormalization over two axes": (
        op("LayerNormalization", "s", "s", axis=-2), {"s": np.arange(48, dtype="f4").reshape(6, 8)}, 20),
    "GroupNormalization of opset 21": (
        op("GroupNormalization", "s", "b", num_groups=2), {"s": np.arange(4, dtype="f4"), "b": np.ones(4, "f4")}, 21),
    "Split of five into three is 2, 2, 1": (
        [helper.make_node("Slice", ["x", "s", "e", "a"], ["five"]),
         helper.make_node("Split", ["five"], ["p", "q", "r"], axis=2, num_outputs=3),
         helper.make_node("Concat", ["r", "p", "q"], ["y"], axis=2)], {"s": ints(0), "e": ints(5), "a": ints(2)}, 18),
    "Slice backwards": (op("Slice", "s", "e", "a", "t"),
                        {"s": ints(-1), "e": ints(-(2**63)), "a": ints(3), "t": ints(-2)}, 20),
    "Slice past the end": (op("Slice", "s", "e"), {"s": ints(0, 1), "e": ints(2**63 - 1, 3)}, 20),
    "Squeeze and Unsqueeze by inputs": (
        [helper.make_node("Unsqueeze", ["x", "a"], ["u"]), helper.make_node("Squeeze", ["u", "a"], ["y"])],
        {"a": ints(-1, 1)}, 21),
    "Pad names its axes": (op("Pad", "p", "v", "a"), {"p": ints(1, 2), "v": np.float32(3), "a": ints(-1)}, 20),
    "Pad reflects one axis": (op("Pad", "p", mode="reflect"), {"p": ints(0, 0, 0, 2, 0, 0, 0, 1)}, 18),
    "Pad repeats the edge": (op("Pad", "p", mode="edge"), {"p": ints(0, 0, 1, 2, 0, 0, 0, 1)}, 13),
    "Pad wraps around": (op("Pad", "p", mode="wrap"), {"p": ints(0, 0, 1, 2, 0, 0, 1, 1)}, 19),
    "Clip with no lower bound": (op("Clip", "", "h"), {"h": np.float32(0.3)}, 20),
    "Clip with no bound": (op("Clip"), {}, 13),
    "Gather by one index": (op("Gather", "i", axis=-1), {"i": np.int64(-2)}, 20),
    "Gather by a matrix": (op("Gather", "i", axis=1), {"i": np.array([[0, -1], [2, 2]])}, 20),
    "Tile": (op("Tile", "t"), {"t": ints(1, 2, 1, 3)}, 20),
    "Expand by the longer shape": (op("Expand", "s"), {"s": ints(3, 1, 4, 6, 8)}, 20),
    "Reshape keeps a size by 0": (op("Reshape", "s"), {"s": ints(0, -1, 8)}, 20),
    "nearest by half pixels": (
        op("Resize", "", "s", mode="nearest"), {"s": np.array([1, 1, 2, 0.5], "f4")}, 19),
    "nearest as torch has it": (
        op("Resize", "", "s", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        {"s": np.array([1, 1, 2, 2], "f4")}, 19),
    "linear with axes": (op("Resize", "", "s", mode="linear", axes=[2, 3]), {"s": np.array([1.5, 2], "f4")}, 18),
    "linear with aligned corners": (
        op("Resize", "", "s", mode="linear", coordinate_transformation_mode="align_corners"),
        {"s": np.array([1, 1, 2, 2], "f4")}, 13),
    "Upsample of opset 9": (op("Upsample", "s", mode="nearest"), {"s": np.array([1, 1, 2, 2], "f4")}, 9),
    "a matrix that stands right": (op("MatMul", "w"), {"w": np.arange(24, dtype="f4").reshape(8, 3)}, 20),
    "a matrix that stands left": (
        [helper.make_node("MatMul", ["w", "x"], ["y"])], {"w": np.arange(18, dtype="f4").reshape(3, 6)}, 20),
    "a convolution of opset 22": (
        op("Conv", "w"), {"w": np.arange(72, dtype="f4").reshape(2, 4, 3, 3)}, 22),
    "SpaceToDepth": (op("SpaceToDepth", blocksize=2), {}, 13),
    "GlobalMaxPool": (op("GlobalMaxPool"), {}, 20),
    "a Cast of opset 21": (
        [helper.make_node("Cast", ["x"], ["i"], to=WHOLE), helper.make_node("Cast", ["i"], ["y"], to=F)], {}, 21),
}  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_an_operator_is_taken_over(tmp_path: Path, name: str) -> None:
    nodes, constants, opset = SINGLE[name]
    converted(model_of(nodes, constants, opset=opset), tmp_path)


def test_axes_by_hand(tmp_path: Path) -> None:
    network = converted(model_of(op("ReduceMean", "a", keepdims=0), {"a": ints(2, 3)}), tmp_path)
    x = torch.arange(2 * 4 * 48, dtype=torch.float32).reshape(2, 4, 6, 8)
    assert torch.equal(network(x), torch.tensor([[23.5, 71.5, 119.5, 167.5], [215.5, 263.5, 311.5, 359.5]]))


SHAPE_OF_X = [
    helper.make_node("Shape", ["x"], ["shape"]),
    helper.make_node("Gather", ["shape", "zero"], ["n"], axis=0),
    helper.make_node("Unsqueeze", ["n", "first"], ["batch"]),
]


@pytest.mark.parametrize("target", ["Reshape", "Expand", "ConstantOfShape", "Range"])
def test_shapes_computed_from_the_batch_stay_dynamic(tmp_path: Path, target: str) -> None:
    """What `x.view(x.size(0), -1)` and `token.expand(n, -1)` become; captured too, as the passes do."""
    from edgepress.model import Model
    from edgepress.passes.graph.capture import capture

    tail = {
        "Reshape": [helper.make_node("Concat", ["batch", "rest"], ["s"], axis=0),
                    helper.make_node("Reshape", ["x", "s"], ["y"])],
        "Expand": [helper.make_node("Concat", ["batch", "one"], ["s"], axis=0),
                   helper.make_node("Expand", ["token", "s"], ["t"]), helper.make_node("Flatten", ["x"], ["f"]),
                   helper.make_node("Concat", ["t", "f"], ["y"], axis=1)],
        "Range": [
            helper.make_node("Range", ["zero", "n", "step"], ["i"]),
            helper.make_node("Gather", ["x", "i"], ["y"], axis=0),
        ],
        "ConstantOfShape": [helper.make_node("Concat", ["batch", "one"], ["s"], axis=0),
                            helper.make_node("ConstantOfShape", ["s"], ["t"]),
                            helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Add", ["t", "f"], ["y"])],
    }[target]  # fmt: skip
    constants = {"zero": np.int64(0), "first": ints(0), "rest": ints(-1, 8), "one": ints(1), "step": np.int64(1),
                 "token": np.array([[7.0]], "f4")}  # fmt: skip
    network = converted(model_of([*SHAPE_OF_X, *tail], constants, opset=17), tmp_path)
    model = Model(network, (torch.randn(1, 4, 6, 8),))
    x = torch.randn(5, 4, 6, 8)
    assert torch.equal(capture(model)(x), network(x))


def conv_and_linear(as_constants: bool) -> onnx.ModelProto:
    draw = np.random.default_rng(0)
    weights = {"w": draw.normal(size=(2, 4, 3, 3)).astype("f4"), "m": draw.normal(size=(96, 3)).astype("f4")}
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Flatten", ["c"], ["f"]),
             helper.make_node("MatMul", ["f", "m"], ["y"])]  # fmt: skip
    if as_constants:
        made = [
            helper.make_node("Constant", [], [k], value=numpy_helper.from_array(v, k))
            for k, v in weights.items()
        ]
        return model_of([*made, *nodes], {})
    return model_of(nodes, weights)


@pytest.mark.parametrize("as_constants", [True, False])
def test_weights_are_parameters_wherever_they_stand(tmp_path: Path, as_constants: bool) -> None:
    network = converted(conv_and_linear(as_constants), tmp_path)
    assert sorted(p.numel() for p in network.parameters()) == [72, 288]


def test_weights_behind_other_operators(tmp_path: Path) -> None:
    """Transposed, cast and reshaped constants are the weights of their layer."""
    w = np.arange(72, dtype="f2").reshape(3, 3, 4, 2) / 72
    nodes = [
        helper.make_node("Constant", [], ["stored"], value=numpy_helper.from_array(w, "w")),
        helper.make_node("Cast", ["stored"], ["wide"], to=F),
        helper.make_node("Transpose", ["wide"], ["turned"], perm=[3, 2, 0, 1]),
        helper.make_node("Identity", ["turned"], ["same"]),
        helper.make_node("Constant", [], ["scale"], value_float=0.5),
        helper.make_node("Mul", ["same", "scale"], ["half"]),
        *op("Conv", "half"),
    ]
    network = converted(model_of(nodes, {}), tmp_path)
    (weight,) = network.parameters()
    assert torch.equal(weight, torch.from_numpy(w.astype("f4").transpose(3, 2, 0, 1) * np.float32(0.5)))


def test_functions_of_a_file_are_inlined(tmp_path: Path) -> None:
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    twice = helper.make_function("own", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    model = model_of([helper.make_node("Twice", ["x"], ["y"], domain="own")], {}, functions=[twice])
    x = torch.randn(2, 4, 6, 8)
    assert torch.equal(converted(model, tmp_path)(x), x + x)


def test_halves_inputs_and_the_same_tensor_twice_can_be_outputs(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["p", "q"], axis=1, num_outputs=2),
        helper.make_node("Relu", ["q"], ["r"]),
    ]
    network = converted(model_of(nodes, {}, outputs=("q", "r", "p")), tmp_path)
    x = torch.randn(3, 4, 6, 8)
    q, r, p = network(x)
    assert torch.equal(torch.cat([p, q], 1), x) and torch.equal(r, q.relu())


@pytest.mark.parametrize("opset", [18, 20])
def test_what_torchs_exporter_writes(tmp_path: Path, opset: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8)
            self.attend, self.fc = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x):
            x = nn.functional.gelu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
            x = x + self.attend(x, x, x)[0]
            return self.fc(nn.functional.layer_norm(x, (8,)).mean(1)), x.amax((1, 2))

    torch.manual_seed(0)
    path = tmp_path / "net.onnx"
    shapes = ({0: torch.export.Dim("n")},)
    torch.onnx.export(Net().eval(), (torch.randn(2, 4, 6, 8),), path, dynamo=True, opset_version=opset,
                      dynamic_shapes=shapes, verbose=False)  # fmt: skip
    model = ingest(ModelSection(source=str(path)))
    assert why_no_pass(model.module) is None


def test_what_cannot_be_said_names_the_operator(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    nodes = [helper.make_node("DFT", ["x", "", "axis"], ["y"])]
    onnx.save(model_of(nodes, {"axis": np.int64(2)}, shape=["n", 4, 6, 1]), path)
    network = as_network(read_onnx(path), path, (torch.randn(1, 4, 6, 1),))
    assert "DFT" in str(why_no_pass(network))
