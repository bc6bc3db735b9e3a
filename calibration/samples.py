"""Where samples are read from: arrays, map-style datasets, folders of images; one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import CompressError
from .data import Sample
from .named import call

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm")


class Preprocessing(Protocol):
    """What happens to each image of a folder; a recipe's `preprocess` section fits."""

    @property
    def size(self) -> int:
        """Height and width, pixels."""

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""

    @property
    def mean(self) -> tuple[float, ...]:
        """One number a channel, of x/255."""

    @property
    def std(self) -> tuple[float, ...]:
        """One number a channel, of x/255."""


@dataclass(frozen=True)
class ArraySamples(Sequence[Sample]):
    """Inputs, each (n, ...), and labels (n, ...), held in memory by the source."""

    inputs: tuple[Tensor, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return tuple(x[index] for x in self.inputs), self.labels[index]


@dataclass(frozen=True)
class MapSamples(Sequence[Sample]):
    """A map-style dataset: `dataset[i]` is (x, y), x an array or a tuple of arrays."""

    dataset: Any
    what: str

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        item = call(self.dataset.__getitem__, f"{self.what}: reading sample {index}", index)
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise CompressError(f"{self.what}: sample {index} is not a pair (x, y) but {type(item).__name__}")
        x, y = item
        columns = x if isinstance(x, (tuple, list)) else (x,)
        return tuple(input_tensor(c, f"{self.what}: x of sample {index}") for c in columns), label_tensor(
            y, f"{self.what}: y of sample {index}"
        )


@dataclass(frozen=True)
class ImageSamples(Sequence[Sample]):
    """Images of a folder with one sub-folder a class, read when asked for; classes in sorted order."""

    files: tuple[tuple[Path, int], ...]
    preprocess: Preprocessing
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        path, label = self.files[index]
        return (self._read(path),), torch.tensor(label)

    def _read(self, path: Path) -> Tensor:
        """Resized bilinearly with antialiasing, then (x/255 - mean)/std: float32, (channels, size, size)."""
        from PIL import Image

        p = self.preprocess
        try:
            with Image.open(path) as image:
                grey_or_rgb = self._eight_bit(image, path).convert("L" if p.channels == 1 else "RGB")
                resized = grey_or_rgb.resize((p.size, p.size), Image.Resampling.BILINEAR)
        except CompressError:
            raise
        except Exception as error:
            raise CompressError(f"data: cannot read the image {path}: {error}") from error
        pixels = torch.from_numpy(np.array(resized, dtype=np.float32) / 255).reshape(
            p.size, p.size, p.channels
        )
        return ((pixels - torch.tensor(p.mean)) / torch.tensor(p.std)).permute(2, 0, 1).contiguous().float()

    @staticmethod
    def _eight_bit(image: Image, path: Path) -> Image:
        """Refuse what PIL would clip to 255 without a word."""
        if image.mode.startswith(("I", "F")):
            raise CompressError(
                f"data: the image {path} has more than 8 bits a channel (mode {image.mode}); convert it to 8"
                f" bits, or"
                " read it with a data factory of your own"
            )
        return image


def image_folder(folder: Path, preprocess: Preprocessing) -> ImageSamples:
    """Index `folder`/CLASS/IMAGE; CompressError for no classes, an empty class, a mean that does not fit."""
    for key, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(values) != preprocess.channels:
            raise CompressError(
                f"data.preprocess.{key}: has {len(values)} values for {preprocess.channels} channel(s); give"
                f" one each"
            )
    if any(s <= 0 for s in preprocess.std):
        raise CompressError(f"data.preprocess.std: must be above 0, got {list(preprocess.std)}")
    classes = sorted(d.name for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))
    if not classes:
        raise CompressError(f"data: {folder} has no sub-folders; an image folder has one sub-folder a class")
    files: list[tuple[Path, int]] = []
    ignored = 0
    for label, name in enumerate(classes):
        present = sorted(f for f in (folder / name).iterdir() if not f.name.startswith("."))
        images = [f for f in present if f.is_file() and f.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise CompressError(
                f"data: the class folder {folder / name} holds no image ({', '.join(IMAGE_SUFFIXES)})"
            )
        ignored += len(present) - len(images)
        files += [(f, label) for f in images]
    notes = (f"entries of {folder.name} that are no images, and were ignored: {ignored}",) if ignored else ()
    return ImageSamples(tuple(files), preprocess, tuple(classes), notes)


def array_samples(x: Any, y: Any, what: str) -> ArraySamples:
    """Pair arrays or tensors: x (n, ...) or a tuple of such for several inputs, y (n, ...)."""
    columns = x if isinstance(x, (tuple, list)) else (x,)
    inputs = tuple(input_tensor(c, f"{what}: x") for c in columns)
    labels = label_tensor(y, f"{what}: y")
    for column in inputs:
        if column.ndim == 0 or labels.ndim == 0 or len(column) != len(labels):
            raise CompressError(
                f"{what}: x has shape {tuple(column.shape)} and y {tuple(labels.shape)}; both must start"
                f" with the"
                " same number of samples"
            )
    return ArraySamples(inputs, labels)


def input_tensor(value: Any, what: str) -> Tensor:
    """An input as a network takes it: float32, or int64 for indices."""
    tensor = _tensor(value, what)
    if tensor.is_floating_point():
        return tensor.float()
    if tensor.dtype in (torch.int32, torch.int64):
        return tensor.long()
    raise CompressError(
        f"{what} is {_dtype_name(tensor)}; a network takes float32 (or int64 indices): scale it first, for"
        f" instance"
        " (x/255 - mean)/std"
    )


def label_tensor(value: Any, what: str) -> Tensor:
    """A label as metrics take it: int64 for whole numbers, float32 otherwise."""
    tensor = _tensor(value, what)
    if tensor.is_complex():
        raise CompressError(f"{what} is {_dtype_name(tensor)}; labels are numbers")
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def _tensor(value: Any, what: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    try:
        array = np.asarray(value)
        if array.dtype == object:
            raise TypeError(f"it is a {type(value).__name__}, not an array of numbers")
        return torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CompressError(f"{what}: {error}; give a numpy array or a torch tensor") from error


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
