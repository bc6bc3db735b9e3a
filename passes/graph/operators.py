"""The operators of a canonical graph, in the groups that the passes ask for, and access to its tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

aten = torch.ops.aten

CONVOLUTIONS = (
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
)
MATMULS = (aten.matmul.default, aten.bmm.default, aten.mm.default)
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
WEIGHTED = (*CONVOLUTIONS, *TRANSPOSED, aten.linear.default)
NEVER_INT8 = {
    aten.einsum.default: "einsum has no INT8 kernel; write it as matmul",
    aten.lstm.input: "recurrent layers have no INT8 Q/DQ form",
    aten.gru.input: "recurrent layers have no INT8 Q/DQ form",
    aten.rnn_tanh.input: "recurrent layers have no INT8 Q/DQ form",
    aten.rnn_relu.input: "recurrent layers have no INT8 Q/DQ form",
    aten.baddbmm.default: "baddbmm has no Q/DQ form; write it as matmul and add",
    aten.addmm.default: "addmm has no Q/DQ form; write it as linear",
    aten.scaled_dot_product_attention.default: "causal or grouped-query attention stays fused",
}

# Their outputs hold values of their inputs (or zeros), so the grid of the input is the grid of the output.
MOVES = {
    getattr(packet, name)
    for packet, names in {
        aten.view: ("default",), aten.reshape: ("default",), aten._unsafe_view: ("default",),
        aten.flatten: ("using_ints",), aten.unflatten: ("int",), aten.contiguous: ("default",),
        aten.permute: ("default",), aten.transpose: ("int",), aten.t: ("default",),
        aten.movedim: ("int", "intlist"), aten.squeeze: ("default", "dim", "dims"), aten.clone: ("default",),
        aten.unsqueeze: ("default",), aten.slice: ("Tensor",), aten.select: ("int",), aten.narrow: ("int",),
        aten.chunk: ("default",), aten.split: ("Tensor",), aten.split_with_sizes: ("default",),
        aten.unbind: ("int",), aten.expand: ("default",), aten.repeat: ("default",), aten.roll: ("default",),
        aten.max_pool1d: ("default",), aten.max_pool2d: ("default",),
        aten.pixel_shuffle: ("default",), aten.pixel_unshuffle: ("default",), aten.pad: ("default",),
        aten.channel_shuffle: ("default",), aten.swapaxes: ("default",), aten.constant_pad_nd: ("default",),
        aten.upsample_nearest2d: ("default", "vec"),
    }.items()
    for name in names
    if hasattr(packet, name)
}  # fmt: skip

PIECES = (
    aten.select.int,
)  # what it takes out is quantized by itself, as is what `getitem` takes out of a split

ACTIVATIONS = (
    aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.silu.default, aten.hardswish.default,
    aten.gelu.default, aten.sigmoid.default, aten.hardsigmoid.default, aten.leaky_relu.default,
    aten.elu.default, aten.selu.default, aten.mish.default, aten.tanh.default, aten.prelu.default,
    aten.clamp.default, aten.clamp_min.default, aten.softplus.default,
)  # fmt: skip
SOFTMAXES = (aten.softmax.int, aten._softmax.default)
ADDITIONS = (aten.add.Tensor, aten.sub.Tensor)
MULTIPLICATIONS = (aten.mul.Tensor,)
AVERAGES = (aten.adaptive_avg_pool2d.default, aten.avg_pool2d.default, aten.mean.dim)


def operand(node: fx.Node, index: int) -> fx.Node:
    """The argument at `index`, which the operator's schema says is a tensor."""
    argument = node.args[index]
    assert isinstance(argument, fx.Node)
    return argument


def optional_operand(node: fx.Node, index: int) -> fx.Node | None:
    """The argument at `index`; None when it is left out (a layer without bias)."""
    argument = node.args[index] if len(node.args) > index else None
    assert argument is None or isinstance(argument, fx.Node)
    return argument


def owner_of(node: fx.Node) -> str:
    """The path of the module whose forward() called the operator, "" when it is not known."""
    stack = node.meta.get("nn_module_stack") or {}
    path, _ = list(stack.values())[-1] if stack else ("", None)
    return str(path).removeprefix("L['self'].").replace("L['self']", "")


def channel_axis(layer: fx.Node) -> int:
    """The axis of a convolution's or linear layer's inputs and outputs that holds their channels, from the end."""
    if layer.target in CONVOLUTIONS:
        return 1 - int(operand(layer, 1).meta["val"].dim())
    return -1


def groups_of(layer: fx.Node) -> int:
    """The groups of a convolution, transposed or not; 1 for every other layer."""
    if layer.target not in (*CONVOLUTIONS, *TRANSPOSED):
        return 1
    # Argument 6 of both kinds: (…, dilation, groups) and, transposed, (…, output_padding, groups, dilation).
    groups = layer.args[6] if len(layer.args) > 6 else 1
    assert isinstance(groups, int)
    return groups


def along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """A vector shaped to broadcast along one axis of a tensor with `rank` axes."""
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)


def channels_first(value: Tensor, axis: int) -> Tensor:
    """The tensor as a matrix of shape (channels, the rest)."""
    return value.movedim(axis, 0).reshape(value.shape[axis], -1)


def named_arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments of an operator call by name, defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema.arguments
    named = {argument.name: argument.default_value for argument in schema}
    named.update(zip((argument.name for argument in schema), node.args, strict=False))
    named.update(node.kwargs)
    return named


def get_tensor(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer at a dotted name."""
    owner_name, _, attribute = name.rpartition(".")
    value = getattr(module.get_submodule(owner_name), attribute)
    assert isinstance(value, Tensor)
    return value.detach()


def set_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Replace or add the tensor at a dotted name; a buffer stays a buffer, what is new is a parameter."""
    owner_name, _, attribute = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    if attribute in owner._buffers:
        owner._buffers[attribute] = value
    else:
        setattr(owner, attribute, nn.Parameter(value, requires_grad=False))
