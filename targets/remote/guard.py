"""Outlives the agent for a moment, however that one ended: ends the processes that it left and removes its folder."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

ATTEMPTS = 50


def main() -> None:
    """Wait until stdin, which only the agent can write to, is closed. argv: the folder, the agent's process group."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    with suppress(ProcessLookupError):
        os.killpg(int(sys.argv[2]), signal.SIGKILL)  # first, or they would still write into the folder
    for _ in range(ATTEMPTS):  # engines' processes end by themselves, a moment after the agent
        shutil.rmtree(sys.argv[1], ignore_errors=True)
        if not Path(sys.argv[1]).exists():
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main()
