"""Layers: they reach other processes and machines whole, and hold no numbers that nothing measured."""

from __future__ import annotations

import pickle

import pytest
from edgepress.targets.layer import Layer
from edgepress.targets.measuring.device import Frozen
from edgepress.targets.remote.wire import decode, encode, frozen_from, told_frozen
from pydantic import ValidationError

FUSED = {"name": "a+b", "type": "Conv", "precision": "int8", "ms": 0.25, "macs": 9, "onnx_nodes": ("a", "b")}
LAYERS = (Layer(**FUSED), Layer(name="loop", type="Loop", precision="unknown", ms=None, macs=None))
FROZEN = Frozen("/e.xml", "ab" * 32, 3, {"threads": 2}, LAYERS)


def test_an_engine_with_its_layers_comes_back_from_another_process() -> None:
    assert pickle.loads(pickle.dumps(FROZEN)) == FROZEN


def test_an_engine_with_its_layers_comes_back_from_another_machine() -> None:
    message = decode(encode(1, told_frozen(FROZEN)))
    assert message.body is not None
    assert frozen_from(message.body) == FROZEN


@pytest.mark.parametrize(
    "wrong", [{"ms": -0.1}, {"ms": float("inf")}, {"macs": -1}, {"macs": 2**63}, {"speed": 1}]
)
def test_what_no_layer_is(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Layer(**{**FUSED, **wrong})


def test_what_was_measured_is_not_changed() -> None:
    with pytest.raises(ValidationError):
        LAYERS[0].ms = 1.0
