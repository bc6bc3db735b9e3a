"""The steps of `quantize`: equalize, calibrate, correct biases, and give layers back to float.

Each step that may be left out is judged by the outputs of the whole quantized network, on samples that it was not
fitted to (`judging`), and kept only where it helps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from torch import Tensor, fx

from ...calibration.data import Part
from ...calibration.scheme import RangeMethod
from ...errors import CompressError
from ...model import Model
from ..base import PassContext
from .attention import softmaxes, too_fine
from .bias_correction import Center, correct_biases, correctable
from .equalize import WORTHWHILE_DB, equalize
from .folding import ensure_biases
from .grids import METHODS, best_grids, grids_for
from .judging import Judge, Noise, roles
from .observe import observe
from .placement import BOTH_ADDENDS, place
from .quantizers import Grid
from .rescale import find_rescalable
from .state import State, assembled

if TYPE_CHECKING:
    from ..quantize import Quantize

CALIBRATION_BATCH = 16
JUDGED_IN = 8  # batches: more tell more of the scatter of a difference, and take more time
CORRECTION_SAMPLES = 64
Ranges = Literal["auto"] | RangeMethod
EXTREMES: Ranges = "minmax"
WORTH_FLOAT_DB = 0.5  # a product in float takes a few hundredths of the network's time
LEAST_COST_DB = 1.0  # of rounding both addends, which saves time: what the outputs may lose by it


@dataclass(frozen=True)
class Choices:
    """What was decided of one graph: enough to fit it again to other samples.

    kept: the layers in float, and why; ranges: one way for all tensors, or "auto"; bias: None leaves them as they are.
    """

    graph: fx.GraphModule
    rescaled: tuple[str, ...]
    kept: Mapping[str, str]
    both_addends: bool
    ranges: Ranges
    bias: Center | None


@dataclass(frozen=True)
class Fitted:
    """A state with the choices that it was fitted by, what it adds to the outputs, and what the report says of it."""

    state: State
    choices: Choices
    noise: Noise | None
    notes: tuple[str, ...] = ()


class Steps:
    """The steps of `Quantize.plan`, over one captured graph."""

    def __init__(self, options: Quantize, model: Model, context: PassContext, graph: fx.GraphModule) -> None:
        self.options, self.model, self.context, self.graph = options, model, context, graph
        self.static_batch = None if model.dynamic_batch else int(model.example_inputs[0].shape[0])
        calibration, needed = context.data.calibration, self.static_batch or 1
        if len(calibration) < needed:
            raise CompressError(
                f"quantize: the calibration part has {len(calibration)} samples, and the network takes {needed} at"
                " once; give it more samples (data.calibration) or set export.dynamic_batch: true"
            )
        self.roles = roles(context.data, needed, model.facts().macs)
        judge = Judge(graph, self.batches(self.roles.judges, max(1, len(self.roles.judges) // JUDGED_IN))())
        self.judge = judge if judge.batches else None
        self.bias: Center | None = None

    def batches(
        self, part: Part, size: int = CALIBRATION_BATCH
    ) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
        """Batches of a data part, as often as asked for; whole ones when the batch is static."""
        size = self.static_batch or size

        def stream() -> Iterator[tuple[Tensor, ...]]:
            for inputs, _ in part.batches(size):
                if self.static_batch is None or inputs[0].shape[0] == size:
                    yield inputs

        return stream

    def first_batch(self, part: Part, samples: int) -> tuple[Tensor, ...]:
        """One batch from the head of a part: `samples` of them, unless the batch is static."""
        return next(self.batches(part, samples)())

    # -- choosing

    def best(self, kept: Mapping[str, str]) -> tuple[State, list[str]]:
        """The calibrated network with the steps in it that help, and notes on those that were judged."""
        part = self.roles.fitted
        plain = Choices(self.graph, (), kept, bool(self.graph.meta.get(BOTH_ADDENDS)), "auto", None)
        chosen = self._chosen(plain, part)
        notes = list(chosen.notes)
        if self.options.equalization != "off" and find_rescalable(self.graph):
            chosen, said = self._equalized(chosen, plain, part)
            notes = [*said, *chosen.notes]
        state, everything = chosen.state, self.context.data.calibration
        if len(part) < len(everything):
            state = self._refitted(chosen.choices, everything)
        self.graph, self.bias = chosen.choices.graph, chosen.choices.bias
        return state, notes

    def _equalized(self, without: Fitted, plain: Choices, part: Part) -> tuple[Fitted, list[str]]:
        """The network as it was chosen, or the equalized one where that is told or better; and notes."""
        if self.judge is None:
            return without, ["equalization left out: it takes samples to fit it and others to judge it by"]
        graph = copy.deepcopy(self.graph)
        found = equalize(
            graph,
            [c.node for c in place(graph, plain.kept).coverage if c.quantized],
            self.batches(self.roles.fitted),
            self._trials(),
            self.context.scheme,
            self.context.generator(),
            self.context.progress,
        )
        if not found.tensors:
            return without, []
        choices = replace(plain, graph=graph, rescaled=found.with_operator)
        equalized = self._chosen(choices, part)
        assert without.noise is not None and equalized.noise is not None
        sqnr = f"SQNR {without.noise.db:.1f} dB without, {equalized.noise.db:.1f} dB with"
        told = self.options.equalization == "on"
        if not told and not equalized.noise.db >= without.noise.db + WORTHWHILE_DB:
            return without, [f"equalization tried and left out: {sqnr}"]
        return equalized, [f"equalized {len(found.tensors)} tensors: {sqnr}"]

    def _trials(self) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
        """The samples on which changes of single tensors are compared, one by one unless the batch is static."""
        return self.batches(self.roles.trials, 1)

    def _chosen(self, choices: Choices, part: Part) -> Fitted:
        """`choices`, and of what the options leave open what helps, all fitted to `part`."""
        state, candidates, fine = self._calibrated(choices, part)
        choices = replace(choices, kept={**choices.kept, **fine})
        found = self._with_best_ranges(choices, state, candidates)
        found = self._with_fine_softmax(found, fine, candidates[found.choices.ranges])
        found = self._with_both_addends(found, candidates[found.choices.ranges])
        return self._with_biases(found, part)

    def _refitted(self, choices: Choices, part: Part) -> State:
        """The network of the choices, fitted to `part`."""
        graph, candidates, _ = self._calibrated(choices, part)
        state = self._assembled(choices, graph, candidates[choices.ranges])
        if choices.bias:
            self.correct(state, choices.bias, part)
        return state

    def _noise(self, state: State) -> Noise | None:
        return self.judge.noise(state.quantized) if self.judge else None

    def _assembled(self, choices: Choices, graph: fx.GraphModule, grids: Mapping[str, Grid]) -> State:
        if bool(graph.meta.get(BOTH_ADDENDS)) != choices.both_addends:
            graph = copy.deepcopy(graph)
            graph.meta[BOTH_ADDENDS] = choices.both_addends
        return assembled(graph, choices.kept, grids, self.context.scheme.weight_limit, choices.rescaled)

    # -- ranges

    def _calibrated(
        self, choices: Choices, part: Part
    ) -> tuple[fx.GraphModule, dict[str, dict[str, Grid]], dict[str, str]]:
        """A copy of the graph with biases; the grids by way of choosing them; and softmaxes too fine for theirs."""
        graph = copy.deepcopy(choices.graph)
        ensure_biases(graph, correctable(graph, place(graph)))
        placement = place(graph, choices.kept)
        observers = observe(graph, placement.activations, self.batches(part), self.context.progress)
        scheme, method = self.context.scheme, self.options.ranges
        methods = METHODS if method == "auto" else (method,)
        candidates: dict[str, dict[str, Grid]] = {m: grids_for(observers, m, scheme) for m in methods}
        first, judged = candidates[methods[0]], set(observers)
        if method != "auto":
            fine = {node.name for nodes in softmaxes(graph).values() for node in nodes}
            judged &= fine if self.options.softmax_sqnr_db else set()
        sqnr: dict[str, float] = {}
        best: dict[str, Grid] = {}
        if judged:
            best, sqnr = best_grids(
                graph,
                [{name: grids[name] for name in sorted(judged)} for grids in candidates.values()],
                self._trials(),
                self.context.generator(),
                self.context.progress,
            )
        candidates["auto"] = first | best
        return graph, candidates, too_fine(graph, placement, sqnr, self.options.softmax_sqnr_db)

    def _with_best_ranges(
        self, choices: Choices, graph: fx.GraphModule, candidates: Mapping[str, Mapping[str, Grid]]
    ) -> Fitted:
        """The extremes, unless another way, or one of its own for each tensor, clearly leaves the outputs more exact.

        What clips does well on the samples that it was fitted to, and badly on a rare one that goes beyond them.
        """
        if self.options.ranges != "auto" or self.judge is None:
            state = self._assembled(choices, graph, candidates["auto"])
            return Fitted(state, choices, self._noise(state))
        others: tuple[Ranges, ...] = ("auto", *(m for m in METHODS if m != EXTREMES))
        plain = self.judge.noise(self._assembled(choices, graph, candidates[EXTREMES]).quantized)
        noises: dict[Ranges, Noise] = {EXTREMES: plain}
        best: Ranges = EXTREMES
        for way in others:
            if way != "auto" and candidates[way] == candidates["auto"]:
                continue
            noises[way] = self.judge.noise(self._assembled(choices, graph, candidates[way]).quantized)
            if noises[way].clearly_below(plain) and noises[way].db > noises[best].db:
                best = way
        state = self._assembled(choices, graph, candidates[best])
        told = ", ".join(f"{noise.db:.1f} dB with {way}" for way, noise in noises.items())
        what = "a way of its own for each tensor" if best == "auto" else f"{best} for all tensors"
        note = f"ranges: {what}: SQNR {told}"
        return Fitted(state, replace(choices, ranges=best), noises[best], (note,))

    # -- further steps

    def _with_fine_softmax(self, found: Fitted, fine: Mapping[str, str], grids: Mapping[str, Grid]) -> Fitted:
        """Products whose softmax is too fine for a grid: in float where the outputs gain by it, else quantized."""
        if not fine or found.noise is None:
            return found
        kept = {name: reason for name, reason in found.choices.kept.items() if name not in fine}
        choices = replace(found.choices, kept=kept)
        state = self._assembled(choices, found.state.graph, grids)
        noise = self._noise(state)
        assert noise is not None
        sqnr = f"SQNR {noise.db:.1f} dB without, {found.noise.db:.1f} dB with"
        if found.noise.db >= noise.db + WORTH_FLOAT_DB:
            note = f"softmax in float for {len(fine)} products: {sqnr}"
            return replace(found, notes=(*found.notes, note))
        note = f"softmax in float tried for {len(fine)} products and left out: {sqnr}"
        return Fitted(state, choices, noise, (*found.notes, note))

    def _with_both_addends(self, found: Fitted, grids: Mapping[str, Grid]) -> Fitted:
        """Both addends rounded, as the targets add faster so, unless the outputs lose much by it."""
        if not found.choices.both_addends or found.noise is None:
            return found
        choices = replace(found.choices, both_addends=False)
        state = self._assembled(choices, found.state.graph, grids)
        if set(state.placement.activations) == set(found.state.placement.activations):
            return found
        noise = self._noise(state)
        assert noise is not None
        if found.noise.db >= noise.db - LEAST_COST_DB:
            return found
        note = (
            "both addends in INT8 tried and left out: SQNR"
            f" {noise.db:.1f} dB without, {found.noise.db:.1f} dB with"
        )
        return Fitted(state, choices, noise, (*found.notes, note))

    def _with_biases(self, found: Fitted, part: Part) -> Fitted:
        """Corrected biases, by means or medians, where they make the outputs clearly more exact."""
        if not self.options.bias_correction or not correctable(found.state.graph, found.state.placement):
            return found
        if found.noise is None:
            note = "bias correction left out: it takes samples to fit it and others to judge it by"
            return replace(found, notes=(*found.notes, note))
        best: Fitted | None = None
        count = 0
        for center in ("mean", "median"):
            state = replace(found.state, quantized=copy.deepcopy(found.state.quantized))
            count = self.correct(state, center, part)
            noise = self._noise(state)
            assert noise is not None
            if best is None or best.noise is None or noise.db > best.noise.db:
                best = Fitted(state, replace(found.choices, bias=center), noise)
        assert best is not None and best.noise is not None
        sqnr = f"SQNR {found.noise.db:.1f} dB without, {best.noise.db:.1f} dB with"
        if not best.noise.clearly_below(found.noise):
            return replace(found, notes=(*found.notes, f"bias correction tried and left out: {sqnr}"))
        note = f"bias correction: {count} layers, by {best.choices.bias}s of their errors: {sqnr}"
        return replace(best, notes=(*found.notes, note))

    def correct(self, state: State, center: Center, part: Part | None = None) -> int:
        """Correct biases in place; returns of how many layers."""
        batch = self.first_batch(part or self.context.data.calibration, CORRECTION_SAMPLES)
        return correct_biases(state.graph, state.quantized, state.placement, batch, center)
