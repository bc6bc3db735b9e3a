"""What `compress pack --error` costs: bytes and accuracy of ONNX files at several errors, without data or training.

\b
    compress run examples/solar/cnn.yaml -o runs/solar-cnn
    python benchmarks/pack_error.py examples/solar/cnn.yaml runs/solar-cnn/float.onnx runs/solar-cnn/model.onnx

Accuracy is that of onnxruntime on the file packed and unpacked, on the test part of the recipe's data.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
from int8_peers import _forward, _read
from reporting import environment, markdown_table, provenance, write

PACKAGES = ("edgepress", "torch", "onnx", "onnxruntime")
ERRORS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Percent of each tensor's energy; 0 is without loss."""


@click.command(help=__doc__)
@click.argument("recipe", type=click.Path(path_type=Path, exists=True))
@click.argument("models", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@click.option(
    "--error", "errors", multiple=True, type=click.FloatRange(0, 50, max_open=True), help="Instead."
)
def main(recipe: Path, models: tuple[Path, ...], errors: tuple[float, ...]) -> None:
    """Pack, unpack and measure every model at every error, and write the table."""
    told = environment(PACKAGES)
    _, data, context, _ = _read(recipe)
    rows = []
    for model in models:
        for error in errors or ERRORS:
            rows.append(_row(model, error, data, context))
            print(f"  {model.name} at {error:g} %: {rows[-1]['bytes']:,} bytes", flush=True)
    text = "# Accuracy after `compress pack --error`\n\n" + provenance(told) + "\n" + _table(rows)
    print(text, "written:", *write("pack_error", {"environment": told, "rows": rows}, text))


def _row(model: Path, error: float, data: Any, context: Any) -> dict[str, Any]:
    from edgepress.pipeline.packing.l2z_file import pack_file, unpack_file
    from edgepress.targets import onnxruntime
    from edgepress.targets.base import TargetOptions

    with tempfile.TemporaryDirectory() as folder:
        small, unpacked = Path(folder) / "model.l2z", Path(folder) / "model.onnx"
        small.write_bytes(pack_file(model, error=error / 100))
        unpack_file(small, unpacked)
        engine = onnxruntime.load(unpacked, TargetOptions())
        accuracy = context.metric.measure(_forward(engine), data.judge, 16).record
        return {
            "model": model.name,
            "error": error,
            "before": model.stat().st_size,
            "bytes": small.stat().st_size,
            "accuracy": accuracy.value,
            "n": accuracy.n,
        }


def _table(rows: list[dict[str, Any]]) -> str:
    return markdown_table(
        ("file", "error", "packed", "of the file", "accuracy"),
        [
            [
                row["model"],
                f"{row['error']:g} %",
                f"{row['bytes']:,} B",
                f"{100 * row['bytes'] / row['before']:.1f} %",
                f"{100 * row['accuracy']:.2f} % (n = {row['n']})",
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
