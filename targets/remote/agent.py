"""What runs on a remote device: `python -m edgepress.targets.remote.agent`, requests on stdin, answers on stdout.

It does what `Agent.operations` lists for one client and nothing else, and ends with the connection (`guard`).
"""

from __future__ import annotations

import base64
import getpass
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from queue import Full, Queue
from typing import Any

from ...errors import CompressError, ExitCode
from ...isolated import Limits
from ...version import __version__
from .. import TARGETS
from ..base import Feeds, FloatPrecision
from ..measuring.device import LIMITS, Frozen, LocalDevice
from ..measuring.feeds import FeedSequence, read_feeds
from . import guard
from .files import AgentFiles
from .lease import Lease
from .wire import (
    MAX_REQUEST,
    PROTOCOL,
    Body,
    Message,
    WireError,
    alive,
    decode,
    digest,
    encode,
    limits_of,
    lines,
    options_of,
    packed,
    told_frozen,
)

ALIVE_S = 1.0
LONGEST_S = 86_400.0
MOST_ITERATIONS = 100_000_000
MOST_ENGINES = 64
WAITING = 2
"""Requests that may wait; a client asks one after the other."""
SILENCE_S = 60.0
"""Without a line from the client for so long the connection is dead, also where the network has not told so."""


class Agent:
    """One client's device. scratch: an own folder that goes with the agent."""

    def __init__(self, scratch: Path) -> None:
        self.silence_s = SILENCE_S
        self.operations: dict[str, Callable[..., Any]] = {
            "hello": self._hello,
            "lease": self._lease_device,
            "facts": lambda: asdict(self._device().facts()),
            "need": lambda files: self._stored().need([(sha256, size) for sha256, size in files]),
            "put": lambda sha256, offset, data: self._stored().put(
                sha256, offset, base64.b64decode(data, validate=True)
            ),
            "get": lambda sha256, offset: _base64(self._stored().read(sha256, offset)),
            "build": self._build,
            "adopt": self._adopt,
            "outputs": self._outputs,
            "launch": self._launch,
            "launch_turns": self._launch_turns,
            "bye": lambda: None,
        }
        self._scratch = scratch
        self._lease: Lease | None = None
        self._leased: tuple[LocalDevice, AgentFiles] | None = None
        self._engines: dict[str, Frozen] = {}
        self._fed: dict[str, FeedSequence] = {}
        self._own_files = True

    def answer(self, message: Message) -> bytes:
        """The line that answers a request; what fails is told, never raised."""
        arguments = dict(message.body or {})
        do = arguments.pop("do", None)
        try:
            if do not in self.operations:
                raise CompressError(f"the agent does not know {do!r}")
            return encode(message.id, {"ok": self.operations[do](**arguments)})
        except CompressError as error:
            return encode(message.id, {"error": str(error), "exit_code": int(error.exit_code)})
        except Exception as error:
            traceback.print_exc()
            told = f"{do} failed: {type(error).__name__}: {error}"
            return encode(message.id, {"error": told, "exit_code": int(ExitCode.INTERNAL_ERROR)})

    def _hello(self, protocol: int, silence_s: float) -> Body:
        """Who is here; the client compares the protocols."""
        self.silence_s = _number("silence_s", silence_s, LONGEST_S)
        who = {"user": getpass.getuser(), "host": socket.gethostname(), "pid": os.getpid()}
        return {"protocol": PROTOCOL, "version": __version__, **who}

    def _lease_device(
        self, label: str, runtime: str, options: Body, workdir: str, limits: Body | None, wait_s: float
    ) -> None:
        """Take the device for this connection; who asks and whether two clients name it alike does not matter.

        limits: of every process of an engine here; None for those that hold where nobody names others.
        """
        if runtime not in TARGETS:
            raise CompressError(f"runtime {runtime!r} is unknown; known: {', '.join(sorted(TARGETS))}")
        chosen, wait_s = options_of(options), _number("wait_s", wait_s, LONGEST_S)
        most = _limits(limits)
        name = chosen.device or TARGETS[runtime].default_device
        self._lease = Lease(name, wait_s)  # of the hardware: two runtimes on one CPU disturb each other
        folder = Path(workdir).expanduser() if workdir else self._scratch / "files"
        self._own_files = not workdir  # others may be using what is in a kept folder
        device = LocalDevice(label, runtime, chosen, self._scratch, most)
        self._leased = device, AgentFiles(folder, self._scratch)

    def _device(self) -> LocalDevice:
        return self._held()[0]

    def _stored(self) -> AgentFiles:
        return self._held()[1]

    def _held(self) -> tuple[LocalDevice, AgentFiles]:
        if self._leased is None:
            raise CompressError("the device must be leased first")
        return self._leased

    def _build(self, model: Body, feeds: str, float_precision: FloatPrecision | None) -> Body:
        """Build an ONNX file that is there; the engine's files are then there too."""
        path, fed = self._stored().placed([model]), self._feeds(feeds)
        frozen = self._device().build(path, path.parent / "engine", fed, float_precision)
        self._engines[frozen.sha256] = frozen
        files = []
        for part in TARGETS[self._device().runtime].files(Path(frozen.path)):
            sha256, size = self._stored().add(part)
            files.append({"name": part.name, "sha256": sha256, "bytes": size})
        return {"frozen": told_frozen(frozen), "onnx_sha256": digest(path.read_bytes()), "files": files}

    def _adopt(self, files: list[Body]) -> Body:
        """Open an engine whose files are there."""
        frozen = self._device().adopt(self._stored().placed(files))
        self._engines[frozen.sha256] = frozen
        return told_frozen(frozen)

    def _outputs(self, engine: str, opened: Body, feeds: str) -> str:
        return _base64(packed(self._device().outputs(self._engine(engine, opened), self._feeds(feeds))))

    def _launch(
        self, engine: str, opened: Body, feeds: str, iterations: int, warmup_s: float, seconds: float
    ) -> Body:
        frozen, (fed,) = self._engine(engine, opened), self._sequences([feeds])
        iterations, warmup_s = _count("iterations", iterations), _number("warmup_s", warmup_s, LONGEST_S)
        seconds = _number("seconds", seconds, LONGEST_S)
        return asdict(self._device().launch(frozen, fed, iterations, warmup_s, seconds))

    def _launch_turns(self, engines: list[Body], iterations: int, warmup_s: float, seed: int) -> list[Body]:
        if not 1 <= len(engines) <= MOST_ENGINES:
            raise CompressError(f"{len(engines)} engines: from 1 to {MOST_ENGINES} take turns")
        held = [self._engine(each["engine"], each["opened"]) for each in engines]
        fed = self._sequences([each["feeds"] for each in engines])
        iterations, warmup_s = _count("iterations", iterations), _number("warmup_s", warmup_s, LONGEST_S)
        taken = self._device().launch_turns(list(zip(held, fed, strict=True)), iterations, warmup_s, seed)
        return [asdict(result) for result in taken]

    def _engine(self, sha256: str, opened: Body) -> Frozen:
        """An engine that is there, opened in a float precision and a batch; engines of two may be the same file."""
        if sha256 not in self._engines:
            raise CompressError(f"engine {sha256[:12]} is not there; build or adopt it first")
        if set(opened) != {"float_precision", "batch"}:
            raise CompressError(f"opened {sorted(opened)}: expected float_precision and batch")
        options = options_of({**asdict(self._device().options), **opened})
        return replace(self._engines[sha256], options=options)

    def _feeds(self, sha256: str) -> Feeds:
        (sequence,) = self._sequences([sha256])
        return sequence.feeds[0]

    def _sequences(self, named: list[str]) -> list[FeedSequence]:
        """Inputs that are there; only those that a request named last are kept."""
        fed = {sha256: self._fed[sha256] if sha256 in self._fed else self._read(sha256) for sha256 in named}
        for sha256 in self._fed.keys() - fed.keys():
            if self._own_files:
                self._stored().drop(sha256)
        self._fed = fed
        return [fed[sha256] for sha256 in named]

    def _read(self, sha256: str) -> FeedSequence:
        with self._stored().open(sha256) as file:
            return FeedSequence(read_feeds(Path(file.name)))


class Connection:
    """The client's end of the line: requests are read, and signs of life written, while the agent works."""

    def __init__(self, agent: Agent, requests: int, answers: int) -> None:
        self._agent = agent
        self._requests = requests
        self._answers = answers
        self._working = 0
        self._writing = threading.Lock()
        self._waiting: Queue[Message] = Queue(WAITING)

    def serve(self) -> None:
        """Answer one request after the other until `bye`. When the connection ends, the process does."""
        for work in (self._listen, self._beat):
            threading.Thread(target=_to_the_end, args=(work,), daemon=True).start()
        _to_the_end(self._answer_all)

    def _answer_all(self) -> None:
        done = False
        while not done:
            message = self._waiting.get()
            self._working = message.id
            line = self._agent.answer(message)
            with self._writing:
                self._working = 0
                self._write(line)
            done = message.body is not None and message.body.get("do") == "bye"

    def _listen(self) -> None:
        try:
            for line in lines(self._chunk, MAX_REQUEST):
                message = decode(line)
                if message.body is not None:  # else the client is alive, and waits or has nothing to ask
                    self._waiting.put_nowait(message)
        except Full:
            _end(
                f"the agent gave the connection up: more than {WAITING} requests wait, and a client asks one"
            )
        except (WireError, OSError) as error:
            _end(f"the agent gave the connection up: {error}")
        _end("")

    def _chunk(self) -> bytes:
        heard = time.monotonic()
        while not select.select([self._requests], [], [], ALIVE_S)[0]:
            if time.monotonic() - heard > self._agent.silence_s:
                raise WireError(f"the client was silent for {self._agent.silence_s:.0f} s")
        return os.read(self._requests, 1 << 16)

    def _beat(self) -> None:
        while True:
            time.sleep(ALIVE_S)
            with self._writing:  # so that no sign of life follows its answer
                if self._working:
                    self._write(alive(self._working))

    def _write(self, line: bytes) -> None:
        view = memoryview(line)
        try:
            while view:
                view = view[os.write(self._answers, view) :]
        except OSError as error:
            _end(f"the agent gave the connection up: {error}")


def _end(why: str) -> None:
    """End now, in whatever library the main thread may be; the guard clears up and ends a running worker."""
    if why:
        print(why, file=sys.stderr, flush=True)
    os._exit(1)


def _to_the_end(work: Callable[[], None]) -> None:
    """Do the work of a thread; whatever goes wrong in it ends the process, and with it the lease."""
    try:
        work()
    except BaseException as error:
        traceback.print_exc()
        _end(f"the agent ended: {type(error).__name__}: {error}")


def _number(name: str, value: object, most: float) -> float:
    """A number of seconds that a client named."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise CompressError(f"{name} {value!r:.40}: expected seconds, from 0 to {most:g}")
    return value


def _limits(told: Body | None) -> Limits:
    """What a client lets each process of an engine take."""
    if told is None:
        return LIMITS
    limits = limits_of(told)
    _number("limits.seconds", limits.seconds, LONGEST_S)
    return limits


def _count(name: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= MOST_ITERATIONS:
        raise CompressError(f"{name} {value!r:.40}: expected a whole number from 1 to {MOST_ITERATIONS:,}")
    return value


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _guarded() -> tuple[Path, subprocess.Popen[bytes]]:
    """A folder for this process, and the process that removes it and all that is left running of this one's group."""
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    scratch = Path(tempfile.mkdtemp(prefix="edgepress-agent-"))
    program = [sys.executable, "-I", "-S", guard.__file__, str(scratch), str(os.getpgrp())]
    quiet, pipe = subprocess.DEVNULL, subprocess.PIPE
    # in a group of its own, which it does not end
    return scratch, subprocess.Popen(program, stdin=pipe, stdout=quiet, stderr=quiet, process_group=0)


def main() -> None:
    """Keep the two pipes for the client alone: libraries print to stderr, and their programs read nothing."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    scratch, _guard = _guarded()  # a reference to it keeps its stdin open
    Connection(Agent(scratch), requests, answers).serve()


if __name__ == "__main__":
    main()
