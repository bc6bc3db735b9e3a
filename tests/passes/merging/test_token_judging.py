"""What a search judges schedules by."""

from __future__ import annotations

import pytest
import torch
from edgepress.calibration.data import DataParts, Part
from edgepress.calibration.metric import TopK
from edgepress.calibration.samples import ArraySamples
from edgepress.model import Model
from edgepress.passes.base import PassContext
from edgepress.passes.merging.encoder import token_network
from edgepress.passes.merging.judging import judge_on
from edgepress.passes.merging.schedule import Schedule
from edgepress.passes.merging.settings import Settings, blocks_of, set_counts
from token_nets import SIDE, built


def test_unlikeness_is_a_geometric_mean_so_that_no_single_sample_decides() -> None:
    """Over samples, of the squared error of the class token over its variance."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(40, 3, SIDE, SIDE, generator=draw)
    encoder, network = token_network(built("timm ViT"), (images[:2],))
    part = Part("noise", ArraySamples((images,), torch.zeros(40).long()))
    context = PassContext(DataParts(part, part, part, None, manifest=""), TopK(1))
    model = Model(network, (images[:2],))
    blocks = blocks_of(network, encoder)
    whole, fewer = Schedule.whole(16, 3), Schedule.of(16, [16, 12, 6], [12, 6, 6], "weighted")
    read = []
    for schedule in (whole, fewer):
        set_counts(blocks, Settings(encoder, schedule, 1, None))
        with torch.no_grad():
            read.append(blocks(_entered(network, images))[:, 0].double())
    set_counts(blocks, Settings(encoder, whole, 1, None))
    judge = judge_on(part, model, context, 2e10, encoder.place, 1, 0)
    assert judge.samples == 40
    assert judge.tokens_unlike(network) < 1e-6
    set_counts(blocks, Settings(encoder, fewer, 1, None))
    errors = (read[1] - read[0]).square().mean(1)
    variance = (read[0] - read[0].mean(0)).square().mean()
    wanted = errors.log().mean().exp() / variance
    assert judge.tokens_unlike(network) == pytest.approx(float(wanted), rel=1e-4)


def _entered(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the first block of timm's ViT is given."""
    embedded = network._pos_embed(network.patch_embed(images))  # type: ignore[operator]
    entered: torch.Tensor = network.norm_pre(embedded)  # type: ignore[operator]
    return entered
