"""Students: what must be refused, that kept blocks and channels compute what the teacher's do, and rebuilding."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from attention_nets import Encoder, GroupedQueryAttention, TiedAttention, siblings
from edgepress.errors import CompressError
from edgepress.examples.digits import models as digits
from edgepress.examples.digits.models import ResidualBlock
from edgepress.form import Form
from edgepress.model import Model
from edgepress.passes.channels.attention import find_attentions
from edgepress.passes.channels.surgery import keep_channels
from edgepress.passes.distillation.student import Student, derive, rederive
from edgepress.passes.distillation.student_heads import choose_heads
from edgepress.passes.distillation.student_width import keep_of
from edgepress.passes.graph.capture import capture
from quantization_nets import Net, largest_difference, model_of, settled
from silent_channels import without_channels
from torch import Tensor, nn


def digits_cnn() -> Model:
    return model_of(settled(digits.cnn()), 1, 32, 32)


def digits_vit(**options: int) -> Model:
    return model_of(digits.VisionTransformer(**options), 1, 32, 32)


def torchvision_model(name: str, size: int = 64) -> Model:
    torchvision = pytest.importorskip("torchvision")
    return model_of(settled(torchvision.models.get_model(name, weights=None)), 3, size, size)


def timm_model(name: str, size: int = 64, **options: object) -> Model:
    timm = pytest.importorskip("timm")
    return model_of(settled(timm.create_model(name, pretrained=False, **options)), 3, size, size)


def torchvision_vit() -> Model:
    models = pytest.importorskip("torchvision").models
    sizes = {
        "image_size": 32,
        "patch_size": 16,
        "num_layers": 12,
        "num_heads": 2,
        "hidden_dim": 16,
        "mlp_dim": 32,
    }
    return model_of(models.VisionTransformer(**sizes), 3, 32, 32)


def lite0() -> Model:
    if find_spec("efficientnet_lite_pytorch") is None:
        pytest.skip("efficientnet_lite_pytorch is not installed")
    from edgepress.examples.solar.models import efficientnet_lite0

    return model_of(settled(efficientnet_lite0()), 3, 128, 128)


def captured() -> Model:
    model = digits_cnn()
    return model.successor(capture(model), Form.GRAPH)


def plain_convolutions() -> Model:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return model_of(nn.Sequential(*layers, nn.Conv2d(8, 8, 3, padding=1)), 3, 8, 8)


def strided_blocks() -> Model:
    return model_of(
        nn.Sequential(ResidualBlock(8, 8), ResidualBlock(8, 16, 2), ResidualBlock(16, 16, 2)), 8, 8, 8
    )


def counted_blocks() -> Model:
    """Goes through its blocks by a number that it holds."""

    def forward(net: Net, x: Tensor) -> Tensor:
        for index in range(4):
            x = net.blocks[index](x)
        return x

    return model_of(Net(forward, blocks=nn.ModuleList(ResidualBlock(8, 8) for _ in range(4))), 8, 8, 8)


def parallel_branches() -> Model:
    def forward(net: Net, x: Tensor) -> Tensor:
        return sum(branch(x) for branch in net.branches)

    return model_of(Net(forward, branches=nn.ModuleList(ResidualBlock(8, 8) for _ in range(4))), 8, 8, 8)


def fixed_sizes() -> Model:
    def forward(net: Net, x: Tensor) -> Tensor:
        return net.head(net.conv(x).view(-1, 16, 64).mean(-1))

    return model_of(Net(forward, conv=nn.Conv2d(3, 16, 3, padding=1), head=nn.Linear(16, 3)), 3, 8, 8)


def torch_attention() -> Model:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return model_of(nn.Sequential(layer, nn.Linear(16, 3)), 5, 16)


def shifted_windows() -> Model:
    """Swin: its windows are reshapes that torch-pruning would follow for ever."""
    models = pytest.importorskip("torchvision").models
    sizes = {
        "patch_size": [4, 4],
        "embed_dim": 16,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": [4, 4],
    }
    return model_of(models.SwinTransformer(**sizes), 3, 64, 64)


REFUSED = {
    "a captured graph": (captured, {"depth": 0.5}, ["already captured", "before the passes", "quantize"]),
    "a depth of zero": (digits_vit, {"depth": 0.0}, ["distill.student: depth is 0.0", "above 0"]),
    "a width above one": (digits_vit, {"width": 1.5}, ["distill.student: width is 1.5", "at most 1"]),
    "no blocks: layers in a row": (plain_convolutions, {"depth": 0.5}, ["no sequence of like", "module:factory"]),
    "blocks side by side": (parallel_branches, {"depth": 0.5}, ["no sequence of like blocks"]),
    "each block starts a stage": (strided_blocks, {"depth": 0.5}, ["ResidualBlock: 3 of 3 stay, 2 were asked for"]),
    "a depth that rounds to all": (digits_vit, {"depth": 0.9}, ["0.9 of 4 blocks rounds to all of them"]),
    "blocks called by number": (counted_blocks, {"depth": 0.5}, ["2 of 4 kept", "does not run: IndexError"]),
    "only an output layer": (lambda: model_of(nn.Linear(8, 3), 8), {"width": 0.5}, ["no layer can be narrowed to 0.5"]),
    "sizes written in forward": (fixed_sizes, {"width": 0.5}, ["narrowed to 0.5, the network does not run"]),
    "nn.MultiheadAttention": (torch_attention, {"width": 0.5}, ["heads of 0.self_attn (MultiheadAttention)", "qkv"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str) -> None:
    build, options, parts = REFUSED[case]
    with pytest.raises(CompressError) as refusal:
        derive(build(), **options)
    message = str(refusal.value)
    assert message.startswith("distill.student: ")
    for part in parts:
        assert part in message


def test_refuses_a_description_of_another_network() -> None:
    student = derive(digits_vit(), depth=0.5)
    with pytest.raises(CompressError, match=r"distill\.student: this description is not of"):
        rederive(torchvision_model("resnet18"), student.description)


KEPT = {
    "timm ViT: half of 12": (lambda: timm_model("vit_tiny_patch16_224", img_size=64), "blocks", 6, 12),
    "digits ViT": (digits_vit, "blocks", 2, 4),
    "torchvision ViT: named blocks": (torchvision_vit, "encoder.layers", 6, 12),
    "EfficientNet-Lite0: an enumerated list": (lite0, "_blocks", 8, 16),
    "MobileNetV2: stem and head in the container": (lambda: torchvision_model("mobilenet_v2"), "features", 10, 19),
    "timm RegNet: a stage of its own class": (lambda: timm_model("regnetx_002"), "s4", 2, 7),
    "timm ConvNeXt: nested stages": (lambda: timm_model("convnext_atto"), "stages.2.blocks", 1, 6),
    "digits CNN: one block can go": (digits_cnn, "blocks", 3, 4),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_half_the_blocks_stay(case: str) -> None:
    build, container, kept, of = KEPT[case]
    model = build()
    before = copy.deepcopy(model.module.state_dict())

    student = derive(model, depth=0.5)

    assert len(model.module.get_submodule(container)._modules) == of
    assert len(student.module.get_submodule(container)._modules) == kept
    assert_student_of(model, student, before)


def assert_student_of(model: Model, student: Student, before: dict[str, Tensor]) -> None:
    """It runs to the same shapes, can be trained, is rebuilt alike, and the teacher is what it was."""
    for got, want in zip(
        model.successor(student.module, model.form).run(*model.example_inputs),
        model.run(*model.example_inputs),
        strict=True,
    ):
        assert got.shape == want.shape and got.dtype == want.dtype and got.isfinite().all()
    assert not student.module.training
    assert all(type(p) is nn.Parameter and p.requires_grad for p in student.module.parameters())
    again = rederive(model, json.loads(json.dumps(student.description))).state_dict()
    first = student.module.state_dict()
    assert list(again) == list(first)
    assert all(torch.equal(again[name], first[name]) for name in first)
    after = model.module.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    shared = {p.data_ptr() for p in model.module.parameters()} & {
        p.data_ptr() for p in student.module.parameters()
    }
    assert not shared


def test_a_kept_block_computes_what_the_teachers_does() -> None:
    model = torchvision_model("resnet18")
    student = derive(model, depth=0.5).module
    skipping = copy.deepcopy(model.module)
    for stage in (skipping.layer1, skipping.layer2, skipping.layer3, skipping.layer4):
        stage[1] = nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(student(x), skipping(x))  # the same kernels on the same weights: bit for bit


def test_blocks_are_kept_evenly_with_the_first_and_the_last() -> None:
    student = derive(digits_vit(depth=8), depth=0.5)
    assert student.notes[0] == "blocks: 4 of 8 kept (blocks: 0, 2, 5, 7)"


def test_the_note_says_how_far_above_the_depth_the_floor_is() -> None:
    notes = derive(digits_cnn(), depth=0.5).notes
    assert "ResidualBlock: 2 of 2 stay, 1 were asked for" in notes[1]


def test_a_stage_also_starts_where_a_layer_between_blocks_changes_the_shape() -> None:
    early, late = [ResidualBlock(8, 8) for _ in range(3)], [ResidualBlock(16, 16) for _ in range(2)]
    net = nn.Sequential(*early, nn.Conv2d(8, 16, 3, 2, 1), *late)
    student = derive(model_of(settled(net), 8, 8, 8), depth=0.2)
    assert [type(m) for m in student.module] == [ResidualBlock, nn.Conv2d, ResidualBlock]
    assert student.notes[0] == "blocks: 2 of 5 kept (network: 0, 4)"
    assert student.notes[1].startswith("blocks that stay: ResidualBlock: 2 of 5 stay, 1 were asked for")


def test_a_container_with_its_own_forward_stays_what_it_is() -> None:
    class Scaled(nn.Sequential):
        factor = 3.0

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.factor

    blocks = Scaled(*(ResidualBlock(8, 8) for _ in range(4)))
    model = model_of(settled(nn.Sequential(blocks, nn.Conv2d(8, 3, 1))), 8, 8, 8)

    student = derive(model, depth=0.5).module

    expected = model.module[1](blocks[3](blocks[0](model.example_inputs[0])) * 3.0)
    assert torch.equal(student(*model.example_inputs), expected)
    assert list(student[0]._modules) == ["0", "1"]


NARROW = {
    "digits CNN": (digits_cnn, 0.5, {"head": (10, 48), "stem.0": (16, 1, 3, 3)}),
    "digits ViT: width and heads": (digits_vit, 0.5, {"blocks.0.attention.qkv": (96, 32), "head": (10, 32)}),
    "digits ViT: heads follow width": (digits_vit, 0.6, {"blocks.0.attention.qkv": (96, 40), "head": (10, 40)}),
    "width follows heads": (
        lambda: model_of(nn.Sequential(nn.Linear(12, 64), Encoder(TiedAttention(64), width=64)), 7, 12),
        0.6,
        {"1.layer.0.attention.qkv": (96, 32), "1.head": (3, 32)},
    ),
    "timm ViT: 3 heads become 2": (
        lambda: timm_model("vit_tiny_patch16_224", img_size=64, depth=2),
        0.75,
        {"blocks.1.attn.qkv": (384, 144), "blocks.1.attn.proj": (144, 128), "blocks.1.mlp.fc1": (576, 144)},
    ),
    "DINOv2: layer scale": (
        lambda: timm_model("vit_small_patch14_dinov2", 56, img_size=56, depth=2, num_classes=2),
        0.5,
        {"blocks.0.attn.qkv": (576, 192), "head": (2, 192)},
    ),
    "Swin: windows of attention": (shifted_windows, 0.5, {}),
    "Hugging Face ViT: queries, keys and values apart": (
        lambda: model_of(nn.Sequential(nn.Linear(12, 24), siblings()), 7, 12),
        0.5,
        {"1.layer.0.attention.attention.key": (12, 12), "1.layer.0.attention.output.dense": (12, 12)},
    ),
    "Llama: queries share keys": (
        lambda: model_of(nn.Sequential(nn.Linear(12, 24), Encoder(GroupedQueryAttention())), 7, 12),
        0.5,
        {"1.layer.0.attention.q_proj": (16, 12), "1.layer.0.attention.v_proj": (8, 12)},
    ),
    "EfficientNet-Lite0: subclassed convolutions": (lite0, 0.5, {"_fc": (2, 640), "_conv_stem": (16, 3, 3, 3)}),
    "ResNet-18": (lambda: torchvision_model("resnet18"), 0.5, {"fc": (1000, 256), "layer1.0.conv1": (32, 32, 3, 3)}),
    "RegNet: grouped convolutions": (lambda: timm_model("regnetx_002"), 0.5, {"s1.b1.conv2.conv": (12, 4, 3, 3)}),
    "ConvNeXt": (lambda: timm_model("convnext_atto"), 0.5, {"stages.0.blocks.0.mlp.fc1": (80, 24, 1, 1)}),
}  # fmt: skip


@pytest.mark.parametrize("case", NARROW)
def test_narrows(case: str) -> None:
    build, width, shapes = NARROW[case]
    model = build()
    before = copy.deepcopy(model.module.state_dict())

    student = derive(model, width=width)

    for name, shape in shapes.items():
        assert tuple(student.module.get_submodule(name).weight.shape) == shape, name
    assert_student_of(model, student, before)


CONVOLUTIONAL = {
    "digits CNN: shortcuts and a depthwise block": digits_cnn,
    "EfficientNet-Lite0: depthwise": lite0,
    "ResNet-18: shortcuts": lambda: torchvision_model("resnet18"),
    "RegNet: grouped": lambda: timm_model("regnetx_002"),
    "SqueezeNet: concatenation": lambda: torchvision_model("squeezenet1_1"),
}


@pytest.mark.parametrize("case", CONVOLUTIONAL)
def test_kept_channels_compute_what_the_teachers_do_without_the_others(case: str) -> None:
    model = CONVOLUTIONAL[case]()
    student = derive(model, width=0.5)
    without = without_channels(model, student)
    x = model.example_inputs[0]
    # Sums over fewer terms are rounded in another order; a wrong channel would be off by about 1.
    assert largest_difference(without(x), student.module(x)) < 1e-4


def test_kept_heads_compute_what_the_teachers_do_without_the_others() -> None:
    timm = pytest.importorskip("timm")
    layer = timm.layers.Attention(
        64, num_heads=4, qkv_bias=True, qk_norm=True, norm_layer=nn.LayerNorm
    ).eval()
    x = torch.randn(2, 5, 64)
    cut = choose_heads(layer, find_attentions(layer, (x,))[0], 0.5)
    narrow, without = copy.deepcopy(layer), copy.deepcopy(layer)

    keep_channels(narrow, cut)

    gone = sorted(set(range(64)) - set(cut.tensors["proj.weight"][1]))
    without.proj.weight.data.index_fill_(1, torch.tensor(gone), 0.0)
    assert narrow.num_heads == 2 and narrow.qkv.weight.shape == (96, 64)
    assert largest_difference(without(x), narrow(x)) < 1e-5  # float32 sums in another order


def test_heads_in_another_order_stay_whole() -> None:
    class Interleaved(nn.Module):
        """Its qkv rows are ordered (heads, 3, size)."""

        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.qkv, self.proj = 4, nn.Linear(32, 96), nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).reshape(*x.shape[:2], 4, 3, 8).transpose(1, 2).unbind(3)
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.proj(mixed.transpose(1, 2).reshape(*x.shape[:2], 32))

    model = model_of(nn.Sequential(nn.Linear(12, 32), Interleaved(), nn.Linear(32, 3)), 5, 12)
    student = derive(model, width=0.5)
    assert student.module[1].num_heads == 4 and student.module[1].qkv.weight.shape == (96, 16)
    assert "4 heads stay: its qkv rows are not in the order (3, heads, size) (1 layers)" in student.notes[1]


@pytest.mark.parametrize("build", [digits_cnn, digits_vit], ids=["digits CNN", "digits ViT"])
def test_a_student_is_captured_as_any_network_is(build: Callable[[], Model]) -> None:
    model = build()
    student = model.successor(derive(model, depth=0.5, width=0.5).module, model.form)
    x = torch.randn(3, 1, 32, 32)
    # Folding BatchNorm reorders float32 sums, as capture itself allows for.
    assert largest_difference(student.module(x), capture(student)(x)) < 1e-3
    assert student.facts().params < 0.3 * model.facts().params


def test_frozen_weights_of_the_teacher_are_trained_in_the_student() -> None:
    model = digits_cnn()
    model.module.requires_grad_(False)
    student = derive(model, width=0.5).module
    assert all(p.requires_grad for p in student.parameters())
    assert not any(p.requires_grad for p in model.module.parameters())


def test_tied_weights_stay_tied() -> None:
    net = nn.Sequential(nn.Linear(4, 32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 2))
    net[3].weight = net[1].weight
    student = derive(model_of(net, 4), depth=1.0, width=1.0).module
    assert student[3].weight is student[1].weight


@pytest.mark.parametrize(
    ("channels", "width", "groups", "kept"),
    [
        (64, 0.5, 1, 32), (192, 0.75, 1, 144), (24, 0.5, 1, 12), (10, 0.5, 1, 6), (3, 0.5, 1, 2), (1, 0.5, 1, 1),
        (40, 0.5, 1, 24), (64, 0.01, 1, 8), (64, 1.0, 1, 64), (24, 0.5, 3, 12), (100, 0.5, 25, 50),
    ],
)  # fmt: skip
def test_channels_are_rounded_to_what_devices_like(
    channels: int, width: float, groups: int, kept: int
) -> None:
    assert keep_of(channels, width, groups) == kept
