"""What torch's exporter knows: gathered once, shared by no two exports, and gathered anew when there is more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from edgepress.pipeline.exporter_knowledge import gathered_once
from torch.onnx._internal.exporter._registration import ONNXRegistry


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The opsets for which all was gathered."""
    opsets: list[int] = []
    gather: Callable[..., Any] = ONNXRegistry.from_torchlib

    def counting(opset_version: int) -> Any:
        opsets.append(opset_version)
        return gather(opset_version)

    monkeypatch.setattr(ONNXRegistry, "from_torchlib", counting)
    return opsets


def known(opset: int = 19) -> Any:
    with gathered_once():
        return ONNXRegistry.from_torchlib(opset_version=opset)


def test_it_is_gathered_once_for_each_opset(gathered: list[int]) -> None:
    first, other, again = known(), known(20), known()
    assert gathered == [19, 20]
    assert first.functions == again.functions
    assert [each.opset_version for each in (first, other, again)] == [19, 20, 19]


def test_what_one_export_adds_no_other_one_sees() -> None:
    relu = torch.ops.aten.relu.default
    first = known()
    first.register_op(relu, lambda x: x)
    assert [each.is_custom for each in first.get_decomps(relu)] == [True, False]
    assert [each.is_custom for each in known().get_decomps(relu)] == [False]


def test_operators_that_were_loaded_since_are_known(gathered: list[int]) -> None:
    known()
    with torch.library._scoped_library("exporter_knowledge", "FRAGMENT") as library:
        library.define("loaded(Tensor x) -> Tensor")
        known()
    assert gathered == [19, 19]


def test_other_users_of_the_exporter_have_it_as_it_was() -> None:
    own = ONNXRegistry.from_torchlib
    with pytest.raises(RuntimeError), gathered_once():
        assert own != ONNXRegistry.from_torchlib
        raise RuntimeError
    assert own == ONNXRegistry.from_torchlib
