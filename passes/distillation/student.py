"""A smaller student from a trained teacher: fewer blocks, fewer channels, inherited weights.

`derive` decides and describes; `rederive` builds from the description alone, without tracing or ranking again,
so a fresh run and a resumed one get the same student.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from ...errors import CompressError
from ...form import Form, form_named
from ..channels.removal import Removal, removed
from ..channels.runs import failure
from ..channels.surgery import Cut, keep_blocks
from ..order import WORDS
from .inherited import inherits_blocks
from .options import NAME_A_FACTORY
from .student_depth import choose_blocks
from .student_width import choose_channels

if TYPE_CHECKING:
    from ...model import Model
    from ..base import PassContext
    from .options import StudentOptions


@dataclass(frozen=True)
class Student:
    """A network derived from a teacher.

    module: in eval mode, a deep copy: the teacher is never touched. Same inputs and outputs as the teacher.
    description: JSON values: the removal of blocks and channels; enough for `rederive`.
    notes: for the report, what was kept; and what could not be derived, with the reason.
    """

    module: nn.Module
    description: dict[str, Any]
    notes: tuple[str, ...]


def student_of(
    model: Model, options: StudentOptions, description: Mapping[str, Any], context: PassContext
) -> Model:
    """The student as a recipe and `description` say: the model itself, one derived from it, or one by its factory."""
    if options.source:
        if context.load_network is None:
            raise CompressError("distill.student: a student with a source needs a context that can load it")
        found = context.load_network(options)
        if found.form is not form_named(options.source):
            raise CompressError(
                f"distill.student: {options.source} is {WORDS[found.form]}, and a student is trained as a float network"
                " that PyTorch runs: name its factory"
            )
        return replace(found, original=model.float_original, onnx_path=None)
    if options.same:
        return model
    return model.smaller(rederive(model, dict(description)), description)


def derive(model: Model, depth: float = 1.0, width: float = 1.0) -> Student:
    """A student with `depth` of the teacher's repeated blocks and `width` of its channels, each in (0, 1].

    Raises CompressError when the network cannot be derived from, when there is nothing to drop or to narrow,
    and when the smaller network does not run to the same output shapes.
    """
    _require_derivable(model, depth, width)
    module = copy.deepcopy(model.module).eval()
    kept: dict[str, list[str]] = {}
    cut = Cut()
    notes: list[str] = []
    if depth < 1:
        kept, notes = choose_blocks(module, model.example_inputs, depth)
        keep_blocks(module, kept)
        reason = failure(module, model)
        if reason:
            raise CompressError(
                f"distill.student: without the dropped blocks ({'; '.join(notes)}) {reason}. {NAME_A_FACTORY}"
            )
        if not inherits_blocks(module, model, kept):
            notes.append(
                "blocks: forward() goes by their numbers: a kept one does not compute what it does in the teacher"
            )
    if width < 1:
        cut, found = choose_channels(module, model, width)
        notes += found
    description = Removal(cut, children=kept).to_json()
    student = rederive(model, description)
    notes.append(f"student: params {_count(model.module)} -> {_count(student)}")
    return Student(student, description, tuple(notes))


def rederive(model: Model, description: dict[str, Any]) -> nn.Module:
    """The student that `description` (of `derive`, or what JSON made of it) says, from the same teacher.

    Raises CompressError when the description is that of another network.
    """
    try:
        return removed(model.module, Removal.from_json(description))
    except (AttributeError, IndexError, KeyError) as error:
        raise CompressError(
            f"distill.student: this description is not of {model.source or type(model.module).__name__}: {error}."
            " Derive the student again."
        ) from error


def _require_derivable(model: Model, depth: float, width: float) -> None:
    for option, value in (("depth", depth), ("width", width)):
        if not 0 < value <= 1:
            raise CompressError(
                f"distill.student: {option} is {value}: give the fraction to keep, above 0 and at most 1."
            )
    if model.form is not Form.MODULES:
        raise CompressError(
            "distill.student: the network is already captured as one graph, in which blocks can no longer be told"
            f" apart: list distill before the passes that capture it, such as quantize. {NAME_A_FACTORY}"
        )


def _count(module: nn.Module) -> str:
    params = sum(p.numel() for p in module.parameters())
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if params >= size:
            return f"{params / size:.1f} {unit}"
    return str(params)
