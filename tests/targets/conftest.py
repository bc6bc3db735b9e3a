"""Where tests of targets put their graphs, and what they feed them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest


@pytest.fixture
def save(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    def write(model: onnx.ModelProto, name: str = "tiny.onnx") -> Path:
        onnx.save(model, str(tmp_path / name))
        return tmp_path / name

    return write


@pytest.fixture
def feeds() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((2, 8, 8, 8)).astype(np.float32)}
