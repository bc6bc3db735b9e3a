"""What flows between the passes: how a model is run where a network takes one number of samples only."""

from __future__ import annotations

import pytest
import torch
from edgepress.form import Form
from edgepress.model import METRIC_BATCH, Model, padded
from torch import Tensor, nn


class ExactlyThree(nn.Module):
    """Takes three samples at once, no more and no fewer."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[0] == 3
        return 2 * x


X = torch.arange(8.0).reshape(4, 2)


def test_a_network_of_any_batch_size_runs_as_it_is() -> None:
    model = Model(nn.Identity(), (X[:3],))
    forward, size = model.in_batches()
    assert model.static_batch is None and size == METRIC_BATCH
    assert model.in_batches(5)[1] == 5
    assert torch.equal(forward(X)[0], X)


def test_a_fixed_number_of_samples_is_filled_up_and_cut_again() -> None:
    model = Model(ExactlyThree(), (X[:3],)).with_static_batch()
    forward, size = model.in_batches(16)
    assert model.static_batch == size == 3
    assert torch.equal(forward(X[:3])[0], 2 * X[:3])
    assert torch.equal(forward(X[3:])[0], 2 * X[3:])
    with pytest.raises(AssertionError):
        model.run(X[3:])


def test_an_engine_in_the_networks_place_gets_as_many_samples() -> None:
    given: list[int] = []

    def engine(x: Tensor) -> tuple[Tensor, ...]:
        given.append(len(x))
        return (x, -x)

    forward, _ = Model(ExactlyThree(), (X[:3],), dynamic_batch=False).in_batches(forward=engine)
    one, other = forward(X[:2])
    assert given == [3] and torch.equal(one, X[:2]) and torch.equal(other, -X[:2])
    assert [len(y) for y in padded(engine, 5)(X)] == [4, 4] and given == [3, 5]


def test_what_passes_took_out_is_kept_in_order_until_one_graph_is_made_of_the_network() -> None:
    model = Model(nn.Identity(), (X,), removals=({"first": 1},))
    small = model.smaller(nn.Identity(), {"second": 2})
    trained = small.successor(nn.Identity(), Form.MODULES).smaller(nn.Identity(), {"third": 3})
    assert trained.removals == ({"first": 1}, {"second": 2}, {"third": 3})
    assert model.whole is None and small.whole is trained.whole is model
    captured = trained.successor(nn.Identity(), Form.GRAPH)
    assert captured.removals is captured.whole is None


def test_a_network_that_no_factory_makes_has_nothing_to_be_loaded_into() -> None:
    assert Model(nn.Identity(), (X,)).smaller(nn.Identity(), {"first": 1}).removals is None
