"""A value and its bounds are written alike, and points belong to shares alone."""

from __future__ import annotations

import pytest
from edgepress.calibration.measurement import MetricRecord
from edgepress.errors import CompressError
from edgepress.pipeline.budgets import Budgets
from edgepress.pipeline.judge import judge
from edgepress.pipeline.metric_units import require_share
from edgepress.pipeline.pages.words import EN_DASH, MINUS, metric_change, metric_interval
from edgepress.pipeline.recipe.sections import Recipe
from run_records import step


@pytest.mark.parametrize(
    ("value", "ci95", "text"),
    [
        (1.0, (0.89, 1.0000000000000002), f"89.00{EN_DASH}100.00 %"),
        (1.0, (1.0, 1.0), f"100.00{EN_DASH}100.00 %"),
        (0.98, (0.95, 1.01), f"95.00{EN_DASH}101.00 %"),
        (31.2, (30.9, 31.5), f"30.9{EN_DASH}31.5"),
        (1.2, (0.9, 1.5), f"0.9{EN_DASH}1.5"),
    ],
)
def test_bounds_are_written_as_the_value_is(value: float, ci95: tuple[float, float], text: str) -> None:
    assert metric_interval(value, ci95) == text


def test_a_change_is_in_points_for_shares_only() -> None:
    assert metric_change(0.90, 0.895) == f"{MINUS}0.50 points"
    assert metric_change(31.2, 30.9) == f"{MINUS}0.3"


def psnr(value: float) -> MetricRecord:
    return MetricRecord(name="own:psnr", value=value, n=32, ci95=(value - 1, value + 1), part="test")


def recipe(**changes: object) -> Recipe:
    base = {
        "model": {"source": "own:net"},
        "data": {"source": "own:data"},
        "targets": [{"runtime": "onnxruntime"}],
    }
    return Recipe.model_validate({**base, **changes})


def test_points_of_what_is_no_share_are_refused_with_what_to_write() -> None:
    require_share(recipe(budgets={"metric_drop": "0.5 points"}), psnr(0.9))
    require_share(recipe(budgets={"metric_drop": "0.5 units"}), psnr(31.2))
    require_share(recipe(budgets={"metric_drop": "1 %"}), psnr(31.2))
    with pytest.raises(CompressError) as caught:
        require_share(recipe(budgets={"metric_drop": "0.5 points"}), psnr(31.2))
    assert str(caught.value) == (
        "budgets.metric_drop: 0.5 points are hundredths of a share, of metric own:psnr, which is 31.2 of the float "
        "model and so no share of 0 to 1; write `0.5 units` for as much of the metric itself, or per cent of the float "
        "value"
    )


@pytest.mark.parametrize(("after", "verdict"), [(30.8, "PASS"), (30.6, "FAIL")])
def test_a_drop_in_units_of_the_metric(after: float, verdict: str) -> None:
    steps = [
        step(name, 0.5, 10).model_copy(update={"metric": psnr(value)})
        for name, value in (("float", 31.2), ("quantize", after))
    ]
    [record], found, _ = judge(Budgets.model_validate({"metric_drop": "0.5 units"}), steps, [], [], [])
    assert (record.limit, record.verdict) == ("0.5 units", verdict)
    assert record.measured == f"{31.2 - after:.4g} units (31.2 → {after}, n = 32)"
    assert found in (verdict, "INCONCLUSIVE")
