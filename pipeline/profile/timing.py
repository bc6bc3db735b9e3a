"""The engines of a profile, timed: those of one device take turns, one device after the other in each round."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import count

from ...errors import CompressError
from ...progress import Progress
from ...targets.measuring.device import Device, Fed, Frozen
from ...targets.measuring.feeds import FeedSequence
from ...targets.measuring.latency import LaunchSamples, median_known, require_pairs, summarize
from ...targets.measuring.sustained import sustained
from ...targets.measuring.turns import LaunchPlan, Losses, launch_rounds, too_few
from ..run_record import plain_settings
from .record import DeviceProfile, ResourceRecord


@dataclass(frozen=True)
class ProfilePlan:
    """How to measure. batch 0: the model's own fixed batch, or 1; sustain_s: of one long launch more, 0 for none.

    samples: random ones that launches are fed in turn, 0 for one input, or more where a model's work depends on them.
    """

    pairs: int = 6
    iterations: int = 60
    batch: int = 0
    seed: int = 0
    warmup_s: float = 5.0
    sustain_s: float = 0.0
    samples: int = 0


@dataclass
class Cell:
    """A model on a device. batch: samples in one inference."""

    row: DeviceProfile
    device: Device
    batch: int
    frozen: Frozen | None = None
    launches: list[LaunchSamples] = field(default_factory=list)


def time_engines(
    cells: Mapping[tuple[str, str], Cell],
    fed: Mapping[str, FeedSequence],
    plan: ProfilePlan,
    progress: Progress,
) -> None:
    """Add to each cell that has an engine what its launches measured.

    cells: by model and device; fed: by model. CompressError when a launch fails.
    """
    require_pairs(plan.pairs)
    groups: dict[str, _Group] = {}
    for (name, label), cell in cells.items():
        if cell.frozen is not None:
            groups.setdefault(label, _Group(cell.device)).add(name, cell, (cell.frozen, fed[name]))
    if not groups:
        return
    told = ", ".join(f"{name} on {label}" for label, group in groups.items() for name in group.cells)
    progress.say(f"timing {told}: {plan.pairs} launches each, in turns")
    _take_rounds(groups, plan, progress)
    for group in groups.values():
        for (name, cell), engine in zip(group.cells.items(), group.engines, strict=True):
            if cell.row.status != "run":
                continue
            _summarize(cell, fed[name])
            if plan.sustain_s:
                progress.say(f"{name} on {cell.device.label}: {plan.sustain_s:g} s of sustained load")
                _sustain(cell, engine, plan)


@dataclass
class _Group:
    """The engines of one device, which take turns; cells: by the names of their models, in the order of `engines`."""

    device: Device
    cells: dict[str, Cell] = field(default_factory=dict)
    engines: list[Fed] = field(default_factory=list)

    def add(self, name: str, cell: Cell, fed: Fed) -> None:
        """One more engine."""
        self.cells[name] = cell
        self.engines.append(fed)


def _take_rounds(groups: Mapping[str, _Group], plan: ProfilePlan, progress: Progress) -> None:
    """Launch the groups one after the other in each round, in an order drawn anew.

    A device that does not last all rounds is a row with its reason; the others go on.
    """
    losses = {label: Losses() for label in groups}
    how, draw = LaunchPlan(plan.iterations, plan.warmup_s, plan.seed), random.Random(plan.seed)
    rounds = {
        label: launch_rounds(group.device, group.engines, how, losses[label])
        for label, group in groups.items()
    }
    orders = count()
    for index in progress.track(range(plan.pairs), "timing rounds of launches", plan.pairs):
        for label in draw.sample(list(rounds), len(rounds)):
            taken = next(rounds[label], None)
            if taken is None:
                del rounds[label]
                _give_up(groups[label], index, plan, losses[label])
                continue
            for (name, cell), result in zip(groups[label].cells.items(), taken, strict=True):
                cell.launches.append(LaunchSamples(name, index, next(orders), result))


def _give_up(group: _Group, counted: int, plan: ProfilePlan, losses: Losses) -> None:
    """Make rows of a device that was lost, or that throttled too often, without what they measured before."""
    told = too_few(group.device.label, f"{counted} of {plan.pairs} rounds of launches", losses)
    for cell in group.cells.values():
        cell.launches = []
        cell.row.status = "unavailable" if losses.lost else "failed"
        cell.row.reason = losses.set_aside[-1] if losses.lost else str(told)


def _sustain(cell: Cell, fed: Fed, plan: ProfilePlan) -> None:
    """Add one long launch; what it fails with is told beside all that was measured before."""
    try:
        long = cell.device.launch(*fed, plan.iterations, plan.warmup_s, plan.sustain_s)
    except CompressError as error:
        cell.row.reason = f"no sustained load: {error}"
        return
    cell.row.sustained = sustained(long.samples_ns, long.calls_per_sample)


def _summarize(cell: Cell, fed: FeedSequence) -> None:
    engine, results = cell.row.engine, [x.result for x in cell.launches]
    assert engine is not None
    engine.latency_ms = summarize(cell.launches, fed)
    engine.settings = plain_settings(engine.settings, results[0].settings)
    cell.row.resources = ResourceRecord(
        throughput_per_s=1000 / engine.latency_ms.p50 * cell.batch,
        peak_memory_bytes=median_known(r.peak_bytes for r in results),
        engine_memory_bytes=median_known(r.engine_memory_bytes for r in results),
        joules=median_known(r.joules for r in results),
    )
    cell.row.states = [asdict(results[0].before), asdict(results[-1].after)]
