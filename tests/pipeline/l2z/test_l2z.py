"""The .l2z file: what was packed comes back bit for bit, and nothing else is ever accepted."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import l2z_reader
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from edgepress.cli import cli
from edgepress.errors import CompressError
from edgepress.model import CodedTensor
from edgepress.pipeline.ingest.checkpoint import read_weights
from edgepress.pipeline.l2z import belief, container
from edgepress.pipeline.l2z.codec import pack_tensors, unpack_tensors
from edgepress.pipeline.l2z.contexts import cuts_of, grouped, groups_of, plan
from edgepress.pipeline.l2z.kernels import CONTEXTS, TOTAL, contexts, unpredicted
from edgepress.pipeline.l2z.ladder import rungs_for, value_of
from edgepress.pipeline.l2z.planes import DTYPES, bytes_of
from edgepress.pipeline.l2z.prediction import NONE, coefficients_for
from edgepress.pipeline.l2z.rans import Reader, Writer
from edgepress.pipeline.l2z.tables import Table, TableReader, table_of, write_table
from edgepress.pipeline.packing.l2z_file import pack_file
from edgepress.trellis import ODD, ODD_AND_ZERO, positions
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file
from torch import Tensor

GOLDEN = Path(__file__).parents[2] / "golden"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def few_values(rows: int, columns: int, values: int) -> Tensor:
    """Each row takes `values` values of its own."""
    own = noise(rows, values, seed=1)
    chosen = torch.randint(values, (rows, columns), generator=torch.Generator().manual_seed(2))
    return torch.gather(own, 1, chosen)


def coded(rows: int, columns: int, axis: int = 0) -> CodedTensor:
    """Nine values times a factor of each slice along the axis, three different ones in all."""
    draws = torch.Generator().manual_seed(5)
    indices = torch.randint(9, (rows, columns), generator=draws).to(torch.uint8)
    factors = torch.tensor([0.1, 0.3, 1.7])[torch.randint(3, (indices.shape[axis],), generator=draws)]
    return CodedTensor(indices, torch.linspace(-1, 1, 9) ** 3 + 0.01, factors, axis)


def laddered(rows: int, columns: int, trellis: int = 0) -> CodedTensor:
    """Evenly spaced values about zero beyond the first, times factors; those that a trellis allows."""
    draws = torch.Generator().manual_seed(7)
    steps = (torch.randn(rows, columns, generator=draws) * 3).round().short()
    multiples = on_trellis(steps, trellis)
    most = int(multiples.abs().max())
    above = value_of(np.array([0.11, 0.3], np.float32), np.arange(1, most + 1))
    values = torch.from_numpy(np.concatenate([-above[::-1], [np.float32(0)], above]))
    factors = torch.tensor([0.1, 0.3, 1.7])[torch.randint(3, (rows,), generator=draws)]
    return CodedTensor((multiples + most).to(torch.uint8), values, factors, 0, trellis)


def on_trellis(steps: Tensor, trellis: int) -> Tensor:
    """The multiples of the k of a walk, same shape."""
    if trellis == 0:
        return steps
    return torch.from_numpy(positions(steps.reshape(-1).numpy(), trellis)).reshape(steps.shape)


def kernels(channels: int, *, alike: float = 0.9, seed: int = 3) -> Tensor:
    """Depthwise kernels of 3 x 3 whole numbers: multiples of one of them, and noise."""
    sizes, one = 30 * noise(channels, 1, 1, 1, seed=seed), noise(1, 1, 3, 3, seed=seed + 1)
    rest = 10 * noise(channels, 1, 3, 3, seed=seed + 2)
    return (alike * sizes * one + (1 - alike) * rest).round().clamp(-120, 120)


def walked_kernels(channels: int, trellis: int) -> CodedTensor:
    """The same on a trellis."""
    multiples = on_trellis((kernels(channels) / 2).short(), trellis)
    most = int(multiples.abs().max())
    values = 0.1 * torch.arange(-most, most + 1.0)
    return CodedTensor((multiples + most).to(torch.uint8), values, trellis=trellis)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(
        other[name].dtype == tensor.dtype
        and other[name].shape == tensor.shape
        and np.array_equal(bytes_of(other[name]), bytes_of(tensor))
        for name, tensor in one.items()
    )


class TestRans:
    def test_a_table_adds_up_and_keeps_every_symbol_that_occurs(self) -> None:
        counts = np.zeros(256, np.int64)
        counts[[3, 7, 200]] = [1_000_000, 1, 2]
        table = table_of(counts)
        assert table.sum() == TOTAL
        assert np.flatnonzero(table).tolist() == [3, 7, 200]
        assert (table[7], table[200]) == (1, 1)

    def test_a_table_of_nothing_is_a_table(self) -> None:
        assert table_of(np.zeros(256, np.int64)).tolist() == [TOTAL] + 255 * [0]

    def test_a_table_as_bytes(self) -> None:
        table = np.zeros(256, np.int64)
        table[[5, 7]] = [TOTAL - 1, 1]
        # From symbol 5 to 7, 5 has the rest; the codes of 6 and 7 are 0 and 1.
        assert write_table(table) == bytes([5, 7, 5, 0, 1])
        reader = TableReader(bytes([5, 7, 5, 0, 1]))
        assert reader.tables(1)[0].tolist() == table.tolist()
        reader.close()

    def test_one_symbol_by_hand(self) -> None:
        # With frequency TOTAL / 2 from 0, state 65536 becomes 2 · 65536: below 2^32, so no word is written.
        table = np.zeros(256, np.int64)
        table[:2] = TOTAL // 2
        assert written(np.zeros(1, np.uint8), [table]) == struct.pack("<4I", 131072, 65536, 65536, 65536)

    @pytest.mark.parametrize("count", [1, 2, 3, 5, 2047, 50_000, 100_001])
    def test_coded_length_is_the_entropy(self, count: int) -> None:
        rng = np.random.default_rng(count)
        symbols = np.clip(rng.normal(128, 3, count), 0, 255).astype(np.uint8)
        counts = np.bincount(symbols, minlength=256)
        coded = written(symbols, [table_of(counts)])
        reader = Reader(coded)
        found, bits = reader.read(count, count, np.zeros(CONTEXTS, np.uint8), NONE, 0, [table_of(counts)])
        reader.close()
        assert np.array_equal(found, symbols)
        share = counts[counts > 0] / count
        entropy = -(share * np.log2(share)).sum() * count / 8
        assert len(coded) <= 1.002 * entropy + 16 + 2
        assert bits / 8 == pytest.approx(entropy, rel=0.002)

    def test_what_is_certain_takes_no_bits(self) -> None:
        symbols = np.full(5000, 9, np.uint8)
        assert len(written(symbols, [table_of(np.bincount(symbols, minlength=256))])) == 16

    @pytest.mark.parametrize(
        "cut",
        [
            lambda p: p[:-2],
            lambda p: p + b"xx",
            lambda p: p[:-1],
            lambda p: p[:12],
            lambda p: bytes(4) + p[4:],
        ],
        ids=["word short", "word more", "half a word", "states short", "state too low"],
    )
    def test_damage_is_told(self, cut: Callable[[bytes], bytes]) -> None:
        symbols = np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8)
        table = table_of(np.bincount(symbols, minlength=256))
        with pytest.raises(CompressError, match="the coded symbols are damaged"):
            reader = Reader(cut(written(symbols, [table])))
            reader.read(1000, 10, np.zeros(CONTEXTS, np.uint8), NONE, None, [table])
            reader.close()


def written(symbols: np.ndarray[Any, Any], tables: list[Table]) -> bytes:
    writer = Writer(len(symbols))
    writer.write(symbols, np.zeros(len(symbols), np.uint8), tables)
    return writer.payload()


class TestContexts:
    def test_averages_by_hand(self) -> None:
        # c(2^15) = 30 for row and column. A size of 2: h = 1, so 2^15 - 2^14 + 2 · 2^15 = 81920, and c = 32, as it is
        # below 98304. The second column is still at 30; after a size of 0 with h = 2 the row is at 61440: c = 31.
        # In the second row the row's average goes on, 31 beside the first column's 32. Then the row has halved,
        # h = 1, to 30720, 29, and the second column is at 16384, 28.
        assert contexts(np.array([130, 128, 128, 128], np.uint8), 2).tolist() == [60, 62, 63, 57]

    def test_rows_and_columns_of_other_sizes_are_told_apart(self) -> None:
        sizes = np.exp2(np.arange(400) % 4)[:, None] * np.exp2(np.arange(400) % 3)[None]
        symbols = (128 + np.random.default_rng(0).normal(0, sizes)).clip(0, 255).astype(np.uint8)
        cells = [symbols[a::4, b::3] for a in range(4) for b in range(3)]
        best = sum(order_0(cell) for cell in cells)
        found = plan(symbols.reshape(-1), 400)
        assert found is not None
        assert found.size < 1.06 * best + sum(map(len, map(write_table, found.tables)))
        assert found.size < 0.93 * order_0(symbols)

    def test_nothing_is_gained_on_what_is_all_of_one_size(self) -> None:
        symbols = (128 + np.random.default_rng(0).normal(0, 3, 50_000)).astype(np.uint8)
        found = plan(symbols, 250)
        assert found is not None and len(found.tables) <= 2

    def test_groups_are_told_by_their_cuts(self) -> None:
        groups = np.repeat([0, 1, 2], [10, 80, 6]).astype(np.uint8)
        assert cuts_of(groups) == [10, 90]
        assert np.array_equal(groups_of(np.array([10, 90], np.uint8)), groups)

    def test_alike_contexts_are_merged_and_others_are_not(self) -> None:
        counts = np.zeros((4, 1, 256), np.int64)
        counts[0, 0, :2] = [500, 500]
        counts[1, 0, :2] = [510, 490]
        counts[3, 0, 8:10] = [500, 500]
        assert grouped(counts, 7.0).tolist() in ([0, 0, 0, 1], [0, 0, 1, 1])

    @pytest.mark.parametrize(
        "cuts", [[0, 4], [4, 4], [5, 4], [5, 96]], ids=["zero", "equal", "descending", "none such"]
    )
    def test_cuts_that_do_not_ascend_are_damage(self, cuts: list[int]) -> None:
        with pytest.raises(CompressError, match="the frequency tables are damaged"):
            TableReader(bytes(cuts)).cuts(2)


class TestPrediction:
    def test_what_is_left_by_hand(self) -> None:
        # The second tap is expected at 3/4 of the first one's number: at 2 of 2 (24/16 = 1.5), -2 of -2, 0 of 0.
        coefficients = np.array([[0, 0], [12, 0]], np.int8)
        symbols = np.array([130, 131, 126, 127, 128, 128], np.uint8)
        left = unpredicted(symbols, coefficients, 0, np.zeros(6, np.uint8))
        assert left.tolist() == [130, 129, 126, 129, 128, 128]

    def test_coefficients_are_those_of_least_squares(self) -> None:
        kernels = np.random.default_rng(0).normal(0, 20, (5000, 3)).cumsum(1).round().astype(np.int64)
        found = coefficients_for(kernels.T @ kernels, kernels.size)
        best = np.linalg.lstsq(kernels[:, :2], kernels[:, 2], rcond=None)[0]
        assert found is not None
        assert np.abs(found[2, :2] / 16 - best).max() < 0.1  # half a sixteenth, and damping
        assert found[1, 0] in (15, 16)  # each is the one before, and noise
        assert not np.triu(found).any()

    def test_what_is_left_in_a_trellis_by_hand(self) -> None:
        # k = 2 is the multiple 4 on the even grid and 3 on the odd one. 3 is k = 2 on the odd grid; on the even one it
        # lies between 2 and 4, and the farther one is taken. k = -1 is -1 on the odd grid, expected as k = -1 there.
        coefficients = np.array([[0, 0], [16, 0]], np.int8)
        symbols = np.array([130, 130, 130, 130, 130, 130, 127, 127], np.uint8)
        grids = np.array([0, 0, 1, 1, 1, 0, 1, 1], np.uint8)
        left = unpredicted(symbols, coefficients, ODD_AND_ZERO, grids)
        assert left.tolist() == [130, 128, 130, 128, 130, 128, 127, 128]

    def test_what_is_left_in_a_trellis_without_a_second_zero_by_hand(self) -> None:
        # On the odd grid k = 0 is -1, between k = 0 and k = -1 of the even one: the lower is taken. k = -2 is -4 on the
        # even grid, between -5 and -3 of the odd one: k = -2. On the odd one it is -5 itself.
        coefficients = np.array([[0, 0], [16, 0]], np.int8)
        symbols = np.array([130, 130, 128, 128, 126, 127, 126, 126], np.uint8)
        grids = np.array([0, 0, 1, 0, 0, 1, 1, 1], np.uint8)
        left = unpredicted(symbols, coefficients, ODD, grids)
        assert left.tolist() == [130, 128, 128, 129, 126, 129, 126, 128]

    def test_kernels_of_many_taps_that_are_all_alike(self) -> None:
        weight = torch.arange(-100, 100).repeat_interleave(10).to(torch.int8).reshape(-1, 1, 1, 1)
        packed = pack_tensors({"w": weight.expand(2000, 1, 8, 8).contiguous()})
        assert len(packed) < 8000  # 2000 bytes of first taps, and coefficients

    def test_what_is_out_of_a_bytes_range_comes_back(self) -> None:
        one = (25 * noise(2000)).round().clamp(-128, 127)
        weight = torch.stack([one, (2 * one).clamp(-128, 127)], 1).to(torch.int8).reshape(2000, 1, 1, 2)
        packed = pack_tensors({"w": weight})
        assert predicted_taps(packed) == [2]
        assert torch.equal(unpack_tensors(packed, "x")[0]["w"], weight)

    def test_kernels_that_are_alike_take_less(self) -> None:
        weight = kernels(2000).to(torch.int8)
        packed = pack_tensors({"w": weight})
        assert predicted_taps(packed) == [9]
        mixed = weight.reshape(-1)[torch.randperm(18000, generator=torch.Generator().manual_seed(0))]
        assert len(packed) < 0.6 * len(pack_tensors({"w": mixed.reshape(2000, 1, 3, 3)}))

    @pytest.mark.parametrize(
        "weight",
        [
            pytest.param(kernels(2000, alike=0.0), id="kernels of noise"),
            pytest.param(kernels(2000).reshape(2000, 9), id="no kernels"),
            pytest.param(kernels(2), id="too few of them"),
            pytest.param(kernels(2000).reshape(20, 9, 100), id="too many taps"),
        ],
    )
    def test_what_tells_nothing_of_the_next_tap_is_left_alone(self, weight: Tensor) -> None:
        assert predicted_taps(pack_tensors({"w": weight.to(torch.int8)})) == [0]

    @pytest.mark.parametrize("trellis", [ODD, ODD_AND_ZERO])
    def test_walks_through_the_trellis_by_the_page(self, trellis: int) -> None:
        known = walked_kernels(300, trellis)
        packed = pack_tensors({"w": known.tensor()}, coded={"w": known})
        assert predicted_taps(packed) == [9]
        assert torch.equal(unpack_tensors(packed, "x")[0]["w"], known.tensor())
        assert l2z_reader.read(packed)["w"] == bytes_of(known.tensor()).tobytes()


def predicted_taps(packed: bytes) -> list[int]:
    """Of the first tensor's planes."""
    return [plane.taps for plane in container.read(packed, "x")[0].tensors[0].planes]


def order_0(symbols: np.ndarray[Any, Any]) -> float:
    share = np.bincount(symbols.reshape(-1), minlength=256) / symbols.size
    return float(-(share[share > 0] * np.log2(share[share > 0])).sum() * symbols.size / 8)


class TestLadder:
    def test_rungs_by_hand(self) -> None:
        # 3 and 7 are told; from there on by their distance of 4.
        assert value_of(np.array([3, 7], np.float32), np.array([-3, -1, 0, 1, 2, 4])).tolist() == [
            -11, -3, 0, 3, 7, 15,
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("values", "told"),
        [
            ([-4, -2, 0, 2, 4], [2]),
            ([-11, -7, -3, 0, 3, 7, 11], [3, 7]),
            ([-9, -4, -1, 0, 1, 4, 9], [1, 4, 9]),
            ([-4, -2, 1, 2, 4], None),
            ([-4, -2, 0, 2, 5], None),
            ([-2, 0, 2, 4], None),
            ([-0.0], None),
        ],
        ids=["even", "first apart", "squares", "no zero", "no mirror", "one side longer", "negative zero"],
    )
    def test_the_fewest_are_told(self, values: list[float], told: list[float] | None) -> None:
        found = rungs_for(np.array(values, np.float32))
        assert (None if found is None else found.tolist()) == told


SHAPES: list[tuple[int, ...]] = [(), (0,), (3, 0, 2), (1,), (7,), (5, 3), (16, 8, 3, 3), (2, 3, 4, 5, 6)]


class TestRoundTrip:
    @pytest.mark.parametrize("dtype", sorted(DTYPES))
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_every_type_and_shape(self, dtype: str, shape: tuple[int, ...]) -> None:
        kind = DTYPES[dtype]
        size = torch.empty(0, dtype=kind).element_size()
        count = int(np.prod(shape))
        content = np.random.default_rng(0).integers(0, 2 if kind is torch.bool else 256, count * size)
        flat = torch.from_numpy(content.astype(np.uint8))
        tensors = {"w": (flat.view(kind) if count else torch.zeros(0, dtype=kind)).reshape(shape)}
        found, graph = unpack_tensors(pack_tensors(tensors), "file")
        assert same(tensors, found) and graph is None

    @pytest.mark.parametrize(
        "tensor",
        [
            pytest.param(torch.zeros(100, 100), id="all zeros"),
            pytest.param(torch.full((64, 3, 3, 3), -0.0), id="one symbol"),
            pytest.param(noise(40, 30).t(), id="not contiguous"),
            pytest.param(noise(1, 8).expand(50, 8), id="expanded"),
            pytest.param(noise(500) * 10.0 ** torch.arange(-250, 250).clamp(-37, 37), id="huge range"),
            pytest.param(torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]), id="no numbers"),
            pytest.param(noise(200, 64).round().to(torch.int8), id="int8"),
            pytest.param(few_values(32, 100, 16), id="few values a row"),
            pytest.param(torch.arange(70_000, dtype=torch.int32), id="more rows than a table has classes"),
        ],
    )
    def test_every_kind_of_values(self, tensor: Tensor) -> None:
        packed = pack_tensors({"other": noise(3), "w": tensor, "last": torch.ones(2)})
        assert same(
            {"other": noise(3), "w": tensor, "last": torch.ones(2)}, unpack_tensors(packed, "file")[0]
        )

    def test_the_same_tensors_give_the_same_bytes(self) -> None:
        tensors = {"a": noise(64, 32), "b": few_values(16, 200, 4)}
        assert pack_tensors(tensors) == pack_tensors({name: t.clone() for name, t in tensors.items()})

    def test_no_tensors(self) -> None:
        assert unpack_tensors(pack_tensors({}), "file") == ({}, None)


class TestSize:
    def test_rows_of_sixteen_values_take_four_bits(self) -> None:
        packed = pack_tensors({"w": few_values(64, 4096, 16)})
        weights, values = 64 * 4096 // 2, 64 * 16 * 4
        assert len(packed) < 1.01 * (weights + values) + 1200

    def test_rows_of_other_sizes_have_tables_of_their_own(self) -> None:
        sizes = torch.logspace(0, 1.5, 64).reshape(-1, 1)
        weight = (noise(64, 4000) * sizes).round().clamp(-127, 127).to(torch.int8)
        symbols = weight.numpy().view(np.uint8).reshape(64, -1)

        packed = len(pack_tensors({"w": weight}))
        assert packed < 0.95 * order_0(symbols)
        assert packed < 1.03 * sum(order_0(row) for row in symbols)


class TestCoded:
    @pytest.mark.parametrize("axis", [0, 1])
    def test_values_times_factors_come_back_bit_for_bit_and_take_a_palette_for_all(self, axis: int) -> None:
        known = coded(40, 500, axis)
        tensors = {"w": known.tensor()}
        packed = pack_tensors(tensors, coded={"w": known})
        assert same(tensors, unpack_tensors(packed, "m.l2z")[0])
        assert l2z_reader.read(packed)["w"] == bytes_of(known.tensor()).tobytes()
        assert len(packed) < len(pack_tensors(tensors))
        assert len(packed) < 1.02 * 40 * 500 * np.log2(9) / 8 + 700

    def test_values_that_no_element_has_are_left_out(self) -> None:
        known = CodedTensor(torch.zeros(4, 8, dtype=torch.uint8), torch.tensor([0.5, 9.0]))
        header, _ = container.read(pack_tensors({"w": known.tensor()}, coded={"w": known}), "m.l2z")
        assert header.tensors[0].palette == 1

    @pytest.mark.parametrize("trellis", [0, ODD, ODD_AND_ZERO])
    def test_a_ladder_tells_two_of_its_values(self, trellis: int) -> None:
        known = laddered(40, 300, trellis)
        tensors = {"w": known.tensor()}
        packed = pack_tensors(tensors, coded={"w": known})
        assert same(tensors, unpack_tensors(packed, "m.l2z")[0])
        assert l2z_reader.read(packed)["w"] == bytes_of(known.tensor()).tobytes()
        header, _ = container.read(packed, "m.l2z")
        assert (header.tensors[0].ladder, header.tensors[0].trellis) == (2, trellis)

    def test_no_walk_through_the_trellis_is_refused(self) -> None:
        known = laddered(8, 8, ODD)
        wrong = CodedTensor(known.indices.flip(0), known.values, known.scale, 0, ODD)
        with pytest.raises(CompressError, match="no walk through the trellis"):
            pack_tensors({"w": wrong.tensor()}, coded={"w": wrong})

    @pytest.mark.parametrize(
        "known",
        [
            pytest.param(CodedTensor(torch.zeros(0, 3).to(torch.uint8), torch.tensor([0.5])), id="empty"),
            pytest.param(
                CodedTensor(
                    torch.ones(2, 3).to(torch.uint8), torch.tensor([0.5, 2]), torch.tensor([0.0, -0.0]), 0
                ),
                id="two zeros as factors",
            ),
            pytest.param(
                CodedTensor(
                    torch.ones(300, 2).to(torch.uint8), torch.tensor([0.5, 2]), torch.arange(300.0), 0
                ),
                id="more factors than a byte tells",
            ),
            pytest.param(
                CodedTensor(torch.ones(2, 3).to(torch.uint8), torch.tensor([0.5, 2.0]).double()), id="float64"
            ),
            pytest.param(
                CodedTensor(
                    torch.tensor([4, 2, 0]).to(torch.uint8), torch.arange(-2.0, 3), trellis=ODD_AND_ZERO
                ),
                id="a walk of one row",
            ),
        ],
    )
    def test_what_is_known_is_used_where_a_file_can_hold_it(self, known: CodedTensor) -> None:
        tensors = {"w": known.tensor()}
        assert same(tensors, unpack_tensors(pack_tensors(tensors, coded={"w": known}), "x")[0])

    def test_a_graph_finds_them_under_other_names_and_turned(self, tmp_path: Path) -> None:
        known = coded(64, 96)
        plain, small = self.turned(known, {}, tmp_path), self.turned(known, {"w": known}, tmp_path)
        assert len(small) < len(plain)
        assert torch.equal(unpack_tensors(small, "m.l2z")[0]["val_0"], known.tensor().T)

    def test_a_walk_that_a_graph_turned_is_none_any_more(self, tmp_path: Path) -> None:
        known = laddered(64, 96, ODD)
        small = self.turned(known, {"w": known}, tmp_path)
        assert torch.equal(unpack_tensors(small, "m.l2z")[0]["val_0"], known.tensor().T)

    def turned(self, known: CodedTensor, coded: dict[str, CodedTensor], folder: Path) -> bytes:
        """The packed graph of a product with the matrix."""
        model = helper.make_model(
            helper.make_graph(
                [helper.make_node("MatMul", ["x", "val_0"], ["y"])],
                "g",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 96])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
                [numpy_helper.from_array(known.tensor().T.contiguous().numpy(), "val_0")],
            )
        )
        onnx.save(model, folder / "m.onnx")
        return pack_file(folder / "m.onnx", coded=coded)


@pytest.fixture(scope="module")
def packed() -> bytes:
    tensors = {
        "conv": (noise(16, 8, 3, 3) * torch.logspace(0, 1, 16).reshape(-1, 1, 1, 1)).round().to(torch.int8),
        "few": few_values(8, 40, 4),
        "float": noise(20, 10),
        "steps": torch.tensor(7),
    }
    known = {"scaled": coded(12, 30), "ladder": laddered(12, 30, ODD)}
    tensors |= {name: each.tensor() for name, each in known.items()}
    return pack_tensors({**tensors, "kernels": kernels(100).to(torch.int8)}, coded=known)


def sealed(content: bytes) -> bytes:
    """With the digest that belongs to the content."""
    return content[:-32] + hashlib.sha256(content[:-32]).digest()


def with_header(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The file with another header, all else in order."""
    lengths = list(struct.unpack_from("<5Q", content, 12))
    start = 12 + 40
    header = json.loads(zlib.decompress(content[start : start + lengths[0]]))
    change(header)
    text = zlib.compress(json.dumps(header, sort_keys=True, separators=(",", ":")).encode(), 9)
    rest = content[start + lengths[0] : -32]
    return sealed(content[:12] + struct.pack("<5Q", len(text), *lengths[1:]) + text + rest + bytes(32))


def set_in(path: list[Any], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        place: Any = header
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


class TestDamage:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            pytest.param(lambda c: b"PK" + c, "is not an .l2z file", id="another format"),
            pytest.param(lambda c: c[:40], "is cut short: 40 bytes", id="less than a head"),
            pytest.param(lambda c: c[:-5], "it was cut or added to", id="cut"),
            pytest.param(lambda c: c + b"!", "it was cut or added to", id="added to"),
            pytest.param(lambda c: c[:8] + b"\2" + c[9:], "has version 2 of the format", id="version"),
            pytest.param(
                lambda c: c[:200] + bytes([c[200] ^ 1]) + c[201:], "its SHA-256 is another", id="bit"
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors", 0, "dtype"], "int3")),
                "unknown type 'int3'",
                id="type",
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors", 0, "name"], "few")),
                "names a tensor twice",
                id="name",
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors", 0, "shape"], [2**40])),
                "no model does that",
                id="a tensor of a terabyte",
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors", 0, "crc32"], 5)),
                "tensor 'conv' does not decode to what was packed",
                id="checksum",
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["more"], 1)), "malformed at more", id="an unknown key"
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["graph"], 9)),
                "it is of the kind tensors and has 9 bytes of graph",
                id="a graph missing",
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors", 2, "shape"], [2**61, 0])),
                "has the impossible shape",
                id="an empty tensor of an impossible size",
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors", 0, "planes", 0, "groups"], 97)),
                "malformed at tensors.0.planes.0.groups",
                id="more groups than contexts",
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors", 0, "shape"], [0])),
                "tensor 'conv' has tables without symbols",
                id="tables without use",
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors", 0, "ladder"], 1)),
                "tensor 'conv' of type int8 cannot have this ladder",
                id="a ladder of integers",
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors", 2, "trellis"], 1)),
                "tensor 'float' of type float32 cannot have this ladder",
                id="a trellis without a ladder",
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors", 5, "planes", 0, "centre"], 127)),
                "tensor 'ladder' has a trellis that is not about 128",
                id="a trellis about another symbol",
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors", 5, "rows"], True)),
                "tensor 'ladder' cannot have these factors|tensor 'ladder' has rows without a palette",
                id="rows of a ladder",
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors", 5, "ladder"], 3)),
                "its sections have other lengths than its header says",
                id="more rungs than are told",
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors", 1, "scales"], 1)),
                "tensor 'few' has 1 planes",
                id="factors without their slices",
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors", 4, "scales"], 13)),
                "tensor 'scaled' cannot have these factors",
                id="more factors than slices",
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors", 4, "dtype"], "int32")),
                "tensor 'scaled' cannot have these factors",
                id="factors of integers",
            ),
            *(
                pytest.param(
                    lambda c, place=place, taps=taps: with_header(
                        c, set_in(["tensors", place, "planes", 0, "taps"], taps)
                    ),
                    message,
                    id=name,
                )
                for place, taps, message, name in [
                    (6, 65, "malformed at tensors.6.planes.0.taps", "more taps than there may be"),
                    (6, 1, "'kernels' cannot be predicted in kernels of 1 taps", "kernels of one tap"),
                    (6, 6, "'kernels' cannot be predicted in kernels of 6 taps", "taps that do not divide"),
                    (6, 3, "the frequency tables are damaged", "other taps"),
                    (2, 2, "'float' cannot be predicted in kernels of 2 taps", "taps of what is not coded"),
                ]
            ),
            pytest.param(
                lambda c: with_header(c, set_in(["tensors"], [0] * 1000)),
                "malformed at tensors.0",
                id="a thousand faults, of which one is told",
            ),
        ],
    )
    def test_is_told(self, packed: bytes, change: Callable[[bytes], bytes], message: str) -> None:
        with pytest.raises(CompressError, match=message):
            unpack_tensors(change(packed), "m.l2z")

    def test_a_header_that_unpacks_without_end(self, packed: bytes) -> None:
        bomb = zlib.compress(bytes(belief.MOST_HEADER + 1), 9)
        lengths = struct.unpack_from("<5Q", packed, 12)
        rest = packed[52 + lengths[0] : -32]
        with pytest.raises(CompressError, match="longer than its header says"):
            unpack_tensors(
                sealed(packed[:12] + struct.pack("<5Q", len(bomb), *lengths[1:]) + bomb + rest + bytes(32)),
                "x",
            )

    def test_mutated_files(self) -> None:
        """Bytes, lengths and header values changed, the digest made to fit: an error, or the tensors told.

        Ten thousand of them; `make fuzz` sets MUTATIONS to a million.
        """
        known = {"scaled": coded(3, 5), "ladder": laddered(6, 5, ODD)}
        tensors = {
            "conv": (noise(4, 6, 3, 3) * 2).round().to(torch.int8),
            "kernels": kernels(40).to(torch.int8),
            "few": few_values(2, 60, 2),
            "float": noise(5),
        }
        tensors |= {name: each.tensor() for name, each in known.items()}
        packed = pack_tensors(tensors, coded=known)
        mutations = int(os.environ.get("MUTATIONS", "10000"))
        original, _ = unpack_tensors(packed, "x")
        rng = random.Random(0)
        accepted = 0
        for _ in range(mutations):
            try:
                found, _ = unpack_tensors(mutated(packed, rng), "x")
            except CompressError:
                continue
            accepted += 1
            assert sum(t.numel() for t in found.values()) == sum(t.numel() for t in original.values())
            for (_, tensor), (_, other) in zip(found.items(), original.items(), strict=True):
                assert bytes_of(tensor).tobytes() == bytes_of(other).tobytes()
        assert accepted < mutations / 10  # names, shapes of as many elements, and the like


def mutated(content: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return with_header(content, lambda header: change_somewhere(header, rng))
    changed = bytearray(content)
    if kind == 1:  # the head
        place = rng.randrange(8, 52)
        changed[place] = rng.randrange(256)
    elif kind == 2:
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(52, len(changed) - 32)] ^= 1 << rng.randrange(8)
    else:
        start = rng.randrange(52, len(changed) - 32)
        del changed[start : start + rng.randrange(1, 9)]
    return sealed(bytes(changed))


def change_somewhere(header: dict[str, Any], rng: random.Random) -> None:
    entry = rng.choice(header["tensors"])
    values = [0, 1, 2, 3, 255, 256, 2**31, 2**62, -1, None, "x", [], True, rng.randrange(100)]
    kind = rng.randrange(4)
    if kind == 0:
        entry[rng.choice(list(entry))] = rng.choice(values)
    elif kind == 1 and entry["shape"]:
        entry["shape"][rng.randrange(len(entry["shape"]))] = rng.choice(values)
    elif kind == 2:
        plane = rng.choice(entry["planes"])
        plane[rng.choice(list(plane))] = rng.choice(values)
    else:
        entry["dtype"] = rng.choice(sorted(DTYPES))


class TestFiles:
    def test_the_golden_file_decodes(self) -> None:
        """Written by version 1 of the format: every later edgepress reads it to the same bytes."""
        tensors, _ = unpack_tensors((GOLDEN / "version1.l2z").read_bytes(), "version1.l2z")
        digests = {n: hashlib.sha256(bytes_of(t).tobytes()).hexdigest()[:16] for n, t in tensors.items()}
        assert digests == json.loads((GOLDEN / "version1.json").read_text())

    def test_the_page_is_enough_to_read_it(self) -> None:
        content = (GOLDEN / "version1.l2z").read_bytes()
        tensors, _ = unpack_tensors(content, "version1.l2z")
        assert l2z_reader.read(content) == {name: bytes_of(t).tobytes() for name, t in tensors.items()}

    def test_a_checkpoint_through_the_commands(self, tmp_path: Path) -> None:
        save_file({"w": few_values(16, 300, 8), "b": noise(16)}, tmp_path / "m.safetensors")
        answer = CliRunner().invoke(cli, ["pack", str(tmp_path / "m.safetensors")])
        assert answer.exit_code == 0, answer.output
        assert "x smaller than m.safetensors" in answer.output
        args = ["unpack", str(tmp_path / "m.l2z"), "-o", str(tmp_path / "back.safetensors")]
        assert CliRunner().invoke(cli, args).exit_code == 0
        assert same(load_file(tmp_path / "m.safetensors"), load_file(tmp_path / "back.safetensors"))

    def test_an_onnx_file_comes_back_byte_for_byte(self, tmp_path: Path) -> None:
        weight = noise(8, 3, 3, 3).numpy()
        graph = helper.make_graph(
            [helper.make_node("Conv", ["x", "w"], ["y"])],
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 6, 6])],
            [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32(1), "unused")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        source = tmp_path / "model.onnx"
        source.write_bytes(model.SerializeToString(deterministic=True))
        (tmp_path / "run.json").write_text("{}")  # pack takes the folder of a run, too
        for args in (
            ["pack", str(tmp_path), "-o", str(tmp_path / "small.l2z")],
            ["unpack", str(tmp_path / "small.l2z"), "-o", str(tmp_path / "back.onnx")],
        ):
            answer = CliRunner().invoke(cli, args)
            assert answer.exit_code == 0, answer.output
        assert (tmp_path / "back.onnx").read_bytes() == source.read_bytes()
        onnx.checker.check_model(str(tmp_path / "back.onnx"))
        # Small constants stay in the graph, so tensors alone would not be all of the model.
        args = ["unpack", str(tmp_path / "small.l2z"), "-o", str(tmp_path / "w.safetensors")]
        answer = CliRunner().invoke(cli, args)
        assert answer.exit_code == 2 and "holds an ONNX graph" in answer.output
        assert CliRunner().invoke(cli, ["inspect", str(tmp_path / "small.l2z")]).exit_code == 0

    @pytest.mark.parametrize("tensors", [{}, {"w": torch.zeros(3, dtype=torch.int8)}], ids=["none", "other"])
    def test_a_graph_with_other_tensors_is_refused(self, tmp_path: Path, tensors: dict[str, Tensor]) -> None:
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
            [TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[8, 8])],
        )
        text = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
        (tmp_path / "m.l2z").write_bytes(pack_tensors(tensors, text))
        answer = CliRunner().invoke(cli, ["unpack", str(tmp_path / "m.l2z"), "-o", str(tmp_path / "m.onnx")])
        assert answer.exit_code == 2, answer.output
        assert not (tmp_path / "m.onnx").exists()

    def test_packing_what_is_packed_leaves_it_alone(self, tmp_path: Path) -> None:
        (tmp_path / "m.l2z").write_bytes(content := pack_tensors({"w": noise(4)}))
        answer = CliRunner().invoke(cli, ["pack", str(tmp_path / "m.l2z")])
        assert answer.exit_code == 2 and "is packed already" in answer.output
        assert (tmp_path / "m.l2z").read_bytes() == content

    def test_conjugate_views_are_packed_as_what_they_show(self) -> None:
        tensor = torch.complex(noise(4), noise(4, seed=1)).conj()
        found, _ = unpack_tensors(pack_tensors({"w": tensor}), "file")
        assert torch.equal(found["w"], tensor)

    def test_a_network_takes_its_weights_from_it(self, tmp_path: Path) -> None:
        save_file({"w": noise(40, 30)}, tmp_path / "m.safetensors")
        content = pack_tensors(load_file(tmp_path / "m.safetensors"))
        (tmp_path / "m.l2z").write_bytes(content)
        assert same(read_weights(tmp_path / "m.l2z"), load_file(tmp_path / "m.safetensors"))
        answer = CliRunner().invoke(cli, ["inspect", str(tmp_path / "m.l2z"), "--json"])
        assert json.loads(answer.output)["params"] == 1200

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["pack", "missing.pt"], "missing.pt does not exist"),
            (["pack", "m.safetensors", "-o", "m.zip"], "expected a file that ends in .l2z"),
            (["unpack", "m.l2z", "-o", "m.pt"], "expected a .safetensors or .onnx file to write"),
            (["unpack", "m.l2z", "-o", "m.onnx"], "holds tensors and no graph"),
            (["unpack", "m.safetensors", "-o", "n.safetensors"], "m.safetensors is not an .l2z file"),
        ],
        ids=["missing", "suffix", "pt", "no graph", "no l2z"],
    )
    def test_wrong_use_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        save_file({"w": noise(4)}, "m.safetensors")
        Path("m.l2z").write_bytes(pack_tensors({"w": noise(4)}))
        answer = CliRunner().invoke(cli, args)
        assert answer.exit_code == 2
        assert message in answer.output
