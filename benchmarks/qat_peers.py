"""Our quantization-aware training against Brevitas' and NNCF's: the solar CNN on OpenVINO, the same epochs.

\b
    pip install -r benchmarks/requirements.txt
    python benchmarks/qat_peers.py [--epochs 5] [--lr 1e-4] [--pairs 12] [--quick]

All three start from the same float network and train on the same part: as many steps of 32 samples, AdamW without
weight decay, the same peak rate on half a cosine, mirrored cells, the last epoch kept. The peers learn from labels,
ours (the pass `distill`) from the float network too. Then the trained engines are timed, in interleaved process
launches and, for the ratios, side by side in one process, and judged on the test part. They stay in
results/qat_peers/. Exit code 1 when a limit is broken.

The peers' networks become engines by OpenVINO's own converter, as their users do it; ours by the target `openvino`,
on the grids that a recipe with this one target gets: uint8 activations, as theirs.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import qat_brevitas
import qat_nncf
from int8_peers import EXAMPLES, _forward, _read
from reporting import RESULTS, environment, markdown_table, provenance, write

PACKAGES = ("edgepress", "nncf", "brevitas", "openvino", "onnx", "torch")
RECIPE = EXAMPLES / "solar" / "cnn.yaml"
NAMES = {"nncf": "NNCF QAT", "brevitas": "Brevitas QAT", "ours": "ours"}
NEEDED = {"nncf": ("nncf",), "brevitas": ("brevitas", "onnxoptimizer"), "ours": ("edgepress.passes.distill",)}
BATCH = 32
MOST_LATENCY_RATIO = 1.05  # ours / peer, point estimate of the paired ratio
SIGNIFICANT = 0.05  # McNemar's p below which a lower accuracy counts
QUICK = {"train": 4 * BATCH, "calibration": 16, "test": 32}  # samples


@dataclass(frozen=True)
class Work:
    """What every contestant is given. test: the part that it is judged on."""

    model: Any
    context: Any
    test: Any
    epochs: int
    lr: float

    def calibration(self) -> list[Any]:
        """The calibration samples, each as a batch of one."""
        samples = self.context.data.calibration.samples
        return [samples[index][0][0][None] for index in range(len(samples))]

    def tune(self, network: Any) -> None:
        """Train `network` in place, by cross-entropy with the labels."""
        import torch
        from edgepress.examples.solar.train import mirrored

        part, seed = self.context.data.train, self.context.seed
        steps_an_epoch = len(part) // BATCH  # the rest of an epoch is left out, as `distill` does
        steps = self.epochs * steps_an_epoch
        torch.manual_seed(seed)
        optimizer = torch.optim.AdamW(network.parameters(), self.lr, weight_decay=0.0)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        network.train()
        started = time.perf_counter()
        for step in self.context.progress.track(range(steps), "training", steps):
            place = step % steps_an_epoch
            if place == 0:
                order = torch.randperm(len(part)).tolist()
            inputs, labels = part.batch(order[place * BATCH : (place + 1) * BATCH])
            loss = torch.nn.functional.cross_entropy(network(mirrored(*inputs)), labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            rate.step()
        print(f"  {steps} steps, {1000 * (time.perf_counter() - started) / steps:.0f} ms each", flush=True)
        network.eval()


@click.command(help=__doc__)
@click.option(
    "--epochs", default=5, show_default=True, type=click.IntRange(min=1), help="Of each contestant."
)
@click.option(
    "--lr", default=1e-4, show_default=True, type=click.FloatRange(min=0, min_open=True), help="Peak."
)
@click.option("--pairs", default=12, show_default=True, type=click.IntRange(min=2), help="Launches of each.")
@click.option(
    "--iterations", default=100, show_default=True, type=click.IntRange(min=11), help="Timed a launch."
)
@click.option("--rounds", default=12, show_default=True, type=click.IntRange(min=2), help="Side by side.")
@click.option("--only", multiple=True, type=click.Choice(list(NAMES)), help="Only these contestants.")
@click.option("--retrain", multiple=True, type=click.Choice(list(NAMES)), help="Train it again, if trained.")
@click.option(
    "--quick", is_flag=True, help="1 epoch of 4 steps, 3 launches, 32 test samples: proves nothing."
)
def main(
    epochs: int,
    lr: float,
    pairs: int,
    iterations: int,
    rounds: int,
    only: tuple[str, ...],
    retrain: tuple[str, ...],
    quick: bool,
) -> None:
    """Train what is not trained yet, compare, write the results, and fail when a limit is broken."""
    contestants = [name for name in NAMES if name in (only or NAMES)]
    _require(contestants)
    told = environment(PACKAGES)
    epochs, pairs, iterations, rounds = (1, 3, 30, 2) if quick else (epochs, pairs, iterations, rounds)
    work = _work(epochs, lr, quick)
    folder = RESULTS / "qat_peers" / ("quick" if quick else f"epochs{epochs}-lr{lr:g}")
    trained = {NAMES[name]: _trained(name, work, folder / name, name in retrain) for name in contestants}
    engines = _measure(work, folder, trained, pairs, iterations, rounds)
    broken = _broken(engines)
    options = {"epochs": epochs, "lr": lr, "batch": BATCH, "quick": quick, "vnni": _has_vnni()}
    text = _markdown(engines, told, options)
    record = {"environment": told, "options": options, "engines": engines, "broken": broken}
    paths = write("qat_peers_quick" if quick else "qat_peers", record, text)
    print(text, "written:", *paths)
    for limit in broken:
        print(f"LIMIT BROKEN: {limit}")
    sys.exit(bool(broken))


def _require(contestants: list[str]) -> None:
    missing = [module for name in contestants for module in NEEDED[name] if find_spec(module) is None]
    if missing:
        fix = "pip install -r benchmarks/requirements.txt, or name others with --only"
        print(f"{', '.join(missing)} cannot be imported: {fix}", file=sys.stderr)
        sys.exit(2)


def _work(epochs: int, lr: float, quick: bool) -> Work:
    from edgepress.targets import openvino

    model, data, context, _ = _read(RECIPE)
    context, test = replace(context, scheme=openvino.scheme), data.judge
    if quick:
        heads = {name: getattr(data, name).head(QUICK[name]) for name in ("train", "calibration")}
        context, test = replace(context, data=replace(data, **heads)), test.head(QUICK["test"])
    return Work(model, context, test, epochs, lr)


def _trained(name: str, work: Work, folder: Path, retrain: bool) -> dict[str, Any]:
    """What is known of the contestant's training; its engine is `model.xml` in `folder` afterwards."""
    record = folder / "trained.json"  # written last: without it the engine is not complete
    if record.is_file() and not retrain:
        known: dict[str, Any] = json.loads(record.read_text())
        print(f"{NAMES[name]}: trained {known['date']}, --retrain {name} trains again", flush=True)
        return known
    print(f"{NAMES[name]}: trains", flush=True)
    record.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    forward = CONTESTANTS[name](work, folder / "model.xml")
    seconds = time.perf_counter() - started
    accuracy = work.context.metric.measure(forward, work.test, BATCH).record.value
    known = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": seconds,
        "accuracy_in_torch": accuracy,
        "versions": environment(PACKAGES)["versions"],
    }
    record.write_text(json.dumps(known, indent=1) + "\n")
    return known


def _peer(build: Callable[..., Any], work: Work, path: Path) -> Any:
    import torch

    network = build(copy.deepcopy(work.model.module), work.calibration(), work.tune, path)

    def forward(*inputs: Any) -> tuple[Any, ...]:
        with torch.no_grad():
            return (network(*inputs),)

    return forward


def _ours(work: Work, path: Path) -> Any:
    """The pass on the recipe's network; what is no part of the method is set as the peers have it."""
    from edgepress.passes.distill import Distill
    from edgepress.passes.training.options import TrainingOptions
    from edgepress.pipeline.export import export
    from edgepress.targets import openvino
    from edgepress.targets.base import TargetOptions

    training = TrainingOptions(
        epochs=work.epochs,
        batch=BATCH,
        lr=work.lr,
        warmup=0.0,
        augment=("flip_horizontal", "flip_vertical"),
        keep="last",
    )
    trained = (
        Distill(training=training, ranges="mse", equalization="off").apply(work.model, work.context).model
    )
    openvino.build(export(trained, path.with_suffix(".onnx")), TargetOptions(batch=1), path.parent)
    return trained.run


CONTESTANTS: dict[str, Callable[[Work, Path], Any]] = {
    "nncf": partial(_peer, qat_nncf.build),
    "brevitas": partial(_peer, qat_brevitas.build),
    "ours": _ours,
}


def _measure(
    work: Work, folder: Path, trained: dict[str, Any], pairs: int, iterations: int, rounds: int
) -> dict[str, Any]:
    """Each engine's numbers as JSON values; `ours` against it is what a limit is about."""
    from edgepress.calibration.statistics import mcnemar
    from edgepress.pipeline.export import export
    from edgepress.targets import openvino
    from edgepress.targets.base import TargetOptions
    from edgepress.targets.measuring.feeds import repeated
    from edgepress.targets.measuring.latency import of, paired, summarize
    from timing import Contender, measure_in_turns, measure_side_by_side

    f32, default = TargetOptions(float_precision="f32", batch=1), TargetOptions(batch=1)
    openvino.build(export(work.model, folder / "float.onnx"), default, folder / "float")
    irs = dict.fromkeys(("f32", "default"), folder / "float" / "model.xml")
    irs |= {NAMES[name]: folder / name / "model.xml" for name in NAMES if NAMES[name] in trained}
    options = {label: f32 if label == "f32" else default for label in irs}
    feeds = {"input": work.context.data.calibration.example()[0].numpy()}
    contenders = [Contender(label, "openvino", irs[label], options[label]) for label in irs]
    launches = measure_in_turns(contenders, repeated(feeds), pairs, iterations, 0, work.context.progress)
    medians = measure_side_by_side(contenders, feeds, rounds, progress=work.context.progress)
    loaded = {label: openvino.load(irs[label], options[label]) for label in irs}
    measured = {k: work.context.metric.measure(_forward(e), work.test, 1) for k, e in loaded.items()}
    rows: dict[str, Any] = {}
    for label, found in measured.items():
        rows[label] = {
            "latency": summarize(of(launches, label)).model_dump(),
            "accuracy": found.record.model_dump(include={"value", "n", "ci95", "part"}),
            "training": trained.get(label),
            "precision": qat_nncf.precisions(irs[label]) if label in trained else None,
        }
        if "ours" in trained and label != "ours":
            rows[label]["ours_over_it"] = paired("ours", medians["ours"], medians[label]).model_dump()
            rows[label]["ours_above_it_points"] = 100 * (measured["ours"].record.value - found.record.value)
            rows[label]["mcnemar_p"] = mcnemar(measured["ours"].scores, found.scores)
    return rows


def _has_vnni() -> bool | None:
    """Whether the CPU adds INT8 products up exactly; None where the system does not tell."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return None
    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & set(flags)) if "avx2" in flags else None


def _broken(engines: dict[str, Any]) -> list[str]:
    limits = []
    for label, row in engines.items():
        if label in ("f32", "default") or "ours_over_it" not in row:
            continue
        ratio, points, p = row["ours_over_it"]["ratio"], row["ours_above_it_points"], row["mcnemar_p"]
        if not ratio <= MOST_LATENCY_RATIO:
            limits.append(f"latency is {ratio:.3f} times that of {label}, the limit is {MOST_LATENCY_RATIO}")
        if points < 0 and p < SIGNIFICANT:
            limits.append(f"accuracy is {-points:.2f} points below that of {label} (McNemar p = {p:.3f})")
    return limits


HEADER = (
    "engine",
    "latency",
    "ours / it",
    "accuracy",
    "ours above it, points",
    "McNemar p",
    "in PyTorch",
    "INT8 layers",
    "INT8 MACs",
    "trained in",
)


def _cells(label: str, row: dict[str, Any]) -> list[str]:
    against = ["–"] * 3
    if "ours_over_it" in row:
        ratio, (low, high) = row["ours_over_it"]["ratio"], row["ours_over_it"]["ci95"]
        against = [f"{ratio:.2f} ({low:.2f}–{high:.2f})", f"{row['ours_above_it_points']:+.2f}"]
        against.append(f"{row['mcnemar_p']:.3f}")
    training = ["–"] * 4
    if row["training"]:
        layers = sum(found["layers"] for found in row["precision"].values())
        int8 = row["precision"].get("int8", {"layers": 0, "share": 0.0})
        training = [f"{100 * row['training']['accuracy_in_torch']:.2f} %", f"{int8['layers']} of {layers}"]
        training += [f"{100 * int8['share']:.1f} %", f"{row['training']['seconds'] / 60:.1f} min"]
    accuracy = f"{100 * row['accuracy']['value']:.2f} % (n = {row['accuracy']['n']})"
    return [label, f"{row['latency']['p50']:.3f} ms", against[0], accuracy, *against[1:], *training]


def _markdown(engines: dict[str, Any], told: dict[str, Any], options: dict[str, Any]) -> str:
    text = "# Quantization-aware training: solar CNN on OpenVINO, CPU, batch 1\n\n" + provenance(told)
    if options["quick"]:
        text += "\n**Quick run: shows that it works. It proves nothing.**\n"
    if options["vnni"] is False:
        text += (
            "\n**This CPU has no VNNI: OpenVINO's INT8 sums saturate on it where weights take all 8 bits, as Brevitas'"
            " do; NNCF's and ours keep 7 here. Accuracies in PyTorch do not depend on it.**\n"
        )
    text += "\n" + markdown_table(HEADER, [_cells(label, row) for label, row in engines.items()])
    return text + (
        f"\nEach is trained for {options['epochs']} epochs in batches of {options['batch']}, AdamW at a peak rate of"
        f" {options['lr']:g}. `accuracy` is that of the engine that is timed, `in PyTorch` that of the network it was"
        f" made of. `latency` is of launches, `ours / it` of both side by side in one process. Limits: ours / peer at"
        f" most {MOST_LATENCY_RATIO}; ours not below a peer where McNemar's p is below {SIGNIFICANT}.\n"
    )


if __name__ == "__main__":
    main()
