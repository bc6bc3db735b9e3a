"""Which tokens stay, by PyTorch and by the runtimes: the same ones in float, how nearly the same in INT8.

\b
    python benchmarks/token_parity.py                                   # solar ViT; needs examples/solar's checkpoint
    python benchmarks/token_parity.py --network digits-vit --target 0.6 --samples 256
    python benchmarks/token_parity.py --schedule tokens.json            # as a run of `tokens` left it

The pass `tokens`, uniform, then `quantize`. The exported file of either network is made to tell what each site chose,
and runs with a varying batch on onnxruntime and OpenVINO, beside the PyTorch network of the same precision (in INT8 the
one with fake quantizers). Tokens are compared as the patches of the image that they were at first: which stay, and
which stay or are merged. Where the sets of a sample first part, PyTorch's importances say how near a tie it was: the
margin is what lay at most between two patches that changed places, as a share of the larger.

In INT8 a value beside a rounding boundary may fall on either side, which a deep network carries to all that follows.
All are therefore also compared with what PyTorch chooses in float: a runtime in INT8 is to be as near to that as
PyTorch is.

Exit code 1 when in float, computed in f32, a set differs by more than a tie, or the logits are less than 60 dB above
the error; and when in INT8, float layers in f32, a runtime's logits are by 3 dB further from float than PyTorch's.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import inf, isnan, nan
from pathlib import Path
from statistics import mean, median
from typing import Any

import click
import torch
from int8_peers import _read
from reporting import environment, markdown_table, provenance, write
from token_peers import NETWORKS

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from kept_tokens import Choice, chosen_by_engine, chosen_by_torch, sites_of, telling

PACKAGES = ("edgepress", "torch", "onnxruntime", "openvino")
RUNTIMES = (("onnxruntime", "f32"), ("openvino", "f32"), ("openvino", "default"))
"""And what float layers are computed in: `default` is what OpenVINO takes unasked, BF16 where the CPU has it."""
BATCH = 16
TIE = 1e-5  # of an importance; float32 sums in another order move one by some 2e-6
LEAST_DB = 60.0
MARGIN_DB = 3.0  # two sets of rounding decisions were seen to differ by up to 2 dB

Batches = list[tuple[torch.Tensor, list[Choice]]]
"""Of each batch the logits, and what the sites chose."""


@dataclass(frozen=True)
class Likeness:
    """How like one's choices and logits another's are.

    samples, sites: shares with equal sets; overlap: of what stays at the last site, intersection over union, a mean;
    margin, typical: the largest one and the median over samples whose sets part, 0 where none do.
    """

    samples: float
    sites: float
    overlap: float
    margin: float
    typical: float
    answers: float
    sqnr_db: float


@dataclass(frozen=True)
class Row:
    """One network on one runtime. beside: PyTorch in the same precision, None of itself; whole: PyTorch in float."""

    precision: str
    runtime: str
    floats: str
    beside: Likeness | None
    whole: Likeness


def likeness(wanted: Batches, found: Batches) -> Likeness:
    """Of PyTorch's choices and those of another, over all samples."""
    from edgepress.calibration.sqnr import sqnr_db

    same = list[list[bool]]()
    overlaps, margins = list[float](), list[float]()
    for (_, by_torch), (_, by_other) in zip(wanted, found, strict=True):
        pairs = list(zip(by_torch, by_other, strict=True))
        for sample in range(by_torch[0].order.shape[0]):
            alike = [one.sets(sample) == other.sets(sample) for one, other in pairs]
            same.append(alike)
            ours, theirs = (choice.sets(sample)[0] for choice in pairs[-1])
            overlaps.append(len(ours & theirs) / len(ours | theirs))
            if not all(alike):
                margins.append(margin(*pairs[alike.index(False)], sample))
    logits, others = (torch.cat([y for y, _ in batches]) for batches in (wanted, found))
    return Likeness(
        samples=mean(map(all, same)),
        sites=mean(each for sample in same for each in sample),
        overlap=mean(overlaps),
        margin=max(margins, default=0.0),
        typical=median(margins) if margins else 0.0,
        answers=float((logits.argmax(1) == others.argmax(1)).float().mean()),
        sqnr_db=sqnr_db(logits, others),
    )


def margin(by_torch: Choice, by_other: Choice, sample: int) -> float:
    """The most that lies between the importances of two patches that changed places, as a share of the larger.

    Infinite where they were not chosen by importance.
    """
    if by_torch.importance is None:
        return inf
    importance, widest = by_torch.importance[sample], 0.0
    for ours, theirs in zip(by_torch.sets(sample), by_other.sets(sample), strict=True):
        if ours != theirs:
            most, least = importance[list(ours - theirs)].max(), importance[list(theirs - ours)].min()
            widest = max(widest, float((most - least) / most))
    return widest


def nearest(batches: Batches) -> tuple[float, float]:
    """Between the last patch that stays and the next one, relative: the median and the least over samples and sites."""
    gaps = []
    for _, choices in batches:
        for choice in (each for each in choices if each.importance is not None):
            ranked = choice.importance.sort(1, descending=True).values
            last, following = ranked[:, choice.staying - 1], ranked[:, choice.staying]
            gaps.append((last - following) / last)
    every = torch.cat(gaps) if gaps else torch.tensor([nan])
    return float(every.median()), float(every.min())


def on_runtimes(model: Any, sites: Sequence[Any], inputs: list[Any]) -> Iterator[tuple[str, str, Batches]]:
    """Each runtime, what it computes floats in, and what it chose."""
    from edgepress.pipeline.export import export
    from edgepress.targets import TARGETS
    from edgepress.targets.base import TargetOptions

    with tempfile.TemporaryDirectory() as name:
        path = telling(export(model, Path(name) / "model.onnx"), Path(name) / "telling.onnx")
        for runtime, floats in RUNTIMES:
            options = TargetOptions(float_precision=floats)
            engine = TARGETS[runtime].build(path, options, Path(name) / f"{runtime}-{floats}")
            yield runtime, floats, _batches(lambda x, e=engine: chosen_by_engine(e, model, x, sites), inputs)


def _batches(chosen: Callable[..., Any], inputs: list[Any]) -> Batches:
    return [(y, choices) for (y, *_), choices in map(chosen, inputs)]


def problem(row: Row, torch_db: float) -> str:
    """Which limit a row breaks, "" if none. torch_db: of PyTorch's own logits in this precision against float."""
    if row.floats != "f32" or row.beside is None:
        return ""
    if row.precision == "INT8":
        short = torch_db - row.whole.sqnr_db
        return f"logits {short:.1f} dB further from float than PyTorch's" if short > MARGIN_DB else ""
    if row.beside.margin == inf:
        return "sets differ, by likenesses, whose margin is not known"
    if row.beside.margin > TIE:
        return f"sets differ by {row.beside.margin:.2g} of an importance"
    few = row.beside.margin == 0 and row.beside.sqnr_db < LEAST_DB
    return f"logits {row.beside.sqnr_db:.1f} dB above the error" if few else ""


@click.command(help=__doc__)
@click.option("--network", default="solar-vit", show_default=True, type=click.Choice(list(NETWORKS)))
@click.option("--target", default=0.6, show_default=True, type=click.FloatRange(0, 1, True, True),
              help="Share of the multiply-accumulates.")  # fmt: skip
@click.option("--schedule", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A tokens.json, in place of the target.")  # fmt: skip
@click.option("--matching", default="bipartite", show_default=True, type=click.Choice(["bipartite", "importance"]),
              help="How it is chosen who is merged.")  # fmt: skip
@click.option("--samples", default=64, show_default=True, type=click.IntRange(1), help="Of the test part.")
def main(network: str, target: float, schedule: Path | None, matching: str, samples: int) -> None:
    """Compress, quantize, compare, and write the table."""
    from edgepress.passes.quantize import Quantize
    from edgepress.passes.tokens import Tokens

    told = environment(PACKAGES)
    model, data, context, _ = _read(NETWORKS[network])
    options = {"target": target, "method": "uniform", "matching": matching}
    if schedule is not None:
        options = {"schedule": schedule}
    result = Tokens.model_validate(options).apply(model, context)
    fewer = result.model
    sites = sites_of(fewer.module, result.plan.structure["encoder"]["patches"])
    part = data.judge.head(samples)
    inputs = [x for x, _ in part.batches(BATCH)]
    networks = {"float": fewer, "INT8": Quantize(sensitivity_samples=0).apply(fewer, context).model}
    by_torch = {
        precision: _batches(lambda x, m=each: chosen_by_torch(m, x, sites), inputs)
        for precision, each in networks.items()
    }
    whole, own = by_torch["float"], likeness(by_torch["float"], by_torch["INT8"])
    rows = [Row("INT8", "PyTorch", "f32", None, own)]
    for precision, each in networks.items():
        for runtime, floats, found in on_runtimes(each, sites, inputs):
            row = Row(
                precision, runtime, floats, likeness(by_torch[precision], found), likeness(whole, found)
            )
            rows.append(row)
            print(row, flush=True)
    rows.sort(key=lambda row: row.precision == "INT8")
    counts = ", ".join(str(site.kept.merged) for site in sites)
    text = f"# Tokens that stay, {network}, {len(part)} samples, {counts} after the sites\n\n{provenance(told)}\n"
    text += _table(rows) + "\n" + "".join(_gap_line(*each) for each in by_torch.items())
    record = {"environment": told, "network": network, "rows": [asdict(row) for row in rows]}
    print(text, "written:", *write(f"token_parity_{network}", record, text))
    broken = [f"{row.precision}, {row.runtime}: {why}" for row in rows if (why := problem(row, own.sqnr_db))]
    for line in broken:
        print(f"LIMIT BROKEN: {line}")
    sys.exit(bool(broken))


def _gap_line(precision: str, batches: Batches) -> str:
    middle, least = nearest(batches)
    if isnan(middle):
        return ""
    return (
        f"{precision}: in PyTorch {middle:.2g} of an importance lie between the last patch that stays and the next one"
        f" (median), at least {least:.2g}\n"
    )


def _table(rows: list[Row]) -> str:
    header = (
        "network", "runtime", "floats in", "samples with equal sets", "sites", "overlap, last site",
        "margin: median, largest", "answers", "SQNR of logits", "of float: overlap", "answers", "SQNR",
    )  # fmt: skip
    return markdown_table(
        header,
        [[row.precision, row.runtime, row.floats, *_cells(row.beside), *_of_float(row)] for row in rows],
    )


def _cells(found: Likeness | None) -> list[str]:
    if found is None:
        return ["–"] * 6
    return [
        f"{100 * found.samples:.1f} %",
        f"{100 * found.sites:.1f} %",
        f"{found.overlap:.4f}",
        f"{found.typical:.2g}, {found.margin:.2g}" if found.margin else "–",
        f"{100 * found.answers:.1f} %",
        f"{found.sqnr_db:.1f} dB",
    ]


def _of_float(row: Row) -> list[str]:
    found = row.whole
    return [f"{found.overlap:.4f}", f"{100 * found.answers:.1f} %", f"{found.sqnr_db:.1f} dB"]


if __name__ == "__main__":
    main()
