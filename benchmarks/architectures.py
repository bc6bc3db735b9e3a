"""Structure coverage: what INT8 quantization makes of many architectures, without their weights.

\b
    python benchmarks/architectures.py [--only ResNet-18] [--timeout 600]

For each: quantize, export, the same numbers in torch, onnxruntime and OpenVINO, the share of
multiply-accumulates that they say they execute in INT8, what stays in float, a TensorRT engine for SM86, and
lint findings.
What fails is listed with its reason. Exit code 1 when an architecture fails at any stage.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from coverage_table import line, markdown, show
from own_process import Stages, each
from reporting import environment, write
from structures import ARCHITECTURES, ARGUMENTS, images, wake

PACKAGES = ("edgepress", "torch", "torchvision", "timm", "openvino", "onnxruntime", "tensorrt_rtx")
SAMPLES = 16
SEED = 0
WORSE_DB = 3.0  # two sets of rounding decisions on 16 images differ by up to 2 dB
CAPABILITY = "SM86"


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(list(ARCHITECTURES)), help="Only these.")
@click.option("--timeout", default=600, show_default=True, help="Seconds that one architecture may take.")
@click.option("--worker", type=click.Path(path_type=Path), hidden=True, help="Write one result here and end.")
def main(only: tuple[str, ...], timeout: int, worker: Path | None) -> None:
    """Run every architecture in a process of its own, one after the other."""
    if worker is not None:
        worker.write_text(json.dumps(cover(only[0])))
        return
    told = environment(PACKAGES)

    def keep(rows: list[dict[str, Any]]) -> tuple[Path, ...]:
        return write("coverage", {"environment": told, "architectures": rows}, markdown(rows, told, SAMPLES))

    rows, paths = each(__file__, ARCHITECTURES, only or ARCHITECTURES, timeout, line, keep)
    show(rows)
    print("written:", *paths)
    sys.exit(any(row["failures"] for row in rows))


def cover(name: str) -> dict[str, Any]:
    """Everything about one architecture, as JSON values."""
    from edgepress.calibration.scheme import QuantScheme

    stages = Stages()
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
            row |= _on_runtimes(stages, path, inputs, (model.run(inputs)[0], quantized.run(inputs)[0]))
            row |= _on_tensorrt(stages, path)
    return row


def _network(name: str) -> tuple[Any, Any]:
    """The network with ordinary statistics, and its random images."""
    import torch
    from edgepress.calibration.data import Part
    from edgepress.calibration.samples import ArraySamples
    from edgepress.pipeline.ingest.model import ingest
    from edgepress.pipeline.recipe.sections import ModelSection

    model = ingest(ModelSection(source=ARCHITECTURES[name], args=ARGUMENTS.get(name, {})))
    shape = tuple(model.example_inputs[0].shape[1:])
    wake(model.module, images(2 * SAMPLES, shape, SEED + 1), SEED)
    samples = ArraySamples((images(SAMPLES, shape, SEED),), torch.zeros(SAMPLES, dtype=torch.long))
    return model, Part("random", samples)


def _quantize(model: Any, part: Any, scheme: Any) -> tuple[Any, dict[str, Any]]:
    """The quantized model, what was planned for each layer, and how far its outputs are from float."""
    from edgepress.calibration.data import DataParts
    from edgepress.calibration.metric import metric_named
    from edgepress.calibration.sqnr import sqnr_db
    from edgepress.passes.base import PassContext
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


def _on_runtimes(stages: Stages, path: Path, inputs: Any, expected: tuple[Any, Any]) -> dict[str, Any]:
    """Parity with torch (float layers in f32) and executed precision (the runtime's default).

    expected: outputs of the float and of the quantized torch model. A value next to a rounding boundary falls
    on either side, and a deep network with random weights carries that to every output: an input changed by
    1e-6 moves its outputs by as much as quantization does. So the judgement is on the distance to the float
    model: a runtime that computes the same graph is as near to it as torch is.
    """
    import torch
    from edgepress.calibration.sqnr import sqnr_db
    from edgepress.targets import TARGETS
    from edgepress.targets.base import TargetOptions
    from edgepress.targets.graphs.attribution import precision_shares

    found: dict[str, Any] = {"lint": {}}
    feeds = {"input": inputs.numpy()}
    for runtime in ("onnxruntime", "openvino"):
        with stages.stage(runtime):
            target, folder = TARGETS[runtime], path.parent / runtime
            exact = target.build(path, TargetOptions(float_precision="f32"), folder)
            outputs = torch.from_numpy(exact.run(feeds)[0])
            found[f"{runtime}_parity_db"] = sqnr_db(expected[1], outputs)
            of_torch, of_runtime = sqnr_db(*expected), sqnr_db(expected[0], outputs)
            found[f"{runtime}_sqnr_db"] = of_runtime
            if not of_runtime > of_torch - WORSE_DB:  # also true of NaN
                raise ArithmeticError(
                    f"its outputs are {of_runtime:.1f} dB from the float network's, torch's {of_torch:.1f} dB"
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


def _on_tensorrt(stages: Stages, path: Path) -> dict[str, Any]:
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


if __name__ == "__main__":
    main()
