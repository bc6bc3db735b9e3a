"""What the report tells of tokens: counts of a pass's details, and nothing where these are of another shape."""

from __future__ import annotations

from typing import Any

import pytest
from edgepress.pipeline.report.tokens import token_counts
from edgepress.pipeline.run_record import StepRecord
from run_records import step


def told(**changes: Any) -> StepRecord:
    blocks = [{"pruned": 14, "merged": 12}, {"pruned": 12, "merged": 12}, {"pruned": 9, "merged": 9}]
    schedule = {"schema_version": 1, "patches": 16, "blocks": blocks}
    found = {"place": "blocks", "leading": 1, "schedule": schedule, "read": 1} | changes
    return step("tokens", 0.9, 1000, details={"tokens": found})


def test_blocks_are_told_with_what_goes_in_each() -> None:
    counts = token_counts(told())
    assert counts is not None and (counts.patches, counts.leading, counts.read) == (16, 1, 1)
    assert [(b.given, b.pruned, b.merged, b.told) for b in counts.blocks] == [
        (16, 14, 12, "2 dropped, 2 merged"),
        (12, 12, 12, ""),
    ]
    every = token_counts(told(read=None))
    assert every is not None and (every.blocks[2].told, every.line[-9:]) == ("3 dropped", "12, 12, 9")
    assert counts.line == (
        "patch tokens after each block, of 16: 12, 12; the last block goes on with the first 1 of all alone"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": None},
        {"schedule": {"patches": 16}},
        {"schedule": {"patches": "many", "blocks": []}},
        {"schedule": {"patches": 16, "blocks": [{"pruned": -1, "merged": 2}]}},
        {"schedule": {"patches": 16, "blocks": [7]}},
        {"leading": 1.5},
    ],
)
def test_details_of_another_shape_are_not_shown(changes: dict[str, Any]) -> None:
    assert token_counts(told(**changes)) is None
    assert token_counts(step("tokens", 0.9, 1000, details={"tokens": 3})) is None
    assert token_counts(step("tokens", 0.9, 1000)) is None
