"""Which tokens stay at each site: as PyTorch chooses them, and as an engine of the exported file does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from edgepress.model import Model
from edgepress.passes.merging.blocks import TokenBlocks
from edgepress.passes.merging.schedule import Kept
from edgepress.targets.base import Engine
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Choice:
    """What one site chose of each sample, said by the patches of the image that tokens were at first.

    order: (n, pruned), most important first; the first `staying` stay, and the others are merged into those.
    importance: of each patch where PyTorch chose, (n, patches), minus infinity for those that went before; else None.
    """

    order: Tensor
    staying: int
    importance: Tensor | None = None

    def sets(self, sample: int) -> tuple[frozenset[int], frozenset[int]]:
        """The patches that stay, and those that stay or are merged."""
        order = self.order[sample].tolist()
        return frozenset(order[: self.staying]), frozenset(order)


def sites_of(network: nn.Module) -> list[Kept]:
    """What each site of a network with TokenBlocks leaves, in the order in which they run."""
    [blocks] = [part for part in network.modules() if isinstance(part, TokenBlocks)]
    return [block.kept for block in blocks.each if block.kept is not None]


def chosen_by_torch(
    model: Model, inputs: tuple[Tensor, ...], sites: Sequence[Kept]
) -> tuple[tuple[Tensor, ...], list[Choice]]:
    """The outputs for a batch and what the sites chose; of modules, or of the graph that `quantize` makes of them."""
    with _Rankings() as rankings:
        outputs = model.run(*inputs)
    orders, importances = zip(*rankings.found, strict=True)
    return outputs, _choices(orders, sites, importances)


def chosen_by_engine(
    engine: Engine, model: Model, inputs: tuple[Tensor, ...], sites: Sequence[Kept]
) -> tuple[tuple[Tensor, ...], list[Choice]]:
    """The same of an engine, built of what `telling` makes of the exported `model`."""
    feeds = {name: x.numpy() for name, x in zip(model.input_names, inputs, strict=True)}
    found = [torch.from_numpy(array) for array in engine.run(feeds)]
    count = len(model.output_names)
    return tuple(found[:count]), _choices(found[count:], sites)


def telling(onnx_path: Path, path: Path) -> Path:
    """A copy at `path` of an exported network that also puts out the order of each site, (n, pruned) int64."""
    model = onnx.load(onnx_path)
    orders = [node.output[1] for node in model.graph.node if _ranks_tokens(node)]
    shapes = [value for value in model.graph.value_info if value.name not in orders]
    del model.graph.value_info[:]
    model.graph.value_info.extend(shapes)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in orders)
    onnx.save(model, path)
    return path


class _Rankings(TorchDispatchMode):
    """Keeps how each `topk` over tokens ranked them, and by what."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.topk.default and args[0].dim() == 2:  # of three axes are the cosines
            self.found.append((made[1], args[0]))
        return made


def _ranks_tokens(node: onnx.NodeProto) -> bool:
    """Whether it is the `topk` of a site: the cosines' is over the last axis, and `argsort` takes the least ones."""
    told = {attribute.name: attribute.i for attribute in node.attribute}
    return node.op_type == "TopK" and told.get("axis", -1) == 1 and told.get("largest", 1) == 1


def _choices(
    orders: Sequence[Tensor], sites: Sequence[Kept], importances: Sequence[Tensor] | None = None
) -> list[Choice]:
    """Orders of tokens as orders of patches: what stays goes on in that order, and is still what it was at first."""
    assert [order.shape[1] for order in orders] == [kept.pruned for kept in sites]
    found = list[Choice]()
    patches: Tensor | None = None  # what the tokens that a site is given were at first, (n, tokens)
    for place, (order, kept) in enumerate(zip(orders, sites, strict=True)):
        importance = None
        if importances is not None:
            importance = importances[place]
            if patches is not None:
                nowhere = torch.full_like(importances[0], -torch.inf)
                importance = nowhere.scatter(1, patches, importance)
        by_patch = order.long() if patches is None else patches.gather(1, order.long())
        found.append(Choice(by_patch, kept.merged, importance))
        patches = by_patch[:, : kept.merged]
    return found
