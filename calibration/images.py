"""Folders of images, one sub-folder a class, alone or in the parts train, val and test; read one at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import CompressError
from .data import Sample

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm",
)  # fmt: skip
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
"""What is decoded, whatever a file is called: Pillow hands PostScript to another program, Ghostscript."""
PART_FOLDERS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test", "calibration": "calibration", "calib": "calibration",
}  # fmt: skip
_LEFT_BEHIND = ("__MACOSX", "@eaDir", "lost+found")  # by archives and file servers, beside classes


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
        """Mean of each channel, of x/255."""

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, of x/255."""


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
        """Upright, resized bilinearly with antialiasing, then (x/255 - mean)/std: float32, (channels, size, size)."""
        from PIL import Image, ImageOps

        p = self.preprocess
        try:
            with Image.open(path, formats=FORMATS) as image:
                upright = ImageOps.exif_transpose(self._eight_bit(image, path))
                grey_or_rgb = upright.convert("L" if p.channels == 1 else "RGB")
                resized = grey_or_rgb.resize((p.size, p.size), Image.Resampling.BILINEAR)
        except CompressError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise CompressError(
                f"data: cannot read the image {path}: {reason}; replace it or take it out (read are"
                f" {', '.join(FORMATS)})"
            ) from error
        pixels = torch.from_numpy(np.array(resized, dtype=np.float32) / 255).reshape(
            p.size, p.size, p.channels
        )
        return ((pixels - torch.tensor(p.mean)) / torch.tensor(p.std)).permute(2, 0, 1).contiguous().float()

    @staticmethod
    def _eight_bit(image: Image, path: Path) -> Image:
        """Refuse what PIL would clip to 255 without a word: of 16 bits, cameras use 10, 12, 14 or all."""
        if image.mode.startswith(("I", "F")):
            raise CompressError(
                f"data: the image {path} has more than 8 bits a channel (mode {image.mode}); convert it to 8"
                f" bits, or read it with a data factory of your own"
            )
        return image


def image_folder(
    folder: Path, preprocess: Preprocessing, classes: Sequence[str] | None = None
) -> ImageSamples:
    """Index `folder`/CLASS/IMAGE, sub-folders of a class included.

    Any first part of them has the classes in the proportions of all: passes look at the first few samples of a part.
    classes: those of all parts, of which `folder` may lack some; None for those of `folder`.
    CompressError for no classes, an empty class, a mean that does not fit.
    """
    _check(preprocess)
    own = _folders(folder)
    if not own:
        raise CompressError(f"data: {folder} has no sub-folders; an image folder has one sub-folder a class")
    named = list(classes or own)
    placed: list[tuple[float, int, Path]] = []
    ignored = deeper = 0
    for name in own:
        images, others, below = _indexed(folder / name)
        if not images:
            raise CompressError(
                f"data: the class folder {folder / name} holds no image ({', '.join(IMAGE_SUFFIXES)})"
            )
        ignored, deeper = ignored + others, deeper + below
        placed += [((i + 0.5) / len(images), named.index(name), path) for i, path in enumerate(images)]
    if len(own) == 1 and classes is None and deeper == len(placed):
        raise CompressError(
            f"data: {folder} has one sub-folder, {own[0]}, and images only deeper in it; an image folder has one"
            f" sub-folder a class: is it {folder / own[0]} that is meant?"
        )
    notes = [f"entries of {folder.name} that are no images, and were ignored: {ignored}"] if ignored else []
    notes += [f"images of {folder.name} in sub-folders of their class, and read: {deeper}"] if deeper else []
    files = tuple((path, label) for _, label, path in sorted(placed))
    return ImageSamples(files, preprocess, tuple(named), tuple(notes))


def image_parts(folder: Path, preprocess: Preprocessing) -> dict[str, Sequence[Sample]] | None:
    """The parts of a folder with the sub-folders train, val, test and the like, classes below each; None for no such.

    A class has one label in all parts: its place among the sorted names of all classes.
    """
    inside = _folders(folder)
    named = [name for name in inside if name.lower() in PART_FOLDERS]
    with_classes = [name for name in named if _folders(folder / name)]
    if len(with_classes) < min(2, len(inside)) or (len(with_classes) == 1 and named != inside):
        return None  # a class can be called train, and one or two tests
    classes = sorted({name for part in with_classes for name in _folders(folder / part)})
    left_out = [name for name in inside if name not in with_classes]
    parts: dict[str, Sequence[Sample]] = {}
    for name in with_classes:
        part = PART_FOLDERS[name.lower()]
        if part in parts:
            raise CompressError(
                f"data: {folder} has two folders for the {part} part ({', '.join(inside)}); keep one"
            )
        samples = image_folder(folder / name, preprocess, classes)
        if left_out and not parts:
            told = f"left out, since there are no class folders of a part in them: {', '.join(left_out)}"
            samples = replace(samples, notes=(told, *samples.notes))
        parts[part] = samples
    return parts


def _check(preprocess: Preprocessing) -> None:
    for key, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(values) != preprocess.channels:
            raise CompressError(
                f"data.preprocess.{key}: has {len(values)} values for {preprocess.channels} channel(s); give"
                f" one each"
            )
    if any(s <= 0 for s in preprocess.std):
        raise CompressError(f"data.preprocess.std: must be above 0, got {list(preprocess.std)}")


def _folders(folder: Path) -> list[str]:
    return sorted(
        d.name
        for d in folder.iterdir()
        if d.is_dir() and not d.name.startswith(".") and d.name not in _LEFT_BEHIND
    )


def _indexed(folder: Path) -> tuple[list[Path], int, int]:
    """The images of a class, sorted; how many other files there are; how many of the images lie in sub-folders."""
    images: list[Path] = []
    others = deeper = 0
    for place, folders, files in os.walk(folder):  # which follows no links, and so comes to an end
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _LEFT_BEHIND]
        present = [Path(place) / name for name in files if not name.startswith(".")]
        found = [path for path in present if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
        images += found
        others += len(present) - len(found)
        deeper += len(found) if Path(place) != folder else 0
    return sorted(images), others, deeper
