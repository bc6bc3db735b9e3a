"""`compress profile`: latency, precision, memory and layers of ONNX files, device by device, side by side."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ExitCode
from .devices import devices_option
from .input_shape import given_shapes, input_shape_option
from .output import common_options, console, print_json, quiet_stdout, say, table

if TYPE_CHECKING:
    from ..pipeline.profile.record import DeviceProfile, Profile, Profiles
    from ..targets.base import FloatPrecision, Mode
    from ..targets.layer import Layer
    from ..targets.measuring.latency import Latency

SLOWEST = 10


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", type=click.Path(path_type=Path))
@click.option(
    "-d", "--device", "-t", "--target", "names", multiple=True, required=True, metavar="NAME",
    help="Where to run: RUNTIME[:DEVICE], as openvino:CPU, or a name of devices.yaml; several times.",
)  # fmt: skip
@devices_option
@click.option(
    "--pairs", type=click.IntRange(2, 50), default=6, show_default=True, help="Launches of each engine."
)
@click.option(
    "--iterations", type=click.IntRange(11), default=60, show_default=True, help="Timed inferences a launch."
)
@click.option(
    "--mode", type=click.Choice(["latency", "throughput"]),
    help="One inference at a time, or as many at once as the device likes; default: the devices file's, or latency.",
)  # fmt: skip
@click.option(
    "--sustained", "sustain_s", type=click.FloatRange(0, 3600), default=0.0, metavar="SECONDS",
    help="Then load each engine so long without a pause, and find when it gets slower.",
)  # fmt: skip
@click.option(
    "--float-precision", type=click.Choice(["default", "f32"]),
    help="What float layers run in: the runtime's choice (BF16 on some CPUs), or always f32.",
)  # fmt: skip
@click.option(
    "--copies/--no-copies", default=None,
    help="Whether handing inputs in and outputs out is timed too, as an application has it (the default).",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(1), help="Samples in one inference; default: the model's own, or 1."
)
@click.option(
    "--samples", type=click.IntRange(1, 1024),
    help="Random samples that launches are fed in turn; default: one input, and 64 where the work depends on the data.",
)  # fmt: skip
@input_shape_option
@click.option("--threads", type=click.IntRange(0, 1024), help="CPU threads; 0 is the runtime's own choice.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides inputs and order."
)
@click.option(
    "-o", "--out", "folder", type=click.Path(path_type=Path),
    help="Keep engines and profile.json here; of several models, a folder for each.",
)  # fmt: skip
@common_options
def profile(
    models: tuple[Path, ...],
    names: tuple[str, ...],
    devices_file: Path | None,
    pairs: int,
    iterations: int,
    mode: Mode | None,
    sustain_s: float,
    float_precision: FloatPrecision | None,
    copies: bool | None,
    batch: int | None,
    samples: int | None,
    shapes: tuple[str, ...],
    threads: int | None,
    seed: int,
    folder: Path | None,
    as_json: bool,
) -> int:
    """Time ONNX or .l2z models on each device, in turns and in processes of their own, and compare them.

    Several models are compared with the first one: paired ratios with their intervals, and the layers that differ
    most. Exit code 2 when a runtime refused a model, 5 when a device is not here; the others are timed.

    \b
    Example:
      compress profile model.onnx --device openvino:CPU --device onnxruntime
      compress profile float.onnx int8.onnx -d openvino:CPU --float-precision f32
      compress profile model.l2z -d kiosk --mode throughput --sustained 120 -o profiles/model
    """
    from ..pipeline.devices.file import changed, find_devices
    from ..pipeline.onnx_files.inputs import with_shapes
    from ..pipeline.packing.as_onnx import as_onnx
    from ..pipeline.profile.run import profile as measure
    from ..pipeline.profile.timing import ProfilePlan
    from ..progress import for_stream

    settings = {"mode": mode, "float_precision": float_precision, "threads": threads, "copies": copies}
    sections = {
        name: changed(section, **settings) for name, section in find_devices(names, devices_file).items()
    }
    plan = ProfilePlan(pairs, iterations, batch or 0, seed, sustain_s=sustain_s, samples=samples or 0)
    with ExitStack() as held:
        held.enter_context(quiet_stdout() if as_json else nullcontext())
        place = folder or Path(held.enter_context(tempfile.TemporaryDirectory()))
        given = given_shapes(shapes)
        files = [held.enter_context(as_onnx(model)) for model in models]
        graphs = [held.enter_context(with_shapes(file, given)) for file in files]
        found = measure(graphs, sections, place, plan, for_stream())
    if folder is not None:
        found.write(folder)
    if as_json:
        print_json(found.profiles[0] if len(models) == 1 else found)
    else:
        _print_all(found)
    statuses = {device.status for one in found.profiles for device in one.devices}
    if "failed" in statuses:
        return ExitCode.USAGE_ERROR
    return ExitCode.PASS if statuses == {"run"} else ExitCode.DEVICE_UNAVAILABLE


def _print_all(found: Profiles) -> None:
    for index, one in enumerate(found.profiles):
        if index:
            say("")
        _print(one)
    if found.ratios:
        say("")
        _print_ratios(found)


def _print_ratios(found: Profiles) -> None:
    """Each model against the first, and the layers that make the difference."""
    from ..pipeline.pages.words import bare_ms, ratio, ratio_interval, signed
    from ..pipeline.report.layers import match_layers
    from ..text import short

    rows = [
        (r.device, r.other, r.first, f"{ratio(r.ratio)} ({ratio_interval(r.ci95)})", f"{r.pairs} rounds")
        for r in found.ratios
    ]
    say("faster than the first model that runs on the device by (95 % interval, paired by turns):")
    console().print(table(("device", "model", "over", "ratio", ""), rows))
    for r in found.ratios:
        before, after = (found.engine(name, r.device) for name in (r.first, r.other))
        changes = []
        for row in match_layers(before.layers, after.layers):
            sides = [side.ms if side is not None else 0.0 for side in (row.before, row.after)]
            if None not in sides:
                first, other = (side or 0.0 for side in sides)
                precisions = " → ".join(
                    side.precision if side else "none" for side in (row.before, row.after)
                )
                changes.append((abs(other - first), row.name, precisions, first, other))
        changes.sort(reverse=True)
        cells = [
            (short(n, 60), p, bare_ms(a), bare_ms(b), signed(b - a, 3)) for _, n, p, a, b in changes[:SLOWEST]
        ]
        if cells:
            say("")
            say(f"layers that differ most on {r.device}, {r.first} → {r.other}:")
            console().print(table(("layer", "precision", "ms", "ms", "change"), cells, numeric=(2, 3, 4)))


def _print(found: Profile) -> None:
    shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in found.inputs.items())
    say(f"{found.source}: {shapes}; {found.pairs} launches in turns, of {found.iterations} inferences")
    say(f"note: {found.note}")
    for device in found.devices:
        say("")
        _print_device(device)


def _print_device(device: DeviceProfile) -> None:
    from ..pipeline.int8_share import uncounted_text
    from ..pipeline.pages.words import byte_size, percent

    say(
        f"{device.label}  {device.version or ''}  {device.status}"
        + (f": {device.reason}" if device.reason else "")
    )
    engine = device.engine
    if engine is None:
        return
    rows = _latency_rows(engine.latency_ms) if engine.latency_ms is not None else []
    rows += _resource_rows(device)
    rows.append(("engine size", byte_size(engine.engine_bytes)))
    shares = ", ".join(f"{name} {percent(share, 1)}" for name, share in engine.precision.items())
    uncounted = [layer for layer in engine.layers if layer.macs is None]
    unknown = f"unknown: {uncounted_text(uncounted)}" if uncounted else "not known"
    rows.append(("MACs executed in", shares or unknown))
    settings = ", ".join(f"{key} = {value}" for key, value in engine.settings.items())
    rows.append(("effective settings", settings))
    console().print(table(("", ""), rows))
    if engine.layers:
        _print_layers(engine.layers)


def _resource_rows(device: DeviceProfile) -> list[tuple[str, str]]:
    """Throughput, memory, energy and sustained load, each with what this machine cannot tell."""
    from ..pipeline.pages.words import byte_size, energy, ms

    found, rows = device.resources, []
    if found is not None:
        rows.append(
            ("throughput", f"{found.throughput_per_s:,.1f} samples a second ({device.options['mode']} mode)")
        )
        rows.append(("memory, peak", byte_size(found.peak_memory_bytes)))
        rows.append(("of it for the engine", byte_size(found.engine_memory_bytes)))
        told = "not measured: no counter here" if found.joules is None else energy(found.joules)
        rows.append(("energy of one inference", told))
    if (long := device.sustained) is not None:
        knee = "no thermal knee" if long.knee_s is None else f"slower from {long.knee_s:.0f} s on"
        rows.append(
            ("sustained", f"{ms(long.first_ms)} → {ms(long.last_ms)} in {long.seconds:.0f} s, {knee}")
        )
    return rows


def _latency_rows(latency: Latency) -> list[tuple[str, str]]:
    from ..pipeline.pages.words import bare_ms, between, ms
    from ..targets.measuring.latency import NEEDED
    from ..text import short

    low, high = latency.ci95
    rows = [("latency p50", f"{ms(latency.p50)} (95 % interval {between(bare_ms(low), ms(high))})")]
    for q, value in ((0.9, latency.p90), (0.99, latency.p99)):
        why = "" if value is not None else f": n = {latency.n}, it needs {NEEDED[q]}"
        rows.append((f"latency p{round(100 * q)}", ms(value) + why))
    over = f", over {short(latency.inputs_origin)}" if latency.inputs_origin else ""
    rows.append(("samples", f"{latency.n} in {latency.launches} launches{over}"))
    rows += [("note", note) for note in latency.note.split("; ") if note and " needs " not in note]
    rows.append(("load", ms(latency.load_ms)))
    rows.append(("first inference", ms(latency.first_inference_ms)))
    return rows


def _print_layers(layers: list[Layer]) -> None:
    from ..pipeline.pages.words import bare_ms, count_size
    from ..pipeline.report.layers import heaviness
    from ..text import short

    slowest = sorted(layers, key=lambda layer: (-(layer.ms or 0.0), -heaviness(layer)))[:SLOWEST]
    rows = [
        (short(r.name, 60), r.type, r.precision, bare_ms(r.ms), "" if r.macs == 0 else count_size(r.macs))
        for r in slowest
    ]
    say(f"slowest {len(slowest)} of {len(layers)} layers:")
    console().print(table(("layer", "type", "precision", "ms", "MACs"), rows, numeric=(3, 4)))
