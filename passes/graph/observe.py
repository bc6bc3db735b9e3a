"""Run a captured graph over data and look at its tensors on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ...calibration.ranges import Observer
from ...errors import CompressError
from ...progress import Progress
from .operators import owner_of

Batch = tuple[Tensor, ...]


class Watcher(fx.Interpreter):
    """Runs a graph and shows every node's result to `see`, which may replace it."""

    def __init__(self, module: fx.GraphModule, see: Callable[[fx.Node, Any], Any]) -> None:
        super().__init__(module)
        self.see = see
        self.extra_traceback = False  # torch would add it to the message of our own errors, too

    def run_node(self, n: fx.Node) -> Any:
        """The node's result, or what `see` made of it."""
        return self.see(n, super().run_node(n))


def judged_nodes(module: fx.GraphModule) -> tuple[str, ...]:
    """The names of the floating-point tensors that a network is judged by.

    These are its outputs; where an output is whole numbers or truth values (an argmax, a mask, the indices of a
    top-k), whose distance says nothing, the nearest floating-point tensors that it is made from.
    Raises CompressError when there is none.
    """
    (output,) = (n for n in module.graph.nodes if n.op == "output")
    found: dict[str, None] = {}
    seen: set[fx.Node] = set()
    pending = list(output.all_input_nodes)
    while pending:
        node = pending.pop(0)
        if node in seen or node.op in ("get_attr", "placeholder"):
            continue
        seen.add(node)
        if _is_float(node):
            found[node.name] = None
        else:
            pending += node.all_input_nodes
    if not found:
        raise CompressError(
            "no floating-point tensor leads to the network's outputs, so that nothing tells what rounding does to"
            " them; give a network that also returns what its outputs are decided by, such as the scores"
        )
    return tuple(found)


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return value is None or (isinstance(value, Tensor) and value.is_floating_point())


def judged_values(
    module: fx.GraphModule,
    batch: Batch,
    names: Sequence[str],
    interpreter: Callable[[fx.GraphModule, Callable[[fx.Node, Any], Any]], Watcher] = Watcher,
) -> list[Tensor]:
    """The tensors of the nodes `names`, those of `judged_nodes`, for one batch; no gradients."""
    found: dict[str, Tensor] = {}

    def keep(node: fx.Node, value: Any) -> Any:
        if node.name in names:
            found[node.name] = value.detach()
        return value

    with torch.no_grad():
        interpreter(module, keep).run(*batch)
    return [found[name] for name in names]


def watch(module: fx.GraphModule, batch: Batch, see: Callable[[fx.Node, Any], Any]) -> Any:
    """The outputs of one batch, with every intermediate result shown to `see`; no gradients."""
    with torch.no_grad():
        return Watcher(module, see).run(*batch)


def observe(
    module: fx.GraphModule,
    names: Sequence[str],
    batches: Callable[[], Iterable[Batch]],
    progress: Progress,
    what: str,
) -> dict[str, Observer]:
    """One observer for each named node's tensor: extremes in a first pass over the data, then histograms.

    what: the pass, for the CompressError that is raised when a tensor holds NaN or infinity.
    """
    observers = {name: Observer() for name in names}
    for look, seen in ((Observer.see_extremes, "extremes"), (Observer.see_values, "histograms")):

        def see(node: fx.Node, value: Any, look: Callable[[Observer, Tensor], None] = look) -> Any:
            if node.name in observers:
                try:
                    look(observers[node.name], value)
                except ValueError as error:
                    raise CompressError(_not_finite(what, node, str(error))) from error
            return value

        for batch in progress.track(batches(), f"calibrating: {seen}"):
            watch(module, batch, see)
    return observers


def require_finite(what: str, node: fx.Node, *tensors: Tensor) -> None:
    """Raise CompressError, said by the pass `what`, when what was seen of a node's tensor holds NaN or infinity."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise CompressError(_not_finite(what, node, "holds NaN or infinite values"))


def _not_finite(what: str, node: fx.Node, found: str) -> str:
    place = f" in {owner_of(node)}" if owner_of(node) else ""
    return (
        f"{what}: tensor '{node.name}'{place} {found} on the calibration data, which no INT8 grid can hold;"
        " check the preprocessing of the data, or keep the layers that read it in float (keep_float)"
    )
