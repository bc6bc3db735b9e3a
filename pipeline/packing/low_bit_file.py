"""Packed weights: those of few bits at their bits, in one safetensors file whose bytes can be counted.

A weight of b bits is a string of b-bit levels, most significant bit first, with its points, and α and β of each
bucket; an INT8 weight its integers and scales; all else as it is. The graph itself is the ONNX file beside it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, fx

from ...errors import CompressError
from ...model import Model
from ...passes.graph.operators import along
from ...passes.quantization.bucket_quantizers import LearnedWeights, UniformWeights
from ...passes.quantization.buckets import Levels
from ...passes.quantization.quantizers import WeightQuantizer, of_quantizer, weight_quantizers_of
from ..files import write_atomically

PARTS = ("points", "alpha", "beta", "floor")


def write_packed(model: Model, path: Path) -> Path | None:
    """Write the weights of a model that has some of fewer than 8 bits; None for every other model.

    The file is read back and compared; CompressError when it does not hold the very weights that run.
    """
    graph = model.module
    if not isinstance(graph, fx.GraphModule):
        return None
    quantizers = weight_quantizers_of(graph)
    if not any(isinstance(q, UniformWeights | LearnedWeights) for q in quantizers.values()):
        return None
    tensors: dict[str, Tensor] = {}
    packed: dict[str, Any] = {}
    for name, tensor in [*graph.named_parameters(), *graph.named_buffers()]:
        quantizer = quantizers.get(name)
        if of_quantizer(name):
            continue
        if quantizer is None:
            tensors[name] = tensor.detach().clone().contiguous()
        elif isinstance(quantizer, WeightQuantizer):
            tensors[f"{name}.int8"], tensors[f"{name}.scale"] = quantizer.int8(tensor)
            packed[name] = {"axis": quantizer.axis}
        else:
            stored = quantizer.levels(tensor)
            tensors[f"{name}.levels"] = pack_bits(stored.levels, quantizer.bits)
            tensors |= {f"{name}.{part}": getattr(stored, part).detach().clone() for part in PARTS}
            packed[name] = _layout(stored, quantizer.bits)
    write_atomically(path, save(tensors, {"packed": json.dumps(packed, sort_keys=True)}))
    _require_same(path, {name: q(graph.get_parameter(name)).detach() for name, q in quantizers.items()})
    return path


def read_packed(path: Path) -> dict[str, Tensor]:
    """Every tensor of a packed file by name, weights as the float values that run."""
    with safe_open(path, framework="pt") as file:
        packed = json.loads(file.metadata()["packed"])
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights: dict[str, Tensor] = {}
    for name, layout in packed.items():
        if "bits" not in layout:
            integers, scale = held.pop(f"{name}.int8"), held.pop(f"{name}.scale")
            weights[name] = integers.float() * along(scale, layout["axis"], integers.dim())
            continue
        points, alpha, beta, floor = (held.pop(f"{name}.{part}") for part in PARTS)
        shape = torch.Size(layout["shape"])
        levels = unpack_bits(held.pop(f"{name}.levels"), layout["bits"], layout["count"]).reshape(
            len(alpha), -1
        )
        stored = Levels(
            levels, points, alpha, beta, shape, layout["axis"], layout["bucket"], floor, layout["limit"]
        )
        weights[name] = stored.values()
    return held | weights


def pack_bits(levels: Tensor, bits: int) -> Tensor:
    """Levels below 2^bits as a string of bits, most significant first: uint8, (ceil(bits · levels / 8),)."""
    eight = np.unpackbits(levels.numpy().astype(np.uint8).reshape(-1, 1), axis=1)
    return torch.from_numpy(np.packbits(eight[:, 8 - bits :]))


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `pack_bits`: `count` levels, int64."""
    eight = np.zeros((count, 8), dtype=np.uint8)
    eight[:, 8 - bits :] = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
    return torch.from_numpy(np.packbits(eight, axis=1).reshape(-1).astype(np.int64))


def _layout(stored: Levels, bits: int) -> dict[str, Any]:
    return {
        "bits": bits,
        "count": math.prod(stored.levels.shape),
        "shape": list(stored.shape),
        "axis": stored.axis,
        "bucket": stored.bucket,
        "limit": stored.limit,
    }


def _require_same(path: Path, expected: dict[str, Tensor]) -> None:
    found = read_packed(path)
    if wrong := [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]:
        raise CompressError(
            f"{path.name}: does not decode to the weights that run, of {', '.join(wrong)}; report this"
        )
