"""A layer as a runtime executed it.

Beside `base` and not in it: whoever only runs engines, as the process of each launch, does without pydantic, which
takes longer to load than all else there.
"""

from __future__ import annotations

from ..record import Count, Milliseconds, Record


class Layer(Record, frozen=True):
    """One layer as it was executed.

    name: the runtime's; onnx_nodes: names of the ONNX nodes fused in it;
    macs: their multiply-accumulates, one sample, null when any of them cannot be counted;
    precision: what it *executed* in ("int8", "bf16", "f32", ...);
    ms: mean time per inference, null when the runtime does not time layers.
    """

    name: str
    type: str
    precision: str
    ms: Milliseconds | None
    macs: Count | None
    onnx_nodes: tuple[str, ...] = ()
