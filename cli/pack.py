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
@common_options
def pack(model: Path, output: Path | None, trust_pickle: str | None, as_json: bool) -> None:
    """Pack MODEL, a .safetensors, .pt or .onnx file or a run folder, into an .l2z file without any loss.

    Every bit of every tensor comes back; the file is unpacked and compared before it is written. INT8 weights and
    tensors of few values shrink most, float weights by a fifth.

    \b
    Example:
      compress pack model.safetensors
      compress pack runs/demo -o small.l2z
    """
    from ..pipeline.files import write_atomically
    from ..pipeline.l2z.pack import SUFFIX, pack_file, source_of

    model = source_of(model)
    target = output or model.parent / f"{model.stem}{SUFFIX}"
    if target.suffix != SUFFIX:
        raise CompressError(f"pack: {target}: expected a file that ends in {SUFFIX}")
    content = pack_file(model, trust_pickle)
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
    from ..pipeline.l2z.pack import unpack_file

    unpack_file(packed, output)
    size = output.stat().st_size
    if as_json:
        print_json({"source": str(packed), "path": str(output), "bytes": size})
    else:
        say(f"{output}: {size:,} bytes")
