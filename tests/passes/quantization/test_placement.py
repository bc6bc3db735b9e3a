"""Placement: which tensors of a network are quantized. A table: the network, then the tensors by name."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from edgepress.model import Model
from edgepress.passes.graph.capture import capture
from edgepress.passes.quantization.placement import BOTH_ADDENDS, Placement, place
from quantization_nets import Net, model_of
from torch import Tensor, fx, nn


def placed(
    module: nn.Module, *shape: int, keep_float: Mapping[str, str] = {}, **options: object
) -> Placement:
    return readable(capture(model_of(module, *shape, **options)), keep_float)


def readable(graph: fx.GraphModule, keep_float: Mapping[str, str] = {}) -> Placement:
    """The placement, with operators and counts (relu, relu#2) for node names, which torch versions change."""
    counts: Counter[str] = Counter()
    names = {}
    for node in graph.graph.nodes:
        kind = "input" if node.op == "placeholder" else str(node.target).removeprefix("aten.").split(".")[0]
        kind = "piece" if node.target is operator.getitem else kind
        counts[kind] += 1
        names[node.name] = kind if counts[kind] == 1 else f"{kind}#{counts[kind]}"
    placement = place(graph, keep_float)
    return replace(placement, activations=tuple(names[n] for n in placement.activations))


def test_runtimes_may_ask_for_both_addends_where_one_is_an_identity():
    identity = capture(model_of(Net(residual, **convs("stem", "one", "two", "last")), 4, 8, 8))
    identity.meta[BOTH_ADDENDS] = True
    assert quantized(readable(identity)) == ["conv2d#3", "input", "relu", "relu#2", "relu#3"]
    two_convolutions = capture(model_of(Net(downsampled, **convs("one", "two", "down", "last")), 4, 8, 8))
    two_convolutions.meta[BOTH_ADDENDS] = True
    assert quantized(readable(two_convolutions)) == ["conv2d#2", "input", "relu", "relu#2"]


def quantized(placement: Placement) -> list[str]:
    return sorted(placement.activations)


def weights(placement: Placement) -> list[str]:
    return [site.tensor for site in placement.weights]


def reasons(placement: Placement) -> dict[str, str]:
    return {c.layer: c.reason for c in placement.coverage}


# Must leave alone


def einsum(net: Net, x: Tensor) -> Tensor:
    return net.head(torch.einsum("bcl,cd->bdl", x, net.mix.weight).flatten(1))


def dynamic_weight(net: Net, x: Tensor) -> Tensor:
    return F.conv2d(x, net.make(x.mean((0, 2, 3))).reshape(2, 3, 1, 1))


def test_a_network_without_layers_has_nothing_to_quantize() -> None:
    placement = placed(nn.Sequential(nn.LayerNorm(4), nn.GELU(), nn.Softmax(-1)), 4)
    assert placement == Placement((), (), ())
    assert placement.int8_macs == 0.0


def test_integer_inputs_and_embeddings_stay_as_they_are() -> None:
    net = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
    placement = readable(capture(Model(net.eval(), (torch.tensor([[1, 2, 3]]),))))
    assert quantized(placement) == ["embedding"]
    assert weights(placement) == ["1.weight"]


def test_einsum_stays_float_and_says_why() -> None:
    placement = placed(Net(einsum, mix=nn.Linear(5, 3), head=nn.Linear(20, 2)), 3, 4)
    assert reasons(placement) == {"einsum": "einsum has no INT8 kernel; write it as matmul", "head": ""}
    assert weights(placement) == ["head.weight"]


def test_a_weight_computed_from_activations_stays_float_and_says_why() -> None:
    placement = placed(Net(dynamic_weight, make=nn.Linear(3, 6)), 3, 4, 4)
    assert reasons(placement)["conv2d"] == (
        "its weight is computed from activations, so it cannot be stored as INT8"
    )
    assert weights(placement) == ["make.weight"]


def test_causal_attention_stays_float_and_says_why() -> None:
    net = Net(
        lambda n, x: F.scaled_dot_product_attention(n.q(x), n.k(x), n.v(x), is_causal=True),
        **{name: nn.Linear(4, 4) for name in "qkv"},
    )
    placement = placed(net, 6, 4)
    assert set(reasons(placement).values()) == {"", "causal or grouped-query attention stays fused"}
    assert quantized(placement) == ["input"]


def test_a_grouped_transposed_convolution_stays_float_and_says_why() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(4, 4, 2, groups=2), nn.ConvTranspose2d(4, 6, 2, dilation=2))
    placement = placed(net, 4, 5, 5)
    assert reasons(placement) == {
        "0": "a grouped transposed convolution has no per-channel INT8 form",
        "1": "",
    }
    assert [(site.tensor, site.axis) for site in placement.weights] == [("1.weight", 1)]


def test_the_output_of_a_recurrent_layer_is_quantized_where_a_layer_reads_it() -> None:
    net = Net(lambda n, x: n.head(n.lstm(x)[0]), lstm=nn.LSTM(4, 3, batch_first=True), head=nn.Linear(3, 2))
    placement = placed(net, 5, 4, dynamic_batch=False)
    assert weights(placement) == ["head.weight"]
    assert len(placement.activations) == 1
    assert "recurrent layers have no INT8 Q/DQ form" in reasons(placement).values()


# Convolutional networks


def residual(net: Net, x: Tensor) -> Tensor:
    x = F.relu(net.stem(x))
    x = F.relu(net.two(F.relu(net.one(x))) + x)
    return net.last(x)


def downsampled(net: Net, x: Tensor) -> Tensor:
    x = F.relu(net.two(F.relu(net.one(x))) + net.down(x))
    return net.last(x)


def gated(net: Net, x: Tensor) -> Tensor:
    x = F.silu(net.stem(x))
    gate = torch.sigmoid(net.expand(F.silu(net.squeeze(F.adaptive_avg_pool2d(x, 1)))))
    return net.last(x * gate)


def concatenated(net: Net, x: Tensor) -> Tensor:
    return net.last(torch.cat([F.relu(net.one(x)), F.relu(net.two(x))], 1))


def pooled(net: Net, x: Tensor) -> Tensor:
    return net.head(F.relu(net.conv(x)).mean((2, 3)))


def convs(*names: str) -> dict[str, nn.Module]:
    return {name: nn.Conv2d(4, 4, 3, padding=1) for name in names}


CONVOLUTIONAL = {
    "each tensor a convolution reads, after its activation; not the output": (
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU()),
        ["input", "relu"],
    ),
    "through pooling and reshaping, at the producer": (
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 2)),
        ["input", "relu"],
    ),
    "depthwise is like any other": (
        nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU6(), nn.Conv2d(4, 2, 1)),
        ["hardtanh", "input"],
    ),
    # stem's relu is the skip: once, for both its readers; conv2d#3 goes into the accumulator and stays float
    "a residual's skip once; the convolution alone before the addition stays": (
        Net(residual, **convs("stem", "one", "two", "last")),
        ["input", "relu", "relu#2", "relu#3"],
    ),
    "of two convolutions added, the first": (
        Net(downsampled, **convs("one", "two", "down", "last")),
        ["conv2d#2", "input", "relu", "relu#2"],
    ),
    # silu: the stem's activation, which the gate's pooling also reads; sigmoid is not among them
    "a gate stays float, what it scales does not": (
        Net(
            gated,
            stem=nn.Conv2d(4, 8, 3),
            squeeze=nn.Conv2d(8, 2, 1),
            expand=nn.Conv2d(2, 8, 1),
            last=nn.Conv2d(8, 4, 1),
        ),
        ["adaptive_avg_pool2d", "input", "mul", "silu", "silu#2"],
    ),
    "a concatenation, not its branches: they have ranges of their own": (
        Net(
            concatenated,
            one=nn.Conv2d(4, 4, 3, padding=1),
            two=nn.Conv2d(4, 4, 1),
            last=nn.Conv2d(8, 4, 1),
        ),
        ["cat", "input"],
    ),
    "a pool before the head, and what it averages": (
        Net(pooled, conv=nn.Conv2d(4, 8, 3), head=nn.Linear(8, 2)),
        ["input", "mean", "relu"],
    ),
    "padding with zeros moves values": (
        Net(lambda n, x: n.two(F.pad(F.relu(n.one(x)), (1, 1))), **convs("one", "two")),
        ["input", "relu"],
    ),
    "padding with another value makes a tensor of its own": (
        Net(lambda n, x: n.two(F.pad(F.relu(n.one(x)), (1, 1), value=1.0)), **convs("one", "two")),
        ["input", "pad"],
    ),
}


@pytest.mark.parametrize("case", CONVOLUTIONAL)
def test_convolutional_networks(case: str) -> None:
    module, expected = CONVOLUTIONAL[case]
    placement = placed(module, 4, 8, 8)
    assert quantized(placement) == expected
    assert placement.coverage and all(c.quantized for c in placement.coverage)
    assert placement.int8_macs == 1.0


# Transformers


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        x = x + self.proj(attended)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def test_a_pre_norm_transformer_keeps_its_residual_stream_norms_and_softmax_input_in_float() -> None:
    placement = placed(nn.Sequential(Block(), Block()), 6, 8)
    one_block = ["gelu", "layer_norm", "layer_norm#2", "matmul#2", "piece", "piece#2", "piece#3", "softmax"]
    second = [
        "gelu#2",
        "layer_norm#3",
        "layer_norm#4",
        "matmul#4",
        "piece#4",
        "piece#5",
        "piece#6",
        "softmax#2",
    ]
    # The pieces are query, key and value, which come out of one layer with ranges of their own.
    assert quantized(placement) == sorted(one_block + second)
    assert [c.layer for c in placement.coverage][:6] == [
        "0.qkv",
        "0.scores",
        "0.values",
        "0.proj",
        "0.fc1",
        "0.fc2",
    ]
    assert placement.int8_macs == 1.0


def test_macs_are_those_of_one_sample_whatever_the_batch() -> None:
    # qkv 6·8·24, scores 2·6·6·4, values 2·6·6·4, proj 6·8·8, fc1 and fc2 6·8·16
    expected = [1152, 288, 288, 384, 768, 768]
    assert [c.macs for c in placed(Block(), 6, 8).coverage] == expected
    static = Model(Block().eval(), (torch.randn(3, 6, 8),), dynamic_batch=False)
    assert [c.macs for c in place(capture(static)).coverage] == expected


def test_macs_of_windows_count_all_windows_of_a_sample() -> None:
    net = Net(lambda n, x: n.linear(x.reshape(-1, 4, 8)).reshape(-1, 16, 5), linear=nn.Linear(8, 5))
    assert [c.macs for c in placed(net, 16, 8).coverage] == [16 * 8 * 5]


def test_macs_of_convolutions() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ConvTranspose2d(8, 2, 2, stride=2))
    # 8 channels of 6x6, 2 inputs and 9 taps each; 8 channels of 6x6 times 2 outputs and 4 taps
    assert [c.macs for c in placed(net, 4, 8, 8).coverage] == [8 * 36 * 18, 8 * 36 * 8]


def test_a_constant_operand_of_matmul_is_a_weight_with_scales_along_its_outputs() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.right, self.left = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(5, 6))

        def forward(self, x: Tensor) -> Tensor:  # (batch, 6, 4)
            return torch.matmul(self.left, torch.matmul(x, self.right))

    placement = placed(Product(), 6, 4)
    assert [(site.tensor, site.axis) for site in placement.weights] == [("right", 1), ("left", 0)]


def test_layers_kept_in_float_demand_nothing_and_say_so() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    placement = placed(net, 4, 8, 8, keep_float={"2": "too dear"})
    assert quantized(placement) == ["input", "relu#2"]
    assert weights(placement) == ["0.weight", "4.weight"]
    assert reasons(placement) == {"0": "", "2": "too dear", "4": ""}
    assert placement.int8_macs == pytest.approx((6 * 6 + 2 * 2) / (6 * 6 + 4 * 4 + 2 * 2))
