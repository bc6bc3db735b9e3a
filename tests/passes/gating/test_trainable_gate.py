"""Gate numerics against the paper's formula, where gates start, and how their gradients are evened out."""

from __future__ import annotations

import pickle

import pytest
import torch
from edgepress.passes.gating.gate import Gate, Gradient, derivative, even_out, task_power, threshold
from torch import Tensor, nn

GRADIENTS: list[Gradient] = ["constant", "sigmoid"]


def papers(u: Tensor, gradient: Gradient, large: float) -> Tensor:
    """b(u) + s_M(u) g(u) as it is printed, equations 2 and 3; floor() has no derivative."""
    saw = (large * u - torch.floor(large * u)) / large
    return (u > 0).to(u.dtype) + saw * derivative(u.detach(), gradient)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("large", [1e3, 1e5])
def test_values_are_within_g_over_m_of_the_papers_and_gradients_the_same(
    gradient: Gradient, large: float
) -> None:
    u = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    one, other = u.clone().requires_grad_(), u.clone().requires_grad_()
    weights = torch.rand(1001, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mine, theirs = threshold(one, gradient), papers(other, gradient, large)
    rounding = 1e-15
    assert bool(((mine - theirs).abs() <= derivative(u, gradient) / large + rounding).all())
    (mine * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_values_are_exactly_0_and_1_and_0_is_closed() -> None:
    assert threshold(torch.tensor([-1.0, -1e-30, 0.0, 1e-30, 1.0])).tolist() == [0, 0, 0, 1, 1]


def test_the_derivative_of_a_sigmoid_is_that_of_torch() -> None:
    u = torch.linspace(-6, 6, 25, requires_grad=True)
    u.sigmoid().sum().backward()
    assert u.grad is not None
    torch.testing.assert_close(derivative(u.detach(), "sigmoid"), u.grad)


def test_a_closed_gate_comes_back_where_the_gradient_is_constant() -> None:
    """As fast as anywhere; a sigmoid's gradient at -8 is smaller than at the threshold by nearly three digits."""
    u = torch.tensor([-8.0], requires_grad=True)
    for gradient, least, most in (("constant", 1.0, 1.0), ("sigmoid", 1e-4, 5e-4)):
        [grad] = torch.autograd.grad(threshold(u, gradient).sum(), u)  # type: ignore[arg-type]
        assert least <= float(grad) <= most


def test_all_gates_start_open_and_the_least_important_close_first() -> None:
    gate = Gate(4)
    gate.start(torch.tensor([0.75, 0.25, 1.0, 0.5]))
    assert gate().tolist() == [1, 1, 1, 1]
    with torch.no_grad():
        gate.u -= 0.5
    assert gate().tolist() == [1, 0, 1, 0]
    with torch.no_grad():
        gate.u -= 3
    gate.bound()
    assert gate.u.tolist() == [-1, -1, -1, -1]


def test_the_power_of_gradients_is_that_of_the_latest_steps() -> None:
    """And what is noted changes none of them."""
    gates, draws = [Gate(300), Gate(100)], torch.Generator().manual_seed(0)
    for step in range(60):
        size = 10.0 if step < 30 else 1.0
        for gate in gates:
            gate.zero_grad()
            sent = size * torch.randn(len(gate.u), generator=draws)
            (gate() * sent).sum().backward()
            assert gate.u.grad is not None and gate.u.grad.equal(sent)
    # The first half has a weight of 0.9^30, and 400 normal numbers have a spread that is known to 4 %.
    first_half = 0.9**30 * 100
    assert float(task_power(gates)) / 400 == pytest.approx(1 + first_half, rel=0.15)


@pytest.mark.parametrize("scale", [1.0, 65536.0], ids=["", "scaled as half precision needs it"])
def test_units_are_given_gradients_of_one_size_and_all_together_as_much_as_they_had(scale: float) -> None:
    """Of three units whose maps differ, one of them a block."""
    gates, sizes, draws = [Gate(400), Gate(300), Gate(1)], [0.01, 10.0, 1.0], torch.Generator().manual_seed(0)
    squares = torch.zeros(3)
    for step in range(60):
        even_out(gates)
        for place, (gate, size) in enumerate(zip(gates, sizes, strict=True)):
            gate.zero_grad()
            (scale * gate() * size * torch.randn(len(gate.u), generator=draws)).sum().backward()
            assert gate.u.grad is not None
            squares[place] += (step >= 20) * gate.u.grad.square().mean() / 40
    # Hundreds of normal numbers have a spread that is known to 5 %; of the block there are 40.
    assert float(squares[0]) == pytest.approx(float(squares[1]), rel=0.2)
    assert float(squares[2]) == pytest.approx(float(squares[1]), rel=0.9)
    whole = scale**2 * sum(len(gate.u) * size**2 for gate, size in zip(gates, sizes, strict=True))
    assert float(task_power(gates)) == pytest.approx(whole, rel=0.2)


def test_a_step_that_overflows_leaves_no_trace() -> None:
    gate = Gate(3)
    gate().sum().backward()
    before = gate.power.clone()
    (gate() * float("inf")).sum().backward()
    assert float(gate.power) == pytest.approx(float(before)) == pytest.approx(3)


def test_a_cost_pulls_at_open_gates_alone_and_is_not_noted() -> None:
    gate = Gate(3)
    gate.start(torch.tensor([0.2, 0.4, 0.6]))
    with torch.no_grad():
        gate.u[1] = -0.5
    values = gate.costed()
    assert values.tolist() == [1, 0, 1]
    (values * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert gate.u.grad is not None and gate.u.grad.tolist() == [1, 0, 3]
    assert float(gate.power) == 0


def test_a_gate_travels_between_processes_with_its_state() -> None:
    gates = nn.ModuleList([Gate(3), Gate(2, "sigmoid")])
    for gate in gates:
        gate().sum().backward()
    copied = pickle.loads(pickle.dumps(gates))
    for name, tensor in gates.state_dict().items():
        assert copied.state_dict()[name].equal(tensor)
    assert {name.rpartition(".")[2] for name in gates.state_dict()} == {"u", "power", "factor"}
