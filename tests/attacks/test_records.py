"""Records that lie or are damaged, through the commands: the exit code, the file, the place, and what to do."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import run_records
from click.testing import CliRunner, Result
from edgepress.cli import cli
from edgepress.pipeline.packing.l2z_file import pack_file
from onnx import TensorProto, helper

ENDLESS = int("9" * 400)


def compress(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run of a network of one node, whose record is true."""
    folder = tmp_path / "run"
    folder.mkdir()
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", [x], [y])
    onnx.save(
        helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]),
        str(folder / "model.onnx"),
    )
    record = json.loads(run_records.run().model_dump_json())
    record["artefacts"] = [told(folder / "model.onnx", "onnx")]
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def told(path: Path, kind: str) -> dict[str, Any]:
    content = path.read_bytes()
    return {
        "path": path.name,
        "kind": kind,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def change(folder: Path, place: str, value: Any) -> None:
    record = json.loads((folder / "run.json").read_text())
    *outer, last = [int(p) if p.isdecimal() else p for p in place.split(".")]
    inside = record
    for part in outer:
        inside = inside[part]
    inside[last] = value
    (folder / "run.json").write_text(json.dumps(record))


def readers(folder: Path) -> dict[str, Callable[[], Result]]:
    out = folder.parent
    return {
        "gate": lambda: compress(
            "gate", "--baseline", folder, "--candidate", folder, "-d", "fake", "-o", out / "gate"
        ),
        "accept": lambda: compress(
            "gate", "--accept", "--candidate", folder, "-d", "fake", "--golden", out / "g"
        ),
        "report": lambda: compress("report", folder),
        "comparison": lambda: compress("report", folder, "-o", out / "c.html"),
        "history": lambda: compress("history", "add", folder, "--file", out / "h.jsonl"),
    }


LIES = {
    "one byte": ("artefacts.0.bytes", 1, 2, "bytes, and run.json tells of 1; run the recipe again"),
    "another digest": (
        "artefacts.0.sha256",
        "ab" * 32,
        2,
        "model.onnx: is not the file that run.json tells of",
    ),
    "climbs": (
        "artefacts.0.path",
        "../run/model.onnx",
        6,
        "'../run/model.onnx' does not stay in the run's folder",
    ),
    "absolute": ("artefacts.0.path", "/etc/hostname", 6, "'/etc/hostname' does not stay in the run's folder"),
    "empty": ("artefacts.0.path", "", 6, "'' does not stay in the run's folder"),
    "a drive": ("artefacts.0.path", "C:\\x", 6, "does not stay in the run's folder"),
    "an escape": ("artefacts.0.path", "a\x1b[2J", 6, "'a\\x1b[2J' does not stay in the run's folder"),
    "negative size": ("artefacts.0.bytes", -1, 2, "run.json: not a complete record: artefacts.0.bytes:"),
    "endless size": (
        "artefacts.0.bytes",
        ENDLESS,
        2,
        "run.json: damaged, artefacts.0.bytes: a whole number of 400",
    ),
    "endless elsewhere": (
        "environment.x",
        ENDLESS,
        2,
        "run.json: damaged, environment.x: a whole number of 400",
    ),
    "infinite": ("seconds", float("inf"), 2, "run.json: not a complete record: seconds: Input should be"),
    "no number": ("steps.0.seconds", float("nan"), 2, "steps.0.seconds: Input should be"),
    "beyond all": (
        "targets.0.compressed.latency_ms.p50",
        1e308,
        2,
        "p50: must be a number, and at most 1e+100",
    ),
    "below zero": ("targets.0.compressed.latency_ms.p50", -1, 2, "p50: must not be below 0"),
    "another type": ("steps", 3, 2, "steps: Input should be a valid list"),
    "half a character": ("name", "\ud800", 2, "run.json: damaged, name: half a character"),
}


@pytest.mark.parametrize("reader", ["gate", "accept", "report", "comparison", "history"])
@pytest.mark.parametrize(("place", "value", "code", "message"), LIES.values(), ids=LIES.keys())
def test_a_record_that_lies(
    reader: str, place: str, value: Any, code: int, message: str, run_folder: Path
) -> None:
    change(run_folder, place, value)
    done = readers(run_folder)[reader]()
    assert message in done.output
    assert done.exit_code == code


@pytest.mark.parametrize("reader", ["gate", "report", "comparison", "history"])
def test_a_true_record_is_read(reader: str, run_folder: Path) -> None:
    done = readers(run_folder)[reader]()
    assert done.exit_code in (0, 4), done.output  # of a gate: one launch of a fake device may not be enough


@pytest.mark.parametrize("reader", ["gate", "report", "history"])
def test_a_link_out_of_the_folder(reader: str, run_folder: Path) -> None:
    shutil.move(run_folder / "model.onnx", run_folder.parent / "else.onnx")
    (run_folder / "model.onnx").symlink_to(run_folder.parent / "else.onnx")
    done = readers(run_folder)[reader]()
    assert done.exit_code == 6
    assert "model.onnx: a link leads out of the run's folder" in done.output


def test_files_that_are_left_behind_are_no_lie(run_folder: Path) -> None:
    (run_folder / "model.onnx").unlink()
    assert readers(run_folder)["report"]().exit_code == 0
    done = readers(run_folder)["gate"]()
    assert done.exit_code == 2
    assert "its model.onnx is missing" in done.output


def test_a_packed_model_of_another_network(run_folder: Path) -> None:
    """A small file beside a large model: the size would be of one network, the outputs of another."""
    other = onnx.load(str(run_folder / "model.onnx"))
    other.graph.node[0].op_type = "Neg"
    onnx.save(other, str(run_folder.parent / "other.onnx"))
    (run_folder / "model.l2z").write_bytes(pack_file(run_folder.parent / "other.onnx"))
    change(
        run_folder,
        "artefacts",
        [told(run_folder / "model.onnx", "onnx"), told(run_folder / "model.l2z", "l2z")],
    )
    done = readers(run_folder)["gate"]()
    assert done.exit_code == 2
    assert "model.l2z: does not unpack to" in done.output
    (run_folder / "model.l2z").write_bytes(pack_file(run_folder / "model.onnx"))
    change(run_folder, "artefacts.1", told(run_folder / "model.l2z", "l2z"))
    assert readers(run_folder)["gate"]().exit_code in (0, 4)


def test_a_small_file_that_calls_itself_packed(run_folder: Path) -> None:
    (run_folder / "tiny").write_bytes(b"x")
    change(
        run_folder, "artefacts", [told(run_folder / "model.onnx", "onnx"), told(run_folder / "tiny", "l2z")]
    )
    done = readers(run_folder)["gate"]()
    assert done.exit_code == 2
    assert "its model.l2z is missing" in done.output


def test_a_record_that_never_ends(run_folder: Path) -> None:
    (run_folder / "run.json").unlink()
    os.mkfifo(run_folder / "run.json")
    done = readers(run_folder)["report"]()
    assert done.exit_code == 2
    assert "run.json: is not a file" in done.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "damaged, not valid JSON (nested too deeply)"),
        ('{"a":' * 70 + "1" + "}" * 70, "damaged, not valid JSON (nested too deeply)"),
        (f'{{"schema_version": {ENDLESS}}}', "damaged, schema_version: a whole number of 400 digits"),
        ('{"schema_version": 1e999}', "schema_version is inf, this edgepress reads 1"),
    ],
    ids=["brackets", "keys", "endless version", "infinite version"],
)
@pytest.mark.parametrize("name", ["run.json", "gate.json", "profile.json", "history", "golden"])
def test_numbers_and_nesting_in_every_kind_of_record(
    name: str, content: str, message: str, run_folder: Path
) -> None:
    out = run_folder.parent / "other"
    out.mkdir()
    if name == "golden":
        (out / "fake.json").write_text(content)
        model = run_folder / "model.onnx"
        done = compress(
            "gate",
            "--baseline",
            model,
            "--candidate",
            model,
            "-d",
            "fake",
            "--golden",
            out,
            "-o",
            out / "gate",
        )
        message = message.removeprefix("damaged, ")
    elif name == "history":
        (out / "h.jsonl").write_text(f"{content}\n")
        done = compress("history", "show", "--file", out / "h.jsonl")
    else:
        (out / name).write_text(content)
        command = ["history", "add"] if name == "gate.json" else ["report"]
        page = ["-o", out / "c.html"] if name == "profile.json" else []
        done = compress(*command, out, *page)
    if name == "profile.json" and "reads 1" in message:  # a profile has no version
        message = "not the record of a profile: source: Field required"
    assert message in done.output
    assert done.exit_code == 2


@pytest.mark.parametrize("medians", [(1e-300, 1e300), (1.0, 0.0)], ids=["an endless interval", "no time"])
def test_times_that_have_no_interval_make_no_point_of_a_history(
    medians: tuple[float, float], tmp_path: Path
) -> None:
    row = {
        "side": "candidate",
        "pair": 0,
        "block": 10,
        "samples_ns": [],
        "state_before": {},
        "state_after": {},
    }
    side = {"source": "", "name": "net", "bytes": 1, "engine_sha256": "", "engine_bytes": 1, "settings": {}}
    launches = [{**row, "median_ms": median} for median in medians]
    device = {
        "label": "fake", "runtime": "fake", "version": None, "machine": "", "capabilities": {}, "options": {},
        "baseline": side, "candidate": side, "latency": {"looks": [], "launches": launches},
    }  # fmt: skip
    record = {
        "schema_version": 1, "verdict": "PASS", "reason": "", "started_at": "2026-03-14T09:18:02+00:00", "seconds": 1,
        "seed": 0, "commit": "", "environment": {}, "limits": {}, "measures": [], "devices": [device],
    }  # fmt: skip
    (tmp_path / "gate.json").write_text(json.dumps(record))
    done = compress("history", "add", tmp_path, "--file", tmp_path / "h.jsonl")
    assert done.exit_code == 2, done.output
    assert "no point of a history" in done.output


def test_a_damaged_line_of_a_history_is_told_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text("[" * 100_000 + "\n")
    assert "h.jsonl:1:" in compress("history", "show", "--file", tmp_path / "h.jsonl").output


@pytest.mark.parametrize("place", ["steps.0.metric.part", "name", "reason", "targets.0.device", "budgets"])
def test_escapes_of_a_record_reach_no_terminal_and_no_page(place: str, run_folder: Path) -> None:
    evil = "\x1b]0;owned\x07\x9b2J\u202e<script>\n::error::x"
    row = {"name": evil, "limit": evil, "measured": evil, "verdict": "FAIL", "reason": evil}
    change(run_folder, place, [row] if place == "budgets" else evil)
    done = readers(run_folder)["report"]()
    assert done.exit_code == 0
    pages = [(run_folder / name).read_text() for name in ("report.html", "report.md", "junit.xml")]
    for text in (done.output, *pages):
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
    assert all("\n::error" not in text for text in (done.output, pages[1]))
    assert all("<script>" not in page for page in pages)
