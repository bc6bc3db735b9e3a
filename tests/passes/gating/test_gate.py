"""Gate numerics against the paper's formula, where gates start, and how their gradients are evened out."""

from __future__ import annotations

import math
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


def noise(gates: list[Gate], sizes: list[float], steps: int, scale: float = 1.0) -> list[Tensor]:
    """Gradients of u when each gate gets random ones of its own size; of the last step."""
    draws = torch.Generator().manual_seed(0)
    for _ in range(steps):
        even_out(gates)
        for gate in gates:
            gate.zero_grad()
        loss = torch.stack(
            [
                (gate() * size * torch.randn(len(gate.u), generator=draws)).sum()
                for gate, size in zip(gates, sizes, strict=True)
            ]
        ).sum()
        (scale * loss).backward()
    return [gate.u.grad for gate in gates if gate.u.grad is not None]


@pytest.mark.parametrize("scale", [1.0, 65536.0], ids=["", "scaled as half precision needs it"])
def test_units_get_gradients_of_one_size_and_all_together_as_much_as_they_had(scale: float) -> None:
    gates, sizes = [Gate(64), Gate(256), Gate(1)], [0.01, 10.0, 1.0]
    grads = noise(gates, sizes, 60, scale)
    spreads = [float(grad.square().mean().sqrt()) for grad in grads[:2]]
    # Of 64 normal numbers the spread is known to 9 %, and the memory averages ten steps.
    assert spreads[0] == pytest.approx(spreads[1], rel=0.4)
    whole = scale * math.sqrt(sum(len(g.u) * size**2 for g, size in zip(gates, sizes, strict=True)))
    assert math.sqrt(float(task_power(gates))) == pytest.approx(whole, rel=0.1)
    assert math.sqrt(float(task_power(gates, evened=False))) == pytest.approx(whole, rel=0.1)


def test_a_step_that_overflows_leaves_no_trace() -> None:
    gate = Gate(3)
    noise([gate], [1.0], 3)
    before = gate.power.clone()
    (gate() * float("inf")).sum().backward()
    assert gate.power.equal(before)


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
    noise(list(gates), [1.0, 2.0], 2)  # type: ignore[arg-type]
    copied = pickle.loads(pickle.dumps(gates))
    for name, tensor in gates.state_dict().items():
        assert copied.state_dict()[name].equal(tensor)
    assert {name.rpartition(".")[2] for name in gates.state_dict()} == {"u", "power", "factor"}
