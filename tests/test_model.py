"""What flows between the passes: how a model is run where a network takes one number of samples only."""

from __future__ import annotations

import pytest
import torch
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
