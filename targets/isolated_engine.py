"""Engines in processes of their own: a runtime that dies, hangs or takes all memory takes nothing else with it.

OpenVINO was seen to end its process by a floating-point exception while building. Of an engine here, that is a
CompressError that says what happened and during what.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from ..errors import CompressError, cause
from ..isolated import Child, ChildDiedError, Limits
from .base import Artefact, BuiltOnly, Engine, Feeds, Target, TargetOptions

if TYPE_CHECKING:
    from .layer import Layer

Result = TypeVar("Result")

Opened = tuple[dict[str, Any], tuple[Artefact, ...]]
"""An engine's settings and files."""


class IsolatedEngine:
    """An engine in a child process; see `Engine`. Its process ends with `close`, or with the `with` around it."""

    def __init__(self, child: Child, what: str, opened: Opened) -> None:
        self._child, self._what = child, what
        self._fresh = True
        self.settings, self.artefacts = opened

    def run(self, feeds: Feeds) -> list[np.ndarray[Any, Any]]:
        """One synchronous inference."""
        doing = "in the first inference of" if self._fresh else "running"
        self._fresh = False
        return _asked(self._child, f"{doing} {self._what}", _run, dict(feeds))

    def prepared(self, feeds: Feeds) -> Callable[[], object]:
        """An inference on inputs that the child holds already, whose outputs stay there."""
        _asked(self._child, f"preparing inputs of {self._what}", _prepare, dict(feeds))
        return lambda: _asked(self._child, f"running {self._what}", _run_prepared)

    def run_many(self, feeds: Feeds, count: int) -> None:
        """`count` inferences, as many at once as the options say."""
        _asked(self._child, f"running {self._what} many times", _run_many, dict(feeds), count)

    def layers(self, feeds: Feeds, iterations: int) -> list[Layer]:
        """Every executed layer with its executed precision and mean time over `iterations`."""
        return _asked(self._child, f"timing the layers of {self._what}", _layers, dict(feeds), iterations)

    def close(self) -> None:
        """End the engine's process."""
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def build(
    target: Target, onnx_path: Path, options: TargetOptions, folder: Path, limits: Limits = Limits()
) -> IsolatedEngine | BuiltOnly:
    """`target.build` in a process of its own, where the engine then stays.

    Raises what `target.build` raises, and ChildDiedError when the runtime ends its process, hangs or takes too much
    memory, now or in a later call of the engine.
    """
    return _opened(f"building {onnx_path.name}", limits, target.build, onnx_path, options, folder)


def load(target: Target, path: Path, options: TargetOptions, limits: Limits = Limits()) -> IsolatedEngine:
    """`target.load` in a process of its own; errors as those of `build`."""
    engine = _opened(f"loading {path.name}", limits, target.load, path, options)
    assert not isinstance(engine, BuiltOnly)
    return engine


def _opened(
    what: str, limits: Limits, function: Callable[..., Engine | BuiltOnly], path: Path, *args: object
) -> IsolatedEngine | BuiltOnly:
    child = Child(limits)
    try:
        opened = _asked(child, what, _open, function, path, *args)
    except BaseException:
        child.close()
        raise
    if isinstance(opened, BuiltOnly):
        child.close()
        return opened
    return IsolatedEngine(child, path.name, opened)


def _asked(child: Child, what: str, function: Callable[..., Result], *args: object) -> Result:
    """What the child computes; whatever a runtime raises is one CompressError."""
    try:
        return child.call(what, function, *args)
    except CompressError:
        raise
    except Exception as error:  # of a vendor's library: MemoryError, RuntimeError, or one of its own
        raise CompressError(f"{type(error).__name__} while {what}: {cause(error)}") from error


class KeptEngine:
    """The engine that was asked last, kept open for its next inference."""

    def __init__(self, target: Target, limits: Limits = Limits()) -> None:
        self._target, self._limits = target, limits
        self._open: tuple[tuple[str, str, TargetOptions], IsolatedEngine] | None = None

    def run(self, path: str, sha256: str, options: TargetOptions, feeds: Feeds) -> list[np.ndarray[Any, Any]]:
        """One inference of the engine in `path`, which is opened anew where the last one was another, or otherwise."""
        asked = path, sha256, options
        if self._open is None or self._open[0] != asked:
            self.close()
            self._open = asked, load(self._target, Path(path), options, self._limits)
        try:
            return self._open[1].run(feeds)
        except ChildDiedError:
            self.close()  # the next inference may have better luck in a process of its own
            raise

    def close(self) -> None:
        """End the process of the engine that is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


# -- in the child, which holds one engine

_held: list[Engine] = []
_inference: list[Callable[[], object]] = []


def _open(function: Callable[..., Engine | BuiltOnly], *args: object) -> Opened | BuiltOnly:
    engine = function(*args)
    if isinstance(engine, BuiltOnly):
        return engine
    _held[:] = [engine]
    return engine.settings, engine.artefacts


def _run(feeds: Feeds) -> list[np.ndarray[Any, Any]]:
    return _held[0].run(feeds)


def _prepare(feeds: Feeds) -> None:
    _inference[:] = [_held[0].prepared(feeds)]


def _run_prepared() -> None:
    _inference[0]()


def _run_many(feeds: Feeds, count: int) -> None:
    _held[0].run_many(feeds, count)


def _layers(feeds: Feeds, iterations: int) -> list[Layer]:
    return _held[0].layers(feeds, iterations)
