"""Store: finished work under the SHA-256 of everything it depends on. Failures are never stored."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..writing import writing
from .files import sha256_file

if TYPE_CHECKING:
    from torch import Tensor

_MANIFEST = "manifest.json"
_FILES = ("tensors.safetensors", "values.json")


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
    """Entries in a folder, each a sub-folder that appears complete, by one rename, or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def clear(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def get(self, key: str) -> Entry | None:
        """The entry, or None when there is none or its files are not the ones that were stored."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = self.folder / key
        try:
            manifest = json.loads((folder / _MANIFEST).read_text())
            if any(sha256_file(folder / name) != manifest[name] for name in _FILES):
                return None
            values = json.loads((folder / "values.json").read_text())
            return Entry(values, load_file(folder / "tensors.safetensors"))
        except (OSError, ValueError, LookupError, TypeError, RecursionError, SafetensorError):
            return None

    def put(self, key: str, entry: Entry) -> None:
        """Store `entry`; what an earlier, killed process left half-written is removed.

        CompressError that names the store when its disk is full or read-only; nothing half-written stays then.
        """
        with writing(self.folder):
            self._put(key, entry)

    def _put(self, key: str, entry: Entry) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(".unfinished-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(dir=self.folder, prefix=".unfinished-"))
        try:
            self._write(unfinished, entry)
            final = self.folder / key
            shutil.rmtree(final, ignore_errors=True)
            unfinished.replace(final)
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
