"""Encoders of several libraries brought to one form: the same outputs, fewer tokens, and what is refused and why."""

from __future__ import annotations

import pytest
import timm
import torch
from edgepress.macs import total_macs
from edgepress.passes.merging.blocks import TokenBlocks
from edgepress.passes.merging.cost import macs_of
from edgepress.passes.merging.encoder import NoEncoderError, find_encoder, rebuilt
from edgepress.passes.merging.matching import MERGES
from edgepress.passes.merging.reading import tokens_read
from edgepress.passes.merging.schedule import Schedule
from edgepress.passes.merging.settings import Settings, blocks_of, set_up
from edgepress.torch_macs import count_macs
from token_nets import NETWORKS, SIDE, built
from torch import Tensor, nn

INPUTS = (torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)),)
LEADING = {
    "timm ViT, attention pooling": 0,
    "timm DINOv2: registers, layer scale": 4,
    "timm DeiT: distilled": 2,
}
READ = {"timm DeiT: distilled": 2, "timm ViT, mean of the patches": None, "timm ViT, attention pooling": None}


def settings_of(
    name: str,
    network: nn.Module,
    schedule: Schedule | None = None,
    merge: str = "mean",
    matching: str = "importance",
) -> Settings:
    encoder = find_encoder(network, INPUTS)
    read = READ.get(name, 1)
    blocks = len(list(network.get_submodule(encoder.place).children()))
    whole = Schedule.whole(encoder.patches, blocks)
    chosen = (schedule or whole).model_copy(update={"merge": merge, "matching": matching})
    return Settings(encoder, chosen, read or 0, read)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_encoder_is_found_and_computes_the_same_in_the_common_form(name: str) -> None:
    network = built(name)
    encoder = find_encoder(network, INPUTS)
    assert (encoder.leading, encoder.patches) == (LEADING.get(name, 1), 64 if "hand" in name else 16)
    network_of_tokens = rebuilt(network, INPUTS, encoder)
    assert isinstance(network_of_tokens.get_submodule(encoder.place), TokenBlocks)
    with torch.no_grad():
        torch.testing.assert_close(network_of_tokens(*INPUTS), network(*INPUTS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_read_at_the_end_is_found_and_all_else_dropped_without_a_change(name: str) -> None:
    network = built(name)
    settings = settings_of(name, network)
    tokens = rebuilt(network, INPUTS, settings.encoder)
    places = tokens_read(tokens, INPUTS, settings.encoder)
    read = READ.get(name, 1)
    assert places == list(range(read)) if read is not None else places[-1] == settings.encoder.leading + 15
    with torch.no_grad():
        torch.testing.assert_close(set_up(tokens, settings)(*INPUTS), network(*INPUTS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "merge", "matching"),
    [
        *((name, "weighted", "bipartite") for name in NETWORKS),
        ("timm ViT, mean of the patches", "mean", "importance"),  # of what all tokens receive
        *(("timm ViT", merge, matching) for merge in MERGES for matching in ("importance", "bipartite")),
    ],
)
def test_the_cost_is_what_the_smaller_network_multiplies(name: str, merge: str, matching: str) -> None:
    network = built(name)
    patches = find_encoder(network, INPUTS).patches
    prunes = READ.get(name, 1) is not None
    blocks = 4 if "hand" in name else 3
    half, quarter = (
        patches // 2 + 1,
        patches // 4 + 1,
    )  # odd, which cannot be halved
    merged = [patches, half, quarter, quarter]
    pruned = [patches, half + quarter - 1 if prunes else patches, half, quarter]
    schedule = Schedule.of(patches, pruned[:blocks], merged[:blocks])
    settings = settings_of(name, network, schedule, merge, matching)
    tokens = rebuilt(network, INPUTS, settings.encoder)
    both = network, set_up(tokens, settings)
    whole, smaller = (total_macs(one.macs for one in count_macs(each, INPUTS)) for each in both)
    assert whole is not None and smaller is not None
    cost = macs_of(
        blocks_of(tokens, settings.encoder).each, settings.encoder.leading, patches, whole, settings.read
    )
    assert cost.of(settings.schedule) == smaller
    assert smaller < 0.9 * whole


def test_a_batch_is_each_of_its_samples_alone() -> None:
    network = built("timm ViT")
    settings = settings_of("timm ViT", network, Schedule.of(16, [16, 12, 4], [16, 8, 4]))
    smaller = set_up(rebuilt(network, INPUTS, settings.encoder), settings)
    with torch.no_grad():
        together, alone = smaller(*INPUTS), [smaller(x[None]) for x in INPUTS[0]]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_no_parameter_is_lost() -> None:
    for name in NETWORKS:
        network = built(name)
        tokens = rebuilt(network, INPUTS, find_encoder(network, INPUTS))
        assert sum(p.numel() for p in tokens.parameters()) >= sum(p.numel() for p in network.parameters()), (
            name
        )


class Parallel(nn.Module):
    """Attention and MLP beside each other."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.attn(self.norm1(x)) + self.mlp(self.norm2(x))
        return y


def parallel() -> nn.Module:
    network = built("timm ViT")
    network.blocks = nn.Sequential(*(Parallel(block) for block in network.blocks))
    return network


def swin() -> nn.Module:
    sizes = {"window_size": 2, "embed_dim": 12, "depths": (2, 2, 2, 2)}
    network: nn.Module = timm.create_model("swin_tiny_patch4_window7_224", img_size=SIDE, **sizes)
    return network.eval()


class Behind(nn.Module):
    """A network whose class token comes behind the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.network = built("timm ViT")

    def forward(self, x: Tensor) -> Tensor:
        network = self.network
        tokens = network._pos_embed(network.patch_embed(x)).roll(-1, 1)
        y: Tensor = network.head(network.norm(network.blocks(tokens))[:, -1])
        return y


class Collected(nn.Module):
    """Logits, and what each block was given."""

    def __init__(self) -> None:
        super().__init__()
        self.network = built("timm ViT")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        network, seen = self.network, []
        tokens = network._pos_embed(network.patch_embed(x))
        for block in network.blocks:
            seen.append(tokens)
            tokens = block(tokens)
        return network.head(network.norm(tokens)[:, 0]), *seen


class WithResidual(nn.Module):
    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2 = mlp.fc1, mlp.fc2

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = residual + self.fc2(self.fc1(x).relu())
        return y


class Bert(Parallel):
    """An MLP that adds the residual itself."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__(block)
        self.mlp = WithResidual(block.mlp)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        y: Tensor = self.mlp(self.norm2(x), x)
        return y


def bert() -> nn.Module:
    network = built("timm ViT")
    network.blocks = nn.Sequential(*(Bert(block) for block in network.blocks))
    return network


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (parallel, r"blocks\.0: it computes something else than x \+ attention\(norm\(x\)\)"),
        (swin, r"it has 4 lists of transformer blocks \(layers\.0\.blocks, "),
        (Behind, r"network\.blocks: its first block is given 17 tokens, and the last 16 of them should be"),
        (Collected, r"network\.blocks: its blocks are not simply run one after another"),
        (bert, r"blocks\.0: it computes something else than"),
        (lambda: nn.Conv2d(3, 4, 3), "no vision transformer: it has no attention that is known"),
    ],
)
def test_what_is_no_plain_vision_transformer_is_refused_with_the_reason(network, reason: str) -> None:
    module = network()
    with pytest.raises(NoEncoderError, match=reason):
        rebuilt(module, INPUTS, find_encoder(module, INPUTS))


def test_weights_of_another_type_are_named() -> None:
    network = built("timm ViT").bfloat16()
    with pytest.raises(NoEncoderError, match=r"its weights are bfloat16: give the network in float32"):
        find_encoder(network, (INPUTS[0].bfloat16(),))
