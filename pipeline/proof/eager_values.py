"""Eager values: what PyTorch computes for every tensor of an exported file, by the names that both share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from ...model import Model
from ...passes.graph.capture import capture
from ...passes.quantization.deploy import deployable
from ..export import to_program


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what each of its operators gives."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, np.ndarray[Any, Any]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The node's value, kept under the name that the exporter gives its tensor."""
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, Tensor) and value.dtype != torch.bfloat16:
            self.values[n.name] = value.detach().numpy()
        return value


def eager_values(model: Model, inputs: tuple[Tensor, ...], opset: int) -> dict[str, np.ndarray[Any, Any]]:
    """Tensors by their names in the file that `export` writes of `model`, computed by PyTorch for `inputs`."""
    program = to_program(model, deployable(capture(model)), opset)
    exported = program.exported_program
    assert exported is not None
    module = exported.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    recorder = _Recorder(module)
    with torch.no_grad():
        outputs = recorder.run(*inputs)
    outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
    named = zip(model.output_names, outputs, strict=False)
    return {**recorder.values, **{name: y.detach().numpy() for name, y in named if isinstance(y, Tensor)}}
