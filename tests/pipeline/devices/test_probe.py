"""Probe: what a device tells, and how fine a gate on it can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from edgepress.cli import cli
from edgepress.errors import CompressError
from edgepress.pipeline.devices.file import find_devices
from edgepress.pipeline.devices.probe import ProbePlan, probe
from edgepress.pipeline.devices.sections import DeviceSection
from edgepress.pipeline.gate.sequential import Limits, smallest_slowdown


def noisy(**noise: float) -> dict[str, DeviceSection]:
    return {"sim": DeviceSection.model_validate({"runtime": "fake", "noise": noise})}


def test_the_noise_of_a_pair_is_found() -> None:
    """Launches scatter by 2 %, so that pairs do by 2.8 %; 100 pairs know that to some 7 %."""
    (found,) = probe(noisy(launch_sd=0.02), ProbePlan(pairs=100, iterations=30))
    assert found.sd == pytest.approx(0.0283, rel=0.2)
    assert found.smallest_slowdown == pytest.approx(smallest_slowdown(found.sd, found.median_ms, Limits()))
    assert found.worst_smallest_slowdown >= found.smallest_slowdown > Limits().tolerance
    assert found.pairs == 100 and found.model == "a convolutional network of 0.6 GMACs"


def test_a_simulated_device_tells_its_noise() -> None:
    (found,) = probe(noisy(drift_sd=0.5), ProbePlan(pairs=0))
    assert found.capabilities["noise"] == (
        "Noise(launch_sd=0.018, iteration_sd=0.01, input_sd=0.0, drift_sd=0.5, spike_rate=0.0, spike_size=0.7, "
        "throttle_rate=0.0, throttle_size=0.4, throttle_launches=1, throttle_told=False, disconnect_rate=0.0)"
    )


def test_a_real_device_tells_what_it_is_without_pairs() -> None:
    (found,) = probe(find_devices(["openvino:CPU"], None), ProbePlan(pairs=0))
    assert "INT8" in found.capabilities["capabilities"]
    assert found.machine and found.version and found.state["load_average"] is not None
    assert (found.sd, found.median_ms, found.pairs) == (None, None, 0)


def test_a_device_that_loses_pairs_is_not_fit() -> None:
    with pytest.raises(
        CompressError, match="sim: it was lost, only 0 of 12 rounds of launches counted, as the connection"
    ):
        probe(noisy(disconnect_rate=0.9), ProbePlan(pairs=12, iterations=11))


def test_one_pair_has_no_spread() -> None:
    with pytest.raises(CompressError, match="pairs is 1: a spread needs at least 2, or 0"):
        probe(noisy(), ProbePlan(pairs=1))


def test_the_command(tmp_path: Path) -> None:
    def compress(*arguments: str) -> str:
        result = CliRunner().invoke(cli, list(arguments), prog_name="compress")
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "a gate can police  slowdowns from" in compress("devices", "probe", "fake")
    (found,) = json.loads(compress("devices", "probe", "fake", "--json", "--pairs", "4"))
    assert found["pairs"] == 4
    (tmp_path / "d.yaml").write_text(compress("devices", "example"))
    listed = compress("devices", "list", "--devices", str(tmp_path / "d.yaml"))
    assert [line.split()[0] for line in listed.splitlines()[1:5]] == [
        "here",
        "kiosk",
        "line-camera",
        "simulated",
    ]
