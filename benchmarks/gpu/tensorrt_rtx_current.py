"""Build a quantized ONNX file for the NVIDIA GPU of this machine, run it, and print its latency and layers.

\b
    pip install 'edgepress[tensorrt-rtx]'
    python benchmarks/gpu/tensorrt_rtx_current.py runs/demo/model.onnx [--device cuda:0]

Full TensorRT is used instead when the `tensorrt` package is installed. Exit code 5 without a GPU.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
import numpy as np


@click.command(help=__doc__)
@click.argument("onnx", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--device", default="", help="Which GPU, as cuda:0; the first one when not given.")
@click.option("--pairs", default=6, show_default=True, type=click.IntRange(min=2), help="Launches.")
@click.option(
    "--iterations", default=200, show_default=True, type=click.IntRange(min=11), help="In a launch."
)
def main(onnx: Path, device: str, pairs: int, iterations: int) -> None:
    """Build for CURRENT, check against onnxruntime, time in launches of its own, list the layers."""
    from edgepress.errors import CompressError

    try:
        _profile(onnx, device, pairs, iterations)
    except CompressError as error:
        print(error, file=sys.stderr)
        sys.exit(int(error.exit_code))


def _profile(onnx: Path, device: str, pairs: int, iterations: int) -> None:
    from edgepress.errors import DeviceUnavailableError
    from edgepress.targets import onnxruntime, tensorrt
    from edgepress.targets.base import BuiltOnly, TargetOptions
    from edgepress.targets.graphs.attribution import precision_shares
    from edgepress.targets.measuring.device import LocalDevice
    from edgepress.targets.measuring.feeds import repeated
    from edgepress.targets.measuring.latency import summarize
    from edgepress.targets.measuring.turns import LaunchPlan, measure_rounds

    if reason := tensorrt.unavailable(device):
        raise DeviceUnavailableError(f"tensorrt:{device or 'cuda:0'}: {reason}; run this where there is one")
    options = TargetOptions(device=device, batch=1)
    feeds = _feeds(onnx)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = tensorrt.build(onnx, options, folder / "gpu")
        assert not isinstance(engine, BuiltOnly), "with a GPU here the engine is built for it"
        expected = onnxruntime.build(onnx, TargetOptions(batch=1), folder / "cpu").run(feeds)[0]
        actual = engine.run(feeds)[0]
        here = LocalDevice("tensorrt", "tensorrt", options, folder)
        engines = {"tensorrt": here.adopt(engine.artefacts[0].path)}
        plan = LaunchPlan(iterations, warmup_s=5.0)
        timed = summarize(measure_rounds(here, engines, repeated(feeds), pairs, plan))
        layers = engine.layers(feeds, iterations)
    noise = float(np.square(actual.astype(np.float64) - expected).sum())
    sqnr = 10 * np.log10(np.square(expected.astype(np.float64)).sum() / noise) if noise else np.inf
    for key, value in engine.settings.items():
        print(f"{key}: {value}")
    print(f"SQNR against onnxruntime on the CPU: {sqnr:.1f} dB")
    low, high = timed.ci95
    print(f"latency: {timed.p50:.4f} ms (95 % interval {low:.4f} to {high:.4f}, {timed.launches} launches)")
    shares = precision_shares(layers)
    print("MACs executed in", ", ".join(f"{kind}: {100 * share:.1f} %" for kind, share in shares.items()))
    for layer in layers:
        ms = "not timed" if layer.ms is None else f"{layer.ms:.4f} ms"
        print(f"  {layer.precision:8} {ms:>12} {layer.macs:>12} MACs  {layer.type}: {layer.name}")


def _feeds(path: Path) -> dict[str, np.ndarray]:
    """Seeded normal numbers for every input, batch 1."""
    from edgepress.targets.graphs.onnx_graph import load_onnx

    draw = np.random.default_rng(0)
    graph = load_onnx(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    feeds = {}
    for value in graph.input:
        if value.name not in constants:
            _, *sample = [d.dim_value for d in value.type.tensor_type.shape.dim]
            feeds[value.name] = draw.standard_normal((1, *sample)).astype(np.float32)
    return feeds


if __name__ == "__main__":
    main()
