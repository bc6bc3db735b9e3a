"""An agent that greets as it should and then answers as its argument says, made from the description of the lines."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

from edits import replaced


def line(number: int, body: dict[str, Any]) -> bytes:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    told = {"body": body, "id": number, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return json.dumps(told).encode() + b"\n"


ANSWERS = {
    "as it should": lambda n: line(n, {"ok": []}),
    "wrong id": lambda n: line(n + 1, {"ok": []}),
    "of an earlier question": lambda n: line(n - 1, {"ok": []}),
    "wrong digest": lambda n: replaced(line(n, {"ok": []}), b"[]", b"[1]"),
    "not JSON": lambda n: b"Welcome to Ubuntu\n",
    "not ASCII": lambda n: b"\xff\xfe\x00\n",
    "deep": lambda n: b"[" * 100_000 + b"\n",
    "no message": lambda n: b'{"id":1}\n',
    "cut off": lambda n: line(n, {"ok": []})[:-10],
    "nothing": lambda n: b"",
    "too long": lambda n: b"x" * (65 << 20),
    "no result": lambda n: line(n, {"fine": []}),
    "another kind": lambda n: line(n, {"ok": 5}),
    "alive for another": lambda n: b'{"alive":999}\n' + line(n, {"ok": []}),
    "file not asked for": lambda n: line(n, {"ok": ["0" * 64]}),
}
"""What comes for question n; the process ends after it."""


def main() -> None:
    how, protocol = sys.argv[1], int(sys.argv[2])
    for text in sys.stdin:
        told = json.loads(text)
        if "alive" in told:
            continue
        do, number = told["body"]["do"], told["id"]
        who = {"protocol": protocol, "version": "9.9", "user": "u", "host": "h", "pid": 1}
        odd = do not in ("hello", "lease", "bye")
        sys.stdout.buffer.write(ANSWERS[how](number) if odd else line(number, {"ok": who}))
        sys.stdout.buffer.flush()
        if odd and how != "as it should":
            print("what the program there said last", file=sys.stderr)
            return


if __name__ == "__main__":
    main()
