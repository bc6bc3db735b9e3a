"""Which grid a tensor gets, by what its rounding does to the network's outputs."""

from __future__ import annotations

import torch
from edgepress.calibration.scheme import QuantScheme
from edgepress.passes.graph.capture import capture
from edgepress.passes.graph.observe import observe
from edgepress.passes.quantization.grids import best_grids, grid_of, grids_for
from edgepress.passes.quantization.quantizers import Grid
from edgepress.progress import Silent
from quantization_nets import model_of
from torch import Tensor, nn


def test_the_ends_of_a_range_are_the_ends_of_its_grid() -> None:
    assert grid_of(-1.0, 12.5, QuantScheme()) == Grid(12.5 / 127)
    assert grid_of(-12.5, 1.0, QuantScheme()) == Grid(12.5 / 127)
    assert grid_of(-5.5, 20.0, QuantScheme(asymmetric=True)) == Grid(0.1, zero_point=55, unsigned=True)


def test_a_centred_grid_stands_at_zero_point_zero_and_stays_unsigned_where_nothing_is_negative() -> None:
    scheme = QuantScheme(asymmetric=True)
    assert grid_of(-5.5, 20.0, scheme, centred=True) == Grid(20.0 / 127)
    assert grid_of(0.0, 25.5, scheme, centred=True) == Grid(0.1, zero_point=0, unsigned=True)


# 16,000 rows of 8 values around 1, but for one value of 20: least squared error would clip it.
ROWS = torch.randn(16_000, 8, generator=torch.Generator().manual_seed(0))
ROWS[:, 0] = 0.0
ROWS[7, 0] = 20.0


def chosen_for(weight: Tensor) -> tuple[str, float]:
    """Which of two ways chose the grid of a linear layer's input, and the SQNR that rounding it leaves."""
    net = nn.Linear(8, 1, bias=False)
    net.weight.data.copy_(weight)
    graph = capture(model_of(net, 8))
    name = next(n.name for n in graph.graph.nodes if n.op == "placeholder")
    observers = observe(graph, [name], lambda: [(ROWS,)], Silent(), "quantize")
    grids = {method: grids_for(observers, method, QuantScheme()) for method in ("mse", "minmax")}
    assert grids["mse"][name].scale < 0.9 * grids["minmax"][name].scale
    trials = [(row[None],) for row in ROWS[:64]]
    generator = torch.Generator().manual_seed(0)
    best, sqnr = best_grids(graph, list(grids.values()), lambda: trials, generator, Silent(), "quantize")
    return next(method for method, found in grids.items() if found == best), sqnr[name]


def test_a_range_is_clipped_where_the_outputs_do_not_hang_on_its_ends() -> None:
    method, _ = chosen_for(torch.tensor([[0.0, 1, 1, 1, 1, 1, 1, 1]]))
    assert method == "mse"


def test_a_range_is_not_clipped_where_they_do() -> None:
    method, sqnr = chosen_for(torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0]]))
    assert method == "minmax"
    assert sqnr > 100.0  # 20 is on the grid
