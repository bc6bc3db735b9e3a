"""Solar cells in electroluminescence light (the `elpv-dataset` package): is a cell defective or not?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import CompressError
from .models import package_folder

CELLS = 2624
TRAIN_CELLS = 1968
CALIBRATION_CELLS = 300
VALIDATION_CELLS = 300
DEFECT_PROBABILITY = 0.4  # the annotated probability is 0, 1/3, 2/3 or 1

# 1,024 decoded images of 300 x 300 bytes are 92 MB, and hold the calibration and test parts
_DECODED_IMAGES = 1024


@dataclass(frozen=True)
class Cells(Sequence[tuple[Tensor, Tensor]]):
    """Some of the cells, decoded when asked for: (image (3, size, size) float32, label 0 or 1 int64).

    The grey image is resized (bilinear, antialiased, in float: the checkpoints were trained on pixels that
    were never rounded back to bytes), scaled to (x/255 - mean)/std and repeated for the three channels.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        if not 0 <= index < len(self.paths):
            raise IndexError(index)
        grey = torch.from_numpy(_decode(self.paths[index])).float()[None, None]
        small = F.interpolate(grey, size=(self.size, self.size), mode="bilinear", antialias=True)[0]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (small / 255 - mean) / std, torch.tensor(self.labels[index])


def elpv(
    size: int = 128,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
) -> dict[str, Cells]:
    """The parts train (1,368), calibration (300), validation (300) and test (656), disjoint and fixed.

    size: side of the square input in pixels; mean, std: one number a channel, for pixels scaled to 0..1.
    Raises CompressError when elpv-dataset is not installed or does not hold the 2,624 cells of the split.
    """
    if len(mean) != 3 or len(std) != 3:
        raise CompressError(f"elpv: mean and std need three numbers each, not {len(mean)} and {len(std)}")
    paths, labels = _index(package_folder("elpv_dataset", "elpv-dataset") / "data" / "labels.csv")
    return {
        name: Cells(
            tuple(paths[i] for i in chosen), tuple(labels[i] for i in chosen), size, tuple(mean), tuple(std)
        )
        for name, chosen in split().items()
    }


def split() -> dict[str, list[int]]:
    """Row numbers of labels.csv in each part.

    The first 1,968 of a seeded permutation are for training and tuning, the last 656 for the verdict alone;
    calibration and validation are the tail of the first group.
    """
    order = np.random.default_rng(0).permutation(CELLS).tolist()
    tuning = TRAIN_CELLS - VALIDATION_CELLS
    train = tuning - CALIBRATION_CELLS
    return {
        "train": order[:train],
        "calibration": order[train:tuning],
        "validation": order[tuning:TRAIN_CELLS],
        "test": order[TRAIN_CELLS:],
    }


def _index(labels_csv: Path) -> tuple[list[Path], list[int]]:
    """Image paths and labels in the order of `labels.csv`, whose rows are `path probability type`."""
    if not labels_csv.is_file():
        raise CompressError(f"{labels_csv}: not found; install elpv-dataset again, from its wheel")
    rows = [line.split() for line in labels_csv.read_text().splitlines() if line.strip()]
    if len(rows) != CELLS:
        raise CompressError(
            f"{labels_csv}: {len(rows)} rows where the split expects {CELLS}; install elpv-dataset 1.0"
        )
    paths = [labels_csv.parent / row[0] for row in rows]
    return paths, [int(float(row[1]) > DEFECT_PROBABILITY) for row in rows]


@lru_cache(maxsize=_DECODED_IMAGES)
def _decode(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.array(image.convert("L"), dtype=np.uint8)
    return pixels
