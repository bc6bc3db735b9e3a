"""Form: what a model is made of, which says what can still be done with it."""

from __future__ import annotations

from enum import StrEnum


class Form(StrEnum):
    """What a network consists of. Every model has one, and a pass says which it takes and which it leaves.

    MODULES: layers that are nn.Modules, in which blocks can be told apart and channels cut: what a factory makes, and
    what a float ONNX file is converted into.
    GRAPH: one graph of float operators, which a pass captured or a file holds that PyTorch has no layers of (.pt2, an
    ONNX file that onnxruntime runs).
    INT8: a graph with quantizers of 8 bits or fewer, of a pass or in an ONNX file; it is exported with them.
    CODES: a float graph whose tensors hold few values, for a packed file; what changed them would lose its size.
    INT8_CODES: the same of a graph with quantizers, whose weights hold few of their integers.
    """

    MODULES = "modules"
    GRAPH = "graph"
    INT8 = "int8"
    CODES = "codes"
    INT8_CODES = "int8-codes"


FLOAT = frozenset({Form.MODULES, Form.GRAPH})
"""The forms of a float network that no pass has settled."""
QUANTIZED = frozenset({Form.INT8, Form.INT8_CODES})
"""The forms that are exported with quantizers."""
PACKED = frozenset({Form.CODES, Form.INT8_CODES})
"""The forms that are made for a packed file."""


def form_named(source: str) -> Form:
    """The form of what a `source` names, as far as its name tells: a quantized ONNX file is known when it is read."""
    return Form.GRAPH if source.lower().endswith(".pt2") else Form.MODULES
