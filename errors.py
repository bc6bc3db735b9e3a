"""What a user can fix. `cli/` turns each of these into one clear message and one exit code."""

from __future__ import annotations

import re
from enum import IntEnum

from .text import short


class ExitCode(IntEnum):
    """The exit codes of every `compress` command."""

    PASS = 0
    INTERNAL_ERROR = 1
    USAGE_ERROR = 2
    FAIL = 3
    INCONCLUSIVE = 4
    DEVICE_UNAVAILABLE = 5
    UNSAFE_INPUT = 6
    INTERRUPTED = 130


class CompressError(Exception):
    """Something a user can fix: says which file, layer or option, what is wrong with it, and what to do."""

    exit_code = ExitCode.USAGE_ERROR


class DeviceUnavailableError(CompressError):
    """A runtime or a device that the user asked for is not here; the message carries the reason."""

    exit_code = ExitCode.DEVICE_UNAVAILABLE


class UnsafeInputError(CompressError):
    """A file that could run code when it is read, and that the user has not explicitly trusted."""

    exit_code = ExitCode.UNSAFE_INPUT


CAUSE_LIMIT = 1200
_PLACES = re.compile(r"^(Exception from \S+:\d+:?|Check '.*' failed at \S+:\d+:?)$")
"""Lines in which OpenVINO names its own source files."""


def cause(error: BaseException | str, limit: int = CAUSE_LIMIT) -> str:
    """The message of a library's error on one line, for the message of ours.

    Of one that is over `limit` characters the middle is left out: it begins with what was done and ends with the
    reason. An exception without a message is told by its type.
    """
    lines = [line.strip() for line in str(error).splitlines()]
    told = " ".join(line for line in lines if line and not _PLACES.match(line)) or " ".join(
        filter(None, lines)
    )
    return short(told, limit) or type(error).__name__
