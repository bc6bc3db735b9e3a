"""Our INT8 against NNCF's post-training quantization on OpenVINO: the same network, data, device and minute.

\b
    pip install -r benchmarks/requirements.txt
    python benchmarks/int8_peers.py [--only solar-cnn] [--pairs 12] [--quick]

Per network: the float ONNX goes to NNCF (preset MIXED, model type TRANSFORMER for the ViTs, the same
calibration samples) and through the recipe's passes; then f32, the runtime's default, NNCF and ours are timed
in process launches that take turns, and judged on the test part. Exit code 1 when a limit is broken.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from reporting import environment, markdown_table, provenance, wide_console, write

PACKAGES = ("edgepress", "nncf", "openvino", "torch", "brevitas")
EXAMPLES = Path(__file__).parent.parent / "examples"
MOST_LATENCY_RATIO = 1.05  # ours / NNCF, point estimate of the paired ratio
MOST_POINTS_BELOW = 0.3
ENGINES = ("f32", "default", "NNCF", "ours")


@dataclass(frozen=True)
class Network:
    """An example recipe, and whether NNCF is to treat its network as a transformer."""

    recipe: Path
    transformer: bool


NETWORKS = {
    f"{example}-{kind}": Network(EXAMPLES / example / f"{kind}.yaml", kind == "vit")
    for example in ("solar", "digits")
    for kind in ("cnn", "vit")
}


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(list(NETWORKS)), help="Only these.")
@click.option("--pairs", default=12, show_default=True, type=click.IntRange(min=2), help="Launches of each.")
@click.option(
    "--iterations", default=100, show_default=True, type=click.IntRange(min=11), help="Timed a launch."
)
@click.option("--quick", is_flag=True, help="3 launches of 30 iterations, 64 test samples.")
def main(only: tuple[str, ...], pairs: int, iterations: int, quick: bool) -> None:
    """Compare on each network, write the results, and fail when a limit is broken."""
    from edgepress.errors import CompressError

    _require_nncf()
    told = environment(PACKAGES)
    pairs, iterations, samples = (3, 30, 64) if quick else (pairs, iterations, None)
    rows = []
    for name in only or NETWORKS:
        print(f"{name}:", flush=True)
        try:
            rows.append(_compare(name, NETWORKS[name], pairs, iterations, samples))
        except CompressError as error:
            rows.append({"name": name, "broken": [f"did not run: {error}"]})
    record = {"environment": told, "quick": quick, "networks": rows}
    paths = write("int8_peers_quick" if quick else "int8_peers", record, _markdown(rows, told, quick))
    _show(rows)
    print("written:", *paths)
    for row in rows:
        for limit in row["broken"]:
            print(f"LIMIT BROKEN, {row['name']}: {limit}")
    sys.exit(any(row["broken"] for row in rows))


def _require_nncf() -> None:
    try:
        import nncf  # noqa: F401
    except ImportError as error:
        fix = "pip install -r benchmarks/requirements.txt"
        print(f"NNCF cannot be imported ({error}): {fix}", file=sys.stderr)
        sys.exit(2)


def _compare(name: str, network: Network, pairs: int, iterations: int, samples: int | None) -> dict[str, Any]:
    """One network: quantize twice, build, time, judge."""
    from edgepress.pipeline.export import export
    from edgepress.progress import for_stream
    from edgepress.targets import openvino
    from edgepress.targets.base import TargetOptions
    from edgepress.targets.measuring.feeds import repeated
    from timing import Contender, measure_in_turns

    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        model, data, context, passes = _read(network.recipe)
        onnx = {"float": export(model, folder / "float.onnx")}
        for step in passes:
            model = step.apply(model, context).model
        onnx["ours"] = export(model, folder / "ours.onnx")
        f32, default = TargetOptions(float_precision="f32", batch=1), TargetOptions(batch=1)
        nncf_ir = _nncf(onnx["float"], data.calibration, network.transformer, folder / "nncf.xml")
        engines = {
            "f32": openvino.build(onnx["float"], f32, folder / "f32"),
            "default": openvino.build(onnx["float"], default, folder / "default"),
            "NNCF": openvino.OpenvinoEngine(nncf_ir, default, onnx["float"]),
            "ours": openvino.build(onnx["ours"], default, folder / "ours"),
        }
        options = {label: f32 if label == "f32" else default for label in ENGINES}
        feeds = {"input": data.calibration.example()[0].numpy()}
        contenders = [
            Contender(label, "openvino", engines[label].artefacts[0].path, options[label])
            for label in ENGINES
        ]
        launches = measure_in_turns(
            contenders, repeated(feeds), pairs, iterations, seed=0, progress=for_stream()
        )
        part = data.judge if samples is None else data.judge.head(samples)
        measured = {label: context.metric.measure(_forward(engines[label]), part, 1) for label in ENGINES}
        layers = {label: engines[label].layers(feeds, 20) for label in ("NNCF", "ours")}
    return _judge({"name": name, "calibration_samples": len(data.calibration)}, launches, measured, layers)


def _read(recipe_path: Path) -> tuple[Any, Any, Any, Any]:
    """What a run of the recipe would start from: model, data, the passes' context, and the passes."""
    from edgepress.pipeline.prepare import Prepared
    from edgepress.pipeline.recipe.file import read_recipe
    from edgepress.progress import for_stream

    prepared = Prepared(read_recipe(recipe_path), recipe_path.resolve().parent, progress=for_stream())
    data, model = prepared.read()
    return model, data, prepared.context(data), prepared.recipe.passes


def _nncf(float_onnx: Path, calibration: Any, transformer: bool, path: Path) -> Path:
    """NNCF's quantization as its documentation recommends it; batch 1, all calibration samples."""
    import nncf
    import openvino

    model = openvino.Core().read_model(str(float_onnx))
    model.reshape([1, *list(model.input(0).partial_shape)[1:]])  # the batch that is timed
    inputs = [x[None].numpy() for (x, *_), _ in (calibration.samples[i] for i in range(len(calibration)))]
    quantized = nncf.quantize(
        model,
        nncf.Dataset(inputs),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        subset_size=len(inputs),
    )
    openvino.save_model(quantized, str(path), compress_to_fp16=False)
    return path


def _forward(engine: Any) -> Any:
    import torch

    def forward(*inputs: Any) -> tuple[Any, ...]:
        return tuple(torch.from_numpy(array) for array in engine.run({"input": inputs[0].numpy()}))

    return forward


def _judge(row: dict[str, Any], launches: Any, measured: Any, layers: Any) -> dict[str, Any]:
    """The row's numbers as JSON values, and which limits they break."""
    from edgepress.calibration.statistics import mcnemar
    from edgepress.targets.graphs.attribution import precision_shares
    from edgepress.targets.measuring.latency import of, speedup_in_turns, summarize

    row["latency"] = {label: summarize(of(launches, label)).model_dump() for label in ENGINES}
    row["accuracy"] = {
        label: m.record.model_dump(include={"value", "n", "ci95", "part"}) for label, m in measured.items()
    }
    # Time of ours over time of NNCF, paired by round: below 1 ours is faster.
    row["ours_over_nncf"] = speedup_in_turns(of(launches, "ours"), of(launches, "NNCF")).model_dump()
    for label in ("f32", "default"):
        found = speedup_in_turns(of(launches, label), of(launches, "ours"))
        row[f"speedup_over_{label}"] = found.model_dump()
    row["mcnemar_p"] = {
        "ours, NNCF": mcnemar(measured["ours"].scores, measured["NNCF"].scores),
        "ours, f32": mcnemar(measured["ours"].scores, measured["f32"].scores),
    }
    row["precision"] = {label: precision_shares(found) for label, found in layers.items()}
    ratio = row["ours_over_nncf"]["ratio"]
    points = 100 * (measured["NNCF"].record.value - measured["ours"].record.value)
    row["broken"] = []
    if not ratio <= MOST_LATENCY_RATIO:
        row["broken"].append(f"latency is {ratio:.3f} times NNCF's, the limit is {MOST_LATENCY_RATIO}")
    if not points <= MOST_POINTS_BELOW + 1e-9:
        row["broken"].append(
            f"accuracy is {points:.2f} points below NNCF's, the limit is {MOST_POINTS_BELOW}"
            f" (n = {measured['ours'].record.n})"
        )
    return row


EXPLANATION = f"""\
Latencies are medians over process launches that take turns; ratios are paired by turn with 95 % intervals.
`default` is the float network as OpenVINO runs it unasked (BF16 where the CPU has it). INT8 is the share of
multiply-accumulates by OpenVINO's own word; what its names do not lead to counts as unknown, not INT8.
Limits: ours / NNCF at most {MOST_LATENCY_RATIO}, accuracy at most {MOST_POINTS_BELOW} points below NNCF's.
"""
HEADER = (
    "network",
    "f32",
    "default",
    "NNCF",
    "ours",
    "ours / NNCF",
    "over f32",
    "over default",
    "accuracy f32 / NNCF / ours",
    "McNemar p (ours, NNCF)",
    "INT8 NNCF / ours",
    "limits",
)


def _cells(row: dict[str, Any]) -> list[str]:
    if "latency" not in row:
        return [row["name"], *["–"] * (len(HEADER) - 2), row["broken"][0]]

    def paired(key: str) -> str:
        ratio = row[key]
        return f"{ratio['ratio']:.2f} ({ratio['ci95'][0]:.2f}–{ratio['ci95'][1]:.2f})"

    accuracy = [f"{100 * row['accuracy'][label]['value']:.1f}" for label in ("f32", "NNCF", "ours")]
    shares = [f"{100 * row['precision'][label].get('int8', 0.0):.1f}" for label in ("NNCF", "ours")]
    return [
        row["name"],
        *(f"{row['latency'][label]['p50']:.3f} ms" for label in ENGINES),
        paired("ours_over_nncf"),
        paired("speedup_over_f32"),
        paired("speedup_over_default"),
        f"{' / '.join(accuracy)} % (n = {row['accuracy']['ours']['n']})",
        f"{row['mcnemar_p']['ours, NNCF']:.2f}",
        f"{' / '.join(shares)} % of MACs",
        "; ".join(row["broken"]) or "kept",
    ]


def _markdown(rows: list[dict[str, Any]], told: dict[str, Any], quick: bool) -> str:
    text = "# INT8 against NNCF on OpenVINO, CPU, batch 1\n\n" + provenance(told)
    text += "\n**Quick run: shows that it works, not how fast it is.**\n" if quick else ""
    text += "\n" + markdown_table(HEADER, [_cells(row) for row in rows])
    text += "\n" + EXPLANATION
    return text


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(*HEADER)
    for row in rows:
        table.add_row(*_cells(row), style="red" if row["broken"] else None)
    wide_console().print(table)


if __name__ == "__main__":
    main()
