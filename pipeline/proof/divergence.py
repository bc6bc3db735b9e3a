"""Divergence: the first layer at which a runtime's values part from those that are right, by bisection."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import CompressError
from ...isolated import Limits, run
from ...targets import TARGETS
from ...targets.base import BuiltOnly, TargetOptions
from ...targets.graphs.onnx_graph import load_onnx
from ...text import one_line, short
from ..onnx_files.cut import Cuts, Values, values_of

if TYPE_CHECKING:
    import onnx

SECONDS = 60.0
EQUAL_DB, APART_DB = 200.0, -100.0
SAME_INTEGERS = 0.95  # share of equal ones above which integers count as the same
FINAL_DB = 3.0  # around the last value, where it is within its limit and something else failed
WINDOW = 3
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
OUTSTANDING_DB = 15.0  # rounding alone differs less from layer to layer
_NOT_TOLD = "pads", "auto_pad"


@dataclass(frozen=True)
class Suspect:
    """The computation that a proof found wrong.

    as_is: the file is opened as it is (`load`), else built; found_db: the SQNR of the proof, where it has one.
    """

    onnx_path: Path
    runtime: str
    options: TargetOptions
    as_is: bool = False
    limit_db: float = 60.0
    found_db: float | None = None
    seconds: float = SECONDS


def where(suspect: Suspect, feeds: Values, right: Values | None = None) -> str:
    """Say in words where the values first part; never an error, and done soon after `suspect.seconds`.

    right: tensors of the file by name as they should be; where None, what onnxruntime computes node by node. All of
    it happens in a process of its own.
    """
    try:
        limits = Limits(seconds=suspect.seconds + 30)
        return run("looking for the layer that differs", _where, suspect, dict(feeds), right, limits=limits)
    except Exception as error:  # a proof's reason must not become a failure of its own
        return f"the layer was not found: {one_line(str(error), 400)}"


def _where(suspect: Suspect, feeds: Values, right: Values | None) -> str:
    model = load_onnx(suspect.onnx_path)
    known = values_of(model, feeds) if right is None else {**right, **feeds}
    return _Search(suspect, Cuts(model, known), _counted(feeds)).told()


def db(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    """SQNR in dB, 200 for equal arrays, -100 where they cannot be compared or are infinite in other places.

    Integers and truth values count as equal when 95 % of them are.
    """
    if expected.shape != found.shape:
        return APART_DB
    if expected.dtype.kind not in "fc":
        same = float(np.mean(expected == found)) if expected.size else 1.0
        return EQUAL_DB if same >= SAME_INTEGERS else APART_DB
    one, other = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(one)
    if (
        not np.array_equal(one[~finite], other[~finite], equal_nan=True)
        or not np.isfinite(other[finite]).all()
    ):
        return APART_DB
    noise = float(np.square(one[finite] - other[finite]).sum())
    signal = float(np.square(one[finite]).sum())
    return EQUAL_DB if noise == 0 else 10 * float(np.log10(max(signal, 1e-300) / noise))


@dataclass
class _Search:
    suspect: Suspect
    cuts: Cuts
    samples: str
    measured: dict[tuple[int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.deadline = monotonic() + self.suspect.seconds
        self.threshold = self.suspect.limit_db

    def told(self) -> str:
        places = self.cuts.places
        whole = self.between(0, places[-1])
        if whole >= EQUAL_DB / 2:
            return f"the layer was not found: on {self.samples} the graph computed on its own gives the right values"
        found = self.suspect.found_db
        if found is not None and whole >= max(self.threshold, found + 2 * FINAL_DB):
            return (
                f"none: on {self.samples} {self.suspect.runtime} agrees with the ONNX file computed node by node "
                f"({whole:.1f} dB): the fault depends on other samples or the batch size, or lies in what it was "
                "compared with"
            )
        if whole >= self.threshold:
            self.threshold = whole + FINAL_DB
        low, high = self.first_bad(places)
        if self.late and high - low > 1:
            return (
                f"between {self.name(places[low])} and {self.name(places[high] - 1)} (the search was given up after "
                f"{self.suspect.seconds:g} s)"
            )
        return self.cause(places, low, high)

    @property
    def late(self) -> bool:
        return monotonic() > self.deadline

    def first_bad(self, places: list[int]) -> tuple[int, int]:
        """Neighbours among `places`: up to the first the values are right, up to the second they are not.

        Cuts that the runtime refuses leave the list.
        """
        low, high = 0, len(places) - 1
        while high - low > 1 and not self.late:
            middle = (low + high) // 2
            found = self.known(0, places[middle])
            if found is None:
                del places[middle]
                high -= 1
                continue
            low, high = (low, middle) if found < self.threshold else (middle, high)
        return low, high

    def cause(self, places: list[int], low: int, high: int) -> str:
        """Whether the step itself is wrong when its inputs are right, or only together with some before it."""
        start, stop = places[low], places[high]
        before = f"{self.between(0, start):.1f} dB before" if start else "the first of the network"
        head = f"{self.step(start, stop)}: SQNR {before}, {self.between(0, stop):.1f} dB after"
        if not start:
            return head.replace("SQNR the first of the network, ", "the first of the network, SQNR ")
        try:
            alone = self.between(start, stop)
        except CompressError as error:
            return f"{head}; it could not be computed on its own ({one_line(str(error), 200)})"
        if alone < self.threshold:
            return f"{head}; {alone:.1f} dB with the right inputs, so that it is the cause"
        if found := self.own_error(places, high):
            return found
        first = self.together(places, low, stop)
        if first is None:
            return f"{head}; it is right alone ({alone:.1f} dB), and what is before it could not be computed with it"
        if first == 0:
            return (
                f"{head}; {alone:.1f} dB with the right inputs: the error adds up over the layers before it"
            )
        begins = self.name(places[first])
        return f"{head}; it is right alone ({alone:.1f} dB), and wrong together with what is before it from {begins}"

    def own_error(self, places: list[int], high: int) -> str:
        """The stretch up to `high` that errs most with the right inputs, where it stands out; "" where none does.

        Stretches of three steps, for a quantized layer is one only with its quantizers.
        """
        errors: dict[int, float] = {}
        for first in range(high):
            if self.late:
                break
            found = self.known(places[first], places[min(first + WINDOW, high)])
            if found is not None:
                errors[first] = found
        if len(errors) < 2:
            return ""
        worst = min(errors, key=lambda first: errors[first])
        apart = sorted(errors.values())[len(errors) // 2] - errors[worst]
        if apart < OUTSTANDING_DB or errors[worst] >= EQUAL_DB / 2:  # beside others that are exact
            return ""
        last = min(worst + WINDOW, high)
        beside = f"{apart:.0f} dB below the layers around it"
        for place in range(worst + 1, last + 1):
            alone = self.known(places[place - 1], places[place])
            if alone is not None and alone < errors[worst] + FINAL_DB:
                step = self.step(places[place - 1], places[place])
                return f"{step}: {alone:.1f} dB with the right inputs, {beside}, so that it is the cause"
        for place in range(worst + 1, last):  # no longer than it must be
            part = self.known(places[worst], places[place])
            if part is not None and part < errors[worst] + FINAL_DB:
                last = place
                break
        return f"{self.stretch(places[worst], places[last])}: {errors[worst]:.1f} dB with the right inputs, {beside}"

    def stretch(self, start: int, stop: int) -> str:
        """Nodes that are wrong together only: those that compute, the quantizers among them by their number."""
        quantizers = [i for i in range(start, stop) if self.cuts.nodes[i].op_type in _QUANTIZERS]
        computing = [i for i in range(start, stop) if i not in quantizers]
        if not computing:
            return f"{self.step(stop - 1, stop)} and the {stop - start - 1} nodes before it, together"
        named = " and ".join(self.step(i, i + 1) for i in computing)
        return (
            f"{named} with its {len(quantizers)} quantizers" if quantizers else f"{named}, computed together"
        )

    def together(self, places: list[int], low: int, stop: int) -> int | None:
        """The latest of `places` from which the values up to `stop` are wrong though the inputs are right; 0: none.

        None where the runtime refuses all that is longer. A single stretch that it refuses counts as right.
        """
        good, reach, refused, asked = low, 1, 0, 0
        while not self.late:
            first = max(0, low - reach)
            if first == 0:
                break
            found = self.known(places[first], stop)
            asked, refused = asked + 1, refused + (found is None)
            if found is not None and found < self.threshold:
                break
            good, reach = first, 2 * reach
        if asked and asked == refused:
            return None
        bad = max(0, low - reach)
        while good - bad > 1 and not self.late:
            middle = (good + bad) // 2
            found = self.known(places[middle], stop)
            wrong = found is not None and found < self.threshold
            bad, good = (middle, good) if wrong else (bad, middle)
        return bad

    def known(self, start: int, stop: int) -> float | None:
        """Return what `between` does, and None where the runtime refuses that stretch."""
        try:
            return self.between(start, stop)
        except CompressError:
            return None

    def between(self, start: int, stop: int) -> float:
        """The worst output, in dB, of the nodes `start` to `stop` with the right inputs."""
        if (start, stop) not in self.measured:
            self.measured[start, stop] = (
                self._measure(*self.cuts.part(start, stop)) if stop > start else EQUAL_DB
            )
        return self.measured[start, stop]

    def _measure(self, model: onnx.ModelProto, feeds: dict[str, Any], outputs: Sequence[str]) -> float:
        import onnx

        target = TARGETS[self.suspect.runtime]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "part.onnx"
            onnx.save(model, str(path))
            options = self.suspect.options
            engine = (
                target.load(path, options)
                if self.suspect.as_is
                else target.build(path, options, Path(folder) / "engine")
            )
            if isinstance(engine, BuiltOnly):
                raise CompressError(engine.reason)
            found = engine.run(feeds)
        pairs = zip(outputs, found, strict=True)
        return min((db(self.cuts.expected(name), value) for name, value in pairs), default=EQUAL_DB)

    def name(self, index: int) -> str:
        """A node by its name and type."""
        return f"{short(self.cuts.names[index])!r} ({self.cuts.nodes[index].op_type})"

    def step(self, start: int, stop: int) -> str:
        """The nodes between two neighbouring cuts, by the last one with its attributes."""
        from onnx import helper

        node = self.cuts.nodes[stop - 1]
        told = [
            f"{a.name} {_plain(helper.get_attribute_value(a))}"
            for a in node.attribute
            if a.type in _PLAIN_TYPES and not (a.name in _NOT_TOLD and not any(a.ints))
        ]
        text = f"{short(self.cuts.names[stop - 1])!r} ({', '.join([node.op_type, *told][:9])})"
        return text if stop - start == 1 else f"{text} or the {stop - start - 1} nodes before it"


def _counted(feeds: Values) -> str:
    """How many samples are fed, in words."""
    count = max((value.shape[0] for value in feeds.values() if value.ndim), default=1)
    return "this sample" if count == 1 else f"these {count} samples"


_PLAIN_TYPES = (1, 2, 3, 7)  # FLOAT, INT, STRING, INTS of AttributeProto


def _plain(value: Any) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return short(text, 40)
