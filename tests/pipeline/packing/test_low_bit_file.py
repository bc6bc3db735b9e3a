"""Packed weights: bits by hand, files that decode to the weights that run, and models that need none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edgepress.pipeline.packing.low_bit_file import pack_bits, read_packed, unpack_bits, write_packed
from small_student import distilled, small_model


def test_levels_are_packed_most_significant_bit_first() -> None:
    levels = torch.tensor([[1, 7, 0], [5, 2, 3]])
    # 001 111 000 101 010 011 and six zeros to fill up the third byte
    assert pack_bits(levels, 3).tolist() == [0b00111100, 0b01010100, 0b11000000]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_there_and_back(bits: int, count: int) -> None:
    levels = torch.randint(0, 2**bits, (count,))
    packed = pack_bits(levels, bits)
    assert len(packed) == -(-count * bits // 8)
    assert torch.equal(unpack_bits(packed, bits, count), levels)


@pytest.mark.parametrize(
    "options",
    [
        {"weight_bits": 4},
        {"weight_bits": 2, "first_last_bits": 2},
        {"weight_bits": 3, "bucket": 50},
        {"weight_bits": 2, "points": "learned", "points_epochs": 1},
    ],
    ids=["4 bits", "2 bits everywhere", "consecutive", "learned"],
)
def test_the_file_holds_the_very_weights_that_run(tmp_path: Path, options: dict[str, object]) -> None:
    from edgepress.passes.quantization.quantizers import of_quantizer, weight_quantizers_of

    model = distilled(**options, training={"epochs": 1}).model
    path = write_packed(model, tmp_path / "packed.safetensors")
    assert path is not None
    found = read_packed(path)
    graph, quantizers = model.module, weight_quantizers_of(model.module)  # type: ignore[arg-type]
    own = {name: p for name, p in graph.named_parameters() if not of_quantizer(name)}
    assert found.keys() == own.keys() and quantizers.keys() <= own.keys() and quantizers
    for name, tensor in own.items():
        assert torch.equal(found[name], quantizers[name](tensor) if name in quantizers else tensor), name
    again = write_packed(model, tmp_path / "again.safetensors")
    assert again is not None
    assert again.read_bytes() == path.read_bytes()


def test_a_model_without_weights_of_few_bits_needs_none(tmp_path: Path) -> None:
    for model in (small_model(), distilled(weight_bits=8, training={"epochs": 0}).model):
        assert write_packed(model, tmp_path / "packed.safetensors") is None
    assert list(tmp_path.iterdir()) == []
