"""Where some multiply-accumulates cannot be counted, what is told of the rest says so."""

from __future__ import annotations

import json

import torch
from edgepress.model import Model
from edgepress.passes.channels.dissect import Rules, dissect
from edgepress.passes.channels.kind import Kind
from edgepress.passes.channels.removal import removed
from edgepress.passes.gating.cost import MacsCost, ParamsCost
from edgepress.passes.gating.told import Smaller, details, summary
from torch import Tensor, nn


class Spectrum(nn.Module):
    """The magnitudes of a Fourier transform, of which nobody knows how it multiplies."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x).abs()


def test_a_share_of_the_macs_is_told_as_one_of_those_that_can_be_counted() -> None:
    network = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8), Spectrum())
    model = Model(network.eval(), (torch.randn(2, 12),))
    dissected = dissect(model, "test", Rules(frozenset({Kind.CHANNELS})))
    kept = {"0": tuple(range(8))}
    removal = dissected.removal(kept)
    smaller = Smaller(0.5, kept, {}, removal, removed(model.module, removal))
    by_macs, by_params = MacsCost(dissected.anatomy), ParamsCost(dissected.anatomy)
    facts = model.facts()
    assert (facts.macs, facts.counted) == (None, by_macs.whole)
    assert summary(dissected, by_macs, smaller)[0] == (
        "macs: 160 of 320 multiply-accumulates left (50.0%), of those that can be counted; unknown: _fft_r2c in '3'"
    )
    assert "unknown" not in summary(dissected, by_params, smaller)[0]
    told = json.loads(json.dumps(details(dissected, by_macs, [smaller], smaller)))["gates"]
    assert told["uncounted"] == list(facts.uncounted)
    assert details(dissected, by_params, [smaller], smaller)["gates"]["uncounted"] == []
