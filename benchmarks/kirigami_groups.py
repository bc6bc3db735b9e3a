"""A second opinion on what goes with a channel: torch-kirigami's closure of a removal, compared with what we remove."""

from __future__ import annotations

import operator
from typing import Any

Layers = dict[str, dict[tuple[str, int], tuple[int, ...]]]
"""Of each layer, which indices of which dimension of its parameters go."""


def second_opinion(module: Any, inputs: tuple[Any, ...], dissected: Any) -> dict[str, Any]:
    """How far torch-kirigami removes the same with the first choice of every unit of channels, as JSON values.

    layers, agree: of all units together, the layers that either takes anything from, and those of which both take the
    same. unfollowed: units that it says nothing final of. absent: why there is no second opinion at all.
    """
    try:
        from torch_kirigami import DependencyGraph
    except ImportError:
        return {"absent": "not installed"}
    try:
        graph = DependencyGraph.build(module.eval(), args=inputs, operators=_operators())
    except Exception as error:  # it raises many kinds for what it cannot follow
        return {"absent": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    found: dict[str, Any] = {"layers": 0, "agree": 0, "differ": [], "unfollowed": []}
    units = [unit.name for unit in dissected.anatomy.units if unit.kind == "channels"]
    for name in units:
        ours = _ours(module, dissected, name)
        theirs = _theirs(graph, name, ours)
        if isinstance(theirs, str):
            found["unfollowed"].append({"unit": name, "reason": theirs})
            continue
        layers = ours.keys() | theirs.keys()
        differ = sorted(layer for layer in layers if ours.get(layer) != theirs.get(layer))
        found["layers"] += len(layers)
        found["agree"] += len(layers) - len(differ)
        found["differ"] += [{"unit": name, "layers": differ}] if differ else []
    return found


def _operators() -> Any:
    """What it knows of operators, and more: assertions, and stochastic depth, which does nothing in eval mode.

    Assertions compare sizes, where it expects comparisons of tensors.
    """
    import torch
    from torch_kirigami import OperatorRegistry, OperatorRule, OperatorSpec
    from torchvision.ops import stochastic_depth

    class Nothing(OperatorRule):  # type: ignore[misc]
        def build_spec(self, operation: Any) -> Any:
            return OperatorSpec()

    known, all_known = OperatorRegistry.default(), OperatorRegistry()
    for target, rule in (known.modules | known.functions).items():
        opaque = target in known.opaque_modules | known.opaque_functions
        all_known.register(target, Nothing() if target is operator.eq else rule, opaque=opaque)
    for name, rule in known.methods.items():
        all_known.register_method(name, rule)
    all_known.register(torch._assert, Nothing())
    return all_known.register(stochastic_depth, known.functions[torch.relu])


def _ours(module: Any, dissected: Any, unit: str) -> Layers:
    layers: Layers = {}
    for name, _ in module.named_parameters():
        layer, _, leaf = name.rpartition(".")
        for dim, side in enumerate(dissected.sides.tensors[name]):
            owner = side.owners.get(unit)
            if owner is not None and (gone := (owner == 0).nonzero().flatten().tolist()):
                layers.setdefault(layer, {})[leaf, dim] = tuple(gone)
    return layers


def _theirs(graph: Any, unit: str, ours: Layers) -> Layers | str:
    """What it removes with the channels of the unit's own layer; why it does not say, in words."""
    leaf, dim = next(iter(ours[unit]))
    seed = graph.parameter(f"{unit}.{leaf}".lstrip(".")).axis(dim).select(ours[unit][leaf, dim])
    try:
        impact = graph.propagate(remove=[seed])
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if not impact.complete:
        return "; ".join(dict.fromkeys(each.message for each in impact.diagnostics if not each.complete))[
            :300
        ]
    layers: Layers = {}
    for selection in impact.parameters:
        layer, _, name = selection.tensor.paths[0].rpartition(".")
        for axis in range(len(selection.tensor.shape)):
            if gone := tuple(selection.fully_selected_indices(axis)):
                layers.setdefault(layer, {})[name, axis] = gone
    return layers
