"""Intervals, standard errors and tests against numbers worked out by hand, from closed forms where there are some."""

from __future__ import annotations

from math import exp, isnan, log, pi, sqrt, tan

import numpy as np
import pytest
from edgepress.calibration.statistics import (
    Mean,
    deviation_bound,
    geometric_mean,
    holm,
    mcnemar,
    mean_of,
    normal_quantile,
    paired_drop_bound,
    share_error,
    share_interval,
    signed_ranks,
    student_quantile,
)

Z = 1.959964
"""The normal deviate of 0.975, from a table; in squares, as everywhere here, good to seven digits."""
T = 4.302653
"""Student's t of 0.975 with two degrees of freedom, from a table."""


def test_normal_quantiles_are_those_of_a_table() -> None:
    assert [normal_quantile(p) for p in (0.5, 0.75, 0.95, 0.975)] == pytest.approx(
        [0.0, 0.674490, 1.644854, Z], abs=1e-6
    )


@pytest.mark.parametrize("p", [0.6, 0.9, 0.975, 0.9999])
def test_students_quantiles_have_a_closed_form_for_one_and_two_degrees(p: float) -> None:
    assert student_quantile(p, 1) == pytest.approx(tan(pi * (p - 0.5)), rel=1e-9)  # Cauchy
    assert student_quantile(p, 2) == pytest.approx((2 * p - 1) / sqrt(2 * p * (1 - p)), rel=1e-9)


class TestMeans:
    def test_error_and_bounds_of_three_values(self) -> None:
        """1, 2, 3: s = 1, error 1 / sqrt 3."""
        found = mean_of([1.0, 2.0, 3.0])
        assert (found.value, found.n, found.error) == (2.0, 3, pytest.approx(1 / sqrt(3)))
        assert found.ci95 == pytest.approx((2 - T / sqrt(3), 2 + T / sqrt(3)), abs=1e-6)
        t95 = 0.9 / sqrt(2 * 0.95 * 0.05)
        assert (found.lower(), found.upper()) == pytest.approx((2 - t95 / sqrt(3), 2 + t95 / sqrt(3)))

    def test_p_that_a_mean_is_above_a_limit(self) -> None:
        """Two degrees of freedom, t = sqrt 3: (1 - t / sqrt(2 + t^2)) / 2; and the other side of it."""
        found = mean_of([1.0, 2.0, 3.0])
        assert found.p_above(1.0) == pytest.approx((1 - sqrt(3 / 5)) / 2)
        assert found.p_above(3.0) == pytest.approx((1 + sqrt(3 / 5)) / 2)
        assert found.p_above(2.0) == pytest.approx(0.5)

    @pytest.mark.parametrize("count", [3, 7, 100])
    def test_equal_values_do_not_scatter_by_a_rounding(self, count: int) -> None:
        """The standard deviation of so many tenths is 1e-17 in floating point."""
        found = mean_of([0.1] * count)
        assert found == Mean(0.1, 0.0, count)
        assert (found.p_above(0.0), found.p_above(0.1), found.ci95) == (0.0, 1.0, (0.1, 0.1))

    def test_one_value_has_no_error(self) -> None:
        found = mean_of([5.0])
        assert (found.value, found.n) == (5.0, 1)
        assert isnan(found.error) and all(map(isnan, found.ci95))

    def test_a_geometric_mean_has_the_interval_of_its_logarithms(self) -> None:
        """1, 2, 4: logarithms 0, log 2, 2 log 2; mean and standard deviation log 2."""
        value, ci95 = geometric_mean([1.0, 2.0, 4.0])
        half = T * log(2) / sqrt(3)
        assert value == pytest.approx(2.0)
        assert ci95 == pytest.approx((exp(log(2) - half), exp(log(2) + half)), rel=1e-6)

    def test_what_is_not_above_zero_has_no_logarithm(self) -> None:
        with pytest.raises(ValueError):
            geometric_mean([1.0, 0.0])

    def test_the_bound_of_a_standard_deviation_of_three_values(self) -> None:
        """Chi-squared of two degrees of freedom is an exponential: its 0.025 quantile is -2 log 0.975."""
        assert deviation_bound(0.5, 3) == pytest.approx(0.5 * sqrt(2 / (-2 * log(0.975))))


class TestShares:
    def test_wilsons_interval(self) -> None:
        """p = 3/4, n = 4: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
        assert share_interval(3, 4) == pytest.approx((0.300642, 0.954413), abs=1e-6)

    def test_all_or_none_is_not_certain(self) -> None:
        """0 of 10: from 0 to z^2 / (n + z^2)."""
        reach = Z**2 / (10 + Z**2)
        assert share_interval(0, 10) == (0.0, pytest.approx(reach, rel=1e-6))
        assert share_interval(10, 10) == (pytest.approx(1 - reach, rel=1e-6), 1.0)
        assert share_error(0, 10) == share_error(10, 10) == pytest.approx(Z / 2 / (10 + Z**2), rel=1e-6)

    def test_the_error_of_a_share_is_half_the_interval_in_normal_quantiles(self) -> None:
        assert share_error(3, 4) == pytest.approx((0.954413 - 0.300642) / 2 / Z, abs=1e-6)

    def test_the_error_of_many_samples_is_the_familiar_one(self) -> None:
        """80 % of 100,000: sqrt(0.16 / n); the rest is of the order of 1 / n."""
        assert share_error(80_000, 100_000) == pytest.approx(0.4 / sqrt(100_000), rel=1e-4)

    def test_a_paired_drop_is_bounded_with_half_a_sample_in_each_cell(self) -> None:
        """9 of 100 are lost and 1 is won: 9.5 and 1.5 of 102."""
        before = np.array([1] * 90 + [1] * 9 + [0])
        after = np.array([1] * 90 + [0] * 9 + [1])
        d = 8 / 102
        wanted = d + 1.644854 * sqrt(11 - 102 * d**2) / 102
        assert paired_drop_bound(before, after) == pytest.approx(wanted, abs=1e-7)
        assert paired_drop_bound(before, before) == pytest.approx(1.644854 / 102, abs=1e-7)


class TestTests:
    def test_mcnemar_is_the_exact_binomial_test_on_discordant_pairs(self) -> None:
        a = np.array([1, 1, 1, 1, 1, 1, 0, 1, 0])
        b = np.array([0, 0, 0, 0, 0, 0, 1, 1, 0])
        # 6 against 1: 2 * (C(7,0) + C(7,1)) / 2^7 = 16/128
        assert mcnemar(a, b) == pytest.approx(0.125)
        assert mcnemar(b, a) == pytest.approx(0.125)
        assert mcnemar(a, a) == 1.0
        assert mcnemar(a, b, "greater") == pytest.approx(8 / 128)

    def test_mcnemar_refuses_scores_that_are_no_hits(self) -> None:
        with pytest.raises(ValueError, match="0/1 scores"):
            mcnemar(np.array([0.5, 1]), np.array([1, 1]))

    def test_signed_ranks_of_five_differences(self) -> None:
        """All above 0: one of 32 signs. All but the largest: ranks above 0 sum to 10 or more in 10 of 32."""
        assert signed_ranks(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(1 / 32)
        assert signed_ranks(np.array([1.0, 2.0, 3.0, 4.0, -5.0])) == pytest.approx(10 / 32)
        assert signed_ranks(np.zeros(5)) == 1.0

    def test_holm(self) -> None:
        assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
        assert holm([0.6, 0.5]) == [1.0, 1.0]
        assert holm([]) == []
