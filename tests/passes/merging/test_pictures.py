"""Pictures of what becomes of patches: what the network computed, told of each patch, and the image's own pixels."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from edgepress.calibration.data import DataParts, Part
from edgepress.calibration.metric import TopK
from edgepress.calibration.samples import ArraySamples
from edgepress.model import Model
from edgepress.passes.base import PassContext
from edgepress.passes.merging import blocks as blocks_file
from edgepress.passes.merging.encoder import token_network
from edgepress.passes.merging.matching import MERGES
from edgepress.passes.merging.pictures import followed, grid_of, pictures, png
from edgepress.passes.merging.reduction import reduced
from edgepress.passes.merging.schedule import Kept, MatchingName, Schedule
from edgepress.passes.merging.settings import Settings, blocks_of, set_up
from edgepress.passes.merging.token_batch import TokenBatch
from edgepress.passes.tokens import Tokens
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from token_nets import SIDE, built
from torch import Tensor

INPUTS = (torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)),)
FALLING = Schedule.of(16, [13, 11, 6], [11, 6, 6])
"""Drops 3 and merges 2, then merges 5, and leaves the last block alone."""
MERGING = Schedule.of(16, [16, 11, 6], [11, 6, 4])


def settings_of(name: str, schedule: Schedule, merge: str) -> tuple[Settings, torch.nn.Module]:
    """Settings for a network that reads its class token, or all its patches, and that network with TokenBlocks."""
    encoder, network = token_network(built(name), INPUTS)
    read = None if schedule is MERGING else 1
    return Settings(encoder, schedule.model_copy(update={"merge": merge}), read or 0, read), network


def context_of(images: Tensor) -> PassContext:
    part = Part("validation", ArraySamples((images,), torch.zeros(len(images)).long()))
    return PassContext(DataParts(part, part, part, None, manifest="0"), TopK(1))


def pixels(picture: str) -> np.ndarray:
    with Image.open(BytesIO(b64decode(picture, validate=True)), formats=("PNG",)) as image:
        return np.asarray(image)


class Tracked:
    """In the place of `reduced`: follows patches by loops over what it was given, and computes the same."""

    def __init__(self, samples: int, patches: int) -> None:
        self.members = [[{patch} for patch in range(patches)] for _ in range(samples)]

    def __call__(
        self, tokens: TokenBatch, importance: Tensor | None, kept: Kept, merge: Any, matching: Any
    ) -> TokenBatch:
        for sample, members in enumerate(self.members):
            rows = tokens.features[sample, tokens.leading :].double()
            ranked = list(range(tokens.patches))
            if importance is not None:
                scores = importance[sample].tolist()
                ranked = sorted(ranked, key=lambda token: -scores[token])[: kept.pruned]
            if matching == "bipartite":
                ranked = sorted(ranked)
            apart = 0  # of those that stay, which none may join
            if matching == "bipartite" and kept.merged < kept.pruned:
                ranked = by_likeness(rows, ranked, kept.pruned - kept.merged)
                apart = kept.merged - kept.pruned // 2
            staying = ranked[: kept.merged]
            left = [set(members[token]) for token in staying]
            for token in ranked[kept.merged :]:
                alike = [
                    float(torch.cosine_similarity(rows[token], rows[other], 0)) for other in staying[apart:]
                ]
                left[apart + alike.index(max(alike))] |= members[token]
            self.members[sample] = left
        return reduced(tokens, importance, kept, merge, matching)

    def ended(self, sample: int, patches: int) -> list[int]:
        """The token that each patch is part of, -1: of none."""
        at = {patch: place for place, members in enumerate(self.members[sample]) for patch in members}
        return [at.get(patch, -1) for patch in range(patches)]


def by_likeness(rows: Tensor, tokens: list[int], going: int) -> list[int]:
    """Of every second one those that stay, then those between, then those that go: the most like one between."""
    alike = {
        token: max(float(torch.cosine_similarity(rows[token], rows[other], 0)) for other in tokens[1::2])
        for token in tokens[::2]
    }
    gone = sorted(alike, key=lambda token: -alike[token])[:going]
    return [token for token in tokens[::2] if token not in gone] + tokens[1::2] + gone


@pytest.mark.parametrize("matching", ["importance", "bipartite"])
@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("timm ViT", FALLING),
        ("timm EVA: rotary positions", FALLING),
        ("timm ViT, mean of the patches", MERGING),
    ],
)
def test_patches_end_where_loops_over_all_blocks_find_them(
    name: str, schedule: Schedule, merge: str, matching: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, network = settings_of(name, schedule, merge)
    by = settings.schedule.model_copy(update={"matching": matching})
    settings = replace(settings, schedule=by)
    smaller = set_up(network, settings)
    tracked = Tracked(3, 16)
    monkeypatch.setattr(blocks_file, "reduced", tracked)
    with torch.no_grad(), followed(blocks_of(smaller, settings.encoder)) as origins:
        smaller(*INPUTS)
    assert origins[-1].tolist() == [tracked.ended(sample, 16) for sample in range(3)]
    lost = (origins[-1] < 0).sum(1).tolist()
    assert len(set(lost)) == 1 and (lost[0] == 3 if schedule is FALLING else lost[0] == 0)
    assert origins[-1].unique().tolist() == [*([-1] if lost[0] else []), *range(schedule.blocks[-1].merged)]


@pytest.mark.parametrize("matching", ["importance", "bipartite"])
def test_the_features_of_tokens_hold_the_patches_that_are_said_to_be_in_them(matching: MatchingName) -> None:
    """Each patch is a dimension of its own at first: a mean of some is not 0 in theirs alone."""
    draw, patches = torch.Generator().manual_seed(0), 12
    tokens = TokenBatch(torch.eye(patches).expand(4, -1, -1), 0).followed()
    for kept in (Kept(pruned=12, merged=9), Kept(pruned=7, merged=5), Kept(pruned=5, merged=3)):
        importance = torch.rand(4, tokens.patches, generator=draw)
        tokens = reduced(tokens, importance, kept, "weighted", matching)
    assert tokens.origin is not None and tokens.sizes is not None
    for sample in range(4):
        held = [set(row.nonzero()[:, 0].tolist()) for row in tokens.features[sample]]
        told = [set((tokens.origin[sample] == place).nonzero()[:, 0].tolist()) for place in range(3)]
        assert held == told and [len(each) for each in held] == tokens.sizes[sample].tolist()
        gone = set((tokens.origin[sample] == -1).nonzero()[:, 0].tolist())
        assert len(gone) >= 2 and gone == set(range(patches)) - set.union(*held)


def test_where_all_go_none_is_found() -> None:
    tokens = TokenBatch(torch.rand(2, 5, 3), 1).followed()
    tokens = reduced(tokens, torch.rand(2, 4), Kept(pruned=0, merged=0), "weighted", "importance")
    assert tokens.origin is not None and tokens.origin.tolist() == [[-1] * 4] * 2 and tokens.patches == 0


def test_to_follow_patches_changes_nothing_and_leaves_nothing_behind() -> None:
    settings, network = settings_of("timm ViT", FALLING, "mean")
    smaller = set_up(network, settings)
    with torch.no_grad():
        before = smaller(*INPUTS)
        with followed(blocks_of(smaller, settings.encoder)) as origins:
            assert torch.equal(smaller(*INPUTS), before)
        count = len(origins)
        assert torch.equal(smaller(*INPUTS), before) and len(origins) == count == 2


def test_pictures_are_of_images_of_the_validation_part_whatever_the_batch() -> None:
    settings, network = settings_of("timm ViT", FALLING, "mean")
    images = torch.rand(9, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    context = context_of(images)
    model = Model(built("timm ViT"), INPUTS)
    found = pictures(network, settings, model, context, 4)
    assert len(found) == 4 and json.loads(json.dumps(found)) == found
    assert found == pictures(network, settings, model, context, 4)
    for batch in (1, 3, 8):
        fixed = replace(model, example_inputs=(torch.zeros(batch, 3, SIDE, SIDE),)).with_static_batch()
        assert pictures(network, settings, fixed, context, 4) == found
    everywhere = [png(image) for image in images]
    places = [everywhere.index(picture["image"]) for picture in found]
    assert len(set(places)) == 4
    smaller = set_up(network, settings)
    for place, picture in zip(places, found, strict=True):
        with torch.no_grad(), followed(blocks_of(smaller, settings.encoder)) as origins:
            smaller(images[place : place + 1])
        assert (picture["rows"], picture["columns"]) == (4, 4)
        assert picture["patches"] == origins[-1][0].tolist()
    few = pictures(network, settings, model, context_of(images[:2]), 4)
    assert len(few) == 2


def test_a_picture_that_is_wider_than_high_has_its_rows_and_columns() -> None:
    network = VisionTransformer(
        img_size=(16, 32), patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=5
    )
    model = Model(network.eval(), (torch.zeros(1, 3, 16, 32),))
    encoder, rebuilt = token_network(model.module, model.example_inputs)
    settings = Settings(encoder, Schedule.of(8, [6, 6, 6], [4, 4, 4]), 1, 1)
    for picture in pictures(rebuilt, settings, model, context_of(torch.rand(5, 3, 16, 32)), 4):
        assert (picture["rows"], picture["columns"], len(picture["patches"])) == (2, 4, 8)
        assert pixels(picture["image"]).shape == (16, 32, 3) and picture["patches"].count(-1) == 2


def test_nothing_is_pictured_where_nothing_goes() -> None:
    images = torch.rand(9, 3, SIDE, SIDE)
    exact = Tokens().apply(Model(built("timm ViT"), INPUTS), context_of(images))
    assert exact.modified and exact.plan.details["tokens"]["pictures"] == []
    fewer = Tokens.model_validate({"target": 0.7, "method": "uniform"})
    result = fewer.apply(Model(built("timm ViT"), INPUTS), context_of(images))
    told = result.plan.details["tokens"]["pictures"]
    left = result.plan.structure["schedule"]["blocks"][-1]["merged"]
    assert len(told) == 4
    assert all(len(set(picture["patches"]) - {-1}) == left < 16 for picture in told)


@pytest.mark.parametrize(
    ("shapes", "patches", "grid"),
    [
        ([(2, 3, 32, 32)], 64, (8, 8)),
        ([(2, 1, 32, 48)], 24, (4, 6)),
        ([(2, 3, 14, 42)], 3, (1, 3)),
        ([(2, 3, 32, 32)], 60, None),
        ([(2, 3, 30, 32)], 15, None),
        ([(2, 3, 32, 32)], 2048, None),
        ([(2, 4, 32, 32)], 64, None),
        ([(2, 3, 32)], 16, None),
        ([(2, 3, 32, 32), (2, 3, 32, 32)], 64, None),
        ([], 64, None),
    ],
)
def test_a_grid_is_found_where_one_image_is_cut_into_squares(
    shapes: list[tuple[int, ...]], patches: int, grid: tuple[int, int] | None
) -> None:
    assert grid_of(tuple(torch.zeros(shape) for shape in shapes), patches) == grid


def test_inputs_that_are_no_image_are_not_pictured() -> None:
    settings, network = settings_of("timm ViT", FALLING, "mean")
    four = Model(built("timm ViT"), (torch.zeros(1, 4, SIDE, SIDE),))
    assert pictures(network, settings, four, context_of(torch.rand(5, 4, SIDE, SIDE)), 4) == []


def test_a_picture_has_the_pixels_of_its_image_between_its_least_and_its_largest() -> None:
    grey = torch.tensor([[[-1.0, 0.0], [1.0, -0.5]]])
    assert pixels(png(grey)).tolist() == [[0, 128], [255, 64]]
    rgb = torch.tensor([[[2.0]], [[4.0]], [[3.0]]])
    assert pixels(png(rgb)).tolist() == [[[0, 255, 128]]]
    assert pixels(png((rgb * 10).to(torch.uint8))).tolist() == [[[0, 255, 128]]]
    assert pixels(png(torch.full((1, 2, 3), 7.0))).tolist() == [[0] * 3] * 2
    assert pixels(png(torch.rand(3, 300, 600))).shape == (112, 224, 3)
    assert pixels(png(torch.rand(1, 30, 20))).shape == (30, 20)


def test_the_same_pictures_come_in_every_process() -> None:
    """Which they are follows from the seed, and not from what was drawn before."""
    settings, network = settings_of("timm ViT", FALLING, "mean")
    context, model = context_of(torch.rand(50, 3, SIDE, SIDE)), Model(built("timm ViT"), INPUTS)
    first = pictures(network, settings, model, context, 4)
    torch.manual_seed(7)
    torch.rand(5)
    assert pictures(network, settings, model, context, 4) == first
    assert pictures(network, settings, model, replace(context, seed=1), 4) != first
