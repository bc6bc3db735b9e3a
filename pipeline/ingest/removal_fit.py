"""What of a removal does not fit a network, in words: looked for before anything is done that it asks for.

Each function yields what it finds, of which the first alone is of use: what it looks at next builds on what it has
looked at. Nothing may be done that is not a removal: names are those of the network, indices ascend, and of what layers
hold beside tensors nothing changes but sizes, as those of the tensors do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

from torch import Tensor, nn

from ...calibration.named import did_you_mean
from ...text import short
from .removals import CutRecord, RemovalRecord

SIZES = frozenset((
    "in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "normalized_shape",
    "num_channels", "num_groups", "num_parameters", "embedding_dim", "input_size", "hidden_size", "proj_size",
    "unflattened_size",
))  # fmt: skip
"""Of what torch's layers compute with, the sizes of their tensors: no stride, padding or kernel."""
_Changes = dict[tuple[int, int], None]
"""Sizes as they were and as they are."""


def of_children(record: RemovalRecord, module: nn.Module) -> Iterator[str]:
    """Of the containers and their children that stay."""
    layers = dict(module.named_modules())
    for name, keys in record.children.items():
        if name not in layers:
            yield _no_layer(name, layers)
        own = layers[name]._modules
        if missing := [key for key in keys if key not in own]:
            yield f"{_quoted(name)} has no child {_quoted(missing[0])}"
        if len(set(keys)) < len(keys):
            yield f"children of {_quoted(name)} are named twice"


def of_skipped(record: RemovalRecord, module: nn.Module) -> Iterator[str]:
    """Of the blocks that are passed over."""
    layers = dict(module.named_modules())
    for name in record.skipped:
        if name not in layers or not name:
            yield _no_layer(name, layers)
    names = set(record.skipped)
    if len(names) < len(record.skipped):
        yield "a block is passed over twice"
    for name in names:
        if inside := next((outer for outer in names if name.startswith(f"{outer}.")), None):
            yield f"{_quoted(name)} lies in {_quoted(inside)}, and both are passed over"


def of_channels(record: RemovalRecord, module: nn.Module) -> Iterator[str]:
    """Of the kept indices of tensors, and of the sizes that layers hold."""
    cut = record.cut
    tensors = dict(
        [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    )
    for name, dims in cut.tensors.items():
        if name not in tensors:
            yield f"it has no tensor {_quoted(name)}{did_you_mean(name[:200], list(tensors))}"
        for dim, number in dims.items():
            yield from _of_dimension(cut, name, tensors[name], int(dim), number)
    yield from _of_attributes(cut, module, tensors)


def _of_dimension(cut: CutRecord, name: str, tensor: Tensor, dim: int, number: int) -> Iterator[str]:
    what = f"tensor {_quoted(name)}"
    if dim >= tensor.dim():
        yield f"{what} has no dimension {dim}"
    elif number >= len(cut.indices):
        yield f"{what}: there is no list {number} of indices"
    else:
        kept, size = cut.indices[number], tensor.shape[dim]
        # The length first: a list may be long, and be named for every tensor.
        if (
            not 0 < len(kept) <= size
            or kept[-1] >= size
            or any(one >= next_one for one, next_one in pairwise(kept))
        ):
            yield f"{what}, dimension {dim}: the kept indices are not some of its {size}, ascending"


def _of_attributes(cut: CutRecord, module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    layers = dict(module.named_modules())
    sizes = _sizes_cut(cut, tensors)
    for name, attributes in cut.attributes.items():
        if name not in layers:
            yield _no_layer(name, layers)
        layer = layers[name]
        changes = {}
        for attribute, value in attributes.items():
            pairs = _pairs(layer, attribute, value)
            if pairs is None:
                yield f"{_quoted(attribute)} of {_quoted(name)} is no size that could become {str(value)[:40]}"
            else:
                changes[attribute] = pairs
        # What holds no tensor goes by those of the others.
        own = sizes.get(name, {}) if next(_held(layer), None) is not None else sizes.get("", {})
        all_pairs = [pair for pairs in changes.values() for pair in pairs]
        for attribute, pairs in changes.items():
            if not all(_follows(pair, own, all_pairs) for pair in pairs):
                yield f"no tensor of {_quoted(name)} becomes smaller as {_quoted(attribute)} would"


def of_sizes(record: RemovalRecord, smaller: nn.Module) -> Iterator[str]:
    """Of what layers hold for the sizes of their weights, once the channels are gone."""
    for name, attributes in record.cut.attributes.items():
        layer = smaller.get_submodule(name)
        for attribute, size in _of_weight(layer).items():
            if attribute in attributes and getattr(layer, attribute) != size:
                yield (
                    f"{_quoted(attribute)} of {_quoted(name)} would be {getattr(layer, attribute)}, where its weight"
                    f" has {size}"
                )


def _of_weight(layer: nn.Module) -> dict[str, int]:
    """The sizes that the weight of a layer of torch's tells."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return {}
    shape = weight.shape
    if isinstance(layer, nn.Linear):
        return {"out_features": shape[0], "in_features": shape[1]}
    if isinstance(layer, nn.modules.conv._ConvNd):
        first, second = (
            ("in_channels", "out_channels") if layer.transposed else ("out_channels", "in_channels")
        )
        return {first: shape[0], second: shape[1] * layer.groups}
    if isinstance(layer, (nn.modules.batchnorm._NormBase, nn.GroupNorm)):
        return {"num_features": shape[0], "num_channels": shape[0]}
    return {}


def _held(layer: nn.Module) -> Iterator[Tensor]:
    yield from layer.parameters()
    yield from layer.buffers()


def _sizes_cut(cut: CutRecord, tensors: Mapping[str, Tensor]) -> dict[str, _Changes]:
    """How dimensions change of the tensors that are in each layer, by its name."""
    found: dict[str, _Changes] = {}
    for name, dims in cut.tensors.items():
        parts = name.split(".")[:-1]
        for dim, number in dims.items():
            change = tensors[name].shape[int(dim)], len(cut.indices[number])
            for end in range(len(parts) + 1):
                found.setdefault(".".join(parts[:end]), {})[change] = None
    return found


def _pairs(layer: nn.Module, attribute: str, value: int | list[int]) -> list[tuple[int, int]] | None:
    """The whole numbers of an attribute that become smaller, as they are and will be; None for any other change."""
    had = vars(layer).get(attribute)
    kinds = [vars(kind).get("__constants__", ()) for kind in type(layer).__mro__ if _is_torchs(kind)]
    if attribute not in SIZES and any(attribute in constants for constants in kinds):
        return None
    olds, news = (list(x) if isinstance(x, (list, tuple)) else [x] for x in (had, value))
    same_kind = isinstance(had, (list, tuple)) == isinstance(value, list) and len(olds) == len(news)
    if not same_kind or any(
        type(old) is not int or not new <= old for old, new in zip(olds, news, strict=True)
    ):
        return None
    return [(old, new) for old, new in zip(olds, news, strict=True) if old != new]


def _is_torchs(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torch"


def _follows(pair: tuple[int, int], sizes: _Changes, others: list[tuple[int, int]]) -> bool:
    """Whether a dimension changed in the ratio of a size: of it, or of it times another.

    Rows of a `qkv` layer are 3 x heads x head size, of which either or both may change.
    """
    had, kept = pair
    factors = [(1, 1), *(other for other in others if other != pair)]
    return any(after * had * was == before * kept * left for was, left in factors for before, after in sizes)


def _no_layer(name: str, layers: Mapping[str, nn.Module]) -> str:
    return f"it has no layer {_quoted(name)}{did_you_mean(name[:200], list(layers))}"


def _quoted(name: str) -> str:
    return f"'{short(name)}'"
