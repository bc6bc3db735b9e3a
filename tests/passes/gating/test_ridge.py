"""Ridge regression of a change: by hand, and its strength chosen by samples that it was not fitted to."""

from __future__ import annotations

import pytest
import torch
from edgepress.passes.gating.ridge import RIDGES, Rows, best_change, changes
from torch import Tensor


def rows_of(inputs: Tensor, lacking: Tensor, weights: Tensor | None = None) -> Rows:
    return Rows(inputs, lacking, torch.ones(len(inputs)) if weights is None else weights)


def change_at(rows: Rows, ridge: float, with_bias: bool = False) -> tuple[list[float], float]:
    [found] = [change for change in changes(rows, with_bias) if change.ridge == ridge]
    return found.weight.flatten().tolist(), float(found.bias)


def test_without_a_bias_by_hand() -> None:
    """XᵀX = diag(1, 4), Xᵀy = (1, 8), λ = 1 · 2.5: w = (1 / 3.5, 8 / 6.5)."""
    rows = rows_of(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0], [4.0]]))
    weight, bias = change_at(rows, 1.0)
    assert weight == pytest.approx([1 / 3.5, 8 / 6.5])
    assert bias == 0


def test_a_bias_is_not_held_back() -> None:
    """Centered x = (-1, 1), y = (-2, 2): w = 4 / (2 + 1 · 2) = 1, b = 3 - 1 · 1."""
    rows = rows_of(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]]))
    assert change_at(rows, 1.0, with_bias=True) == ([pytest.approx(1.0)], pytest.approx(2.0))


def test_it_is_the_least_of_what_it_minimizes() -> None:
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 6, generator=draws), torch.randn(50, 3, generator=draws)
    weight = next(c for c in changes(rows_of(x, y), with_bias=False) if c.ridge == 0.1).weight.clone()
    weight.requires_grad_()
    strength = 0.1 * float(x.double().square().sum(0).mean())
    loss = (y.double() - x.double() @ weight.T).square().sum() + strength * weight.square().sum()
    [gradient] = torch.autograd.grad(loss, weight)
    assert float(gradient.abs().max()) < 1e-8 * float(loss.detach())  # float64


def test_the_strength_is_that_which_serves_others_best() -> None:
    """Few rows, noisy: the weakest ridge fits their noise."""
    draws = torch.Generator().manual_seed(0)
    true = torch.randn(2, 40, generator=draws)

    def rows(count: int) -> Rows:
        x = torch.randn(count, 40, generator=draws)
        return rows_of(x, x @ true.T + 10 * torch.randn(count, 2, generator=draws))

    fit, held_out = rows(50), rows(500)
    found = best_change(fit, held_out, with_bias=False)
    assert found is not None
    errors = {change.ridge: change.error(held_out) for change in changes(fit, with_bias=False)}
    assert found[0].ridge == min(errors, key=lambda ridge: errors[ridge]) != RIDGES[0]
    assert found[1] == errors[found[0].ridge] < held_out.energy()


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_inputs_that_say_nothing_change_nothing(value: float) -> None:
    rows = rows_of(torch.full((8, 3), value), torch.ones(8, 2))
    assert best_change(rows, rows, with_bias=False) is None


def test_what_serves_no_other_sample_is_not_taken() -> None:
    x = torch.randn(20, 3)
    assert best_change(rows_of(x, x[:, :2]), rows_of(x, -x[:, :2]), with_bias=True) is None


def test_a_row_that_counts_twice_is_as_if_it_were_there_twice() -> None:
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 2, generator=draws), torch.randn(9, 1, generator=draws)
    counts = torch.tensor([1, 2, 1, 3, 1, 1, 2, 1, 1])
    weighted = rows_of(x, y, counts.float())
    repeated = rows_of(x.repeat_interleave(counts, 0), y.repeat_interleave(counts, 0))
    for with_bias in (True, False):
        for one, other in zip(changes(weighted, with_bias), changes(repeated, with_bias), strict=True):
            torch.testing.assert_close((one.weight, one.bias), (other.weight, other.bias))
            assert one.error(weighted) == pytest.approx(other.error(repeated))
    assert weighted.energy() == pytest.approx(repeated.energy())
