"""Proof: how far the outputs on one edge of the flow are from the edge before it, on real samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...calibration.data import Part
from ...model import Forward
from ..run_record import ParityRecord
from .parity import (
    OutputParity,
    UnlikeBatchesError,
    columns,
    enough,
    of_floats,
    of_integers,
    of_rows,
    problem_of,
)

SAMPLES = 64
FLOAT_SQNR_DB = 60.0  # float32 against float32 in another order of sums; 70 to 130 dB were seen
# BF16 keeps 8 bits as INT8 does, and moved deep networks to between 24 and 54 dB; that the graph is the right one is
# proved in f32. Beside it stands the agreement limit, which is what a user would notice.
LOW_PRECISION_SQNR_DB = 15.0
AGREEMENT = 0.95
FLOAT_AGREEMENT = 0.999  # of integers behind float32 values in another order of sums


@dataclass(frozen=True)
class Limit:
    """What an edge must reach.

    agreement: least share of samples with the same top class; None when not asked. because: why it is lower than
    that of float32, where a file's own precision is the reason.
    """

    sqnr_db: float
    agreement: float | None = None
    because: str = ""

    @property
    def same_integers(self) -> float:
        """Least share of equal elements of an integer output: labels flip where two classes are close."""
        return FLOAT_AGREEMENT if self.agreement is None else self.agreement

    def __str__(self) -> str:
        text = f"SQNR ≥ {self.sqnr_db:g} dB"
        if self.agreement is not None:
            text += f", top-1 agreement ≥ {100 * self.agreement:g} %"
        return text + (f" (not {FLOAT_SQNR_DB:g} dB, as {self.because})" if self.because else "")


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
    edge: str,
    before: Outputs,
    after: Outputs,
    limit: Limit | None,
    names: Sequence[str] = (),
    ranked: Sequence[Sequence[int]] = (),
    *,
    classes: bool = True,
) -> ParityRecord:
    """Compare two edges' outputs; without a limit the record only reports.

    SQNR and max_error (absolute) are those of the worst output, over its finite values; integers are judged by how
    many are equal. names: of the outputs; ranked: those whose rows stand in the order of a ranking, and are matched
    where they differ, those of one ranking together. classes: whether a (batch, n) first output scores n classes; of
    embeddings and regressions the largest element says nothing, and agreement is neither asked nor told.
    """
    n = sum(int(outputs[0].shape[0]) if outputs[0].dim() else 1 for outputs in before)
    if len(before[0]) != len(after[0]):
        return broken(edge, f"{len(after[0])} outputs instead of {len(before[0])}", n)
    try:
        wanted, got = columns(before), columns(after)
    except UnlikeBatchesError as problem:
        return broken(edge, str(problem), n)
    called = [f"output {i}" + (f" ({names[i]!r})" if i < len(names) else "") for i in range(len(wanted))]
    # Ranked outputs are matched first: their rows may differ in number.
    least = limit or Limit(LOW_PRECISION_SQNR_DB)
    found = {i: _compared(called[i], wanted[i], got[i], least) for i in range(len(wanted))}
    for group in ranked:
        if all(isinstance(found[i], OutputParity) and found[i].ok for i in group):  # type: ignore[union-attr]
            continue
        rows = of_rows(
            " and ".join(called[i] for i in group), [wanted[i] for i in group], [got[i] for i in group],
            least.sqnr_db, AGREEMENT,
        )  # fmt: skip
        found |= dict.fromkeys(group, rows) if rows is not None else {}
    problems = [text for text in found.values() if isinstance(text, str)]
    outputs = [output for output in found.values() if isinstance(output, OutputParity)]
    if problems or (nothing := _nothing_in(wanted)):
        return broken(edge, problems[0] if problems else nothing, n)
    agreement = None
    scores = wanted[0].dim() == 2 and wanted[0].shape[1] > 1 and wanted[0].is_floating_point()
    if classes and scores and not any(0 in group for group in ranked):
        agreement = float((wanted[0].argmax(1) == got[0].argmax(1)).double().mean())
    ok = limit is None or (all(output.ok for output in outputs) and _agrees(agreement, limit, n))
    return _record(edge, outputs, agreement, n, limit, ok)


def labels_are_classes(part: Part) -> bool:
    """Whether a sample's label is one whole number, as that of a class is."""
    label = part.samples[0][1]
    return label.dim() == 0 and not label.is_floating_point()


def worst_samples(before: Outputs, after: Outputs, count: int) -> list[int]:
    """Indices of the samples whose outputs are furthest off, worst first; the first ones where that is unknown."""
    n = sum(int(outputs[0].shape[0]) if outputs[0].dim() else 1 for outputs in before)
    noise = torch.zeros(n, dtype=torch.float64)
    pairs = zip(zip(*before, strict=True), zip(*after, strict=True), strict=False)
    for wanted, got in pairs:
        if any(w.shape != g.shape or not w.dim() for w, g in zip(wanted, got, strict=True)):
            continue
        if len({w.shape[1:] for w in wanted}) > 1:
            continue
        one, other = torch.cat(wanted).double(), torch.cat(got).double()
        if one.shape[0] == n:
            away = (one - other).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).reshape(n, -1).pow(2).sum(1)
            noise += away / one.nan_to_num(posinf=0.0, neginf=0.0).pow(2).sum().clamp(min=1e-30)
    return [int(i) for i in noise.argsort(descending=True, stable=True)[:count]]


def _nothing_in(wanted: Sequence[Tensor]) -> str:
    """Why outputs that are equal would prove nothing, "" where they would."""
    if not any(t.numel() for t in wanted):
        return "every output is empty for these samples: nothing was proved"
    if all(t.is_floating_point() and not torch.isfinite(t).any() for t in wanted if t.numel()):
        return "no output has a finite number for these samples: nothing was proved"
    return ""


def _compared(name: str, wanted: Tensor, got: Tensor, limit: Limit) -> OutputParity | str:
    if problem := problem_of(name, wanted, got):
        return problem
    if wanted.is_floating_point():
        return of_floats(name, wanted, got, limit.sqnr_db)
    return of_integers(name, wanted, got, limit.same_integers)


def _record(
    edge: str,
    outputs: Sequence[OutputParity],
    top1: float | None,
    n: int,
    limit: Limit | None,
    ok: bool,
) -> ParityRecord:
    worst = min(outputs, key=lambda output: output.rank)
    decibels = [o.sqnr_db for o in outputs if o.sqnr_db is not None]
    errors = [o.max_error for o in outputs if o.max_error is not None]
    shares = [o.agreement for o in outputs if o.agreement is not None]
    asked = limit if limit is None or top1 is not None else replace(limit, agreement=None)
    text = "reported; the budgets judge it" if asked is None else str(asked)
    if shares and limit is not None:
        text += f", equal integers or rows ≥ {100 * limit.same_integers:g} %"
    return ParityRecord(
        edge=edge,
        max_error=max(errors, default=None),
        sqnr_db=round(min(decibels), 2) if decibels else None,
        top1_agreement=top1,
        agreement=min(shares, default=None),
        worst=str(worst) if len(outputs) > 1 else "",
        n=n,
        limit=text,
        ok=ok,
    )


def broken(edge: str, why: str, n: int) -> ParityRecord:
    """The record of an edge whose outputs, for `n` samples, are not there or cannot be compared."""
    return ParityRecord(
        edge=edge, max_error=None, sqnr_db=None, top1_agreement=None, n=n, limit=why, ok=False
    )


def _agrees(agreement: float | None, limit: Limit, n: int) -> bool:
    """Whether enough samples keep their class."""
    return limit.agreement is None or agreement is None or enough(agreement, n, limit.agreement)
