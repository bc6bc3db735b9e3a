"""`l2` on small networks, without its training unless it is asked for."""

from __future__ import annotations

from typing import Any

import quantization_nets as nets
import torch
from edgepress.model import Model
from edgepress.passes.base import PassResult
from edgepress.passes.l2 import L2
from edgepress.pipeline.l2z.codec import pack_tensors
from torch import nn

UNTRAINED = {"feature_weight": 0, "transform_epochs": 0, "training": {"epochs": 0}}


def bytes_of_codes(model: Model) -> int:
    """The tensors alone, as an .l2z file holds them."""
    tensors = {name: tensor.detach() for name, tensor in model.module.state_dict().items()}
    return len(pack_tensors(tensors, coded=model.coded))


def plan_of(
    module: nn.Module, shape: tuple[int, ...], options: dict[str, Any], **told: Any
) -> tuple[Model, PassResult]:
    """The model around a module, and what the pass makes of it on 32 random samples."""
    torch.manual_seed(0)
    model = nets.model_of(module, *shape, **told)
    context = nets.context_of(nets.samples(32, *shape), packed_bytes=bytes_of_codes)
    return model, L2.model_validate({**UNTRAINED, **options}).apply(model, context)
