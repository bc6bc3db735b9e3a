"""Zip archives as torch writes them, and files that two readers would read as two different ones."""

from __future__ import annotations

import struct
import zipfile
from typing import IO

ZIP_START = b"PK\x03\x04"  # what makes torch read a file as a zip archive
END_MARK, END_BYTES = b"PK\x05\x06", 22
END_REACH = 2**17  # readers look for the mark in the last 64 KiB, the longest comment


def is_zip(file: IO[bytes]) -> bool:
    """Whether torch reads `file` as a zip archive."""
    file.seek(0)
    return file.read(4) == ZIP_START


def has_end(file: IO[bytes]) -> bool:
    """Whether some reader could find the end of a zip archive in `file`: its mark, with a whole record behind it."""
    size = file.seek(0, 2)
    file.seek(max(0, size - END_REACH))
    return file.read()[: 4 - END_BYTES].find(END_MARK) >= 0


def two_readings(file: IO[bytes]) -> str | None:
    """Why the zip archive could be read in two ways; None when every reader finds the same members."""
    with zipfile.ZipFile(file) as archive:
        names = [info.filename.lower() for info in archive.infolist()]
        if len(set(names)) != len(names):
            return "holds two members of one name"
        if archive.comment or archive.start_dir != _stated_directory(file):
            return "is not the zip archive that its end describes"
    return None


def _stated_directory(file: IO[bytes]) -> int:
    """Where the archive's last bytes say that its directory starts; -1 when they say nothing."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 98))
    tail = file.read()
    end = tail[-END_BYTES:]
    if not end.startswith(END_MARK):
        return -1
    locator = tail[-42:-END_BYTES]  # of the record for large archives, which torch seeks where it says
    if locator.startswith(b"PK\x06\x07") and struct.unpack("<Q", locator[8:16]) != (size - 98,):
        return -1
    (offset,) = struct.unpack("<L", end[16:20])
    large = tail[:56] if tail[:4] == b"PK\x06\x06" else b""
    return int(struct.unpack("<Q", large[48:56])[0]) if large and offset == 0xFFFFFFFF else int(offset)
