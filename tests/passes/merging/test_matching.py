"""Merging of tokens against a plain version with loops, written from the papers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from edgepress.passes.merging.attention import TokenAttention
from edgepress.passes.merging.matching import MERGES, SHARPNESS, cosines, mean, soft, weighted
from edgepress.passes.merging.reduction import reduced
from edgepress.passes.merging.schedule import Kept, MergeName
from edgepress.passes.merging.token_batch import TokenBatch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

Rows = list[list[float]]


def drawn(
    n: int, staying: int, going: int, width: int = 5, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    sizes = 1 + 3 * torch.rand(n, staying + going, generator=draw)
    features = torch.randn(n, staying + going, width, generator=draw)
    return features[:, :staying], sizes[:, :staying], features[:, staying:], sizes[:, staying:]


def cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))


def by_loops(
    rule: str, staying: Rows, sizes: list[float], going: Rows, going_sizes: list[float]
) -> tuple[Rows, list[float]]:
    """One sample."""
    shares = []
    for token in going:
        similar = [cosine(token, other) for other in staying]
        best = max(range(len(similar)), key=similar.__getitem__)
        exponents = [math.exp(SHARPNESS * each) for each in similar]
        hard = [float(place == best) for place in range(len(staying))]
        shares.append([e / sum(exponents) for e in exponents] if rule == "soft" else hard)
    features, counts = [], []
    for place, token in enumerate(staying):
        met = [
            (share[place], other, size)
            for share, other, size in zip(shares, going, going_sizes, strict=True)
            if share[place]
        ]
        if rule == "mean":
            features.append(
                [(own + sum(o[i] for _, o, _ in met)) / (1 + len(met)) for i, own in enumerate(token)]
            )
            counts.append(sizes[place] + sum(s * max(0.0, cosine(o, token)) for _, o, s in met))
            continue
        mass = sizes[place] + sum(share * s for share, _, s in met)
        features.append(
            [
                (own * sizes[place] + sum(share * s * o[i] for share, o, s in met)) / mass
                for i, own in enumerate(token)
            ]
        )
        counts.append(mass)
    return features, counts


@pytest.mark.parametrize("rule", MERGES)
@pytest.mark.parametrize("seed", range(5))
def test_each_rule_is_what_loops_over_tokens_find(rule: str, seed: int) -> None:
    given = drawn(3, 4, 6, seed=seed)
    features, sizes, places = MERGES[rule](*given)  # type: ignore[index]
    for sample in range(3):
        staying, own, going, other = (each[sample].tolist() for each in given)
        wanted, counts = by_loops(rule, staying, own, going, other)
        torch.testing.assert_close(features[sample], torch.tensor(wanted), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(sizes[sample], torch.tensor(counts), rtol=1e-4, atol=1e-5)
        similar = [[cosine(token, each) for each in staying] for token in going]
        assert places[sample].tolist() == [max(range(4), key=row.__getitem__) for row in similar]


@pytest.mark.parametrize("rule", MERGES)
def test_sizes_stay_positive_and_numbers_finite_for_hostile_features(rule: str) -> None:
    staying, own = torch.randn(2, 3, 4), torch.ones(2, 3)
    for going in (-staying, torch.zeros(2, 3, 4), 1e18 * staying, staying * 1e-30):
        features, sizes, _ = MERGES[rule](staying, own, going, own)  # type: ignore[index]
        assert bool(torch.isfinite(features).all()) and bool((sizes >= own).all())
        assert bool(torch.isfinite(sizes.log()).all())


def test_a_size_weighted_merge_keeps_the_sum_of_all_patches() -> None:
    for rule in (weighted, soft):
        staying, own, going, other = drawn(2, 4, 6)
        features, sizes, _ = rule(staying, own, going, other)
        before = (staying * own[..., None]).sum(1) + (going * other[..., None]).sum(1)
        torch.testing.assert_close((features * sizes[..., None]).sum(1), before)
        torch.testing.assert_close(sizes.sum(1), own.sum(1) + other.sum(1))


def test_cosines_of_a_token_without_features_are_zero() -> None:
    assert cosines(torch.zeros(1, 1, 3), torch.ones(1, 2, 3)).tolist() == [[[0.0, 0.0]]]


def by_likeness(rule: MergeName) -> Callable[[Tensor], Tensor]:
    """A bipartite site, of features alone."""
    return lambda features: (
        reduced(TokenBatch(features, 1), None, Kept(pruned=7, merged=5), rule, "bipartite").features
    )


@pytest.mark.parametrize("rule", MERGES)
def test_one_operator_alone_reads_each_product(rule: MergeName) -> None:
    """OpenVINO 2026.4 scales a product of activations in INT8 twice where two read it and the batch varies.

    `max` over an axis is exported as two operators, one for the values and one for the places.
    """
    alone = make_fx(lambda *given: MERGES[rule](*given))(*drawn(2, 3, 4))
    site = make_fx(by_likeness(rule))(torch.randn(2, 8, 5))
    for graph in (alone.graph, site.graph):
        products = [node for node in graph.nodes if node.target is torch.ops.aten.bmm.default]
        assert products
        for product in products:
            [reader] = product.users
            while reader.target is torch.ops.aten._unsafe_view.default:
                [reader] = reader.users
            assert reader.target is not torch.ops.aten.max.dim


def test_gradients_reach_what_goes_and_what_stays() -> None:
    given = [each.requires_grad_() for each in drawn(2, 3, 4)]
    features, sizes, _ = mean(*given)
    gradients = torch.autograd.grad(features.sum() + sizes.sum(), given)
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients)


@pytest.mark.parametrize("sized", [False, True], ids=["alike", "of unequal sizes"])
def test_importance_is_the_attention_of_those_who_look(sized: bool) -> None:
    torch.manual_seed(0)
    attention = TokenAttention(nn.Linear(6, 18), nn.Linear(6, 6), num_heads=2, scale=3**-0.5)
    given = TokenBatch(torch.randn(4, 7, 6), 2, 1 + torch.rand(4, 5) if sized else None)
    queries, keys, _ = attention.projected(given)
    scores = torch.einsum("nhqd,nhkd->nhqk", queries, keys) / math.sqrt(3)
    if sized:
        assert given.sizes is not None
        scores[..., 2:] += given.sizes.log()[:, None, None]
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    for looks, looking in {1: weights[:, :, :1], 2: weights[:, :, :2], 0: weights}.items():
        found = attention(given, looks=looks)[1]
        torch.testing.assert_close(found, looking.mean((1, 2))[:, 2:])
    assert attention(given)[1] is None


def tokens(n: int = 2, leading: int = 1, patches: int = 6) -> TokenBatch:
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(n, leading + patches, 4, generator=draw)
    origin = torch.arange(patches).expand(n, -1)
    return TokenBatch(
        features, leading, positions=torch.arange(patches * 2.0).reshape(1, 1, patches, 2), origin=origin
    )


def test_nothing_that_goes_changes_nothing() -> None:
    given = tokens()
    assert reduced(given, torch.rand(2, 6), Kept(pruned=6, merged=6), "mean", "importance") is given


def test_the_least_important_are_dropped_and_the_next_merged() -> None:
    given = TokenBatch(tokens().features, 1)
    importance = torch.tensor([[0.1, 0.6, 0.5, 0.2, 0.4, 0.3], [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]])
    left = reduced(given, importance, Kept(pruned=4, merged=2), "weighted", "importance")
    assert left.features.shape == (2, 3, 4) and left.leading == 1 and left.sizes is not None
    assert torch.equal(left.features[:, :1], given.features[:, :1])
    assert left.sizes.sum(1).tolist() == [4.0, 4.0]
    patches = given.features[0, 1:]
    wanted, counts, _ = weighted(
        patches[None, [1, 2]], torch.ones(1, 2), patches[None, [4, 5]], torch.ones(1, 2)
    )
    assert torch.allclose(left.features[0, 1:], wanted[0]) and torch.equal(left.sizes[0], counts[0])


def test_pruning_alone_leaves_sizes_of_one() -> None:
    given = TokenBatch(tokens().features, 1)
    left = reduced(given, torch.rand(2, 6), Kept(pruned=3, merged=3), "mean", "importance")
    assert left.sizes is None and left.log_sizes is None and left.patches == 3


def most_alike_to_go(features: Tensor, count: int) -> set[int]:
    """Of every second token those that are most like one between, by loops."""
    likeness = {
        token: max(
            cosine(features[token].tolist(), features[other].tolist()) for other in range(1, len(features), 2)
        )
        for token in range(0, len(features), 2)
    }
    return set(sorted(likeness, key=lambda token: -likeness[token])[:count])


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("patches", [8, 9])
def test_of_every_second_token_the_most_alike_are_merged_into_those_between(
    patches: int, merge: MergeName
) -> None:
    """Of unequal sizes, as after an earlier site; what rotary embeddings turn them by goes with them."""
    given = tokens(3, patches=patches)
    sizes = 1 + 3 * torch.rand(3, patches, generator=torch.Generator().manual_seed(2))
    given = replace(given, sizes=sizes)
    assert given.positions is not None
    for going in range(1, patches // 2 + 1):
        left = reduced(given, None, Kept(pruned=patches, merged=patches - going), merge, "bipartite")
        for sample in range(3):
            features = given.features[sample, 1:]
            gone = sorted(most_alike_to_go(features, going))
            apart = [token for token in range(0, patches, 2) if token not in gone]
            between = list(range(1, patches, 2))
            own = sizes[sample]
            staying, others = (features[rows].tolist() for rows in (between, gone))
            wanted, masses = by_loops(merge, staying, own[between].tolist(), others, own[gone].tolist())
            met, mass = torch.tensor(wanted), torch.tensor(masses)
            torch.testing.assert_close(
                left.features[sample, 1:], torch.cat([features[apart], met]), rtol=1e-4, atol=1e-5
            )
            assert left.sizes is not None and left.positions is not None
            torch.testing.assert_close(
                left.sizes[sample], torch.cat([own[apart], mass]), rtol=1e-4, atol=1e-5
            )
            positions = left.positions[:, 0].expand(3, -1, -1)[sample]
            assert torch.equal(positions, given.positions[0, 0, apart + between])


def test_what_is_dropped_first_leaves_the_others_in_their_places() -> None:
    given = TokenBatch(tokens(patches=8).features, 1)
    importance = torch.tensor([0.3, 0.9, 0.1, 0.8, 0.7, 0.2, 0.6, 0.5]).expand(2, -1)
    left = reduced(given, importance, Kept(pruned=6, merged=4), "weighted", "bipartite")
    six = TokenBatch(
        given.features[:, [0, 1, 2, 4, 5, 7, 8]], 1
    )  # the class token, and all but patches 2 and 5
    alike = reduced(six, None, Kept(pruned=6, merged=4), "weighted", "bipartite")
    assert torch.equal(left.features, alike.features)
    assert left.sizes is not None and alike.sizes is not None and torch.equal(left.sizes, alike.sizes)
    dropped = reduced(given, importance, Kept(pruned=6, merged=6), "weighted", "bipartite")
    assert torch.equal(dropped.features, six.features) and dropped.sizes is None


def test_tokens_that_are_all_alike_go_once_each() -> None:
    """As of a black background: equal likenesses must not let a token go and stay at once."""
    same = TokenBatch(torch.ones(2, 9, 4), 1).followed()
    left = reduced(same, None, Kept(pruned=8, merged=5), "weighted", "bipartite")
    assert left.origin is not None and left.sizes is not None
    assert left.sizes.sum(1).tolist() == [8.0, 8.0] and left.sizes.max() >= 2
    for origin, sizes in zip(left.origin, left.sizes, strict=True):
        assert torch.bincount(origin, minlength=5).tolist() == sizes.tolist()


def test_rotary_positions_go_with_their_tokens() -> None:
    importance = torch.tensor([[0.0, 0.0, 0.0, 0.9, 0.0, 0.8]]).expand(2, -1)
    left = reduced(tokens(), importance, Kept(pruned=6, merged=2), "mean", "importance")
    assert left.positions is not None
    assert left.positions[0, 0].tolist() == [[6.0, 7.0], [10.0, 11.0]]


@pytest.mark.parametrize("rule", MERGES)
def test_every_patch_is_found_again_in_what_it_became_part_of(rule: str) -> None:
    left, draw = tokens(), torch.Generator().manual_seed(3)
    for merged in (4, 2):
        before = left
        importance = torch.rand(2, before.patches, generator=draw)
        kept = Kept(pruned=before.patches, merged=merged)
        left = reduced(before, importance, kept, rule, "importance")  # type: ignore[arg-type]
        assert left.origin is not None and int(left.origin.max()) < merged
        staying = importance.topk(merged, 1).indices
        assert before.origin is not None
        for sample in range(2):
            for patch in range(6):
                was = int(before.origin[sample, patch])
                if was in staying[sample].tolist():
                    assert int(left.origin[sample, patch]) == staying[sample].tolist().index(was)
    restored = left.restored()
    assert restored.shape == (2, 7, 4)
    assert left.origin is not None
    assert torch.equal(restored[1, 3], left.features[1, 1 + int(left.origin[1, 2])])
