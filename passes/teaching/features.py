"""Which features of student and teacher are compared: those the user pairs, or blocks paired automatically."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from ...errors import CompressError
from .losses import same_map
from .taps import Tapped, places_in

Batch = tuple[Tensor, ...]
DEPTHS = (1 / 3, 2 / 3, 1.0)  # of a run of blocks whose shapes are all alike, as a transformer's are


def pair(
    student: nn.Module, teacher: nn.Module, example: Batch, asked: Mapping[str, str] | None, what: str
) -> tuple[list[str], list[str]]:
    """Module paths whose outputs are compared: of the student, and of the teacher.

    asked: student's path to teacher's path; None pairs blocks of repeated structure: of each size of map the last
    block of both, and where all maps are of one size, blocks at the same relative depth.
    what: the pass, for messages. Raises CompressError for a path that is not there, for outputs that cannot be
    compared, and when nothing pairs.
    """
    pairs = list(asked.items()) if asked is not None else _automatic(student, teacher, example)
    if not pairs:
        raise CompressError(
            f"{what}.features: auto found no blocks whose outputs can be compared; name pairs of modules"
            " (student's: teacher's), or leave features out"
        )
    for module, who, paths in (
        (student, "student", [s for s, _ in pairs]),
        (teacher, "teacher", [t for _, t in pairs]),
    ):
        known = _paths(module)
        for path in paths:
            if path not in known:
                raise CompressError(f"{what}.features: the {who} has no module '{path}'{_hint(path, known)}")
    ours = _outputs(student, [s for s, _ in pairs], example)
    theirs = _outputs(teacher, [t for _, t in pairs], example)
    for (path, other), one, two in zip(pairs, ours, theirs, strict=True):
        if not same_map(one, two):
            raise CompressError(
                f"{what}.features: '{path}' gives {tuple(one.shape)} and '{other}' {tuple(two.shape)}: shapes must"
                " be equal, or differ in the channels alone"
            )
    return [s for s, _ in pairs], [t for _, t in pairs]


def has_blocks(network: nn.Module, example: Batch) -> bool:
    """Whether it has blocks of repeated structure, which `pair` could find."""
    return bool(_blocks(network, example))


def _hint(path: str, known: list[str]) -> str:
    from ...calibration.named import did_you_mean

    return did_you_mean(path, known) or f"; there are {', '.join(known[:6])}, …"


def _paths(module: nn.Module) -> list[str]:
    if isinstance(module, fx.GraphModule):
        return list(places_in(module.graph))
    return [name for name, _ in module.named_modules() if name]


def _automatic(student: nn.Module, teacher: nn.Module, example: Batch) -> list[tuple[str, str]]:
    ours, theirs = _blocks(student, example), _blocks(teacher, example)
    sizes = list(dict.fromkeys(size for _, size in ours))
    if len(sizes) > 1:
        last_of_ours, last_of_theirs = ({size: path for path, size in blocks} for blocks in (ours, theirs))
        return [(last_of_ours[size], last_of_theirs[size]) for size in sizes if size in last_of_theirs]
    same = [path for path, size in theirs if [size] == sizes]
    if not same:
        return []
    chosen = sorted({max(1, round(depth * len(ours))) for depth in DEPTHS})
    alike = [max(1, round(count / len(ours) * len(same))) for count in chosen]
    return [(ours[one - 1][0], same[other - 1]) for one, other in zip(chosen, alike, strict=True)]


def _blocks(module: nn.Module, example: Batch) -> list[tuple[str, tuple[int, ...]]]:
    """Numbered blocks (`layer1.0`, `blocks.3`) with the size of their maps, in the order of the network."""
    paths = _paths(module)
    holders = [path for path in paths if path.rpartition(".")[2].isdigit() and _has_parts(path, paths)]
    outer = [path for path in holders if not any(path.startswith(f"{other}.") for other in holders)]
    outputs = _outputs(module, outer, example)
    return [
        (path, _size(output))
        for path, output in zip(outer, outputs, strict=True)
        if isinstance(output, Tensor) and output.dim() in (3, 4)
    ]


def _has_parts(path: str, paths: list[str]) -> bool:
    return any(other.startswith(f"{path}.") for other in paths)


def _size(output: Tensor) -> tuple[int, ...]:
    """Height and width of a map, or the tokens of a transformer."""
    return tuple(output.shape[2:]) if output.dim() == 4 else (output.shape[1],)


def _outputs(module: nn.Module, paths: list[str], example: Batch) -> tuple[Tensor, ...]:
    with torch.no_grad():
        features: tuple[Tensor, ...] = Tapped(module, paths)(*example)[1]
    return features
