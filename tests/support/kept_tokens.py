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
from edgepress.passes.merging.schedule import Kept, MatchingName
from edgepress.targets.base import Engine
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Choice:
    """What one site chose of each sample, said by the patches of the image that tokens were at first.

    order: (n, pruned); the first `staying` stay, and the others are merged into those. importance: of each patch where
    PyTorch chose by it alone who stays, (n, patches), minus infinity for those that went before; else None.
    """

    order: Tensor
    staying: int
    importance: Tensor | None = None

    def sets(self, sample: int) -> tuple[frozenset[int], frozenset[int]]:
        """The patches that stay, and those that stay or are merged."""
        order = self.order[sample].tolist()
        return frozenset(order[: self.staying]), frozenset(order)


@dataclass(frozen=True)
class Site:
    """What a block is given and leaves, and how it chooses who is merged."""

    given: int
    kept: Kept
    matching: MatchingName

    @property
    def ranked(self) -> list[int]:
        """How long each ranking is that it makes: of those that are not dropped, then of every second one."""
        dropped = [self.kept.pruned] if self.kept.by_importance(self.given, self.matching) else []
        merges = self.matching == "bipartite" and self.kept.merged < self.kept.pruned
        return dropped + [self.kept.pruned - self.kept.pruned // 2] * merges

    def order(self, rankings: Sequence[Tensor]) -> Tensor:
        """Of the tokens that it is given the places of those that stay, in their order, then of those that merge."""
        n = len(rankings[0])
        if self.matching == "importance":
            return rankings[0].long()
        tokens = torch.arange(self.given).expand(n, -1)
        if self.kept.pruned < self.given:
            tokens = rankings[0].long().sort(1).values
        if self.kept.merged < self.kept.pruned:
            every = 2 * rankings[-1].long()
            going = self.kept.pruned - self.kept.merged
            between = torch.arange(1, self.kept.pruned, 2).expand(n, -1)
            order = [every[:, going:].sort(1).values, between, every[:, :going]]
            tokens = tokens.gather(1, torch.cat(order, 1))
        return tokens


def sites_of(network: nn.Module, patches: int) -> list[Site]:
    """The sites of a network with TokenBlocks that is given so many patches, in the order in which they run."""
    [blocks] = [part for part in network.modules() if isinstance(part, TokenBlocks)]
    found = list[Site]()
    for block in blocks.each:
        if block.kept is not None:
            given = found[-1].kept.merged if found else patches
            found.append(Site(given, block.kept, block.matching))
    return found


def chosen_by_torch(
    model: Model, inputs: tuple[Tensor, ...], sites: Sequence[Site]
) -> tuple[tuple[Tensor, ...], list[Choice]]:
    """The outputs for a batch and what the sites chose; of modules, or of the graph that `quantize` makes of them."""
    with _Rankings() as rankings:
        outputs = model.run(*inputs)
    orders, importances = zip(*rankings.found, strict=True)
    return outputs, _choices(orders, sites, importances)


def chosen_by_engine(
    engine: Engine, model: Model, inputs: tuple[Tensor, ...], sites: Sequence[Site]
) -> tuple[tuple[Tensor, ...], list[Choice]]:
    """The same of an engine, built of what `telling` makes of the exported `model`."""
    feeds = {name: x.numpy() for name, x in zip(model.input_names, inputs, strict=True)}
    found = [torch.from_numpy(array) for array in engine.run(feeds)]
    count = len(model.output_names)
    return tuple(found[:count]), _choices(found[count:], sites)


def telling(onnx_path: Path, path: Path) -> Path:
    """A copy at `path` of an exported network that also puts out how its sites rank tokens, (n, ranked) int64 each."""
    model = onnx.load(onnx_path)
    orders = [node.output[1] for node in model.graph.node if _ranks_tokens(node)]
    shapes = [value for value in model.graph.value_info if value.name not in orders]
    del model.graph.value_info[:]
    model.graph.value_info.extend(shapes)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in orders)
    onnx.save(model, path)
    return path


class _Rankings(TorchDispatchMode):
    """Keeps how tokens were ranked, and by what, each time that a site did so."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        by_topk = func is torch.ops.aten.topk.default
        by_sort = func in (torch.ops.aten.sort.default, torch.ops.aten.sort.stable)
        # of three axes are the cosines; places that are put in their order are whole numbers
        if (by_topk or by_sort) and args[0].dim() == 2 and args[0].is_floating_point():
            self.found.append((made[1], args[0]))
        return made


def _ranks_tokens(node: onnx.NodeProto) -> bool:
    """Whether a site ranks tokens by it: the cosines' is over the last axis, and places are put in rising order."""
    told = {attribute.name: attribute.i for attribute in node.attribute}
    return node.op_type == "TopK" and told.get("axis", -1) == 1 and told.get("largest", 1) == 1


def _choices(
    rankings: Sequence[Tensor], sites: Sequence[Site], by: Sequence[Tensor] | None = None
) -> list[Choice]:
    """Orders of tokens as orders of patches: what stays goes on in that order, and is still what it was at first."""
    assert [ranking.shape[1] for ranking in rankings] == [length for site in sites for length in site.ranked]
    left, values = list(rankings), list(by or [])
    found = list[Choice]()
    patches = torch.arange(sites[0].given).expand(len(rankings[0]), -1)  # what tokens were at first
    for site in sites:
        count = len(site.ranked)
        here, left = left[:count], left[count:]
        measured, values = values[:count], values[count:]
        importance = None
        merges = site.kept.merged < site.kept.pruned
        if measured and not (merges and site.matching == "bipartite"):
            nowhere = torch.full((len(patches), sites[0].given), -torch.inf)
            importance = nowhere.scatter(1, patches, measured[0])
        by_patch = patches.gather(1, site.order(here))
        found.append(Choice(by_patch, site.kept.merged, importance))
        patches = by_patch[:, : site.kept.merged]
    return found
