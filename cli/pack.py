"""`compress pack` and `unpack`: a model in one small file, and back bit for bit."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import CompressError
from .output import common_options, print_json, say


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The file to write; default: beside the model, as .l2z.",
)
@click.option(
    "--trust-pickle", metavar="SHA256", help="Read the one file with this digest although it holds code."
)
@click.option("--lossless", is_flag=True, help="Every bit of every tensor comes back: the default.")
@click.option(
    "--error", type=click.FloatRange(0, 50, min_open=True, max_open=True), metavar="PERCENT",
    help="Let the squared error of each weight tensor be so much of its own energy; 0.1 to 1 is usual.",
)  # fmt: skip
@common_options
def pack(
    model: Path,
    output: Path | None,
    trust_pickle: str | None,
    lossless: bool,
    error: float | None,
    as_json: bool,
) -> None:
    """Pack MODEL, a .safetensors, .pt or .onnx file or a run folder, into an .l2z file, without loss unless told.

    Every bit of every tensor comes back; the file is unpacked and compared before it is written. INT8 weights and
    tensors of few values shrink most, float weights by a fifth. With --error weights are rounded first, without data
    and without training: floats by dependent quantization, INT8 weights to every second, third … integer, so that
    the graph stays what it is. Nothing is then known of accuracy: see `compress gate --data`, or let the pass l2 find
    a smaller file that keeps it.

    \b
    Example:
      compress pack model.safetensors
      compress pack runs/demo -o small.l2z
      compress pack model.onnx --error 0.3
    """
    from ..pipeline.files import write_atomically
    from ..pipeline.packing.l2z_file import SUFFIX, pack_file, source_of
    from ..progress import for_stream

    if lossless and error is not None:
        raise click.UsageError("--lossless and --error contradict each other: give one of them")
    model = source_of(model)
    target = output or model.parent / f"{model.stem}{SUFFIX}"
    if target.suffix != SUFFIX:
        raise CompressError(f"pack: {target}: expected a file that ends in {SUFFIX}")
    content = pack_file(model, trust_pickle, error=(error or 0) / 100, progress=for_stream())
    write_atomically(target, content)
    before, after = model.stat().st_size, len(content)
    if as_json:
        print_json({"source": str(model), "source_bytes": before, "path": str(target), "bytes": after})
    else:
        say(f"{target}: {after:,} bytes, {before / after:.2f}x smaller than {model.name} ({before:,})")


@click.command()
@click.argument("packed", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="A .safetensors or .onnx file."
)
@common_options
def unpack(packed: Path, output: Path, as_json: bool) -> None:
    """Unpack the .l2z file PACKED: its tensors, or its ONNX graph with them, bit for bit.

    \b
    Example:
      compress unpack model.l2z -o model.safetensors
      compress unpack small.l2z -o model.onnx
    """
    from ..pipeline.packing.l2z_file import unpack_file

    unpack_file(packed, output)
    size = output.stat().st_size
    if as_json:
        print_json({"source": str(packed), "path": str(output), "bytes": size})
    else:
        say(f"{output}: {size:,} bytes")
