"""Proof: how far the outputs on one edge of the flow are from the edge before it, on real samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..calibration.data import Part
from ..model import Forward
from ..passes.quantization.sqnr import sqnr_db
from .result import ParityRecord

SAMPLES = 64
FLOAT_SQNR_DB = 60.0  # float32 against float32 in another order of sums; 70 to 130 dB were seen
# BF16 keeps 8 bits as INT8 does, and moved deep networks to between 24 and 54 dB; that the graph is the right one is
# proved in f32. Beside it stands the agreement limit, which is what a user would notice.
LOW_PRECISION_SQNR_DB = 15.0
AGREEMENT = 0.95


@dataclass(frozen=True)
class Limit:
    """What an edge must reach. agreement: least share of samples with the same top class; None when not asked."""

    sqnr_db: float
    agreement: float | None = None

    def __str__(self) -> str:
        text = f"SQNR ≥ {self.sqnr_db:g} dB"
        return text if self.agreement is None else f"{text}, top-1 agreement ≥ {100 * self.agreement:g} %"


Outputs = list[tuple[Tensor, ...]]
"""All outputs for some samples, batch by batch."""

FLOAT_LIMIT = Limit(FLOAT_SQNR_DB)
LOW_PRECISION_LIMIT = Limit(LOW_PRECISION_SQNR_DB, AGREEMENT)


def outputs_of(
    forward: Forward, part: Part, batch_size: int, samples: int = SAMPLES
) -> list[tuple[Tensor, ...]]:
    """All outputs for the first samples of a part, batch by batch."""
    return [
        tuple(t.detach().cpu() for t in forward(*inputs))
        for inputs, _ in part.head(samples).batches(batch_size)
    ]


def prove(
    edge: str, before: list[tuple[Tensor, ...]], after: list[tuple[Tensor, ...]], limit: Limit | None
) -> ParityRecord:
    """Compare two edges' outputs; without a limit the record only reports.

    SQNR is that of the worst output; max_error is absolute; top-1 agreement is for a (batch, classes) first output.
    """
    wanted = [torch.cat(column) for column in zip(*before, strict=True)]
    got = [torch.cat(column) for column in zip(*after, strict=True)]
    n = int(wanted[0].shape[0])
    if problem := _problem(wanted, got):
        return broken(edge, problem, n)
    sqnr = min(sqnr_db(one, other) for one, other in zip(wanted, got, strict=True))
    error = max(
        float((one.double() - other.double()).abs().max()) for one, other in zip(wanted, got, strict=True)
    )
    agreement = None
    if wanted[0].dim() == 2 and wanted[0].shape[1] > 1:
        agreement = float((wanted[0].argmax(1) == got[0].argmax(1)).double().mean())
    ok = limit is None or (sqnr >= limit.sqnr_db and _agrees(agreement, limit, n))
    return ParityRecord(
        edge=edge,
        max_error=error,
        sqnr_db=round(sqnr, 2),
        top1_agreement=agreement,
        n=n,
        limit="reported; the budgets judge it" if limit is None else str(limit),
        ok=ok,
    )


def broken(edge: str, why: str, n: int) -> ParityRecord:
    """The record of an edge whose outputs, for `n` samples, are not there or cannot be compared."""
    return ParityRecord(
        edge=edge, max_error=float("inf"), sqnr_db=0.0, top1_agreement=None, n=n, limit=why, ok=False
    )


def _agrees(agreement: float | None, limit: Limit, n: int) -> bool:
    """Whether enough samples keep their class; one may always change, or few samples could never pass."""
    if limit.agreement is None or agreement is None:
        return True
    return agreement >= limit.agreement or round(n * (1 - agreement)) <= 1


def _problem(wanted: list[Tensor], got: list[Tensor]) -> str:
    if len(wanted) != len(got):
        return f"{len(got)} outputs instead of {len(wanted)}"
    for index, (one, other) in enumerate(zip(wanted, got, strict=True)):
        if one.shape != other.shape:
            return f"output {index} has shape {tuple(other.shape)} instead of {tuple(one.shape)}"
        if not torch.isfinite(other).all():
            return f"output {index} is not finite"
    return ""
