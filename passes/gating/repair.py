"""Repairing a network right after a removal, before any training: compensation, and BatchNorm measured anew."""

from __future__ import annotations

from torch import nn

from ...model import Model
from ..channels.removal import Removal, removed
from .batch_norm import norms_of, reestimate
from .compensation import Compensated, compensate
from .held_out import keep_where_no_worse
from .lessons import Lessons


def refitted(
    whole: nn.Module, removal: Removal, lessons: Lessons, compensation: bool
) -> tuple[nn.Module, list[str]]:
    """What is left of `whole`, the network of `lessons` or one trained from it, repaired after a removal; and notes."""
    network = removed(whole, removal)
    return network, repaired(lessons.model, network, removal, lessons, compensation)


def repaired(
    model: Model, network: nn.Module, removal: Removal, lessons: Lessons, compensation: bool = True
) -> list[str]:
    """Refit `network`, cut out of that of `model`, in place; notes on what it was worth on held-out samples.

    What makes it answer less like the whole network there is taken back.
    """
    if reason := why_left(model, lessons):
        return [reason]
    notes = []
    if norms_of(network):
        trial = keep_where_no_worse(network, lambda: reestimate(network, lessons.fit), lessons.unlike)
        told = f"{trial.before:.4g} -> {trial.after:.4g}"
        notes.append(f"BatchNorm measured anew: unlikeness on held-out samples {told}" + _unless(trial.kept))
    if compensation:
        notes.append(_refitted(model, network, removal, lessons))
    return notes


def why_left(model: Model, lessons: Lessons) -> str:
    """Why nothing that is cut out of a model's network can be repaired; "" where it can."""
    if model.static_batch is not None:
        return "not refitted: the network takes batches of one size only"
    if not lessons.can_fit:
        return "not refitted, nor BatchNorm measured anew: the calibration part has too few samples"
    return ""


def _refitted(model: Model, network: nn.Module, removal: Removal, lessons: Lessons) -> str:
    rows: list[Compensated] = []
    trial = keep_where_no_worse(
        network,
        lambda: rows.extend(
            compensate(
                model.module,
                network,
                removal.cut,
                lessons.fit,
                lessons.choose,
                removal.factors,
                lessons.matters,
            )
        ),
        lessons.unlike,
    )
    changed, samples = sum(row.ridge is not None for row in rows), sum(len(batch[0]) for batch in lessons.fit)
    return (
        f"refitted {changed} of {len(rows)} layers in closed form on {samples} samples: unlikeness on held-out samples"
        f" {trial.before:.4g} -> {trial.after:.4g}" + _unless(trial.kept)
    )


def _unless(kept: bool) -> str:
    return "" if kept else ", taken back"
