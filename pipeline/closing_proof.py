"""Whether what a pass says of the network that it returned is true of the file that is delivered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..passes.quantization.sqnr import worst_sqnr_db
from .result import ParityRecord

# A value beside a rounding boundary falls on either side in another runtime, and a deep network carries that to every
# output: two sets of rounding decisions were seen to differ by up to 2 dB. At 3 dB the noise has doubled.
MARGIN_DB = 3.0
Outputs = Sequence[tuple[Tensor, ...]]


def prove_closing(
    name: str, closing: Mapping[str, Any], before: Outputs, after: Outputs
) -> ParityRecord | None:
    """The note of the pass `name` against outputs of its input network and of the exported file for the same samples.

    closing: `details["closing"]` of the pass. None when not all outputs are floating point: the note is of others.
    """
    wanted, got = (
        [torch.cat(column) for column in zip(*outputs, strict=True)] for outputs in (before, after)
    )
    if closing["inner"] or not all(y.is_floating_point() for y in wanted):
        return None
    n = int(wanted[0].shape[0])
    told = float(closing["sqnr_db"])
    if [y.shape for y in wanted] != [y.shape for y in got]:
        return None  # said by the proof of the file itself
    sqnr = worst_sqnr_db(wanted, got)
    error = max(float((a.double() - b.double()).abs().max()) for a, b in zip(wanted, got, strict=True))
    return ParityRecord(
        edge=f"{name}'s own note → compressed ONNX",
        max_error=error,
        sqnr_db=round(sqnr, 2),
        top1_agreement=None,
        n=n,
        limit=f"SQNR ≥ {told - MARGIN_DB:.1f} dB: {MARGIN_DB:g} dB below what {name} told of what it returned",
        ok=sqnr >= told - MARGIN_DB,
    )
