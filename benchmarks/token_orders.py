"""Passes around `tokens` in several orders on the solar ViT: whole runs, as `compress run` makes them, side by side.

\b
    python benchmarks/token_orders.py                                  # needs examples/solar's checkpoint; hours
    python benchmarks/token_orders.py --order tokens,quantize,l2 --tokens 0.5

`gates` prunes by its solver for multiply-accumulates and refits what is left; nothing is trained, so that the orders
differ by nothing else. Each target is of the network that a pass is given. Accuracy is the test part's, on the device;
the drop is the worst of PyTorch's and the device's, as a budget is judged; KL divergence and agreement are with the
float network. Speed-ups are over each float engine, engines of a run in turns; two runs' milliseconds do not compare.
Runs lie in benchmarks/results/token_orders and go on from there where they were broken off; each holds its report.html,
and `compress compare` draws them together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml
from int8_peers import EXAMPLES
from reporting import RESULTS, environment, markdown_table, provenance, write

PACKAGES = ("edgepress", "torch", "timm", "openvino")
SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
ORDERS = ("tokens,quantize,l2", "gates,tokens,quantize", "tokens,gates,quantize")
EXAMPLE = EXAMPLES / "solar" / "vit.yaml"
HEADER = ("passes", "MACs", "accuracy", "drop", "KL", "agreement", "speed-up", "bytes, of float")


def recipe_of(order: str, gates: float, tokens: float, ratio: float) -> dict[str, Any]:
    """The example's recipe with other passes, for OpenVINO alone."""
    options: dict[str, dict[str, Any]] = {
        "gates": {"method": "solver", "target": gates, "training": {"epochs": 0}},
        "tokens": {"target": tokens},
        "quantize": {"sensitivity_samples": 0},
        "l2": {"ratio": ratio, "transform_epochs": 0, "training": {"epochs": 0}},
    }
    recipe: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    recipe["model"]["weights"] = str(EXAMPLE.parent / recipe["model"]["weights"])
    names = order.split(",")
    if unknown := [name for name in names if name not in options]:
        raise click.BadParameter(f"--order: {', '.join(unknown)}: expected {', '.join(options)}")
    targets = {"gates": gates, "tokens": tokens, "quantize": "", "l2": ratio}
    label = "-".join(f"{name}{targets[name]}" for name in names)
    passes = [{name: options[name]} for name in names]
    return {
        **recipe,
        "name": label,
        "passes": passes,
        "targets": ["openvino:CPU"],
        "budgets": {"metric_drop": "1 points"},
    }


def row_of(order: str, record: Any) -> dict[str, Any]:
    """What a run found."""
    first, last, [target], [budget] = record.steps[0], record.steps[-1], record.targets, record.budgets
    engine, fidelity = target.compressed, target.fidelity
    if engine is None:
        raise click.ClickException(f"{order}: {target.device} did not run: {target.reason}")
    packed = [one.bytes for one in record.artefacts if one.kind == "l2z"]
    return {
        "passes": order,
        "macs": last.macs / first.macs,
        "accuracy": engine.metric.value,
        "drop": budget.measured,
        "kl": fidelity.kl,
        "agreement": fidelity.agreement,
        "speedup": {one.baseline: [one.ratio, *one.ci95] for one in target.speedup},
        "bytes": (packed[0] if packed else last.bytes) / first.bytes,
    }


@click.command(help=__doc__)
@click.option("--order", "orders", multiple=True, default=ORDERS, show_default=True)
@click.option(
    "--gates", default=0.8, show_default=True, type=SHARE, help="Share of the MACs that gates leaves."
)
@click.option(
    "--tokens", default=0.6, show_default=True, type=SHARE, help="Share of the MACs that tokens leaves."
)
@click.option("--ratio", default=12.0, show_default=True, help="Of l2: float32 bytes over bytes of the file.")
def main(orders: tuple[str, ...], gates: float, tokens: float, ratio: float) -> None:
    """Run all orders and write the table."""
    from edgepress.pipeline.recipe.file import read_recipe
    from edgepress.pipeline.run import compress
    from edgepress.progress import for_stream

    told, rows = environment(PACKAGES), list[dict[str, Any]]()
    folder = RESULTS / "token_orders"
    folder.mkdir(parents=True, exist_ok=True)
    asked = dict[str, Path]()
    for order in orders:
        recipe = recipe_of(order, gates, tokens, ratio)
        asked[order] = folder / f"{recipe['name']}.yaml"
        asked[order].write_text(yaml.safe_dump(recipe))
        read_recipe(asked[order])  # what cannot be run is told before hours of others
    for order, path in asked.items():
        record = compress(path, folder / path.stem, store=folder / "steps", progress=for_stream())
        rows.append(row_of(order, record))
        text = f"# Orders of passes, solar ViT\n\n{provenance(told)}\n{_table(rows)}"
        print(text, "written:", *write("token_orders", {"environment": told, "rows": rows}, text), flush=True)


def _table(rows: list[dict[str, Any]]) -> str:
    return markdown_table(
        HEADER,
        [
            [
                row["passes"].replace(",", " → "),
                f"{row['macs']:.3f}",
                f"{100 * row['accuracy']:.2f} %",
                row["drop"],
                f"{row['kl']:.4f}",
                f"{100 * row['agreement']:.1f} %",
                "; ".join(
                    f"{ratio:.2f} ({low:.2f}–{high:.2f}) over {name}"
                    for name, (ratio, low, high) in row["speedup"].items()
                ),
                f"{row['bytes']:.4f}",
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
