"""Baking in: a weight that a hook or a parametrization computes before each call becomes a plain weight.

Old-style `weight_norm` and `spectral_norm` leave a computed tensor on the module, which cannot be copied, and both
they and `torch.nn.utils.parametrize` put arithmetic before each layer that no runtime needs.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def detach_computed(module: nn.Module) -> None:
    """Make a module copyable: tensors that were computed, which hooks compute anew, lose their history; in place."""
    for part in module.modules():
        tables = (part.__dict__, part._buffers)
        for table in tables:
            for name, value in list(table.items()):
                if isinstance(value, Tensor) and not value.is_leaf:
                    table[name] = value.detach()


def bake_in(module: nn.Module) -> None:
    """Replace computed weights by their values in eval mode, in place; the outputs stay the same."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the old styles deprecated
        for part in list(module.modules()):
            for hook in list(part._forward_pre_hooks.values()):
                if isinstance(hook, WeightNorm):
                    remove_weight_norm(part, hook.name)
                elif isinstance(hook, SpectralNorm):
                    remove_spectral_norm(part, hook.name)
            if parametrize.is_parametrized(part):
                assert isinstance(part.parametrizations, nn.ModuleDict)
                for name in list(part.parametrizations):
                    _remove(part, name)


def _remove(part: nn.Module, name: str) -> None:
    """The parametrized tensor as it is in eval mode; also where several originals make it."""
    value = getattr(part, name).detach().clone()
    parametrize.remove_parametrizations(part, name, leave_parametrized=True)
    if isinstance(getattr(part, name), nn.Parameter):
        setattr(part, name, nn.Parameter(value))
    else:
        part._buffers[name] = value
