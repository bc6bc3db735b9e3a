"""What a change inside a network does to its outputs, estimated from gradients."""

from __future__ import annotations

import math

import pytest
import torch
from edgepress.calibration.sqnr import sqnr_db
from edgepress.errors import CompressError
from edgepress.passes.graph.capture import capture
from edgepress.passes.graph.observe import watch
from edgepress.passes.quantization.output_effect import Replaced, output_sqnr_db
from edgepress.progress import Silent
from quantization_nets import Net, model_of
from torch import Tensor, nn


def estimated(
    graph: torch.fx.GraphModule, changes: dict[str, Replaced], *batches: Tensor
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    return output_sqnr_db(graph, [(x,) for x in batches], changes, generator, Silent(), "quantize")


def node_named(graph: torch.fx.GraphModule, part: str) -> str:
    return next(n.name for n in graph.graph.nodes if n.op == "call_function" and part in str(n.target))


def test_one_output_of_a_linear_network_is_exact() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
        net[1].weight.copy_(torch.tensor([[3.0, 4.0]]))
    graph = capture(model_of(net, 2))
    x = torch.tensor([[1.0, 1.0]])  # output 7; 0.1 more of each input adds 0.7
    found = estimated(graph, {"more": Replaced(node_named(graph, "linear"), lambda v: v + 0.1)}, x)
    assert found["more"] == pytest.approx(20.0, abs=1e-3)


def test_the_estimate_is_near_the_measured_sqnr_of_a_deep_network() -> None:
    layers = [part for _ in range(4) for part in (nn.Linear(32, 32), nn.GELU())]
    graph = capture(model_of(nn.Sequential(*layers, nn.Linear(32, 10)), 32))
    x = torch.randn(64, 32)
    name = node_named(graph, "gelu")
    steps = {f"{step}": step for step in (0.01, 0.05, 0.2)}
    changes = {
        key: Replaced(name, lambda v, step=step: torch.round(v / step) * step) for key, step in steps.items()
    }
    found = estimated(graph, changes, *x.split(1))
    for key, change in changes.items():

        def replace(node: torch.fx.Node, value: object, change: Replaced = change) -> object:
            return change.by(value) if node.name == name else value  # type: ignore[arg-type]

        measured = sqnr_db(graph(x).detach(), watch(graph, (x,), replace))
        assert found[key] == pytest.approx(measured, abs=2.0)  # 64 estimates scatter by 1 dB


def test_what_the_outputs_do_not_depend_on_moves_nothing() -> None:
    net = Net(lambda n, x: n.a(x) * 1.0 + torch.zeros_like(n.b(x)), a=nn.Linear(4, 2), b=nn.Linear(4, 2))
    graph = capture(model_of(net, 4))
    unread = [n.name for n in graph.graph.nodes if "linear" in str(n.target)][1:]
    found = estimated(graph, {n: Replaced(n, torch.zeros_like) for n in unread}, torch.randn(1, 4))
    assert set(found.values()) <= {200.0}


def test_the_module_and_its_gradients_are_left_alone() -> None:
    graph = capture(model_of(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), 4))
    needed = {name: p.requires_grad for name, p in graph.named_parameters()}
    found = estimated(graph, {"x": Replaced(node_named(graph, "relu"), torch.zeros_like)}, torch.randn(1, 4))
    assert math.isfinite(found["x"])
    assert {name: p.requires_grad for name, p in graph.named_parameters()} == needed
    assert all(p.grad is None for p in graph.parameters())


class TwoOutputs(nn.Module):
    """The second output is a thousand times the first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x), 1000 * self.b(x)


def test_every_output_counts_by_its_own_size() -> None:
    graph = capture(model_of(TwoOutputs(), 4, output_names=("a", "b")))
    layers = [n.name for n in graph.graph.nodes if "linear" in str(n.target)]
    changes = {name: Replaced(name, lambda v: 1.1 * v) for name in layers}
    found = estimated(graph, changes, *torch.randn(64, 4).split(1))
    # a tenth of one output: 20 dB of it, and 3 dB more of both
    assert [found[name] for name in layers] == pytest.approx([23.0, 23.0], abs=2.0)


def test_one_large_batch_tells_as_much_as_many_small_ones() -> None:
    graph = capture(model_of(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), 8))
    x = torch.randn(32, 8)
    change = {"rounded": Replaced(node_named(graph, "relu"), lambda v: torch.round(v / 0.2) * 0.2)}
    found = [
        output_sqnr_db(graph, [(x,)], change, torch.Generator().manual_seed(seed), Silent(), "quantize")[
            "rounded"
        ]
        for seed in range(8)
    ]
    assert max(found) - min(found) < 6.0  # 32 estimates each; one alone would scatter by 30 dB


def test_a_caller_in_inference_mode_is_served() -> None:
    graph = capture(model_of(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), 4))
    with torch.inference_mode():
        found = estimated(
            graph, {"x": Replaced(node_named(graph, "relu"), torch.zeros_like)}, torch.randn(1, 4)
        )
    assert math.isfinite(found["x"])


@torch.library.custom_op("edgepress_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    return 2 * x


@doubled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_an_operator_without_gradient_is_named() -> None:
    net = Net(lambda n, x: doubled(n.a(x)), a=nn.Linear(4, 2))
    graph = capture(model_of(net, 4))
    with pytest.raises(CompressError, match=r"no gradient.*edgepress_tests.*ranges: mse, equalization: off"):
        estimated(graph, {"x": Replaced(node_named(graph, "linear"), torch.zeros_like)}, torch.randn(1, 4))
