"""Hostile lines between a client and an agent: a real agent over pipes, and agents that are none."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents import AGENT, LEASE, ONE_THREAD
from edgepress.errors import CompressError
from edgepress.targets.arrays import read_arrays
from edgepress.targets.measuring.device import DeviceLostError
from edgepress.targets.measuring.launch import result_of
from edgepress.targets.remote.agent import Agent
from edgepress.targets.remote.device import RemoteDevice, SshHost, _built
from edgepress.targets.remote.files import AgentFiles
from edgepress.targets.remote.lease import Lease
from edgepress.targets.remote.link import AgentLink
from edgepress.targets.remote.wire import (
    PROTOCOL,
    Message,
    WireError,
    decode,
    digest,
    encode,
    facts_of,
    frozen_from,
)
from edits import replaced

LEASE_NOW = {**LEASE, "wait_s": 0}
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def own_leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


class Talk:
    """A real agent over pipes."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(AGENT, stdin=pipe, stdout=pipe, stderr=pipe)
        self.number = 0

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.number += 1
        self.send(encode(self.number, {"do": do, **arguments}))
        while (message := decode(self.process.stdout.readline())).body is None:
            pass
        return message.body

    def send(self, content: bytes) -> None:
        self.process.stdin.write(content)
        self.process.stdin.flush()

    def ended(self) -> str:
        """Its last words; the device is free again."""
        self.process.wait(20)
        words = self.process.stderr.read().decode()
        Lease("CPU", wait_s=5).release()
        return words


@pytest.mark.parametrize("silence", ["soon", None, -1, [1], True, 10**9])
def test_a_bad_silence_is_refused(silence: Any) -> None:
    talk = Talk()
    told = talk.ask("hello", protocol=PROTOCOL, silence_s=silence)
    assert told["exit_code"] == 2
    assert told["error"] == f"silence_s {silence!r}: expected seconds, from 0 to 86400"
    talk.process.stdin.close()
    talk.ended()


def test_after_a_bad_silence_the_lease_goes_with_the_connection() -> None:
    talk = Talk()
    assert talk.ask("hello", protocol=PROTOCOL, silence_s="soon")["exit_code"] == 2
    assert talk.ask("lease", **LEASE_NOW) == {"ok": None}
    with pytest.raises(CompressError, match="leased to"):
        Lease("CPU")
    talk.process.stdin.close()
    talk.ended()


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        pytest.param(b'{"id":9,"sha256":"x","body":{"size":NaN}}\n', "a line is not JSON", id="NaN"),
        pytest.param(b'{"alive":' + b"9" * 400 + b"}\n", "a line is not JSON", id="endless number"),
        pytest.param(b"[" * 3_000_000 + b"\n", "a line has more than 2,097,152 values", id="many values"),
        pytest.param(b"x" * (5 << 20), "a line is longer than 4 MB", id="too long"),
    ],
)
def test_one_bad_line_ends_the_agent_and_frees_the_device(sent: bytes, words: str) -> None:
    talk = Talk()
    assert talk.ask("lease", **LEASE_NOW) == {"ok": None}
    with contextlib.suppress(BrokenPipeError):
        talk.send(sent)
    assert words in talk.ended()


def test_a_flood_of_requests_ends_the_agent() -> None:
    talk = Talk()
    assert talk.ask("lease", **LEASE_NOW) == {"ok": None}
    flood = b"".join(encode(n, {"do": "facts", "padding": "x" * 1000}) for n in range(2, 2000))
    with contextlib.suppress(BrokenPipeError):
        talk.send(flood)
    assert "more than 2 requests wait" in talk.ended()


@pytest.mark.parametrize("size", [10**15, 10**19, -1, 1.5, "7", True, None, [7]])
def test_a_size_is_looked_at_before_a_byte_is_taken(size: Any, tmp_path: Path) -> None:
    files = AgentFiles(tmp_path / "files", tmp_path)
    with pytest.raises(CompressError, match=r"expected a whole number to|bytes are to come"):
        files.need([(digest(b"x"), size)])
    with pytest.raises(CompressError, match="was not announced"):
        files.put(digest(b"x"), 0, b"x")


def test_a_negative_size_does_not_make_room_for_another(tmp_path: Path) -> None:
    files = AgentFiles(tmp_path / "files", tmp_path)
    with pytest.raises(CompressError, match="expected a whole number"):
        files.need([(digest(b"x"), 1 << 36), (digest(b"y"), -(1 << 36))])
    with pytest.raises(CompressError, match="65 files are to come; 64 are taken at once"):
        files.need([(digest(str(n).encode()), 1) for n in range(65)])


@pytest.mark.parametrize(
    "wrong",
    [{"iterations": -1}, {"iterations": 10**12}, {"iterations": 1.5}, {"warmup_s": -1}, {"seconds": 1e9}],
    ids=str,
)
def test_a_launch_has_bounds(wrong: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(tmp_path)
    monkeypatch.setattr(agent, "_engine", lambda sha256, opened: None)
    monkeypatch.setattr(agent, "_sequences", lambda named: [{} for _ in named])
    arguments = {
        "engine": "",
        "opened": {},
        "feeds": "",
        "iterations": 11,
        "warmup_s": 0,
        "seconds": 0,
        **wrong,
    }
    told = decode(agent.answer(Message(1, {"do": "launch", **arguments}))).body
    assert told["exit_code"] == 2
    assert told["error"].startswith(f"{next(iter(wrong))} {next(iter(wrong.values()))}: expected")


@pytest.mark.parametrize("seconds", [-1, 1e9])
def test_the_limits_of_an_engine_have_bounds(seconds: float) -> None:
    talk = Talk()
    limits = {"seconds": seconds, "bytes": 0, "raised_by": ["a", "b"]}
    told = talk.ask("lease", **{**LEASE_NOW, "limits": limits})
    assert told == {
        "error": f"limits.seconds {float(seconds)!r}: expected seconds, from 0 to 86400",
        "exit_code": 2,
    }
    assert talk.ask("lease", **LEASE_NOW) == {"ok": None}
    talk.process.stdin.close()
    talk.ended()


@pytest.mark.parametrize("count", [0, 65])
def test_so_many_engines_do_not_take_turns(count: int, tmp_path: Path) -> None:
    asked = {"engines": [{"engine": "", "feeds": ""}] * count, "iterations": 11, "warmup_s": 0, "seed": 0}
    told = decode(Agent(tmp_path).answer(Message(1, {"do": "launch_turns", **asked}))).body
    assert told == {"exit_code": 2, "error": f"{count} engines: from 1 to 64 take turns"}


# Arrays


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def test_arrays_come_back_bit_for_bit() -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float16).reshape(2, 3), "f": np.asfortranarray(np.eye(3)),
        "scalar": np.float32(2.5), "none": np.empty((0, 4), np.int64), "text": np.array(["x", "yy"]),
    }  # fmt: skip
    found = read_arrays(io.BytesIO(npz(**arrays)))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


def headed(header: str, content: bytes = b"1234") -> bytes:
    """A file with one array whose header says something else than its bytes."""
    text = header.encode().ljust(118) + b"\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(npz(compressed=True, x=np.zeros(100_000_000, np.uint8)), "is compressed", id="a bomb"),
        pytest.param(
            headed("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }"),
            "declares 4,000,000,000,000,000 bytes", id="endless",
        ),
        pytest.param(
            headed("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"), "no array has", id="negative"
        ),
        pytest.param(
            headed("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"), "declares 8 bytes", id="short"
        ),
        pytest.param(
            headed("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"), "Object arrays", id="pickle"
        ),
        pytest.param(b"PK", "not a zip file", id="no zip"),
    ],
)  # fmt: skip
def test_arrays_that_are_not_taken(content: bytes, words: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ValueError, zipfile.BadZipFile), match=words):
        read_arrays(io.BytesIO(content))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


# The client against what is no agent

FROZEN = {"path": "/e", "sha256": "ab", "bytes": 3, "settings": {}, "layers": []}
LAYER = {"name": "n", "type": "t", "precision": "int8", "ms": 1.0, "onnx_nodes": ["n"], "macs": 3}
STATE = {"load_average": 0.5}
FACTS = {
    "runtime": "openvino", "device": "CPU", "version": None, "capabilities": {}, "machine": "m", "state": STATE
}  # fmt: skip
RESULT = {
    "load_ms": 1.0, "first_inference_ms": 1.0, "warmup_iterations": 1, "warmup_s": 1.0, "warmed_up": True,
    "calls_per_sample": 1, "samples_ns": [5, 6], "settings": {}, "started_at": "t", "before": STATE, "after": STATE,
}  # fmt: skip


def test_true_answers_are_understood() -> None:
    assert frozen_from({**FROZEN, "layers": [LAYER]}).layers[0].onnx_nodes == ("n",)
    assert facts_of(FACTS).state.load_average == 0.5
    assert result_of(RESULT).samples_ns == (5, 6)


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (frozen_from, {**FROZEN, "bytes": -1}),
        (frozen_from, {**FROZEN, "bytes": "many"}),
        (frozen_from, {**FROZEN, "layers": [{**LAYER, "macs": -5}]}),
        (frozen_from, {**FROZEN, "layers": [{**LAYER, "ms": "x"}]}),
        (frozen_from, {**FROZEN, "layers": 3}),
        (facts_of, {**FACTS, "machine": 3}),
        (facts_of, {**FACTS, "capabilities": {"a": []}}),
        (result_of, {**RESULT, "samples_ns": [10**400]}),
        (result_of, {**RESULT, "samples_ns": [True]}),
        (result_of, {**RESULT, "load_ms": -1.0}),
        (result_of, {**RESULT, "peak_bytes": -1}),
        (_built, {"frozen": FROZEN, "onnx_sha256": "", "files": []}),
        (
            _built,
            {"frozen": FROZEN, "onnx_sha256": "", "files": [{"name": "e", "sha256": "ab", "bytes": -1}]},
        ),
        (
            _built,
            {"frozen": FROZEN, "onnx_sha256": "", "files": [{"name": "e\x1b", "sha256": "", "bytes": 1}]},
        ),
    ],
)
def test_answers_that_cannot_be(read: Any, told: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # which ends the connection, see AgentLink.ask
        read(told)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "9" * 400])
def test_no_line_has_numbers_that_are_none(number: str) -> None:
    with pytest.raises(WireError, match="a line is not JSON"):
        decode(f'{{"id":1,"sha256":"x","body":{{"size":{number}}}}}\n'.encode())


EVIL_AGENT = """
import base64, hashlib, json, sys
def answer(number, body):
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    sys.stdout.write(f'{{"id":{number},"sha256":"{hashlib.sha256(text.encode()).hexdigest()}","body":{text}}}\\n')
    sys.stdout.flush()
who = {"protocol": %d, "version": "9", "user": "u", "host": "h", "pid": 1}
for line in sys.stdin:
    told = json.loads(line)
    if "alive" in told: continue
    do, number = told["body"]["do"], told["id"]
    if do == "hello": answer(number, {"ok": who})
    elif do == "lease": answer(number, {"ok": None})
    elif do == "need": answer(number, {"ok": []})
    else:
        %s
"""


def evil(does: str) -> AgentLink:
    command = [sys.executable, "-c", EVIL_AGENT % (PROTOCOL, does)]
    return AgentLink("lab", SshHost("here", heartbeat_s=5), command, dict(LEASE))


def test_an_agent_that_floods_waits_and_takes_no_memory() -> None:
    flood = "\n        ".join(["while True:", '    answer(1, {"ok": "x" * 1000000})'])
    link = evil(flood)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DeviceLostError, match="a line for question 1 came"):
        link.ask("facts", dict)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_an_agent_with_endless_errors() -> None:
    link = evil('[sys.stderr.write("z" * 99 + chr(27) + chr(10)) for _ in range(10**5)]; sys.exit()')
    with pytest.raises(DeviceLostError, match="the connection ended") as lost:
        link.ask("facts", dict)
    assert len(str(lost.value)) < 20_000
    assert "\x1b" not in str(lost.value)


def test_an_exit_code_that_is_none() -> None:
    with pytest.raises(DeviceLostError, match="an answer is neither a result nor an error"):
        evil('answer(number, {"error": "x", "exit_code": []})').ask("facts", dict)


def test_an_engine_that_is_larger_than_engines_are(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", [x], [y])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    files = [{"name": "e", "sha256": "ab", "bytes": 10**15}]
    told = f'"frozen": {FROZEN}, "onnx_sha256": told["body"]["model"]["sha256"], "files": {files}'
    does = f'answer(number, {{"ok": {{{told}}}}})'
    command = [sys.executable, "-c", EVIL_AGENT % (PROTOCOL, does)]
    device = RemoteDevice("lab", "onnxruntime", ONE_THREAD, SshHost("here", heartbeat_s=5), command)
    started = time.monotonic()
    with pytest.raises(DeviceLostError, match="it tells of an engine of more than"):
        device.build(tmp_path / "m.onnx", tmp_path / "out", {"x": np.zeros((1, 4), np.float32)})
    assert time.monotonic() - started < 10


def test_a_file_that_asks_to_be_sent_again_and_again() -> None:
    wanted = json.dumps([digest(b"content")] * 3)
    sent = replaced(EVIL_AGENT, 'answer(number, {"ok": []})', f'answer(number, {{"ok": {wanted}}})')
    have = 'told["body"]["offset"] + len(base64.b64decode(told["body"]["data"]))'
    count = f'answer(number, {{"ok": {have}}}); print(do, file=sys.stderr)'
    link = AgentLink(
        "lab", SshHost("here", heartbeat_s=5), [sys.executable, "-c", sent % (PROTOCOL, count)], dict(LEASE)
    )
    link.send([b"content"])
    assert str(link.lose("told")).count("put") == 1


@pytest.mark.parametrize(
    "own", [{"artefacts": [{"path": "/etc/passwd", "kind": "x"}]}, {"options": {}}], ids=str
)
def test_an_agent_does_not_say_what_is_of_this_end(own: dict[str, Any]) -> None:
    told = {"path": "e.xml", "sha256": "ab" * 32, "bytes": 3, "settings": {}, "layers": []}
    assert frozen_from(told).artefacts == ()
    with pytest.raises(ValueError, match=f"an engine that tells its {next(iter(own))}"):
        frozen_from({**told, **own})
