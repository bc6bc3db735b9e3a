"""The table of Polino et al. 2018 on our data: float, distilled and quantized students, sizes and measured speed.

\b
    pip install -r benchmarks/requirements.txt
    python benchmarks/distill_table.py [--network digits-cnn] [--depth 0.5] [--epochs 6] [--quick]

Every student is trained by the pass `distill`, exported, built for OpenVINO and judged on the test part, in
PyTorch and by the engine. Trainings and finished rows are kept in `benchmarks/results/distill_table/`; delete it
to repeat them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from int8_peers import EXAMPLES, _forward, _read
from reporting import RESULTS, environment, markdown_table, provenance, write

PACKAGES = ("edgepress", "openvino", "torch", "brevitas", "torch-pruning")
AUGMENT = {"solar-cnn": ("flip_horizontal", "flip_vertical"), "digits-cnn": ("shift",)}
DEPTHS = (1.0, 0.75, 0.5)
FLOAT_LR, FINE_LR, LOW_LR, POINTS_LR = 5e-4, 2e-5, 1e-4, 5e-3


@click.command(help=__doc__)
@click.option("--network", default="solar-cnn", show_default=True, type=click.Choice(list(AUGMENT)))
@click.option("--depth", default=0.5, show_default=True, type=click.FloatRange(0, 1, min_open=True))
@click.option(
    "--epochs", default=6, show_default=True, type=click.IntRange(min=1), help="Quantized, 4 and 2 bits."
)
@click.option(
    "--float-epochs", default=8, show_default=True, type=click.IntRange(min=1), help="Students in float."
)
@click.option(
    "--points-epochs", default=4, show_default=True, type=click.IntRange(min=1), help="Learned points."
)
@click.option(
    "--pairs", default=8, show_default=True, type=click.IntRange(min=2), help="Launches of each engine."
)
@click.option("--only", multiple=True, help="Only these rows, by the start of their names.")
@click.option("--quick", is_flag=True, help="One epoch on 64 samples: shows that it works.")
def main(
    network: str, depth: float, epochs: int, float_epochs: int, points_epochs: int, pairs: int, only: tuple[str, ...],
    quick: bool,
) -> None:  # fmt: skip
    """Train what is not trained yet, measure, and write the tables."""
    told = environment(PACKAGES)
    example, _, kind = network.partition("-")
    model, data, context, _ = _read(EXAMPLES / example / f"{kind}.yaml")
    if quick:
        epochs = float_epochs = points_epochs = 1
        data = replace(data, train=data.train.head(64), test=data.judge.head(64))
        context = replace(context, data=data)
    rows_asked = _rows(network, depth, epochs, float_epochs, points_epochs)
    folder = RESULTS / "distill_table" / (f"{network}-quick" if quick else network)
    rows = []
    for name, options in rows_asked.items():
        if not only or name.startswith(only):
            print(f"{name}:", flush=True)
            rows.append(_row(name, options, model, context, folder))
    times = _speed(model, context, folder / "speed", 2 if quick else pairs)
    record = {"environment": told, "network": network, "quick": quick, "rows": rows, "speed": times}
    paths = write(
        f"distill_table_{network}" + ("_quick" if quick else ""),
        record,
        _markdown(network, rows, times, told),
    )
    print(paths[1].read_text())
    print("written:", *paths)


def _rows(
    network: str, depth: float, epochs: int, float_epochs: int, points_epochs: int
) -> dict[str, dict[str, Any] | None]:
    """Row by row the options of `distill`; None is the trained network itself."""
    augment = AUGMENT[network]
    student = {"depth": depth}
    small = {
        "student": student,
        "float_epochs": float_epochs,
        "float_lr": FLOAT_LR,
        "training": {"augment": augment},
    }

    def quantized(bits: int, count: int, lr: float, **more: Any) -> dict[str, Any]:
        training = {"epochs": count, "lr": lr, "augment": augment, "keep": "last"}
        return {"weight_bits": bits, "ranges": "mse", "equalization": "off", "training": training, **more}

    from_float = {"student": student, "float_epochs": float_epochs, "float_lr": FLOAT_LR}
    learned = {
        "points": "learned", "points_epochs": points_epochs, "points_lr": POINTS_LR, "redistribute_bits": True
    }  # fmt: skip
    name = f"depth {depth:g}"
    return {
        "teacher, float": None,
        "teacher, INT8 after training": {"quantize": {"sensitivity_samples": 0}},
        "same network, QD 8 bits": quantized(8, max(1, epochs // 2), FINE_LR),
        "same network, QD 4 bits": quantized(4, epochs, LOW_LR),
        "same network, QD 2 bits": quantized(2, epochs, LOW_LR),
        f"{name}, float, labels alone": {**small, "weight_bits": "float", "teacher_weight": 0.0},
        f"{name}, float, distilled": {**small, "weight_bits": "float"},
        f"{name}, QD 8 bits": quantized(8, max(1, epochs // 2), FINE_LR, **from_float),
        f"{name}, QD 4 bits": quantized(4, epochs, LOW_LR, **from_float),
        f"{name}, QD 2 bits": quantized(2, epochs, LOW_LR, **from_float),
        f"{name}, uniform 4 bits, not trained": quantized(4, 0, LOW_LR, **from_float),
        f"{name}, DQ 4 bits": quantized(4, 0, LOW_LR, **from_float, **learned),
        f"{name}, uniform 2 bits, not trained": quantized(2, 0, LOW_LR, **from_float),
        f"{name}, DQ 2 bits": quantized(2, 0, LOW_LR, **from_float, **learned),
    }


def _row(
    name: str, options: Mapping[str, Any] | None, model: Any, context: Any, folder: Path
) -> dict[str, Any]:
    """One student: trained, exported, built, judged."""
    from edgepress.passes import PASSES
    from edgepress.pipeline.export import export
    from edgepress.targets import openvino
    from edgepress.targets.base import TargetOptions
    from edgepress.targets.graphs.attribution import precision_shares

    place = folder / name.replace(" ", "_").replace(",", "")
    place.mkdir(parents=True, exist_ok=True)
    kept = place / "row.json"
    asked = json.loads(json.dumps(options))
    if kept.is_file() and (known := json.loads(kept.read_text()))["options"] == asked:
        return dict(known["row"])
    student, notes = model, ()
    if options is not None:
        chosen = PASSES["quantize" if "quantize" in options else "distill"]
        given = options.get("quantize", options)
        _share_float_phase(place, folder)
        read = chosen.model_validate_json(json.dumps(given), strict=True)
        result = read.apply(model, replace(context, scratch=place))
        student, notes = result.model, result.notes
    onnx = export(student, place / "model.onnx")
    engine = openvino.build(onnx, TargetOptions(batch=1), place / "engine")
    feeds = {"input": context.data.calibration.example()[0].numpy()}
    facts, part = student.facts(), context.data.judge
    eager, executed = (
        context.metric.measure(student.run, part, 64).record,
        context.metric.measure(_forward(engine), part, 1).record,
    )
    row = {
        "name": name,
        "accuracy": eager.value,
        "on_openvino": executed.value,
        "n": eager.n,
        "ci95": eager.ci95,
        "params": facts.params,
        "macs": facts.macs,
        "packed_bytes": facts.bytes,
        "onnx_bytes": onnx.stat().st_size,
        "int8": precision_shares(engine.layers(feeds, 5)).get("int8", 0.0),
        "notes": list(notes),
    }
    kept.write_text(json.dumps({"options": asked, "row": row}, indent=1))
    return row


def _share_float_phase(place: Path, folder: Path) -> None:
    """All quantized students start from the distilled float one: its finished training is resumed, not repeated."""
    finished = next(folder.glob("depth*float_distilled/float.safetensors"), None)
    if finished is not None and place.name.startswith("depth") and "labels" not in place.name:
        shutil.copyfile(finished, place / "float.safetensors") if finished.parent != place else None


def _speed(model: Any, context: Any, folder: Path, pairs: int) -> list[dict[str, Any]]:
    """Latency against depth, float and INT8, in turns with the whole float network; weights do not matter."""
    from edgepress.errors import CompressError
    from edgepress.passes.distillation.student import derive
    from edgepress.passes.quantize import Quantize
    from edgepress.pipeline.export import export
    from edgepress.progress import for_stream
    from edgepress.targets import openvino
    from edgepress.targets.base import TargetOptions
    from edgepress.targets.measuring.feeds import repeated
    from edgepress.targets.measuring.latency import of, speedup_in_turns
    from timing import Contender, measure_in_turns

    quantize = Quantize(ranges="minmax", equalization="off", bias_correction=False, sensitivity_samples=0)
    options = {"f32": TargetOptions(float_precision="f32", batch=1), "int8": TargetOptions(batch=1)}
    contenders, macs = [], {}
    for depth in DEPTHS:
        try:
            student = model if depth == 1 else model.successor(derive(model, depth=depth).module, model.form)
        except CompressError as error:  # four blocks have no three quarters
            print(f"depth {depth:g}: {error}")
            continue
        macs[depth] = student.facts().macs
        for precision, built in (("f32", student), ("int8", quantize.apply(student, context).model)):
            label = f"{depth:g} {precision}"
            onnx = export(built, folder / f"{label}.onnx")
            engine = openvino.build(onnx, options[precision], folder / label)
            contenders.append(Contender(label, "openvino", engine.artefacts[0].path, options[precision]))
    feeds = repeated({"input": context.data.calibration.example()[0].numpy()})
    launches = measure_in_turns(contenders, feeds, pairs, 60, seed=0, progress=for_stream())
    first = of(launches, contenders[0].label)
    rows = []
    for contender in contenders:
        depth, _, precision = contender.label.partition(" ")
        found = speedup_in_turns(first, of(launches, contender.label))
        rows.append(
            {
                "depth": depth,
                "precision": precision,
                "macs": macs[float(depth)],
                "speedup": found.ratio,
                "ci95": found.ci95,
            }
        )
    return rows


def _markdown(
    network: str, rows: list[dict[str, Any]], times: list[dict[str, Any]], told: dict[str, Any]
) -> str:
    cells = [
        [
            row["name"],
            f"{100 * row['accuracy']:.2f} % ({100 * row['ci95'][0]:.1f}–{100 * row['ci95'][1]:.1f})",
            f"{100 * row['on_openvino']:.2f} %",
            f"{row['params'] / 1e6:.2f} M",
            f"{row['packed_bytes'] / 1e3:.0f} kB",
            f"{rows[0]['packed_bytes'] / row['packed_bytes']:.1f}×",
            f"{100 * row['int8']:.0f} %",
        ]
        for row in rows
    ]
    header = ("student", "test accuracy", "on OpenVINO", "weights", "packed", "smaller", "MACs in INT8")
    speed = [
        [
            t["depth"],
            t["precision"],
            f"{t['macs'] / 1e6:.0f} M",
            f"{t['speedup']:.2f}× ({t['ci95'][0]:.2f}–{t['ci95'][1]:.2f})",
        ]
        for t in times
    ]
    return (
        f"# Quantized distillation: {network}\n\n{provenance(told)}\n{markdown_table(header, cells)}\n"
        f"Accuracy on n = {rows[0]['n']} test samples with Wilson's 95 % interval. `packed` counts every tensor at its"
        " stored bits, with scales and points.\n\n"
        f"{markdown_table(('depth', 'engine', 'MACs', 'speed-up over the whole network in f32'), speed)}"
    )


if __name__ == "__main__":
    main()
