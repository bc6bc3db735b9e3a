"""Processes of their own that begin with PyTorch imported: by itself each takes seconds to import what a fork has.

They are forked from a server that runs nothing else: no state of a test, its seeds or its threads gets into them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from typing import Any

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "edgepress.pipeline.run",
        "edgepress.pipeline.export",
        "edgepress.passes.distillation.student",
        "edgepress.passes.graph.capture",
        "edgepress.passes.quantization.steps",
        "edgepress.passes.training.stage",
        "torch.export",
        "torch.onnx._internal.exporter._core",
    ]
)  # what cannot be imported, each process imports itself


def started(function: Callable[..., Any], *args: Any) -> ForkServerProcess:
    """`function(*args)` in a process that leads a group of its own; both are pickled."""
    process = CONTEXT.Process(target=_alone, args=(function, args))
    process.start()
    return process


def ended(process: ForkServerProcess, seconds: float = 300) -> int:
    """The exit code of a process: 0, 1 of an exception, minus the signal that ended it. Kills it after so long."""
    process.join(seconds)
    if process.is_alive():
        killed(process)
        raise TimeoutError(f"{process.name} took more than {seconds:g} s")
    assert process.exitcode is not None
    return process.exitcode


def killed(process: ForkServerProcess) -> None:
    """End a process and all that it started, without a word."""
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


def _alone(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.setsid()
    function(*args)
