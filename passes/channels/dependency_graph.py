"""torch-pruning's dependency graph of a network, group by group, with what it gets wrong about reshapes put right."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...errors import CompressError
from .runs import first_line
from .surgery import UncuttableError


def torch_pruning(what: str) -> Any:
    """The library; CompressError, for `what` asks, where it is not installed."""
    try:
        import torch_pruning as library
    except ImportError as error:
        raise CompressError(
            f"{what} needs torch-pruning, which is not installed: pip install torch-pruning"
        ) from error
    return library


@contextmanager
def followed(subject: str = "this network") -> Iterator[None]:
    """Let torch-pruning work, which raises whatever it stumbles over: UncuttableError instead."""
    try:
        yield
    except Exception as error:
        raise UncuttableError(f"torch-pruning cannot follow {subject}: {first_line(error)}") from error


def traced(library: Any, probe: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """The dependency graph of a network, which this spends; UncuttableError when it cannot be traced at all."""
    for parameter in probe.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # the tracer follows gradients
    # Fused attention would be one operation that hides what is inside.
    with followed(), sdpa_kernel(SDPBackend.MATH), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = _graph_class(library)().build_dependency(probe, example_inputs=inputs, verbose=False)
        _bound(graph, probe)
    return graph


def groups_of(graph: Any, kept_whole: list[nn.Module]) -> Iterator[tuple[nn.Module, Any | UncuttableError]]:
    """All groups, each by the layer that it was followed from; the error for one that cannot be followed.

    As `get_all_groups` of torch-pruning, which one such layer would end. kept_whole: layers whose outputs stay as they
    are, and with them their groups.
    """
    seen: set[int] = set()
    for root in list(graph.module2node):
        # torch-pruning takes convolutions and linear layers for roots.
        if not isinstance(root, (nn.modules.conv._ConvNd, nn.Linear)) or id(root) in seen:
            continue
        if any(root is layer for layer in kept_whole):
            continue
        pruner = graph.get_pruner_of_module(root)
        try:
            with followed("its channels"):
                group = graph.get_pruning_group(
                    root, pruner.prune_out_channels, list(range(pruner.get_out_channels(root)))
                )
        except UncuttableError as error:
            yield root, error
            continue
        makers = {id(dep.target.module) for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)}
        seen |= makers
        if makers.isdisjoint(map(id, kept_whole)):
            yield root, group


def _graph_class(library: Any) -> Any:
    class Graph(library.DependencyGraph):  # type: ignore[misc]
        """Knows what size a tensor had before a reshape, which torch-pruning looks for by a name of old PyTorch."""

        def _trace(self, *given: Any, **named: Any) -> dict[Any, Any]:
            nodes: dict[Any, Any] = super()._trace(*given, **named)
            for node in nodes.values():
                if node.type == library.ops.OPTYPE.RESHAPE and hasattr(node.grad_fn, "_saved_self_sym_sizes"):
                    node.grad_fn = SimpleNamespace(
                        _saved_self_sizes=tuple(node.grad_fn._saved_self_sym_sizes)
                    )
            return nodes

    return Graph


class _BoundedMappings(list[Any]):
    """A dependency's index mappings, which refuse more indices than `limit`, and larger ones.

    torch-pruning takes a reshape of channels into positions for a repetition of channels; around a loop of these
    (windows of attention) its index lists grow without end, and take all memory.
    """

    limit: int

    def __iter__(self) -> Iterator[Any]:
        for mapping in super().__iter__():
            yield None if mapping is None else partial(self._checked, mapping)

    def _checked(self, mapping: Any, indices: Any) -> Any:
        mapped = mapping(indices)
        if len(mapped) > self.limit or any(index.idx >= self.limit for index in mapped[-1:]):
            raise OverflowError("a reshape mixes channels with positions")
        return mapped


def _bound(graph: Any, probe: nn.Module) -> None:
    # Channels are read by some layer in the end, and none has more of them than the longest side of a weight.
    tensors = [*probe.parameters(), *probe.buffers()]
    longest = max((size for tensor in tensors for size in tensor.shape), default=0)
    for node in graph.module2node.values():
        for dependency in node.dependencies:
            dependency.index_mapping = _BoundedMappings(dependency.index_mapping)
            dependency.index_mapping.limit = longest
