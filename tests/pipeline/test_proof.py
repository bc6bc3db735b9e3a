"""The proof of an edge: what it measures, and what it lets through."""

from __future__ import annotations

import pytest
import torch
from edgepress.pipeline.proof import FLOAT_LIMIT, LOW_PRECISION_LIMIT, Limit, prove
from torch import Tensor


def batches(*outputs: Tensor) -> list[tuple[Tensor, ...]]:
    return [outputs]


LOGITS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 4.0]])


def test_equal_outputs_pass_any_limit() -> None:
    record = prove("a → b", batches(LOGITS), batches(LOGITS.clone()), FLOAT_LIMIT)
    assert record.ok and record.max_error == 0.0 and record.top1_agreement == 1.0 and record.n == 4


def test_sqnr_is_ten_log_of_signal_over_noise() -> None:
    # signal 1 + 4 + 9 + 16 = 30, noise 0.3: 10 log10(100) = 20 dB
    noisy = LOGITS.clone()
    noisy[0, 0] += 0.3**0.5
    record = prove("a → b", batches(LOGITS), batches(noisy), Limit(20.01))
    assert record.sqnr_db == pytest.approx(20.0, abs=0.01) and not record.ok
    assert prove("a → b", batches(LOGITS), batches(noisy), Limit(19.9)).ok


@pytest.mark.parametrize(("decibels", "ok"), [(24.7, True), (14.0, False)])
def test_eight_bits_of_bf16_or_int8_pass_and_a_wrong_graph_does_not(decibels: float, ok: bool) -> None:
    rounded = LOGITS.clone()
    rounded[3, 1] += (30 / 10 ** (decibels / 10)) ** 0.5  # the classes stay
    record = prove("a → b", batches(LOGITS), batches(rounded), LOW_PRECISION_LIMIT)
    assert record.ok is ok and record.top1_agreement == 1.0


def test_a_large_output_does_not_hide_a_small_one_that_is_wrong() -> None:
    small, large = torch.randn(8, 3), 1000 * torch.randn(8, 3)
    record = prove("a → b", batches(small, large), batches(-small, large.clone()), FLOAT_LIMIT)
    assert not record.ok and record.sqnr_db < 0


def test_one_sample_of_few_may_change_its_class_two_may_not() -> None:
    one, two = LOGITS.clone(), LOGITS.clone()
    one[0] = torch.tensor([1.0, 1.1])
    two[0] = two[1] = torch.tensor([1.0, 1.1])
    two[1] = torch.tensor([2.1, 2.0])
    limit = Limit(0.0, LOW_PRECISION_LIMIT.agreement)
    assert prove("a → b", batches(LOGITS), batches(one), limit).ok
    assert not prove("a → b", batches(LOGITS), batches(two), limit).ok


@pytest.mark.parametrize(
    ("after", "problem"),
    [
        (torch.full((4, 2), float("nan")), "output 0 is not finite"),
        (LOGITS[:, :1], "output 0 has shape (4, 1) instead of (4, 2)"),
    ],
)
def test_what_cannot_be_compared_is_a_broken_proof_with_its_reason(after: Tensor, problem: str) -> None:
    record = prove("a → b", batches(LOGITS), batches(after), FLOAT_LIMIT)
    assert not record.ok and record.limit == problem


def test_without_a_limit_the_record_only_reports() -> None:
    record = prove("a → b", batches(LOGITS), batches(LOGITS + 5), None)
    assert record.ok and record.limit == "reported; the budgets judge it"
