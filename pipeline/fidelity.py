"""Metric of a network or an engine and, in one walk over the samples, how alike it answers to the float model."""

from __future__ import annotations

from ..calibration.fidelity import Compared
from ..calibration.measurement import FidelityRecord, MetricRecord
from ..model import Forward, Model
from ..passes.base import PassContext
from .proof.edges import labels_are_classes


def metric_and_fidelity(
    forward: Forward, batch: int, reference: Model, context: PassContext
) -> tuple[MetricRecord, FidelityRecord | None]:
    """Both on the part that the verdict is taken on; no fidelity where answers are no classes.

    batch: samples that `forward` is given at once; reference: the float model.
    """
    part = context.data.judge
    if not labels_are_classes(part):
        return metric_of(forward, batch, context), None
    wanted, largest = reference.in_batches()
    beside = Compared(forward, wanted)
    metric = metric_of(beside, min(batch, largest), context)  # a static batch is filled up, never exceeded
    return metric, beside.record(part.name)


def metric_of(forward: Forward, batch: int, context: PassContext) -> MetricRecord:
    """The metric on the part that the verdict is taken on."""
    part = context.data.judge
    return context.metric.measure(forward, part, batch_size=batch, progress=context.progress).record
