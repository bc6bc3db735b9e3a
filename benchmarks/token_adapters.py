"""Every kind of vision transformer that `tokens` knows, small: ONNX against PyTorch, and whether TensorRT builds it.

\b
    python benchmarks/token_adapters.py
    python benchmarks/token_adapters.py --only "timm ViT" --rule importance:soft --rule importance:mean

The networks of the tests, with random weights, and a schedule that merges and, where tokens may go, drops; in float and
in INT8 (`quantize`; PyTorch then has fake quantizers). One exported file of any batch runs on onnxruntime and, in f32,
on OpenVINO, at batches of 1, 3 and 8; TensorRT builds it ahead of time. Exit code 1 when TensorRT refuses it, or when
outputs are less than 60 dB above their error in float; in INT8, where a value beside a rounding boundary may fall on
either side, less than 20 dB.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from reporting import environment, markdown_table, provenance, write
from token_peers import RULES

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from token_nets import NETWORKS, SIDE, built

PACKAGES = (
    "edgepress",
    "torch",
    "timm",
    "torchvision",
    "transformers",
    "onnxruntime",
    "openvino",
    "tensorrt_rtx",
)
RUNTIMES = ("onnxruntime", "openvino")
BATCHES = (1, 3, 8)
GPUS = ("SM86", "SM89")
LEAST_DB = {"float": 60.0, "INT8": 20.0}
CALIBRATION = 32


def fewer(name: str, rule: str) -> Any:
    """The network of that name as a model that loses tokens in its first two blocks."""
    from edgepress.model import Model
    from edgepress.passes.merging.encoder import token_network
    from edgepress.passes.merging.reading import tokens_read
    from edgepress.passes.merging.schedule import Schedule
    from edgepress.passes.merging.settings import Settings, blocks_of, set_up

    inputs = (images(2),)
    encoder, network = token_network(built(name), inputs)
    last = tokens_read(network, inputs, encoder)[-1]
    read = last + 1 if last < encoder.leading else None
    patches, blocks = encoder.patches, len(blocks_of(network, encoder).each)
    merged = [patches // 2, *[patches // 4] * (blocks - 1)]
    given = [patches, *merged[:-1]]
    pruned = given if read is None else [(a + b + 1) // 2 for a, b in zip(given, merged, strict=True)]
    matching, _, merge = rule.partition(":")
    schedule = Schedule.of(patches, pruned, merged, merge, matching)
    return Model(set_up(network, Settings(encoder, schedule, read or 0, read)), inputs)


def images(count: int) -> torch.Tensor:
    """Noise, the same each time, (n, 3, 32, 32)."""
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(count))


def quantized(model: Any) -> Any:
    """The model in INT8, on grids that all runtimes accept."""
    from edgepress.calibration.data import DataParts, Part
    from edgepress.calibration.metric import TopK
    from edgepress.calibration.samples import ArraySamples
    from edgepress.calibration.scheme import intersect
    from edgepress.passes.base import PassContext
    from edgepress.passes.quantize import Quantize
    from edgepress.targets import TARGETS

    part = Part("noise", ArraySamples((images(CALIBRATION),), torch.zeros(CALIBRATION).long()))
    scheme = intersect(TARGETS[name].scheme for name in (*RUNTIMES, "tensorrt"))
    context = PassContext(DataParts(part, part, part, None, manifest=""), TopK(1), scheme)
    options = {"sensitivity_samples": 0, "ranges": "minmax", "equalization": "off"}
    return Quantize.model_validate(options).apply(model, context).model


def ratios(model: Any, path: Path, folder: Path) -> Iterator[tuple[str, float]]:
    """Each runtime and batch, and the SQNR in dB of its outputs against PyTorch's."""
    from edgepress.calibration.sqnr import sqnr_db
    from edgepress.targets import TARGETS
    from edgepress.targets.base import TargetOptions

    for runtime in RUNTIMES:
        engine = TARGETS[runtime].build(path, TargetOptions(float_precision="f32"), folder / runtime)
        for batch in BATCHES:
            x = images(batch)
            [found] = engine.run({"input": x.numpy()})
            yield f"{runtime}, {batch}", sqnr_db(model.run(x)[0], torch.from_numpy(found))


def builds(path: Path, folder: Path) -> dict[str, str]:
    """By GPU the size of TensorRT's engine, or why there is none."""
    from edgepress.errors import CompressError, DeviceUnavailableError
    from edgepress.targets import TARGETS
    from edgepress.targets.base import TargetOptions

    told = {}
    for gpu in GPUS:
        try:
            options = TargetOptions(compute_capabilities=(gpu,))
            engine = TARGETS["tensorrt"].build(path, options, folder / gpu)
            told[gpu] = f"built, {engine.artefacts[0].path.stat().st_size / 1024:.0f} KiB"
        except DeviceUnavailableError as error:
            told[gpu] = f"not tried: {error}"
        except CompressError as error:
            told[gpu] = f"refused: {error}"
    return told


def rows_of(name: str, rule: str) -> Iterator[dict[str, Any]]:
    """One network in float and in INT8."""
    from edgepress.pipeline.export import export

    model = fewer(name, rule)
    for precision in LEAST_DB:
        each = model if precision == "float" else quantized(model)
        with tempfile.TemporaryDirectory() as folder:
            path = export(each, Path(folder) / "model.onnx")
            sqnr = dict(ratios(each, path, Path(folder)))
            gpus = builds(path, Path(folder))
        yield {"name": name, "rule": rule, "precision": precision, "sqnr_db": sqnr, "tensorrt": gpus}


def problem(row: dict[str, Any]) -> bool:
    """Whether a row is past the limits."""
    refused = any(told.startswith("refused") for told in row["tensorrt"].values())
    return refused or min(row["sqnr_db"].values()) < LEAST_DB[row["precision"]]


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(list(NETWORKS)), help="Only these.")
@click.option(
    "--rule",
    "rules",
    multiple=True,
    type=click.Choice(RULES),
    default=("bipartite:weighted",),
    show_default=True,
    help="By which it is chosen who is merged, and by which they are.",
)
def main(only: tuple[str, ...], rules: tuple[str, ...]) -> None:
    """Build and run all, and write the table."""
    told = environment(PACKAGES)
    rows = []
    for name in only or NETWORKS:
        for rule in rules:
            for row in rows_of(name, rule):
                rows.append(row)
                print(" ".join(_cells(row)), flush=True)
    header = (
        "network",
        "matched and merged by",
        "precision",
        *(f"{r} ({', '.join(map(str, BATCHES))})" for r in RUNTIMES),
        *GPUS,
    )
    text = (
        f"# Vision transformers that lose tokens: SQNR in dB by batch, and TensorRT\n\n{provenance(told)}\n"
    )
    text += markdown_table(header, [_cells(row) for row in rows])
    print(text, "written:", *write("token_adapters", {"environment": told, "rows": rows}, text))
    broken = [row for row in rows if problem(row)]
    for row in broken:
        print("LIMIT BROKEN:", *_cells(row))
    sys.exit(bool(broken))


def _cells(row: dict[str, Any]) -> list[str]:
    each = [
        ", ".join(f"{row['sqnr_db'][f'{runtime}, {batch}']:.0f}" for batch in BATCHES) for runtime in RUNTIMES
    ]
    return [row["name"], row["rule"], row["precision"], *each, *row["tensorrt"].values()]


if __name__ == "__main__":
    main()
