"""What `compress inspect` finds out of a file, as its JSON keeps it."""

from __future__ import annotations

from typing import Literal

from ...record import Record
from .layers import LayerRow


class TensorRow(Record):
    """One stored tensor. In an .l2z file: bits of one element, its share of the file, and of its elements the zeros."""

    name: str
    shape: list[int]
    dtype: str
    params: int
    bits: float | None = None
    share: float | None = None
    zeros: float | None = None


class PassRow(Record):
    """Whether a pass can work on this model; `reason` says why not."""

    name: str
    applies: bool
    reason: str = ""


class Inspection(Record):
    """What `compress inspect` knows. `bytes`: size of the weights as stored; `macs`: for one sample.

    Where some cannot be counted `macs` is None, `uncounted` says of what, and `counted_macs` are those of the rest.
    """

    kind: Literal["network", "weights", "onnx", "l2z"]
    source: str
    params: int
    macs: int | None = None
    counted_macs: int = 0
    uncounted: list[str] = []
    bytes: int
    inputs: dict[str, list[int | str]] = {}
    outputs: dict[str, list[int | str]] = {}
    layers: list[LayerRow] = []
    tensors: list[TensorRow] = []
    operators: dict[str, int] = {}
    opset: dict[str, int] = {}
    ir_version: int | None = None
    passes: list[PassRow] = []
    notes: list[str] = []
