"""Regions of a forward(): what is computed under autocast or with gradients is captured and exported like all else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import timm
import torch
from edgepress.errors import CompressError
from edgepress.passes.graph.capture import capture
from edgepress.passes.graph.layers import layer_name, layers_of
from edgepress.pipeline.export import export
from quantization_nets import Net, largest_difference, model_of, operators
from torch import Tensor, nn

Forward = Callable[[Any, Tensor], Any]


def off() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def attention(net: Net, x: Tensor) -> Tensor:
    """As EfficientViT's: what a mixed precision could overflow in is computed in float32."""
    queries, keys = net.first(x).chunk(2, -1)
    with off():
        queries, keys = torch.relu(queries.float()), torch.relu(keys.float())
        products = queries @ (keys.transpose(-1, -2) @ x)
        sums = queries @ keys.sum(1, keepdim=True).transpose(-1, -2)
        y = products / (sums + 1e-6)
    return net.last(y.to(x.dtype))


def nested(net: Net, x: Tensor) -> Tensor:
    with off():
        x = net.first(x)
        with torch.autocast("cpu", enabled=False):
            x = torch.relu(x)
        y, z = x.chunk(2, -1)
    with off():
        y = y + torch.tensor([1.0, 2.0, 3.0, 4.0])
    return net.last(y * z)


def several_outputs(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    with off():
        y = net.first(x)
        z = y.mean(-1)
    return net.last(y[..., :4]), z


def sizes(net: Net, x: Tensor) -> Tensor:
    with off():
        x = x.reshape(x.shape[0] * 3, 4)
        rows = x.shape[0] // 3
    return net.last(x.reshape(rows, 3, 4))


def another_device(net: Net, x: Tensor) -> Tensor:
    with torch.autocast("mps", dtype=torch.bfloat16):
        x = net.first(x)
    return net.last(x[..., :4])


def nothing_to_lower(net: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = torch.relu(x)
    return net.last(x)


def gradients(net: Net, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = net.first(x)
    with torch.no_grad(), off():
        x = torch.relu(x)
    return net.last(x[..., :4])


CAPTURED: dict[str, Forward] = {
    "linear attention": attention,
    "nested": nested,
    "several outputs": several_outputs,
    "sizes": sizes,
    "on for another device": another_device,
    "on where it lowers nothing": nothing_to_lower,
    "with gradients": gradients,
}


def net(forward: Forward) -> Net:
    return Net(forward, first=nn.Linear(4, 8), last=nn.Linear(4, 2))


@pytest.mark.parametrize("case", CAPTURED)
def test_what_is_computed_under_an_autocast_that_lowers_nothing_is_captured_and_exported(
    case: str, tmp_path: Path
) -> None:
    model = model_of(net(CAPTURED[case]), 3, 4)
    graph = capture(model)
    assert {layer_name(layer) for layer in layers_of(graph)} >= {"last"}
    session = onnxruntime.InferenceSession(
        export(model, tmp_path / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    for batch in (1, 5):  # any batch, as without autocast
        x = torch.randn(batch, 3, 4)
        outputs = graph(x)
        exported = session.run(None, {model.input_names[0]: x.numpy()})
        captured = outputs if isinstance(outputs, tuple) else (outputs,)
        for expected, got, ran in zip(model.run(x), captured, exported, strict=True):
            assert largest_difference(expected, got) < 1e-6
            assert largest_difference(expected, torch.from_numpy(ran)) < 1e-5


def test_its_layers_and_products_are_found() -> None:
    graph = capture(model_of(net(attention), 3, 4))
    assert [name for name in operators(graph) if name in ("linear", "matmul")] == [
        "linear", "matmul", "matmul", "matmul", "linear",
    ]  # fmt: skip
    inside = next(node for node in graph.graph.nodes if str(node.target) == "aten.matmul.default")
    assert inside.meta["val"].shape[1:] == (4, 4)


def test_casts_to_float32_are_kept() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        with off():
            y = (x > 0).float() * x.double().float()
        return net.last(y)

    model = model_of(net(forward), 3, 4)
    graph = capture(model)
    assert operators(graph).count("to") == 3
    assert graph(*model.example_inputs).dtype == torch.float32


def test_efficientvit_is_captured() -> None:
    model = model_of(timm.create_model("efficientvit_b0", num_classes=3), 3, 32, 32)
    x = torch.randn(2, 3, 32, 32)
    assert largest_difference(model.run(x)[0], capture(model)(x)) < 1e-4


class Lowered(nn.Module):
    """A layer under an autocast of its own, which others may contain."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.layer(x)
        return x.float()


def lowered_within(net: Net, x: Tensor) -> Tensor:
    with off():
        return net.last(net.block(x))


@pytest.mark.parametrize(
    ("module", "who"),
    [
        (Lowered(), "Lowered: forward()"),
        (nn.Sequential(nn.Linear(4, 4), Lowered()), "Sequential: forward() of 1"),
        (Net(lowered_within, block=Lowered(), last=nn.Linear(4, 2)), "Net: forward() of block"),
    ],
)
def test_an_autocast_that_lowers_precision_is_refused(module: nn.Module, who: str) -> None:
    with pytest.raises(CompressError) as caught:
        capture(model_of(module, 4))
    assert str(caught.value) == (
        f"{who} turns on torch.autocast('cpu', torch.bfloat16), and layers compute in lower precision. Passes and"
        " runtimes choose the precision of each layer themselves: give that autocast enabled=False, or move it from"
        " forward() to where the network is called."
    )


def branch(net: Net, x: Tensor) -> Tensor:
    chosen: Tensor = torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))
    return net.last(chosen)


def branch_within(net: Net, x: Tensor) -> Tensor:
    with off():
        return branch(net, x)


@pytest.mark.parametrize("forward", [branch, branch_within])
def test_a_branch_is_refused_with_its_operator(forward: Forward) -> None:
    with pytest.raises(
        CompressError, match=r"Net: forward\(\).* has a torch.cond, whose parts are graphs of their own"
    ):
        capture(model_of(net(forward), 3, 4))
