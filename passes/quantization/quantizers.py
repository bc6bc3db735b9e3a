"""Fake quantizers, made of Brevitas' core modules, and their place in a captured graph.

They attach to tensors of the graph, not to module types, so any subclass or functional call is served alike.
Scales are parameters: quantization-aware training can learn them; post-training only sets them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from brevitas.core.function_wrapper import Identity, RoundSte, TensorClamp
from brevitas.core.quant import IntQuant
from torch import Tensor, fx, nn

from ..graph.operators import WEIGHTED, along, get_tensor, operand, optional_operand
from .bucket_quantizers import LearnedWeights, UniformWeights, weight_bytes
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

    zero_point: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.enabled = True
        self.scale = nn.Parameter(torch.tensor(grid.scale), requires_grad=False)
        self.register_buffer("zero_point", torch.tensor(float(grid.zero_point)))

    def forward(self, x: Tensor) -> Tensor:
        """`x` of any shape, rounded, halves to even; the gradient passes straight through inside the range."""
        if not self.enabled:
            return x
        low, high = self.grid.limits
        if torch.is_grad_enabled() and (x.requires_grad or self.scale.requires_grad):
            # Training spends most of its time here: one kernel, whose gradients are those of LSQ (Esser et al. 2020).
            # But for halves, which fall to either side, its values are those below.
            return torch._fake_quantize_learnable_per_tensor_affine(
                x.float(), self.scale.reshape(1), self.zero_point.reshape(1), low, high, 1.0
            )
        point = self.grid.zero_point  # taken off the limits: the integers are those of ONNX, less it
        return (x / self.scale).round_().clamp_(low - point, high - point).mul_(self.scale)


class WeightQuantizer(nn.Module):
    """Rounds a weight to signed integers of magnitude at most 127, with one scale per output channel.

    least: what each scale must not fall below while weights are trained, (channels,); limit: the integers that
    they are then made for.
    """

    least: Tensor
    limit: int = WEIGHT_LIMIT

    def __init__(self, scale: Tensor, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.enabled = True
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.register_buffer("least", torch.zeros_like(scale))
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

    def int8(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The stored form of the weight: int8 of the same shape, and the scales, (channels,)."""
        scaled = weight.detach() / self.channelwise_scale(weight)
        integers = scaled.round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT).to(torch.int8)
        return integers, self.scale.detach().clone()


def weight_scale(weight: Tensor, axis: int, limit: int = WEIGHT_LIMIT) -> Tensor:
    """max |w| / limit per channel along `axis`, shape (channels,); a channel of zeros gets the largest."""
    scale = weight.abs().amax(dim=[d for d in range(weight.dim()) if d != axis]) / limit
    largest = scale.max() if bool(scale.any()) else torch.ones(())
    return torch.where(scale > 0, scale, largest)


def weight_scales(
    module: fx.GraphModule, placement: Placement, grids: Mapping[str, Grid], limit: int = WEIGHT_LIMIT
) -> dict[str, Tensor]:
    """The scales of all weights, by tensor name; wide enough for each layer's bias, and for integers up to `limit`.

    onnxruntime stores a bias as an int32 multiple of activation scale times weight scale. The bias of a dead
    channel (BatchNorm folding leaves many) overflows it under the channel's own tiny scale, and the output is
    silently wrong. Where a bias is 2^30 such multiples, what a wider scale rounds away is nothing beside it.
    """
    scales = {s.tensor: weight_scale(get_tensor(module, s.tensor), s.axis, limit) for s in placement.weights}
    for node in module.graph.nodes:
        weight = str(operand(node, 1).target) if node.target in WEIGHTED else ""
        bias = optional_operand(node, 2) if weight in scales else None
        grid = grids.get(source_of(operand(node, 0)).name) if bias is not None else None
        if bias is not None and bias.op == "get_attr" and grid is not None:
            smallest = get_tensor(module, str(bias.target)).abs() / (BIAS_LIMIT * grid.scale)
            scales[weight] = torch.maximum(scales[weight], smallest)
    return scales


AnyWeightQuantizer = WeightQuantizer | UniformWeights | LearnedWeights
MakeWeightQuantizer = Callable[[WeightSite, Tensor], AnyWeightQuantizer]
"""A quantizer for a weight, from its place and its scales."""


def eight_bits(site: WeightSite, scale: Tensor) -> WeightQuantizer:
    """The quantizer of INT8 weights."""
    return WeightQuantizer(scale, site.axis)


def insert_quantizers(
    module: fx.GraphModule,
    placement: Placement,
    grids: Mapping[str, Grid],
    scales: Mapping[str, Tensor],
    weight_quantizer: MakeWeightQuantizer = eight_bits,
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
        quantized.add_submodule(name, weight_quantizer(site, scales[site.tensor]))
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


def quantizers_of(module: nn.Module) -> dict[str, ActivationQuantizer | AnyWeightQuantizer]:
    """All quantizers in a module, by name."""
    kinds = (ActivationQuantizer, WeightQuantizer, UniformWeights, LearnedWeights)
    return {n: m for n, m in module.named_modules() if isinstance(m, kinds)}


def weight_quantizers_of(module: fx.GraphModule) -> dict[str, AnyWeightQuantizer]:
    """The weight quantizers of a graph, by the name of the tensor that each rounds."""
    quantizers = quantizers_of(module)
    calls = [n for n in module.graph.nodes if n.op == "call_module" and str(n.target) in quantizers]
    found = {str(operand(node, 0).target): quantizers[str(node.target)] for node in calls}
    return {name: q for name, q in found.items() if not isinstance(q, ActivationQuantizer)}


def stored_bytes(module: fx.GraphModule) -> int:
    """Bytes of all tensors when quantized weights are stored at their bits, with their scales and points."""
    quantizers = weight_quantizers_of(module)
    total = 0
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if of_quantizer(name):
            continue
        quantizer = quantizers.get(name)
        if quantizer is None:
            total += tensor.numel() * tensor.element_size()
        elif isinstance(quantizer, WeightQuantizer):
            total += tensor.numel() + 4 * tensor.shape[quantizer.axis]
        else:
            total += weight_bytes(quantizer, tensor)[0]
    return total
