"""The latency of a network as a function of its widths: a table of what its layers take on one device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..errors import CompressError
from ..record import Count, Milliseconds, Record, read_record
from ..text import short

SCHEMA_VERSION = 1
MAX_BYTES = 64 << 20
"""Most bytes of a file that is read as a table; one of a thousand layers and a hundred probes has 10 MB."""
SHOWN = 4
"""Layers that an error names."""
HINT = "measure one of this network by `compress tabulate`"
UNKNOWN = -1.0
"""The width of a side that cannot be made smaller, as of an attention whose heads are not known: it counts as whole."""
ROUNDING = 1e-6
"""Of a width that is a sum of gates."""
Known = Annotated[Milliseconds, Field(allow_inf_nan=False)]
"""Milliseconds, or a ratio of two, that were measured or fitted: never NaN."""
Precision = Literal["int8", "float"]
Steps = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Size = tuple[int, int, int]
"""A layer's inputs and outputs, and the multiply-accumulates of a sample; each 0 where it is not known."""
Widths = Mapping[str, tuple[Tensor, Tensor, Tensor]]
"""Layer -> how many of its inputs and of its outputs are open, and how far it is there, from 0 to 1."""


class LayerLatency(Record, frozen=True):
    """What a layer takes, in ms, as a sum of parts: `fixed` whatever its widths are, the others at full width.

    With the shares x of its inputs and y of its outputs it takes fixed + both * x * y + read * x + made * y, and
    nothing where it is gone. inputs, outputs: its channels in the whole network; 0 where none can go.
    measured_ms: in the whole network, by the runtime's own clock, with what follows it until the next layer; null where
    the runtime does not time layers.
    """

    name: str
    type: str
    inputs: Count
    outputs: Count
    macs: Count
    fixed: Known
    both: Known
    read: Known
    made: Known
    measured_ms: Known | None = None

    @property
    def whole(self) -> float:
        """What it takes in the whole network, as the table has it."""
        return self.fixed + self.both + self.read + self.made


class Probe(Record, frozen=True):
    """A smaller version of the network, as it was measured.

    widths: inputs and outputs of each layer that is there. ratios: its time over that of the whole network, one for
    each round of launches that took turns; whole_ms: the whole network's in each. layer_ms: by the runtime's own clock,
    empty where it does not time layers.
    ms: of one inference, on the scale of the table's `whole_ms`; predicted_ms: by a table that was fitted to all other
    probes, null where there are too few.
    """

    widths: dict[str, tuple[Count, Count]]
    ratios: tuple[Known, ...]
    whole_ms: tuple[Known, ...]
    layer_ms: dict[str, Known]
    ms: Known
    predicted_ms: Known | None = None


class LatencyTable(Record, frozen=True):
    """How long one network takes on one device, whatever the widths of its layers.

    key: digest of all that must be the same for its probes to hold: network, device, versions, precision.
    network: where it is from; grid: of INT8, in words, empty for float; batch: samples in one inference. facts,
    machine: what the device says of itself; options, settings: how engines are built, and what they told.
    measured_at: when the last probe was. steps: channels read and made that the device computes at once: a width counts
    as the next multiple. whole_ms: of the whole network, the median over all rounds; rest_ms: what no
    layer takes. error: mean of |predicted / measured - 1| over the probes, each predicted without it; null for too few.
    wanted: how many probes the table is to have, more than it holds where measuring was broken off; null: not told.
    """

    schema_version: int = SCHEMA_VERSION
    key: str
    network: str
    precision: Precision
    grid: str
    batch: Count
    device: str
    runtime: str
    machine: str
    facts: dict[str, str]
    versions: dict[str, str]
    options: dict[str, Any]
    settings: dict[str, Any]
    measured_at: str
    steps: Steps
    whole_ms: Annotated[Known, Field(gt=0)]
    rest_ms: Known
    layers: tuple[LayerLatency, ...]
    probes: tuple[Probe, ...]
    error: Known | None = None
    wanted: Count | None = None

    @model_validator(mode="after")
    def _layers_once(self) -> Self:
        names = Counter(layer.name for layer in self.layers)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"layers: {short(twice[0])} is there twice")
        return self

    @model_validator(mode="after")
    def _takes_time(self) -> Self:
        if not self.rest_ms + sum(layer.whole for layer in self.layers) > 0:
            raise ValueError("neither its layers nor what is left take any time")
        return self

    def latency(self, widths: Widths) -> Tensor:
        """Milliseconds with these widths, float64, that gradients flow through; a layer that is not named is gone.

        The widths may have any one shape, which then is the result's: networks that are alike but for them. A width
        may be UNKNOWN.
        CompressError for a layer that the table does not have.
        """
        if strange := [f"{short(name)} is not in it" for name in widths if name not in self._places]:
            raise CompressError(f"the table of latencies: {_REFUSED}: {_listed(strange)}; {HINT}")
        if not widths:
            return torch.tensor(self.rest_ms, dtype=torch.float64)
        given = [each.double() for three in widths.values() for each in three]
        alike = torch.stack(torch.broadcast_tensors(*given))  # type: ignore[no-untyped-call]
        read, made, present = alike.reshape(len(widths), 3, *alike.shape[1:]).unbind(1)
        rows = self._numbers[[self._places[name] for name in widths]].to(alike.device)
        columns = rows.T.reshape(6, len(widths), *[1] * (present.dim() - 1))
        inputs, outputs, fixed, both, by_read, by_made = columns.unbind()
        x, y = share(read, inputs, self.steps[0]), share(made, outputs, self.steps[1])
        layers = present * (fixed + both * x * y + by_read * x + by_made * y)
        return self.rest_ms + layers.sum(0)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {layer.name: index for index, layer in enumerate(self.layers)}

    @cached_property
    def _numbers(self) -> Tensor:
        """Inputs, outputs, and the parts of what each layer takes, (layers, 6)."""
        rows = [(one.inputs, one.outputs, one.fixed, one.both, one.read, one.made) for one in self.layers]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)

    def require_layers(self, sizes: Mapping[str, Size], where: str) -> None:
        """CompressError unless a network has just these layers, as large as they are in it where that is known (not 0).

        where: the table is from.
        """
        own = {layer.name: (layer.inputs, layer.outputs, layer.macs) for layer in self.layers}
        told = {name: _difference(own[name], size) for name, size in sizes.items() if name in own}
        wrong = [f"{short(name)} {difference}" for name, difference in told.items() if difference]
        wrong += [f"{short(name)} is not in it" for name in sizes if name not in own]
        wrong += [f"its {short(name)} is not here" for name in own if name not in sizes]
        if wrong:
            raise CompressError(f"{where}: {_REFUSED}: {_listed(wrong)}; {HINT}")

    def require_batch(self, batch: int, where: str) -> None:
        """CompressError unless it was measured with so many samples in one inference; 0: not known."""
        if batch not in (0, self.batch):
            raise CompressError(
                f"{where}: measured with batch {self.batch}, and the recipe's measure.batch is {batch}; write batch:"
                f" {self.batch} there, or measure a table by `compress tabulate` of the recipe, which takes its batch"
            )

    def require_complete(self, where: str) -> None:
        """CompressError where measuring was broken off."""
        if self.wanted is not None and len(self.probes) < self.wanted:
            raise CompressError(
                f"{where}: holds {len(self.probes)} of {self.wanted} networks; run `compress tabulate` again, it goes"
                " on"
            )

    def measured_otherwise(self, precision: str, machines: Mapping[str, str], where: str) -> list[str]:
        """Notes on what it was measured of that is not what it is used for.

        precision: that networks end in; machines: devices that they are for, each with its machine; empty: not known.
        """
        notes = []
        if precision not in ("", self.precision):
            notes.append(
                f"{where}: latencies of {self.precision}, and this recipe ends in {precision}, where savings may"
                " differ; without `table` a run measures its own"
            )
        if machines and machines.get(self.device) not in ("", self.machine):
            targets = ", ".join(_place(label, machine) for label, machine in machines.items())
            notes.append(
                f"{where}: measured on {_place(self.device, self.machine)}, and this recipe's targets are {targets},"
                " where savings may differ"
            )
        return notes

    @property
    def error_note(self) -> str:
        """Whose milliseconds these are and how far what it predicts is off, as a pass that goes by it notes."""
        told = (
            "not known"
            if self.error is None
            else f"{100 * self.error:.1f} % over {len(self.probes)} networks"
        )
        return (
            f"milliseconds are those of {_place(self.device, self.machine)} in {self.precision}, batch {self.batch},"
            f" measured {short(self.measured_at)}; a table predicts them, whose error is {told}"
        )

    @classmethod
    def read(cls, path: Path, hint: str = HINT) -> LatencyTable:
        """The table that a file holds; CompressError when it is none, with the hint at what to do."""
        return read_record(cls, path, "table of latencies", SCHEMA_VERSION, MAX_BYTES, hint)


_REFUSED = "measured of another network"


def share(width: Tensor, size: Tensor, step: int) -> Tensor:
    """How much of a side is computed, elementwise: whole blocks of `step` channels over those of the whole side.

    The gradient is that of the open channels alone, as blocks have none. 1 where a size is 0, not known, or a width is
    UNKNOWN.
    """
    return torch.where(
        (size > 0) & (width >= 0), _blocks(width, step) / _blocks(size, step).clamp(min=1), 1.0
    )


def _blocks(width: Tensor, step: int) -> Tensor:
    whole = torch.ceil((width.detach() - ROUNDING) / step) * step
    return width + (whole - width.detach())


def _difference(own: Size, here: Size) -> str:
    """How a layer of the table differs from one here, in words; nothing where it does not, as far as is known."""
    different = [a != b and a and b for a, b in zip(own, here, strict=True)]
    if any(different[:2]):
        return f"is {own[0]} -> {own[1]} in it and {here[0]} -> {here[1]} here"
    return f"has {own[2]:,} multiply-accumulates in it and {here[2]:,} here" if different[2] else ""


def _place(device: str, machine: str) -> str:
    return short(device) + (f" ({short(machine)})" if machine else "")


def _listed(told: Sequence[str]) -> str:
    more = f", and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return ", ".join(told[:SHOWN]) + more
