"""What a pickle would import, read from its opcodes: nothing in it is executed."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

MAX_PICKLE_BYTES = 256 * 2**20
MAX_STREAM_PICKLES = 8  # torch.save's old format writes five pickles one after the other


def imported_names(path: Path) -> list[str]:
    """`module.name` of every global that the pickles in `path` (a zip or a bare stream) would import."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            pickles = [i for i in archive.infolist() if i.filename.endswith(".pkl")]
            contents = [archive.read(i) for i in pickles if i.file_size <= MAX_PICKLE_BYTES]
    else:
        with path.open("rb") as file:
            contents = [file.read(MAX_PICKLE_BYTES)]
    return [name for content in contents for name in _names(content)]


def _names(content: bytes) -> list[str]:
    names: list[str] = []
    start = 0
    for _ in range(MAX_STREAM_PICKLES):
        strings: list[str] = []
        end = None
        try:
            for opcode, argument, position in pickletools.genops(content[start:]):
                if opcode.name in ("GLOBAL", "INST"):
                    names.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.append(".".join(strings[-2:]))
                elif opcode.name == "STOP" and position is not None:
                    end = start + position + 1
                elif isinstance(argument, str):
                    strings.append(argument)
        except Exception:  # not a pickle from here on: genops raises many types on garbage
            break
        if end is None or end >= len(content):
            break
        start = end
    return names
