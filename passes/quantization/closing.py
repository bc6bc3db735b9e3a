"""The closing word of `quantize`: how far the outputs of the network that it returns are from the float ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ...calibration.data import Part
from ...calibration.sqnr import sqnr_db
from ..graph.observe import judged_nodes, judged_values

SAMPLES = 64  # what the proof of a run takes of the validation part, from its head as here
BATCH = 16


@dataclass(frozen=True)
class Closing:
    """The outputs of a quantized network against the float one's; of several outputs the worst.

    sqnr_db over all elements; cosine: the mean over the samples; samples: how many of `part`; inner: whether inner
    tensors were measured, as the outputs are whole numbers.
    """

    sqnr_db: float
    cosine: float
    samples: int
    part: str
    inner: bool


def measured(
    graph: fx.GraphModule, quantized: fx.GraphModule, part: Part, static_batch: int | None
) -> Closing | None:
    """Measure on the head of a part that no step was fitted to; None when it does not fill one static batch."""
    names = judged_nodes(graph)
    size = static_batch or BATCH
    wanted, got = [], []
    samples = 0
    for inputs, labels in part.head(SAMPLES).batches(size):
        if static_batch is None or len(labels) == static_batch:
            samples += len(labels)
            wanted.append(judged_values(graph, inputs, names))
            got.append(judged_values(quantized, inputs, names))
    if not samples:
        return None
    columns = list(zip(zip(*wanted, strict=True), zip(*got, strict=True), strict=True))
    return Closing(
        round(min(sqnr_db(_joined(one), _joined(other)) for one, other in columns), 2),
        round(min(_cosine(one, other) for one, other in columns), 6),
        samples,
        part.name,
        not set(names) >= {n.name for n in _outputs(graph)},
    )


def closing_note(closing: Closing | None, by_metric: bool) -> str:
    """What was measured, in words. by_metric: whether the part's metric, not its outputs, chose layers (max_drop)."""
    if closing is None:
        return "outputs not measured: the validation part has fewer samples than the network takes at once"
    what = "the tensors that the outputs are made from" if closing.inner else "the outputs"
    fitted = "on which max_drop measured its metric" if by_metric else "to which no step was fitted"
    return (
        f"{what} against the float network's: SQNR {closing.sqnr_db:.1f} dB, cosine {closing.cosine:.4f}"
        f" ({closing.samples} samples of the {closing.part} part, {fitted})"
    )


def _outputs(graph: fx.GraphModule) -> list[fx.Node]:
    (output,) = (n for n in graph.graph.nodes if n.op == "output")
    return list(output.all_input_nodes)


def _joined(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def _cosine(wanted: tuple[Tensor, ...], got: tuple[Tensor, ...]) -> float:
    """The mean over the first axis, which holds the samples, of all batches."""
    cosines = []
    for one, other in zip(wanted, got, strict=True):
        rows = len(one) if one.dim() > 1 else one.numel()
        a, b = (t.double().reshape(rows, -1) for t in (one, other))
        cosines.append(torch.cosine_similarity(a, b, dim=1))
    return float(torch.cat(cosines).mean())
