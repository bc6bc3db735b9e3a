"""Networks of several sizes as the data of one plan, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...model import Model
from ..base import PassPlan
from ..channels.removal import Removal, removed
from .told import Smaller


def as_data(series: Sequence[Smaller], chosen: Smaller) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Structure and tensors of a plan that holds all networks of a series, the chosen one first."""
    order = [chosen, *(smaller for smaller in series if smaller is not chosen)]
    structure = {"networks": [[f"{each.share:g}", each.removal.to_json()] for each in order]}
    tensors = {
        f"{each.share:g}/{name}": tensor.detach().clone()
        for each in order
        for name, tensor in each.network.state_dict().items()
    }
    return structure, tensors


def networks_in(plan: PassPlan, model: Model) -> list[tuple[str, Model]]:
    """The networks of a plan of `as_data`, by their share of the cost, the chosen one first."""
    found = []
    for share, stored in plan.structure["networks"]:
        removal, prefix = Removal.from_json(stored), f"{share}/"
        network = removed(model.module, removal)
        network.load_state_dict(
            {n.removeprefix(prefix): t.clone() for n, t in plan.tensors.items() if n.startswith(prefix)}
        )
        found.append((share, model.smaller(network, removal.to_json())))
    return found
