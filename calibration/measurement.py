"""A metric as it was measured: the record that run.json keeps, and the scores that paired tests take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ..record import Count, Interval, Measured, NotNegative, Record

if TYPE_CHECKING:
    import numpy as np


class MetricRecord(Record):
    """A metric's mean over `n` samples of a part, with its 95 % interval; accuracies are fractions."""

    name: str
    value: Measured
    n: Count
    ci95: Interval
    """NaN where it is not known."""
    part: str
    standard_error: NotNegative | None = None
    """Of `value`; null where it is not known: equal scores tell nothing of others, and old records do not keep it."""


class FidelityRecord(Record):
    """How alike a network answers to the one that it was made from, over `n` samples of a part.

    agreement: share of the samples with the same top class; kl: KL(before ‖ after) of the predictions, the mean in
    nats, NaN where it is not finite.
    """

    agreement: Annotated[float, Field(ge=0, le=1)]
    kl: NotNegative
    n: Count
    part: str


@dataclass(frozen=True)
class Measurement:
    """What was measured: its record, and one score a sample, shape (n,), in the order of the part."""

    record: MetricRecord
    scores: np.ndarray[Any, Any]
