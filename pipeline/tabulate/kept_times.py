"""Times of networks made of one network in the store of a run: measured once for a device and the versions of all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ...calibration.times import Times
from ...progress import Progress, Silent
from ..devices.opened import opened
from ..store import Entry, Store, key_of
from .beside import Turns
from .computed import computed_digest
from .run import facts_of, varying_batch

if TYPE_CHECKING:
    from ...isolated import Limits
    from ...model import Model
    from ..devices.sections import DeviceSection
    from .beside import TimingPlan


def kept_times(
    store: Store | None,
    model: Model,
    others: Sequence[Model],
    devices: Mapping[str, DeviceSection],
    plan: TimingPlan,
    progress: Progress = Silent(),
    limits: Limits | None = None,
) -> list[Times]:
    """The times of others beside those of a model, each from the store where it is there.

    devices: the one by its name; limits: of every process of an engine. DeviceUnavailableError when nothing runs there.
    """
    (section,) = devices.values()
    with (
        opened(devices, varying_batch(section, plan), limits) as here,
        tempfile.TemporaryDirectory() as folder,
    ):
        (device,) = here.values()
        turns = Turns(model, device, plan, Path(folder))
        told = f"{device.label}: timing networks in {plan.precision}"
        return list(_each(store, turns, progress.track(others, told, len(others)), progress))


def _each(store: Store | None, turns: Turns, others: Iterator[Model], progress: Progress) -> Iterator[Times]:
    facts = facts_of(turns.model, turns.device, turns.plan)["key"]
    for other in others:
        if store is None:
            yield turns.timed(turns.built(other))
            continue
        key = key_of({"beside": facts, "plan": asdict(turns.plan), "network": computed_digest(other)})
        with store.claimed(key, "times on a device", progress):
            if (stored := store.get(key)) is None:
                found = turns.timed(turns.built(other))
                stored = Entry(asdict(found), {})
                store.put(key, stored)
        yield Times(tuple(stored.values["ratios"]), tuple(stored.values["whole_ms"]), stored.values["ms"])
