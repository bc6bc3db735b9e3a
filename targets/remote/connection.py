"""A program that answers line by line, as `ssh` with an agent behind it: a true answer to each, or WireError."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, Queue, SimpleQueue
from typing import Any

from ...text import tidy
from .wire import Body, Message, WireError, alive, decode, encode, lines

ALIVE_S = 5.0
"""How often the other end is told that this one is there; it may be waiting for the next question for hours."""
KILL_S = 5.0
TOLD_LINES = 8
TOLD_BYTES = 1 << 14
TOLD_S = 1.0
WAITING = 4
"""Lines that are read ahead: a program that says more than it was asked waits, and takes no memory here."""


class Connection:
    """Started at once. The first WireError ends it: what comes later could belong to another question."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start the program; WireError when it cannot be."""
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise WireError(f"{command[0]} cannot be started ({error.strerror})") from error
        self.pid = self._process.pid
        self._number = 0
        self._heard = time.monotonic()
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self._incoming: Queue[Message | WireError] = Queue(WAITING)
        self._errors = bytearray()
        self._errors_read = threading.Event()
        for thread in (self._write, self._read, self._read_errors):
            threading.Thread(target=thread, daemon=True).start()

    def ask(self, body: Body, timeout_s: float, silence_s: float) -> Body:
        """The answer; WireError when it does not come in `timeout_s`, or nothing at all comes for `silence_s`."""
        self._number += 1
        self._outgoing.put(encode(self._number, body))
        self._heard = time.monotonic()
        end = self._heard + timeout_s
        while True:
            now = time.monotonic()
            if now >= end:
                raise WireError(f"no answer to {body['do']!r} within {timeout_s:.0f} s")
            if now >= self._heard + silence_s:
                raise WireError(f"no sign of life for {silence_s:.0f} s")
            try:
                message = self._incoming.get(timeout=min(end, self._heard + silence_s) - now)
            except Empty:
                continue
            if isinstance(message, WireError):
                raise message
            if message.id != self._number:
                raise WireError(f"a line for question {message.id} came where {self._number} was asked")
            if message.body is not None:
                return message.body

    def end(self, grace_s: float) -> str:
        """Close the pipe, wait so long, then kill; the last lines of the program's error output."""
        self._outgoing.put(None)
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # a process that the system itself holds back
                self._process.wait(KILL_S)
        return self._last_errors()

    def _last_errors(self) -> str:
        self._errors_read.wait(TOLD_S)  # a process that the program leaves may keep its pipe open
        text = bytes(self._errors[-TOLD_BYTES:]).decode("utf-8", "replace").replace("\r\n", "\n")
        told = [line for line in tidy(text).splitlines() if line.strip()]
        return "\n".join(told[-TOLD_LINES:])

    def _write(self) -> None:
        """A thread of its own, for a program that stops reading blocks whoever writes."""
        pipe = self._process.stdin
        assert pipe is not None
        with pipe, suppress(OSError):  # the program is gone: its end of the other pipe tells
            while True:
                try:
                    line = self._outgoing.get(timeout=ALIVE_S)
                except Empty:
                    line = alive(0)
                if line is None:
                    return
                view = memoryview(line)
                while view:
                    view = view[pipe.write(view) :]

    def _read(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        with pipe:
            try:
                for line in lines(self._chunk):
                    self._incoming.put(decode(line))
                self._incoming.put(WireError("the connection ended"))
            except WireError as error:
                self._incoming.put(error)

    def _read_errors(self) -> None:
        """Keep the end of what the program says, however much that is."""
        pipe: Any = self._process.stderr
        with pipe:
            while chunk := pipe.read(1 << 16):
                self._errors += chunk
                del self._errors[:-TOLD_BYTES]
        self._errors_read.set()

    def _chunk(self) -> bytes:
        pipe: Any = self._process.stdout
        chunk: bytes = pipe.read(1 << 16)
        self._heard = time.monotonic()
        return chunk
