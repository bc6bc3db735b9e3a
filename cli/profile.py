"""`compress profile`: the latency of any ONNX file, device by device."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ExitCode
from .output import common_options, console, print_json, quiet_stdout, say, table

if TYPE_CHECKING:
    from ..pipeline.profile import DeviceProfile, Profile
    from ..pipeline.result import LatencyRecord, LayerRecord
    from ..targets.base import FloatPrecision

SLOWEST = 10


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-t", "--target", "labels", multiple=True, required=True, metavar="RUNTIME[:DEVICE]",
    help="Where to run, as openvino:CPU; may be given several times.",
)  # fmt: skip
@click.option(
    "--pairs", type=click.IntRange(2, 50), default=6, show_default=True, help="Launches of each engine."
)
@click.option(
    "--iterations", type=click.IntRange(11), default=60, show_default=True, help="Timed inferences a launch."
)
@click.option(
    "--float-precision", type=click.Choice(["default", "f32"]), default="default", show_default=True,
    help="What float layers run in: the runtime's choice (BF16 on some CPUs), or always f32.",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(1), help="Samples in one inference; default: the model's own, or 1."
)
@click.option(
    "--threads", type=click.IntRange(0, 1024), default=0, help="CPU threads; 0 is the runtime's own choice."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides inputs and order."
)
@click.option(
    "-o", "--out", "folder", type=click.Path(path_type=Path), help="Keep engines and profile.json here."
)
@common_options
def profile(
    model: Path,
    labels: tuple[str, ...],
    pairs: int,
    iterations: int,
    float_precision: FloatPrecision,
    batch: int | None,
    threads: int,
    seed: int,
    folder: Path | None,
    as_json: bool,
) -> int:
    """Time MODEL on each target, and show its layers and their executed precision.

    MODEL is an ONNX file, or an .l2z file with one inside.

    Exit code 2 when a runtime refused the model, 5 when a device is not here; the others are timed.

    \b
    Example:
      compress profile model.onnx --target openvino:CPU --target onnxruntime
      compress profile model.onnx -t openvino:CPU --float-precision f32 --json
      compress profile model.l2z -t openvino:CPU
    """
    from ..pipeline.l2z.pack import as_onnx
    from ..pipeline.profile import ProfilePlan
    from ..pipeline.profile import profile as measure
    from ..progress import for_stream

    plan = ProfilePlan(pairs, iterations, float_precision, batch or 0, threads, seed)
    with (
        quiet_stdout() if as_json else nullcontext(),
        tempfile.TemporaryDirectory() as temporary,
        as_onnx(model) as graph,
    ):
        found = measure(graph, labels, folder or Path(temporary), plan, for_stream())
    if folder is not None:
        found.write(folder)
    if as_json:
        print_json(found)
    else:
        _print(found)
    statuses = {device.status for device in found.devices}
    if "failed" in statuses:
        return ExitCode.USAGE_ERROR
    return ExitCode.PASS if statuses == {"run"} else ExitCode.DEVICE_UNAVAILABLE


def _print(found: Profile) -> None:
    shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in found.inputs.items())
    say(f"{found.source}: {shapes}; {found.pairs} interleaved launches of {found.iterations} inferences")
    say(f"note: {found.note}")
    for device in found.devices:
        say("")
        _print_device(device)


def _print_device(device: DeviceProfile) -> None:
    from ..pipeline.report_text import byte_size, percent

    label = f"{device.runtime}:{device.device}" if device.device else device.runtime
    say(f"{label}  {device.version or ''}  {device.status}" + (f": {device.reason}" if device.reason else ""))
    engine = device.engine
    if engine is None:
        return
    rows = _latency_rows(engine.latency_ms) if engine.latency_ms is not None else []
    rows.append(("engine size", byte_size(engine.engine_bytes)))
    shares = ", ".join(f"{name} {percent(share, 1)}" for name, share in engine.precision.items())
    rows.append(("MACs executed in", shares or "not known"))
    settings = ", ".join(f"{key} = {value}" for key, value in engine.settings.items())
    rows.append(("effective settings", settings))
    console().print(table(("", ""), rows))
    if engine.layers:
        _print_layers(engine.layers)


def _latency_rows(latency: LatencyRecord) -> list[tuple[str, str]]:
    from ..pipeline.report_text import bare_ms, between, ms
    from ..targets.latency import NEEDED

    low, high = latency.ci95
    rows = [("latency p50", f"{ms(latency.p50)} (95 % interval {between(bare_ms(low), ms(high))})")]
    for q, value in ((0.9, latency.p90), (0.99, latency.p99)):
        why = "" if value is not None else f": n = {latency.n}, it needs {NEEDED[q]}"
        rows.append((f"latency p{round(100 * q)}", ms(value) + why))
    rows.append(("samples", f"{latency.n} in {latency.launches} launches"))
    rows += [("note", note) for note in latency.note.split("; ") if note and " needs " not in note]
    rows.append(("load", ms(latency.load_ms)))
    rows.append(("first inference", ms(latency.first_inference_ms)))
    return rows


def _print_layers(layers: list[LayerRecord]) -> None:
    from ..pipeline.report_text import bare_ms, count_size, short

    slowest = sorted(layers, key=lambda layer: (-(layer.ms or 0.0), -layer.macs))[:SLOWEST]
    rows = [
        (short(r.name, 60), r.type, r.precision, bare_ms(r.ms), count_size(r.macs) if r.macs else "")
        for r in slowest
    ]
    say(f"slowest {len(slowest)} of {len(layers)} layers:")
    console().print(table(("layer", "type", "precision", "ms", "MACs"), rows, numeric=(3, 4)))
