"""The optimizer: AdamW over the groups of an objective, and its moments as tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .job import Objective
from .options import TrainingOptions


def optimizer_for(objective: Objective, options: TrainingOptions) -> torch.optim.Optimizer:
    """AdamW over what learns; all other parameters of the network are told to need no gradient.

    Each group holds its largest rate as `peak_lr`.
    """
    groups = [group for group in objective.groups() if group.parameters]
    learning = {id(p) for group in groups for p in group.parameters}
    own = list(objective.network.parameters())
    assert learning <= {id(p) for p in own}, "what learns outside the network would be lost with a killed run"
    for parameter in own:
        parameter.requires_grad_(id(parameter) in learning)
    return torch.optim.AdamW(
        [
            {
                "params": list(group.parameters),
                "peak_lr": options.lr * group.lr_factor,
                "weight_decay": options.weight_decay if group.decay else 0.0,
            }
            for group in groups
        ],
        lr=options.lr,
    )


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts by parameter, `0/exp_avg`, for a checkpoint."""
    states = optimizer.state_dict()["state"]
    return {f"{i}/{key}": value for i, state in states.items() for key, value in state.items()}


def restore_moments(optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Set what `moments_of` told; the groups stay as they are."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in moments.items():
        index, _, key = name.partition("/")
        states.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
