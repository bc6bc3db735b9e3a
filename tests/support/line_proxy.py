"""Stands between a client and a program: `line_proxy.py garble SEED SHARE FILE COMMAND...` or `stall LINES COMMAND...`.

garble: flips a bit in so large a share of the lines, both ways; FILE counts the starts, each of which draws anew.
stall: after so many answers nothing comes any more, and the connection stays.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO


def main() -> None:
    if sys.argv[1] == "garble":
        seed, share, counter, command = sys.argv[2], float(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:]
        with counter.open("a") as file:
            file.write("x")
        start = counter.stat().st_size
        there, back = (garbler(random.Random(f"{seed} {start} {way}"), share) for way in ("there", "back"))
    else:
        command = sys.argv[3:]
        there, back = staller(sys.maxsize), staller(int(sys.argv[2]))
    child = subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin and child.stdout
    threading.Thread(target=pump, args=(sys.stdin.buffer, child.stdin, there), daemon=True).start()
    pump(child.stdout, sys.stdout.buffer, back)


def pump(source: IO[bytes], sink: IO[bytes], change: Callable[[bytes], bytes]) -> None:
    for line in source:
        sink.write(change(line))
        sink.flush()
    sink.close()


def garbler(draw: random.Random, share: float) -> Callable[[bytes], bytes]:
    def change(line: bytes) -> bytes:
        if draw.random() >= share:
            return line
        place = draw.randrange(len(line))
        return line[:place] + bytes([line[place] ^ (1 << draw.randrange(8))]) + line[place + 1 :]

    return change


def staller(lines: int) -> Callable[[bytes], bytes]:
    passed = 0

    def change(line: bytes) -> bytes:
        nonlocal passed
        passed += 1
        if passed > lines:
            time.sleep(3600)
        return line

    return change


if __name__ == "__main__":
    main()
