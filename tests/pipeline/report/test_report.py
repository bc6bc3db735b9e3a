"""What a stranger reads of a run: the same facts in every report, nothing invented, and no text that acts."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from edgepress.errors import CompressError
from edgepress.pipeline.pages.words import bare_ms, byte_size, metric_value
from edgepress.pipeline.record_file import write_record
from edgepress.pipeline.report.layers import match_layers
from edgepress.pipeline.report.read import load_run
from edgepress.pipeline.report.terminal import summary
from edgepress.pipeline.report.write import write_reports
from edgepress.pipeline.run_record import BudgetRecord, RunRecord
from edgepress.text import short, tidy
from html_page import Page
from rich.console import Console
from run_records import F32, MODEL, STEPS, cpu, engine, latency, layer, parity, run, step

GOLDEN = Path(__file__).parents[2] / "golden"
LIMIT_BYTES = 1_500_000

KEPT = BudgetRecord(
    name="size of model.onnx", limit="2.00 MB", measured="1.90 MB", verdict="PASS", reason="kept."
)
BROKEN = BudgetRecord(
    name="latency p50 on openvino:CPU",
    limit="1 ms",
    measured="1.20 ms",
    verdict="FAIL",
    reason="over the limit.",
)


def html(record: RunRecord, folder: Path) -> str:
    write_reports(record, folder)
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["report.md", "junit.xml"])
def test_the_report_is_what_it_was(name, tmp_path):
    """After a wanted change: EDGEPRESS_UPDATE_GOLDEN=1 python -m pytest tests/pipeline/report/test_report.py."""
    record = run(verdict="FAIL", reason="1 of 2 budgets is broken.", budgets=[KEPT, BROKEN])
    write_reports(record, tmp_path)
    golden = GOLDEN / name
    if os.environ.get("EDGEPRESS_UPDATE_GOLDEN"):
        golden.write_bytes((tmp_path / name).read_bytes())
    assert (tmp_path / name).read_text(encoding="utf-8") == golden.read_text(encoding="utf-8")


def test_reports_are_made_from_run_json_alone(tmp_path):
    record = run(proofs=[parity().model_copy(update={"sqnr_db": float("inf"), "max_error": 0.0})])
    write_record(tmp_path / "run.json", record)
    assert load_run(tmp_path) == record
    assert [p.name for p in write_reports(record, tmp_path)] == ["report.html", "report.md", "junit.xml"]


def test_nothing_is_fetched(tmp_path):
    page = html(run(command="compress run http://example.org/r.yaml"), tmp_path)
    tags = Page(page).tags
    assert len(tags) > 50
    for tag, attributes in tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "base", "form"), tag
        assert not {"src", "href", "xlink:href", "srcset", "action"} & set(attributes), tag
    assert "url(" not in page
    assert "@import" not in page


def test_a_big_model_fits(tmp_path):
    layers = [layer(f"/stage{i}/{'block/' * 20}conv", "int8", 0.001 * i) for i in range(2000)]
    samples = [[1.0 + 0.0001 * i + 0.01 * launch for i in range(1000)] for launch in range(20)]
    timed = latency(1.2, n=20_000, launches=20, samples_ms=samples)
    big = [
        engine(label, 1.2, 0.86, {"int8": 1.0}, layers=layers, latency_ms=timed)
        for label in (F32, "d", "int8")
    ]
    rows = [
        {"layer": x.name, "kind": "Conv", "macs": 10, "quantized": i % 2 == 0, "reason": "r" * 300}
        for i, x in enumerate(layers)
    ]
    targets = [cpu(device=f"CPU.{i}", baseline=big[0], default=big[1], compressed=big[2]) for i in range(4)]
    steps = [STEPS[0], step("quantize", 0.86, 1_000, details={"coverage": rows}, notes=["note"] * 5000)]
    page = html(run(targets=targets, steps=steps), tmp_path)
    assert len(page.encode()) < LIMIT_BYTES
    assert "The 300 slowest of 2,000 layers; run.json has them all." in page
    assert "/stage1999/" in page  # the slowest is among them
    assert "4940 more in run.json" in page


HOSTILE = {
    "script": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "quote": "' onmouseover='alert(1)",
    "template": "{{ 7 * 7 }}{% raw %}",
    "table": "a | b\n|---|\n[link](javascript:alert(1)) `code` @someone",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_name_is_only_text(name, tmp_path):
    plain = Page(html(hostile_run("name"), tmp_path))
    page = Page(html(hostile_run(name), tmp_path))
    assert page.shape == plain.shape
    assert short(name) in page.text
    rows = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<script" not in rows
    assert "<img" not in rows
    assert not re.search(r"(?<!\\)\]\(java", rows)
    assert "@someone" not in rows
    ElementTree.parse(tmp_path / "junit.xml")


def hostile_run(name: str) -> RunRecord:
    shares = {name: 0.5, "int8": 0.5}
    hostile = engine(name, 1.2, 0.86, shares, layers=[layer(name, name, 0.5)], settings={name: name})
    rows = [{"layer": name, "kind": name, "macs": 3, "quantized": False, "reason": name}]
    details = {"coverage": rows, "sensitivity": [{"layer": name, "sqnr_db": 12.5}]}
    steps = [STEPS[0], step(name, 0.86, 1_000, notes=[name], options={name: name}, details=details)]
    budget = BudgetRecord(name=name, limit=name, measured=name, verdict="FAIL", reason=name)
    return run(
        name=name, verdict="FAIL", reason=name, command=name, recipe=name, environment={name: name},
        data={name: name},
        budgets=[budget], steps=steps, proofs=[parity(name)],
        artefacts=[MODEL.model_copy(update={"path": name})],
        targets=[cpu(reason=name, baseline=hostile, compressed=hostile, version=name)],
    )  # fmt: skip


def test_characters_that_reorder_or_control_are_shown_as_codes(tmp_path):
    name = "conv\u202egnp.exe\u2066\x1b[31m\x00"
    assert tidy(name) == "conv<U+202E>gnp.exe<U+2066><U+001B>[31m<U+0000>"
    page = html(hostile_run(name), tmp_path)
    assert not set("\u202e\u2066\x1b\x00") & set(page)
    assert "conv&lt;U+202E&gt;gnp.exe" in page
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(summary(hostile_run(name)))
    assert "\x1b" not in console.export_text()
    ElementTree.parse(tmp_path / "junit.xml")


def test_a_name_of_ten_thousand_characters_keeps_both_ends(tmp_path):
    name = "begin/" + "x" * 10_000 + "/end"
    assert len(short(name)) == 90
    assert short(name).startswith("begin/xx")
    assert short(name).endswith("xx/end")
    compressed = engine(name, 1, 0.8, {}, layers=[layer(name, "f32", 1.0)])
    page = html(run(targets=[cpu(baseline=None, compressed=compressed)]), tmp_path)
    assert "x" * 91 not in page


def test_the_verdict_comes_first_and_failures_before_what_was_kept(tmp_path):
    page = html(run(verdict="FAIL", reason="The latency is over.", budgets=[KEPT, BROKEN]), tmp_path)
    text = " ".join(Page(page).words)
    assert text.index("The latency is over.") < text.index("Budgets")
    assert text.index(BROKEN.name) < text.index(KEPT.name)


def test_what_was_not_measured_is_never_a_zero(tmp_path):
    bare = engine("int8", 1.2, 0.86, {}, latency_ms=None, metric=None, layers=[layer("conv1", "int8", None)])
    page = html(
        run(targets=[cpu(baseline=None, compressed=bare, speedup=[], parity=None)], proofs=[]), tmp_path
    )
    body = page[page.index("<h2>Devices</h2>") : page.index("<h2>Pass by pass</h2>")]
    assert body.count("not measured") >= 4  # latency, metric, precision, time per layer
    assert not re.search(r">0(\.0+)?( ms| %)?<", body)
    table = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (
        "| openvino:CPU | run | not measured | not measured | not measured | not measured | not measured |"
        in table
    )


def test_a_device_that_was_only_built_says_so(tmp_path):
    page = html(run(), tmp_path)
    assert "built, not run" in page
    assert "no NVIDIA GPU here to run on" in page


def test_a_cached_latency_is_shown_with_its_date_everywhere(tmp_path):
    timed = latency(1.2, cached=True, measured_at="2026-01-02T03:04:05Z")
    record = run(targets=[cpu(compressed=engine("int8", 1.2, 0.86, {"int8": 1.0}, latency_ms=timed))])
    page = html(record, tmp_path)
    assert re.search(r"cached</span> compressed: measured 2026-01-02T03:04:05Z", page)
    assert "1.20 ms (cached, 2026-01-02T03:04:05Z)" in (tmp_path / "report.md").read_text(encoding="utf-8")
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(summary(record))
    assert "1.20 ms (cached, 2026-01-02T03:04:05Z)" in console.export_text()


def test_a_speed_up_names_its_baseline_and_admits_when_it_shows_none(tmp_path):
    record = run()
    even = record.targets[0].speedup[0].model_copy(update={"baseline": "bf16 default", "ci95": (0.98, 1.03)})
    record.targets[0].speedup.append(even)
    page = html(record, tmp_path)
    assert F32 in page
    assert page.count("no difference shown") == 1


def test_layers_are_matched_by_the_onnx_nodes_they_share():
    before = [layer("a", "f32", 1.0, 10), layer("b", "f32", 2.0, 20), layer("only before", "f32", 0.5, 0)]
    fused = layer("a+b", "int8", 1.2, 30).model_copy(update={"onnx_nodes": ["a", "b"]})
    rows = match_layers(before, [layer("reorder", "int8", None, 0), fused])
    found = {row.name: (row.before and row.before.ms, row.after and row.after.ms) for row in rows}
    assert found == {"reorder": (None, None), "a": (3.0, 1.2), "only before": (0.5, None)}
    assert rows[0].before is None
    assert rows[1].macs == 30


def test_layers_of_a_runtime_that_times_only_some_have_no_total():
    rows = match_layers(
        [], [layer("a", "int8", 1.0).model_copy(update={"onnx_nodes": ["n"]}), layer("n", "f32", None)]
    )
    assert rows[0].after.ms is None
    assert rows[0].after.precision == "int8 + f32"


def test_numbers_are_printed_one_way():
    assert [bare_ms(v) for v in (0.0512, 1.234, 34.21, 1234.5, None)] == [
        "0.051", "1.23", "34.2", "1,234", "not measured"
    ]  # fmt: skip
    assert [byte_size(v) for v in (12, 1_500, 3_584_221)] == ["12 B", "1.50 kB", "3.58 MB"]
    assert [metric_value(v) for v in (0.8628, 31.5, float("nan"))] == ["86.28 %", "31.5", "not measured"]


BAD_RUNS = {
    "a folder without run.json": (None, "not a run folder, it holds no run.json"),
    "not JSON": ('{"a": ', "damaged, not valid JSON (line 1)"),
    "not an object": ("[1]", "not the record of a run: it has no schema_version"),
    "another schema": ('{"schema_version": 7}', "schema_version is 7, this edgepress reads 1"),
    "too deep": ("[" * 100_000, "damaged, not valid JSON (nested too deeply)"),
    "a field short": ('{"schema_version": 1}', "not a complete record: name: Field required; verdict: Field"),
}


@pytest.mark.parametrize(("content", "message"), BAD_RUNS.values(), ids=BAD_RUNS.keys())
def test_a_bad_run_is_refused_by_name(content, message, tmp_path):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(CompressError) as caught:
        load_run(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_folder_and_a_binary_file_are_refused(tmp_path):
    with pytest.raises(CompressError, match="there is no such folder"):
        load_run(tmp_path / "nowhere")
    (tmp_path / "run.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CompressError, match=r"run\.json: damaged, not valid JSON \(not UTF-8, byte 0\)"):
        load_run(tmp_path)


def test_a_changed_value_names_its_place(tmp_path):
    content = json.loads(run().model_dump_json())
    content["targets"][0]["status"] = "maybe"
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(CompressError, match=r"targets\.0\.status"):
        load_run(tmp_path)
