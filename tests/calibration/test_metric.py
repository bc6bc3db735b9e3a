"""Metrics against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from edgepress.calibration.data import Part
from edgepress.calibration.measurement import MetricRecord
from edgepress.calibration.metric import metric_named
from edgepress.errors import CompressError
from edgepress.pipeline.pages.words import metric_interval


def part(logits: list[list[float]], labels: list[int]) -> Part:
    rows = zip(logits, labels, strict=True)
    return Part("validation", [((torch.tensor(x),), torch.tensor(y)) for x, y in rows])


def identity(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (x,)


LOGITS = [[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 2.0, 9.0], [4.0, 3.0, 0.0]]


def test_top1_counts_hits_and_gives_wilsons_interval() -> None:
    found = metric_named("top1").measure(identity, part(LOGITS, [0, 1, 0, 0]), batch_size=3)
    assert (found.record.name, found.record.value, found.record.n, found.record.part) == (
        "top1",
        0.75,
        4,
        "validation",
    )
    assert found.scores.tolist() == [1.0, 1.0, 0.0, 1.0]
    # Wilson by hand: p = 3/4, n = 4, z = 1.959964: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    assert found.record.ci95 == pytest.approx((0.300642, 0.954413), abs=1e-5)
    # half of that over z
    assert found.record.standard_error == pytest.approx(0.166782, abs=1e-5)


def test_a_share_of_all_or_none_is_not_certain() -> None:
    found = metric_named("top1").measure(identity, part(LOGITS, [0, 1, 2, 0])).record
    assert (found.value, found.ci95[1]) == (1.0, 1.0)
    assert found.ci95[0] < 0.6 and found.standard_error is not None and found.standard_error > 0.1


def test_top2_also_takes_the_second() -> None:
    found = metric_named("top2").measure(identity, part(LOGITS, [2, 0, 1, 2]))
    assert found.scores.tolist() == [1.0, 0.0, 1.0, 0.0]


def test_equal_logits_rank_by_class_as_argmax_does() -> None:
    tied = [[1.0, 1.0], [1.0, 1.0]]
    assert metric_named("top1").measure(identity, part(tied, [0, 1])).scores.tolist() == [1.0, 0.0]


def test_a_function_of_the_user_has_students_interval(tmp_path) -> None:
    (tmp_path / "closeness_metric.py").write_text(
        "def near(outputs, labels):\n    return -(outputs[0][:, 0] - labels).abs()\n"
    )
    metric = metric_named("closeness_metric:near", tmp_path)
    found = metric.measure(identity, part([[1.0], [2.0], [3.0]], [1, 1, 1]), batch_size=2)
    assert found.scores.tolist() == [0.0, -1.0, -2.0]
    # mean -1, standard deviation 1, t(0.975, 2) = 4.302653: half width 4.302653 / sqrt(3)
    assert found.record.value == pytest.approx(-1.0)
    assert found.record.ci95 == pytest.approx((-3.484138, 1.484138), abs=1e-5)
    assert found.record.standard_error == pytest.approx(1 / 3**0.5)


@pytest.mark.parametrize("score", [0.75, 0.1], ids=["exact", "rounded"])
def test_equal_scores_have_no_interval(score: float, tmp_path, request) -> None:
    """Also those whose sum is rounded: numpy calls the standard deviation of seven tenths 1e-17."""
    module = f"always_{request.node.callspec.id}"
    text = f"def score(outputs, labels):\n    return 0 * labels.double() + {score}\n"
    (tmp_path / f"{module}.py").write_text(text)
    metric = metric_named(f"{module}:score", tmp_path)
    found = metric.measure(identity, part([[1.0]] * 7, [0] * 7))
    assert found.record.value == score and np.isnan(found.record.ci95).all()
    assert found.record.standard_error is None
    assert metric_interval(found.record.value, found.record.ci95) == "no interval"


def test_a_record_without_a_standard_error_is_read_as_one_that_does_not_know_it() -> None:
    """As run.json had them."""
    old = '{"name": "top1", "value": 0.75, "n": 4, "ci95": [0.300642, 0.954413], "part": "test"}'
    assert MetricRecord.model_validate_json(old).standard_error is None
    unknown = '{"name": "own:f", "value": 0.75, "n": 4, "ci95": ["NaN", "NaN"], "part": "test", "standard_error": null}'
    assert MetricRecord.model_validate_json(unknown).model_dump_json() == unknown.replace(": ", ":").replace(
        ", ", ","
    )


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        pytest.param("top3", [0, 0, 0, 0], "metric top3: the network has only 3 classes", id="k covers all"),
        pytest.param(
            "top1",
            [0, 1, 7, 0],
            "metric top1: label 7 is out of range: the network has classes 0 to 2",
            id="label outside",
        ),
    ],
)
def test_what_cannot_be_scored_is_said(name: str, labels: list[int], message: str) -> None:
    with pytest.raises(CompressError) as caught:
        metric_named(name).measure(identity, part(LOGITS, labels))
    assert str(caught.value) == message


def test_nan_outputs_are_no_score() -> None:
    with pytest.raises(CompressError, match="metric top1: the network's output holds NaN"):
        metric_named("top1").measure(lambda x: (x * float("nan"),), part(LOGITS, [0, 0, 0, 0]))


@pytest.mark.parametrize("size", [1e99, 1e200])
def test_scores_that_no_record_keeps_are_said(size: float, tmp_path) -> None:
    """Finite all the same; their interval is not, or lies beyond what is read again."""
    module = f"huge_{size:.0e}".replace("+", "")
    text = f"def score(outputs, labels):\n    return labels.double() * {size} - {size / 2}\n"
    (tmp_path / f"{module}.py").write_text(text)
    with pytest.raises(
        CompressError, match=r"returned a score of size 5e\+\d+, and no record keeps more than 1e\+90"
    ):
        metric_named(f"{module}:score", tmp_path).measure(identity, part([[1.0]] * 2, [0, 1]))


@pytest.mark.parametrize("name", ["top0", "accuracy", "top", "Top1"])
def test_unknown_metrics(name: str) -> None:
    with pytest.raises(CompressError, match="expected top1, topK"):
        metric_named(name)


def test_a_metric_that_returns_the_wrong_shape(tmp_path) -> None:
    (tmp_path / "mean_metric.py").write_text("def mean(outputs, labels):\n    return outputs[0].mean()\n")
    with pytest.raises(CompressError, match=r"must return one score a sample, shape \(4,\); got shape \(\)"):
        metric_named("mean_metric:mean", tmp_path).measure(identity, part(LOGITS, [0, 0, 0, 0]))
