"""How small `l2` makes a network, against its accuracy: solar and digits, CNN and ViT.

\b
    python benchmarks/l2_curve.py                                   # some hours on two cores, mostly the solar ViT
    python benchmarks/l2_curve.py --network solar-cnn --ratio 20 --ratio 30 --seeds 3
    python benchmarks/l2_curve.py --network solar-cnn --max-drop 1  # the smallest file inside a drop
    python benchmarks/l2_curve.py --network digits-cnn --quick

Every row is a file: the pass compresses the recipe's float network to the ratio, or as far as the drop allows, the
.l2z file is written, unpacked to ONNX, and the accuracy is that of onnxruntime on the unpacked file, on the test part.
The ratio is float32 bytes over all bytes of the file. What one training loses is chance by about half a point on 656
cells: with --seeds each file is trained anew from so many seeds, and limits judge the mean. Trainings and finished rows
are kept in results/l2_curve/; the curve is an SVG beside the table.
Exit code 1 when a limit is broken.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import click
from int8_peers import EXAMPLES, _forward, _read
from pruning_setting import AMP
from reporting import RESULTS, environment, markdown_table, provenance, write

PACKAGES = ("edgepress", "torch", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Network:
    """A recipe's network. limits: the largest drop in points at a ratio; training, options: of the pass."""

    recipe: Path
    limits: dict[float, float]
    ratios: tuple[float, ...]
    training: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)


NETWORKS = {
    "solar-cnn": Network(
        EXAMPLES / "solar" / "cnn.yaml",
        {20: 0.3, 30: 1.0},
        (10, 20, 30, 45),
        {"epochs": 8, "batch": 16, "lr": 7e-3, "augment": ["flip_horizontal", "flip_vertical"]},
    ),
    "solar-vit": Network(
        EXAMPLES / "solar" / "vit.yaml",
        {12: 0.3, 20: 1.0},
        (12, 20),
        {
            "epochs": 4,
            "batch": 16,
            "lr": 3e-4,
            "amp": AMP,
            "augment": ["flip_horizontal", "flip_vertical"],
        },
        {"transform_epochs": 0, "samples": "train"},  # in place of the defaults, which take twice as long
    ),
    "digits-cnn": Network(
        EXAMPLES / "digits" / "cnn.yaml", {10: 0.5, 20: 1.0}, (10, 20, 30), {"epochs": 20, "lr": 1e-2}
    ),
    "digits-vit": Network(EXAMPLES / "digits" / "vit.yaml", {8: 0.5}, (5, 8, 12), {"epochs": 20, "lr": 1e-2}),
}


@click.command(help=__doc__)
@click.option("--network", "names", multiple=True, type=click.Choice(list(NETWORKS)), help="Default: all.")
@click.option(
    "--ratio", "ratios", multiple=True, type=click.FloatRange(min=1, min_open=True), help="Instead."
)
@click.option(
    "--max-drop", type=click.FloatRange(min=0), help="Points on the validation part, instead of ratios."
)
@click.option("--epochs", type=click.IntRange(1), help="Of training, in place of the network's own.")
@click.option(
    "--seeds",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Trainings of each file, from seeds 0, 1, ….",
)
@click.option("--quick", is_flag=True, help="One epoch: proves nothing.")
def main(
    names: tuple[str, ...],
    ratios: tuple[float, ...],
    max_drop: float | None,
    epochs: int | None,
    seeds: int,
    quick: bool,
) -> None:
    """Compress each network to each ratio or drop, and write the tables and the curve."""
    if ratios and max_drop is not None:
        raise click.UsageError("--ratio and --max-drop exclude each other")
    told = environment(PACKAGES)
    epochs = 1 if quick else epochs
    rows, broken = [], []
    for name in dict.fromkeys(names or NETWORKS):
        drops = [] if max_drop is None else [{"max_drop": max_drop}]
        asked = drops or [{"ratio": ratio} for ratio in dict.fromkeys(ratios or NETWORKS[name].ratios)]
        found = _network(name, NETWORKS[name], asked, epochs, seeds)
        rows += found
        limits = {} if quick else NETWORKS[name].limits
        broken += [
            f"{name} loses {_told(each)} at {each['ratio']:.1f}x, the limit is {limit}"
            for each in _means(found)
            if (limit := limits.get(each["asked"].get("ratio"))) is not None and each["drop"] > limit + 1e-9
        ]
    text = "# Ratio against accuracy of `l2`\n\n" + provenance(told) + "\n" + _table(rows)
    if seeds > 1:
        text += "\nMeans over seeds\n\n" + _table_of_means(_means(rows))
    kept = "l2_curve" + ("_quick" if quick else "") + ("" if max_drop is None else "_max_drop")
    paths = write(kept, {"environment": told, "rows": rows, "means": _means(rows), "broken": broken}, text)
    print(text, "written:", *paths, _plot(rows, RESULTS / f"{kept}.svg"))
    for limit in broken:
        print(f"LIMIT BROKEN: {limit}")
    sys.exit(bool(broken))


def _network(
    name: str, network: Network, asked: list[dict[str, float]], epochs: int | None, seeds: int
) -> list[dict[str, Any]]:
    from edgepress.pipeline.packing.weighing import Weighing

    model, data, context, _ = _read(network.recipe)
    float_value = context.metric.measure(model.run, data.judge, 16)
    return [
        _row(
            name,
            network,
            each,
            model,
            data,
            replace(context, packed_bytes=Weighing(), seed=seed),
            float_value,
            epochs,
        )
        for each in asked
        for seed in range(seeds)
    ]


def _row(
    name: str,
    network: Network,
    asked: dict[str, float],
    model: Any,
    data: Any,
    context: Any,
    before: Any,
    epochs: int | None,
) -> dict[str, Any]:
    from edgepress.calibration.statistics import mcnemar
    from edgepress.passes.l2 import L2
    from edgepress.pipeline.export import export
    from edgepress.pipeline.packing.l2z_file import pack_file, unpack_file
    from edgepress.targets import onnxruntime
    from edgepress.targets.base import TargetOptions

    training = {**network.training, **({"epochs": epochs} if epochs else {})}
    chosen = L2.model_validate({**network.options, **asked, "training": training})
    digest = hashlib.sha256(chosen.model_dump_json().encode()).hexdigest()[:8]
    [(aim, value)] = asked.items()
    told = f"{name}, {_asked(asked)}, seed {context.seed}"
    folder = RESULTS / "l2_curve" / f"{name}-{aim}-{value:g}-{digest}-{context.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "row.json"
    if done.is_file():
        print(f"{told}: {done} is there, remove it to do it again", flush=True)
        return dict(json.loads(done.read_text()))
    print(told, flush=True)
    started = time.perf_counter()
    result = chosen.apply(model, replace(context, scratch=folder))
    print("", *result.notes, sep="\n  ", flush=True)
    small = folder / "model.l2z"
    small.write_bytes(pack_file(export(result.model, folder / "model.onnx"), coded=result.model.coded))
    unpack_file(small, folder / "unpacked.onnx")
    engine = onnxruntime.load(folder / "unpacked.onnx", TargetOptions())
    after = context.metric.measure(_forward(engine), data.judge, 16)
    float_bytes = model.facts().bytes
    row = {
        "network": name,
        "asked": asked,
        "seed": context.seed,
        "bytes": small.stat().st_size,
        "ratio": float_bytes / small.stat().st_size,
        "float": before.record.value,
        "accuracy": after.record.value,
        "n": after.record.n,
        "drop": 100 * (before.record.value - after.record.value),
        "mcnemar_p": mcnemar(before.scores, after.scores),
        "minutes": (time.perf_counter() - started) / 60,
    }
    done.write_text(json.dumps(row, indent=1) + "\n")
    return row


def _asked(asked: dict[str, float]) -> str:
    """The one thing that was asked for, in words."""
    [(aim, value)] = asked.items()
    return f"{aim.replace('_', ' ')} {value:g}"


def _means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average a network's rows over seeds, by what was asked; error: standard error of the mean drop, None of one."""
    from edgepress.calibration.statistics import mean_of

    means = []
    for name, asked in dict.fromkeys((row["network"], tuple(row["asked"].items())) for row in rows):
        own = [row for row in rows if (row["network"], tuple(row["asked"].items())) == (name, asked)]
        drops = [row["drop"] for row in own]
        averaged = {key: mean(row[key] for row in own) for key in ("bytes", "ratio", "accuracy", "drop")}
        means.append(
            {
                "network": name,
                "asked": dict(asked),
                "seeds": len(own),
                **averaged,
                "error": mean_of(drops).error if len(own) > 1 else None,
            }
        )
    return means


def _told(each: dict[str, Any]) -> str:
    """The drop of one training, or the mean of several."""
    if each["error"] is None:
        return f"{each['drop']:.2f} points"
    return f"{each['drop']:.2f} ± {each['error']:.2f} points (mean of {each['seeds']} trainings)"


def _table_of_means(means: list[dict[str, Any]]) -> str:
    return markdown_table(
        ("network", "asked for", "trainings", "ratio", "mean drop"),
        [
            [
                each["network"],
                _asked(each["asked"]),
                str(each["seeds"]),
                f"{each['ratio']:.1f}x",
                _told(each),
            ]
            for each in means
        ],
    )


HEADER = (
    "network",
    "asked for",
    "seed",
    "file",
    "ratio",
    "accuracy, float",
    "accuracy, decoded",
    "drop",
    "McNemar p",
    "took",
)


def _table(rows: list[dict[str, Any]]) -> str:
    return markdown_table(
        HEADER,
        [
            [
                row["network"],
                _asked(row["asked"]),
                str(row["seed"]),
                f"{row['bytes']:,} B",
                f"{row['ratio']:.1f}x",
                f"{100 * row['float']:.2f} %",
                f"{100 * row['accuracy']:.2f} % (n = {row['n']})",
                f"{row['drop']:+.2f} points",
                f"{row['mcnemar_p']:.3f}",
                f"{row['minutes']:.0f} min",
            ]
            for row in rows
        ],
    )


def _plot(rows: list[dict[str, Any]], path: Path) -> Path:
    """Drop in points over the ratio: a dot for each training, a line through the means for each network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == name]
        means = sorted((each["ratio"], each["drop"]) for each in _means(own))
        [line] = axes.plot(*zip(*means, strict=True), label=name)
        axes.scatter([r["ratio"] for r in own], [r["drop"] for r in own], s=16, color=line.get_color())
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(xscale="log", xlabel="float32 bytes / bytes of the .l2z file", ylabel="accuracy lost, points")
    axes.invert_yaxis()
    axes.legend()
    figure.savefig(path)
    return path


if __name__ == "__main__":
    main()
