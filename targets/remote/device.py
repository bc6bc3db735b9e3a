"""A device that is reached by SSH: an agent there builds and launches, and every file has one digest at both ends."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CompressError
from ...isolated import Limits
from ...version import __version__
from .. import TARGETS
from ..base import Artefact, Feeds, FloatPrecision, TargetOptions
from ..measuring.device import DeviceFacts, Fed, Frozen, in_precision, require_frozen
from ..measuring.feeds import FeedSequence, save_feeds
from ..measuring.launch import LaunchResult, result_of
from .link import AgentLink, There
from .ssh import SshHost, ssh_command
from .wire import Body, digest, facts_of, frozen_from, unpacked

ENGINE_FILES = 8
ENGINE_ROOM, ENGINE_TIMES = 256 << 20, 8
"""Bytes that an engine may have: those of kernels that are compiled into it, and so many times its model's."""

LIMITED_CALLS = 2
"""Calls of a limited process in one request, at most: a build and the timing of its layers."""

PACKED = 4
"""Inputs of which the packed bytes are kept: those of launches, and the last ones of many samples."""

__all__ = ["RemoteDevice", "SshHost"]


class RemoteDevice:
    """A device of another machine; see `Device`. The first call connects, and then holds the device's only lease.

    command: what starts an agent and is the pipe to it, in place of ssh. limits: of every process of an engine there;
    None for the agent's own. After DeviceLostError every call raises it again until `reconnect`. Engines are on this
    machine too, so they survive that: the same files go there again.
    """

    def __init__(
        self,
        label: str,
        runtime: str,
        options: TargetOptions,
        host: SshHost,
        command: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.label = label
        self.runtime = runtime
        self.options = options
        lease = {
            "label": label,
            "runtime": runtime,
            "options": asdict(options),
            "workdir": host.workdir,
            "limits": None if limits is None else asdict(limits),
        }
        if limits is not None:  # the agent ends what takes longer, and its word says why: it is waited for
            host = replace(host, timeout_s=host.timeout_s + LIMITED_CALLS * limits.seconds)
        self._link = AgentLink(label, host, ssh_command(host) if command is None else command, lease)
        self._engines: dict[str, list[Path]] = {}
        self._packed: dict[int, tuple[Feeds | FeedSequence, bytes]] = {}

    @property
    def there(self) -> There | None:
        """Who answers; None before the first call."""
        return self._link.there

    def facts(self) -> DeviceFacts:
        """What the runtime and the system there say, and which edgepress measures there."""
        facts = self._link.ask("facts", facts_of)
        version = self.there.version if self.there is not None else __version__
        return replace(facts, capabilities={**facts.capabilities, "edgepress": version})

    def build(
        self, onnx_path: Path, folder: Path, feeds: Feeds, float_precision: FloatPrecision | None = None
    ) -> Frozen:
        """Build there; the engine's files come to `folder`, each with the digest that it has there."""
        content, fed = _whole(onnx_path), self._feeds(feeds)
        sha256 = digest(content)
        self._link.send([content, fed])
        model = {"name": "model.onnx", "sha256": sha256}
        asked = {"model": model, "feeds": digest(fed), "float_precision": float_precision}
        frozen, built_from, files = self._link.ask("build", _built, **asked)
        if built_from != sha256:
            raise self._link.lose("it built from another ONNX file than was sent")
        most = ENGINE_ROOM + ENGINE_TIMES * len(content)
        if sum(file["bytes"] for file in files) > most:
            raise self._link.lose(f"it tells of an engine of more than {most:,} bytes")
        contents = [self._link.fetch(file["sha256"], file["bytes"]) for file in files]
        if _engine_digest(contents) != frozen.sha256:
            raise self._link.lose("the engine that came is not the one that it froze")
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / file["name"] for file in files]
        for path, part in zip(paths, contents, strict=True):
            path.write_bytes(part)
        self._engines[frozen.sha256] = paths
        self._link.engines_there.add(frozen.sha256)
        artefacts = tuple(Artefact(path, f"{self.runtime}-engine") for path in paths)
        return replace(frozen, options=in_precision(self.options, float_precision), artefacts=artefacts)

    def adopt(self, engine: Path) -> Frozen:
        """Take an engine file of this machine there, and open it once."""
        if not engine.is_file():
            raise CompressError(f"{engine}: there is no such file; give the engine that a build left")
        paths = TARGETS[self.runtime].files(engine)
        frozen = self._sent(paths)
        self._engines[frozen.sha256] = paths
        return replace(frozen, options=self.options)

    def outputs(self, frozen: Frozen, feeds: Feeds) -> list[np.ndarray[Any, Any]]:
        """One inference in the agent's process."""
        return self._link.ask("outputs", _arrays, **self._ready(frozen, feeds))

    def launch(
        self, frozen: Frozen, sequence: FeedSequence, iterations: int, warmup_s: float, seconds: float = 0
    ) -> LaunchResult:
        """One launch there, in a process of its own; CompressError when it opened other files than were frozen."""
        how = {"iterations": iterations, "warmup_s": warmup_s, "seconds": seconds}
        result = self._link.ask("launch", result_of, **self._ready(frozen, sequence), **how)
        require_frozen(frozen, result)
        return result

    def launch_turns(
        self, engines: Sequence[Fed], iterations: int, warmup_s: float, seed: int
    ) -> list[LaunchResult]:
        """Launches there, in turns that the agent deals out: the network is not between them."""
        ready = [self._ready(*each) for each in engines]
        how = {"iterations": iterations, "warmup_s": warmup_s, "seed": seed}
        results = self._link.ask("launch_turns", partial(_results, len(ready)), engines=ready, **how)
        for (frozen, _), result in zip(engines, results, strict=True):
            require_frozen(frozen, result)
        return results

    def reconnect(self) -> None:
        """Connect anew after a loss; DeviceLostError when the device stays away. Frozen engines stay valid."""
        self._link.reconnect()

    def close(self) -> None:
        """Let the device go."""
        self._link.close()

    def _ready(self, frozen: Frozen, feeds: Feeds | FeedSequence) -> Body:
        """Have the engine and the inputs there, and name them."""
        paths = self._engines.get(frozen.sha256)
        if paths is None:
            raise CompressError(
                f"{self.label}: {frozen.path} was not frozen by this device; build or adopt it"
            )
        if frozen.sha256 not in self._link.engines_there:
            again = self._sent(paths)
            if again.sha256 != frozen.sha256:
                raise CompressError(f"{paths[0]}: the engine changed since it was frozen; build it again")
        fed = self._feeds(feeds)
        self._link.send([fed])
        opened = {"float_precision": frozen.options.float_precision, "batch": frozen.options.batch}
        return {"engine": frozen.sha256, "opened": opened, "feeds": digest(fed)}

    def _sent(self, paths: Sequence[Path]) -> Frozen:
        """Have these files of an engine there, and opened."""
        try:
            contents = [path.read_bytes() for path in paths]
        except OSError as error:
            raise CompressError(f"{error.filename}: {error.strerror}; build the engine again") from error
        self._link.send(contents)
        files = [
            {"name": path.name, "sha256": digest(part)} for path, part in zip(paths, contents, strict=True)
        ]
        frozen = self._link.ask("adopt", frozen_from, files=files)
        if frozen.sha256 != _engine_digest(contents):
            raise self._link.lose("it opened another engine than was sent")
        self._link.engines_there.add(frozen.sha256)
        return frozen

    def _feeds(self, feeds: Feeds | FeedSequence) -> bytes:
        """The inputs as a file's bytes, made once for the same inputs."""
        if id(feeds) not in self._packed:
            in_order = feeds.feeds if isinstance(feeds, FeedSequence) else (feeds,)
            with tempfile.TemporaryDirectory() as folder:
                self._packed[id(feeds)] = feeds, save_feeds(in_order, Path(folder)).read_bytes()
            while len(self._packed) > PACKED:
                del self._packed[next(iter(self._packed))]
        return self._packed[id(feeds)][1]


def _whole(onnx_path: Path) -> bytes:
    """A model's bytes; CompressError when some of its weights are in other files, which are not sent."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    try:
        content = onnx_path.read_bytes()
        model = onnx.load_model_from_string(content)
    except Exception as error:  # no such file, or protobuf's own error
        raise CompressError(f"{onnx_path}: cannot be read as an ONNX model ({error})") from error
    if any(uses_external_data(tensor) for tensor in model.graph.initializer):
        raise CompressError(
            f"{onnx_path}: its weights are in other files, and one file is sent to a device; save it whole "
            "(onnx.save with save_as_external_data=False)"
        )
    return content


def _engine_digest(contents: Sequence[bytes]) -> str:
    """The digest of an engine's files, as `files_digest` makes it."""
    return digest("\n".join(map(digest, contents)).encode())


def _built(told: Body) -> tuple[Frozen, str, list[Body]]:
    """Engine, digest of its ONNX file, and its files; ValueError for a name that would leave its folder."""
    if not 1 <= len(told["files"]) <= ENGINE_FILES:
        raise ValueError(f"{len(told['files'])} files of one engine")
    for file in told["files"]:
        name = file["name"]
        if name in ("", ".", "..") or Path(name).name != name or "\\" in name or not name.isprintable():
            raise ValueError(f"{name!r} is not a plain file name")
        if not (isinstance(file["sha256"], str) and type(file["bytes"]) is int and file["bytes"] >= 0):
            raise ValueError(f"{name!r} comes without a digest or a size")
    return frozen_from(told["frozen"]), told["onnx_sha256"], told["files"]


def _results(count: int, told: list[Body]) -> list[LaunchResult]:
    if len(told) != count:
        raise ValueError(f"{len(told)} results of {count} launches")
    return list(map(result_of, told))


def _arrays(told: str) -> list[np.ndarray[Any, Any]]:
    return unpacked(base64.b64decode(told, validate=True))
