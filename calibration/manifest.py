"""One reading of the data before any work: is every sample usable, which occur twice, and its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import combinations

from torch import Tensor

from ..errors import CompressError
from ..progress import Progress, Silent
from .data import Part

Shapes = list[tuple[tuple[int, ...], str]]


class Inspector:
    """Reads parts one sample at a time; keeps 16 bytes of each sample's digest, never a sample."""

    def __init__(self, integer_labels: bool = True) -> None:
        self._integer_labels = integer_labels
        self._manifest = hashlib.sha256()
        self._shapes: Shapes | None = None
        self._label_shape: tuple[int, ...] = ()
        self._seen: dict[str, list[bytes]] = {}
        self._classes: dict[str, set[int]] = {}

    def read(self, part: Part, progress: Progress = Silent()) -> None:
        """Check and digest every sample of `part`; CompressError names the part and the sample."""
        if not len(part):
            raise CompressError(f"data: the {part.name} part is empty")
        digests: list[bytes] = []
        classes: set[int] = set()
        self._manifest.update(f"{part.name} {len(part)}\n".encode())
        indices = progress.track(range(len(part)), f"checking the {part.name} data", len(part))
        for index in indices:
            inputs, label = part.samples[index]
            self._check(inputs, label, f"data: sample {index} of the {part.name} part")
            digest = _digest(inputs)
            digests.append(digest[:16])
            self._manifest.update(digest + _digest((label,)))
            if self._integer_labels:
                classes.add(int(label))
        self._seen[part.name], self._classes[part.name] = digests, classes

    @property
    def manifest(self) -> str:
        """SHA-256 over part names, sizes and per-sample digests, hexadecimal."""
        return self._manifest.hexdigest()

    def notes(self) -> tuple[str, ...]:
        """Samples that occur in two parts, and classes that the network never saw."""
        notes = []
        for (earlier, known), (later, digests) in combinations(self._seen.items(), 2):
            lookup = set(known)
            if count := sum(d in lookup for d in digests):
                notes.append(f"{_count(count, f'{later} sample')} also {_verb(count)} in {earlier}")
        return (*notes, *_unseen_classes(self._classes))

    def _check(self, inputs: tuple[Tensor, ...], label: Tensor, where: str) -> None:
        shapes = [(tuple(x.shape), str(x.dtype).removeprefix("torch.")) for x in inputs]
        if self._shapes is None:
            self._shapes, self._label_shape = shapes, tuple(label.shape)
        if shapes != self._shapes:
            raise CompressError(
                f"{where} is {_text(shapes)}, the first sample {_text(self._shapes)}; all must be alike"
            )
        for x in inputs:
            if x.is_floating_point() and not bool(x.isfinite().all()):
                raise CompressError(
                    f"{where} holds NaN or infinite values; clean the data or leave the sample out"
                )
        if tuple(label.shape) != self._label_shape:
            raise CompressError(
                f"{where} has a label of shape {tuple(label.shape)}, the first {self._label_shape}"
            )
        if label.is_floating_point() and not bool(label.isfinite().all()):
            raise CompressError(f"{where} has a label that is NaN or infinite")
        if self._integer_labels and (label.is_floating_point() or label.ndim or int(label) < 0):
            raise CompressError(
                f"{where} has the label {_label(label)}; classification labels are whole numbers from 0"
                f" (other labels need a metric function of your own)"
            )


def _digest(tensors: tuple[Tensor, ...]) -> bytes:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.digest()


def _unseen_classes(classes: Mapping[str, set[int]]) -> tuple[str, ...]:
    trained = classes.get("train", set())
    return tuple(
        f"class {min(others - trained)} occurs in {name} and not in train"
        for name, others in classes.items()
        if trained and others - trained
    )


def _text(shapes: Shapes) -> str:
    return " and ".join(f"{dtype} {list(shape)}" for shape, dtype in shapes)


def _label(label: Tensor) -> str:
    return f"of shape {tuple(label.shape)}" if label.ndim else f"{label.item():g}"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _verb(count: int) -> str:
    return "occurs" if count == 1 else "occur"
