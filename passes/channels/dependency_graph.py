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

MAX_STEPS = 10_000
"""So many steps from layer to layer are taken for one group: five times what the longest known one needs."""


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
    except UncuttableError:
        raise
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


def groups_of(
    graph: Any, kept_whole: list[nn.Module]
) -> Iterator[tuple[nn.Module, Any | UncuttableError | None]]:
    """All groups, each by the layer that it was followed from; the error for one that cannot be followed.

    As `get_all_groups` of torch-pruning, which one such layer would end. kept_whole: layers whose outputs stay as they
    are, and with them their groups, None here.
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
        yield root, group if makers.isdisjoint(map(id, kept_whole)) else None


def _graph_class(library: Any) -> Any:
    kinds, infer = library.ops.OPTYPE, library.dependency.shape_infer
    told = {kinds.RESHAPE: _reshape, kinds.SPLIT: _split}

    class Graph(library.DependencyGraph):  # type: ignore[misc]
        """Knows how large tensors are and along what they are split, which torch-pruning guesses on today's PyTorch."""

        def __init__(self) -> None:
            super().__init__()
            self.followed = _Followed()

        def get_pruning_group(self, *given: Any, **named: Any) -> Any:
            self.followed.begin()
            return super().get_pruning_group(*given, **named)

        def _trace(self, *given: Any, **named: Any) -> dict[Any, Any]:
            nodes: dict[Any, Any] = super()._trace(*given, **named)
            for node in nodes.values():
                sizes = tuple(getattr(node.grad_fn, "_saved_self_sym_sizes", ()))
                if sizes and node.type in told:
                    told[node.type](node, sizes)
                elif sizes and node.type == kinds.SLICE:
                    channels = [infer.infer_out_channels_recursively(self, each, [0]) for each in node.inputs]
                    _slice(node, sizes, channels)
            return nodes

    return Graph


def _reshape(node: Any, sizes: tuple[int, ...]) -> None:
    """Say the sizes by the name of old PyTorch, by which they are looked for."""
    node.grad_fn = SimpleNamespace(_saved_self_sizes=sizes)


def _split(node: Any, sizes: tuple[int, ...]) -> None:
    """Say that a split along the last dimension is one of channels too, and the sizes of its parts.

    torch-pruning takes it for one of tokens where a class token or position embedding comes before it.
    """
    saved, dim = node.grad_fn, _dimension(node, sizes)
    whole, part = sizes[dim], getattr(saved, "_saved_split_size", None)
    parts = (
        [min(part, whole - start) for start in range(0, whole, part)]
        if part
        else list(saved._saved_split_sizes)
    )
    of_channels = dim in (1, len(sizes) - 1)
    node.enable_index_mapping = of_channels
    node.grad_fn = SimpleNamespace(
        _saved_self_sizes=sizes, _saved_split_sizes=parts, _saved_dim=1 if of_channels else dim
    )


def _slice(node: Any, sizes: tuple[int, ...], channels: list[int | None]) -> None:
    """Say that a slice which takes all is none, nor is one along what is not as large as there are channels."""
    saved, dim = node.grad_fn, _dimension(node, sizes)
    takes_all = saved._saved_start == 0 and saved._saved_end >= sizes[dim] and saved._saved_step == 1
    if takes_all or (channels[:1] not in ([], [None]) and channels[0] != sizes[dim]):
        node.grad_fn = SimpleNamespace(_saved_self_sym_sizes=(0, 0, 0, 0), _saved_dim=0)


def _dimension(node: Any, sizes: tuple[int, ...]) -> int:
    """Along which dimension an operation is; autograd keeps negative ones as unsigned numbers."""
    dim = int(node.grad_fn._saved_dim)
    return dim if dim < len(sizes) else dim - 2**64 + len(sizes)


class _Followed:
    """What has been followed of one group, so that no index is followed from a layer twice.

    Where an index leads does not depend on those that it comes with: the second time finds nothing new. torch-pruning
    stops only where whole lists are alike, and parts of unequal size that are tied to one another, as the one query of
    MobileViTv2 and its keys, bring it back with other lists thousands of times.
    """

    def __init__(self) -> None:
        self._indices: dict[tuple[Any, Any], set[int]] = {}
        self._steps = 0

    def begin(self) -> None:
        """Start with another group."""
        self._indices.clear()
        self._steps = 0

    def note(self, dependency: Any, indices: Any) -> Any:
        """Note that a dependency's source, which loses these indices, is being followed; the indices."""
        source = dependency.source, dependency.trigger
        self._indices.setdefault(source, set()).update(index.idx for index in indices)
        return indices

    def new(self, dependency: Any, indices: Any) -> Any:
        """Those of the indices that a dependency's target has not been followed from."""
        known = self._indices.get((dependency.target, dependency.handler), set())
        new = [index for index in indices if index.idx not in known]
        self._steps += bool(new)
        if self._steps > MAX_STEPS:
            raise UncuttableError(
                f"its channels reach other layers in more than {MAX_STEPS} steps, and are not followed further"
            )
        return new


class _Mappings(list[Any]):
    """A dependency's index mappings, between what notes that they are followed and what leaves out those that were.

    They refuse more indices than `limit`, and larger ones: torch-pruning takes a reshape of channels into positions for
    a repetition of channels; around a loop of these (windows of attention) its index lists grow without end, and take
    all memory.
    """

    def __init__(self, dependency: Any, limit: int, followed: _Followed) -> None:
        super().__init__(dependency.index_mapping)
        self._limit = limit
        self._note, self._new = partial(followed.note, dependency), partial(followed.new, dependency)

    def __iter__(self) -> Iterator[Any]:
        yield self._note
        for mapping in super().__iter__():
            yield None if mapping is None else partial(self._checked, mapping)
        yield self._new

    def _checked(self, mapping: Any, indices: Any) -> Any:
        mapped = mapping(indices)
        if len(mapped) > self._limit or any(index.idx >= self._limit for index in mapped[-1:]):
            raise OverflowError("a reshape mixes channels with positions")
        return mapped


def _bound(graph: Any, probe: nn.Module) -> None:
    # Channels are read by some layer in the end, and none has more of them than the longest side of a weight.
    tensors = [*probe.parameters(), *probe.buffers()]
    longest = max((size for tensor in tensors for size in tensor.shape), default=0)
    for node in graph.module2node.values():
        for dependency in node.dependencies:
            dependency.index_mapping = _Mappings(dependency, longest, graph.followed)
