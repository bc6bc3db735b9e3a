"""Small hand-made run records for the tests of the verdict and of the reports."""

from __future__ import annotations

from edgepress.calibration.measurement import MetricRecord
from edgepress.pipeline.run_record import (
    ArtefactRecord,
    EngineRecord,
    ParityRecord,
    RunRecord,
    StepRecord,
    TargetRecord,
)
from edgepress.targets.layer import Layer
from edgepress.targets.measuring.latency import Latency, Speedup

F32 = "openvino:CPU f32"


def metric(value: float, n: int = 656, part: str = "test") -> MetricRecord:
    return MetricRecord(name="top1", value=value, n=n, ci95=(value - 0.026, value + 0.026), part=part)


def step(name: str, value: float, size: int, **changes: object) -> StepRecord:
    fields = {"modified": name != "float", "seconds": 1.5, "cached": False, "params": 1_000, "macs": 50_000}
    return StepRecord(pass_name=name, bytes=size, metric=metric(value), **{**fields, **changes})


def latency(p50: float, **changes: object) -> Latency:
    fields = {
        "p50": p50, "p90": p50 * 1.05, "p99": None, "n": 6, "launches": 2, "ci95": (p50 * 0.98, p50 * 1.02),
        "load_ms": 120.0, "first_inference_ms": p50 * 3, "warmup_iterations": 30,
        "measured_at": "2026-03-14T09:21:07Z", "note": "n = 6, p99 needs 662",
        "samples_ms": [[p50, p50 * 0.99, p50 * 1.01], [p50, p50 * 0.98, p50 * 1.02]],
    }  # fmt: skip
    return Latency.model_validate({**fields, **changes})


def layer(name: str, precision: str, ms: float | None, macs: int = 25_000) -> Layer:
    return Layer(name=name, type="Conv", precision=precision, ms=ms, macs=macs, onnx_nodes=[name])


def engine(
    label: str, p50: float, value: float, precision: dict[str, float], **changes: object
) -> EngineRecord:
    kind = max(precision, key=lambda key: precision[key]) if precision else "f32"
    fields = {
        "label": label, "settings": {"threads": 2}, "latency_ms": latency(p50), "metric": metric(value),
        "engine_bytes": 4_000, "precision": precision,
        "layers": [layer("conv1", kind, p50 / 2), layer("conv2", kind, p50 / 4)],
        "peak_memory_bytes": 78_400_000, "joules": 0.012,
    }  # fmt: skip
    return EngineRecord.model_validate({**fields, **changes})


def parity(edge: str = "onnx to openvino:CPU", ok: bool = True) -> ParityRecord:
    return ParityRecord(
        edge=edge,
        max_error=0.0821,
        sqnr_db=34.2,
        top1_agreement=0.996,
        n=64,
        limit="SQNR at least 30 dB",
        ok=ok,
    )


def cpu(**changes: object) -> TargetRecord:
    """openvino:CPU: 1.6 ms in f32, 1.2 ms in INT8, 97.1 % of the MACs in INT8, top-1 86.28 %."""
    fields = {
        "device": "CPU", "runtime": "openvino", "version": "2026.4.0", "status": "run",
        "baseline": engine(F32, 1.6, 0.8674, {"f32": 1.0}),
        "compressed": engine("openvino:CPU int8", 1.2, 0.8628, {"int8": 0.971, "f32": 0.029}),
        "speedup": [Speedup(baseline=F32, ratio=1.32, ci95=(1.29, 1.35), pairs=6)],
        "parity": parity(),
    }  # fmt: skip
    return TargetRecord.model_validate({**fields, **changes})


def tensorrt() -> TargetRecord:
    return TargetRecord(
        device="", runtime="tensorrt", version=None, status="built", reason="no NVIDIA GPU here to run on"
    )


STEPS = [step("float", 0.8674, 4_000), step("quantize", 0.8643, 1_000, notes=["1 layer stays in float."])]
MODEL = ArtefactRecord(path="model.onnx", kind="onnx", bytes=1_900_000, sha256="ab" * 32)


def run(**changes: object) -> RunRecord:
    fields = {
        "name": "digits", "verdict": "PASS", "reason": "All budgets were kept.",
        "command": "compress run r.yaml",
        "started_at": "2026-03-14T09:18:02Z", "seconds": 75.0, "seed": 0,
        "environment": {"cpu": {"cores": 2}},
        "data": {"manifest": "cd" * 32}, "recipe": "name: digits\n", "budgets": [], "steps": STEPS,
        "proofs": [parity()], "artefacts": [MODEL], "targets": [cpu(), tensorrt()],
    }  # fmt: skip
    return RunRecord.model_validate({**fields, **changes})
