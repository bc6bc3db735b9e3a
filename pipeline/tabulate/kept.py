"""Tables of latencies in the store of a run: measured once for a network, a device and the versions of all else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from ...calibration.latency_table import LatencyTable
from ...progress import Progress, Silent
from ..devices.opened import opened
from ..store import Entry, Store, key_of
from .run import facts_of, tabulate

if TYPE_CHECKING:
    from ...isolated import Limits
    from ...model import Model
    from ..devices.sections import DeviceSection
    from .bench import TabulatePlan

TABLE = "table.json"


def kept_table(
    store: Store,
    model: Model,
    devices: Mapping[str, DeviceSection],
    plan: TabulatePlan,
    progress: Progress = Silent(),
    limits: Limits | None = None,
) -> LatencyTable:
    """The table of a network on a device, from the store where it is there; a killed run's probes are taken up.

    Arguments and errors as of `tabulate`.
    """
    plan = plan.settled(model)
    with opened(devices, plan.batch, limits) as here:
        (device,) = here.values()
        key = key_of({"table": facts_of(model, device, plan)["key"], "plan": asdict(plan)})
    with store.claimed(key, "the table of latencies", progress) as scratch:
        stored = store.get(key)
        if stored is not None:
            return LatencyTable.model_validate(stored.values)
        found = tabulate(model, devices, scratch / TABLE, plan, progress, limits)
        store.put(key, Entry(found.model_dump(mode="json"), {}))
        return found
