"""The network that units are tried out on: with weights that hide nothing, in binary64 where it runs so."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ...model import Model


def awake(model: Model) -> Model:
    """The network with weights that hide nothing and, where its forward() can do that, in binary64."""
    for trial in _variants(model):
        try:
            outputs = [x for x in trial.run(*trial.example_inputs) if isinstance(x, Tensor)]
            if all(bool(torch.isfinite(x).all()) for x in outputs):
                return trial
        except Exception:  # some forward() makes float32 tensors of its own
            continue
    return model


def _variants(model: Model) -> Iterator[Model]:
    wide = tuple(x.double() if x.is_floating_point() else x for x in model.example_inputs)
    for inputs, dtype in ((wide, torch.float64), (model.example_inputs, None)):
        module = copy.deepcopy(model.module).eval()
        yield replace(model, module=_woken(module.to(dtype) if dtype else module), example_inputs=inputs)
    yield replace(model, module=copy.deepcopy(model.module).double().eval(), example_inputs=wide)


@torch.no_grad()
def _woken(module: nn.Module) -> nn.Module:
    """Ordinary weights in place of those that a network starts from: a layer scale of 1e-6 hides its whole block."""
    drawn = torch.Generator().manual_seed(0)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not tensor.is_floating_point() or not tensor.dim():
            continue
        uniform = torch.rand(tensor.shape, generator=drawn, dtype=torch.float64).to(tensor)
        if tensor.dim() > 1 and isinstance(tensor, nn.Parameter):
            tensor.copy_((uniform - 0.5) * (12 / tensor[0].numel()) ** 0.5)  # variance 1 / fan-in
        elif isinstance(tensor, nn.Parameter) or name.endswith(("running_mean", "running_var")):
            shift = 0.5 if not name.endswith(("bias", "running_mean")) else -0.5
            tensor.copy_(uniform + shift)
    return module
