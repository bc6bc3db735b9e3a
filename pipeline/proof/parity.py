"""Parity of one output: floats by their SQNR, integers by how many are equal, ranked rows by matching."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...calibration.sqnr import sqnr_db
from ...text import short
from ..pages.words import number, percent

LARGEST_MATCH = 2000  # rows of a sample that are matched; the time grows with the third power
# One may differ though its share is too large, or few could never pass: of 20 it is 5 %. Eight bits move values by
# percents, so that two near classes change places among few samples too; three of four must still agree.
FEWEST, FEWEST_LOW_PRECISION, LOW_PRECISION_SHARE = 20, 4, 0.95


@dataclass(frozen=True)
class OutputParity:
    """How far one output is from what it should be.

    sqnr_db, max_error: of its finite numbers, None where it has none that could be compared, and of integers;
    agreement: share of equal integers, or of rows that were matched, None of plain floats.
    """

    name: str
    ok: bool
    sqnr_db: float | None = None
    max_error: float | None = None
    agreement: float | None = None

    def __str__(self) -> str:
        if self.agreement is not None:
            return f"{self.name}: {percent(self.agreement)} agree"
        return f"{self.name}: SQNR {number(self.sqnr_db, 1)} dB"

    @property
    def rank(self) -> tuple[bool, float]:
        """Worst first: what is past its limit, then by SQNR."""
        return (self.ok, math.inf if self.sqnr_db is None else self.sqnr_db)


class UnlikeBatchesError(ValueError):
    """An output has another form in one batch than in the next, so that there is no one tensor of it."""


def columns(outputs: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Each output over all batches; a number of its own (no axis) counts as one sample.

    UnlikeBatchesError where batches differ in more than their samples, as detections of varying number do.
    """
    found = []
    for index, column in enumerate(zip(*outputs, strict=True)):
        tensors = [t if t.dim() else t.reshape(1) for t in column]
        if len({t.shape[1:] for t in tensors}) > 1:
            shapes = ", ".join(dict.fromkeys(str(tuple(t.shape)) for t in tensors))
            raise UnlikeBatchesError(
                f"output {index} has other shapes from batch to batch ({short(shapes, 120)}), so that its samples "
                "cannot be compared; give it a fixed number of rows"
            )
        found.append(torch.cat(tensors))
    return found


def enough(share: float, count: int, least: float) -> bool:
    """Whether a `share` of `count` that is equal is at least `least`, or all but one of at least 20.

    Where `least` is a share of low precision (95 % or less), all but one of at least 4.
    """
    fewest = FEWEST_LOW_PRECISION if least <= LOW_PRECISION_SHARE else FEWEST
    return share >= least or (count >= fewest and round(count * (1 - share)) <= 1)


def problem_of(name: str, wanted: Tensor, got: Tensor) -> str:
    """Why two outputs cannot be compared at all, "" when they can. Infinities that both have may stand."""
    if wanted.shape != got.shape:
        return f"{name} has shape {tuple(got.shape)} instead of {tuple(wanted.shape)}"
    if not wanted.is_floating_point() or not got.is_floating_point():
        return ""
    if wanted.isnan().any():
        return f"{name} is not a number (NaN) in what it is compared with"
    if not torch.isfinite(got[torch.isfinite(wanted)]).all():
        return f"{name} is not finite"
    odd = ~torch.isfinite(wanted)
    if not torch.equal(wanted[odd].double(), got[odd].double()):
        return f"{name} is another number where it should be infinite"
    return ""


def of_floats(name: str, wanted: Tensor, got: Tensor, least_db: float) -> OutputParity:
    """SQNR and largest error over the elements that are finite; without one nothing is wrong, and nothing proved."""
    finite = torch.isfinite(wanted)
    one, other = wanted[finite].double(), got[finite].double()
    if not one.numel():
        return OutputParity(name, ok=True)
    sqnr = sqnr_db(one, other)
    return OutputParity(name, sqnr >= least_db, sqnr, float((one - other).abs().max()))


def of_integers(name: str, wanted: Tensor, got: Tensor, least: float) -> OutputParity:
    """Share of equal elements."""
    if not wanted.numel():
        return OutputParity(name, ok=True)
    same = float((wanted == got).double().mean())
    return OutputParity(name, enough(same, wanted.numel(), least), agreement=same)


def of_rows(
    name: str, wanted: Sequence[Tensor], got: Sequence[Tensor], least_db: float, least: float
) -> OutputParity | None:
    """Outputs whose rows come out of one ranking, as (samples, rows, ...): each row has its equal, in whatever order.

    Where the second sizes differ, as of scores (n, rows) and boxes (n, 4, rows), the size that all have is the rows'.

    Two rows agree when their integers are equal and each float differs by no more than noise at `least_db` of its
    output. Rows that left a ranking for others of the same score within that noise count as agreeing, but half of
    them must be matched. None where the outputs have no such form.
    """
    if [t.shape for t in wanted] != [t.shape for t in got] or any(t.dim() < 2 for t in wanted):
        return None
    axes = _row_axes(wanted)
    if axes is None:
        return None
    wanted, got = ([t.movedim(axis, 1) for t, axis in zip(side, axes, strict=True)] for side in (wanted, got))
    if not _alike(wanted) or not wanted[0].shape[1] or any(t.isnan().any() for t in wanted):
        return None
    shares, matched = [], []
    tolerances = [_tolerance(tensor, least_db) for tensor in wanted]
    for sample in range(len(wanted[0])):
        one, other = ([t[sample] for t in tensors] for tensors in (wanted, got))
        share, found = _share(one, other, tolerances)
        shares.append(share)
        matched.append(found)
    agreement, found = float(np.mean(shares)), float(np.mean(matched))
    rows = wanted[0].shape[0] * wanted[0].shape[1]
    ok = enough(agreement, rows, least) and found >= 0.5
    return OutputParity(name, ok, agreement=agreement)


def _row_axes(tensors: Sequence[Tensor]) -> list[int] | None:
    """The axis of each tensor that counts the rows; None where no one size is common to all."""
    if len({t.shape[1] for t in tensors}) == 1:
        return [1] * len(tensors)
    common = set.intersection(*(set(t.shape[1:]) for t in tensors))
    return [list(t.shape[1:]).index(min(common)) + 1 for t in tensors] if len(common) == 1 else None


def _alike(tensors: Sequence[Tensor]) -> bool:
    shapes = {tuple(t.shape[:2]) for t in tensors}
    return len(shapes) == 1 and max(shapes)[1] <= LARGEST_MATCH


def _tolerance(tensor: Tensor, least_db: float) -> float:
    """Root mean square of the noise at `least_db`; integers must be equal."""
    if not tensor.is_floating_point():
        return 0.0
    finite = tensor[torch.isfinite(tensor)].double()
    return float(finite.pow(2).mean().sqrt()) * 10 ** (-least_db / 20) if finite.numel() else 0.0


def _share(
    wanted: Sequence[Tensor], got: Sequence[Tensor], tolerances: Sequence[float]
) -> tuple[float, float]:
    """Share of rows that agree or were exchanged for equals, and of those that agree; of one sample."""
    from scipy.optimize import linear_sum_assignment

    rows = len(wanted[0])
    close = np.ones((rows, rows), bool)
    for one, other, tolerance in zip(wanted, got, tolerances, strict=True):
        flat, flat_other = (t.reshape(rows, -1).double().numpy() for t in (one, other))
        for column in range(flat.shape[1]):
            a, b = flat[:, column, None], flat_other[None, :, column]
            with np.errstate(invalid="ignore"):
                close &= (np.abs(a - b) <= tolerance) | (a == b)
    lines, columns = linear_sum_assignment((~close).astype(np.float64))
    found = close[lines, columns]
    left = found.copy()
    for one, other, tolerance in zip(wanted, got, tolerances, strict=True):
        if (
            one.dim() == 1 and one.is_floating_point()
        ):  # a score: is what was exchanged within noise of the last one?
            end = float(one.double().min())
            near = (one.double()[lines] <= end + tolerance).numpy() & (
                other.double()[columns] <= end + tolerance
            ).numpy()
            left |= near
    return float(left.mean()), float(found.mean())
