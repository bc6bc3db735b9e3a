"""Records that lack something or hold what no pass writes: every report says so in words, and invents no number."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from edgepress.pipeline.report.terminal import summary
from edgepress.pipeline.report.write import write_reports
from edgepress.pipeline.run_record import RunRecord, StepRecord
from html_page import Page
from rich.console import Console
from run_records import F32, STEPS, cpu, engine, layer, metric, run, step, tensorrt

NAN = float("nan")
NO_WORD = re.compile(r"\b(nan|none|null|inf|infinity|undefined)\b", re.IGNORECASE)
NO_NUMBER = re.compile(r"\b(nan|inf|infinity|undefined)\b", re.IGNORECASE)
NOTHING = re.compile(r"(?<![\d.,])0(\.0+)? (%|ms|dB)")
"""A share, a time or a ratio of zero: wrong where none was measured."""
UNKNOWN_ENGINE = engine(F32, NAN, NAN, {"int8": NAN}, layers=[layer("conv1", "int8", NAN)])


def float_step(value: float) -> StepRecord:
    return STEPS[0].model_copy(update={"metric": metric(value)})


def quantized(**details: Any) -> RunRecord:
    return run(steps=[STEPS[0], step("quantize", 0.86, 1_000, details=details)])


ODD: dict[str, tuple[RunRecord, list[str]]] = {
    "rows without names and rows that are none": (
        quantized(coverage=[{"layer": 3}, "nonsense"]),
        ["0 of 1 layers quantized, not measured of their MACs.", "3 unknown unknown no reason given"],
    ),
    "a quantized row without a name": (
        quantized(coverage=[{"quantized": True, "macs": "many"}]),
        ["1 of 1 layers quantized, not measured of their MACs.", "Nothing stays in float.", "unknown unknown unknown"],
    ),
    "sensitivities without names": (
        quantized(sensitivity=[{"sqnr_db": 12.5}, {"layer": "conv1", "sqnr_db": "low"}]),
        ["the layers that INT8 hurts most", "unknown 12.5"],
    ),
    "codes without names": (
        quantized(tensors=[{"weights": 800, "bits_per_weight": 2.0, "zeros": 0.5}, {"weights": 1}, 7]),
        ["1 tensors became codes", "unknown 2.00 bits 200 B, 50.00 % zeros"],
    ),
    "epochs without losses": (
        quantized(training={"quantized": {"epochs": [{"loss": None}, {"loss": 2.0}, 3], "best": 9}, "other": 1}),
        ["The last of 1 epochs was kept.", "epoch 1"],
    ),
    "no steps, budgets, proofs, artefacts and name": (
        run(steps=[], budgets=[], targets=[tensorrt()], artefacts=[], proofs=[], name=""),
        [
            "unnamed run",
            "The recipe names no budgets",
            "built, not run",
            "tensorrt version unknown",
            "no NVIDIA GPU here to run on",
            "Limit not measured",
            "The run left no artefacts.",
        ],
    ),
    "a metric of no step": (
        run(steps=[float_step(NAN)]),
        ["top1 not measured float not measured, n = 656", "float 1.5 s not measured n = 656, test"],
    ),
    "no metric before": (
        run(steps=[float_step(NAN), STEPS[1]]),
        ["top1 86.43 % float not measured, n = 656", "quantize 1.5 s 86.43 % n = 656, test"],
    ),
    "no metric after": (
        run(steps=[STEPS[0], step("quantize", NAN, 1_000)]),
        ["top1 not measured float 86.74 %, n = 656", "quantize 1.5 s not measured n = 656, test"],
    ),
    "multiply-accumulates that cannot be counted": (
        run(steps=[step("float", 0.8, 4_000, macs=None)]),
        ["4.00 kB 1.00 k weights unknown 1.60 ms in f32"],
    ),
    "an engine of which nothing is known": (
        run(
            targets=[cpu(baseline=None, compressed=UNKNOWN_ENGINE, version=None, speedup=[], parity=None)]
        ),
        [
            "openvino version unknown",
            "not measured no interval not measured not measured 6 / 2 120 not measured",
            "compressed not measured: the runtime does not tell",
            "Time per layer: not measured, the runtime does not time layers here.",
        ],
    ),
}  # fmt: skip


def reports(record: RunRecord, folder: Path) -> dict[str, str]:
    """Each report as text; of the page what is seen, and the values of its attributes."""
    write_reports(record, folder)
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(summary(record))
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    return {
        "page": " ".join(" ".join(page.words).split()),
        "attributes": " ".join(value or "" for _, found in page.tags for value in found.values()),
        "terminal": console.export_text(),
        **{name: (folder / name).read_text(encoding="utf-8") for name in ("report.md", "junit.xml")},
    }


@pytest.fixture(params=ODD)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """What the page of a case must say, and its reports."""
    record, seen = ODD[request.param]
    return seen, reports(record, tmp_path)


def test_a_reader_is_told(odd: tuple[list[str], dict[str, str]]) -> None:
    seen, texts = odd
    assert [words for words in seen if words not in texts["page"]] == [], texts["page"]


def test_no_report_shows_a_value_that_there_is_not(odd: tuple[list[str], dict[str, str]]) -> None:
    _, texts = odd
    drawn = NO_NUMBER.search(texts.pop("attributes"))  # of which "none" is a word of SVG and of policies
    assert drawn is None, drawn
    assert {name: found[0] for name, text in texts.items() if (found := NO_WORD.search(text))} == {}


def test_what_is_unknown_of_an_engine_is_never_zero(tmp_path: Path) -> None:
    texts = reports(ODD["an engine of which nothing is known"][0], tmp_path)
    devices = texts["page"].partition("Devices")[2].partition("Pass by pass")[0]
    found = {"page": devices, "report.md": texts["report.md"], "terminal": texts["terminal"]}
    assert "| openvino:CPU | run |" + " not measured |" * 5 in found["report.md"]
    assert {name: match[0] for name, text in found.items() if (match := NOTHING.search(text))} == {}
