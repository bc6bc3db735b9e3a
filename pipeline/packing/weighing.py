"""Weighing: how many bytes a model takes as an .l2z file, asked many times of one network with other weights."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...model import Model
from ..files import write_atomically
from .l2z_file import pack_file

if TYPE_CHECKING:
    import onnx
    from torch import Tensor


class Weighing:
    """Bytes of a model's file. An export takes seconds: the graph of the first one serves networks that differ in the
    values of their tensors alone.

    export_options: as `export` takes them.
    """

    def __init__(self, **export_options: int) -> None:
        self.export_options = export_options
        self._last: _Exported | None = None

    def __call__(self, model: Model) -> int:
        """The size of `model` with its graph, packed."""
        from ...passes.quantization.deploy import deployable  # which loads Brevitas: unpacking does without

        tensors = dict(deployable(model.module).state_dict())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            if self._last is None or not self._last.fits(tensors):
                self._last = _Exported.of(model, tensors, path, self.export_options)
            else:
                self._last.write(tensors, path)
            return len(pack_file(path, coded=model.coded))


@dataclass(frozen=True)
class _Exported:
    """A graph, and which tensor of the network each of its initializers is: (initializer, tensor, transposed).

    fixed: the tensors that the graph does not hold as they are, exactly once, for themselves alone (folded, or merged
    with equal ones): it serves networks in which these are the same.
    """

    proto: onnx.ModelProto
    places: tuple[tuple[str, str, bool], ...]
    shapes: Mapping[str, tuple[torch.Size, torch.dtype]]
    fixed: Mapping[str, Tensor]

    @classmethod
    def of(
        cls, model: Model, tensors: Mapping[str, Tensor], path: Path, options: Mapping[str, int]
    ) -> _Exported:
        """The export of a model, left at `path`."""
        import onnx

        from ..export import export  # which loads Brevitas: unpacking does without

        proto = onnx.load(export(model, path, **options))
        places = []
        for initializer in proto.graph.initializer:
            if (found := _tensor_of(initializer, tensors)) is not None:
                places.append((initializer.name, *found))
        count = Counter(name for _, name, _ in places)
        alone = {name for name in tensors if count[name] == 1 and not _has_equal(name, tensors)}
        own = tuple(place for place in places if place[1] in alone)
        fixed = {name: t.detach().clone() for name, t in tensors.items() if name not in alone}
        return cls(proto, own, {name: (t.shape, t.dtype) for name, t in tensors.items()}, fixed)

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a network with these tensors has this graph, as far as names, shapes and types tell."""
        alike = {name: (t.shape, t.dtype) for name, t in tensors.items()} == self.shapes
        return alike and all(torch.equal(tensors[name], before) for name, before in self.fixed.items())

    def write(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """The graph with these tensors as a file."""
        stored = {initializer.name: initializer for initializer in self.proto.graph.initializer}
        for place, name, transposed in self.places:
            tensor = tensors[name].detach().cpu()
            stored[place].raw_data = (tensor.T if transposed else tensor).contiguous().numpy().tobytes()
        write_atomically(path, self.proto.SerializeToString(deterministic=True))


def _has_equal(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether another tensor has the same values, as they are or transposed: an export may keep one for both."""
    own = tensors[name]
    others = [t for other, t in tensors.items() if other != name and t.dtype == own.dtype]
    return any(torch.equal(own, t) or (t.dim() == 2 and torch.equal(own, t.mT)) for t in others)


def _tensor_of(initializer: onnx.TensorProto, tensors: Mapping[str, Tensor]) -> tuple[str, bool] | None:
    """The tensor whose values an initializer has, and whether transposed; that of its name, or the only one."""
    from onnx import numpy_helper

    if not initializer.raw_data:
        return None
    value = torch.from_numpy(numpy_helper.to_array(initializer).copy())
    named = tensors.get(initializer.name)
    if named is not None and named.dtype == value.dtype and torch.equal(named.detach().cpu(), value):
        return initializer.name, False
    found = [
        (name, transposed)
        for name, tensor in tensors.items()
        for transposed in ((False, True) if tensor.dim() == 2 else (False,))
        if tensor.dtype == value.dtype
        and torch.equal((tensor.T if transposed else tensor).detach().cpu(), value)
    ]
    return found[0] if len(found) == 1 else None
