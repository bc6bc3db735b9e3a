"""Export: the ONNX file that every runtime is given."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from edgepress.calibration.data import DataParts, Part
from edgepress.calibration.metric import TopK
from edgepress.calibration.scheme import QuantScheme
from edgepress.errors import CompressError
from edgepress.model import Model
from edgepress.passes.base import PassContext
from edgepress.passes.quantization.quantizers import ActivationQuantizer, quantizers_of
from edgepress.passes.quantize import Quantize
from edgepress.pipeline.export import export
from edgepress.targets import TARGETS
from edgepress.targets.base import BuiltOnly, TargetOptions
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

Exported = tuple[str, QuantScheme, Model, Path, onnx.ModelProto]
SYMMETRIC, ASYMMETRIC = QuantScheme(False), QuantScheme(True)


class ConvNet(nn.Module):
    """Convolutions (one transposed, one without bias), a residual, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.up(torch.relu(self.block(x) + x)))
        return self.head(x.mean((2, 3)))


class TokenNet(nn.Module):
    """Attention on tokens, and one linear layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v))
        x = x + self.proj(x)
        return self.head(x.mean(1))


NETS: dict[str, tuple[type[nn.Module], tuple[int, ...], list[str]]] = {
    "convolutions": (ConvNet, (3, 8, 8), ["stem.0", "block", "up", "head"]),
    "tokens": (TokenNet, (6, 8), ["qkv", "scores", "values", "proj", "proj#2", "head"]),
}


def part_of(*shape: int, count: int = 24) -> Part:
    generator = torch.Generator().manual_seed(0)
    return Part(
        "x", [((torch.randn(*shape, generator=generator),), torch.tensor(i % 3)) for i in range(count)]
    )


def float_model(net: str, **options: object) -> Model:
    torch.manual_seed(0)
    kind, shape, _ = NETS[net]
    return Model(kind().eval(), (torch.randn(1, *shape),), **options)  # type: ignore[arg-type]


def quantized_model(net: str, scheme: QuantScheme = SYMMETRIC, **options: object) -> Model:
    model = float_model(net, **options)
    part = part_of(*NETS[net][1])
    context = PassContext(DataParts(part, part, part, None, manifest="0"), TopK(1), scheme)
    return Quantize(sensitivity_samples=0).apply(model, context).model


def run_onnx(path: Path, x: Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    # Fusing Q/DQ into integer kernels rounds its own way; the graph as written is what is compared.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.fixture(scope="module", params=[(n, s) for n in NETS for s in (SYMMETRIC, ASYMMETRIC)], ids=str)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    net, scheme = request.param
    model = quantized_model(net, scheme)
    path = export(model, tmp_path_factory.mktemp("export") / "net.onnx")
    return net, scheme, model, path, onnx.load(path)


def layers_of(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [n for n in proto.graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]


def producers(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in proto.graph.node for output in node.output}


def test_the_file_is_valid_and_of_the_default_versions(exported: Exported) -> None:
    *_, proto = exported
    onnx.checker.check_model(proto, full_check=True)
    assert {o.domain: o.version for o in proto.opset_import} == {"": 19}
    assert proto.ir_version == 9
    assert not proto.functions


def test_every_layer_reads_int8_weights_and_q_dq_activations(exported: Exported) -> None:
    *_, proto = exported
    made_by, constants = producers(proto), {i.name: i for i in proto.graph.initializer}
    layers = layers_of(proto)
    assert layers
    for node in layers:
        for name in node.input[:2]:
            source = made_by[name]
            while source.op_type in ("Transpose", "Reshape", "Split", "Squeeze", "Gather", "Slice"):
                assert source.input[0] not in constants
                source = made_by[source.input[0]]
            assert source.op_type == "DequantizeLinear", (node.name, source.op_type)


def test_no_float_weight_is_left_and_none_is_transposed(exported: Exported) -> None:
    *_, proto = exported
    constants = {i.name: i for i in proto.graph.initializer}
    made_by = producers(proto)
    large = [i for i in proto.graph.initializer if np.prod(i.dims) >= 24 and len(i.dims) > 1]
    assert large
    assert {i.data_type for i in large} == {TensorProto.INT8}
    transposed = [
        made_by[n.input[0]] for n in proto.graph.node if n.op_type == "Transpose" and n.input[0] in made_by
    ]
    assert [n.name for n in transposed if n.op_type == "DequantizeLinear" and n.input[0] in constants] == []
    quantized = [n.input[0] for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    assert quantized and not constants.keys() & set(quantized)


def test_the_activation_grids_are_those_of_the_scheme(exported: Exported) -> None:
    _, scheme, model, _, proto = exported
    constants = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    zero_points = [constants[n.input[2]] for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    grids = [q.grid for q in quantizers_of(model.module).values() if isinstance(q, ActivationQuantizer)]
    assert sorted(int(z) for z in zero_points) == sorted(grid.zero_point for grid in grids)
    assert {z.dtype for z in zero_points} == {np.dtype(np.uint8 if scheme.asymmetric else np.int8)}
    assert any(int(z) for z in zero_points) is scheme.asymmetric


def test_layers_have_the_names_of_their_modules(exported: Exported) -> None:
    net, *_, proto = exported
    layers = [node.name for node in layers_of(proto)]
    # Attention that the outermost module calls is named by its operator.
    assert [name.removeprefix("scaled_dot_product_attention.") for name in layers] == NETS[net][2]


def test_onnxruntime_computes_what_the_fake_quantizers_compute(exported: Exported) -> None:
    net, _, model, path, _ = exported
    x = torch.randn(16, *NETS[net][1], generator=torch.Generator().manual_seed(5))
    want = model.run(x)[0].numpy()
    error = np.abs(run_onnx(path, x) - want)
    # Float sums in another order now and then put a value between two integers on the other one: one step
    # of a grid, some 1 % of the largest output at 8 bits. Most outputs have none.
    assert error.max() < 0.02 * np.abs(want).max()
    assert np.median(error) < 1e-5 * np.abs(want).max()


def test_two_exports_are_byte_identical(exported: Exported, tmp_path: Path) -> None:
    net, scheme, _, path, _ = exported
    again = export(quantized_model(net, scheme), tmp_path / "again.onnx")
    assert again.read_bytes() == path.read_bytes()


def test_nothing_of_the_machine_is_in_the_file(exported: Exported) -> None:
    *_, path, proto = exported
    assert str(Path(__file__).parent).encode() not in path.read_bytes()
    assert not proto.metadata_props
    assert not any(n.doc_string or n.metadata_props for n in proto.graph.node)


def test_the_batch_is_dynamic_or_fixed_as_the_model_says(exported: Exported, tmp_path: Path) -> None:
    net, _, _, path, proto = exported
    shape = NETS[net][1]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert run_onnx(path, torch.zeros(7, *shape)).shape == (7, 3)
    static = export(quantized_model(net, dynamic_batch=False), tmp_path / "static.onnx")
    dimensions = onnx.load(static).graph.input[0].type.tensor_type.shape.dim
    assert tuple(d.dim_value for d in dimensions) == (1, *shape)


@pytest.mark.parametrize(("opset", "ir_version"), [(18, 8), (20, 10), (21, 10)])
def test_the_versions_are_as_asked(opset: int, ir_version: int, tmp_path: Path) -> None:
    model = quantized_model("convolutions")
    path = export(model, tmp_path / "net.onnx", opset, ir_version)
    proto = onnx.load(path)
    assert {o.domain: o.version for o in proto.opset_import} == {"": opset}
    assert proto.ir_version == ir_version
    x = torch.randn(2, 3, 8, 8)
    assert np.abs(run_onnx(path, x) - model.run(x)[0].numpy()).max() < 0.05


@pytest.mark.parametrize("net", NETS)
def test_a_float_model_is_exported_in_float(net: str, tmp_path: Path) -> None:
    model = float_model(net)
    path = export(model, tmp_path / "net.onnx")
    assert not any("Quantize" in n.op_type for n in onnx.load(path).graph.node)
    x = torch.randn(3, *NETS[net][1])
    assert np.allclose(run_onnx(path, x), model.run(x)[0].numpy(), atol=1e-5)


def test_a_dead_channel_with_a_bias_survives_integer_kernels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        net[0].weight[0], net[0].bias[0] = 1e-12, 3.0
        net[0].weight[1], net[0].bias[1] = 0.0, 2.0
    part = part_of(3, 4, 4)
    context = PassContext(DataParts(part, part, part, None, manifest="0"), TopK(1))
    model = (
        Quantize(sensitivity_samples=0, equalization="off")
        .apply(Model(net.eval(), (torch.randn(1, 3, 4, 4),)), context)
        .model
    )
    path = export(model, tmp_path / "net.onnx")
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got, want = session.run(None, {"input": x.numpy()})[0], model.run(x)[0].numpy()
    assert np.abs(got - want).max() < 0.03 * np.abs(want).max()


def test_an_operator_without_onnx_form_is_refused_by_name(tmp_path: Path) -> None:
    class Unwritable(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.matrix_exp(x)

    model = Model(Unwritable().eval(), (torch.randn(2, 4, 4),), source="exp.pt")
    with warnings.catch_warnings(), pytest.raises(CompressError) as caught:
        warnings.simplefilter("ignore")
        export(model, tmp_path / "net.onnx")
    message = str(caught.value)
    assert message.startswith("exp.pt: the ONNX exporter refused this network: ")
    assert "linalg_matrix_exp" in message
    assert message.endswith("Rewrite the operator it names with ones that opset 19 has.")
    assert not (tmp_path / "net.onnx").exists()


def test_an_untouched_onnx_file_is_copied(tmp_path: Path) -> None:
    source = export(float_model("tokens"), tmp_path / "source.onnx")
    model = Model(nn.Identity(), (torch.randn(1, 6, 8),), onnx_path=source)
    assert export(model, tmp_path / "deep" / "copy.onnx").read_bytes() == source.read_bytes()


def test_circular_padding_is_exported_in_operators_that_every_runtime_runs_in_int8(tmp_path: Path) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")
    net = nn.Sequential(conv, nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"))
    net = net.append(nn.Conv2d(8, 4, 1)).eval()  # onnxruntime runs the last layer in float
    part = part_of(3, 8, 8)
    context = PassContext(DataParts(part, part, part, None, manifest="0"), TopK(1), SYMMETRIC)
    model = Model(net, (torch.randn(1, 3, 8, 8),))
    x = torch.randn(4, 3, 8, 8)
    float_path = export(model, tmp_path / "float.onnx")
    assert np.allclose(run_onnx(float_path, x), net(x).detach().numpy(), atol=1e-5)
    quantized = Quantize(sensitivity_samples=0).apply(model, context).model
    path = export(quantized, tmp_path / "net.onnx")
    assert not any(n.op_type == "Pad" for p in (float_path, path) for n in onnx.load(p).graph.node)
    want = quantized.run(x)[0].numpy()
    assert np.median(np.abs(run_onnx(path, x) - want)) < 1e-5 * np.abs(want).max()
    for name in ("openvino", "onnxruntime"):
        engine = TARGETS[name].build(path, TargetOptions(), tmp_path / name)
        assert not isinstance(engine, BuiltOnly)
        layers = engine.layers({"input": x.numpy()}, 1)
        precision = {node: layer.precision for layer in layers if layer.macs for node in layer.onnx_nodes}
        assert (precision["0"], precision["2"]) == ("int8", "int8"), name
