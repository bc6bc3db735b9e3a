"""Tokens dropped and merged: the searched schedule, the uniform one and their rules of merging, against ToMe.

\b
    python benchmarks/token_peers.py                                   # solar ViT; needs examples/solar's checkpoint
    python benchmarks/token_peers.py --network digits-vit --target 0.6
    python benchmarks/token_peers.py --samples 64 --no-latency         # a quick look

All networks drop, exactly, what nothing reads behind the last attention, ToMe's and the plain one too. At equal shares
of the plain network's multiply-accumulates: accuracy, KL divergence and agreement with it on the test part, untrained,
in float; and the latency of engines of OpenVINO that run in turns in one process (`--timed int8:8`: precision and
batch), as a share of the plain network's of the same precision, without that step. Schedules are searched by the
calibration part. Exit code 1 when none of ours has a KL as low as ToMe's, where schedules are searched.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from edgepress.errors import CompressError
from edgepress.passes.tokens import Tokens
from int8_peers import EXAMPLES, _read
from reporting import environment, markdown_table, provenance, write
from timing import Contender, measure_side_by_side
from token_tome import tome_at

PACKAGES = ("edgepress", "torch", "timm", "openvino")
NETWORKS = {
    "solar-vit": EXAMPLES / "solar" / "vit.yaml",
    "mnist-vit": EXAMPLES / "mnist" / "vit.yaml",
    "digits-vit": EXAMPLES / "digits" / "vit.yaml",
}
OURS = ("greedy", "learned", "uniform")
RULES = tuple(f"{by}:{merge}" for by in ("bipartite", "importance") for merge in ("weighted", "mean", "soft"))
BESIDE = ("accuracy", "KL", "agreement", "tokens")


@dataclass(frozen=True)
class Made:
    """One network. share: of the plain network's multiply-accumulates."""

    method: str
    rule: str
    target: float
    share: float
    module: Any
    note: str = ""


def ours(model: Any, context: Any, target: float, method: str, rule: str, start: int | None) -> Made:
    """What the pass makes of the network."""
    matching, _, merge = rule.partition(":")
    options = {"target": target, "method": method, "matching": matching, "merge": merge, "start": start}
    return _made(method, target, model, Tokens.model_validate(options).apply(model, context))


def of_file(model: Any, context: Any, path: Path) -> Made:
    """What the pass makes of the network by the schedule of an earlier search."""
    made = _made("schedule", 0.0, model, Tokens(schedule=path, pictures=0).apply(model, context))
    return replace(made, target=round(made.share, 3), note=f"{path.name}: {made.note}")


def _made(method: str, target: float, model: Any, result: Any) -> Made:
    schedule, module = result.plan.structure["schedule"], result.model.module
    counts = ", ".join(str(kept["merged"]) for kept in schedule["blocks"])
    rule = f"{schedule['matching']}:{schedule['merge']}"
    return Made(method, rule, target, _share(model, module), module, counts)


def as_fast(model: Any, context: Any, peer: Made, rounds: int) -> list[Made]:
    """What the pass makes of the network, by latency, where it may take what a peer takes as the recipe ends.

    Nothing where that is as much as the plain network takes.
    """
    timed = _ends_in(context)
    [ratio] = latencies([peer], model, rounds, timed)
    print(
        f"{peer.method} at {peer.target:g}: {ratio:.3f} of the plain network's latency, {timed}", flush=True
    )
    if ratio >= 1:
        return []
    try:
        result = Tokens.model_validate({"cost": "latency", "target": ratio}).apply(model, context)
    except CompressError as error:
        print(f"by latency, {ratio:.3f} asked for: {error}", flush=True)
        return []
    print(*result.notes, sep="\n  ", flush=True)
    made = _made("by latency", peer.target, model, result)
    return [replace(made, note=f"{ratio:.3f} of {timed} asked for: {made.note}")]


def _ends_in(context: Any) -> str:
    """Precision and batch that schedules are searched for by latency, as the recipe ends."""
    return f"{context.ends_in or 'f32'}:{context.batch or 1}"


def peers(model: Any, target: float) -> Made:
    """ToMe, by the least r that goes below the target."""
    module, share, note = tome_at(model, target)
    return Made("ToMe", "bipartite:weighted", target, share, module, note)


def exact(model: Any, context: Any) -> Made:
    """The plain network without what nothing reads."""
    module = Tokens().apply(model, context).model.module
    return Made("exact", "–", 1.0, _share(model, module), module)


def _share(model: Any, module: Any) -> float:
    return float(replace(model, module=module).facts().macs / model.facts().macs)


def row_of(made: Made, model: Any, context: Any, part: Any) -> dict[str, Any]:
    """Accuracy, KL and agreement on a part."""
    from edgepress.calibration.fidelity import Compared

    forward, batch = replace(model, module=made.module).in_batches()
    beside = Compared(forward, model.in_batches()[0])
    metric = context.metric.measure(beside, part, batch).record
    found = beside.record(part.name)
    assert found is not None  # both networks give logits
    return {
        "method": made.method,
        "rule": made.rule,
        "target": made.target,
        "macs": made.share,
        "accuracy": metric.value,
        "ci95": list(metric.ci95),
        "kl": found.kl,
        "agreement": found.agreement,
        "note": made.note,
    }


def latencies(every: list[Made], model: Any, rounds: int, timed: str) -> Iterator[float]:
    """Of each network the latency as a share of the plain one's, the median over rounds.

    timed: precision and batch, `int8:8`; INT8 as the pass places it, its ranges not searched, which time does not ask.
    """
    from edgepress.calibration.scheme import QuantScheme
    from edgepress.passes.quantization.quick import fine_products, quickly_quantized
    from edgepress.pipeline.export import export
    from edgepress.targets import TARGETS
    from edgepress.targets.base import TargetOptions

    precision, _, batch = timed.partition(":")
    options, scheme = TargetOptions(float_precision="f32", batch=int(batch)), QuantScheme()
    draw = np.random.default_rng(0)
    feeds = {
        name: draw.standard_normal((int(batch), *x.shape[1:])).astype(np.float32)
        for name, x in zip(model.input_names, model.example_inputs, strict=True)
    }
    modules = [model.module, *(made.module for made in every)]
    with tempfile.TemporaryDirectory() as folder:
        contenders = []
        for index, module in enumerate(modules):
            network = replace(model, module=module)
            if precision == "int8":
                network = quickly_quantized(network, scheme, fine_products(network, scheme, 30.0))
            path = export(network, Path(folder) / f"{index}.onnx")
            built = TARGETS["openvino"].build(path, options, Path(folder) / str(index))
            contenders.append(Contender(str(index), "openvino", built.artefacts[0].path, options))
        times = measure_side_by_side(contenders, feeds, rounds, 20)
    for contender in contenders[1:]:
        pairs = zip(times[contender.label], times["0"], strict=True)
        yield median(one / plain for one, plain in pairs)


@click.command(help=__doc__)
@click.option("--network", default="solar-vit", show_default=True, type=click.Choice(list(NETWORKS)))
@click.option("--target", "targets", multiple=True, type=click.FloatRange(0, 1, min_open=True, max_open=True),
              default=(0.6, 0.5), show_default=True, help="Shares of the multiply-accumulates.")  # fmt: skip
@click.option("--schedule", "schedules", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="tokens.json of an earlier search, in place of searching.")  # fmt: skip
@click.option("--samples", type=click.IntRange(1), help="Of the test part; default: all.")
@click.option("--start", type=click.IntRange(0), help="The first block that may lose tokens, of ours.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(2), help="Of timing.")
@click.option("--method", "methods", multiple=True, type=click.Choice(OURS), default=OURS, show_default=True)
@click.option(
    "--rule",
    "rules",
    multiple=True,
    type=click.Choice(RULES),
    default=("bipartite:weighted", "importance:mean", "importance:soft"),
    show_default=True,
    help="By which it is chosen who is merged, and by which they are.",
)
@click.option(
    "--timed", multiple=True, default=("f32:1",), show_default=True, help="Precision and batch, as int8:8."
)
@click.option(
    "--as-fast",
    "equally_fast",
    is_flag=True,
    help="Also schedules searched by latency, for what each ToMe takes.",
)
@click.option("--no-latency", is_flag=True)
def main(
    network: str,
    targets: tuple[float, ...],
    schedules: tuple[Path, ...],
    samples: int | None,
    start: int | None,
    rounds: int,
    methods: tuple[str, ...],
    rules: tuple[str, ...],
    timed: tuple[str, ...],
    equally_fast: bool,
    no_latency: bool,
) -> None:
    """Make all networks, judge and time them, and write the table."""
    if schedules and start is not None:
        raise click.UsageError("--start is of a search, and --schedule takes the place of one; leave one out")
    told = environment(PACKAGES)
    model, data, context, _ = _read(NETWORKS[network])
    part = data.judge if samples is None else data.judge.head(samples)
    every = [exact(model, context)]
    for target in targets:
        every.append(peers(model, target))
        every += [
            ours(model, context, target, method, rule, start)
            for method in (() if schedules else methods)
            for rule in rules
            if method != "learned" or rule.startswith("importance")
        ]
    every += [of_file(model, context, path) for path in schedules]
    if equally_fast:
        peers_made = [made for made in every if made.method == "ToMe"]
        every += [found for made in peers_made for found in as_fast(model, context, made, rounds)]
        timed = tuple(dict.fromkeys([*timed, _ends_in(context)]))  # what they are as fast in
    rows = [row_of(made, model, context, part) for made in every]
    for each in () if no_latency else timed:
        for row, ratio in zip(rows, latencies(every, model, rounds, each), strict=True):
            row.setdefault("latency", {})[each] = ratio
    text = f"# Tokens, {network}, {len(part)} samples\n\n{provenance(told)}\n{_table(rows)}"
    broken = [] if schedules else [target for target in targets if not _ahead(rows, target)]
    record = {"environment": told, "network": network, "rows": rows, "broken": broken}
    print(text, "written:", *write(f"token_peers_{network}", record, text))
    for target in broken:
        print(f"LIMIT BROKEN: at {target:g} ToMe has the lowest KL")
    sys.exit(bool(broken))


def _ahead(rows: list[dict[str, Any]], target: float) -> bool:
    own = [row["kl"] for row in rows if row["target"] == target and row["method"] in OURS]
    return min(own) <= min(row["kl"] for row in rows if row["target"] == target and row["method"] == "ToMe")


def _table(rows: list[dict[str, Any]]) -> str:
    timed = list(rows[0].get("latency", {}))
    header = (
        "method",
        "matched and merged by",
        "asked for",
        "MACs",
        *(f"latency {each}" for each in timed),
        *BESIDE,
    )
    return markdown_table(
        header,
        [
            [
                row["method"],
                row["rule"],
                f"{row['target']:g}",
                f"{row['macs']:.3f}",
                *(f"{row['latency'][each]:.3f}" for each in timed),
                f"{100 * row['accuracy']:.2f} %",
                f"{row['kl']:.4f}",
                f"{100 * row['agreement']:.1f} %",
                row["note"],
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
