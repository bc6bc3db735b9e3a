"""Files that are no ONNX graph, and what a user is told to give instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edgepress.errors import CompressError
from edgepress.pipeline.onnx_files.file import read_graph, read_onnx


@pytest.mark.parametrize("read", [read_onnx, read_graph])
@pytest.mark.parametrize("name", ["pruned.safetensors", "best.PT", "best.pth"])
def test_weights_alone_are_told_from_a_damaged_graph(
    tmp_path: Path, read: Callable[[Path], Any], name: str
) -> None:
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(
        CompressError, match=rf"{name} holds weights and no graph; give the ONNX file of that"
    ):
        read(tmp_path / name)
