"""Model: what flows between the passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .form import Form
from .macs import CountsItself, OperatorMacs, macs_text
from .torch_macs import count_macs

if TYPE_CHECKING:
    from torch import Tensor


METRIC_BATCH = 16
"""Samples that a network of any batch size is given at once where all of a part go through it."""
FILE_NAMES = "file_names"
"""Where the `meta` of a module made from a file keeps {name of ours: the file's} of parts that had to be renamed."""


def file_name(module: nn.Module, name: str) -> str:
    """What the file that `module` was made from calls its part `name`, or what belongs to it (`n12.weight`)."""
    names: dict[str, str] = getattr(module, "meta", {}).get(FILE_NAMES, {})
    part, dot, rest = name.partition(".")
    return names.get(part, part) + dot + rest


@dataclass(frozen=True)
class CodedTensor:
    """A float tensor of few values, as a file can store it.

    indices: uint8, of the tensor's shape; values: (n,), at most 256; scale: (channels,), what each slice along `axis`
    is multiplied by, None for 1. trellis: its kind, where the indices are a walk through that of dependent quantization
    in row-major order.
    """

    indices: Tensor
    values: Tensor
    scale: Tensor | None = None
    axis: int | None = None
    trellis: int = 0  # trellis.NONE; that file would bring numba, whose import takes a second

    def tensor(self) -> Tensor:
        """The tensor itself: every machine rounds the one product to the same number."""
        taken = self.values[self.indices.long()]
        if self.scale is None or self.axis is None:
            return taken
        shape = [1] * taken.dim()
        shape[self.axis] = -1
        return taken * self.scale.reshape(shape)


@dataclass(frozen=True)
class Facts:
    """What can be counted without running on a device.

    params: number of weights; macs: multiply-accumulates for one sample, None when any of them cannot be counted;
    bytes: what the weights take when stored at their precision;
    uncounted: what could not be counted, as `fft_r2c in head`; counted: the multiply-accumulates of all the rest.
    """

    params: int
    macs: int | None
    bytes: int
    uncounted: tuple[str, ...] = ()
    counted: int = 0

    @property
    def macs_text(self) -> str:
        """The multiply-accumulates, or how many there are at least and what is unknown."""
        return macs_text(self.macs, self.counted, self.uncounted)


@dataclass(frozen=True)
class Model:
    """A network, with all that is needed to run, export and judge it.

    module: takes `len(input_names)` tensors, returns one tensor or a tuple of `len(output_names)`; in eval mode.
    example_inputs: one tensor per input, shape (batch, ...); the batch is what a static export would have.
    form: what it is made of; whoever makes a model says it.
    dynamic_batch: whether the module accepts any batch size (decided when it is captured).
    onnx_path: the file, when the model was read from ONNX: exported as it is while no pass has changed it.
    original: the float model as ingested; None on the float model itself.
    stored_bytes: bytes of the weights at their stored precision; None means that of their dtypes.
    coded: tensors of the module that hold few values, by name, as a packed file stores them.
    removals: what passes took out, in their order, of the network that a factory makes, each as JSON values of
    `passes/channels/removal.py`. None where no factory makes it, or one graph was made of it: its weights then load
    into nothing that could be made smaller alike. whole: the model before the first that a pass took out here.
    siblings: networks of other sizes that the last pass left of the same training, by their share of the cost.
    """

    module: nn.Module
    example_inputs: tuple[Tensor, ...]
    input_names: tuple[str, ...] = ("input",)
    output_names: tuple[str, ...] = ("logits",)
    form: Form = Form.MODULES
    dynamic_batch: bool = True
    onnx_path: Path | None = None
    original: Model | None = None
    stored_bytes: int | None = None
    coded: Mapping[str, CodedTensor] = field(default_factory=dict, compare=False)
    removals: tuple[Mapping[str, Any], ...] | None = field(default=None, compare=False)
    whole: Model | None = field(default=None, compare=False)
    siblings: Mapping[str, Model] = field(default_factory=dict, compare=False)
    source: str = field(default="", compare=False)

    @property
    def static_batch(self) -> int | None:
        """How many samples the module takes at once, no more and no fewer; None where it takes any number."""
        return None if self.dynamic_batch else int(self.example_inputs[0].shape[0])

    @property
    def float_original(self) -> Model:
        """The model every parity and baseline is taken against."""
        return self.original or self

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs for one batch, without gradients."""
        with torch.no_grad():
            outputs = self.module(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def in_batches(self, size: int = METRIC_BATCH, forward: Forward | None = None) -> tuple[Forward, int]:
        """What takes batches of a part of any length, short last ones included, and how large they are to be.

        That is `size`, or the static batch. forward: what runs in the network's place, an engine or the network with
        other weights; by default `run`.
        """
        one, exact = forward or self.run, self.static_batch
        return (one, size) if exact is None else (padded(one, exact), exact)

    def facts(self) -> Facts:
        """Count parameters, multiply-accumulates of one sample, and stored bytes."""
        params = sum(p.numel() for p in self.module.parameters())
        size = sum(t.numel() * t.element_size() for t in self.module.state_dict().values())
        found = self.operator_macs()
        counted = sum(one.macs for one in found if one.macs is not None)
        uncounted = tuple(dict.fromkeys(str(one) for one in found if one.macs is None))
        stored = self.stored_bytes if self.stored_bytes is not None else size
        return Facts(params, None if uncounted else counted, stored, uncounted, counted)

    def operator_macs(self) -> list[OperatorMacs]:
        """Multiply-accumulates of one sample, of each operator that has any, or may have."""
        if isinstance(self.module, CountsItself):
            return self.module.operator_macs()
        return count_macs(self.module, self.example_inputs)

    def with_static_batch(self) -> Model:
        """The same model, to be captured and exported for the batch of its example inputs only."""
        return replace(self, dynamic_batch=False)

    def successor(self, module: nn.Module, form: Form, **changes: object) -> Model:
        """The model a pass made from this one; it remembers the float original and is no longer the ONNX file."""
        fresh: dict[str, object] = {
            "onnx_path": None,
            "original": self.float_original,
            "coded": {},
            "siblings": {},
        }
        if form is not Form.MODULES:
            fresh |= {"removals": None, "whole": None}
        return replace(self, module=module, form=form, **fresh | changes)  # type: ignore[arg-type]

    def smaller(self, module: nn.Module, removal: Mapping[str, Any]) -> Model:
        """The successor that a pass made by taking `removal` out of the network."""
        removals = None if self.removals is None else (*self.removals, removal)
        return self.successor(module, self.form, removals=removals, whole=self.whole or self)


Forward = Callable[..., tuple["Tensor", ...]]
"""Runs a batch: tensors in, a tuple of output tensors out. An eager model or an engine."""


def padded(forward: Forward, batch: int) -> Forward:
    """`forward` for a network that takes exactly `batch` samples: a short last batch is filled up and cut again."""

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        missing = batch - inputs[0].shape[0]
        if missing == 0:
            return tuple(forward(*inputs))
        filled = tuple(torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) for x in inputs)
        return tuple(y[: batch - missing] for y in forward(*filled))

    return run
