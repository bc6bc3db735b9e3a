"""`compress tabulate`: what a network's layers take on a device, so that a pass can prune for its time."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .devices import devices_option
from .input_shape import given_shapes, input_shape_option
from .output import common_options, console, print_json, quiet_stdout, say, table

if TYPE_CHECKING:
    from ..calibration.latency_table import LatencyTable, Precision

SLOWEST = 10


@click.command()
@click.argument("model")
@click.option(
    "-d", "--device", "name", required=True, metavar="NAME",
    help="A name of the devices file, or RUNTIME[:DEVICE] of this machine, as openvino:CPU.",
)  # fmt: skip
@devices_option
@click.option(
    "--int8/--float", "int8", default=None,
    show_default="what a recipe's passes end in; int8 for a network without a recipe",
    help="Whether the networks are quantized before they are timed, as by the pass quantize.",
)  # fmt: skip
@click.option(
    "--probes", type=click.IntRange(0, 1000), default=24, show_default=True,
    help="Smaller networks to time, of random widths and with random blocks out.",
)  # fmt: skip
@click.option(
    "--round-to", type=click.IntRange(1, 1024), default=8, show_default=True,
    help="Channels that widths are multiples of.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides the widths.")
@input_shape_option
@click.option(
    "--trust-pickle", metavar="SHA256", help="Read the one file with this digest although it holds code."
)
@click.option(
    "-o", "--out", "path", type=click.Path(path_type=Path, dir_okay=False),
    help="The table, and its page beside it; default: MODEL-DEVICE-PRECISION.json.",
)  # fmt: skip
@common_options
def tabulate(
    model: str,
    name: str,
    devices_file: Path | None,
    int8: bool | None,
    probes: int,
    round_to: int,
    seed: int,
    shapes: tuple[str, ...],
    trust_pickle: str | None,
    path: Path | None,
    as_json: bool,
) -> None:
    """Measure on a device how long MODEL takes, layer by layer, at whatever widths: a table that predicts the
    latency of any pruned version of it, and by which the pass gates prunes for latency.

    MODEL is a recipe, a float .onnx file, pkg.module:factory, timm:NAME or torchvision:NAME. Smaller versions of it are
    built and timed in turns with the whole; each is then predicted by the others, which is the error that the table
    tells of itself. Time does not depend on weights, so none are needed. A repeat takes up what the file already
    holds of the same network, device and versions.

    \b
    Example:
      compress tabulate recipe.yaml --device openvino:CPU
      compress tabulate timm:resnet18 --device kiosk --float --probes 40 -o resnet18-kiosk.json
    """
    from dataclasses import replace

    from ..pipeline.devices.file import find_devices
    from ..pipeline.devices.opened import folder_name, require_reached
    from ..pipeline.files import write_atomically
    from ..pipeline.tabulate.asked import asked
    from ..pipeline.tabulate.page import table_html
    from ..pipeline.tabulate.run import tabulate as measure
    from ..progress import for_stream

    devices, progress = find_devices((name,), devices_file), for_stream()
    with quiet_stdout() if as_json else nullcontext():
        require_reached(devices)
        found = asked(model, devices, given_shapes(shapes), trust_pickle, progress)
        wanted: Precision = found.plan.precision if int8 is None else "int8" if int8 else "float"
        plan = replace(found.plan, precision=wanted, probes=probes, round_to=round_to, seed=seed)
        place = path or Path(f"{found.name}-{folder_name(name)}-{wanted}.json")
        told = measure(found.model, devices, place, plan, progress, found.limits)
        write_atomically(place.with_suffix(".html"), table_html(told).encode())
    if as_json:
        print_json(told)
    else:
        _print(told, place)


def _print(found: LatencyTable, place: Path) -> None:
    from ..pipeline.pages.words import bare_ms, ms, percent
    from ..pipeline.tabulate.page import error_text, slowest
    from ..text import short

    rows = [
        (
            short(layer.name, 60),
            layer.type,
            f"{layer.inputs} -> {layer.outputs}",
            bare_ms(layer.measured_ms),
            bare_ms(layer.whole),
            percent(layer.fixed / layer.whole if layer.whole else None, 0),
        )
        for layer in slowest(found)[:SLOWEST]
    ]
    say(f"slowest {len(rows)} of {len(found.layers)} layers, of {ms(found.whole_ms)} in all:")
    headings = ("layer", "type", "channels", "runtime's ms", "table's ms", "fixed part")
    console().print(table(headings, rows, numeric=(3, 4, 5)))
    say(f"error:  {error_text(found)}")
    say(f"table:  {place.resolve()}")
    say(f"page:   {place.with_suffix('.html').resolve()}")
