"""The layers of a network that runs in PyTorch: what each holds, costs and returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...macs import total_macs
from ...record import Record

if TYPE_CHECKING:
    from torch import nn

    from ...model import Model


class LayerRow(Record):
    """One layer: what it holds itself (not its sub-layers'), and what it returns for a batch of one.

    macs: None when they cannot be counted.
    """

    name: str
    type: str
    params: int
    macs: int | None
    output_shape: list[int]


def layer_rows(model: Model) -> list[LayerRow]:
    """The layers in execution order, or the operators of a captured graph that hold weights or multiply."""
    import torch

    if isinstance(model.module, torch.fx.GraphModule):
        return _operator_rows(model, model.module)
    return _module_rows(model)


def _module_rows(model: Model) -> list[LayerRow]:
    shapes: dict[str, list[int]] = {}
    handles = [m.register_forward_hook(_note_shape(shapes, name)) for name, m in model.module.named_modules()]
    try:
        macs = _macs_by_place(model)
    finally:
        for handle in handles:
            handle.remove()
    modules = dict(model.module.named_modules())
    order = [*shapes, *(n for n in modules if n not in shapes)]
    rows = []
    for name in order:
        params = sum(p.numel() for p in modules[name].parameters(recurse=False))
        own = macs.get(name, 0)
        leaf = next(modules[name].children(), None) is None
        if params or own != 0 or (leaf and name in shapes):
            kind = type(modules[name]).__name__
            rows.append(
                LayerRow(name=name, type=kind, params=params, macs=own, output_shape=shapes.get(name, []))
            )
    return rows


def _macs_by_place(model: Model) -> dict[str, int | None]:
    """Multiply-accumulates of what each module, or node of a captured graph, does itself."""
    counts: dict[str, list[int | None]] = {}
    for found in model.operator_macs():
        counts.setdefault(found.place, []).append(found.macs)
    return {place: total_macs(own) for place, own in counts.items()}


def _note_shape(shapes: dict[str, list[int]], name: str) -> Any:
    def hook(module: nn.Module, inputs: object, output: object) -> None:
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        shapes[name] = list(getattr(first, "shape", []))

    return hook


def _operator_rows(model: Model, graph_module: Any) -> list[LayerRow]:
    """A captured graph has operators, not layers: run it node by node."""
    import torch

    rows: list[LayerRow] = []
    stored = dict(graph_module.named_parameters())
    macs = _macs_by_place(model)

    class Watching(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            params = sum(
                stored[a.target].numel()
                for a in n.all_input_nodes
                if a.op == "get_attr" and a.target in stored
            )
            own = macs.get(n.name, 0)
            if n.op.startswith("call_") and (params or own != 0):
                name = str(n.target).removesuffix(".default")
                shape = list(getattr(result, "shape", []))
                rows.append(LayerRow(name=n.name, type=name, params=params, macs=own, output_shape=shape))
            return result

    with torch.no_grad():
        Watching(graph_module).run(*model.example_inputs)
    return rows
