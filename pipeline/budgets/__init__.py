"""Budgets: what a recipe promises, one kind a file; here is the list of the kinds, which is the recipe's section."""

from __future__ import annotations

from typing import Any, get_args

from ...section import Section
from .budget import Budget, Subject
from .bytes import BytesLimit
from .int8_share import Int8ShareLimits
from .latency import LatencyLimits
from .memory import MemoryLimits
from .metric_drop import MetricDropLimit
from .speedup import SpeedupLimits


class Budgets(Section, use_attribute_docstrings=False):
    """The promise to keep. What is not named here is reported and not judged."""

    metric_drop: MetricDropLimit = None
    latency: LatencyLimits = {}
    speedup: SpeedupLimits = {}
    int8_share: Int8ShareLimits = {}
    bytes: BytesLimit = None
    memory: MemoryLimits = {}

    def promised(self) -> list[Budget[Any]]:
        """Every promise in the order in which they are judged: of the network, of devices, of the file."""
        promises: list[Budget[Any]] = []
        for key, kind in KINDS.items():
            asked = getattr(self, key)
            if kind.subject == "device":
                promises += [kind(limit, device) for device, limit in asked.items()]
            elif asked is not None:
                promises.append(kind(asked))
        return sorted(promises, key=lambda promise: get_args(Subject).index(promise.subject))


def _kind(metadata: list[Any]) -> type[Budget[Any]]:
    """The class in the annotation of a field: what is asked there is judged by it."""
    [kind] = [each for each in metadata if isinstance(each, type) and issubclass(each, Budget)]
    return kind


KINDS = {key: _kind(field.metadata) for key, field in Budgets.model_fields.items()}
"""The class of each key, in the order in which recipes list them."""
