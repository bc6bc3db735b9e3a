"""Groups of channels that must be kept together, by torch-pruning (https://arxiv.org/abs/2301.12900).

An addition, a norm or a depthwise convolution ties channels of several layers together. torch-pruning follows them
through the network; what it cuts is read off as kept indices, which can be applied without it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .dependency_graph import followed, groups_of, torch_pruning, traced
from .surgery import Cut, UncuttableError, kept_of


class ChannelGroups:
    """The groups of a network, of all channels but those of its outputs.

    probe: a copy of the network for this object alone; `cut` spends it.
    kept_whole: layers whose outputs are left as they are.
    what: who asks, as messages name it. UncuttableError when the network cannot be traced.
    unfollowed: the layers whose channels cannot be followed, by name, with the reasons. tied: one layer of each group
    that is left as it is since a layer of `kept_whole` is among its makers.
    """

    def __init__(
        self, probe: nn.Module, inputs: tuple[Tensor, ...], kept_whole: list[nn.Module], what: str
    ) -> None:
        self._pruning, self._probe = torch_pruning(what), probe
        self.names = {
            **{id(module): name for name, module in probe.named_modules()},
            **{id(parameter): name for name, parameter in probe.named_parameters()},
        }
        self._graph = traced(self._pruning, probe, inputs)
        self.groups: list[Any] = []
        self.unfollowed: dict[str, str] = {}
        self.tied: list[str] = []
        for root, group in groups_of(self._graph, kept_whole):
            if isinstance(group, UncuttableError):
                self.unfollowed[self.names[id(root)]] = str(group)
            elif group is None:
                self.tied.append(self.names[id(root)])
            elif not self._makes_outputs(group):
                self.groups.append(group)

    def _makes_outputs(self, group: Any) -> bool:
        """Whether these channels are the network's outputs: they reach a node that nothing reads."""
        return any(
            not dep.target.outputs and self._graph.is_out_channel_pruning_fn(dep.handler) for dep, _ in group
        )

    def channels(self, group: Any) -> int:
        """How many channels the group has."""
        return int(self._graph.get_out_channels(group[0].dep.target.module))

    def reads(self, dependency: Any) -> bool:
        """Whether a dependency of a group is a layer that takes the channels in, and makes others of them."""
        handler = dependency.handler
        into = self._graph.is_in_channel_pruning_fn(handler)
        return bool(into and not self._graph.is_out_channel_pruning_fn(handler))

    def module(self, name: str) -> nn.Module:
        """A module of the network, by its name."""
        return self._probe.get_submodule(name)

    def dimension(self, parameter: nn.Parameter) -> int:
        """Which dimension of a parameter that belongs to no layer holds the channels, as torch-pruning takes it."""
        return int(next(dim for each, dim in self._graph.unwrapped_parameters if each is parameter))

    def tied_to_first(self, group: Any) -> list[int]:
        """The channels, ascending, that go with the group's first one, itself included."""
        root = group[0].dep.target.module
        pruner = self._graph.get_pruner_of_module(root)
        with followed():
            tied = self._graph.get_pruning_group(root, pruner.prune_out_channels, [0])
        return sorted(
            {
                index
                for item in tied
                if item.dep.target.module is root and not self.reads(item.dep)
                for index in item.idxs
            }
        )

    def readers(self, group: Any) -> list[nn.Module]:
        """The layers that take the group's channels for their input."""
        return [dep.target.module for dep, _ in group if self._graph.is_in_channel_pruning_fn(dep.handler)]

    def magnitude(self, group: Any) -> Tensor:
        """How large each channel's weights are, (channels,): group L2 magnitude; zeros where no layer has any."""
        with followed():
            importance = self._pruning.importance.GroupMagnitudeImportance(p=2)(group)
        channels = self.channels(group)
        return torch.zeros(channels) if importance is None or len(importance) != channels else importance

    def least(self, group: Any, kept: int, importance: Tensor) -> list[int]:
        """The channels to drop until `kept` are left: those of least importance, the same in each of its `parts`.

        importance: (channels,), whatever the caller ranks by; of equal ones the first stay.
        """
        parts = parts_of(group)
        scores = importance.reshape(parts, -1).mean(0).nan_to_num()
        order = torch.argsort(scores, descending=True, stable=True)[kept // parts :]
        size = self.channels(group) // parts
        return sorted(part * size + index for part in range(parts) for index in order.tolist())

    def cut(self, module: nn.Module, dropped: list[tuple[Any, list[int]]]) -> tuple[Cut, list[bool]]:
        """What is left of `module`, the network that the probe is a copy of, without the given channels of groups; and
        of each group, whether it is left whole, since torch-pruning finds that some layer of it would vanish.

        Each weight of the probe becomes its own position; what torch-pruning leaves of them are the kept indices,
        whatever the kind of layer.
        """
        shapes = {name: tensor.shape for name, tensor in _tensors(self._probe).items() if tensor.dim()}
        for name, tensor in _tensors(self._probe).items():
            if name in shapes:
                positions = torch.arange(
                    tensor.numel(), dtype=torch.float64, device=tensor.device
                )  # exact to 2^53
                tensor.data = positions.reshape(tensor.shape)
        whole = []
        for group, channels in dropped:
            root = group[0].dep.target.module
            with followed():
                smaller = self._graph.get_pruning_group(
                    root, self._graph.get_pruner_of_module(root).prune_out_channels, channels
                )
                whole.append(not self._graph.check_pruning_group(smaller))
                if not whole[-1]:
                    smaller.prune()
        return self._read_off(module, shapes), whole

    def _read_off(self, module: nn.Module, shapes: dict[str, torch.Size]) -> Cut:
        """The cut that torch-pruning made of the probe, whose tensors had these shapes."""
        left = _tensors(self._probe)
        cut = Cut()
        for name, shape in shapes.items():
            if left[name].shape != shape:
                cut.tensors[name] = _kept_positions(name, left[name].detach(), shape)
        for name, layer in module.named_modules():
            changed = _changed_sizes(layer, self._probe.get_submodule(name))
            if changed:
                cut.attributes[name] = changed
        return cut


def parts_of(group: Any) -> int:
    """Into how many equal parts grouped convolutions and group norms divide the group's channels."""
    parts = 1
    for dep, _ in group:
        layer = dep.target.module
        if isinstance(layer, nn.modules.conv._ConvNd) and layer.groups != layer.out_channels:
            parts = max(parts, layer.groups)
        elif isinstance(layer, nn.GroupNorm):
            parts = max(parts, layer.num_groups)
    return parts


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict([*module.named_parameters(), *module.named_buffers()])


def _kept_positions(name: str, positions: Tensor, shape: torch.Size) -> dict[int, list[int]]:
    """The kept indices of each dimension of a tensor that had `shape`."""
    places = torch.unravel_index(positions.long(), shape)
    kept = {
        dim: places[dim].movedim(dim, 0).reshape(positions.shape[dim], -1)[:, 0].tolist()
        for dim in range(len(shape))
        if positions.shape[dim] != shape[dim]
    }
    whole = torch.arange(shape.numel(), device=positions.device).reshape(shape)
    if not torch.equal(kept_of(whole, kept), positions.long()):
        raise UncuttableError(f"{name} would be cut unevenly")
    return kept


def _changed_sizes(before: nn.Module, after: nn.Module) -> dict[str, Any]:
    """The attributes that say a size (an int, or a tuple of them) and have changed, with their new value."""
    old, new = vars(before), vars(after)
    return {
        name: list(new[name]) if isinstance(value, tuple) else new[name]
        for name, value in old.items()
        if type(value) in (int, tuple) and type(new.get(name)) is type(value) and new[name] != value
    }
