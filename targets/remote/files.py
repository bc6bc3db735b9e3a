"""Files on the agent's side, by their SHA-256: one counts as there when its bytes were seen to have that digest."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import CompressError
from .wire import CHUNK

MAX_BYTES = 1 << 62
"""Most bytes of one file."""
MAX_FILES = 64
_HEXADECIMAL = frozenset("0123456789abcdef")


class AgentFiles:
    """Files by digest. folder: where they are kept; scratch: where unfinished ones and working copies are."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._folder = folder
        self._scratch = scratch
        self._announced: dict[str, int] = {}
        self._there: set[str] = set()
        self._copies = 0
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def need(self, files: Sequence[tuple[str, int]]) -> list[str]:
        """Which of these (SHA-256, bytes) are missing; the sizes hold for what is then put."""
        if len(files) > MAX_FILES:
            raise CompressError(f"{len(files):,} files are to come; {MAX_FILES} are taken at once")
        checked = [(_checked(sha256), _size(sha256, size)) for sha256, size in files]
        missing = [(sha256, size) for sha256, size in checked if not self._is_there(sha256, size)]
        room = shutil.disk_usage(self._folder).free
        total = sum(size for _, size in missing)
        if total > room:
            raise CompressError(f"{self._folder}: {total:,} bytes are to come, and {room:,} are free there")
        self._announced = dict(missing)
        for part in self._scratch.glob("*.part"):  # of files that are not announced any more
            part.unlink()
        return [sha256 for sha256, _ in missing]

    def put(self, sha256: str, offset: int, chunk: bytes) -> int:
        """Take the next bytes of an announced file; how many are there now. A file of other bytes is thrown away."""
        if sha256 not in self._announced:
            raise CompressError(f"file {sha256[:12]} was not announced, or is there already")
        size, part = self._announced[sha256], self._scratch / f"{sha256}.part"
        if len(chunk) > CHUNK:
            raise CompressError(f"file {sha256[:12]}: {len(chunk):,} bytes came at once; {CHUNK:,} are taken")
        if offset == 0:
            part.unlink(missing_ok=True)
        have = part.stat().st_size if part.exists() else 0
        if offset != have:
            raise CompressError(f"file {sha256[:12]}: bytes from {offset:,} came, and {have:,} are there")
        if have + len(chunk) > size:
            raise CompressError(
                f"file {sha256[:12]}: {size:,} bytes were announced, and {have + len(chunk):,} came"
            )
        with part.open("ab") as file:
            file.write(chunk)
        if have + len(chunk) == size:
            self._finish(sha256, part)
        return have + len(chunk)

    def add(self, path: Path) -> tuple[str, int]:
        """Keep a copy of a file that was made here; its SHA-256 and bytes."""
        sha256 = _digest(path)
        if not self._is_there(sha256, path.stat().st_size):
            shutil.copyfile(path, self._folder / sha256)
            self._there.add(sha256)
        return sha256, path.stat().st_size

    def read(self, sha256: str, offset: int) -> bytes:
        """The next bytes of a file."""
        if type(offset) is not int or not 0 <= offset < MAX_BYTES:
            raise CompressError(f"file {sha256[:12]}: there are no bytes from {offset!r:.40} on")
        with self.open(sha256) as file:
            file.seek(offset)
            return file.read(CHUNK)

    def open(self, sha256: str) -> BinaryIO:
        """A file that is there; CompressError when it is not."""
        if sha256 not in self._there:
            raise CompressError(f"file {sha256[:12]} is not there; it must be sent first")
        return (self._folder / sha256).open("rb")

    def drop(self, sha256: str) -> None:
        """Forget a file that is not needed again."""
        self._there.discard(sha256)
        (self._folder / sha256).unlink(missing_ok=True)

    def placed(self, files: Sequence[dict[str, Any]]) -> Path:
        """Copies under the given names, in a folder of their own; the path of the first."""
        self._copies += 1
        folder = self._scratch / f"work{self._copies}"
        folder.mkdir()
        for told in files:
            name = str(told["name"])
            if name in ("", ".", "..") or Path(name).name != name or "\\" in name or not name.isprintable():
                raise CompressError(f"{name!r} is not a plain file name")
            with self.open(told["sha256"]) as source, (folder / name).open("xb") as copy:
                shutil.copyfileobj(source, copy)
        return folder / str(files[0]["name"])

    def _is_there(self, sha256: str, size: int) -> bool:
        """Whether the file is there with these bytes: what an earlier agent left is read again."""
        path = self._folder / sha256
        if sha256 not in self._there and path.is_file():
            if path.stat().st_size == size and _digest(path) == sha256:
                self._there.add(sha256)
            else:
                path.unlink()
        return sha256 in self._there

    def _finish(self, sha256: str, part: Path) -> None:
        del self._announced[sha256]
        found = _digest(part)
        if found != sha256:
            part.unlink()
            raise CompressError(f"file {sha256[:12]}: what came has the SHA-256 {found[:12]}; send it again")
        shutil.move(part, self._folder / sha256)
        self._there.add(sha256)


def _checked(sha256: str) -> str:
    """A digest, which becomes a file name."""
    if not isinstance(sha256, str) or len(sha256) != 64 or not _HEXADECIMAL.issuperset(sha256):
        raise CompressError(f"{sha256!r:.80} is not a SHA-256")
    return sha256


def _size(sha256: str, size: object) -> int:
    """What a file is announced with, before a byte of it is taken."""
    if type(size) is not int or not 0 <= size <= MAX_BYTES:
        raise CompressError(
            f"file {sha256[:12]}: {size!r:.40} bytes: expected a whole number to {MAX_BYTES:,}"
        )
    return size


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
