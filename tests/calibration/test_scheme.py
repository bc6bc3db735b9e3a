"""What several runtimes accept together."""

from __future__ import annotations

import pytest
from edgepress.calibration.scheme import QuantScheme, intersect

FREE, SMALL = QuantScheme(), QuantScheme(weight_limit=64)
SILENT = QuantScheme(weight_limit=64, because="it does not tell")


@pytest.mark.parametrize(
    ("schemes", "words"),
    [
        pytest.param([], "", id="no runtime"),
        pytest.param([FREE], "", id="no limit"),
        pytest.param([FREE, SMALL], ", weights at most 64", id="one that saturates"),
        pytest.param([SILENT, FREE], ", weights at most 64 (it does not tell)", id="one that is silent"),
        pytest.param([SILENT, SMALL], ", weights at most 64", id="one of which it is known"),
    ],
)
def test_the_smallest_weights_count_and_a_guess_only_where_nothing_is_known(
    schemes: list[QuantScheme], words: str
) -> None:
    assert intersect(schemes).name == f"int8 symmetric{words}"
