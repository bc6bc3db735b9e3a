"""`compress devices`: the devices of devices.yaml, what they are, and how fine a gate on them can be."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .input_shape import given_shapes, input_shape_option
from .output import common_options, console, print_json, quiet_stdout, say, say_lines, table

if TYPE_CHECKING:
    from ..pipeline.devices.probe import Probe

F = TypeVar("F", bound=Callable[..., Any])

devices_option = click.option(
    "--devices", "devices_file", type=click.Path(path_type=Path), metavar="FILE",
    help="Names of devices; default: devices.yaml of this folder, if there is one.",
)  # fmt: skip


def device_options(function: F) -> F:
    """Give a command `--device` (as `names`) and `--devices` (as `devices_file`)."""
    device = click.option(
        "-d", "--device", "names", multiple=True, required=True, metavar="NAME",
        help="A name of the devices file, or RUNTIME[:DEVICE] of this machine, as openvino:CPU; several times.",
    )  # fmt: skip
    return device(devices_option(function))


@click.group()
def devices() -> None:
    """Name devices in a file, and see what each can do; every subcommand takes --json.

    \b
    Example:
      compress devices example > devices.yaml
      compress devices probe openvino:CPU
    """


@devices.command()
@common_options
def example(as_json: bool) -> None:
    """Print a devices.yaml to start from: this machine, two over SSH, and a simulated one.

    \b
    Example:
      compress devices example > devices.yaml
    """
    from ..pipeline.devices.file import EXAMPLE

    if as_json:
        print_json({"devices.yaml": EXAMPLE})
    else:
        say_lines(EXAMPLE.rstrip())


@devices.command("list")
@devices_option
@common_options
def list_devices(devices_file: Path | None, as_json: bool) -> None:
    """List the devices of the file with their settings; none of them is reached.

    \b
    Example:
      compress devices list
    """
    from ..pipeline.devices.file import DEVICES_FILE, read_devices

    found = read_devices(devices_file or DEVICES_FILE)
    if as_json:
        print_json({name: section.model_dump(mode="json") for name, section in found.items()})
        return
    rows = []
    for name, section in found.items():
        where = section.ssh.host if section.ssh is not None else "this machine"
        told = section.model_dump(mode="json", exclude_defaults=True, exclude={"runtime", "device", "ssh"})
        settings = ", ".join(f"{key} = {value}" for key, value in told.items())
        rows.append((name, section.runtime, section.device or "its default", where, settings))
    console().print(table(("name", "runtime", "device", "where", "settings"), rows))


@devices.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@devices_option
@click.option(
    "--pairs", type=click.IntRange(0, 200), default=12, show_default=True,
    help="Pairs of launches of one engine against itself; 0: only ask what the device is.",
)  # fmt: skip
@click.option(
    "--model", type=click.Path(path_type=Path), metavar="ONNX",
    help="What to time; default: a small convolutional network made for this.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides inputs and order."
)
@input_shape_option
@common_options
def probe(
    names: tuple[str, ...],
    devices_file: Path | None,
    pairs: int,
    model: Path | None,
    seed: int,
    shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show a device's capability, versions and state, and the smallest slowdown that a gate can police on it.

    That comes from pairs of launches of one engine against itself: what they differ by is noise, and a slowdown must
    rise above it. Probe with the model you gate for a figure that holds for it. Exit code 5: a device is not there.

    \b
    Example:
      compress devices probe openvino:CPU
      compress devices probe kiosk line-camera --model model.onnx --pairs 20
    """
    from ..pipeline.devices.file import find_devices
    from ..pipeline.devices.probe import ProbePlan
    from ..pipeline.devices.probe import probe as ask
    from ..progress import for_stream

    sections = find_devices(names, devices_file)
    with quiet_stdout() if as_json else nullcontext():
        found = ask(sections, ProbePlan(model, pairs, seed=seed, shapes=given_shapes(shapes)), for_stream())
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
        return
    for index, one in enumerate(found):
        if index:
            say("")
        _print(one)


def _print(found: Probe) -> None:
    from ..pipeline.pages.words import ms

    say(f"{found.label}: {found.runtime} {found.version or ''}".rstrip())
    rows = [("machine", found.machine), *found.capabilities.items()]
    rows += [
        (key.replace("_", " "), str(value)) for key, value in found.state.items() if value not in (None, {})
    ]
    unknown = [key.replace("_", " ") for key, value in found.state.items() if value is None]
    if unknown:
        rows.append(("not told here", ", ".join(unknown)))
    rows += [(key, str(value)) for key, value in found.settings.items()]
    if (
        found.sd is not None
        and found.smallest_slowdown is not None
        and found.worst_smallest_slowdown is not None
    ):
        rows.append(("timed", f"{found.model}, {ms(found.median_ms)}, {found.pairs} pairs with itself"))
        rows.append(("noise of a pair", f"{100 * found.sd:.2f} % (standard deviation)"))
        rows.append(
            (
                "a gate can police",
                f"slowdowns from {100 * found.smallest_slowdown:.1f} %"
                f" (at worst {100 * found.worst_smallest_slowdown:.1f} %, as {found.pairs} pairs know the noise)",
            )
        )
    console().print(table(("", ""), rows))
