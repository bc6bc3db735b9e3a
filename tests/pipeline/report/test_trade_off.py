"""The trade-off of a series: marks where the numbers are, whiskers where errors are known, nothing that is not."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from edgepress.pipeline.report.pruning import pruning
from edgepress.pipeline.report.trade_off import trade_offs
from pruned_records import SERIES, gates
from run_records import step


def drawn(**changes: Any) -> list[ElementTree.Element]:
    found = pruning(step("gates", 0.861, 2_000, details=gates(**changes)))
    assert found is not None
    return [ElementTree.fromstring(chart) for chart in trade_offs(found)]


def test_the_series_is_drawn_against_the_share_that_is_left() -> None:
    metric, divergence = drawn()
    assert [len(list(chart.iter("circle"))) for chart in (metric, divergence)] == [
        2,
        3,
    ]  # one metric is unknown
    across = [float(circle.get("cx", "").rstrip("%")) for circle in divergence.iter("circle")]
    # Equal steps of the cost are equal steps of the axis: 0.499, 0.651, 0.799.
    assert (across[1] - across[0]) / (across[2] - across[0]) == pytest.approx(0.152 / 0.3, abs=1e-3)
    heights = [float(circle.get("cy", "")) for circle in divergence.iter("circle")]
    assert heights == sorted(heights)  # down the page, as the divergence falls
    chosen = [circle.get("class") for circle in divergence.iter("circle")]
    assert chosen == ["mark int8 front", "mark int8", "mark int8"]
    assert "0.0312, chosen" in [text.text for text in divergence.iter("text")]


def test_only_known_errors_have_whiskers() -> None:
    metric, divergence = drawn()
    whiskers = [line for line in metric.iter("line") if "spread" in line.get("class", "")]
    assert len(whiskers) == 1
    assert not [line for line in divergence.iter("line") if "spread" in line.get("class", "")]


FEWER: dict[str, list[dict[str, Any]]] = {
    "one": SERIES[:1],
    "none": [],
    "no values": [{"share": 0.5}, {"share": 0.4}],
    "no shares": [SERIES[0], {"kl": 1.0, "metric": 0.5}],
}


@pytest.mark.parametrize("series", FEWER.values(), ids=FEWER.keys())
def test_fewer_than_two_networks_are_no_trade_off(series: list[dict[str, Any]]) -> None:
    assert drawn(series=series) == []


def test_networks_of_one_share_are_drawn_all_the_same() -> None:
    assert len(drawn(series=[SERIES[0], SERIES[0]])) == 2
