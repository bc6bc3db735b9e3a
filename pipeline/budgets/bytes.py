"""Bytes: the size of the model file that is shipped."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..pages.words import byte_size
from ..recipe.values import Bytes
from .budget import Budget, Evidence, Finding, NotMeasuredError, told_apart


class BytesBudget(Budget[int]):
    """Most bytes of model.l2z where the recipe packs, else of model.onnx with its weights."""

    subject = "file"

    def name(self, found: Evidence) -> str:
        from ..run_files import shipped

        file = shipped(found.artefacts)
        return f"size of {'model.onnx' if file is None else file[0]}"

    @property
    def limit_text(self) -> str:
        return byte_size(self.limit)

    def judged(self, found: Evidence) -> Finding:
        from ..run_files import shipped

        file = shipped(found.artefacts)
        if file is None:
            raise NotMeasuredError("no model.onnx was exported.")
        size, kept = file[1], file[1] <= self.limit
        side = "within" if kept else "over"
        return Finding(
            told_apart(self.limit, size, byte_size, "{:,} B"),
            kept,
            f"the exported model takes {size:,} bytes, {side} the limit of {self.limit:,}.",
        )


BytesLimit = Annotated[
    Bytes | None,
    BytesBudget,
    Field(description="Largest size of the exported model file.", examples=["2 MB"]),
]
