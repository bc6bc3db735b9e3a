"""Fidelity: agreement and divergence of predictions, against scipy's and against cases that are known."""

from __future__ import annotations

import math

import pytest
import torch
from edgepress.calibration.fidelity import Compared, divergences
from edgepress.calibration.measurement import FidelityRecord
from scipy.special import rel_entr
from torch import Tensor

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0], [1.0, 0.5, 0.0], [-2.0, 4.0, 0.0]])
MOVED = torch.tensor([[1.0, 0.5, -1.0], [0.0, 3.5, 3.0], [1.0, 0.5, 0.0], [-1.0, 3.0, 1.0]])
"""Of four samples the second one's class changes, and the third stays bit for bit."""


def compared(reference: Tensor, found: Tensor, batch: int = 3) -> FidelityRecord | None:
    """Both as networks whose input says which samples are asked for."""
    beside = Compared(lambda rows: (found[rows], rows), lambda rows: (reference[rows], rows))
    for rows in torch.arange(len(found)).split(batch):
        outputs = beside(rows)
        assert torch.equal(outputs[0], found[rows]) and torch.equal(outputs[1], rows)
    return beside.record("test")


def test_the_divergence_is_that_of_scipy() -> None:
    before, after = LOGITS.double().softmax(1).numpy(), MOVED.double().softmax(1).numpy()
    expected = rel_entr(before, after).sum(1)
    assert divergences(LOGITS, MOVED).numpy() == pytest.approx(expected, abs=1e-12)  # both in float64
    record = compared(LOGITS, MOVED)
    assert record is not None
    assert record.kl == pytest.approx(expected.mean(), abs=1e-12)
    assert (record.agreement, record.n, record.part) == (0.75, 4, "test")


def test_an_equal_network_agrees_and_does_not_diverge() -> None:
    record = compared(LOGITS, LOGITS)
    assert record is not None
    assert record.agreement == 1
    assert 0 <= record.kl < 1e-12  # sums in float64


def test_probabilities_are_taken_as_they_are() -> None:
    one, other = LOGITS.softmax(1), MOVED.softmax(1)
    # A softmax of a softmax would find less than a third of it; float32 probabilities keep seven digits.
    assert divergences(one, other).numpy() == pytest.approx(divergences(LOGITS, MOVED).numpy(), abs=1e-6)
    impossible = torch.tensor([[1.0, 0.0, 0.0]])  # as integers of a softmax's output end
    assert torch.isfinite(divergences(other[:1], impossible)).all()


def test_a_divergence_that_is_not_finite_is_not_known() -> None:
    found = MOVED.clone()
    found[0, 1] = -math.inf
    record = compared(LOGITS, found)
    assert record is not None
    assert math.isnan(record.kl)
    assert record.agreement == 0.75


@pytest.mark.parametrize(
    "outputs",
    [torch.ones(4, 1), torch.ones(4), torch.ones(4, 3, 5, 5), torch.ones(4, 3, dtype=torch.int64)],
    ids=["one value", "no classes", "a map", "integers"],
)
def test_what_is_no_score_of_classes_is_not_compared(outputs: Tensor) -> None:
    assert compared(outputs, outputs) is None
