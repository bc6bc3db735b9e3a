"""Tabulate: what the layers of a network take on a device, fitted to smaller versions of it that are timed there."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ...calibration.latency_fit import LayerSize, fit, held_out, latencies, mean_error
from ...calibration.latency_table import LatencyTable, Probe
from ...calibration.statistics import geometric_mean
from ...errors import CompressError
from ...form import Form
from ...passes.channels.dissect import Rules, dissect
from ...passes.channels.dissected import Dissected
from ...passes.channels.kind import Kind
from ...progress import Progress, Silent
from ...targets import target_of
from ..devices.opened import opened
from ..environment import versions
from ..record_file import write_record
from ..run_record import plain_settings
from ..store import key_of
from .bench import Bench, TabulatePlan
from .beside import TimingPlan
from .computed import computed_digest
from .smaller import drawn_kept, layer_widths

if TYPE_CHECKING:
    from ...isolated import Limits
    from ...model import Model
    from ...targets.measuring.device import Device
    from ..devices.sections import DeviceSection

WHAT = "tabulate"


def tabulate(
    model: Model,
    devices: Mapping[str, DeviceSection],
    path: Path,
    plan: TabulatePlan = TabulatePlan(),
    progress: Progress = Silent(),
    limits: Limits | None = None,
) -> LatencyTable:
    """The table of a network on a device, kept in the file `path` from its first probe on.

    Probes that lie there and were measured of the same network, on the same device, by the same versions are taken up.
    devices: the one by its name; limits: of every process of an engine. CompressError when nothing of the network can
    be made smaller; DeviceUnavailableError when nothing runs on the device.
    """
    dissected, plan = dissected_for_time(model), plan.settled(model)
    (section,) = devices.values()
    with (
        opened(devices, varying_batch(section, plan), limits) as here,
        tempfile.TemporaryDirectory() as folder,
    ):
        (device,) = here.values()
        bench = Bench(model, dissected, device, plan, Path(folder))
        return _measured(bench, path, progress)


def varying_batch(section: DeviceSection, plan: TimingPlan) -> int:
    """What a device is to set the batch to; 0 where it is in the ONNX file already."""
    return 0 if target_of(section.runtime).bakes_in_batch else plan.batch


def dissected_for_time(model: Model) -> Dissected:
    """What a network can do without; CompressError where that is nothing, or it is not made of modules."""
    if model.form is not Form.MODULES:
        raise CompressError(
            f"{WHAT}: {model.source or 'the network'} is {model.form}, of which no layer can be made smaller; give one"
            " that is made of modules, before passes change it"
        )
    dissected = dissect(model, WHAT, Rules(kinds=frozenset(Kind)))
    if reason := dissected.anatomy.why_nothing:
        raise CompressError(f"{WHAT}: {model.source or 'the network'}: {reason}")
    return dissected


def layer_sizes(dissected: Dissected) -> list[LayerSize]:
    """The layers of the whole network, as a table has them."""
    return [
        LayerSize(
            layer.name,
            layer.type,
            layer.inputs.size,
            layer.outputs.size,
            round(sum(term.whole for term in layer.macs)),
        )
        for layer in dissected.anatomy.layers
    ]


def _measured(bench: Bench, path: Path, progress: Progress) -> LatencyTable:
    anatomy, plan, label = bench.dissected.anatomy, bench.plan, bench.device.label
    facts = facts_of(bench.model, bench.device, plan)
    table = _earlier(path, facts["key"], progress)
    probes = list(table.probes) if table is not None else []
    known, draw = [probe.widths for probe in probes], random.Random(plan.seed)
    missing = []
    for kept in [{}, *(drawn_kept(anatomy, draw, plan.round_to) for _ in range(plan.probes))]:
        if (widths := layer_widths(anatomy, kept)) not in known:
            known.append(widths)
            missing.append(kept)
    progress.say(f"{label}: timing {len(missing)} networks in {plan.precision}; {len(probes)} are known")
    for kept in progress.track(missing, f"{label}: timing smaller networks", len(missing)):
        probes.append(bench.measured(kept))
        settings = plain_settings(bench.turns.whole.frozen.settings)
        told = {**facts, "settings": settings, "wanted": len(known)}
        table = _table(told, layer_sizes(bench.dissected), probes)
        write_record(path, table)
    assert table is not None  # the whole network is wanted, and so it is known or was measured
    if table.wanted != len(known):  # more were wanted when it was broken off
        table = table.model_copy(update={"wanted": len(known)})
        write_record(path, table)
    return table


def _table(facts: Mapping[str, Any], sizes: Sequence[LayerSize], probes: Sequence[Probe]) -> LatencyTable:
    whole_ms = median(ms for probe in probes for ms in probe.whole_ms)
    scaled = [probe.model_copy(update={"ms": geometric_mean(probe.ratios)[0] * whole_ms}) for probe in probes]
    full = {size.name: (size.inputs, size.outputs) for size in sizes}
    judged, steps = held_out(sizes, scaled)
    fitted = fit(sizes, scaled, steps)
    return LatencyTable(
        **facts,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        steps=steps,
        whole_ms=whole_ms,
        rest_ms=fitted.rest_ms,
        layers=latencies(sizes, fitted, next((probe for probe in probes if probe.widths == full), None)),
        probes=judged,
        error=mean_error(judged),
    )


def facts_of(model: Model, device: Device, plan: TimingPlan) -> dict[str, Any]:
    """What a table says of where its probes are from; all that decides them is in its key."""
    told = device.facts()
    facts = {
        "precision": plan.precision,
        "grid": plan.scheme.name if plan.precision == "int8" else "",
        "batch": plan.batch,
        "device": device.label,
        "runtime": device.runtime,
        "machine": told.machine,
        "facts": told.capabilities,
        "versions": {**versions(), **({told.runtime: told.version} if told.version else {})},
        "options": device.options.declared(),
    }
    decides = {"scheme": asdict(plan.scheme), "keep_float": plan.keep_float, "export": plan.export_options}
    key = key_of({**facts, **decides, "computed": computed_digest(model)})
    return {**facts, "key": key, "network": model.source}


def _earlier(path: Path, key: str, progress: Progress) -> LatencyTable | None:
    """The table that lies at `path`, if its probes still hold."""
    if not path.exists():
        return None
    found = LatencyTable.read(path, "delete it, or name another file with -o")
    if found.key == key:
        return found
    progress.say(f"{path}: of another network, device, version or precision; measured anew")
    return None
