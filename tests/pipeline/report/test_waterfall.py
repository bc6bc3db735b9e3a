"""The waterfall: what every pass left of size, metric and latency, and what was not measured on the way, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from edgepress.calibration.measurement import FidelityRecord
from edgepress.pipeline.pages.words import MINUS
from edgepress.pipeline.report.view import device_views
from edgepress.pipeline.report.waterfall import Waterfall, waterfall
from edgepress.pipeline.report.write import write_reports
from edgepress.pipeline.run_record import ArtefactRecord, BetweenRecord, RunRecord, TargetRecord
from edgepress.targets.measuring.latency import Speedup
from html_page import Page
from run_records import F32, cpu, engine, latency, run, step, tensorrt

NAN = float("nan")


def alike(agreement: float, kl: float) -> FidelityRecord:
    return FidelityRecord(agreement=agreement, kl=kl, n=656, part="test")


def file(path: str, kind: str, count: int) -> ArtefactRecord:
    return ArtefactRecord(path=path, kind=kind, bytes=count, sha256="ab" * 32)


STEPS = [
    step("float", 0.87, 40_000, params=10_000, macs=2_000_000),
    step("gates", 0.865, 16_000, params=4_000, macs=1_000_000, fidelity=alike(0.953, 0.0312)),
    step("quantize", 0.86, 4_000, params=4_000, macs=1_000_000, fidelity=alike(0.947, NAN)),
    step("l2", 0.855, 1_000, params=4_000, macs=1_000_000),
]
FILES = [
    file("model.onnx", "onnx", 5_000),
    file("float.onnx", "onnx-float", 41_000),
    file("model.l2z", "l2z", 1_250),
]


def device(**changes: Any) -> TargetRecord:
    fields = {
        "baseline": engine(F32, 6.0, 0.87, {"f32": 1.0}),
        "compressed": engine("int8", 1.5, 0.85, {"int8": 1.0}),
        "speedup": [Speedup(baseline=F32, ratio=4.02, ci95=(3.9, 4.11), pairs=6)],
        "fidelity": alike(0.94, 0.04),
    }
    return cpu(**{**fields, **changes})


def series(**changes: Any) -> RunRecord:
    return run(**{"steps": STEPS, "artefacts": FILES, "targets": [device()], **changes})


def rows_of(record: RunRecord) -> Waterfall:
    return waterfall(record, device_views(record))


def texts(record: RunRecord, folder: Path) -> tuple[str, str]:
    """The table as the page shows it, and the Markdown report."""
    write_reports(record, folder)
    words = " ".join(" ".join(Page((folder / "report.html").read_text(encoding="utf-8")).words).split())
    return words.partition("Pass by pass")[2].partition("Bars start")[0], (folder / "report.md").read_text(
        "utf-8"
    )


def test_every_pass_and_what_is_shipped(tmp_path: Path) -> None:
    page, markdown = texts(series(), tmp_path)
    for told in (
        "Same answer as the float model Size MACs Latency p50 on openvino:CPU",
        "float 1.5 s 87.00 % n = 656, test – 40.00 kB 10.00 k weights 2.00 M 6.00 ms in f32",
        f"({MINUS}0.50 points) n = 656, test 95.3 % KL 0.0312 nats 16.00 kB 4.00 k weights 2.50× smaller 1.00 M",
        "94.7 % KL not finite 4.00 kB 4.00 k weights 10.00× smaller 1.00 M not measured",
        "not measured 1.00 kB 4.00 k weights 40.00× smaller 1.00 M timed as shipped",
        f"as shipped on openvino:CPU 85.00 % ({MINUS}2.00 points) n = 656, test 94.0 % KL 0.04 nats",
        "1.25 kB model.l2z 32.00× smaller model.onnx 5.00 kB – 1.50 ms 4.02× the speed (3.90–4.11×)",
    ):
        assert told in page, page
    for told in (
        "| gates | 86.50 % (83.90–89.10 %, n = 656, test) | 95.3 %, KL 0.0312 nats | 16.00 kB, 2.50× smaller |",
        "| 94.0 %, KL 0.04 nats | model.l2z: 1.25 kB, model.onnx: 5.00 kB | – | 1.50 ms, 4.02× the speed",
    ):
        assert told in markdown, markdown


def test_models_between_passes_are_told_where_they_were_timed(tmp_path: Path) -> None:
    between = [
        BetweenRecord(step=1, latency_ms=latency(3.0), precision={"f32": 1.0}),
        BetweenRecord(step=2, latency_ms=latency(2.0), precision={"int8": 0.9, "f32": 0.1}),
    ]
    record = series(targets=[device(between=between)])
    rows = rows_of(record)
    assert [row.bars.get("latency") for row in rows.steps] == [(1, 0), (0.5, 0.5), (2 / 6, 1 / 6), None]
    assert rows.shipped is not None and rows.shipped.bars["latency"] == (0.25, 0.5 / 6)
    page, markdown = texts(record, tmp_path)
    for told in ("3.00 ms in f32", "2.00 ms 90.0 % in INT8", "timed as shipped"):
        assert told in page, page
    assert "not measured" not in page.partition("Latency")[2].partition("l2")[0]
    assert "| 2.00 ms, 90.0 % in INT8 |" in markdown
    assert "| timed as shipped |" in markdown
    whole = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "in turns: of the float model, after each pass and as shipped." in whole


def test_a_model_between_passes_that_a_device_refused_says_why(tmp_path: Path) -> None:
    refused = BetweenRecord(step=1, reason="the runtime knows no such operator")
    page, markdown = texts(series(targets=[device(between=[refused])]), tmp_path)
    assert "not measured the runtime knows no such operator" in page
    assert "not measured: the runtime knows no such operator |" in markdown


def test_a_step_that_changed_nothing_is_as_fast_as_before() -> None:
    steps = [STEPS[0], STEPS[1], STEPS[1].model_copy(update={"modified": False}), STEPS[3]]
    between = [BetweenRecord(step=1, latency_ms=latency(3.0), precision={})]
    found = rows_of(series(steps=steps, targets=[device(between=between)]))
    assert [row.latency_ms for row in found.steps] == [6.0, 3.0, 3.0, None]
    assert [row.computed_in for row in found.steps] == ["in f32", "", "", ""]


def test_bars_are_shares_of_the_largest_and_what_the_step_removed() -> None:
    found = rows_of(series())
    assert [row.bars["bytes"] for row in found.steps] == [(1, 0), (0.4, 0.6), (0.1, 0.3), (0.025, 0.075)]
    assert [row.bars["macs"] for row in found.steps] == [(1, 0), (0.5, 0.5), (0.5, 0), (0.5, 0)]
    assert [row.bars.get("latency") for row in found.steps] == [(1, 0), None, None, None]
    assert found.shipped is not None
    assert found.shipped.bars == {"latency": (0.25, 0.75), "bytes": (1_250 / 40_000, 0)}


def test_a_file_that_is_larger_than_the_float_weights_has_the_longest_bar() -> None:
    found = rows_of(series(artefacts=[file("model.onnx", "onnx", 80_000)]))
    assert found.shipped is not None
    assert found.shipped.bars["bytes"] == (1, 0)
    assert found.shipped.smaller == ""
    assert found.steps[0].bars["bytes"] == (0.5, 0)


def test_without_a_device_only_the_file_is_told(tmp_path: Path) -> None:
    page, markdown = texts(series(targets=[tensorrt()]), tmp_path)
    assert "Latency p50 float" in page  # of no device
    assert "as shipped not measured not measured 1.25 kB model.l2z" in page
    assert "| as shipped | not measured | not measured | model.l2z: 1.25 kB" in markdown
    assert page.rstrip().endswith("not measured")
    assert "timed as shipped" not in page


def test_a_device_that_was_judged_and_not_timed_has_its_metric_told(tmp_path: Path) -> None:
    judged = device(
        baseline=None, compressed=engine("int8", 1.5, 0.85, {}, latency_ms=None), speedup=[], fidelity=None
    )
    page, _ = texts(series(targets=[tensorrt(), judged]), tmp_path)
    assert "as shipped on openvino:CPU 85.00 %" in page
    assert page.rstrip().endswith("– not measured")


def test_nothing_shipped_has_no_row(tmp_path: Path) -> None:
    assert rows_of(series(targets=[tensorrt()], artefacts=[])).shipped is None
    assert rows_of(series(steps=[])).steps == []
    page, markdown = texts(series(targets=[], artefacts=[]), tmp_path)
    assert "as shipped" not in page + markdown


@pytest.mark.parametrize("value", [NAN, 0.0])
def test_a_latency_that_cannot_be_draws_no_bar(value: float) -> None:
    odd = device(compressed=engine("int8", value, 0.85, {"int8": 1.0}))
    found = rows_of(series(targets=[odd])).shipped
    assert found is not None
    assert found.bars["latency"][0] == 0


def test_answers_that_were_never_compared_have_no_column(tmp_path: Path) -> None:
    old = [one.model_copy(update={"fidelity": None}) for one in STEPS]
    page, _ = texts(series(steps=old, targets=[device(fidelity=None)]), tmp_path)
    assert "Same answer" not in page
