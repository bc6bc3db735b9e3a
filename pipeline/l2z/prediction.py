"""Predictions within kernels: the taps of a convolution's kernel that were read tell the next one.

Kernels of depthwise convolutions are much alike, so that a tap follows from those before it up to a factor: linear
prediction (Makhoul 1975, Proc. IEEE 63(4)) over a kernel's taps in their order, with coefficients for each tap. The
file codes what is left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .kernels import UNIT, Bytes, Coefficients

MOST_TAPS = 64
NONE: Coefficients = np.zeros((0, 0), np.int8)
"""Those of a plane in which nothing is predicted."""
DAMPING = 0.01
"""Share of a tap's mean square that is added to all of them: small coefficients take fewer bytes."""
LEAST_GAIN = 0.02
"""Bits a symbol, by the variances, from which on a prediction is tried."""
COEFFICIENT_BITS = 4.0
ROUNDING = 0.25
"""Variance of a number that is less than a step."""


def taps_of(shape: tuple[int, ...]) -> int:
    """Of each kernel of a convolution's weight, (outputs, inputs, *kernel); 0 where there are none to predict."""
    taps = int(np.prod(shape[2:], dtype=np.int64)) if len(shape) > 2 else 0
    return taps if 2 <= taps <= MOST_TAPS else 0


def coefficients_for(numbers: NDArray[np.int64], taps: int) -> Coefficients | None:
    """Those of least squares for a sequence of kernels of `taps`; None where they gain too little."""
    kernels = numbers.reshape(-1, taps).astype(np.float64)
    products = kernels.T @ kernels / max(1, len(kernels))
    damped = products + np.eye(taps) * (DAMPING * np.trace(products) / taps + 1e-9)
    found = np.zeros((taps, taps), np.int8)
    for tap in range(1, taps):
        exact = np.linalg.solve(damped[:tap, :tap], products[:tap, tap])
        found[tap, :tap] = np.round(UNIT * exact).clip(-127, 127)
    gain = _gain(products, found) * len(kernels)
    told = COEFFICIENT_BITS * taps * (taps - 1) / 2
    return found if gain > max(told, LEAST_GAIN * numbers.size) else None


def _gain(products: NDArray[np.float64], coefficients: Coefficients) -> float:
    """Bits that a kernel takes less: of each tap half the logarithm of how much smaller the variance of what is left
    is, rounding counted."""
    left = np.eye(len(products)) - coefficients / UNIT
    before, after = np.diag(products), np.diag(left @ products @ left.T)
    return float(0.5 * np.log2((before + ROUNDING) / (after + ROUNDING)).sum())


def write_coefficients(coefficients: Coefficients) -> bytes:
    """The rows below the diagonal, a signed byte each."""
    return coefficients[np.tril_indices(len(coefficients), -1)].tobytes()


def read_coefficients(content: Bytes, taps: int) -> Coefficients:
    """The inverse of `write_coefficients`, for taps · (taps - 1) / 2 bytes."""
    found = np.zeros((taps, taps), np.int8)
    found[np.tril_indices(taps, -1)] = content.view(np.int8)
    return found
