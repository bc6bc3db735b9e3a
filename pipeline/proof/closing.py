"""Whether what a pass says of the network that it returned is true of the file that is delivered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..run_record import ParityRecord
from .edges import broken
from .parity import UnlikeBatchesError, columns, of_floats, problem_of

# A value beside a rounding boundary falls on either side in another runtime, and a deep network carries that to every
# output: two sets of rounding decisions were seen to differ by up to 2 dB. At 3 dB the noise has doubled.
MARGIN_DB = 3.0
Outputs = Sequence[tuple[Tensor, ...]]


def prove_closing(
    name: str, closing: Mapping[str, Any], before: Outputs, after: Outputs
) -> ParityRecord | None:
    """The note of the pass `name` against outputs of its input network and of the exported file for the same samples.

    closing: `details["closing"]` of the pass. None when not all outputs are floating point: the note is of others.
    Infinities that both have may stand, as in every proof.
    """
    try:
        wanted, got = columns(before), columns(after)
    except UnlikeBatchesError:
        return None  # said by the proof of the file itself
    if closing["inner"] or not all(y.is_floating_point() for y in wanted):
        return None
    if [y.shape for y in wanted] != [y.shape for y in got]:
        return None  # likewise
    edge, n = f"{name}'s own note → compressed ONNX", int(wanted[0].shape[0])
    least = float(closing["sqnr_db"]) - MARGIN_DB
    pairs = list(zip(wanted, got, strict=True))
    problems = [text for i, (a, b) in enumerate(pairs) if (text := problem_of(f"output {i}", a, b))]
    if problems:
        return broken(edge, problems[0], n)
    found = [of_floats(f"output {i}", a, b, least) for i, (a, b) in enumerate(pairs)]
    measured = [output for output in found if output.sqnr_db is not None]
    if not measured:
        return None  # likewise: nothing is finite
    worst = min(measured, key=lambda output: output.rank)
    return ParityRecord(
        edge=edge,
        max_error=max(output.max_error or 0.0 for output in measured),
        sqnr_db=None if worst.sqnr_db is None else round(worst.sqnr_db, 2),
        top1_agreement=None,
        n=n,
        limit=f"SQNR ≥ {least:.1f} dB: {MARGIN_DB:g} dB below what {name} told of what it returned",
        ok=all(output.ok for output in found),
    )
