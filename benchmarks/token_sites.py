"""Where the time of sites goes, at which tokens are dropped and merged, against what each of them saves.

\b
    python benchmarks/token_sites.py --target 0.75 --int8          # found by latency; needs examples/solar's checkpoint
    python benchmarks/token_sites.py --schedule runs/vit/tokens.json

For each site: what it takes by OpenVINO's own clock, of which for ranking, for taking rows, for matching
and merging; and by how much the whole network is slower without it (what went there goes at the next site, or stays),
timed in turns in one process. Exit code 1 when a site of a schedule that was found by latency saves nothing.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
from int8_peers import EXAMPLES, _read
from reporting import environment, markdown_table, provenance, write

PACKAGES = ("edgepress", "torch", "timm", "openvino")
NETWORKS = {
    "solar-vit": EXAMPLES / "solar" / "vit.yaml",
    "digits-vit": EXAMPLES / "digits" / "vit.yaml",
}
KINDS = {
    "sorting": ("TopK", "ReduceMean"),
    "taking rows": (
        "GatherND",
        "Gather",
        "GatherElements",
        "Slice",
        "Concat",
        "Expand",
        "Unsqueeze",
        "Max",
        "Range",
    ),
}
"""Of ONNX operators within a site; what else is there matches and merges."""
BEGINS = ("ReduceMean", "ReduceL2", "LpNormalization", "TopK")


def site_nodes(graph: Any) -> list[dict[str, str]]:
    """Of each site in the order of the graph the kind of each of its nodes.

    A site lies between the two norms of a block, and ranks tokens there: from its importance on, or where none is asked
    for from the lengths of the features that cosines are of, to the second norm.
    """
    nodes, found = list(graph.node), list[dict[str, str]]()
    norms = [place for place, node in enumerate(nodes) if node.op_type == "LayerNormalization"]
    for before, last in pairwise(norms):
        between = range(before + 1, last)
        if not any(nodes[place].op_type == "TopK" for place in between):
            continue
        first = next(place for place in between if nodes[place].op_type in BEGINS)
        of_operator = {op: kind for kind, operators in KINDS.items() for op in operators}
        found.append({n.name: of_operator.get(n.op_type, "merging") for n in nodes[first:last]})
    return found


def profile(built: Any) -> list[dict[str, float]]:
    """Of each site the microseconds of each kind, by the runtime's clock."""
    import onnx

    sites = site_nodes(onnx.load(str(built.onnx_path), load_external_data=False).graph)
    times: list[dict[str, float]] = [dict.fromkeys((*KINDS, "merging"), 0.0) for _ in sites]
    for layer in built.frozen.layers:
        for time, kinds in zip(times, sites, strict=True):
            here = [kinds[name] for name in layer.onnx_nodes if name in kinds]
            for kind in here:
                time[kind] += 1000 * (layer.ms or 0.0) / len(layer.onnx_nodes)
    return times


def rows_of(model: Any, schedule: Any, prepared: Any, precision: str) -> list[dict[str, Any]]:
    """One row a site."""
    from edgepress.passes.merging.encoder import token_network
    from edgepress.passes.merging.reading import tokens_read
    from edgepress.passes.merging.settings import Settings, set_up
    from edgepress.passes.merging.sites import sites_of, without_site
    from edgepress.pipeline.devices.opened import opened
    from edgepress.pipeline.tabulate.beside import Turns

    encoder, network = token_network(model.module, model.example_inputs)
    places = tokens_read(network, model.example_inputs, encoder)
    read = places[-1] + 1 if places[-1] < encoder.leading else None

    def made(each: Any) -> Any:
        return replace(model, module=set_up(network, Settings(encoder, each, read or 0, read)))

    (device,) = [s for s in prepared.recipe.targets if s.runtime == "openvino"][:1]
    plan = replace(prepared.tabulate_plan, precision=precision, rounds=5)
    with (
        opened({device.label: device}, plan.batch, prepared.limits) as here,
        tempfile.TemporaryDirectory() as name,
    ):
        turns = Turns(made(schedule), here[device.label], plan, Path(name))
        times = profile(turns.whole)
        found = []
        for site, kinds in zip(sites_of(schedule), times, strict=True):
            beside = turns.timed(turns.built(made(without_site(schedule, site, read is not None))))
            kept, given = schedule.blocks[site], schedule.entering()[site]
            saved = (beside.ratio - 1) * beside.median_whole_ms * 1000
            found.append(
                {"block": site, "given": given, "pruned": kept.pruned, "merged": kept.merged, "us": kinds,
                 "whole_us": 1000 * beside.median_whole_ms, "saved_us": saved, "ratios": list(beside.ratios)}
            )  # fmt: skip
        return found


@click.command(help=__doc__)
@click.option("--network", default="solar-vit", show_default=True, type=click.Choice(list(NETWORKS)))
@click.option("--schedule", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--target", default=0.75, show_default=True, type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Share of the latency, where no schedule is given.")  # fmt: skip
@click.option("--int8", is_flag=True, help="INT8 in place of float.")
def main(network: str, path: Path | None, target: float, int8: bool) -> None:
    """Find a schedule, time its sites, and write the table."""
    from edgepress.passes.merging.schedule import Schedule
    from edgepress.passes.tokens import Tokens
    from edgepress.pipeline.prepare import Prepared
    from edgepress.pipeline.recipe.file import read_recipe

    told, recipe = environment(PACKAGES), NETWORKS[network]
    prepared = Prepared(read_recipe(recipe), recipe.parent)
    model, _, context, _ = _read(recipe)
    precision = "int8" if int8 else "float"
    if path is not None:
        schedule = Schedule.read(path)
    else:
        chosen = Tokens.model_validate({"cost": "latency", "target": target})
        result = chosen.apply(model, context)
        schedule = Schedule.model_validate(result.plan.structure["schedule"])
        print(*result.notes, sep="\n")
    rows = rows_of(model, schedule, prepared, precision)
    text = f"# Sites, {network}, {precision}\n\n{provenance(told)}\n{_table(rows)}"
    broken = [row["block"] for row in rows if path is None and row["saved_us"] <= 0]
    record = {"environment": told, "network": network, "precision": precision, "rows": rows, "broken": broken}
    print(text, "written:", *write(f"token_sites_{network}_{precision}", record, text))
    for block in broken:
        print(f"LIMIT BROKEN: the site in block {block} saves nothing")
    sys.exit(bool(broken))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    header = (
        "block",
        "tokens",
        *(f"{kind}, µs" for kind in (*KINDS, "merging")),
        "saves beside that, µs",
        "network, µs",
    )
    return markdown_table(
        header,
        [
            [
                str(row["block"]),
                f"{row['given']} → {row['pruned']} → {row['merged']}",
                *(f"{value:.0f}" for value in row["us"].values()),
                f"{row['saved_us']:.0f}",
                f"{row['whole_us']:.0f}",
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
