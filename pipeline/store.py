"""Store: finished work under the SHA-256 of everything it depends on. Failures are never stored.

Any number of processes may use one store. An entry appears complete, by one rename, or not at all; of two that make the
same one, the second finds it made. What is unfinished lies in folders of its own that their makers hold locked, so
that nobody takes away another's, and what a killed process left is told apart.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..progress import Progress
from ..writing import writing
from .files import sha256_file
from .lock import held

if TYPE_CHECKING:
    from torch import Tensor

_MANIFEST = "manifest.json"
_FILES = ("tensors.safetensors", "values.json")
_UNFINISHED, _SCRATCH = ".unfinished-", ".scratch-"
_IDLE_S = 7 * 24 * 3600.0  # after which what a killed process left in a shared store is taken away
_WAIT_S = 0.2
_READ_AGAIN, _MOMENT_S = 5, 0.02
LOCK = "lock"


@dataclass(frozen=True)
class Entry:
    """One piece of finished work: JSON values, and tensors by name."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


def key_of(facts: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON values, the same for the same values in any process."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """Entries in a folder, each a sub-folder.

    shared: whether other runs use the folder, too. fresh: forget what was stored before: an own store is emptied, and
    of a shared one only what this object has stored is read.
    """

    def __init__(self, folder: Path, shared: bool = False, fresh: bool = False) -> None:
        self.folder, self.shared, self.fresh = folder, shared, fresh
        self._own: set[str] = set()
        if fresh and not shared:
            shutil.rmtree(folder, ignore_errors=True)

    def get(self, key: str) -> Entry | None:
        """The entry, or None when there is none or its files are not the ones that were stored."""
        if self.fresh and key not in self._own:
            return None
        for _ in range(_READ_AGAIN):  # another process may replace it in the meantime
            found = self._read(key)
            if found is not None or not (self.folder / key).exists():
                return found
            time.sleep(_MOMENT_S)
        return None

    def _read(self, key: str) -> Entry | None:
        from safetensors import SafetensorError
        from safetensors.torch import load

        folder = self.folder / key
        try:
            manifest = json.loads((folder / _MANIFEST).read_text())
            # The bytes that were looked at are the ones that are read: the files may be others a moment later.
            contents = {name: (folder / name).read_bytes() for name in _FILES}
            if any(
                hashlib.sha256(content).hexdigest() != manifest[name] for name, content in contents.items()
            ):
                return None
            return Entry(json.loads(contents["values.json"]), load(contents["tensors.safetensors"]))
        except (OSError, ValueError, LookupError, TypeError, RecursionError, SafetensorError):
            return None

    def put(self, key: str, entry: Entry) -> None:
        """Store `entry`, in place of an earlier one of that key; one that is the same stays.

        CompressError that names the store when its disk is full or read-only; nothing half-written stays then.
        """
        with writing(self.folder):
            self._put(key, entry)
        self._own.add(key)

    def _put(self, key: str, entry: Entry) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = _made_for_all(self.folder)
        with held(unfinished / LOCK):
            try:
                self._write(unfinished, entry)
                (unfinished / LOCK).unlink()
                if _same(unfinished, self.folder / key):
                    shutil.rmtree(unfinished, ignore_errors=True)
                else:
                    _replace(unfinished, self.folder / key)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise

    @staticmethod
    def _write(unfinished: Path, entry: Entry) -> None:
        from safetensors.torch import save_file

        # Two names may share one tensor's memory (tied weights); a file holds each once.
        tensors = {
            name: tensor.detach().clone().contiguous() for name, tensor in sorted(entry.tensors.items())
        }
        save_file(tensors, unfinished / "tensors.safetensors")
        (unfinished / "values.json").write_text(json.dumps(entry.values, indent=1, default=str))
        digests = {name: sha256_file(unfinished / name) for name in _FILES}
        (unfinished / _MANIFEST).write_text(json.dumps(digests, indent=1))

    @contextmanager
    def claimed(self, key: str, what: str, progress: Progress) -> Iterator[Path]:
        """Hold the work on an entry, once nobody else does; yields a folder for what is unfinished of it.

        What a killed process left in the folder is there to go on from. It is taken away when the entry is stored, with
        what others left that ended long ago; in a store of one's own, with all that is left. what: for the message
        while another process works on it.
        """
        scratch = self.folder / f"{_SCRATCH}{key}"
        with self._lock_on(scratch, what, progress):
            if self.fresh and key not in self._own:
                _empty(scratch)
            yield scratch
            finished = (self.folder / key / _MANIFEST).exists()
            if finished:
                shutil.rmtree(scratch, ignore_errors=True)
        if finished:
            self._sweep()

    def _lock_on(self, scratch: Path, what: str, progress: Progress) -> ExitStack:
        """The lock of a folder, made where it is missing; waits for who has it."""
        waited = False
        while True:
            lock = ExitStack()
            with writing(scratch):
                scratch.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # who had it took it away
                if lock.enter_context(held(scratch / LOCK)):
                    return lock
            lock.close()
            if not waited:
                progress.say(f"{what}: another run is working on it; waiting for what it finds")
            waited = True
            time.sleep(_WAIT_S)

    def _sweep(self) -> None:
        """Take away what processes left that no longer run."""
        for pattern in (f"{_SCRATCH}*", f"{_UNFINISHED}*"):
            for leftover in self.folder.glob(pattern):
                with suppress(OSError):
                    idle = time.time() - leftover.stat().st_mtime
                    if self.shared and idle < _IDLE_S:
                        continue
                    with held(leftover / LOCK) as free:
                        if free:
                            shutil.rmtree(leftover, ignore_errors=True)


def _empty(scratch: Path) -> None:
    """Take away what is unfinished, and not the lock that is held on it."""
    for left in scratch.iterdir():
        if left.name != LOCK:
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _made_for_all(folder: Path) -> Path:
    """A new folder of an unused name, with the permissions that any folder made here has: others share the store."""
    while True:
        path = folder / f"{_UNFINISHED}{secrets.token_hex(8)}"
        with suppress(FileExistsError):
            path.mkdir()
            return path


def _same(one: Path, other: Path) -> bool:
    """Whether an entry that is there holds the files of a new one, undamaged."""
    try:
        digests = json.loads((one / _MANIFEST).read_text())
        there = json.loads((other / _MANIFEST).read_text())
        return bool(there == digests == {name: sha256_file(other / name) for name in _FILES})
    except (OSError, ValueError):
        return False


def _replace(unfinished: Path, final: Path) -> None:
    """Rename a folder to the place of another, which goes afterwards; of processes that do so at once, one wins."""
    aside: list[Path] = []
    while True:
        try:
            unfinished.rename(final)
            break
        except OSError:
            if not (final.exists() and unfinished.exists()):
                raise
        aside.append(_made_for_all(final.parent) / "old")
        with suppress(FileNotFoundError):  # another process was quicker
            final.rename(aside[-1])
    for old in aside:
        shutil.rmtree(old.parent, ignore_errors=True)
