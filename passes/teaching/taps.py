"""Features: what named modules put out, of an ordinary network and of a captured graph alike."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...errors import CompressError


class Tapped(nn.Module):
    """A network whose forward also gives the outputs of the modules `paths`: (outputs, features), both tuples.

    layers_alone: in training mode modules that hold others stay as in evaluation, where they may put out less.
    """

    def __init__(self, network: nn.Module, paths: Sequence[str], layers_alone: bool = False) -> None:
        super().__init__()
        self.paths, self.layers_alone = tuple(paths), layers_alone
        self.network = network
        self.outputs: int | None = None
        if isinstance(network, fx.GraphModule):
            self.network, self.outputs = _with_features(network, self.paths), _count_outputs(network)

    @property
    def captured(self) -> bool:
        """Whether the network is a captured graph, and no ordinary module with BatchNorm and dropout."""
        return self.outputs is not None

    def train(self, mode: bool = True) -> Tapped:
        """Switch between training and evaluation."""
        super().train(mode)
        if self.layers_alone:
            for module in self.modules():
                module.training &= next(module.children(), None) is None
        return self

    def forward(self, *inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The outputs as a tuple, and one feature for each path."""
        if self.outputs is not None:
            found = self.network(*inputs)
            return tuple(found[: self.outputs]), tuple(found[self.outputs :])
        features: dict[str, Tensor] = {}
        hooks = [self._hook(path, features) for path in self.paths]
        try:
            outputs = self.network(*inputs)
        finally:
            for hook in hooks:
                hook.remove()
        if missing := [path for path in self.paths if path not in features]:
            raise CompressError(f"features: the network never calls its module '{missing[0]}'")
        return _tuple(outputs), tuple(features[path] for path in self.paths)

    def _hook(self, path: str, features: dict[str, Tensor]) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            features[path] = output

        return self.network.get_submodule(path).register_forward_hook(keep)


def frozen(network: nn.Module, paths: Sequence[str]) -> Tapped:
    """A copy that does not learn, in eval mode where there is a difference."""
    copied = copy.deepcopy(network)
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    if not isinstance(copied, fx.GraphModule):
        copied.eval()
    return Tapped(copied, paths)


def _tuple(outputs: Any) -> tuple[Any, ...]:
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)


def _with_features(module: fx.GraphModule, paths: Sequence[str]) -> fx.GraphModule:
    """The same parameters behind a graph that also returns the features; float ones, before any quantizer."""
    graph = fx.Graph()  # a plain one, which can be pickled; the exporter's cannot
    copies: dict[fx.Node, fx.Node] = {}
    outputs = _tuple(graph.graph_copy(module.graph, copies))
    places = places_in(module.graph)
    graph.output((*outputs, *(copies[places[path]] for path in paths)))
    return fx.GraphModule(module, graph)


def _count_outputs(module: fx.GraphModule) -> int:
    [output] = [node for node in module.graph.nodes if node.op == "output"]
    return len(_tuple(output.args[0]))


def places_in(graph: fx.Graph) -> dict[str, fx.Node]:
    """The last node that each module's forward() made in a captured graph, by module path: its output."""
    places: dict[str, fx.Node] = {}
    for node in graph.nodes:
        for path, _ in (node.meta.get("nn_module_stack") or {}).values():
            name = str(path).removeprefix("L['self'].").replace("L['self']", "")
            if name and node.op == "call_function":
                places[name] = node
    return places


def move(module: nn.Module, device: torch.device) -> None:
    """Move a network, captured graphs in it with the devices that their nodes name: of what they make themselves."""
    module.to(device)
    for graph in (m for m in module.modules() if isinstance(m, fx.GraphModule)):
        if sum(_renamed(node, device) for node in graph.graph.nodes):
            graph.recompile()


def _renamed(node: fx.Node, device: torch.device) -> bool:
    named = any(isinstance(value, torch.device) for value in (*node.args, *node.kwargs.values()))
    if named:
        node.args = tuple(device if isinstance(value, torch.device) else value for value in node.args)
        node.kwargs = {
            key: device if isinstance(value, torch.device) else value for key, value in node.kwargs.items()
        }
    return named
