"""`inspect`: the numbers it gives, for each kind of thing it can be pointed at."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from edgepress.errors import CompressError
from edgepress.model import Model
from edgepress.passes import PASSES
from edgepress.pipeline.inspect.layers import layer_rows
from edgepress.pipeline.inspect.record import Inspection
from edgepress.pipeline.inspect.run import inspect_model
from edgepress.pipeline.inspect.tables import print_inspection
from rich.console import Console
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Holds a layer, and multiplies on its own besides."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.softmax(x @ x.transpose(1, 2), -1) @ x)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()


def show(inspection: Inspection) -> str:
    text = io.StringIO()
    print_inspection(inspection, Console(file=text, width=120))
    return text.getvalue()


def test_layers_of_a_network() -> None:
    rows = layer_rows(Model(network(), (torch.randn(2, 1, 8, 8),)))
    found = [(r.name, r.type, r.params, r.macs, r.output_shape) for r in rows]
    assert found == [
        ("0", "Conv2d", 40, 9 * 4 * 36, [2, 4, 6, 6]),
        ("1", "ReLU", 0, 0, [2, 4, 6, 6]),
        ("2", "Flatten", 0, 0, [2, 144]),
        ("3", "Linear", 1450, 1440, [2, 10]),
    ]


def test_functional_multiplications_belong_to_the_module_that_calls_them() -> None:
    rows = {r.name: r for r in layer_rows(Model(nn.Sequential(Attention()), (torch.randn(1, 3, 4),)))}
    assert rows["0"].macs == 2 * 3 * 3 * 4
    assert rows["0.out"].macs == 3 * 4 * 4


def test_an_exported_program_has_operators(tmp_path: Path) -> None:
    program = torch.export.export(network(), (torch.randn(2, 1, 8, 8),))
    torch.export.save(program, tmp_path / "n.pt2")
    found = inspect_model(str(tmp_path / "n.pt2"))
    assert [(r.type, r.params, r.macs) for r in found.layers] == [
        ("aten.conv2d", 40, 1296),
        ("aten.linear", 1450, 1440),
    ]
    assert (found.params, found.macs) == (1490, 2736)


def test_a_factory_with_totals_and_passes() -> None:
    found = inspect_model("timm:test_resnet")
    assert found.params == sum(r.params for r in found.layers)
    assert found.macs == sum(r.macs for r in found.layers)
    assert {p.name: p.applies for p in found.passes}["quantize"] is True
    assert "test_resnet" in show(found)


def test_a_pass_of_a_recipe_is_judged_by_its_options_there(tmp_path: Path) -> None:
    """The network has no attention heads; channels, which are in the defaults, it has."""
    text = """
model: { source: timm:test_resnet }
data: { source: edgepress.examples.digits.data:digits }
passes: [gates: %s, quantize]
targets: [onnxruntime]
"""
    reasons = {}
    for kinds in ("{ kinds: [heads] }", "{ kinds: [heads, channels] }"):
        (tmp_path / "recipe.yaml").write_text(text % kinds)
        example = (torch.zeros(1, 3, 160, 160),)
        found = inspect_model("recipe.yaml", example, folder=tmp_path)
        reasons[kinds] = {row.name: row.reason for row in found.passes}
    one, other = reasons.values()
    assert "heads" in one["gates"] and other["gates"] == ""
    assert one["quantize"] == one["l2"] == ""


def test_bare_weights(tmp_path: Path) -> None:
    save_file(
        {"b": torch.zeros(2, 3), "a": torch.full((4,), float("nan")).half()}, tmp_path / "w.safetensors"
    )
    found = inspect_model("w.safetensors", folder=tmp_path)
    assert {t.name: (t.shape, t.dtype, t.params) for t in found.tensors} == {
        "a": ([4], "float16", 4),
        "b": ([2, 3], "float32", 6),
    }
    assert (found.params, found.bytes, found.macs) == (10, 32, None)
    assert found.notes[1] == "tensor 'a' holds NaN or infinite values"


def test_an_onnx_file(tmp_path: Path) -> None:
    torch.onnx.export(
        network(),
        (torch.randn(1, 1, 8, 8),),
        tmp_path / "n.onnx",
        dynamo=False,
        opset_version=18,
        input_names=["x"],
    )
    found = inspect_model("n.onnx", folder=tmp_path)
    assert (found.kind, found.params, found.macs) == ("onnx", 1490, 2736)
    assert found.operators["Conv"] == 1
    assert found.opset == {"ai.onnx": 18}
    assert found.inputs == {"x": [1, 1, 8, 8]}
    assert found.ir_version is not None
    assert {p.name for p in found.passes} == {"distill", "gates", "l2", "quantize", "tokens"}


def test_json_is_read_back(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "w.safetensors")
    found = inspect_model("w.safetensors", folder=tmp_path)
    assert Inspection.model_validate_json(found.model_dump_json()) == found


def test_names_from_files_are_text(tmp_path: Path) -> None:
    name = "[bold red]x[/]\x1b[2J"
    save_file({name: torch.zeros(2)}, tmp_path / "w.safetensors")
    text = show(inspect_model("w.safetensors", folder=tmp_path))
    assert "[bold red]x[/]<U+001B>[2" in text
    assert "\x1b[2J" not in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("n.onx", "n.onx does not exist; did you mean 'n.onnx'"),
        ("n.txt", "n.txt: expected a recipe (.yaml), .onnx, .pt2, .safetensors, .l2z or .pt file"),
        (".", "is a folder, not a file"),
    ],
)
def test_what_cannot_be_inspected(tmp_path: Path, name: str, message: str) -> None:
    for file in ("n.onnx", "n.txt"):
        (tmp_path / file).write_text("text")
    with pytest.raises(CompressError) as caught:
        inspect_model(name, folder=tmp_path)
    assert message in str(caught.value)


class Branching(torch.nn.Module):
    """What it computes depends on the numbers that it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if float(x.sum()) > 0 else x


def branching() -> torch.nn.Module:
    """The factory of a network that no pass can capture."""
    return torch.nn.Sequential(torch.nn.Linear(2, 3), Branching())


def test_what_cannot_be_captured_is_said_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    found = inspect_model(f"{__name__}:branching", (torch.ones(1, 2),))
    assert [(row.name, row.applies) for row in found.passes] == [(name, False) for name in sorted(PASSES)]
    for row in found.passes:
        assert "torch.export cannot capture this network as one graph" in row.reason
        assert "\n" not in row.reason
    assert capfd.readouterr().err == ""
