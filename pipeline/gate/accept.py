"""What a person accepts: the candidate's size and outputs become each device's golden file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from ...errors import CompressError
from ...progress import Progress, Silent
from ..devices.opened import opened
from ..devices.sections import DeviceSection
from .accuracy import judged_by
from .golden import finite, golden_of, golden_path, read_golden_anyway, write_golden
from .run import GatePlan
from .subjects import common_inputs, freeze, subject
from .timed_inputs import outputs_in_turn, timed_inputs


def accept(
    candidate: Path,
    sections: Mapping[str, DeviceSection],
    golden: Path,
    plan: GatePlan,
    progress: Progress = Silent(),
) -> list[tuple[Path, str]]:
    """Write the golden files; each with what is new in it, in words. CompressError for outputs that are no numbers."""
    written = []
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        side = held.enter_context(subject(candidate, plan.shapes))
        inputs = common_inputs((side,), plan.inputs, plan.batch, plan.launches.seed)
        judged = judged_by(plan.data, progress).fitted(inputs.feeds) if plan.data is not None else None
        part = judged.part if judged is not None else None
        fed = timed_inputs(inputs, (side,), plan.inputs, plan.samples, part, plan.launches.seed)
        for name, section in sections.items():
            with opened({name: section}, inputs.batch) as one:
                device = one[name]
                progress.say(f"{name}: running {candidate}")
                (frozen,) = freeze((side,), device, inputs.feeds, folder)
                outputs = outputs_in_turn(device, frozen, fed)
                if not finite(outputs):
                    raise CompressError(f"{candidate}: its outputs on {name} hold NaN or infinite values")
                new = golden_of(name, device.facts(), side, fed, outputs, plan.commit)
            old = read_golden_anyway(golden, name)
            if old is not None and old.device != name:
                raise CompressError(
                    f"{golden_path(golden, name)}: is of the device {old.device!r}, not {name!r}; rename one"
                )
            before = f"{old.bytes:,} bytes, outputs {old.outputs_sha256[:12]} → " if old is not None else ""
            told = f"{before}{new.bytes:,} bytes, outputs {new.outputs_sha256[:12]}"
            written.append((write_golden(golden, new), told))
    return written
