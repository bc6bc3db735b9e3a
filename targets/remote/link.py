"""The client's end of an agent: connect, lease, ask, send and fetch files; whatever cannot be trusted ends the link."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ...errors import CompressError, DeviceUnavailableError, ExitCode, UnsafeInputError
from ...text import one_line, tidy
from ...version import __version__
from ..measuring.device import DeviceLostError
from .connection import Connection
from .ssh import SshHost, explained
from .wire import CHUNK, PROTOCOL, Body, WireError, digest

SILENCE_S = 60.0
"""Silence in seconds after which the agent ends: then the network is gone."""
LEASE_WAIT_S = 5.0
"""A lost connection's own agent may need a moment to let the device go."""
GRACE_S = 0.5
_KINDS: dict[int, type[CompressError]] = {
    ExitCode.DEVICE_UNAVAILABLE: DeviceUnavailableError,
    ExitCode.UNSAFE_INPUT: UnsafeInputError,
}
T = TypeVar("T")


@dataclass(frozen=True)
class There:
    """The agent at the other end: edgepress's version, and whose process it is."""

    version: str
    user: str
    host: str
    pid: int


class AgentLink:
    """One agent at a time. lease: what is asked for when a connection is there; see `Agent`.

    After DeviceLostError every call raises it again until `reconnect`: no answer is ever paired with a later question.
    """

    def __init__(self, label: str, host: SshHost, command: Sequence[str], lease: Body) -> None:
        self.label = label
        self.there: There | None = None
        self.engines_there: set[str] = set()
        self._host = host
        self._command = command
        self._lease = lease
        self._connection: Connection | None = None
        self._lost = ""

    def ask(self, do: str, read: Callable[[Any], T], **arguments: Any) -> T:
        """The answer as `read` understands it; CompressError with what the agent said when it could not do it."""
        if self._lost:
            raise DeviceLostError(self._lost)
        connection = self._connection or self._connected(lease_wait_s=0)
        try:
            answer = self._exchange(connection, {"do": do, **arguments}, self._host.heartbeat_s)
        except CompressError:
            raise
        except WireError as error:
            raise self.lose(str(error)) from error
        except BaseException:
            self.lose("interrupted in the middle of a question")
            raise
        try:
            return read(answer)
        except Exception as error:  # a number for a list, a field too many, no .npz: its digest was right
            raise self.lose(f"the answer to {do!r} is not what this version knows ({error!r})") from error

    def send(self, contents: Sequence[bytes]) -> None:
        """Have these files there: those that are missing are sent."""
        files = {digest(content): content for content in contents}
        sizes = [[sha256, len(content)] for sha256, content in files.items()]
        for sha256, content in self.ask(
            "need", lambda told: [(one, files[one]) for one in dict.fromkeys(told)], files=sizes
        ):
            for offset in range(0, max(1, len(content)), CHUNK):
                chunk = content[offset : offset + CHUNK]
                data = base64.b64encode(chunk).decode()
                have = self.ask("put", int, sha256=sha256, offset=offset, data=data)
                if have != offset + len(chunk):
                    raise self.lose(f"it has {have:,} bytes of a file of which {offset + len(chunk):,} went")

    def fetch(self, sha256: str, size: int) -> bytes:
        """A file from there, with this digest and size."""
        content = bytearray()
        while len(content) < size:
            chunk = self.ask(
                "get", lambda told: base64.b64decode(told, validate=True), sha256=sha256, offset=len(content)
            )
            if not chunk or len(content) + len(chunk) > size:
                break
            content += chunk
        if len(content) != size or digest(bytes(content)) != sha256:
            raise self.lose("a file that came is not the one that it named")
        return bytes(content)

    def lose(self, why: str) -> DeviceLostError:
        """Give the connection up, for this reason."""
        errors = self._drop(GRACE_S)
        self._lost = f"{self.label}: lost {self._host.host}: {why}" + (f"\n{errors}" if errors else "")
        return DeviceLostError(self._lost)

    def reconnect(self) -> None:
        """Connect anew; DeviceLostError when that fails."""
        self._drop(GRACE_S)
        try:
            self._connected(LEASE_WAIT_S)
        except CompressError as error:
            self._lost = str(error)
            raise DeviceLostError(self._lost) from error
        self._lost = ""

    def close(self) -> None:
        """Let the agent end, and the lease with it."""
        if self._connection is not None:
            self._outgoing_bye(self._connection)
        self._drop(GRACE_S)
        self._lost = f"{self.label}: closed"

    def _outgoing_bye(self, connection: Connection) -> None:
        try:
            self._exchange(connection, {"do": "bye"}, GRACE_S)
        except (WireError, CompressError):
            return  # it is gone, which is what was wanted

    def _drop(self, grace_s: float) -> str:
        connection, self._connection = self._connection, None
        return connection.end(grace_s) if connection is not None else ""

    def _connected(self, lease_wait_s: float) -> Connection:
        """Start the agent and lease the device; DeviceUnavailableError when it is not there, or not ready for this."""
        try:
            connection = Connection(self._command)
        except WireError as error:
            raise DeviceUnavailableError(f"{self.label}: {error}; install OpenSSH's client") from error
        hello = {"do": "hello", "protocol": PROTOCOL, "silence_s": SILENCE_S}
        lease = {"do": "lease", **self._lease, "wait_s": lease_wait_s}
        try:
            told = self._exchange(connection, hello, self._host.connect_timeout_s + self._host.heartbeat_s)
            self.there = self._understood(told)
            self._exchange(connection, lease, self._host.heartbeat_s)
        except WireError as error:
            raise self._not_connected(str(error), connection.end(GRACE_S)) from error
        except BaseException:
            connection.end(GRACE_S)
            raise
        self._connection, self.engines_there = connection, set()
        return connection

    def _understood(self, hello: Any) -> There:
        try:
            protocol = hello["protocol"]
            version, user, host = (one_line(str(hello[key]), 200) for key in ("version", "user", "host"))
            there = There(version, user, host, int(hello["pid"]))
        except (KeyError, TypeError, ValueError) as error:
            raise WireError("what answers is no agent of edgepress") from error
        if protocol != PROTOCOL:
            raise DeviceUnavailableError(
                f"{self.label}: edgepress {there.version} on {self._host.host} speaks protocol {protocol}, and "
                f"{__version__} here protocol {PROTOCOL}: install the same version at both ends"
            )
        return there

    def _not_connected(self, why: str, errors: str) -> CompressError:
        meaning = explained(errors, self._host)
        said = f"\n{errors}" if errors else ""
        if meaning is not None:
            return DeviceUnavailableError(f"{self.label}: {self._host.host}: {meaning}{said}")
        self._lost = f"{self.label}: {self._host.host}: {why}{said}"
        return DeviceLostError(self._lost)

    def _exchange(self, connection: Connection, body: Body, silence_s: float) -> Any:
        """What the agent did; CompressError of the kind that it raised there."""
        launches = len(body.get("engines", ())) or 1  # that take turns, each with the time of one
        timeout_s = launches * self._host.timeout_s + body.get("seconds", 0)  # of a sustained load
        answer = connection.ask(body, timeout_s, silence_s)
        if answer.keys() == {"ok"}:
            return answer["ok"]
        if answer.keys() != {"error", "exit_code"} or type(answer["exit_code"]) is not int:
            raise WireError("an answer is neither a result nor an error")
        kind = _KINDS.get(answer["exit_code"], CompressError)
        raise kind(f"{self.label} on {self._host.host}: {tidy(str(answer['error']))}")
