"""Programs of torch.export that ask for more than a machine has: inspecting one ends with one message."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edgepress.errors import CompressError
from edgepress.isolated import BYTES
from edgepress.pipeline.files import sha256_file
from edgepress.pipeline.ingest.exported_program import load_exported
from edgepress.pipeline.ingest.model import ingest
from edgepress.pipeline.inspect.run import inspect_model
from edgepress.pipeline.recipe.sections import ModelSection
from edits import replaced
from torch import Tensor, nn


class Vast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(2**31).sum()  # 8 GiB


def test_a_program_that_fills_the_memory_takes_nothing_else_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vast.pt2"
    torch.export.save(torch.export.export(Vast(), (torch.zeros(1, 2),)), path)
    monkeypatch.setenv(BYTES, str(2 * 10**9))
    # the second is the word of a machine that has no 8 GiB to give
    told = rf"^more than 2 GB of memory \({BYTES} raises it\) while inspecting|can't allocate memory"
    with pytest.raises(CompressError, match=told):
        inspect_model(str(path))
    with pytest.raises(CompressError, match=replaced(told, "inspecting", "running")):
        ingest(ModelSection(source=str(path)))


def test_a_trusted_program_is_loaded_from_the_bytes_that_were_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trusted.pt2"
    torch.export.save(torch.export.export(Vast(), (torch.zeros(1, 2),)), path)
    trusted = sha256_file(path)
    read, times = Path.read_bytes, []

    def swapped_after(self: Path) -> bytes:
        content = read(self)
        times.append(self)
        self.write_bytes(b"another program")
        return content

    monkeypatch.setattr(Path, "read_bytes", swapped_after)
    load_exported(path, trusted)
    assert times == [path]
