"""The machine's state, read from files as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgepress.targets.measuring.machine import (
    MachineState,
    energy_between,
    energy_joules,
    machine_state,
    peak_bytes,
    resident_bytes,
    throttled,
)

FILES = {
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2200000\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4\n",
    "sys/class/thermal/thermal_zone0/temp": "41000\n",
    "sys/class/thermal/thermal_zone1/temp": "63500\n",
    "proc/stat": "cpu  10 0 10 100 0 0 0 250 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n",
    "sys/class/powercap/intel-rapl:0/name": "package-0\n",
    "sys/class/powercap/intel-rapl:0/energy_uj": "2500000\n",
    "sys/class/powercap/intel-rapl:0:0/name": "core\n",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "1\n",
    "sys/class/powercap/intel-rapl:1/name": "psys\n",
    "sys/class/powercap/intel-rapl:1/energy_uj": "9000000\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_what_linux_tells(root):
    state = machine_state(root=root)
    assert (state.governor, state.mhz, state.throttle_events, state.celsius) == ("powersave", 2000.0, 7, 63.5)
    assert state.steal_s == pytest.approx(2.5)  # 250 ticks of 10 ms


def test_what_is_not_told_is_none_and_never_zero(tmp_path):
    state = machine_state(root=tmp_path)
    told = (state.governor, state.mhz, state.throttle_events, state.celsius, state.steal_s, state.gpu)
    assert told == (None, None, None, None, None, {})


def test_energy_is_that_of_the_packages(root):
    """Cores are part of their package, and psys holds the package: adding them would count it twice."""
    before = energy_joules(root=root)
    assert before == {"rapl package-0": 2.5}
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("4000000\n")
    assert energy_between(before, energy_joules(root=root)) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({}, {}, id="no counter"),
        pytest.param({"a": 5.0}, {"a": 1.0}, id="wrapped around"),
        pytest.param({"a": 5.0}, {"a": 6.0, "b": 1.0}, id="another counter"),
    ],
)
def test_energy_that_cannot_be_told(before, after):
    assert energy_between(before, after) is None


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        pytest.param(MachineState(), MachineState(), None, id="nothing known"),
        pytest.param(MachineState(throttle_events=3), MachineState(throttle_events=3), None, id="none new"),
        pytest.param(
            MachineState(throttle_events=3),
            MachineState(throttle_events=5),
            "the CPU throttled 2 times",
            id="CPU",
        ),
        pytest.param(
            MachineState(),
            MachineState(gpu={"throttled": ["hw_slowdown"]}),
            "the GPU throttled (hw_slowdown)",
            id="GPU",
        ),
        pytest.param(MachineState(celsius=40), MachineState(celsius=95), None, id="warm is not throttled"),
    ],
)
def test_throttled(before, after, reason):
    assert throttled(before, after) == reason


def test_memory_of_this_process():
    assert 1e6 < resident_bytes() <= peak_bytes()
