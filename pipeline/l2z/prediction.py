"""Predictions within kernels: the taps of a convolution's kernel that were read tell the next one.

Kernels of depthwise convolutions are much alike, so that a tap follows from those before it up to a factor: linear
prediction (Makhoul 1975, Proc. IEEE 63(4)) over a kernel's taps in their order, with coefficients for each tap. The
file codes what is left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...compiled import compiled
from .kernels import UNIT, Bytes, Coefficients

MOST_TAPS = 64
NONE: Coefficients = np.zeros((0, 0), np.int8)
"""Coefficients of a plane in which nothing is predicted."""
NONE.setflags(write=False)
DAMPING = 0.01
"""Share of a tap's mean square that is added to all of them: small coefficients take fewer bytes."""
LEAST_PREDICTED = 0.02
"""Bits a symbol, by the variances, from which on a prediction is tried."""
COEFFICIENT_BITS = 4.0
BELOW_A_STEP = 0.25
"""Is added to variances, so that nothing is gained on numbers that are rounded to 0 anyway."""


def taps_of(shape: tuple[int, ...]) -> int:
    """The taps of each kernel of a weight of shape (outputs, inputs, *kernel); 0 where there are none to predict."""
    taps = int(np.prod(shape[2:], dtype=np.int64)) if len(shape) > 2 else 0
    return taps if 2 <= taps <= MOST_TAPS else 0


def coefficients_of(taps: int) -> int:
    """How many a plane of such kernels has: of each tap one for each before it."""
    return taps * (taps - 1) // 2


def coefficients_for(products: NDArray[np.int64], symbols: int) -> Coefficients | None:
    """The coefficients of least squares for a plane of so many symbols; None where they gain too little.

    products: of each two taps' numbers, summed over all kernels, (taps, taps).
    """
    taps = len(products)
    kernels = max(1, symbols // taps)
    means = products / kernels
    damped = means + np.eye(taps) * (DAMPING * np.trace(means) / taps + 1e-9)
    # With damped = L D Lᵀ, L having ones on its diagonal, L⁻¹ x is what is left of taps x after the best prediction.
    lower = np.linalg.cholesky(damped)
    unit_lower = lower / np.diag(lower)
    exact = UNIT * (np.eye(taps) - np.linalg.inv(unit_lower))
    each = np.round(np.tril(exact, -1)).clip(-127, 127).astype(np.int8)
    together = _rounded(exact, unit_lower)
    found = np.where((_left(means, together) < _left(means, each))[:, None], together, each)
    told = COEFFICIENT_BITS * coefficients_of(taps)
    return found if kernels * _gain(means, found) > max(told, LEAST_PREDICTED * symbols) else None


@compiled
def _rounded(exact: NDArray[np.float64], unit_lower: NDArray[np.float64]) -> Coefficients:
    """Whole coefficients in place of exact ones, both (taps, taps), of which those below the diagonal count: for each
    tap from its nearest neighbour back to the first, those that follow making up for what was rounded (Babai's nearest
    plane, 1986, Combinatorica 6(1), section 3).

    Rounded each by itself, the errors of many coefficients on taps that are alike would add up.
    """
    taps = len(exact)
    found = np.zeros((taps, taps), np.int8)
    errors = np.empty(taps)
    for tap in range(1, taps):
        for at in range(tap - 1, -1, -1):
            wanted = exact[tap, at]
            for after in range(at + 1, tap):
                wanted -= unit_lower[after, at] * errors[after]
            whole = min(max(np.round(wanted), -127.0), 127.0)
            found[tap, at] = np.int8(whole)
            errors[at] = whole - exact[tap, at]
    return found


def _gain(products: NDArray[np.float64], coefficients: Coefficients) -> float:
    """Bits that a kernel takes less: of each tap half the logarithm of how much smaller the variance of what is left
    is."""
    before, after = np.diag(products), _left(products, coefficients)
    return float(0.5 * np.log2((before + BELOW_A_STEP) / (after + BELOW_A_STEP)).sum())


def _left(products: NDArray[np.float64], coefficients: Coefficients) -> NDArray[np.float64]:
    """The mean square of what is left of each tap, (taps,)."""
    rows = np.eye(len(products)) - coefficients / UNIT
    found: NDArray[np.float64] = np.einsum("ij,jk,ik->i", rows, products, rows, optimize=True)
    return found


def write_coefficients(coefficients: Coefficients) -> bytes:
    """The rows below the diagonal, a signed byte each."""
    return b"".join(row[:tap].tobytes() for tap, row in enumerate(coefficients))


def read_coefficients(content: Bytes, taps: int) -> Coefficients:
    """The inverse of `write_coefficients`, for `coefficients_of` bytes."""
    found = np.zeros((taps, taps), np.int8)
    found[np.tril_indices(taps, -1)] = content.view(np.int8)
    return found
