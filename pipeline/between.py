"""The models between passes: exported for a device to time, beside the float model and what is shipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CompressError, DeviceUnavailableError
from ..form import QUANTIZED
from ..model import Model
from ..progress import Progress
from ..targets.base import FloatPrecision
from ..targets.measuring.device import Device, Frozen
from ..targets.measuring.feeds import FeedSequence
from ..targets.measuring.latency import LaunchSamples, of, summarize
from ..writing import NotWrittenError
from .export import export
from .run_record import BetweenRecord
from .steps import Step

FOLDER = ".between"
BESIDE_OTHERS = "timed beside the others: "


@dataclass(frozen=True)
class Between:
    """The model after a pass, where others follow.

    step: its place among a run's steps, key: what that is known by; path: where its ONNX file is written, with the
    options of `export`, when a device first asks for it.
    """

    step: int
    key: str
    name: str
    model: Model
    path: Path
    options: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What its engine is called: "2, quantize"."""
        return f"{self.step}, {self.name}"

    @property
    def float_precision(self) -> FloatPrecision | None:
        """What its engine computes floats in: of a float model f32, like the baseline; None: as what is shipped."""
        return None if self.model.form in QUANTIZED else "f32"

    def onnx(self) -> Path:
        """Its ONNX file; CompressError where it has none."""
        return self.path if self.path.is_file() else export(self.model, self.path, **self.options)


@contextmanager
def models_between(steps: Sequence[Step], options: Mapping[str, Any], place: Path) -> Iterator[list[Between]]:
    """What the passes between the first and the last one left, where they changed anything, while it is entered.

    place: the folder in which their files are kept until then.
    """
    folder = place / FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    try:
        yield [
            Between(
                index,
                step.key,
                step.record.pass_name,
                step.model,
                folder / f"between-{index}.onnx",
                options,
            )
            for index, step in enumerate(steps[:-1])
            if index and step.record.modified and step.model is not steps[-1].model
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class BuiltBetween:
    """Their engines on a device, and why others have none; by label."""

    engines: Mapping[str, Frozen]
    reasons: Mapping[str, str]

    @staticmethod
    def build(
        device: Device, models: Sequence[Between], folder: Path, fed: FeedSequence, progress: Progress
    ) -> BuiltBetween:
        """Build them in `folder`, and run each once: what a device refuses is not timed, and its words are kept."""
        engines, reasons = dict[str, Frozen](), dict[str, str]()
        for each in models:
            progress.say(f"{device.label}: building the model after {each.name}")
            place = folder / f"between-{each.step}"
            try:
                engine = device.build(each.onnx(), place, fed.feeds[0], each.float_precision)
                device.outputs(engine, fed.feeds[0])
            except (DeviceUnavailableError, NotWrittenError):  # a full disk is no failed model
                raise
            except CompressError as error:
                reasons[each.label] = str(error)
            else:
                engines[each.label] = engine
        return BuiltBetween(engines, reasons)

    def untimed(self, error: CompressError) -> BuiltBetween:
        """None of them timed, as what held all engines at once failed."""
        return BuiltBetween({}, {**dict.fromkeys(self.engines, f"{BESIDE_OTHERS}{error}"), **self.reasons})

    def records(
        self, models: Sequence[Between], launches: Sequence[LaunchSamples], fed: FeedSequence
    ) -> list[BetweenRecord]:
        """What the timing of all engines together says of these."""
        return [
            BetweenRecord(step=each.step, reason=self.reasons[each.label])
            if each.label in self.reasons
            else BetweenRecord(
                step=each.step,
                latency_ms=summarize(of(launches, each.label), fed),
                precision=self.engines[each.label].precision,
            )
            for each in models
        ]
