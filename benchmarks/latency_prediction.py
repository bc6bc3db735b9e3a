"""What `compress tabulate` predicts of pruned networks that its table has not seen, against what they take.

\b
    python benchmarks/latency_prediction.py --network solar-cnn [--float] [--prunings 30] [--device openvino:CPU]

A table of 24 probes is measured, and then so many random prunings of another seed: random widths, random blocks out.
Each is built and timed in turns with the unpruned network, as the probes are. Both are kept in `results/`, and a repeat
takes them up. The scatter is an SVG beside the table. Exit code 1 when the mean error is above 10 %.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import click
from edgepress.calibration.latency_table import LatencyTable, Probe
from reporting import RESULTS, environment, markdown_table, provenance, write

PACKAGES = ("edgepress", "torch", "openvino", "scipy")
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NETWORKS = {
    "solar-cnn": (EXAMPLES / "solar" / "cnn.yaml", (3, 128, 128)),
    "solar-vit": (EXAMPLES / "solar" / "vit.yaml", (3, 224, 224)),
    "digits-cnn": (EXAMPLES / "digits" / "cnn.yaml", (1, 32, 32)),
    "digits-vit": (EXAMPLES / "digits" / "vit.yaml", (1, 32, 32)),
}
MOST = 0.1
UNSEEN_SEED = 1


@click.command(help=__doc__)
@click.option("--network", type=click.Choice(list(NETWORKS)), default="solar-cnn", show_default=True)
@click.option("--int8/--float", "int8", default=True, show_default=True)
@click.option("--device", default="openvino:CPU", show_default=True, help="As `compress tabulate` takes it.")
@click.option("--probes", default=24, show_default=True, type=click.IntRange(4))
@click.option("--prunings", default=30, show_default=True, type=click.IntRange(1))
def main(network: str, int8: bool, device: str, probes: int, prunings: int) -> None:
    """Measure both, write the table and the scatter, and fail when the predictions are too far off."""
    told = environment(PACKAGES)
    name = f"latency_prediction-{network}-{'int8' if int8 else 'float'}"
    table, unseen = _measured(name, network, int8, device, probes, prunings)
    rows = [_row(table, probe) for probe in unseen]
    errors = [abs(row["predicted"] / row["measured"] - 1) for row in rows]
    error = sum(errors) / len(errors)
    heading = f"# Latencies of {network} predicted on {device}, {table.precision}\n\n"
    text = heading + provenance(told) + "\n" + _table(table, rows, errors)
    record = {"environment": told, "error": error, "own_error": table.error, "rows": rows}
    paths = write(name, record, text)
    print(text, "written:", *paths, _plot(rows, RESULTS / f"{name}.svg", heading.strip("# \n")))
    if error > MOST:
        print(f"LIMIT BROKEN: predictions are {100 * error:.1f} % off on average")
    sys.exit(error > MOST)


def _measured(
    name: str, network: str, int8: bool, device: str, probes: int, prunings: int
) -> tuple[LatencyTable, list[Probe]]:
    """The table, and the networks that it has not seen."""
    from edgepress.pipeline.devices.file import find_devices
    from edgepress.pipeline.onnx_files.inputs import GivenShapes
    from edgepress.pipeline.prepare import Prepared
    from edgepress.pipeline.recipe.file import read_recipe
    from edgepress.pipeline.tabulate.run import tabulate
    from edgepress.progress import for_stream

    path, shape = NETWORKS[network]
    prepared = Prepared(read_recipe(path), path.parent, progress=for_stream())
    model, devices = prepared.network(GivenShapes({}, [shape])), find_devices((device,), None)
    plan = replace(prepared.tabulate_plan, precision="int8" if int8 else "float", probes=probes)
    other = replace(plan, probes=prunings, seed=UNSEEN_SEED)
    RESULTS.mkdir(exist_ok=True)
    table = tabulate(model, devices, RESULTS / f"{name}.table.json", plan, prepared.progress)
    found = tabulate(model, devices, RESULTS / f"{name}.unseen.json", other, prepared.progress)
    seen = [probe.widths for probe in table.probes]
    return table, [probe for probe in found.probes if probe.widths not in seen]


def _row(table: LatencyTable, probe: Probe) -> dict[str, Any]:
    """A pruning, its latency on the scale of the table, and what that predicts of it."""
    import torch
    from edgepress.calibration.statistics import geometric_mean

    widths = {name: (*map(torch.tensor, sides), torch.ones(())) for name, sides in probe.widths.items()}
    return {
        "layers": len(probe.widths),
        "measured": geometric_mean(probe.ratios)[0] * table.whole_ms,
        "predicted": float(table.latency(widths)),
        "scatter": max(probe.ratios) / min(probe.ratios) - 1,
    }


def _table(table: LatencyTable, rows: list[dict[str, Any]], errors: list[float]) -> str:
    own = "not known" if table.error is None else f"{100 * table.error:.1f} %"
    bias = sum(row["predicted"] / row["measured"] - 1 for row in rows) / len(rows)
    times = [row["measured"] for row in rows]
    facts = [
        ["the whole network", f"{table.whole_ms:.3f} ms"],
        ["prunings", f"{len(rows)}, of {min(times):.3f} to {max(times):.3f} ms"],
        ["mean error", f"**{100 * sum(errors) / len(errors):.1f} %**"],
        ["median and largest error", f"{100 * median(errors):.1f} %, {100 * max(errors):.1f} %"],
        ["mean of predicted over measured, less 1", f"{100 * bias:+.1f} %"],
        ["the error that the table tells of itself", f"{own} over {len(table.probes)} probes"],
        ["range of a pruning's rounds, mean", f"{100 * sum(row['scatter'] for row in rows) / len(rows):.1f} %"],
        ["blocks of channels read and made", f"{table.steps[0]} and {table.steps[1]}"],
    ]  # fmt: skip
    return markdown_table(["", ""], facts)


def _plot(rows: list[dict[str, Any]], path: Path, title: str) -> Path:
    """Predicted over measured, with the line where both are alike, and 10 % around it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    axes = figure.subplots()
    most = 1.08 * max(max(row["measured"], row["predicted"]) for row in rows)
    axes.fill_between([0, most], [0, (1 - MOST) * most], [0, (1 + MOST) * most], color="0.9", label="10 %")
    axes.plot([0, most], [0, most], color="0.5", linewidth=1)
    axes.scatter([row["measured"] for row in rows], [row["predicted"] for row in rows], s=22, zorder=3)
    axes.set(xlabel="measured, ms", ylabel="predicted, ms", xlim=(0, most), ylim=(0, most), aspect="equal")
    axes.set_title(title, fontsize=10)
    axes.legend(loc="upper left")
    figure.savefig(path)
    return path


if __name__ == "__main__":
    main()
