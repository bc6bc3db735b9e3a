"""profile.json: what `compress profile` measured of one model, and of several against the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ...record import Count, Record
from ...targets.measuring.sustained import Sustained
from ..devices.feeds import NOTE
from ..record_file import write_record
from ..run_record import EngineRecord

PROFILE_FILE, PROFILES_FILE = "profile.json", "profiles.json"


class ResourceRecord(Record):
    """What inference takes, medians over launches; null where the machine has no counter.

    engine_memory_bytes: of the peak, what came after the runtime's library was loaded.
    """

    throughput_per_s: float
    peak_memory_bytes: Count | None
    engine_memory_bytes: Count | None
    joules: float | None


class DeviceProfile(Record):
    """One device. `engine` is null when nothing was built or run; `reason` says why it was not timed.

    states: of the machine before the first and after the last timed part.
    """

    device: str
    runtime: str
    version: str | None
    status: Literal["run", "built", "unavailable", "failed"]
    reason: str = ""
    label: str = ""
    machine: str = ""
    options: dict[str, Any] = {}
    engine: EngineRecord | None = None
    engine_sha256: str = ""
    resources: ResourceRecord | None = None
    sustained: Sustained | None = None
    states: list[dict[str, Any]] = []


class Profile(Record):
    """What `compress profile` measured of one model. inputs: shape of each input as it was fed, batch included."""

    source: str
    sha256: str
    inputs: dict[str, list[int]]
    note: str = NOTE
    batch: Count
    pairs: Count
    iterations: Count
    float_precision: str
    seed: int
    environment: dict[str, Any]
    devices: list[DeviceProfile]


class Ratio(Record):
    """The first model's time over another one's on one device, turn by turn: above 1 the other one is faster."""

    device: str
    first: str
    other: str
    ratio: float
    ci95: tuple[float, float]
    pairs: Count


class Profiles(Record):
    """Several models, timed in turns."""

    names: list[str]
    """Names of the models, unlike each other, in the order of `profiles`."""
    profiles: list[Profile]
    ratios: list[Ratio]

    def engine(self, name: str, device: str) -> EngineRecord:
        """The engine of a model on a device where it was timed."""
        rows = self.profiles[self.names.index(name)].devices
        return next(row.engine for row in rows if row.label == device and row.engine is not None)

    def write(self, folder: Path) -> None:
        """profile.json in `folder`; of several models, one in a folder for each, and profiles.json with the ratios."""
        if len(self.profiles) == 1:
            write_record(folder / PROFILE_FILE, self.profiles[0])
            return
        for name, one in zip(self.names, self.profiles, strict=True):
            write_record(folder / name / PROFILE_FILE, one)
        write_record(folder / PROFILES_FILE, self, {"names", "ratios"})
