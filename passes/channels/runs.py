"""What a network does on its example inputs: what goes through its layers, and whether it runs at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ...model import Model


@dataclass(frozen=True)
class Call:
    """One call of a layer: its arguments by position and by name, and what it returned."""

    given: tuple[Any, ...]
    named: dict[str, Any]
    returned: Any

    @property
    def taken(self) -> Tensor | None:
        """The tensor among the arguments that goes on; None when that is not one, or a list may hold another.

        The first, where no other has the shape of what is returned: position embeddings and masks have not.
        """
        arguments = (*self.given, *self.named.values())
        tensors = [x for x in arguments if isinstance(x, Tensor)]
        nested = any(_may_hold_tensors(x) for x in arguments)
        shape = getattr(self.returned, "shape", None)
        return tensors[0] if tensors and not nested and all(x.shape != shape for x in tensors[1:]) else None

    @property
    def keeps_shape(self) -> bool:
        """Whether one tensor went in, and one of the same shape and dtype came out."""
        taken, returned = self.taken, self.returned
        if taken is None or not isinstance(returned, Tensor):
            return False
        return taken.shape == returned.shape and taken.dtype == returned.dtype


def _may_hold_tensors(x: object) -> bool:
    if isinstance(x, (list, tuple)):
        return not all(isinstance(each, (int, float)) for each in x)
    return isinstance(x, dict)


def calls_of(
    module: nn.Module, inputs: tuple[Tensor, ...], layers: Iterable[nn.Module]
) -> dict[int, list[Call]]:
    """The calls of each layer while `module` runs on `inputs`, by the layer's id; none for one that is not run."""
    calls: dict[int, list[Call]] = {}

    def record(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any], returned: object) -> None:
        calls.setdefault(id(layer), []).append(Call(given, named, returned))

    hooks = [layer.register_forward_hook(record, with_kwargs=True) for layer in layers]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def failure(module: nn.Module, model: Model) -> str | None:
    """Why `module` cannot stand for the network of `model`, in words; None when it runs to the same shapes."""
    expected = model.run(*model.example_inputs)
    try:
        results = replace(model, module=module).run(*model.example_inputs)
    except Exception as error:  # forward() raises whatever its author's code raises
        return f"the network does not run: {first_line(error)}"
    had = [(tuple(x.shape), x.dtype) for x in expected]
    has = [(tuple(x.shape), x.dtype) for x in results if isinstance(x, Tensor)]
    if had != has:
        return f"the outputs are {has}, where the teacher's are {had}"
    if not all(bool(torch.isfinite(x).all()) for x in results):
        return "the outputs are not finite"
    return None


def first_line(error: Exception) -> str:
    """The error's type, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
