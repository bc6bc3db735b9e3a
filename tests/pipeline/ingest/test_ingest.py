"""Every way a model comes in: what the Model then says of itself, and what is adjusted with a word."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from edgepress.errors import CompressError
from edgepress.model import Model
from edgepress.pipeline.ingest.model import ingest
from edgepress.pipeline.onnx_files.inputs import GivenShapes
from edgepress.pipeline.onnx_files.network import OnnxRuntimeNetwork, why_no_pass
from edgepress.pipeline.recipe.sections import ModelSection
from safetensors.torch import save_file
from torch import Tensor, nn

NETWORKS = """
import torch
from torch import nn

def small(classes=3):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                         nn.Linear(144, classes))

def doubles():
    return small().double()

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 3)
    def forward(self, left, right):
        return self.fc(left), right * 2

class Odd(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
    def forward(self, x):
        return {"dict": {"logits": x}, "list": [x], "nan": x * float("nan"), "mixed": (x, 3)}[self.kind]

SHARED = nn.Linear(2, 2)
def shared():
    return SHARED

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.b = nn.Linear(2, 2)
        self.b.weight = self.a.weight
    def forward(self, x):
        return self.b(self.a(x))

def broken():
    raise ValueError("no such depth: 19")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "ingest_networks.py").write_text(NETWORKS)
    (folder / "ingest_torn.py").write_text("def make(:\n")
    (folder / "ingest_needs.py").write_text("import a_package_nobody_has\n")
    return folder


class Notes:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def track(self, items, description, total=None):
        yield from items


def load(folder: Path, source: str = "ingest_networks:small", shape=(1, 8, 8), **changes) -> Model:
    example = changes.pop("example", None)
    options = {k: changes.pop(k) for k in ("progress", "trust_pickle") if k in changes}
    section = ModelSection(source=source, input_shape=shape, **changes)
    return ingest(section, example, folder=folder, **options)


def trained(folder: Path) -> nn.Module:
    sys.path.insert(0, str(folder))
    from ingest_networks import small

    torch.manual_seed(3)
    return small().eval()


def test_factory_with_safetensors(folder: Path) -> None:
    network = trained(folder)
    save_file(network.state_dict(), folder / "w.safetensors")
    model = load(folder, weights="w.safetensors")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(model.run(x)[0], network(x).detach())
    assert not model.module.training
    assert (model.input_names, model.output_names, model.dynamic_batch) == (("input",), ("logits",), True)
    assert tuple(model.example_inputs[0].shape) == (1, 1, 8, 8)
    # conv 4*9*36 positions + linear 144*3
    assert (model.facts().params, model.facts().macs) == (40 + 8 + 435, 1296 + 432)
    assert model.original is None
    assert model.source == "ingest_networks:small, weights w.safetensors"


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_factory_with_a_torch_checkpoint(folder: Path, wrapper: str | None) -> None:
    state = trained(folder).state_dict()
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, folder / "w.pt")
    model = load(folder, weights="w.pt")
    assert torch.equal(model.module.state_dict()["4.weight"], state["4.weight"])


def test_the_old_torch_format_is_read(folder: Path) -> None:
    state = trained(folder).state_dict()
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(load(folder, weights="old.pth").module.state_dict()["0.bias"], state["0.bias"])


def test_prefix_of_a_wrapper_is_taken_off_and_said(folder: Path) -> None:
    state = {f"module.{k}": v for k, v in trained(folder).state_dict().items()}
    torch.save(state, folder / "parallel.pt")
    notes = Notes()
    model = load(folder, weights="parallel.pt", progress=notes)
    assert notes.said == ["parallel.pt: the prefix 'module.' was taken off all names"]
    assert model.source.endswith("(the prefix 'module.' was taken off all names)")


def test_half_precision_weights_are_widened(folder: Path) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in trained(folder).state_dict().items()}
    torch.save(state, folder / "half.pt")
    assert load(folder, weights="half.pt").module.state_dict()["4.weight"].dtype == torch.float32


def test_a_tied_weight_may_be_stored_once(folder: Path) -> None:
    tensors = {"a.weight": torch.eye(2), "a.bias": torch.zeros(2), "b.bias": torch.ones(2)}
    save_file(tensors, folder / "tied.safetensors")
    model = load(folder, "ingest_networks:Tied", (2,), weights="tied.safetensors")
    assert torch.equal(model.run(torch.tensor([[3.0, 4.0]]))[0], torch.tensor([[4.0, 5.0]]))


def test_without_weights_every_run_has_the_same_network_and_says_so(folder: Path) -> None:
    notes = Notes()
    first, second = load(folder, progress=notes), load(folder)
    assert torch.equal(first.module.state_dict()["4.weight"], second.module.state_dict()["4.weight"])
    assert "no weights are given" in notes.said[0]


def test_the_factorys_module_is_left_alone(folder: Path) -> None:
    load(folder, "ingest_networks:shared", (2,)).module.weight.data.zero_()
    assert bool(sys.modules["ingest_networks"].SHARED.weight.any())
    assert sys.modules["ingest_networks"].SHARED.training


def test_several_inputs_and_outputs_keep_their_names(folder: Path) -> None:
    example = (torch.randn(1, 2), torch.randn(1, 2))
    model = load(folder, "ingest_networks:Two", None, example=example, outputs=("a", "b"))
    assert (model.input_names, model.output_names) == (("left", "right"), ("a", "b"))
    assert load(folder, "ingest_networks:Two", None, example=example).output_names == ("logits", "output_1")
    with pytest.raises(CompressError, match=r"model\.outputs: names 1 outputs, and the network returns 2"):
        load(folder, "ingest_networks:Two", None, example=example, outputs=("only",))


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ("ingest_networks:smal", {}, "has no function 'smal'; did you mean 'small'?"),
        ("ingest_network:small", {}, "there is no module 'ingest_network'; did you mean 'ingest_networks'"),
        ("ingest_torn:make", {}, "importing ingest_torn failed: SyntaxError: "),
        (
            "ingest_needs:make",
            {},
            "ModuleNotFoundError: No module named 'a_package_nobody_has' (ingest_needs.py, line 1)",
        ),
        ("ingest_networks:broken", {}, "failed: ValueError: no such depth: 19 (ingest_networks.py, line "),
        ("ingest_networks:small", {"args": {"depth": 2}}, "unexpected keyword argument 'depth'"),
        (
            "torch:get_num_threads",
            {},
            "model factory torch:get_num_threads: returned int, expected a torch.nn.Module",
        ),
        (
            "ingest_networks:small",
            {"shape": None},
            "model.input_shape: the shape of ingest_networks:small's input",
        ),
        (
            "ingest_networks:small",
            {"shape": (3, 8, 8)},
            "fails on an example input of shape (1, 3, 8, 8): RuntimeError: ",
        ),
        (
            "ingest_networks:doubles",
            {},
            "; its weights are float64: let the factory return the network in float32 (network.float())",
        ),
        (
            "ingest_networks:Odd",
            {"args": {"kind": "dict"}},
            "the network returns a dict; it must return a tensor",
        ),
        (
            "ingest_networks:Odd",
            {"args": {"kind": "list"}},
            "the network returns a list; it must return a tensor",
        ),
        (
            "ingest_networks:Odd",
            {"args": {"kind": "mixed"}},
            "the network returns a tuple of Tensor, int; it must",
        ),
        ("ingest_networks:Odd", {"args": {"kind": "nan"}}, "the network returns NaN on an example input"),
        ("timm:resnet5", {}, "timm has no model 'resnet5'; did you mean 'resnet50'"),
        ("timm:hf-hub:someone/net", {}, "timm has no model 'hf-hub:someone/net'"),
        ("timm:resnet10t", {"args": {"pretrained": True}}, "model.args: pretrained would download weights"),
        ("torchvision:resnet8", {}, "torchvision has no model 'resnet8'; did you mean 'resnet18'"),
        ("torchvision:resnet18", {"args": {"weights": "DEFAULT"}}, "these weights would be downloaded"),
        ("net.onnx", {"args": {"a": 1}}, "model.args: only a factory takes args; net.onnx brings its own"),
        ("nte.pt2", {}, "nte.pt2 does not exist"),
    ],
)
def test_what_cannot_be_made_is_said(folder: Path, source: str, changes: dict, message: str) -> None:
    with pytest.raises(CompressError) as caught:
        load(folder, source, **{"shape": (1, 8, 8), **changes})
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_timm_and_torchvision_know_their_input() -> None:
    model = ingest(ModelSection(source="timm:test_resnet", args={"num_classes": 5}))
    assert tuple(model.example_inputs[0].shape) == (1, 3, 160, 160)
    assert model.run(*model.example_inputs)[0].shape == (1, 5)
    vision = ingest(ModelSection(source="torchvision:squeezenet1_1"))
    assert tuple(vision.example_inputs[0].shape) == (1, 3, 224, 224)


@pytest.mark.parametrize("dynamic", [True, False])
def test_an_exported_program(folder: Path, dynamic: bool) -> None:
    network = trained(folder)
    x = torch.randn(2, 1, 8, 8)
    sizes = ({0: torch.export.Dim("batch")},) if dynamic else None
    program = torch.export.export(network, (x,), dynamic_shapes=sizes)
    torch.export.save(program, folder / "net.pt2")
    model = load(folder, "net.pt2", None)
    assert torch.allclose(model.run(x)[0], network(x), atol=1e-6)
    assert model.dynamic_batch is dynamic
    assert model.example_inputs[0].shape[0] == (1 if dynamic else 2)
    assert model.facts().macs == 1296 + 432


def export_onnx(network: nn.Module, path: Path, dynamic: bool = True) -> None:
    sizes = {"input": {0: "batch"}} if dynamic else None
    inputs = (torch.randn(1, 1, 8, 8),)
    torch.onnx.export(
        network,
        inputs,
        path,
        dynamo=False,
        input_names=["input"],
        output_names=["scores"],
        dynamic_axes=sizes,
    )


@pytest.mark.parametrize("dynamic", [True, False])
def test_an_onnx_file_runs_without_onnx2torch(folder: Path, dynamic: bool, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx2torch", None)  # as if it were not installed
    network = trained(folder)
    export_onnx(network, folder / "net.onnx", dynamic)
    notes = Notes()
    model = load(folder, "net.onnx", None, progress=notes)
    x = torch.randn(1, 1, 8, 8)
    assert torch.allclose(model.run(x)[0], network(x), atol=1e-5)
    assert model.onnx_path == folder / "net.onnx"
    assert (model.input_names, model.output_names) == (("input",), ("scores",))
    assert model.dynamic_batch is dynamic
    assert model.facts().macs == 1296 + 432
    assert isinstance(model.module, OnnxRuntimeNetwork)
    assert why_no_pass(model.module) == notes.said[0]
    assert notes.said[0] == (
        "passes need PyTorch, and net.onnx cannot be converted: onnx2torch is not installed"
        " (pip install edgepress[onnx-import])"
    )


def test_an_onnx_file_becomes_a_torch_network(folder: Path) -> None:
    pytest.importorskip("onnx2torch")
    network = trained(folder)
    export_onnx(network, folder / "net.onnx")
    model = load(folder, "net.onnx", None)
    x = torch.randn(3, 1, 8, 8)
    assert why_no_pass(model.module) is None
    assert torch.allclose(model.run(x)[0], network(x), atol=1e-5)


def test_a_trusted_pickle_is_read(folder: Path) -> None:
    network = trained(folder)
    torch.save(network, folder / "whole.pt")  # a pickle of the module itself: weights-only refuses it
    digest = hashlib.sha256((folder / "whole.pt").read_bytes()).hexdigest()
    model = load(folder, weights="whole.pt", trust_pickle=digest)
    expected: Tensor = network.state_dict()["4.weight"]
    assert torch.equal(model.module.state_dict()["4.weight"], expected)


class Two(nn.Module):
    """A picture of 3 channels and a mask of 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.conv(image) * mask


def two() -> nn.Module:
    return Two()


IMAGE, MASK = (3, 4, 4), (1, 4, 4)


@pytest.fixture(params=["factory", "program"])
def two_inputs(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "factory":
        return f"{__name__}:two"
    path = tmp_path / "two.pt2"
    torch.export.save(torch.export.export(two().eval(), (torch.ones(1, *IMAGE), torch.ones(1, *MASK))), path)
    return str(path)


@pytest.mark.parametrize("image", [IMAGE, (1, *IMAGE)])
def test_shapes_go_to_the_inputs_that_they_name(two_inputs: str, image: tuple[int, ...]) -> None:
    mask = (1, *MASK) if len(image) == 4 else MASK
    model = ingest(ModelSection(source=two_inputs, input_shape={"mask": mask, "image": image}))
    assert [tuple(x.shape) for x in model.example_inputs] == [(1, *IMAGE), (1, *MASK)]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"imag": IMAGE, "mask": MASK}, r"no input 'imag'; did you mean 'image'\?; it takes image, mask"),
        ({"mask": MASK}, r"give a shape for input 'image' too"),
    ],
)
def test_a_shape_that_no_input_takes_is_refused(two_inputs: str, shapes: dict, message: str) -> None:
    with pytest.raises(CompressError, match=message):
        ingest(ModelSection(source=two_inputs, input_shape=shapes))


def test_the_one_input_of_a_factory_is_called_input_too() -> None:
    given = GivenShapes({"input": (1, 3, 64, 64)})
    model = ingest(ModelSection(source="torchvision:squeezenet1_0"), given=given)
    assert tuple(model.example_inputs[0].shape) == (1, 3, 64, 64)
