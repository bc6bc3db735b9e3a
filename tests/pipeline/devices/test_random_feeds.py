"""Random inputs of a graph: what a launch may hold of them."""

from __future__ import annotations

import pytest
from edgepress.errors import CompressError
from edgepress.pipeline.devices import feeds
from edgepress.pipeline.devices.feeds import random_sequence
from onnx.helper import make_node
from tiny_onnx import model_of

IMAGES = model_of([make_node("Relu", ["x"], ["y"])], {}, shape=("N", 3, 512, 512))  # 3 MiB each


def test_inputs_that_no_launch_may_hold_are_refused_before_they_are_drawn() -> None:
    with pytest.raises(CompressError) as caught:
        random_sequence(IMAGES, 1, 0, 342)
    assert str(caught.value) == (
        "342 inputs are more than the 1,024 MiB that a launch is fed; ask for fewer samples"
    )


def test_where_nobody_asked_as_many_are_made_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MOST_BYTES", 10 << 20)
    assert len(random_sequence(IMAGES, 1, 0, 64, asked=False)) == 3


def test_a_single_input_is_repeated_whatever_it_takes() -> None:
    assert random_sequence(IMAGES, 2, 0).origin == "one random input, seed 0, repeated"
