"""Structure coverage: what INT8 quantization makes of many architectures, without their weights.

    python benchmarks/coverage.py [--only ResNet-18] [--timeout 600]

For each: quantize, export, the same numbers in torch, onnxruntime and OpenVINO, the share of multiply-accumulates
that OpenVINO says it executes in INT8, what stays in float, a TensorRT engine for SM86, and lint findings.
What fails is listed with its reason. Exit code 1 when an architecture fails at any stage.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from reporting import environment, markdown_table, provenance, write
from structures import ARCHITECTURES, ARGUMENTS, images, wake

PACKAGES = ("edgepress", "torch", "torchvision", "timm", "openvino", "onnxruntime", "tensorrt_rtx")
SAMPLES = 16
SEED = 0
ENOUGH_INT8 = 0.95
CAPABILITY = "SM86"


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(list(ARCHITECTURES)), help="Only these; may be repeated.")
@click.option("--timeout", default=600, show_default=True, help="Seconds that one architecture may take.")
@click.option("--worker", type=click.Path(path_type=Path), hidden=True, help="Write one result here and end.")
def main(only: tuple[str, ...], timeout: int, worker: Path | None) -> None:
    """Run every architecture in a process of its own, one after the other."""
    if worker is not None:
        worker.write_text(json.dumps(cover(only[0])))
        return
    told = environment(PACKAGES)
    rows = []
    for name in only or ARCHITECTURES:
        rows.append(_in_own_process(name, timeout))
        print(_line(rows[-1]), flush=True)
    text = _markdown(rows, told)
    paths = write("coverage", {"environment": told, "architectures": rows}, text)
    _show(rows)
    print("written:", *paths)
    sys.exit(any(row["failures"] for row in rows))


def _in_own_process(name: str, timeout: int) -> dict[str, Any]:
    """One architecture's row; a crash or a timeout is its failure and does not end the run."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--only", name, "--worker", str(result)]
        failure = ""
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
            if done.returncode:
                tail = " ".join(done.stderr.strip().splitlines()[-3:])
                failure = f"process: ended with code {done.returncode}: {tail[-600:]}"
        except subprocess.TimeoutExpired:
            failure = f"process: not done after {timeout} s"
        row: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {"failures": []}
    row |= {"name": name, "source": ARCHITECTURES[name], "seconds": round(time.monotonic() - started, 1)}
    row["failures"] += [failure] if failure else []
    return row


class _Stages:
    """Runs stages that may fail: a failure is recorded with its stage, and what needs the stage is left out."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Record what goes wrong inside, by the stage's name."""
        try:
            yield
        except Exception as error:  # whatever it is, it is the result for this architecture
            self.failures.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:800]}")


def cover(name: str) -> dict[str, Any]:
    """Everything about one architecture, as JSON values."""
    from edgepress.calibration.scheme import QuantScheme

    stages = _Stages()
    row: dict[str, Any] = {"failures": stages.failures}
    model = quantized = path = None
    with stages.stage("make"):
        model, part = _network(name)
        facts = model.facts()
        row |= {"params": facts.params, "macs": facts.macs, "input": list(model.example_inputs[0].shape[1:])}
    if model is not None:
        with stages.stage("quantize"):
            quantized, planned = _quantize(model, part, QuantScheme())
            row |= planned
    with tempfile.TemporaryDirectory() as folder:
        if quantized is not None:
            with stages.stage("export"):
                from edgepress.pipeline.export import export

                path = export(quantized, Path(folder) / "quantized.onnx")
        if path is not None:
            (inputs,), _ = next(part.batches(SAMPLES))
            expected = quantized.run(inputs)[0]
            row |= _on_runtimes(stages, path, inputs, expected, row["quantization_sqnr_db"])
            row |= _on_tensorrt(stages, path)
    return row


def _network(name: str) -> tuple[Any, Any]:
    """The network with ordinary statistics, and its random images."""
    import torch
    from edgepress.calibration.data import Part
    from edgepress.calibration.samples import ArraySamples
    from edgepress.pipeline.ingest import ingest
    from edgepress.pipeline.recipe import ModelSection

    model = ingest(ModelSection(source=ARCHITECTURES[name], args=ARGUMENTS.get(name, {})))
    shape = tuple(model.example_inputs[0].shape[1:])
    wake(model.module, images(2 * SAMPLES, shape, SEED + 1), SEED)
    samples = ArraySamples((images(SAMPLES, shape, SEED),), torch.zeros(SAMPLES, dtype=torch.long))
    return model, Part("random", samples)


def _quantize(model: Any, part: Any, scheme: Any) -> tuple[Any, dict[str, Any]]:
    """The quantized model, what was planned for each layer, and how far its outputs are from float."""
    from edgepress.calibration.data import DataParts
    from edgepress.calibration.metric import metric_named
    from edgepress.passes.base import PassContext
    from edgepress.passes.quantization.sensitivity import sqnr_db
    from edgepress.passes.quantize import Quantize

    context = PassContext(DataParts(part, part, part, None, "random"), metric_named("top1"), scheme, SEED)
    done = Quantize(equalization="off", sensitivity_samples=0).apply(model, context)
    layers = done.plan.details["coverage"]
    total = sum(layer["macs"] for layer in layers)
    (inputs,), _ = next(part.batches(SAMPLES))
    return done.model, {
        "layers": len(layers),
        "planned_int8": sum(layer["macs"] for layer in layers if layer["quantized"]) / total,
        "planned_float": [layer for layer in layers if not layer["quantized"]],
        "quantization_sqnr_db": sqnr_db(model.run(inputs)[0], done.model.run(inputs)[0]),
    }


def _on_runtimes(stages: _Stages, path: Path, inputs: Any, expected: Any, noise_db: float) -> dict[str, Any]:
    """Parity with the quantized torch model (float layers in f32) and executed precision (runtime's default)."""
    import torch
    from edgepress.passes.quantization.sensitivity import sqnr_db
    from edgepress.targets import TARGETS
    from edgepress.targets.attribution import precision_shares
    from edgepress.targets.base import TargetOptions

    found: dict[str, Any] = {"lint": {}}
    feeds = {"input": inputs.numpy()}
    for runtime in ("onnxruntime", "openvino"):
        with stages.stage(runtime):
            target, folder = TARGETS[runtime], path.parent / runtime
            exact = target.build(path, TargetOptions(float_precision="f32"), folder)
            parity = sqnr_db(expected, torch.from_numpy(exact.run(feeds)[0]))
            found[f"{runtime}_parity_db"] = parity
            if not parity > noise_db:  # also true of NaN
                raise ArithmeticError(
                    f"its outputs are {parity:.1f} dB from torch's, more than quantization is ({noise_db:.1f} dB)"
                )
        with stages.stage(f"{runtime} precision"):
            built = target.build(path, TargetOptions(batch=1), folder)
            layers = built.layers({"input": inputs[:1].numpy()}, 3)
            found[f"{runtime}_precision"] = precision_shares(layers)
            found[f"{runtime}_float"] = [
                {"layer": x.name, "nodes": list(x.onnx_nodes), "precision": x.precision, "macs": x.macs}
                for x in layers
                if x.macs and x.precision != "int8"
            ]
        with stages.stage(f"{runtime} lint"):
            found["lint"][runtime] = _lint(target, path)
    return found


def _on_tensorrt(stages: _Stages, path: Path) -> dict[str, Any]:
    """Whether an engine is built ahead of time."""
    from edgepress.targets import TARGETS
    from edgepress.targets.base import TargetOptions

    target = TARGETS["tensorrt"]
    if reason := target.can_build():
        return {"tensorrt": f"not tried: {reason}"}
    found: dict[str, Any] = {"tensorrt": "refused"}
    with stages.stage("tensorrt"):
        target.build(path, TargetOptions(compute_capabilities=(CAPABILITY,)), path.parent / "tensorrt")
        found["tensorrt"] = f"built for {CAPABILITY}"
    with stages.stage("tensorrt lint"):
        found["lint_tensorrt"] = _lint(target, path)
    return found


def _lint(target: Any, path: Path) -> list[str]:
    return [f"{lint.severity}: {lint.node}: {lint.problem}" for lint in target.lint(path)]


def _int8(row: dict[str, Any], runtime: str) -> float | None:
    shares = row.get(f"{runtime}_precision")
    return None if shares is None else shares.get("int8", 0.0)


def _short(row: dict[str, Any]) -> list[str]:
    """Why less than nearly all of it runs in INT8: the layers, largest first, in OpenVINO's and our own words."""
    share = _int8(row, "openvino")
    if share is None or share >= ENOUGH_INT8:
        return []
    planned = {layer["layer"]: layer["reason"] for layer in row["planned_float"]}
    told = []
    for layer in sorted(row["openvino_float"], key=lambda x: -x["macs"]):
        reason = next((planned[n] for n in layer["nodes"] if n in planned), "quantized in the graph")
        told.append(
            f"{', '.join(layer['nodes'][:3])} ran in {layer['precision']}, "
            f"{100 * layer['macs'] / row['macs']:.1f} % of MACs ({reason})"
        )
    return told


def _cells(row: dict[str, Any]) -> list[str]:
    def number(key: str) -> str:
        return f"{row[key]:.1f}" if key in row else "–"

    def share(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f} %"

    lint = row.get("lint", {}) | ({"tensorrt": row["lint_tensorrt"]} if "lint_tensorrt" in row else {})
    return [
        row["name"],
        share(row.get("planned_int8")),
        share(_int8(row, "openvino")),
        share(_int8(row, "onnxruntime")),
        f"{len(row['openvino_float'])} of {row['layers']}" if "openvino_float" in row else "–",
        number("quantization_sqnr_db"),
        number("onnxruntime_parity_db"),
        number("openvino_parity_db"),
        row.get("tensorrt", "–"),
        str(sum(map(len, lint.values()))) if lint else "–",
        "; ".join(x.partition(":")[0] for x in row["failures"]) or "–",
    ]


HEADER = (
    "architecture", "INT8 planned", "INT8 OpenVINO", "INT8 onnxruntime", "float layers (OpenVINO)", "INT8 vs float, dB",
    "onnxruntime vs torch, dB", "OpenVINO vs torch, dB", "TensorRT", "lint", "failed",
)  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    cells = [f"{name} {cell}" for name, cell in zip(HEADER[1:], _cells(row)[1:], strict=True)]
    return f"{row['name']} ({row['seconds']:.0f} s): " + ", ".join(cells)


def _markdown(rows: list[dict[str, Any]], told: dict[str, Any]) -> str:
    text = "# Structure coverage\n\n" + provenance(told) + "\n" + markdown_table(HEADER, [_cells(r) for r in rows])
    text += f"\nRandom weights, {SAMPLES} random images; shares are of multiply-accumulates, by the runtime's word.\n"
    for row in rows:
        items = [f"failed at {x}" for x in row["failures"]] + _short(row)
        if items:
            text += f"\n**{row['name']}** (`{row['source']}`)\n\n" + "".join(f"- {item}\n" for item in items)
    return text


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEADER)
    for row in rows:
        table.add_row(*_cells(row), style="red" if row["failures"] else None)
    Console().print(table)
    for row in rows:
        for item in [*row["failures"], *_short(row)[:5]]:
            print(f"{row['name']}: {item}")


if __name__ == "__main__":
    main()
