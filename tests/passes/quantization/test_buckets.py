"""Buckets of weights: scaling, both roundings, edges, points, gradients and sizes, computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from edgepress.passes.quantization.bucket_quantizers import LearnedWeights, UniformWeights, weight_bytes
from edgepress.passes.quantization.buckets import (
    centred_points,
    entropy_bits,
    from_buckets,
    nearest_levels,
    quantile_points,
    redistribute,
    scaled,
    scaling,
    stored_bits,
    to_buckets,
    uniform_levels,
    uniform_points,
)
from torch import Tensor

NO_FLOOR = torch.zeros(1)


def values(quantizer: UniformWeights | LearnedWeights, weight: Tensor) -> list[float]:
    return quantizer(weight).flatten().tolist()


class TestBuckets:
    def test_a_channel_is_a_row_whichever_axis_holds_it(self) -> None:
        weight = torch.arange(12.0).reshape(2, 3, 2)
        assert to_buckets(weight, 1, "channel").tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]

    def test_consecutive_weights_cross_channels_and_the_last_bucket_repeats_its_last_weight(self) -> None:
        weight = torch.arange(10.0).reshape(2, 5)
        assert to_buckets(weight, 0, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]

    @pytest.mark.parametrize("bucket", ["channel", 4, 7, 1000])
    @pytest.mark.parametrize("axis", [0, 1])
    def test_there_and_back_gives_the_same_tensor(self, bucket: str | int, axis: int) -> None:
        weight = torch.randn(3, 5, 2)
        rows = to_buckets(weight, axis, bucket)  # type: ignore[arg-type]
        assert torch.equal(from_buckets(rows, weight.shape, axis, bucket), weight)  # type: ignore[arg-type]

    def test_scaling_is_by_the_extremes_of_each_bucket(self) -> None:
        rows = torch.tensor([[-1.0, 0.0, 3.0], [2.0, 2.0, 2.0]])
        alpha, beta = scaling(rows)
        assert alpha.tolist() == [[4.0], [0.0]]
        assert beta.tolist() == [[-1.0], [2.0]]
        assert scaled(rows, alpha, beta).tolist() == [[0.0, 0.25, 1.0], [0.0, 0.0, 0.0]]


class TestRounding:
    def test_deterministic_rounding_goes_up_above_one_half_only(self) -> None:
        # 2 bits are 3 steps: s v = 0, 0.3, 1.5, 1.53, 2.97, 3
        v = torch.tensor([[0.0, 0.1, 0.5, 0.51, 0.99, 1.0]])
        assert uniform_levels(v, 2).tolist() == [[0, 0, 1, 2, 3, 3]]

    def test_stochastic_rounding_is_right_in_the_mean_and_never_further_than_a_step(self) -> None:
        v = torch.full((1, 40_000), 0.45)  # s v = 1.35: level 1 or 2, with a mean of 1.35
        levels = uniform_levels(v, 2, torch.Generator().manual_seed(0))
        assert set(levels.flatten().tolist()) == {1, 2}
        # The standard error of the mean is sqrt(0.35 * 0.65 / 40000) = 0.0024; 5 of them.
        assert float(levels.double().mean()) == pytest.approx(1.35, abs=0.012)

    def test_stochastic_rounding_leaves_exact_levels_alone(self) -> None:
        v = torch.tensor([[0.0, 1 / 3, 2 / 3, 1.0]], dtype=torch.float64)
        levels = uniform_levels(v * (1 - 1e-12), 2, torch.Generator().manual_seed(0))
        assert (levels - torch.tensor([[0, 1, 2, 3]])).abs().max() <= 1
        assert uniform_levels(torch.tensor([[0.0, 1.0]]), 8, torch.Generator().manual_seed(1)).tolist() == [
            [0, 255]
        ]

    def test_the_same_generator_gives_the_same_rounding(self) -> None:
        v = torch.rand(4, 50)
        one, other = (uniform_levels(v, 4, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(one, other)

    def test_nearest_point_takes_the_lower_of_two(self) -> None:
        points = torch.tensor([0.0, 0.2, 1.0])
        assert nearest_levels(torch.tensor([-1.0, 0.1, 0.11, 0.6, 0.61, 2.0]), points).tolist() == [
            0,
            0,
            1,
            1,
            2,
            2,
        ]

    def test_learned_points_start_at_the_middles_of_equally_filled_parts(self) -> None:
        # of 0, 0.01, ..., 1 the quantiles 1/8, 3/8, 5/8, 7/8
        points = quantile_points(torch.linspace(0, 1, 101), 2)
        assert points.tolist() == pytest.approx([0.125, 0.375, 0.625, 0.875])

    def test_points_are_centred_among_the_weights_nearest_to_them(self) -> None:
        v = torch.tensor([0.0, 0.1, 0.2, 0.9, 1.0])
        # 0, 0.1, 0.2 are nearest to the first point and the others to the second; nothing is near the last
        found = centred_points(v, torch.tensor([0.3, 0.6, 5.0]))
        assert found.tolist() == pytest.approx([0.1, 0.95, 5.0])

    def test_centred_points_have_a_smaller_squared_error_than_quantiles(self) -> None:
        v = torch.rand(2000, generator=torch.Generator().manual_seed(0)) ** 4  # many small, few large

        def error(points: Tensor) -> float:
            return float((points[nearest_levels(v, points)] - v).square().mean())

        assert error(centred_points(v, quantile_points(v, 2))) < 0.5 * error(quantile_points(v, 2))


class TestWeights:
    def test_consecutive_weights_are_exactly_as_the_paper_has_them(self) -> None:
        # bucket [-1, 0, 0.6, 2]: alpha 3, beta -1; v = 0, 1/3, 0.5333, 1; levels 0, 1, 2, 3 of 3 (s v = 1.6 is up)
        weight = torch.tensor([-1.0, 0.0, 0.6, 2.0])
        assert values(UniformWeights(2, 0, 8, NO_FLOOR), weight) == pytest.approx([-1, 0, 1, 2], abs=1e-6)

    def test_channels_lie_on_the_grid_that_runtimes_multiply(self) -> None:
        # [-1, 0.2, 2]: points -1, 0, 1, 2; the channel's INT8 step is 2 / 127, so -1 is -63.5, which rounds to -64
        weight = torch.tensor([[-1.0, 0.2, 2.0]])
        quantizer = UniformWeights(2, 0, "channel", NO_FLOOR)
        integers, scale = quantizer.int8(weight)
        assert integers.tolist() == [[-64, 0, 127]]
        assert float(scale) == pytest.approx(2 / 127)
        assert values(quantizer, weight) == pytest.approx([-64 * 2 / 127, 0, 2], abs=1e-6)

    @pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
    def test_what_is_deployed_is_what_was_trained(self, bits: int) -> None:
        torch.manual_seed(bits)
        weight = torch.randn(6, 5, 3, 3) * torch.rand(6, 1, 1, 1)
        quantizers = (
            UniformWeights(bits, 0, "channel", NO_FLOOR),
            LearnedWeights(torch.rand(2**bits), 0, "channel", NO_FLOOR),
        )
        for quantizer in quantizers:
            integers, scale = quantizer.int8(weight)
            deployed = integers.float() * scale.view(-1, 1, 1, 1)
            # weight + (rounded - weight), as the straight-through form computes it, costs an ulp of the weight
            torch.testing.assert_close(quantizer(weight).detach(), deployed, rtol=0, atol=1e-6)
            assert max(len(channel.unique()) for channel in integers) <= 2**bits

    def test_a_channel_of_zeros_stays_zero_and_one_of_equal_weights_stays_itself(self) -> None:
        weight = torch.tensor([[0.0, 0.0], [0.5, 0.5], [-2.0, 1.0]])
        for bits in (2, 7):
            rounded = UniformWeights(bits, 0, "channel", NO_FLOOR)(weight)
            assert rounded[:2].tolist() == [[0.0, 0.0], [0.5, 0.5]]
        integers, scale = UniformWeights(2, 0, "channel", NO_FLOOR).int8(torch.zeros(2, 3))
        assert integers.tolist() == [[0] * 3] * 2
        assert bool((scale > 0).all())  # DequantizeLinear takes no other

    def test_a_channel_whose_bias_needs_a_wider_step_gets_it(self) -> None:
        quantizer = UniformWeights(4, 0, "channel", torch.tensor([0.0, 0.5]))
        _, scale = quantizer.int8(torch.tensor([[-1.27, 1.27], [-0.1, 0.1]]))
        assert scale.tolist() == pytest.approx([0.01, 0.5])

    def test_the_gradient_at_the_rounded_weight_is_that_of_the_weight(self) -> None:
        weight = torch.tensor([[-1.0, 0.2, 2.0]], requires_grad=True)
        asked = torch.tensor([[3.0, -4.0, 5.0]])
        torch.autograd.backward(UniformWeights(2, 0, "channel", NO_FLOOR)(weight), asked)
        assert weight.grad is not None
        assert torch.equal(weight.grad, asked)

    def test_the_gradient_of_a_point_is_alpha_times_that_of_its_weights(self) -> None:
        # two buckets of 8: alpha 2 and 10; v at the points 0, 0.4, 1
        scaled_weights = torch.tensor([0.0, 0.4, 1.0, 0.4, 0.0, 0.4, 0.4, 1.0])
        weight = torch.cat([scaled_weights * 2, scaled_weights * 10 - 5])
        quantizer = LearnedWeights(torch.tensor([0.0, 0.4, 0.7, 1.0]), 0, 8, NO_FLOOR)
        gradient = torch.arange(16.0)
        torch.autograd.backward(quantizer(weight), gradient)
        first, second = gradient[:8], gradient[8:]
        at = [scaled_weights == p for p in (0.0, 0.4, 0.7, 1.0)]
        expected = [2 * float(first[m].sum()) + 10 * float(second[m].sum()) for m in at]
        assert quantizer.points.grad is not None
        assert quantizer.points.grad.tolist() == pytest.approx(expected)
        assert expected[2] == 0  # nobody is nearest to 0.7

    def test_points_that_pass_each_other_are_still_told_apart(self) -> None:
        weight = torch.tensor([0.0, 0.1, 0.9, 1.0, 0.0, 0.0, 1.0, 1.0])
        quantizer = LearnedWeights(torch.tensor([1.0, 0.0]), 0, 8, NO_FLOOR)
        assert values(quantizer, weight) == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]


class TestSizes:
    def test_a_weight_takes_its_bits_and_two_floats_a_bucket(self) -> None:
        assert stored_bits(1024, 4, 4, learned=False) == 4 * 1024 + 2 * 32 * 4
        assert stored_bits(1024, 4, 4, learned=True) == 4 * 1024 + 2 * 32 * 4 + 32 * 16

    def test_entropy_is_that_of_the_levels(self) -> None:
        assert entropy_bits(torch.tensor([0, 0, 1, 2]), 2) == pytest.approx(4 * 1.5)  # ½·1 + 2·¼·2 bits each
        assert entropy_bits(torch.tensor([3, 3, 3]), 2) == 0.0

    def test_bytes_of_a_weight_without_what_fills_up_its_last_bucket(self) -> None:
        weight = torch.linspace(0, 1, 9)  # two buckets of 8, seven places of the second are filling
        packed, coded = weight_bytes(UniformWeights(4, 0, 8, NO_FLOOR), weight)
        assert packed == math.ceil((4 * 9 + 2 * 64) / 8)
        assert coded <= packed


class TestRedistribution:
    def test_equal_sensitivities_get_equal_bits(self) -> None:
        assert redistribute({"a": (100, 1.0), "b": (100, 1.0)}, 4) == {"a": 4, "b": 4}

    def test_a_bit_more_where_rounding_costs_sixteen_times_as_much(self) -> None:
        # 1 / 4^3 = 16 / 4^5: with 3 and 5 bits both cost the same, and the mean is 4
        assert redistribute({"a": (100, 1.0), "b": (100, 16.0)}, 4) == {"a": 3, "b": 5}

    @pytest.mark.parametrize("mean", [2, 3, 4, 5.5])
    def test_the_mean_over_all_weights_is_not_passed(self, mean: float) -> None:
        sites = {"small": (10, 100.0), "large": (1000, 1.0), "flat": (500, 0.0)}
        bits = redistribute(sites, mean)
        total = sum(count for count, _ in sites.values())
        assert sum(sites[name][0] * b for name, b in bits.items()) <= mean * total
        assert all(2 <= b <= 8 for b in bits.values())
        assert bits["small"] >= bits["large"] >= bits["flat"]

    def test_no_more_than_eight_bits(self) -> None:
        assert redistribute({"a": (1, 1e9), "b": (1000, 1e-9)}, 4)["a"] == 8

    def test_equally_spaced_points_reach_both_ends(self) -> None:
        assert uniform_points(2).tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
