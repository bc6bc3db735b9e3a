"""Costs against the terms summed one by one, and against counting."""

from __future__ import annotations

import pytest
import torch
from anatomies import chain, milliseconds, random_gates, tied
from edgepress.passes.channels.anatomy import Anatomy, Term, presence
from edgepress.passes.channels.units import Gates
from edgepress.passes.gating.cost import Cost, LatencyCost, MacsCost, ParamsCost
from torch import Tensor

ANATOMIES = {"tied": tied(), "deep": chain([16 + 8 * i for i in range(12)], blocks=5)}


def terms(anatomy: Anatomy, name: str) -> list[Term]:
    macs = [term for layer in anatomy.layers for term in layer.macs]
    return list(anatomy.params.values()) if name == "params" else macs


def cost_of(anatomy: Anatomy, name: str) -> Cost:
    return ParamsCost(anatomy) if name == "params" else MacsCost(anatomy)


def one_by_one(terms: list[Term], gates: Gates) -> Tensor:
    return torch.stack([term.of(gates) for term in terms]).double().sum()


@pytest.mark.parametrize("name", ["params", "macs"])
@pytest.mark.parametrize("anatomy", ANATOMIES.values(), ids=ANATOMIES)
def test_counts_and_their_gradients_are_those_of_the_terms(anatomy: Anatomy, name: str) -> None:
    cost = cost_of(anatomy, name)
    for seed in range(20):
        gates = {n: g.requires_grad_() for n, g in random_gates(anatomy, seed, soft=seed % 2 > 0).items()}
        found, expected = cost.of(gates), one_by_one(terms(anatomy, name), gates)
        assert float(found.detach()) == pytest.approx(
            float(expected.detach()), rel=1e-6
        )  # terms are summed in float32
        mine, theirs = (torch.autograd.grad(each, list(gates.values())) for each in (found, expected))
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(expected.detach()) / 1000)


@pytest.mark.parametrize("name", ["params", "macs"])
@pytest.mark.parametrize("anatomy", ANATOMIES.values(), ids=ANATOMIES)
def test_what_is_not_named_is_open(anatomy: Anatomy, name: str) -> None:
    cost = cost_of(anatomy, name)
    assert float(cost.of({})) == pytest.approx(cost.whole, rel=1e-12)
    gates = dict(list(random_gates(anatomy, 3).items())[::2])
    assert float(cost.of(gates)) == pytest.approx(float(one_by_one(terms(anatomy, name), gates)), rel=1e-6)


def test_parameters_counted_by_hand() -> None:
    """Of the tied anatomy with 8 of a, 4 of b, 3 of g and 2 heads open, and the block gone."""
    gates = {unit.name: torch.zeros(unit.size) for unit in tied().units}
    for name, count in (("a", 8), ("b", 4), ("g", 3), ("heads", 2), ("inside", 32)):
        gates[name][:count] = 1
    counted = 27 * 3 * 8 + 9 * 8 * 4 + 4 + 4.5 * (8 + 4 + 3) * (2 * 3) + 7 + (8 * 3) * 10
    assert float(ParamsCost(tied()).of(gates)) == counted
    gates["block"][:] = 1
    assert float(ParamsCost(tied()).of(gates)) == counted + 2 * (2 * 4) * 32


@pytest.mark.parametrize("anatomy", ANATOMIES.values(), ids=ANATOMIES)
def test_a_latency_is_asked_with_open_channels_and_presence(anatomy: Anatomy) -> None:
    cost = LatencyCost(anatomy, milliseconds)
    for seed in range(10):
        gates = {n: g.requires_grad_() for n, g in random_gates(anatomy, seed, soft=True).items()}
        widths = {
            layer.name: (layer.inputs.open(gates), layer.outputs.open(gates), presence(layer.blocks, gates))
            for layer in anatomy.layers
        }
        found, expected = cost.of(gates), milliseconds(widths).double()
        assert float(found.detach()) == pytest.approx(
            float(expected.detach()), rel=1e-5
        )  # the function itself is in float32
        mine, theirs = (torch.autograd.grad(each, list(gates.values())) for each in (found, expected))
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert cost.whole == pytest.approx(float(milliseconds(open_widths(anatomy))), rel=1e-5)
    assert cost.unit == "ms"


def open_widths(anatomy: Anatomy) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    one = torch.ones(())
    return {
        x.name: (torch.tensor(float(x.inputs.size)), torch.tensor(float(x.outputs.size)), one)
        for x in anatomy.layers
    }


def test_a_cost_without_units_is_a_number() -> None:
    anatomy = Anatomy((), {"w": Term(5)}, ())
    assert float(ParamsCost(anatomy).of({})) == 5
    assert float(MacsCost(anatomy).of({})) == MacsCost(anatomy).whole == 0
