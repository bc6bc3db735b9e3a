"""Devices over SSH: a real server on loopback; connections that are killed, late or garbled; what agents refuse."""

from __future__ import annotations

import base64
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import line_proxy
import numpy as np
import odd_agent
import onnx
import pytest
import ssh_server
from agents import AGENT, LEASE, ONE_THREAD
from edgepress import __version__
from edgepress.errors import CompressError, DeviceUnavailableError
from edgepress.targets.measuring.device import DeviceLostError, Frozen, LocalDevice
from edgepress.targets.measuring.digests import outputs_digest
from edgepress.targets.measuring.feeds import FeedSequence, repeated, save_feeds
from edgepress.targets.remote.agent import Agent
from edgepress.targets.remote.device import RemoteDevice, SshHost
from edgepress.targets.remote.lease import Lease
from edgepress.targets.remote.link import AgentLink
from edgepress.targets.remote.ssh import explained, ssh_command
from edgepress.targets.remote.wire import PROTOCOL, Message, WireError, alive, decode, digest, encode, lines
from edits import replaced
from tiny_onnx import conv_float, conv_qdq

needs_ssh = pytest.mark.skipif(
    shutil.which("ssh") is None, reason="there is no `ssh` here: install OpenSSH's client"
)
HERE = SshHost("here")
OPENED = {"float_precision": "f32", "batch": 1}


@pytest.fixture(autouse=True)
def own_leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents and leases of a test are nobody else's."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


# Over SSH


@pytest.fixture(scope="module", params=ssh_server.kinds())
def server(request, tmp_path_factory):
    with ssh_server.running(request.param, tmp_path_factory.mktemp(request.param)) as started:
        yield started


@dataclass(frozen=True)
class Ends:
    """One model built on both sides of a connection."""

    feeds: dict[str, np.ndarray]
    here: LocalDevice
    there: RemoteDevice
    built_here: Frozen
    built_there: Frozen
    folder: Path


@pytest.fixture(scope="module")
def ends(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ends")
    onnx.save(conv_qdq(), str(folder / "tiny.onnx"))
    fed = {"x": np.random.default_rng(1).standard_normal((2, 8, 8, 8)).astype(np.float32)}
    here = LocalDevice("here", "openvino", ONE_THREAD, folder)
    there = RemoteDevice("lab", "openvino", ONE_THREAD, server.host)
    built_here = here.build(folder / "tiny.onnx", folder / "here", fed)
    built_there = there.build(folder / "tiny.onnx", folder / "there", fed)
    yield Ends(fed, here, there, built_here, built_there, folder)
    there.close()
    assert cleared(server.temporary)


@needs_ssh
class TestOverSsh:
    def test_an_engine_built_there_is_the_one_built_here(self, ends):
        assert ends.built_there.sha256 == ends.built_here.sha256
        assert ends.built_there.bytes == ends.built_here.bytes
        assert ends.built_there.settings == ends.built_here.settings
        assert ends.built_there.precision == ends.built_here.precision
        for name in ("model.xml", "model.bin"):
            assert (ends.folder / "there" / name).read_bytes() == (ends.folder / "here" / name).read_bytes()

    def test_facts_are_of_the_machine_there(self, ends):
        there, here = ends.there.facts(), ends.here.facts()
        assert (there.runtime, there.version, there.machine) == (here.runtime, here.version, here.machine)
        assert there.capabilities == {**here.capabilities, "edgepress": __version__}

    def test_outputs_are_equal_bit_for_bit(self, ends):
        there = ends.there.outputs(ends.built_there, ends.feeds)
        here = ends.here.outputs(ends.built_here, ends.feeds)
        assert [a.tobytes() for a in there] == [a.tobytes() for a in here]
        assert [(a.dtype, a.shape) for a in there] == [(a.dtype, a.shape) for a in here]

    def test_launches_there_and_here(self, ends):
        results = [
            device.launch(frozen, repeated(ends.feeds), 11, 0.1)
            for device, frozen in ((ends.there, ends.built_there), (ends.here, ends.built_here))
        ]
        assert [len(r.samples_ns) for r in results] == [11, 11]
        assert all(min(r.samples_ns) > 0 for r in results)
        for same in ("engine_sha256", "outputs_sha256", "settings"):
            assert getattr(results[0], same) == getattr(results[1], same)

    def test_an_engine_of_this_machine_is_adopted_there(self, ends):
        adopted = ends.there.adopt(Path(ends.built_here.path))
        assert adopted.sha256 == ends.built_here.sha256
        assert ends.there.launch(adopted, repeated(ends.feeds), 11, 0.1).engine_sha256 == adopted.sha256

    def test_pairs_take_turns_there(self, ends):
        pair = ends.there.launch_turns([(ends.built_there, repeated(ends.feeds))] * 2, 25, 0.1, seed=0)
        assert [len(result.samples_ns) for result in pair] == [30, 30]  # whole turns of ten
        assert {result.engine_sha256 for result in pair} == {ends.built_here.sha256}

    def test_engines_of_other_inputs_take_turns_there_with_several_each(self, ends):
        """Three of one engine, three of the other; what was sent once is kept for the next round."""
        draw = np.random.default_rng(2)
        shape = ends.feeds["x"].shape
        feeds = [{"x": draw.standard_normal(shape).astype(np.float32)} for _ in range(6)]
        sequences = FeedSequence(tuple(feeds[:3])), FeedSequence(tuple(feeds[3:]))
        engines = [(ends.built_there, sequence) for sequence in sequences]
        rounds = [ends.there.launch_turns(engines, 11, 0.1, seed) for seed in (0, 1)]
        for taken in rounds:
            assert [len(result.samples_ns) for result in taken] == [12, 12]
            found = [result.outputs_sha256 for result in taken]
            wanted = [outputs_digest(ends.here.outputs(ends.built_here, s.feeds[0])) for s in sequences]
            assert found == wanted  # of the first inference

    def test_what_goes_wrong_there_is_told_and_the_connection_stays(self, ends):
        with pytest.raises(
            CompressError, match=r"^lab on 127\.0\.0\.1: the model takes the inputs \['x'\]"
        ) as e:
            ends.there.outputs(ends.built_there, {"image": np.zeros((1, 8, 8, 8), np.float32)})
        assert not isinstance(e.value, DeviceLostError)
        assert len(ends.there.outputs(ends.built_there, ends.feeds)) == 1

    def test_a_second_lease_names_who_holds_the_device(self, ends, server):
        holder = ends.there.there
        told = rf"CPU is leased to {holder.user} \(process {holder.pid} on {holder.host}\) since 20"
        with pytest.raises(DeviceUnavailableError, match=told):
            RemoteDevice("other name", "openvino", ONE_THREAD, server.host).facts()
        with pytest.raises(
            DeviceUnavailableError, match=told
        ):  # another runtime would be on the same hardware
            RemoteDevice("lab", "onnxruntime", ONE_THREAD, server.host).facts()

    def test_a_host_key_that_is_not_known_is_refused(self, server, tmp_path):
        file = tmp_path / "none"
        device = RemoteDevice("lab", "openvino", ONE_THREAD, replace(server.host, known_hosts=file))
        with pytest.raises(DeviceUnavailableError) as error:
            device.facts()
        assert str(error.value).splitlines()[0] == (
            f"lab: 127.0.0.1: its host key is not in {file}; add it: `ssh-keyscan -p {server.host.port} 127.0.0.1 >> "
            f"{file}`, and compare its fingerprint (`ssh-keygen -lf {file}`) with that on the device (`ssh-keygen -lf "
            "/etc/ssh/ssh_host_ed25519_key.pub` there)"
        )
        assert not file.exists()

    def test_a_host_key_that_changed_is_refused(self, server, tmp_path):
        ssh_server.new_key(tmp_path / "other")
        file = tmp_path / "known hosts, 100 %"
        file.write_text(f"[127.0.0.1]:{server.host.port} {(tmp_path / 'other.pub').read_text()}")
        device = RemoteDevice("lab", "openvino", ONE_THREAD, replace(server.host, known_hosts=file))
        with pytest.raises(DeviceUnavailableError, match=r"its host key is not the one in .*100 %"):
            device.facts()

    def test_another_key_is_not_let_in(self, server, tmp_path):
        ssh_server.new_key(tmp_path / "my key")
        device = RemoteDevice(
            "lab", "openvino", ONE_THREAD, replace(server.host, identity=tmp_path / "my key")
        )
        with pytest.raises(DeviceUnavailableError, match=r"it does not let .*@127\.0\.0\.1 in"):
            device.facts()

    def test_a_python_that_is_not_there(self, server):
        device = RemoteDevice("lab", "openvino", ONE_THREAD, replace(server.host, python="/no where/python3"))
        with pytest.raises(DeviceUnavailableError, match="there is no /no where/python3 there"):
            device.facts()


@needs_ssh
@pytest.mark.skipif(shutil.which("ps") is None, reason="there is no `ps` here, which tells who the worker is")
@pytest.mark.parametrize("killed", ["the agent", "the server's end", "ssh"])
@pytest.mark.parametrize("kind", ssh_server.kinds())
def test_killed_in_the_middle_of_a_launch(kind, killed, tmp_path, save, feeds):
    (tmp_path / "server").mkdir()
    with ssh_server.running(kind, tmp_path / "server") as server:
        device = RemoteDevice("lab", "onnxruntime", ONE_THREAD, server.host)
        frozen = device.build(save(conv_float()), tmp_path / "engine", feeds)
        agent = device.there.pid
        ssh = device._link._connection.pid
        victim = {"the agent": agent, "the server's end": parent(agent), "ssh": ssh}[killed]
        threading.Thread(target=kill_when_it_works, args=(victim, agent), daemon=True).start()
        start = time.monotonic()
        with pytest.raises(DeviceLostError, match=r"lab: lost 127\.0\.0\.1: the connection ended"):
            device.launch(frozen, repeated(feeds), 11, 0.1, seconds=60)
        assert time.monotonic() - start < 60  # it did not wait for the end of the launch
        assert gone(agent) and cleared(server.temporary)
        with pytest.raises(DeviceLostError, match="the connection ended"):
            device.launch(frozen, repeated(feeds), 11, 0.1)
        itself = victim == server.process.pid  # asyncssh may be what the agent is connected to
        assert (server.process.poll() is not None) is itself
        if itself:
            with pytest.raises(DeviceLostError, match="it does not answer"):
                device.reconnect()
        else:
            device.reconnect()
            assert device.launch(frozen, repeated(feeds), 11, 0.1).engine_sha256 == frozen.sha256
        device.close()


def parent(process: int) -> int:
    return int(
        subprocess.run(["ps", "-o", "ppid=", "-p", str(process)], capture_output=True, check=True).stdout
    )


def workers(group: int) -> bool:
    """Whether a worker runs in this process group."""
    listed = subprocess.run(
        ["ps", "-e", "-ww", "-o", "pgid=,args="], capture_output=True, text=True, check=True
    )
    rows = (line.split(maxsplit=1) for line in listed.stdout.splitlines())
    return any(int(row[0]) == group and "edgepress.targets.measuring.worker" in row[-1] for row in rows)


def kill_when_it_works(victim: int, agent: int) -> None:
    while not workers(agent):
        time.sleep(0.05)
    os.kill(victim, signal.SIGKILL)


def gone(group: int) -> bool:
    """Whether all processes of the group have ended, in a moment."""

    def ended() -> bool:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        return False

    return in_a_moment(ended)


def cleared(folder: Path) -> bool:
    """Whether no agent's folder is left, in a moment: the guard outlives the agent."""
    return in_a_moment(lambda: not list(folder.glob("edgepress-agent-*")))


def in_a_moment(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


# Connections that are not to be trusted


@pytest.mark.parametrize(
    ("how", "told"),
    [
        pytest.param("wrong id", "a line for question 4 came where 3 was asked", id="wrong id"),
        pytest.param("of an earlier question", "a line for question 2 came where 3 was asked", id="late"),
        pytest.param("wrong digest", "a line does not have the digest that it names", id="wrong digest"),
        pytest.param("not JSON", r"a line is not JSON: 'Welcome to Ubuntu", id="not JSON"),
        pytest.param("not ASCII", r"a line is not JSON: '\\xff", id="not ASCII"),
        pytest.param("deep", "a line is not JSON", id="too deep for the parser"),
        pytest.param("no message", "a line is no message", id="no message"),
        pytest.param("cut off", "the connection ended in the middle of a line", id="cut off"),
        pytest.param(
            "nothing", r"(?s)the connection ended\n.*what the program there said last", id="nothing"
        ),
        pytest.param("too long", "a line is longer than 64 MB", id="too long"),
        pytest.param("no result", "an answer is neither a result nor an error", id="no result"),
        pytest.param("another kind", "the answer to 'need' is not what this version knows", id="kind"),
        pytest.param("alive for another", "a line for question 999", id="sign of life for another"),
        pytest.param("file not asked for", "the answer to 'need' is not what", id="file not asked for"),
    ],
)
def test_an_answer_that_cannot_be_trusted_ends_the_connection(how, told):
    link = AgentLink("lab", HERE, [sys.executable, odd_agent.__file__, how, str(PROTOCOL)], {})
    for _ in range(2):
        with pytest.raises(DeviceLostError, match=told):
            link.send([b"content"])
    link.close()


def test_the_lines_are_what_their_description_says():
    link = AgentLink("lab", HERE, [sys.executable, odd_agent.__file__, "as it should", str(PROTOCOL)], {})
    link.send([b"content"])
    assert (link.there.user, link.there.version) == ("u", "9.9")
    link.close()


def test_another_protocol_is_refused_and_another_version_is_not():
    command = [sys.executable, odd_agent.__file__, "as it should", str(PROTOCOL + 1)]
    device = RemoteDevice("lab", "openvino", ONE_THREAD, HERE, command)
    with pytest.raises(
        DeviceUnavailableError, match=rf"edgepress 9\.9 on here speaks protocol {PROTOCOL + 1}"
    ):
        device.facts()
    device = RemoteDevice("lab", "openvino", ONE_THREAD, HERE, [*command[:-1], str(PROTOCOL)])
    with pytest.raises(DeviceLostError):
        device.facts()  # answered with a list
    assert device.there.version == "9.9"


def test_a_program_that_is_not_there():
    with pytest.raises(DeviceUnavailableError, match=r"/nowhere/ssh cannot be started \(No such file"):
        RemoteDevice("lab", "openvino", ONE_THREAD, HERE, ["/nowhere/ssh"]).facts()


def test_a_connection_that_goes_quiet_is_given_up_after_the_heartbeat():
    """The proxy lets the answers to hello, lease and one question through."""
    command = [sys.executable, line_proxy.__file__, "stall", "3", *AGENT]
    link = AgentLink("lab", replace(HERE, heartbeat_s=3), command, LEASE)
    assert link.ask("need", list, files=[]) == []
    pid, start = link.there.pid, time.monotonic()
    with pytest.raises(DeviceLostError, match="no sign of life for 3 s"):
        link.ask("need", list, files=[])
    assert 3 <= time.monotonic() - start < 30
    assert gone(pid)


def test_an_answer_that_takes_too_long_is_not_waited_for(save, feeds, tmp_path):
    """Signs of life come all the while."""
    device = RemoteDevice("lab", "onnxruntime", ONE_THREAD, HERE, AGENT)
    frozen = device.adopt(save(conv_float()))
    pid = device.there.pid
    device._link._host = replace(HERE, timeout_s=3)  # how long the adoption may take does not matter here
    with pytest.raises(DeviceLostError, match="no answer to 'launch' within 3 s"):
        device.launch(frozen, repeated(feeds), 10**7, 0.1)
    assert gone(pid)


def test_garbled_lines_never_give_a_wrong_answer(tmp_path):
    """Some 200 questions, a flipped bit in one of 50 lines: right answers, or DeviceLostError."""
    command = [sys.executable, line_proxy.__file__, "garble", "1", "0.02", str(tmp_path / "starts"), *AGENT]
    link = AgentLink("lab", replace(HERE, heartbeat_s=5), command, LEASE)
    draw, right, lost = random.Random(0), 0, 0
    for _ in range(67):  # each asks what is needed, puts it there and gets it back
        content = draw.randbytes(50)
        try:
            link.send([content])
            assert link.fetch(digest(content), len(content)) == content
            right += 1
        except DeviceLostError:
            lost += 1
            reconnected(link)
    link.close()
    assert right > 30 and lost > 3


def reconnected(link: AgentLink) -> None:
    """Connect through the same garbling proxy, which may need several attempts."""
    for _ in range(20):
        try:
            link.reconnect()
            return
        except DeviceLostError:
            continue
    raise AssertionError("never connected again")


# The agent's side


@pytest.fixture
def agent(tmp_path: Path):
    """Asks an agent in this process; its device is leased. Errors come back as text."""
    own = Agent(tmp_path)

    def ask(do, **arguments):
        answer = decode(own.answer(Message(1, {"do": do, **arguments}))).body
        return answer["ok"] if "ok" in answer else f"{answer['error']} (exit code {answer['exit_code']})"

    assert ask("lease", **LEASE, wait_s=0) is None
    yield ask
    own._lease.release()


def put(ask, content: bytes, sha256: str, offset: int = 0):
    return ask("put", sha256=sha256, offset=offset, data=base64.b64encode(content).decode())


def test_a_file_counts_when_all_of_it_came_with_its_digest(agent):
    name = digest(b"content")
    assert agent("need", files=[[name, 7]]) == [name]
    assert put(agent, b"con", name) == 3
    assert agent("get", sha256=name, offset=0).startswith(f"file {name[:12]} is not there")
    assert put(agent, b"tent", name, 3) == 7
    assert base64.b64decode(agent("get", sha256=name, offset=0)) == b"content"
    assert agent("need", files=[[name, 7]]) == []


@pytest.mark.parametrize(
    ("offset", "chunk", "told"),
    [
        pytest.param(0, b"contents", "7 bytes were announced, and 8 came", id="more than announced"),
        pytest.param(3, b"tent", "bytes from 3 came, and 0 are there", id="a part is missing"),
        pytest.param(0, b"CONTENT", "what came has the SHA-256 65f23e22a9bf", id="other bytes"),
    ],
)
def test_what_a_file_is_not_made_of(agent, offset, chunk, told):
    name = digest(b"content")
    agent("need", files=[[name, 7]])
    assert told in put(agent, chunk, name, offset)
    assert agent("need", files=[[name, 7]]) == [name]


def test_what_the_agent_refuses(agent, tmp_path):
    name = digest(b"content")
    assert "was not announced" in put(agent, b"content", name)
    assert "is not a SHA-256" in agent("need", files=[["../../etc/passwd", 7]])
    assert "bytes are to come" in agent("need", files=[[name, 1 << 60]])
    assert agent("run", command="id") == "the agent does not know 'run' (exit code 2)"
    how = {"opened": OPENED, "iterations": 1, "warmup_s": 0, "seconds": 0}
    assert agent("launch", engine="/bin/sh", feeds=name, **how).startswith("engine /bin/sh is not there")
    assert agent("need").startswith("need failed: TypeError")
    unleased = decode(Agent(tmp_path).answer(Message(1, {"do": "facts"}))).body
    assert unleased == {"error": "the device must be leased first", "exit_code": 2}


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "", "a\\b", "a\nb"])
def test_an_engines_file_stays_in_its_folder(agent, name):
    sha256 = digest(b"x")
    agent("need", files=[[sha256, 1]])
    put(agent, b"x", sha256)
    assert "is not a plain file name" in agent("adopt", files=[{"name": name, "sha256": sha256}])


def test_inputs_are_not_unpickled(agent, tmp_path, save):
    content = save(conv_float()).read_bytes()
    path = save_feeds([{"x": np.array([{}], object)}], tmp_path)
    sha256 = digest(path.read_bytes())
    agent("need", files=[[sha256, path.stat().st_size], [digest(content), len(content)]])
    put(agent, path.read_bytes(), sha256)
    put(agent, content, digest(content))
    model = {"name": "m.onnx", "sha256": digest(content)}
    told = agent("build", model=model, feeds=sha256, float_precision=None)
    assert "Object arrays cannot be loaded" in told


def started() -> subprocess.Popen[bytes]:
    """An agent that has answered `hello`."""
    process = subprocess.Popen(AGENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(encode(1, {"do": "hello", "protocol": PROTOCOL, "silence_s": 1}))
    process.stdin.flush()
    assert decode(process.stdout.readline()).body["ok"]["version"] == __version__
    return process


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        pytest.param(None, "", id="stdin closed"),
        pytest.param(
            replaced(encode(2, {"do": "need", "files": []}), b"need", b"nEed"), "digest", id="garbled"
        ),
        pytest.param(b"", "the client was silent for 1 s", id="a client that is gone without a word"),
    ],
)
def test_the_agent_ends_with_its_connection_and_leaves_nothing(sent, told, tmp_path):
    process = started()
    assert len(list(tmp_path.glob("edgepress-agent-*"))) == 1
    if sent is None:
        process.stdin.close()
    else:
        process.stdin.write(sent)
        process.stdin.flush()
    process.wait(30)
    assert told in process.stderr.read().decode()
    assert gone(process.pid) and cleared(tmp_path)


def test_files_in_a_workdir_are_sent_once_and_read_again(tmp_path):
    host = replace(HERE, workdir=str(tmp_path / "kept"))
    lease = {**LEASE, "workdir": host.workdir}
    link = AgentLink("lab", host, AGENT, lease)
    link.send([b"content", b"other"])
    (tmp_path / "kept" / digest(b"other")).write_bytes(b"OTHER")
    link.reconnect()
    wanted = [[digest(b"content"), 7], [digest(b"other"), 5]]
    assert link.ask("need", list, files=wanted) == [digest(b"other")]
    link.close()
    assert [p.name for p in (tmp_path / "kept").iterdir()] == [digest(b"content")]


# Parts


def test_one_lease_at_a_time():
    first = Lease("openvino:CPU")
    other = Lease("openvino:GPU")
    with pytest.raises(DeviceUnavailableError, match=rf"leased to .* \(process {os.getpid()} on "):
        Lease("openvino:CPU", wait_s=0.2)
    first.release()
    Lease("openvino:CPU").release()
    other.release()


def test_a_lease_is_not_written_through_a_link(tmp_path):
    lease = Lease("openvino:CPU")
    lease.release()
    lease.path.unlink()
    lease.path.symlink_to(tmp_path / "precious")
    with pytest.raises(DeviceUnavailableError, match="the lease cannot be opened"):
        Lease("openvino:CPU")
    assert not (tmp_path / "precious").exists()


def test_a_line_byte_for_byte():
    assert encode(7, {"do": "need", "files": ["é"]}) == (
        b'{"id":7,"sha256":"f00659029ca89dcb1de8c4948b5c12e203fbe37972691659d39a9316de4bf12d",'
        b'"body":{"do":"need","files":["\\u00e9"]}}\n'
    )
    assert decode(encode(7, {"ok": [0.1, None]})) == Message(7, {"ok": [0.1, None]})
    assert decode(alive(7)) == Message(7, None)


def test_lines_come_whole_in_whatever_pieces_they_are_read():
    text = b"one\ntwo\n\nthree\n"
    for size in (1, 2, 5, 100):
        pieces = iter([text[i : i + size] for i in range(0, len(text), size)])
        assert list(lines(lambda left=pieces: next(left, b""))) == [b"one\n", b"two\n", b"\n", b"three\n"]
    pieces = iter([b"one\ntw"])
    found = lines(lambda: next(pieces, b""))
    assert next(found) == b"one\n"
    with pytest.raises(WireError, match="in the middle of a line: 'tw'"):
        next(found)


def test_a_message_that_nobody_would_read_is_not_sent():
    with pytest.raises(CompressError, match="65 MB in one message"):
        encode(1, {"ok": "x" * (65 << 20)})


def test_a_model_with_weights_in_other_files_is_refused(tmp_path, feeds):
    onnx.save(
        conv_float(), str(tmp_path / "m.onnx"), save_as_external_data=True, location="w", size_threshold=0
    )
    device = RemoteDevice("lab", "onnxruntime", ONE_THREAD, HERE, AGENT)
    with pytest.raises(CompressError, match="its weights are in other files"):
        device.build(tmp_path / "m.onnx", tmp_path / "out", feeds)


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "-oProxyCommand=id"},
        {"host": "two words"},
        {"host": "line\nbreak"},
        {"host": ""},
        {"user": "-l"},
        {"user": "a\tb"},
        {"port": 65536},
        {"port": -1},
        {"python": "-c"},
        {"python": "python\n3"},
        {"workdir": "a\x1b[0m"},
        {"heartbeat_s": 0},
        {"identity": Path("/nowhere/key")},
        {"known_hosts": Path('/a"b')},
    ],
    ids=str,
)
def test_a_host_that_ssh_would_misread_is_refused(wrong):
    with pytest.raises(CompressError, match=next(iter(wrong)) if wrong != {"host": ""} else "needs a host"):
        SshHost(**{"host": "lab", **wrong})


def test_the_command_of_ssh(tmp_path):
    (tmp_path / "my key").touch()
    host = SshHost("lab.local", "measure", 2222, tmp_path / "my key", Path("/k/100%"), "/opt/my env/python")
    command = ssh_command(host)
    assert command[:2] == ["ssh", "-T"]
    assert command[-7:-1] == ["-l", "measure", "-p", "2222", "--", "lab.local"]
    assert command[-1] == "exec '/opt/my env/python' -P -m edgepress.targets.remote.agent"
    options = [command[i + 1] for i, part in enumerate(command) if part == "-o"]
    assert options == [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        "ServerAliveInterval=5",
        "ServerAliveCountMax=3",
        "ConnectTimeout=15",
        "ControlMaster=no",
        "ControlPath=none",
        "ForwardAgent=no",
        "ClearAllForwardings=yes",
        "RemoteCommand=none",
        'UserKnownHostsFile="/k/100%%"',
        "GlobalKnownHostsFile=none",
        f'IdentityFile="{tmp_path}/my key"',
        "IdentitiesOnly=yes",
    ]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("ssh: Could not resolve hostname lab: Name or service not known", "no machine of this name"),
        ("ssh: connect to host lab port 22: Connection refused", "it does not answer"),
        ("ssh: connect to host lab port 22: Connection timed out", "it does not answer"),
        ("/usr/bin/python3: No module named edgepress", f"pip install edgepress=={__version__}"),
        ("ModuleNotFoundError: No module named 'edgepress'", f"pip install edgepress=={__version__}"),
        ("Unknown option: -P\nusage: python3 [option] ...", "older than Python 3.11"),
        ("bash: line 1: exec: python3: not found", "there is no python3 there"),
        ("Segmentation fault", None),
    ],
)
def test_what_ssh_says_is_explained(said, told):
    found = explained(said, SshHost("lab"))
    assert found is None if told is None else told in found
