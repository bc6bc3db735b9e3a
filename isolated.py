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
"""Share of the memory free when a child starts that it may hold where no limit is named."""
POLL_S = 0.1
GRACE_S = 60
"""Seconds beyond a call's own until an orphan is ended by the system."""
SHOWN = 400
"""Characters of a child's error output that an error quotes, from its end."""


class ChildDiedError(CompressError):
    """The process of a call ended, or was ended at a limit, before it answered."""


@dataclass(frozen=True)
class Limits:
    """What a child may take. seconds: for each call; bytes: of memory it holds, 0 for most of what is free.

    raised_by: what a user sets to raise each of the two, for messages.
    """

    seconds: float = 600.0
    bytes: int = 0
    raised_by: tuple[str, str] = (SECONDS, BYTES)

    def in_force(self) -> Limits:
        """Return these limits with what the environment says instead; CompressError when that is no number above 0."""
        free = int(SHARE * psutil.virtual_memory().available)
        seconds, held = _number(SECONDS), int(_number(BYTES) or 0)
        by_seconds, by_bytes = self.raised_by
        return Limits(
            seconds or self.seconds,
            held or min(self.bytes or free, free),
            (SECONDS if seconds else by_seconds, BYTES if held else by_bytes),
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
        self.limits = limits.in_force()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        # -P: a module in the current folder must not stand in for a library of the same name. In a process group of
        # its own, so that what a library starts there can be ended with it.
        command, pipe = [sys.executable, "-P", "-c", _START], subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._errors, process_group=0
        )
        self.watch = Watch(self._process)
        with suppress(BrokenPipeError):  # its end is told by the first call
            self._send(sys.path)

    def call(self, what: str, function: Callable[..., Result], *args: object) -> Result:
        """`function(*args)` as computed by the child. Function, arguments and result are pickled.

        what: what is being done, for messages: "building model.onnx". An exception of the function is raised here as
        it is; ChildDiedError when the process ended, took too long or held too much memory.
        """
        self._errors.seek(0)  # the child writes where this stands: what earlier calls said is gone
        self._errors.truncate()
        self.watch.begin(self.limits)
        try:
            self._send((function, args, self.limits.seconds))
            assert self._process.stdout is not None
            fine, value = pickle.load(self._process.stdout)  # from our own child, over a pipe of ours
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise ChildDiedError(self._end(what)) from error
        finally:
            self.watch.pause()
        if fine:
            return value  # type: ignore[no-any-return]
        raise value

    @property
    def held(self) -> int:
        """Bytes of memory that the process holds now; 0 when it is gone."""
        with suppress(psutil.Error):
            return int(psutil.Process(self._process.pid).memory_info().rss)
        return 0

    def _send(self, value: object) -> None:
        assert self._process.stdin is not None
        pickle.dump(value, self._process.stdin, pickle.HIGHEST_PROTOCOL)
        self._process.stdin.flush()

    def _end(self, what: str) -> str:
        """How the process ended, in words."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        end_group(self._process)
        how = self.watch.exceeded or ending(self._process.wait())
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 4 * SHOWN))
        last = " ".join(self._errors.read().decode(errors="replace").split())[-SHOWN:]
        return f"{how} while {what}" + (f" (its last words: {last})" if last else "")

    def close(self) -> None:
        """End the process."""
        self.watch.close()
        end_group(self._process)
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

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self.exceeded = ""
        self._process = process
        self._limits, self._deadline = Limits(bytes=sys.maxsize), float("inf")
        self._left = float("inf")
        self._over = Event()
        Thread(target=self._look, daemon=True).start()

    def begin(self, limits: Limits) -> None:
        """Set these limits on the process from now on."""
        self._limits, self._left = limits, limits.seconds
        self.resume()

    def pause(self) -> None:
        """Nothing is asked of the process: it may take its time, which `resume` does not count."""
        self._left = min(self._left, self._deadline - monotonic())
        self._deadline = float("inf")

    def resume(self) -> None:
        """Something is asked of it again: what is left of its time runs on."""
        self._deadline = monotonic() + self._left

    def close(self) -> None:
        """Look no more."""
        self._over.set()

    def _look(self) -> None:
        with suppress(psutil.Error):  # it is gone
            watched = psutil.Process(self._process.pid)
            while not self._over.wait(POLL_S):
                limits = self._limits
                by_seconds, by_bytes = limits.raised_by
                if monotonic() > self._deadline:
                    self.exceeded = f"no answer within {limits.seconds:g} s ({by_seconds} raises it)"
                elif watched.memory_info().rss > limits.bytes:
                    self.exceeded = f"more than {limits.bytes / 1e9:.3g} GB of memory ({by_bytes} raises it)"
                if self.exceeded or watched.status() == psutil.STATUS_ZOMBIE:
                    break
        if not self._over.is_set():
            end_group(self._process)  # also what it started, which would keep its pipes open


def end_group(process: subprocess.Popen[Any]) -> None:
    """End a process, and where it leads a group all others in that, also when it has ended itself."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def ending(code: int) -> str:
    """An exit status of a process in words: "died by signal 8 (SIGFPE)"."""
    if code >= 0:
        return f"ended with exit code {code}"
    known = {int(s): s.name for s in signal.Signals}
    why = ", perhaps for want of memory" if -code == 9 else ""
    return f"died by signal {-code} ({known.get(-code, 'unknown')}{why})"


def in_child() -> bool:
    """Whether this process is one of those that compute calls here, within limits."""
    return bool(_calls)


def _number(name: str) -> float | None:
    text = os.environ.get(name, "")
    try:
        value = float(text or 0)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf") or (text and not value):
        raise CompressError(f"{name}={text!r:.40}: expected a number above 0 in the environment")
    return value or None


_START = f"""
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from {__name__} import answer_calls
answer_calls()
"""
"""What a child begins with: the package is the parent's own, wherever that one found it."""
_calls: list[int] = []  # a child's: that it answers calls


def answer_calls() -> None:
    """Answer, in the child, what stdin asks until it is closed."""
    _calls.append(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and closes stdin
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("500")  # where memory runs out, this process goes and not the one that waits for it
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a vendor library prints must not get into the answers
    with suppress(EOFError):
        while True:
            answers.write(_answer(sys.stdin.buffer))
            answers.flush()


def _answer(questions: Any) -> bytes:
    function, args, seconds = pickle.load(questions)
    # The system ends a child that computes on without a parent to end it, also while a library holds Python's lock.
    signal.alarm(int(min(seconds, 1e6)) + GRACE_S)
    try:
        return pickle.dumps((True, function(*args)), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return pickle.dumps((False, _portable(error)))
    finally:
        signal.alarm(0)


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
        sleep(0.2)
    os._exit(1)
