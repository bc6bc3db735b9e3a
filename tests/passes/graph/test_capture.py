"""Capture: any module becomes one canonical graph that computes what the module computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from edgepress.errors import CompressError
from edgepress.model import Model
from edgepress.passes.graph.capture import capture
from edgepress.passes.graph.layers import layer_name, layers_of
from edgepress.passes.graph.operators import get_tensor
from quantization_nets import Net, largest_difference, model_of, operators, settled
from torch import Tensor, nn


def conv(*arguments: int, **options: object) -> nn.Conv2d:
    return nn.Conv2d(*arguments, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("bias", "folded_bias"), [(None, [-2.5, 5.0]), ([1.0, 2.0], [-0.5, 9.0])])
def test_batch_norm_folds_into_hand_computed_weights(bias, folded_bias) -> None:
    conv, norm = nn.Conv2d(1, 2, 1, bias=bias is not None), nn.BatchNorm2d(2, eps=0.0)
    conv.weight.data = torch.tensor([3.0, -1.0]).reshape(2, 1, 1, 1)
    if bias is not None:
        conv.bias.data = torch.tensor(bias)
    norm.running_mean, norm.running_var = torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.25])
    # scale = gamma / sqrt(var): 4 / 2 = 2 and 1 / 0.5 = 2
    norm.weight.data, norm.bias.data = torch.tensor([4.0, 1.0]), torch.tensor([-0.5, 1.0])

    graph = capture(model_of(nn.Sequential(conv, norm), 1, 3, 3))

    assert operators(graph) == ["conv2d"]
    assert get_tensor(graph, "0.weight").flatten().tolist() == [6.0, -2.0]
    name = "0.bias" if bias else "0.folded_bias"
    # (bias - mean) * 2 + beta
    assert get_tensor(graph, name).tolist() == folded_bias


def concat_norm(net: Net, x: Tensor) -> Tensor:
    return net.norm(torch.cat([net.one(x), net.two(x)], 1))


BATCH_NORM_STAYS = {
    "the weight is also used without it": Net(
        lambda n, x: n.norm(n.conv(x)) + n.conv(x), conv=conv(3, 4, 3), norm=nn.BatchNorm2d(4)
    ),
    "the layer's output is also used without it": Net(
        lambda n, x: (y := n.conv(x), n.norm(y) + y)[1], conv=conv(3, 4, 3), norm=nn.BatchNorm2d(4)
    ),
    "it has no running statistics": nn.Sequential(
        conv(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
    ),
    "it is told to train by a functional call": Net(
        lambda n, x: F.batch_norm(n.conv(x), torch.zeros(4), torch.ones(4), training=True), conv=conv(3, 4, 3)
    ),
    "it comes after a concatenation": Net(
        concat_norm, one=conv(3, 2, 3), two=conv(3, 2, 3), norm=nn.BatchNorm2d(4)
    ),
    "tokens are its channels": Net(
        lambda n, x: n.norm(n.linear(x.flatten(2))), linear=nn.Linear(64, 3), norm=nn.BatchNorm1d(3)
    ),
}


@pytest.mark.parametrize("case", BATCH_NORM_STAYS)
def test_batch_norm_stays_where_folding_would_change_the_network(case: str) -> None:
    model = model_of(settled(BATCH_NORM_STAYS[case]), 3, 8, 8, dynamic_batch=False)
    graph = capture(model)
    assert "batch_norm" in operators(graph)
    x = torch.randn(1, 3, 8, 8)
    assert largest_difference(model.run(x)[0], graph(x)) < 1e-5


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)),
        nn.Sequential(nn.Flatten(), nn.Linear(24, 4), nn.BatchNorm1d(4, affine=False)),
        nn.Sequential(nn.Conv1d(3, 6, 3, padding="same", groups=3), nn.BatchNorm1d(6), nn.Conv1d(6, 2, 1)),
    ],
)
def test_batch_norm_folds_into_other_layers(module: nn.Module) -> None:
    model = model_of(settled(module), 3, 8)
    graph = capture(model)
    assert "batch_norm" not in operators(graph)
    x = torch.randn(5, 3, 8)
    assert largest_difference(model.run(x)[0], graph(x)) < 1e-5


def test_layers_that_share_a_weight_are_not_folded_and_keep_their_own_norms() -> None:
    shared = conv(3, 3, 1)
    net = Net(
        lambda n, x: n.norm2(n.conv(n.norm1(n.conv(x)))),
        conv=shared,
        norm1=nn.BatchNorm2d(3),
        norm2=nn.BatchNorm2d(3),
    )
    model = model_of(settled(net), 3, 4, 4)
    graph = capture(model)
    assert operators(graph).count("batch_norm") == 2
    assert largest_difference(model.run(*model.example_inputs)[0], graph(*model.example_inputs)) < 1e-6


def test_dropout_is_removed() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2), nn.Dropout(0.1, inplace=True))
    assert operators(capture(model_of(net, 4))) == ["linear", "linear"]


def test_dropout_that_draws_in_eval_mode_is_refused() -> None:
    net = Net(lambda n, x: F.dropout(n.linear(x), 0.5), linear=nn.Linear(32, 32))
    with pytest.raises(CompressError, match="draws random numbers in eval mode"):
        capture(model_of(net, 32))


def inplace_residual(net: Net, x: Tensor) -> Tensor:
    y = F.relu_(net.one(x))
    skip = y
    y = net.two(y)
    y += skip
    y.relu_()
    return y.mul_(2)


def test_in_place_operators_become_functional_and_read_what_they_read() -> None:
    net = Net(inplace_residual, one=conv(3, 4, 1), two=conv(4, 4, 1))
    model = model_of(net, 3, 5, 5)
    graph = capture(model)
    assert operators(graph) == ["conv2d", "relu", "conv2d", "add", "relu", "mul"]
    x = torch.randn(3, 3, 5, 5)
    assert torch.equal(model.run(x)[0], graph(x))


def test_a_tensor_changed_in_place_is_seen_changed_by_later_readers() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        y = net.conv(x)
        before = y * 1.0
        y.relu_()
        return before + y  # the second reader of y comes after the change

    model = model_of(Net(forward, conv=conv(3, 4, 1)), 3, 5, 5)
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(model.run(x)[0], capture(model)(x))


def attention(mask=None, **options: object):  # type: ignore[no-untyped-def]
    def forward(net: Net, x: Tensor) -> Tensor:
        q, k, v = net.qkv(x).reshape(x.shape[0], 6, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        given = None if mask is None else net.mask
        return F.scaled_dot_product_attention(q, k, v, attn_mask=given, **options)  # type: ignore[arg-type]

    net = Net(forward, qkv=nn.Linear(8, 24))
    if mask is not None:
        net.register_buffer("mask", mask)
    return net


MASKS = {
    "no mask": {},
    "a float mask": {"mask": torch.linspace(-3, 3, 36).reshape(6, 6)},
    "a mask that bars keys": {"mask": torch.ones(6, 6).tril().bool()},
    "a scale of its own": {"scale": 0.3},
}


@pytest.mark.parametrize("case", MASKS)
def test_attention_is_decomposed_exactly(case: str) -> None:
    model = model_of(attention(**MASKS[case]), 6, 8)
    graph = capture(model)
    assert operators(graph).count("matmul") == 2
    assert "scaled_dot_product_attention" not in operators(graph)
    x = torch.randn(3, 6, 8)
    assert largest_difference(model.run(x)[0], graph(x)) < 1e-5


def test_causal_attention_is_left_alone() -> None:
    model = model_of(attention(is_causal=True), 6, 8)
    assert "scaled_dot_product_attention" in operators(capture(model))


def test_a_mask_computed_from_the_input_is_kept() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        y = net.linear(x)
        mask = x.sum(-1)[:, None, :] > -1e9  # (batch, 1, keys)
        return F.scaled_dot_product_attention(y, y, y, attn_mask=mask)

    model = model_of(Net(forward, linear=nn.Linear(8, 8)), 6, 8)
    x = torch.randn(3, 6, 8)
    assert largest_difference(model.run(x)[0], capture(model)(x)) < 1e-5


class LayerScale(nn.Module):
    def __init__(self, layer: nn.Module, *shape: int) -> None:
        super().__init__()
        self.layer, self.gamma = layer, nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.layer(x)


@pytest.mark.parametrize("bias", [True, False])
def test_layer_scale_folds_into_the_layer_before_it(bias: bool) -> None:
    for module, shape in (
        (LayerScale(nn.Linear(4, 4, bias=bias), 4), (3, 4)),
        (LayerScale(conv(4, 4, 1, bias=bias), 4, 1, 1), (4, 5, 5)),
    ):
        model = model_of(module, *shape)
        graph = capture(model)
        assert "mul" not in operators(graph)
        x = torch.randn(2, *shape)
        assert largest_difference(model.run(x)[0], graph(x)) < 1e-6


def test_a_factor_along_another_axis_than_the_channels_stays() -> None:
    model = model_of(LayerScale(conv(4, 4, 1), 4), 4, 4, 4)  # scales the last axis, which is as long
    graph = capture(model)
    assert "mul" in operators(graph)
    assert largest_difference(model.run(*model.example_inputs)[0], graph(*model.example_inputs)) < 1e-6


class StandardizedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / std, self.bias)


def test_weight_standardization_is_computed_once_and_the_layer_keeps_its_name() -> None:
    model = model_of(nn.Sequential(nn.Identity(), StandardizedConv(3, 4, 3)), 3, 6, 6)
    graph = capture(model)
    assert operators(graph) == ["conv2d"]
    assert [layer_name(n) for n in layers_of(graph)] == ["1"]
    assert torch.allclose(model.run(*model.example_inputs)[0], graph(*model.example_inputs))


def test_a_mask_that_is_filled_slice_by_slice_becomes_a_constant() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        mask = x.new_zeros((6, 6))
        mask[:3, 3:] = -100.0
        mask[3:, torch.arange(3)] = -100.0
        q = net.qkv(x)
        return torch.softmax(q @ q.transpose(1, 2) + mask, -1) @ q

    model = model_of(Net(forward, qkv=nn.Linear(8, 8)), 6, 8)
    graph = capture(model)
    assert operators(graph) == ["linear", "transpose", "matmul", "add", "softmax", "matmul"]
    x = torch.randn(3, 6, 8)
    assert torch.equal(model.run(x)[0], graph(x))


def test_folding_a_buffer_leaves_the_module_its_own() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("offset", torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) + self.offset * 2.0

    model = model_of(Shifted(), 4)
    graph = capture(model)
    assert torch.equal(model.module.offset, torch.ones(4))
    x = torch.randn(3, 4)
    assert torch.equal(model.run(x)[0], graph(x))


class SamePaddingConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def test_a_convolution_subclass_that_pads_itself_is_a_convolution() -> None:
    model = model_of(nn.Sequential(SamePaddingConv(3, 4, 3, stride=2), nn.ReLU()), 3, 8, 8)
    graph = capture(model)
    assert [layer_name(n) for n in layers_of(graph)] == ["0"]
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(model.run(x)[0], graph(x))


def test_a_network_that_branches_on_values_is_refused_by_name() -> None:
    net = Net(lambda n, x: n.linear(x) if x.sum() > 0 else x, linear=nn.Linear(4, 4))
    with pytest.raises(CompressError) as caught:
        capture(model_of(net, 4, source="net.pt"))
    message = str(caught.value)
    assert message.startswith("net.pt: torch.export cannot capture this network as one graph: ")
    assert "Remove data-dependent Python control flow from forward()" in message
    assert "set export.dynamic_batch: false" in message


def test_the_module_is_not_touched() -> None:
    net = settled(nn.Sequential(conv(3, 4, 3), nn.BatchNorm2d(4)))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    capture(model_of(net, 3, 8, 8))
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())


def test_node_names_are_the_same_in_two_captures() -> None:
    def names() -> list[str]:
        net = nn.Sequential(conv(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), StandardizedConv(4, 4, 1))
        return [n.name for n in capture(model_of(net, 3, 8, 8)).graph.nodes]

    assert names() == names()


def test_two_inputs_two_outputs_and_any_batch() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return self.a(x) + self.b(y), self.a(x)

    model = Model(Two().eval(), (torch.randn(1, 4), torch.randn(1, 3)), ("x", "y"), ("sum", "a"))
    graph = capture(model)
    inputs = torch.randn(5, 4), torch.randn(5, 3)
    assert all(torch.equal(one, other) for one, other in zip(model.run(*inputs), graph(*inputs), strict=True))
