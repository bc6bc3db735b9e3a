"""Whether each step that `quantize` takes by default helps: the outputs with it, and with it left out.

\b
    python benchmarks/step_ablation.py [--only ResNet-18] [--quick]

The architectures of architectures.py (without weights, small images) and the four example networks are quantized
with the defaults, and once with each option that leaves a default step out; each time the SQNR of the outputs is
measured on samples that quantize has not seen. Every row is kept as it is done: a run that was interrupted goes on
where it was, as long as the code is the same. Exit code 1 when the defaults leave outputs less exact than leaving an
option out does, by more than two standard errors of the difference over batches of these samples and 0.2 dB, or when
a network fails.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import click
from reporting import RESULTS, environment, markdown_table, provenance, wide_console, write
from structures import ARCHITECTURES, ARGUMENTS, images, wake

PACKAGES = ("edgepress", "torch", "torchvision", "timm")
ROOT = Path(__file__).parent.parent
EXAMPLES = [f"{example}-{kind}" for example in ("digits", "solar") for kind in ("cnn", "vit")]
LEAST_DB = 0.2  # what a loss must exceed, however sure it is
CALIBRATION, JUDGED_BY, SEEN_BY_NONE = 16, 64, 128
OF_EXAMPLES = 64  # samples to calibrate with, for the example networks
MEASURED_IN = 8  # samples a batch
SIDE = 64  # pixels; networks with a fixed number of tokens say theirs below
SIDES = {"EfficientFormer-L1": 224, "ViT (torchvision)": 96, "MLP-Mixer-S": 96}
SIZED = {
    "ViT-Tiny": "img_size",
    "DeiT-Tiny": "img_size",
    "MLP-Mixer-S": "img_size",
    "ViT (torchvision)": "image_size",
}
LEFT_OUT: dict[str, dict[str, object]] = {
    "default": {},
    "equalization: off": {"equalization": "off"},
    "bias_correction: false": {"bias_correction": False},
    "ranges: mse": {"ranges": "mse"},
    "ranges: minmax": {"ranges": "minmax"},
    "softmax_sqnr_db: 0": {"softmax_sqnr_db": 0.0},
}
QUICK = ("default", "equalization: off", "bias_correction: false", "ranges: mse")


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice([*ARCHITECTURES, *EXAMPLES]), help="Only these.")
@click.option("--quick", is_flag=True, help="Fewer options, and half of the samples.")
def main(only: tuple[str, ...], quick: bool) -> None:
    """One network after the other, its row kept at once; then the table."""
    told, code = environment(PACKAGES), _code()
    kept = RESULTS / ("step_ablation_quick.jsonl" if quick else "step_ablation.jsonl")
    rows = []
    for name in only or (*EXAMPLES, *ARCHITECTURES):
        row = _kept(kept, name, code)
        if row is None:
            row = _row(name, quick) | {"code": code}
            RESULTS.mkdir(exist_ok=True)
            with kept.open("a") as file:
                file.write(json.dumps(row) + "\n")
        rows.append(row)
        print(f"{name}: {row.get('failure') or _worst(row)} ({row['seconds']:.0f} s)", flush=True)
    header, cells = _table(rows)
    markdown = provenance(told) + "\n" + markdown_table(header, cells)
    paths = write(kept.stem, {"environment": told, "networks": rows}, markdown)
    _show(header, cells)
    print("written:", *paths)
    sys.exit(any(row.get("failure") or _losses(row) for row in rows))


def _code() -> str:
    """A digest of what decides the figures: rows of other code are not taken over."""
    digest = hashlib.sha256()
    files = (
        path for folder in ("passes", "calibration", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    )
    for path in sorted(files):
        if path.parent.name != "benchmarks" or path.name in ("structures.py", Path(__file__).name):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _kept(path: Path, name: str, code: str) -> dict[str, Any] | None:
    """The row of an earlier run; the last line of an interrupted one may be torn."""
    for line in reversed(path.read_text().splitlines() if path.exists() else []):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["name"] == name and row["code"] == code and "failure" not in row:
            found: dict[str, Any] = row
            return found
    return None


def _row(name: str, quick: bool) -> dict[str, Any]:
    """SQNR in dB for each way, as JSON values; or why there is none."""
    import torch
    from edgepress.form import Form
    from edgepress.passes.graph.capture import capture
    from edgepress.passes.quantization.judging import Judge
    from edgepress.passes.quantize import Quantize

    torch.set_num_threads(1)
    started = time.monotonic()
    row: dict[str, Any] = {"name": name, "sqnr_db": {}, "better": [], "notes": {}}
    try:
        model, context = _example(name, quick) if name in EXAMPLES else _architecture(name, quick)
        model = model.successor(capture(model), Form.GRAPH)  # once for all ways
        held_out = Judge(model.module, (x for x, _ in context.data.validation.batches(MEASURED_IN)))
        default = None
        for way, options in LEFT_OUT.items():
            if (quick and way not in QUICK) or (way == "softmax_sqnr_db: 0" and not _has_softmax(model)):
                continue
            done = Quantize(sensitivity_samples=0, **options).apply(model, context)  # type: ignore[arg-type]
            noise = held_out.noise(done.model.module)
            default = default or noise
            row["sqnr_db"][way] = round(noise.db, 2)
            row["better"] += [way] * (noise.clearly_below(default) and noise.db > default.db + LEAST_DB)
            row["notes"][way] = done.notes
    except Exception as error:  # whatever it is, it is this network's result, and the others go on
        row["failure"] = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
    return row | {"seconds": round(time.monotonic() - started, 1)}


def _architecture(name: str, quick: bool) -> tuple[Any, Any]:
    """An architecture with ordinary statistics, and random images for each purpose."""
    import torch
    from edgepress.calibration.data import Part
    from edgepress.calibration.samples import ArraySamples
    from edgepress.pipeline.ingest.model import ingest
    from edgepress.pipeline.recipe.sections import ModelSection

    side = SIDES.get(name, SIDE)
    args = {**ARGUMENTS.get(name, {}), **({SIZED[name]: side} if name in SIZED else {})}
    model = ingest(ModelSection(source=ARCHITECTURES[name], args=args, input_shape=(3, side, side)))
    wake(model.module, images(32, (3, side, side), 1), 0)

    def part(kind: str, count: int, seed: int) -> Part:
        count = count // 2 if quick else count
        samples = ArraySamples((images(count, (3, side, side), seed),), torch.zeros(count, dtype=torch.long))
        return Part(kind, samples)

    parts = (
        part("train", JUDGED_BY, 2),
        part("calibration", CALIBRATION, 3),
        part("held-out", SEEN_BY_NONE, 4),
    )
    return model, _context(*parts)


def _example(name: str, quick: bool) -> tuple[Any, Any]:
    """An example network, and of its data as much as an architecture has; what is measured is of its test part."""
    from edgepress.pipeline.prepare import Prepared
    from edgepress.pipeline.recipe.file import read_recipe

    example, kind = name.split("-")
    path = ROOT / "examples" / example / f"{kind}.yaml"
    recipe = read_recipe(path)
    count = OF_EXAMPLES // 2 if quick else OF_EXAMPLES
    fewer = recipe.data.model_copy(update={"calibration_samples": count})
    data, model = Prepared(recipe.model_copy(update={"data": fewer}), path.parent).read()
    return model, _context(data.train, data.calibration, data.judge.head(2 * count))


def _context(train: Any, calibration: Any, held_out: Any) -> Any:
    from edgepress.calibration.data import DataParts
    from edgepress.calibration.metric import metric_named
    from edgepress.calibration.scheme import intersect
    from edgepress.passes.base import PassContext
    from edgepress.targets import TARGETS

    scheme = intersect(TARGETS[name].scheme for name in ("openvino", "onnxruntime"))
    return PassContext(DataParts(train, calibration, held_out, None, "0"), metric_named("top1"), scheme)


def _has_softmax(model: Any) -> bool:
    from edgepress.passes.quantization.attention import softmaxes

    return bool(softmaxes(model.module))


def _losses(row: dict[str, Any]) -> dict[str, float]:
    """What the defaults lose in dB against each option that is clearly better."""
    return {way: row["sqnr_db"][way] - row["sqnr_db"]["default"] for way in row["better"]}


def _worst(row: dict[str, Any]) -> str:
    losses = _losses(row)
    told = f"SQNR {row['sqnr_db']['default']:.1f} dB with the defaults"
    if not losses:
        return told
    return told + ", WORSE than " + ", ".join(f"{way} by {db:.2f} dB" for way, db in losses.items())


def _table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """SQNR in dB; what is clearly better than the defaults has a mark."""
    header = ["network", *LEFT_OUT]
    cells = []
    for row in rows:
        losses = _losses(row)
        found = {way: f"{db:.1f}" + (" !" if way in losses else "") for way, db in row["sqnr_db"].items()}
        cells.append([row["name"], *(found.get(way, "-") for way in LEFT_OUT)])
    return header, cells


def _show(header: list[str], cells: list[list[str]]) -> None:
    from rich.table import Table

    table = Table(*header)
    for row in cells:
        table.add_row(*row)
    wide_console().print(table)
    print("SQNR in dB on samples that quantize has not seen; ! is clearly above the default.")


if __name__ == "__main__":
    main()
