"""devices.yaml: what a name means, every mistake at its place, and devices that are opened and let go."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgepress.errors import CompressError, DeviceUnavailableError
from edgepress.pipeline.devices.file import EXAMPLE, changed, find_devices, read_devices
from edgepress.pipeline.devices.opened import opened
from edgepress.pipeline.devices.sections import DeviceSection
from edgepress.pipeline.recipe.problems import RecipeError
from edgepress.targets.measuring.device import LocalDevice
from edgepress.targets.measuring.fake import FakeDevice
from edgepress.targets.measuring.machine import MachineState


def written(folder: Path, text: str) -> Path:
    (folder / "devices.yaml").write_text(text)
    return folder / "devices.yaml"


def test_the_example_is_a_devices_file(tmp_path: Path) -> None:
    found = read_devices(written(tmp_path, EXAMPLE))
    assert [(name, d.runtime, d.ssh is not None) for name, d in found.items()] == [
        ("here", "openvino", False),
        ("kiosk", "openvino", True),
        ("line-camera", "tensorrt", True),
        ("simulated", "fake", False),
    ]
    options = found["line-camera"].options(batch=4)
    assert (options.device, options.mode, options.batch) == ("cuda:0", "throughput", 4)


def test_keys_of_ssh_are_beside_the_file(tmp_path: Path) -> None:
    text = "devices:\n  lab: { runtime: openvino, ssh: { host: lab, identity: keys/id, known_hosts: ~/k } }\n"
    ssh = read_devices(written(tmp_path, text))["lab"].ssh
    assert ssh.identity == tmp_path / "keys" / "id"
    assert ssh.known_hosts == Path("~/k").expanduser()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty; `compress devices example` prints one to start from"),
        ("[1]", ":1:1: expected a devices file (a key devices: with a name for each), got a list"),
        ("devices: []", ":1:10: devices: expected names, each with its settings indented below it"),
        ("device: {}", "unknown key 'device'; did you mean 'devices'?"),
        ("devices:\n  a: {}", "devices.a.runtime: this key is required"),
        ("devices:\n  a: { runtime: openvin }", "unknown runtime 'openvin'; did you mean 'openvino'?"),
        ("devices:\n  openvino:CPU: { runtime: fake }", "expected a name of letters, digits, - _ and ."),
        ("devices:\n  ../x: { runtime: fake }", "expected a name of letters, digits, - _ and ."),
        ("devices:\n  a: { runtime: openvino, noise: {} }", "noise means nothing for the runtime openvino"),
        (
            "devices:\n  a: { runtime: openvino, mode: throughput, copies: false }",
            "copies: false means nothing",
        ),
        ("devices:\n  a: { runtime: fake, ssh: { host: h } }", "ssh means nothing for the runtime fake"),
        (
            "devices:\n  a: { runtime: fake, thread: 2 }",
            "devices.a: unknown key 'thread'; did you mean 'threads'?",
        ),
        ("devices:\n  openvino: { runtime: openvino }", "openvino is a runtime, and no name for one device"),
        (
            "devices:\n  a: { runtime: openvino, compute_capabilities: [SM86] }",
            "devices.a.compute_capabilities: only tensorrt builds ahead of time, openvino does not",
        ),
        ("devices:\n  a: { runtime: fake, threads: two }", "expected a whole number, 0 to 1024, got 'two'"),
        ("devices:\n  a: { runtime: fake, mode: fast }", "expected 'latency' or 'throughput', got 'fast'"),
        (
            "devices:\n  a: { runtime: openvino, ssh: { port: 22 } }",
            "devices.a.ssh.host: this key is required",
        ),
        ("devices:\n  a: { runtime: fake, noise: { launch_sd: -1 } }", "expected a number, 0 to 1, got -1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_mistakes_are_told_at_their_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        read_devices(written(tmp_path, text))
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"{tmp_path / 'devices.yaml'}:")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        read_devices(written(tmp_path, "devices:\n  a: { runtime: fak }\n  b: { threads: 1 }\n"))
    assert len(raised.value.problems) == 2


def test_names_of_the_file_and_labels_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "devices:\n  lab: { runtime: onnxruntime, threads: 3 }\n")
    found = find_devices(["lab", "openvino:CPU"], path)
    assert (found["lab"].threads, found["openvino:CPU"].device) == (3, "CPU")
    monkeypatch.chdir(tmp_path)
    assert find_devices(["lab"], None)["lab"].threads == 3  # devices.yaml of the current folder
    with pytest.raises(CompressError, match=r"unknown device 'lap'; did you mean 'lab'\?.* in devices\.yaml"):
        find_devices(["lap"], None)


def test_what_the_command_line_does_not_name_stays() -> None:
    section = DeviceSection(runtime="openvino", threads=3)
    assert changed(section, threads=None, mode="throughput") == DeviceSection(
        runtime="openvino", threads=3, mode="throughput"
    )


def test_devices_are_opened_and_closed(tmp_path: Path) -> None:
    sections = {
        "a": DeviceSection(runtime="fake", seed=5),
        "b": DeviceSection(runtime="onnxruntime", threads=1),
    }
    with opened(sections, 2) as devices:
        assert isinstance(devices["a"], FakeDevice) and isinstance(devices["b"], LocalDevice)
        assert (devices["b"].label, devices["b"].options.threads, devices["b"].options.batch) == ("b", 1, 2)


def test_another_power_mode_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDevice, "_state", lambda self: MachineState(governor="powersave"))
    wanted = {"a": DeviceSection(runtime="fake", power_mode="performance")}
    with (
        pytest.raises(
            DeviceUnavailableError, match="a: its CPU governor is 'powersave', and the devices file says"
        ),
        opened(wanted),
    ):
        pass
    with opened({"a": DeviceSection(runtime="fake", power_mode="powersave")}):
        pass
