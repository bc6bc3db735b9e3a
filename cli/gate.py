"""`compress gate`: is the candidate as small, as right and as fast as the baseline, beyond noise?"""

from __future__ import annotations

import os
from contextlib import nullcontext
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ExitCode
from .devices import device_options
from .input_shape import given_shapes, input_shape_option
from .output import VERDICT_CODES, common_options, console, print_json, quiet_stdout, say, table

if TYPE_CHECKING:
    from ..pipeline.gate.record import GateRecord


@click.command()
@click.option(
    "--baseline", type=click.Path(path_type=Path), metavar="REF",
    help="What is there already: a run folder, an .onnx, .l2z or engine file.",
)  # fmt: skip
@click.option(
    "--candidate", type=click.Path(path_type=Path), metavar="RUN", required=True,
    help="What is to be let through, of the same kinds.",
)  # fmt: skip
@device_options
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="RECIPE",
    help="A recipe whose data and metric judge accuracy; left out: accuracy is not gated.",
)  # fmt: skip
@click.option(
    "--max-drop", type=click.FloatRange(0, 100), default=2.0, show_default=True,
    help="Points of the metric that may at most be lost, surely: fewer samples than that takes are INCONCLUSIVE.",
)  # fmt: skip
@click.option(
    "--golden", type=click.Path(path_type=Path), default=Path("golden"), show_default=True,
    help="Folder of accepted sizes and outputs, one file a device; without a file the baseline is the reference.",
)  # fmt: skip
@click.option(
    "--accept",
    is_flag=True,
    help="Write the candidate's size and outputs into the golden files, and judge nothing.",
)
@click.option(
    "--budget", type=click.FloatRange(0.1, 100), default=5.0, show_default=True,
    help="Slowdown in per cent that must not pass.",
)  # fmt: skip
@click.option(
    "--tolerance", type=click.FloatRange(0, 100), default=1.0, show_default=True,
    help="Slowdown in per cent that nobody minds: FAIL needs more than it, beyond noise.",
)  # fmt: skip
@click.option(
    "--floor", type=click.FloatRange(0), default=20.0, show_default=True,
    help="Difference in microseconds that nobody notices.",
)  # fmt: skip
@click.option(
    "--iterations", type=click.IntRange(11), default=200, show_default=True, help="Timed inferences a launch."
)
@click.option(
    "--batch", type=click.IntRange(1), help="Samples in one inference; default: the model's own, or 1."
)
@click.option(
    "--samples", type=click.IntRange(1, 1024),
    help="Samples that launches are fed in turn, the first ones of --data's, else random; default: one input, and 64 "
    "where the work depends on the data.",
)  # fmt: skip
@input_shape_option
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    metavar="NPZ",
    help="Inputs by name; default: seeded random ones.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides inputs and order."
)
@click.option(
    "-o", "--out", "folder", type=click.Path(path_type=Path), default=Path("gate"), show_default=True,
    help="Folder for gate.json, gate.html, gate.md and junit.xml.",
)  # fmt: skip
@common_options
def gate(
    baseline: Path | None,
    candidate: Path,
    names: tuple[str, ...],
    devices_file: Path | None,
    data: Path | None,
    max_drop: float,
    golden: Path,
    accept: bool,
    budget: float,
    tolerance: float,
    floor: float,
    iterations: int,
    batch: int | None,
    samples: int | None,
    shapes: tuple[str, ...],
    inputs: Path | None,
    seed: int,
    folder: Path,
    as_json: bool,
) -> int:
    """Compare a candidate with a baseline on each device: exit 0 (PASS), 3 (FAIL), 4 (INCONCLUSIVE) or 5 (device gone).

    Both are frozen and timed interleaved in this job, by a sequential test that stops as soon as it can tell: a
    number from another machine or another day is never compared with. Size and outputs on fixed inputs are compared
    exactly, with what a person accepted (--accept) or else with the baseline; accuracy by McNemar's test on the same
    samples. On GitHub, annotations are printed and the step summary is written.

    \b
    Example:
      compress gate --baseline runs/main --candidate runs/mine --device openvino:CPU
      compress gate --baseline old.onnx --candidate new.onnx --device kiosk --data recipe.yaml
      compress gate --accept --candidate runs/mine --device openvino:CPU
    """
    from ..pipeline.commit import current_commit
    from ..pipeline.devices.file import find_devices
    from ..pipeline.gate.accept import accept as accept_candidate
    from ..pipeline.gate.reports import make_room, write_reports
    from ..pipeline.gate.run import GatePlan
    from ..pipeline.gate.run import gate as run_gate
    from ..pipeline.gate.sequential import Limits
    from ..progress import for_stream
    from ..targets.measuring.turns import LaunchPlan

    if not (isfinite(floor + max_drop) and tolerance < budget):  # nan is in every range
        raise click.UsageError(
            f"--tolerance {tolerance:g} must be below --budget {budget:g}, and --floor and --max-drop numbers"
        )
    if (baseline is None) != accept:
        told = (
            "is not looked at with --accept"
            if accept
            else "is missing: name what the candidate is compared with"
        )
        raise click.UsageError(f"--baseline {told}")
    sections = find_devices(names, devices_file)
    plan = GatePlan(
        limits=Limits(tolerance / 100, budget / 100, floor / 1000),
        launches=LaunchPlan(iterations, seed=seed),
        batch=batch or 0,
        inputs=inputs,
        data=data,
        most_drop=max_drop / 100,
        golden=golden,
        commit=current_commit(),
        shapes=given_shapes(shapes),
        samples=samples or 0,
    )
    with quiet_stdout() if as_json else nullcontext():
        if accept or baseline is None:
            written = accept_candidate(candidate, sections, golden, plan, for_stream())
        else:
            make_room(folder)
            record = run_gate(baseline, candidate, sections, plan, for_stream())
            paths = write_reports(record, folder)
    if accept or baseline is None:
        return _say_accepted(written, as_json)
    if as_json:
        print_json(record)
    else:
        _print(record, paths)
    _tell_github(record, as_json)
    lost = record.verdict == "INCONCLUSIVE" and any(device.latency.lost for device in record.devices)
    return ExitCode.DEVICE_UNAVAILABLE if lost else VERDICT_CODES[record.verdict]


def _say_accepted(written: list[tuple[Path, str]], as_json: bool) -> int:
    if as_json:
        print_json([{"path": str(path), "accepted": words} for path, words in written])
        return ExitCode.PASS
    for path, words in written:
        say(f"accepted {words}: wrote {path}; commit it")
    return ExitCode.PASS


def _print(record: GateRecord, paths: list[Path]) -> None:
    from ..pipeline.gate.verdict import subject_of

    rows = [(subject_of(m), m.verdict, m.baseline, m.candidate, m.reason) for m in record.measures]
    console().print(table(("measure", "verdict", "baseline", "candidate", "what was found"), rows))
    say("")
    say(f"{record.verdict}: {record.reason}")
    for path in paths:
        say(f"wrote {path}")


def _tell_github(record: GateRecord, as_json: bool) -> None:
    """What GitHub's runner reads, where this is one."""
    from ..pipeline.gate.reports import github_annotations, markdown

    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in github_annotations(record):
            click.echo(line, err=as_json)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(markdown(record))
        except OSError as error:  # the verdict is what counts
            click.echo(f"warning: {summary}: {error.strerror}; the step summary was not written", err=True)
