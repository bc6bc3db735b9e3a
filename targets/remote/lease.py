"""A lease: one agent at a time for a device of this machine, so that nobody measures beside somebody else."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ...errors import DeviceUnavailableError
from ...text import one_line

POLL_S = 0.1


class Lease:
    """Held until `release`, or until this process ends, however it ends."""

    def __init__(self, device: str, wait_s: float = 0.0) -> None:
        """Take the lease; DeviceUnavailableError with the holder's name when another one holds it after `wait_s`."""
        import fcntl  # not on Windows, where no agent runs

        name = hashlib.sha256(device.encode()).hexdigest()[:16]
        self.path = Path(tempfile.gettempdir()) / f"edgepress-{name}.lease"
        self._handle = _opened(self.path)
        end = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= end:
                    holder = _holder(self._handle)
                    os.close(self._handle)
                    raise DeviceUnavailableError(
                        f"{device} is leased to {holder}; one measures at a time: wait, or end that process"
                    ) from error
            time.sleep(POLL_S)
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, _own_name().encode(), 0)

    def release(self) -> None:
        """Let others have the device. The file stays: removing it would let two hold different files of one name."""
        os.close(self._handle)


def _opened(path: Path) -> int:
    """The lease's file, writable for all users; never through a link that somebody left in the shared folder."""
    try:
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT, 0o666)
        with suppress(PermissionError):
            os.fchmod(handle, 0o666)  # the umask keeps other users out otherwise
        return handle
    except OSError as error:
        raise DeviceUnavailableError(
            f"{path}: the lease cannot be opened ({error.strerror}); remove it"
        ) from error


def _own_name() -> str:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return f"{getpass.getuser()} (process {os.getpid()} on {socket.gethostname()}) since {since}"


def _holder(handle: int) -> str:
    """What the holder wrote; anybody may have, so it is only shown."""
    return (
        one_line(os.pread(handle, 300, 0).decode("utf-8", "replace"))
        or "a process that has not told its name yet"
    )
