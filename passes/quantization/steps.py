"""The steps of `quantize`: equalize, calibrate, correct biases, and give layers back to float.

Each step that may be left out is judged by the outputs of the whole quantized network, on samples that it was not
fitted to (`judging`), and kept only where it helps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from torch import Tensor, fx

from ...calibration.data import Part
from ...calibration.scheme import RangeChoice
from ...errors import CompressError
from ...model import Model
from ..base import PassContext
from .bias_correction import Center, correct_biases, correctable
from .calibrating import calibrate
from .choices import Calibrated, Choices, Fitted, StepOptions
from .equalize import WORTHWHILE_DB, equalize
from .grids import METHODS
from .judging import Judge, Noise, roles
from .placement import BOTH_ADDENDS, place
from .rescale import find_rescalable
from .state import State, assembled

CALIBRATION_BATCH = 16
JUDGED_IN = 8  # batches: more tell more of the scatter of a difference, and take more time
CORRECTION_SAMPLES = 64
EXTREMES: RangeChoice = "minmax"
WORTH_FLOAT_DB = 0.5  # a product in float takes a few hundredths of the network's time
LEAST_COST_DB = 1.0  # of rounding both addends, which saves time: what the outputs may lose by it


class Steps:
    """The steps of a pass that quantizes, over one captured graph."""

    def __init__(
        self, options: StepOptions, model: Model, context: PassContext, graph: fx.GraphModule
    ) -> None:
        self.options, self.model, self.context, self.graph = options, model, context, graph
        self.static_batch = model.static_batch
        calibration, needed = context.data.calibration, self.static_batch or 1
        if len(calibration) < needed:
            raise CompressError(
                f"{options.what}: the calibration part has {len(calibration)} samples, and the network takes {needed}"
                " at once; give it more samples (data.calibration) or set export.dynamic_batch: true"
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
        chosen = self._chosen(plain, self._calibrated(plain, part), part)
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
            self.options.what,
        )
        if not found.tensors:
            return without, []
        choices = replace(plain, graph=graph, rescaled=found.with_operator)
        calibrated = self._calibrated(choices, part)
        if self.options.equalization != "on":
            alike = replace(without.choices, graph=graph, rescaled=found.with_operator)
            before, first = without.before_biases, self._noise(self._assembled(alike, calibrated))
            assert before is not None and first is not None
            if first.db < before.db + WORTHWHILE_DB:  # what would follow takes most of the time
                return without, [f"equalization tried and left out: {_compared(before, first)}"]
        equalized = self._chosen(choices, calibrated, part)
        assert without.noise is not None and equalized.noise is not None
        compared = _compared(without.noise, equalized.noise)
        if self.options.equalization != "on" and equalized.noise.db < without.noise.db + WORTHWHILE_DB:
            return without, [f"equalization tried and left out: {compared}"]
        return equalized, [f"equalized {len(found.tensors)} tensors: {compared}"]

    def _trials(self) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
        """The samples on which changes of single tensors are compared, one by one unless the batch is static."""
        return self.batches(self.roles.trials, 1)

    def _chosen(self, choices: Choices, calibrated: Calibrated, part: Part) -> Fitted:
        """`choices`, and of what the options leave open what helps, all fitted to `part`."""
        choices = replace(choices, kept={**choices.kept, **calibrated.fine})
        found = self._with_best_ranges(choices, calibrated)
        found = self._with_fine_softmax(found, calibrated)
        found = self._with_both_addends(found, calibrated)
        return self._with_biases(found, part)

    def _refitted(self, choices: Choices, part: Part) -> State:
        """The network of the choices, fitted to `part`."""
        state = self._assembled(choices, self._calibrated(choices, part))
        if choices.bias:
            self.correct(state, choices.bias, part)
        return state

    def _noise(self, state: State) -> Noise | None:
        return self.judge.noise(state.quantized) if self.judge else None

    def _assembled(self, choices: Choices, calibrated: Calibrated) -> State:
        graph, grids = calibrated.graph, calibrated.grids[choices.ranges]
        if bool(graph.meta.get(BOTH_ADDENDS)) != choices.both_addends:
            graph = copy.deepcopy(graph)
            graph.meta[BOTH_ADDENDS] = choices.both_addends
        return assembled(graph, choices.kept, grids, self.context.scheme.weight_limit, choices.rescaled)

    # -- ranges

    def _calibrated(self, choices: Choices, part: Part) -> Calibrated:
        return calibrate(choices, self.batches(part), self._trials(), self.options, self.context)

    def _with_best_ranges(self, choices: Choices, calibrated: Calibrated) -> Fitted:
        """The extremes, unless another way, or one of its own for each tensor, clearly leaves the outputs more exact.

        What clips does well on the samples that it was fitted to, and badly on a rare one that goes beyond them.
        """
        if self.options.ranges != "auto" or self.judge is None:
            state = self._assembled(choices, calibrated)
            noise = self._noise(state)
            return Fitted(state, choices, noise, noise)
        others: tuple[RangeChoice, ...] = ("auto", *(m for m in METHODS if m != EXTREMES))
        best = self._assembled(replace(choices, ranges=EXTREMES), calibrated), EXTREMES
        plain = self.judge.noise(best[0].quantized)
        noises: dict[RangeChoice, Noise] = {EXTREMES: plain}
        for way in others:
            if way != "auto" and calibrated.grids[way] == calibrated.grids["auto"]:
                continue
            state = self._assembled(replace(choices, ranges=way), calibrated)
            noises[way] = self.judge.noise(state.quantized)
            if noises[way].clearly_below(plain) and noises[way].db > noises[best[1]].db:
                best = state, way
        state, chosen = best
        told = ", ".join(f"{noise.db:.1f} dB with {way}" for way, noise in noises.items())
        what = "a way of its own for each tensor" if chosen == "auto" else f"{chosen} for all tensors"
        note = f"ranges: {what}: SQNR {told}"
        return Fitted(state, replace(choices, ranges=chosen), noises[chosen], noises[chosen], (note,))

    # -- further steps

    def _with_fine_softmax(self, found: Fitted, calibrated: Calibrated) -> Fitted:
        """Products whose softmax is too fine for a grid: in float where the outputs gain by it, else quantized."""
        fine = calibrated.fine
        if not fine or found.noise is None:
            return found
        kept = {name: reason for name, reason in found.choices.kept.items() if name not in fine}
        choices = replace(found.choices, kept=kept)
        state = self._assembled(choices, calibrated)
        noise = self._noise(state)
        assert noise is not None
        compared = _compared(noise, found.noise)
        if found.noise.db >= noise.db + WORTH_FLOAT_DB:
            note = f"softmax in float for {len(fine)} products: {compared}"
            return replace(found, notes=(*found.notes, note))
        note = f"softmax in float tried for {len(fine)} products and left out: {compared}"
        return Fitted(state, choices, noise, noise, (*found.notes, note))

    def _with_both_addends(self, found: Fitted, calibrated: Calibrated) -> Fitted:
        """Both addends rounded, as the targets add faster so, unless the outputs lose much by it."""
        if not found.choices.both_addends or found.noise is None:
            return found
        choices = replace(found.choices, both_addends=False)
        state = self._assembled(choices, calibrated)
        if set(state.placement.activations) == set(found.state.placement.activations):
            return found
        noise = self._noise(state)
        assert noise is not None
        if found.noise.db >= noise.db - LEAST_COST_DB:
            return found
        note = f"both addends in INT8 tried and left out: {_compared(noise, found.noise)}"
        return Fitted(state, choices, noise, noise, (*found.notes, note))

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
                best = Fitted(state, replace(found.choices, bias=center), noise, found.noise)
        assert best is not None and best.noise is not None
        compared = _compared(found.noise, best.noise)
        if not best.noise.clearly_below(found.noise):
            return replace(found, notes=(*found.notes, f"bias correction tried and left out: {compared}"))
        note = f"bias correction: {count} layers, by {best.choices.bias}s of their errors: {compared}"
        return replace(best, notes=(*found.notes, note))

    def correct(self, state: State, center: Center, part: Part | None = None) -> int:
        """Correct biases in place; returns of how many layers."""
        batch = self.first_batch(part or self.context.data.calibration, CORRECTION_SAMPLES)
        return correct_biases(state.graph, state.quantized, state.placement, batch, center)


def _compared(without: Noise, with_it: Noise) -> str:
    return f"SQNR {without.db:.1f} dB without, {with_it.db:.1f} dB with"
