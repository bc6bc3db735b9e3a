"""Calls in a process of their own: a signal, a hang or memory without end there is one clear error here.

Libraries written in C++ can end the process that they run in, and a file can ask for any amount of time and memory.
`Child` keeps such work, and what it holds, in another process; `run` is one call in a child of its own.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any, Self, TypeVar

import psutil

from .errors import CompressError, DeviceUnavailableError

Result = TypeVar("Result")

SECONDS, BYTES = "COMPRESS_CHILD_SECONDS", "COMPRESS_CHILD_BYTES"
"""Environment variables that replace the limits of every child."""
SHARE = 0.9
"""Of the memory that is free when a child starts, what it may hold where no limit is named."""
POLL_S = 0.1
SHOWN = 400
"""Characters of a child's error output that an error quotes, from its end."""


class ChildDiedError(CompressError):
    """The process of a call ended, or was ended at a limit, before it answered."""


@dataclass(frozen=True)
class Limits:
    """What a child may take. seconds: for each call; bytes: of memory it holds, 0 for most of what is free."""

    seconds: float = 600.0
    bytes: int = 0

    def in_force(self) -> Limits:
        """These limits with what the environment says instead; CompressError when that is no number above 0."""
        free = int(SHARE * psutil.virtual_memory().available)
        return Limits(
            _number(SECONDS) or self.seconds, int(_number(BYTES) or 0) or min(self.bytes or free, free)
        )


def run(what: str, function: Callable[..., Result], *args: object, limits: Limits = Limits()) -> Result:
    """`function(*args)`, computed in a fresh process; errors as those of `Child.call`.

    Inside such a process it is computed in place, within the limits that are in force already.
    """
    if in_child():
        return function(*args)
    with Child(limits) as child:
        return child.call(what, function, *args)


class Child:
    """A process that computes what it is asked, one call after the other, and keeps its modules in between."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits.in_force()
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed by `close`)
        # -P: a module in the current folder must not stand in for a library of the same name
        command = [sys.executable, "-P", "-m", f"{__package__}.isolated"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._errors)
        self.watch = Watch(self._process, self._limits.bytes)
        with suppress(BrokenPipeError):  # its end is told by the first call
            self._send(sys.path)

    def call(self, what: str, function: Callable[..., Result], *args: object) -> Result:
        """`function(*args)` as computed by the child. Function, arguments and result are pickled.

        what: what is being done, for messages: "building model.onnx". An exception of the function is raised here as
        it is; ChildDiedError when the process ended, took too long or held too much memory.
        """
        self.watch.begin(self._limits.seconds)
        try:
            self._send((function, args))
            assert self._process.stdout is not None
            fine, value = pickle.load(self._process.stdout)  # from our own child, over a pipe of ours
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise ChildDiedError(self._end(what)) from error
        finally:
            self.watch.pause()
        if fine:
            return value  # type: ignore[no-any-return]
        raise value

    def _send(self, value: object) -> None:
        assert self._process.stdin is not None
        pickle.dump(value, self._process.stdin, pickle.HIGHEST_PROTOCOL)
        self._process.stdin.flush()

    def _end(self, what: str) -> str:
        """How the process ended, in words."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        how = self.watch.exceeded or ending(self._process.wait())
        self._errors.seek(0)
        last = " ".join(self._errors.read().split())[-SHOWN:]
        return f"{how} while {what}" + (f" (its last words: {last})" if last else "")

    def close(self) -> None:
        """End the process."""
        self.watch.close()
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "watch"):
            self.close()


class Watch:
    """Ends a process that holds more memory than it may, or has not answered in time; `exceeded` then says which."""

    def __init__(self, process: subprocess.Popen[Any], limit_bytes: int) -> None:
        self.exceeded = ""
        self._process, self._bytes = process, limit_bytes
        self._seconds, self._deadline = 0.0, float("inf")
        self._over = Event()
        Thread(target=self._look, daemon=True).start()

    def begin(self, seconds: float) -> None:
        """From now on the process has so many seconds."""
        self._seconds, self._deadline = seconds, monotonic() + seconds

    def pause(self) -> None:
        """Nothing is asked of the process: it may take its time."""
        self._deadline = float("inf")

    def close(self) -> None:
        """Look no more."""
        self._over.set()

    def _look(self) -> None:
        with suppress(psutil.Error):  # it is gone
            watched = psutil.Process(self._process.pid)
            while not self._over.wait(POLL_S):
                if monotonic() > self._deadline:
                    self.exceeded = f"no answer within {self._seconds:g} s ({SECONDS} raises it)"
                elif watched.memory_info().rss > self._bytes:
                    self.exceeded = f"more than {self._bytes / 1e9:.3g} GB of memory ({BYTES} raises it)"
                if self.exceeded:
                    self._process.kill()
                    return


def ending(code: int) -> str:
    """An exit status of a process in words: "died by signal 8 (SIGFPE)"."""
    if code >= 0:
        return f"ended with exit code {code}"
    known = {int(s): s.name for s in signal.Signals}
    why = ", perhaps for want of memory" if -code == 9 else ""
    return f"died by signal {-code} ({known.get(-code, 'unknown')}{why})"


def in_child() -> bool:
    """Whether this process is one of those that compute calls here, within limits."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name == __name__


def _number(name: str) -> float | None:
    text = os.environ.get(name, "")
    try:
        value = float(text or 0)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf") or (text and not value):
        raise CompressError(f"{name}={text!r:.40}: expected a number above 0 in the environment")
    return value or None


def _main() -> None:
    """Answer calls from stdin until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and closes stdin
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("500")  # where memory runs out, this process goes and not the one that waits for it
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a vendor library prints must not get into the answers
    questions = sys.stdin.buffer
    with suppress(EOFError):
        sys.path[:] = pickle.load(questions)
        while True:
            answers.write(_answer(questions))
            answers.flush()


def _answer(questions: Any) -> bytes:
    function, args = pickle.load(questions)
    try:
        return pickle.dumps((True, function(*args)), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return pickle.dumps((False, _portable(error)))


def _portable(error: Exception) -> Exception:
    """The exception, or one that says the same and can be sent; what is no CompressError brings its traceback."""
    if not isinstance(error, CompressError):
        error.add_note("in the child process:\n" + traceback.format_exc())
    with suppress(Exception):  # exceptions with arguments of their own are pickled, and cannot be read again
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    if isinstance(error, CompressError):
        kinds = (DeviceUnavailableError, CompressError)
        return next(kind for kind in kinds if isinstance(error, kind))(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")


def _end_with(parent: int) -> None:
    """End once the parent is gone, also while a library computes."""
    while os.getppid() == parent:
        sleep(1)
    os._exit(1)


if __name__ == "__main__":
    _main()
