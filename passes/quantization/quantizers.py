"""Fake quantizers, made of Brevitas' core modules, and their place in a captured graph.

They attach to tensors of the graph, not to module types, so any subclass or functional call is served alike.
Scales are parameters: quantization-aware training can learn them; post-training only sets them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from brevitas.core.function_wrapper import Identity, RoundSte, TensorClamp
from brevitas.core.quant import IntQuant
from torch import Tensor, fx, nn

from .operators import WEIGHTED, along, get_tensor, operand, optional_operand
from .placement import Placement, WeightSite, source_of

BIAS_LIMIT = 2.0**30  # half of int32: bias correction still moves it
WEIGHT_LIMIT = 127  # symmetric weights leave -128 unused, so that negation is exact


@dataclass(frozen=True)
class Grid:
    """An 8-bit grid: real = scale * (integer - zero_point), integers in [0, 255] or [-128, 127]."""

    scale: float
    zero_point: int = 0
    unsigned: bool = False

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest integer."""
        return (0, 255) if self.unsigned else (-128, 127)


class ActivationQuantizer(nn.Module):
    """Rounds a tensor to its grid; `enabled = False` passes it through, to judge layers one by one."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.enabled = True
        self.scale = nn.Parameter(torch.tensor(grid.scale), requires_grad=False)
        self.register_buffer("zero_point", torch.tensor(float(grid.zero_point)))
        self.register_buffer("bit_width", torch.tensor(8.0))
        self.quant = IntQuant(
            narrow_range=False,
            signed=not grid.unsigned,
            input_view_impl=Identity(),
            float_to_int_impl=RoundSte(),
            tensor_clamp_impl=TensorClamp(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`x` of any shape, rounded; the gradient passes straight through inside the range."""
        if not self.enabled:
            return x
        return self.quant(self.scale, self.zero_point, self.bit_width, x)  # type: ignore[no-any-return]


class WeightQuantizer(nn.Module):
    """Rounds a weight to signed integers of magnitude at most 127, with one scale per output channel."""

    def __init__(self, scale: Tensor, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.enabled = True
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.register_buffer("zero_point", torch.tensor(0.0))
        self.register_buffer("bit_width", torch.tensor(8.0))
        self.quant = IntQuant(
            narrow_range=True,
            signed=True,
            input_view_impl=Identity(),
            float_to_int_impl=RoundSte(),
            tensor_clamp_impl=TensorClamp(),
        )

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight, same shape."""
        if not self.enabled:
            return weight
        return self.quant(self.channelwise_scale(weight), self.zero_point, self.bit_width, weight)  # type: ignore[no-any-return]

    def channelwise_scale(self, weight: Tensor) -> Tensor:
        """The scales, shaped to broadcast over `weight`."""
        return along(self.scale, self.axis, weight.dim())

    def integers(self, weight: Tensor) -> Tensor:
        """The stored form of the weight: int8, same shape."""
        scaled = weight.detach() / self.channelwise_scale(weight)
        return scaled.round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT).to(torch.int8)


def weight_scale(weight: Tensor, axis: int) -> Tensor:
    """max |w| / 127 per channel along `axis`, shape (channels,); a channel of zeros gets the largest."""
    scale = weight.abs().amax(dim=[d for d in range(weight.dim()) if d != axis]) / WEIGHT_LIMIT
    largest = scale.max() if bool(scale.any()) else torch.ones(())
    return torch.where(scale > 0, scale, largest)


def weight_scales(
    module: fx.GraphModule, placement: Placement, grids: Mapping[str, Grid]
) -> dict[str, Tensor]:
    """The scales of all weights, by tensor name; wide enough for each layer's bias.

    onnxruntime stores a bias as an int32 multiple of activation scale times weight scale. The bias of a dead
    channel (BatchNorm folding leaves many) overflows it under the channel's own tiny scale, and the output is
    silently wrong. Where a bias is 2^30 such multiples, what a wider scale rounds away is nothing beside it.
    """
    scales = {s.tensor: weight_scale(get_tensor(module, s.tensor), s.axis) for s in placement.weights}
    for node in module.graph.nodes:
        weight = str(operand(node, 1).target) if node.target in WEIGHTED else ""
        bias = optional_operand(node, 2) if weight in scales else None
        grid = grids.get(source_of(operand(node, 0)).name) if bias is not None else None
        if bias is not None and bias.op == "get_attr" and grid is not None:
            smallest = get_tensor(module, str(bias.target)).abs() / (BIAS_LIMIT * grid.scale)
            scales[weight] = torch.maximum(scales[weight], smallest)
    return scales


def insert_quantizers(
    module: fx.GraphModule, placement: Placement, grids: Mapping[str, Grid], scales: Mapping[str, Tensor]
) -> fx.GraphModule:
    """A copy of the canonical graph with quantizers in it.

    grids: by node name; scales: by weight tensor name, shape (channels,).
    """
    quantized = copy.deepcopy(module)
    nodes = {node.name: node for node in quantized.graph.nodes}
    for index, node_name in enumerate(placement.activations):
        name = f"activation_quantizer_{index}"
        quantized.add_submodule(name, ActivationQuantizer(grids[node_name]))
        _quantize_output(quantized, nodes[node_name], name)
    for index, site in enumerate(placement.weights):
        name = f"weight_quantizer_{index}"
        quantized.add_submodule(name, WeightQuantizer(scales[site.tensor], site.axis))
        for node in [n for n in nodes.values() if n.op == "get_attr" and n.target == site.tensor]:
            _quantize_output(quantized, node, name)
    quantized.recompile()
    return quantized


def _quantize_output(module: fx.GraphModule, node: fx.Node, quantizer: str) -> None:
    with module.graph.inserting_after(node):
        rounded = module.graph.call_module(quantizer, (node,))
    rounded.meta.update({key: node.meta[key] for key in ("val",) if key in node.meta})
    # Sizes are read from the float tensor; the network's own output is not rounded.
    node.replace_all_uses_with(
        rounded, delete_user_cb=lambda user: user is not rounded and not _reads_float(user)
    )


def _reads_float(node: fx.Node) -> bool:
    return node.op == "output" or node.target is torch.ops.aten.sym_size.int


def of_quantizer(name: str) -> bool:
    """Whether a tensor of a quantized graph belongs to a quantizer, by its name."""
    return name.startswith(("activation_quantizer_", "weight_quantizer_"))


def quantizers_of(module: nn.Module) -> dict[str, ActivationQuantizer | WeightQuantizer]:
    """All quantizers in a module, by name."""
    return {n: m for n, m in module.named_modules() if isinstance(m, (ActivationQuantizer, WeightQuantizer))}


def stored_bytes(module: fx.GraphModule, weights: tuple[WeightSite, ...]) -> int:
    """Bytes of all tensors when quantized weights are stored as int8 with a float32 scale per channel."""
    quantized = {site.tensor: site for site in weights}
    total = 0
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if of_quantizer(name):
            continue
        if name in quantized:
            total += tensor.numel() + 4 * tensor.shape[quantized[name].axis]
        else:
            total += tensor.numel() * tensor.element_size()
    return total
