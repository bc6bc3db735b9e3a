"""What the launches of a gate are fed in turn: one input again and again, or samples where times depend on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import CompressError
from ...targets.measuring.device import Device, Frozen
from ...targets.measuring.feeds import FeedSequence, repeated
from ..devices.feeds import random_sequence
from ..launch_inputs import default_inputs, fitting, from_part, input_count
from ..onnx_files.file import read_graph
from .subjects import Inputs, Subject

if TYPE_CHECKING:
    from ...calibration.data import Part

OPTION = "--samples"


def timed_inputs(
    inputs: Inputs, sides: Sequence[Subject], file: Path | None, samples: int, part: Part | None, seed: int
) -> FeedSequence:
    """What all engines are fed. inputs: the fixed ones, of which a sequence of random ones is a continuation.

    file: where the fixed inputs come from, if the user gave one; samples: how many are wanted, 0 for one, or more where
    a graph's work depends on the data; part: whose first samples they are, in the inputs' types; None: random ones.
    """
    if file is not None:
        if samples > 1:
            raise CompressError(
                f"{OPTION}: {samples:,}, and {file} holds one input; leave out one of the two"
            )
        return repeated(inputs.feeds, f"the input of {file.name}, repeated")
    graphs = [read_graph(side.onnx) for side in sides if side.onnx is not None]
    first = next(iter(inputs.feeds.values()))
    batch = len(first) if first.ndim else 1
    wanted = input_count(samples, batch, OPTION) if samples else default_inputs(graphs)
    if part is not None and max(samples, wanted) > 1:
        found = samples or fitting(part, wanted * batch, batch)
        if found:
            return from_part(list(inputs.feeds), part, found, batch, OPTION)
    return random_sequence(graphs[0], batch, seed, wanted, asked=bool(samples))


def outputs_in_turn(device: Device, frozen: Frozen, fed: FeedSequence) -> list[np.ndarray[Any, Any]]:
    """The outputs of an inference on each input, one after the other."""
    return [array for feeds in fed.feeds for array in device.outputs(frozen, feeds)]
