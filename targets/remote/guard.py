"""Outlives the agent for a moment, however that one ended: removes its folder and ends the worker that it left."""

from __future__ import annotations

import os
import shutil
import signal
import sys


def main() -> None:
    """Wait until stdin, which only the agent can write to, is closed. The process group is the agent's own."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
