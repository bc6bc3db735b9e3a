"""What launches are fed: samples of the data in their own order where times depend on them, else one input repeated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CompressError
from ..targets.graphs.data_dependent import data_dependent
from ..targets.graphs.onnx_graph import load_onnx
from ..targets.measuring.feeds import MOST_BYTES, FeedSequence, repeated

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from ..calibration.data import Part
    from ..model import Model
    from .recipe.sections import MeasureSection

DEPENDENT_INPUTS = 64
"""Inputs where the time may depend on them and nobody says how many: as many as a p90 over the data needs."""
OPTION = "measure.samples"


def default_inputs(graphs: Iterable[onnx.ModelProto]) -> int:
    """How many inputs a launch is fed where nobody says it: 1 unless the work of a graph depends on the data."""
    return DEPENDENT_INPUTS if any(data_dependent(graph) for graph in graphs) else 1


def input_count(samples: int, batch: int, option: str) -> int:
    """Inputs of inferences with `batch` samples each; one sample is one input. CompressError, naming the option."""
    if samples > 1 and samples % batch:
        raise CompressError(
            f"{option}: {samples:,}, and an inference takes {batch} samples; give a multiple of {batch}, or 1"
        )
    return max(1, samples // batch)


def require_samples(samples: int, part: Part, batch: int, option: str) -> None:
    """Raise CompressError unless the part has so many samples, and a launch may hold them."""
    if samples > len(part):
        most = max(1, len(part) // batch * batch)
        raise CompressError(
            f"{option}: {samples:,}, and the {part.name} part has {len(part):,} samples; ask for at most {most:,}"
        )
    if samples > 1 and fitting(part, samples, batch) < samples:
        raise CompressError(
            f"{option}: {samples:,} samples are more than the {MOST_BYTES >> 20:,} MiB that a launch is fed; "
            "ask for fewer"
        )


def fitting(part: Part, samples: int, batch: int) -> int:
    """As many of the wanted samples as the part and the memory of a launch have, in whole batches; 0 for none."""
    inputs, _ = part.batch([0])
    one = sum(x.numel() * x.element_size() for x in inputs)
    return min(samples, len(part), MOST_BYTES // max(one, 1)) // batch * batch


def from_part(names: Sequence[str], part: Part, samples: int, batch: int, option: str) -> FeedSequence:
    """The first samples of a part, in order, `batch` in each input; names: of the inputs, as the part orders them.

    CompressError, naming the option, when there are too few, or they are too many bytes.
    """
    require_samples(samples, part, batch, option)
    feeds = []
    for start in range(0, samples, batch):
        inputs, _ = part.batch(range(start, start + batch))
        feeds.append({name: np.asarray(x) for name, x in zip(names, inputs, strict=True)})
    return FeedSequence(tuple(feeds), f"the first {samples:,} samples of the {part.name} part, in order")


def run_inputs(
    model: Model,
    onnx_paths: Sequence[Path],
    part: Part,
    plan: MeasureSection,
) -> FeedSequence:
    """What the launches of a run are fed. onnx_paths: of all models that are timed; part: what the run judges on."""
    if plan.samples is not None:
        samples = plan.samples
    else:
        inputs = default_inputs(map(load_onnx, onnx_paths))
        samples = fitting(part, inputs * plan.batch, plan.batch) if inputs > 1 else 1
    if samples <= 1:
        return repeated(example_feeds(model, plan.batch))
    return from_part(model.input_names, part, samples, plan.batch, OPTION)


def example_feeds(model: Model, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    """The example inputs, repeated to `batch` samples."""
    size = model.static_batch or batch
    return {
        name: x[:1].expand(size, *x.shape[1:]).contiguous().numpy()
        for name, x in zip(model.input_names, model.example_inputs, strict=True)
    }
