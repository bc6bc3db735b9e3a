"""Which executed layer did the multiply-accumulates of which ONNX node, going by the names a runtime kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...macs import total_macs
from .macs import node_macs
from .onnx_graph import OnnxGraph

if TYPE_CHECKING:
    from ..layer import Layer

UNKNOWN = "unknown"
LARGEST_COUNT = 2**63 - 1
"""Of multiply-accumulates that a layer can tell; no device computes more."""

# What runtimes append to the name of a node or tensor that they rewrote; after that, a part of their own.
_SUFFIX = re.compile(r"(_token_\d+|_nchwc|_quant)$")
_PART = re.compile(r"/[^/]*$")


@dataclass(frozen=True)
class Executed:
    """One layer as the runtime lists it.

    sources: names (of nodes or tensors, perhaps with suffixes) that the runtime says it was made of;
    computes: "one" when it can hold one multiplying node, "many" for a fused region, "none" for the rest.
    """

    name: str
    type: str
    precision: str
    ms: float | None
    sources: tuple[str, ...]
    computes: str


def attribute(graph: OnnxGraph, executed: Sequence[Executed]) -> list[Layer]:
    """The executed layers with their ONNX nodes and multiply-accumulates.

    Every multiplying node of the ONNX graph is in exactly one layer. One that the runtime's names do not lead
    to is a layer of its own with precision "unknown": it is not guessed.
    """
    from ..layer import Layer  # which brings pydantic

    macs = node_macs(graph.model)
    made_of = [tuple(dict.fromkeys(_resolve(graph, layer.sources))) for layer in executed]
    home = _homes(graph, executed, made_of, macs)

    def unknown(node: str, name: str) -> Layer:
        kind = graph.by_name[node].op_type
        return Layer(
            name=name, type=kind, precision=UNKNOWN, ms=None, macs=_counted(macs[node]), onnx_nodes=(node,)
        )

    layers: list[Layer] = []
    for index, layer in enumerate(executed):
        here = [name for name in macs if home.get(name) == index]
        doubtful = [n for n in here if _doubtful(graph, layer, n)]
        kept = [n for n in here if n not in doubtful]
        nodes = tuple(dict.fromkeys((*kept, *made_of[index])))  # what multiplies names the layer
        nodes = tuple(n for n in nodes if n not in macs or n in kept)
        layers.append(
            Layer(
                name=layer.name,
                type=layer.type,
                precision=layer.precision,
                ms=layer.ms,
                macs=_counted(total_macs(macs[n] for n in kept)),
                onnx_nodes=nodes,
            )
        )
        layers += [unknown(name, f"{name} (in {layer.name})") for name in doubtful]
    return layers + [unknown(name, name) for name in macs if name not in home]


def precision_shares(layers: Iterable[Layer]) -> dict[str, float]:
    """Share of the multiply-accumulates executed in each precision, most first.

    Empty when there are none, and when those of any layer are unknown: no share is known then.
    """
    totals: dict[str, int] = {}
    for layer in layers:
        if layer.macs is None:
            return {}
        if layer.macs:
            totals[layer.precision] = totals.get(layer.precision, 0) + layer.macs
    whole = sum(totals.values())
    return {name: count / whole for name, count in sorted(totals.items(), key=lambda item: -item[1])}


def _counted(macs: int | None) -> int | None:
    return macs if macs is not None and macs <= LARGEST_COUNT else None


def _doubtful(graph: OnnxGraph, layer: Executed, node: str) -> bool:
    """A fused region tells the precision of its inputs: "int8" says nothing of a float product inside it."""
    return (
        layer.computes == "many"
        and layer.precision == "int8"
        and not graph.quantized_operands(graph.by_name[node])
    )


def _resolve(graph: OnnxGraph, sources: Sequence[str]) -> Iterable[str]:
    """The ONNX nodes behind a runtime's names: exact first, then without the suffixes it appended."""
    for source in sources:
        name = source
        while name:
            if name in graph.by_name:
                yield name
                break
            if name in graph.producer:
                yield graph.producer[name]
                break
            shorter = _SUFFIX.sub("", name)
            if shorter == name:
                shorter = _PART.sub("", name)
            if shorter == name:
                break
            name = shorter


def _homes(
    graph: OnnxGraph,
    executed: Sequence[Executed],
    made_of: Sequence[tuple[str, ...]],
    macs: dict[str, int | None],
) -> dict[str, int]:
    """Index of the executed layer of each multiplying node that can be placed."""
    where: dict[str, int] = {}
    for wanted in (True, False):  # a layer that multiplies keeps the name against a reorder called after it
        for index, layer in enumerate(executed):
            if (layer.computes != "none") == wanted:
                for name in made_of[index]:
                    if wanted or name not in macs:
                        where.setdefault(name, index)
    home = {name: where[name] for name in macs if name in where}
    direct: dict[int, int] = {}
    for index in home.values():
        direct[index] = direct.get(index, 0) + 1
    by_layer: dict[int, list[str]] = {}
    for name in macs:
        if name not in home and (found := _downstream(graph, name, where, macs)) is not None:
            by_layer.setdefault(found, []).append(name)
    for index, names in by_layer.items():
        kind = executed[index].computes
        sole = kind == "one" and len(names) == 1 and index not in direct
        if sole or (kind == "many" and index in direct):
            home.update(dict.fromkeys(names, index))
    return home


def _downstream(
    graph: OnnxGraph, start: str, where: dict[str, int], macs: dict[str, int | None]
) -> int | None:
    """The one executed layer that the node's value reaches first, when its own name was dropped.

    Runtimes name a fused layer after its last node (bias, activation), so it is looked for among the readers.
    """
    found: set[int] = set()
    pending, seen = [start], {start}
    while pending:
        for output in graph.by_name[pending.pop()].output:
            for reader in graph.readers.get(output, ()):
                if reader in where:
                    found.add(where[reader])
                elif reader not in seen and reader not in macs:
                    seen.add(reader)
                    pending.append(reader)
    return found.pop() if len(found) == 1 else None
