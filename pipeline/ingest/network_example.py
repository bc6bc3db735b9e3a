"""The tensors that a network of PyTorch is fed as an example, where no data give them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from ...calibration.named import did_you_mean
from ...errors import CompressError
from ..onnx_files.inputs import GivenShapes, Shape, dims

MAX_ELEMENTS = 2**30  # of one sample: 4 GB
SEED = 0
BATCHED_AXES = 4  # a shape of that many sizes may have the batch in front


def stated_shapes(given: GivenShapes, names: Sequence[str], variadic: bool = False) -> list[Shape]:
    """The shapes that a user states, in the order of the network's inputs.

    names: of its inputs; "input" names the only one of a network too. variadic: it takes any number more. CompressError
    for a name that no input has, and where an input before a named one has no shape.
    """
    if given.ordered:
        if len(given.ordered) > len(names) and not variadic:
            raise CompressError(
                f"{given.what}: {len(given.ordered)} shapes, and the network takes {len(names)} inputs"
            )
        return list(given.ordered)
    if list(given.named) == ["input"] and "input" not in names:
        return [given.named["input"]]
    known = list(names) + [f"input_{i}" for i in range(len(names), len(given.named)) if variadic]
    for name in given.named:
        if name not in known:
            raise CompressError(
                f"{given.what}: the network has no input {name!r}{did_you_mean(name, known)};"
                f" it takes {', '.join(known) or 'none'}"
            )
    wanted = known[: max((known.index(name) + 1 for name in given.named), default=0)]
    if missing := next((name for name in wanted if name not in given.named), None):
        raise CompressError(f"{given.what}: give a shape for input {missing!r} too")
    return [given.named[name] for name in wanted]


def random_example(shapes: Sequence[Shape], source: str) -> tuple[Tensor, ...]:
    """Random numbers for samples of these shapes, each as a batch of one."""
    if not shapes:
        raise CompressError(
            f"model.input_shape: the shape of {source}'s input is not known; give the shape of one"
            f" sample without the batch, for instance [3, 224, 224]"
        )
    for shape in shapes:
        if len(shape) > 8 or prod(shape) > MAX_ELEMENTS:
            raise CompressError(
                f"model.input_shape: {list(shape)} is no sample of a vision network: give at most 8 sizes, and"
                f" {MAX_ELEMENTS:,} numbers"
            )
    generator = torch.Generator().manual_seed(SEED)
    return tuple(torch.randn(1, *shape, generator=generator) for shape in shapes)


def of_one_sample(module: nn.Module, shapes: Sequence[Shape]) -> list[Shape]:
    """The shapes without the batch, where the network runs on them so, and not as they are.

    Nothing says how many axes an input has, so both are tried where a shape has four sizes or more.
    """
    inner = [tuple(shape[1:]) for shape in shapes]
    if not shapes or any(len(shape) < BATCHED_AXES or prod(shape) > MAX_ELEMENTS for shape in shapes):
        return list(shapes)
    if accepts(module, random_example(shapes, "")) or not accepts(module, random_example(inner, "")):
        return list(shapes)
    return inner


def declared_sample(shape: Shape, rank: int, name: str, what: str) -> Shape:
    """The shape of one sample of an input that has `rank` axes; CompressError for another number of sizes."""
    if len(shape) not in (rank - 1, rank):
        raise CompressError(
            f"{what}: {dims(shape)} for input {name!r}, which has {rank} axes: give {rank - 1} sizes of one sample, or"
            f" {rank} with the batch first"
        )
    return shape if len(shape) == rank - 1 else tuple(shape[1:])


def accepts(module: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether the network runs on these inputs."""
    try:
        with torch.no_grad():
            module(*inputs)
    except Exception:  # a wrong size is refused by a type of error that depends on the operator
        return False
    return True
