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
    """

    MODULES = "modules"
    GRAPH = "graph"
    INT8 = "int8"
    CODES = "codes"


FLOAT = frozenset({Form.MODULES, Form.GRAPH})
"""The forms of a float network that no pass has settled."""


def form_named(source: str) -> Form:
    """The form of what a `source` names, as far as its name tells: a quantized ONNX file is known when it is read."""
    return Form.GRAPH if source.lower().endswith(".pt2") else Form.MODULES
