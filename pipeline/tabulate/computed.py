"""What a network computes, whatever its weights: two for which that is the same take the same time."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from torch import fx

from ...passes.graph.capture import capture

if TYPE_CHECKING:
    from ...model import Model


def computed_digest(model: Model) -> str:
    """SHA-256 of a network's operators with their arguments, and of the shapes of its tensors and inputs.

    The shapes of layers alone do not tell a stride, a dilation or an activation. The same in every process.
    """
    graph = capture(model)
    # Branches and loops have graphs of their own.
    operators = {name: str(m.graph) for name, m in graph.named_modules() if isinstance(m, fx.GraphModule)}
    tensors = {
        name: [str(tensor.dtype), list(tensor.shape)]
        for name, tensor in (*graph.named_parameters(), *graph.named_buffers())
    }
    inputs = [[str(x.dtype), list(x.shape[1:])] for x in model.example_inputs]
    text = json.dumps([operators, tensors, inputs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
