"""Memory: the most that the process of an engine holds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..pages.words import byte_size
from ..recipe.values import Bytes
from .budget import Budget, Evidence, Finding, NotMeasuredError, told_apart


class MemoryBudget(Budget[int]):
    """Most bytes that the process of the compressed engine holds at its peak."""

    subject = "device"

    def name(self, found: Evidence) -> str:
        return f"peak memory on {self.device}"

    @property
    def limit_text(self) -> str:
        return byte_size(self.limit)

    def judged(self, found: Evidence) -> Finding:
        peak = found.on(self.device)[1].peak_memory_bytes
        if peak is None:
            raise NotMeasuredError("the machine does not tell what the process held.")
        kept = peak <= self.limit
        return Finding(
            told_apart(self.limit, peak, byte_size, "{:,} B"),
            kept,
            f"the process of the compressed engine held {peak:,} bytes at its peak, the runtime's library included,"
            f" {'within' if kept else 'over'} the limit of {self.limit:,}.",
        )


MemoryLimits = Annotated[
    dict[str, Bytes],
    MemoryBudget,
    Field(
        description="Most memory that the process of the compressed engine may hold at its peak, per device, as "
        "`openvino:CPU: 200 MB`."
    ),
]
