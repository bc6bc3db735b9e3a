"""Change points: where a series of measurements left one level for another, and not merely its noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...calibration.statistics import normal_quantile

FEWEST = 6  # values: two levels of MIN_SIZE
MIN_SIZE = 3  # values that make a level
WINDOW = 5  # values whose median judges the one in their middle; three of them outvote two, so a level stays
SPIKE = 5.0  # standard deviations from that median at which a value is an accident
PENALTY = 4.5
"""What a change must explain, in noise variances times log n.

In 20,000 simulated series of normal noise for each length, a false change was found in 0.7 % of those of 50 values,
0.2 % of 100, 3.3 % of 20, 5.1 % of 12 and 3.7 % of 6: the noise of a short series is poorly known. A step of three
standard deviations was found in 81 % of the series with 6 values on each side, and in all with 25.
"""
EXACT = 1e-9  # the penalty, as a share of the squared range, where there is no noise: above rounding, below any step

Values = np.ndarray[Any, np.dtype[np.float64]]


def change_points(values: Sequence[float]) -> list[int]:
    """The index of the first value of each new level; of fewer than six values none.

    Least squares by PELT (Killick et al. 2012), values finite. The noise is estimated from first differences, which a
    few steps hardly touch. Give the logarithms of what varies by per cent, such as latencies.
    """
    series = np.asarray(values, dtype=np.float64)
    if not np.isfinite(series).all():
        raise ValueError("change_points needs finite values")
    if len(series) < FEWEST or np.ptp(series) == 0:
        return []
    from ruptures import KernelCPD

    scaled = (series - np.median(series)) / np.ptp(series)
    noise = float(np.median(np.abs(np.diff(scaled)))) / (normal_quantile(0.75) * math.sqrt(2))
    penalty = max(PENALTY * noise**2 * math.log(len(scaled)), EXACT)
    search = KernelCPD(kernel="linear", min_size=MIN_SIZE)  # the least-squares cost, compiled
    found = search.fit(_without_spikes(scaled, noise)[:, None]).predict(pen=penalty)
    return [int(end) for end in found[:-1]]  # the last one is the end of the series


def _without_spikes(values: Values, noise: float) -> Values:
    """`values` with their neighbours' median for one that is far from it (Hampel); a level of three stays."""
    starts = np.clip(np.arange(len(values)) - WINDOW // 2, 0, len(values) - WINDOW)
    centre = np.median(np.lib.stride_tricks.sliding_window_view(values, WINDOW)[starts], axis=1)
    return np.where(np.abs(values - centre) > SPIKE * noise, centre, values)
