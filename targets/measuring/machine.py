"""The machine that measures: load, clocks, throttling, temperature, energy, memory. What it cannot tell is None."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import TARGETS

ROOT = Path("/")
_CPU = "sys/devices/system/cpu"


@dataclass(frozen=True)
class MachineState:
    """One moment of a machine. throttle_events, steal_s (seconds a hypervisor kept the CPUs): since the start.

    mhz: mean clock of the CPUs; celsius: the hottest sensor; gpu: NVML's clocks, temperature, throttle reasons.
    """

    load_average: float | None = None
    governor: str | None = None
    mhz: float | None = None
    throttle_events: int | None = None
    steal_s: float | None = None
    celsius: float | None = None
    gpu: dict[str, Any] = field(default_factory=dict)


def machine_state(gpu: str = "", root: Path = ROOT) -> MachineState:
    """The state now. gpu: `cuda:N` to ask NVML about; root: where `proc` and `sys` are mounted."""
    return MachineState(
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        governor=_text(root / _CPU / "cpu0/cpufreq/scaling_governor"),
        mhz=_clock(root),
        throttle_events=_sum(root / _CPU, "cpu[0-9]*/thermal_throttle/core_throttle_count"),
        steal_s=_steal(root),
        celsius=_hottest(root),
        gpu=_gpu(gpu),
    )


def cpu_model() -> str:
    """The processor's name as the system tells it."""
    information = ROOT / "proc/cpuinfo"
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    board = _text(ROOT / "proc/device-tree/model")  # ARM's cpuinfo has no name
    return board.rstrip("\0") if board else platform.processor() or platform.machine()


def gpu_of(runtime: str, device: str) -> str:
    """The device that NVML may know, if it is a GPU: the runtime's default where none is named."""
    return device or TARGETS[runtime].default_device


def throttled(before: MachineState, after: MachineState) -> str | None:
    """Why times between the two moments are not the device's own, in words; None when nothing says so."""
    if before.throttle_events is not None and after.throttle_events is not None:
        new = after.throttle_events - before.throttle_events
        if new > 0:
            return f"the CPU throttled {new} times"
    reasons = sorted({*before.gpu.get("throttled", ()), *after.gpu.get("throttled", ())})
    return f"the GPU throttled ({', '.join(reasons)})" if reasons else None


def energy_joules(gpu: str = "", root: Path = ROOT) -> dict[str, float]:
    """Counters of consumed energy by name, in joules: RAPL's packages, NVML's GPU; empty where there is none.

    Counters wrap around: `energy_between` knows that.
    """
    found = {}
    for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        name = _text(folder / "name") or ""
        counted = _text(folder / "energy_uj")  # readable by root only on many systems
        if counted is not None and name.startswith(
            "package"
        ):  # cores are part of it, and psys counts it again
            found[f"rapl {name}"] = float(counted) / 1e6
    handle = _nvml(gpu)
    if handle is not None:
        import pynvml

        with suppress(pynvml.NVMLError):  # boards older than Volta do not count
            found["nvml"] = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
    return found


def energy_between(before: dict[str, float], after: dict[str, float]) -> float | None:
    """Joules between two readings; None without a counter, or when one has wrapped around."""
    if not before or before.keys() != after.keys():
        return None
    used = [after[name] - before[name] for name in before]
    return None if min(used) < 0 else sum(used)


def resident_bytes() -> int | None:
    """Memory that this process holds now."""
    status = _text(ROOT / "proc/self/statm")
    return int(status.split()[1]) * os.sysconf("SC_PAGE_SIZE") if status else None


def peak_bytes() -> int | None:
    """The most memory that this process has held so far."""
    for line in (_text(ROOT / "proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _sum(folder: Path, pattern: str) -> int | None:
    counts = [text for path in folder.glob(pattern) if (text := _text(path)) is not None]
    return sum(map(int, counts)) if counts else None


def _clock(root: Path) -> float | None:
    kilohertz = [
        text
        for p in (root / _CPU).glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
        if (text := _text(p)) is not None
    ]
    if kilohertz:
        return round(sum(map(float, kilohertz)) / len(kilohertz) / 1000, 1)
    lines = (_text(root / "proc/cpuinfo") or "").splitlines()
    megahertz = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return round(sum(megahertz) / len(megahertz), 1) if megahertz else None


def _steal(root: Path) -> float | None:
    first = (_text(root / "proc/stat") or "").partition("\n")[0].split()
    return int(first[8]) / os.sysconf("SC_CLK_TCK") if len(first) > 8 and first[0] == "cpu" else None


def _hottest(root: Path) -> float | None:
    sensors = [
        text
        for p in (root / "sys/class/thermal").glob("thermal_zone*/temp")
        if (text := _text(p)) is not None
    ]
    return max(map(int, sensors)) / 1000 if sensors else None


def _nvml(gpu: str) -> Any:
    """NVML's handle of `cuda:N`; None without a GPU or without NVML."""
    if not gpu.startswith("cuda"):
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByIndex(int(gpu.partition(":")[2] or 0))
    except Exception:  # not installed, no driver, no such GPU: these errors share no base class
        return None


def _gpu(gpu: str) -> dict[str, Any]:
    handle = _nvml(gpu)
    if handle is None:
        return {}
    import pynvml

    names = {
        "hw_slowdown": pynvml.nvmlClocksThrottleReasonHwSlowdown,
        "hw_thermal_slowdown": pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
        "hw_power_brake": pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
        "sw_thermal_slowdown": pynvml.nvmlClocksThrottleReasonSwThermalSlowdown,
    }  # not the power cap: at full load many boards always run at it
    asked: dict[str, Callable[[], Any]] = {
        "sm_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "celsius": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "active": lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
    }
    found: dict[str, Any] = {}
    for key, ask in asked.items():
        with suppress(pynvml.NVMLError):  # virtual GPUs and small boards do not tell everything
            found[key] = ask()
    active = found.pop("active", 0)
    return {**found, "throttled": [name for name, bit in names.items() if active & bit]}
