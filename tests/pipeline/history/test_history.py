"""The history: nothing is lost or added twice, damage is told with its line, and a change names its commit."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from edgepress.cli import cli
from edgepress.errors import CompressError
from edgepress.pipeline.budgets import Budgets
from edgepress.pipeline.history.page import history_html
from edgepress.pipeline.history.points import Point, append, points_of_run, read, untimed
from edgepress.pipeline.history.series import (
    change_text,
    commit_name,
    interval_text,
    level_texts,
    series_of,
)
from edgepress.pipeline.judge import judge
from edgepress.pipeline.pages.words import MINUS
from edgepress.pipeline.record_file import write_record
from edgepress.pipeline.run_record import ArtefactRecord
from html_page import Page
from run_records import MODEL, cpu, engine, latency, metric, run, step, tensorrt

START = datetime(2026, 3, 14, 9, 18, 2, tzinfo=UTC)


def point(value: float, index: int = 0, **changes: Any) -> Point:
    """A latency of the digits network, `index` days after the first."""
    fields = {
        "at": START + timedelta(days=index), "commit": commit(index), "model": "digits", "device": "openvino:CPU",
        "measure": "latency_ms", "unit": "ms", "value": value, "ci95": (0.98 * value, 1.02 * value),
        "source": "runs/digits", "machine": "EPYC",
    }  # fmt: skip
    return Point.model_validate({**fields, **changes})


def commit(index: int) -> str:
    """A hash that starts with the index, so that short ones differ."""
    return f"{index:07x}" + 33 * "f"


def series(values: list[float], **changes: Any) -> list[Point]:
    return [point(value, index, **changes) for index, value in enumerate(values)]


def history(folder: Path, points: list[Point]) -> Path:
    append(folder / "history.jsonl", points)
    return folder / "history.jsonl"


def compress(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="compress")
    assert "Traceback" not in result.output
    return result


# From a run


def test_a_run_gives_latency_and_metric_of_devices_that_ran_and_metric_and_bytes_of_the_file() -> None:
    record = run(environment={"cpu": "AMD EPYC"})
    points = points_of_run(record, "abc1234", "runs/digits")
    assert [(p.device, p.measure, p.unit, p.value) for p in points] == [
        ("openvino:CPU", "latency_ms", "ms", 1.2),
        ("openvino:CPU", "metric", "top1", 0.8628),
        ("", "metric", "top1", 0.8643),
        ("", "bytes", "B", 1_900_000.0),
    ]
    assert points[0].ci95 == pytest.approx((1.176, 1.224))
    assert points[3].ci95 is None
    assert {(p.at, p.commit, p.model, p.source, p.machine) for p in points} == {
        (START, "abc1234", "digits", "runs/digits", "AMD EPYC")
    }


def test_a_latency_that_was_not_measured_in_this_run_is_left_out_and_told() -> None:
    reused = engine("int8", 1.2, 0.86, {"int8": 1.0}, latency_ms=latency(1.2, cached=True))
    untold = engine("int8", 1.2, 0.86, {"int8": 1.0}, latency_ms=latency(float("nan")))
    targets = [cpu(compressed=reused), cpu(device="GPU", compressed=untold), tensorrt()]
    record = run(targets=targets)
    assert not [p for p in points_of_run(record, "") if p.measure == "latency_ms"]
    assert untimed(record) == [
        "openvino:CPU: not timed anew since 2026-03-14T09:21:07Z; compress run --remeasure does",
        "openvino:GPU: not timed",
        "tensorrt: built, not run",
    ]
    assert untimed(run(targets=[cpu()])) == []


def test_an_interval_that_is_not_known_is_none() -> None:
    unknown = metric(0.9).model_copy(update={"ci95": (float("nan"), float("nan"))})
    record = run(targets=[], steps=[step("float", 0.9, 1).model_copy(update={"metric": unknown})])
    assert points_of_run(record, "")[0].ci95 is None


PACKED = ArtefactRecord(path="model.l2z", kind="l2z", bytes=600_000, sha256="ab" * 32)
WEIGHTS = ArtefactRecord(path="model.onnx.data", kind="onnx-data", bytes=5_000_000, sha256="ab" * 32)
FLOAT = ArtefactRecord(path="float.onnx", kind="onnx", bytes=9_000_000, sha256="ab" * 32)


@pytest.mark.parametrize(
    ("artefacts", "size"),
    [
        pytest.param([FLOAT, MODEL], 1_900_000, id="model.onnx"),
        pytest.param([MODEL, WEIGHTS], 6_900_000, id="with the weights beside it"),
        pytest.param([MODEL, PACKED], 600_000, id="model.l2z"),
        pytest.param([FLOAT], None, id="none"),
    ],
)
def test_the_bytes_are_those_that_a_budget_is_judged_on(
    artefacts: list[ArtefactRecord], size: int | None
) -> None:
    found = [p.value for p in points_of_run(run(artefacts=artefacts), "") if p.measure == "bytes"]
    assert found == ([] if size is None else [size])
    for limit, verdict in ((size or 1, "PASS" if size else "FAIL"), ((size or 1) - 1, "FAIL")):
        budget = judge(Budgets(bytes=max(limit, 1)), [], [], [], artefacts)[0][0]
        assert budget.verdict == verdict


def test_a_record_that_no_history_can_hold() -> None:
    with pytest.raises(
        CompressError, match=r"^runs/x: no point of a history: at: Input should be a valid datetime"
    ):
        points_of_run(run(started_at="yesterday"), "", "runs/x")


# The file


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    points = [*series([1.5, 1.25]), point(3, measure="bytes", unit="B", device="", ci95=None)]
    path = tmp_path / "new" / "history.jsonl"
    assert append(path, points) == points
    assert read(path) == points
    assert path.read_text().count("\n") == 3


def test_a_line_is_what_it_was(tmp_path: Path) -> None:
    """Histories live for years: a field that is renamed needs a new schema_version."""
    path = history(tmp_path, [point(1.5, commit="abc1234", ci95=(1.25, 1.75))])
    assert path.read_text() == (
        '{"schema_version":1,"at":"2026-03-14T09:18:02Z","commit":"abc1234","model":"digits","device":"openvino:CPU",'
        '"measure":"latency_ms","unit":"ms","value":1.5,"ci95":[1.25,1.75],"source":"runs/digits","machine":"EPYC"}\n'
    )


def test_the_same_run_is_not_added_twice(tmp_path: Path) -> None:
    points = points_of_run(run(), "abc1234")
    path = history(tmp_path, points)
    before = path.read_bytes()
    moved = [p.model_copy(update={"source": "elsewhere"}) for p in points]
    assert append(path, moved) == []
    assert path.read_bytes() == before
    again = points_of_run(run(started_at="2026-03-14T10:18:02+01:00"), "abc1234")  # the same instant
    assert append(path, again) == []
    later = points_of_run(run(started_at="2026-03-14T10:18:02+00:00"), "abc1234")
    assert len(append(path, [*later, *later])) == 4


def test_names_with_line_breaks_stay_one_line(tmp_path: Path) -> None:
    points = [point(1.0, model="a\nb\r\u2028c")]
    assert read(history(tmp_path, points)) == points


def _append_many(path: Path, process: int, together: Barrier) -> None:
    for index in range(25):
        together.wait(60)
        append(path, [point(1.0, index, model=f"model {process}"), point(2.0, index)])


def test_four_processes_at_once_lose_nothing_and_add_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(4)
    processes = [context.Process(target=_append_many, args=(path, number, together)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    found = sorted((p.model, p.at) for p in read(path))
    models = ("digits", "model 0", "model 1", "model 2", "model 3")  # all four processes add those of digits
    assert found == [(model, START + timedelta(days=day)) for model in models for day in range(25)]


@pytest.mark.parametrize("operation", ["read", "append"])
def test_a_last_line_without_end_is_told_and_kept(operation: str, tmp_path: Path) -> None:
    path = history(tmp_path, series([1.0, 2.0]))
    whole = path.read_bytes()
    for cut in (1, 40):
        path.write_bytes(whole[:-cut])
        with pytest.raises(CompressError) as told:
            read(path) if operation == "read" else append(path, [point(3.0, 9)])
        assert str(told.value) == (
            f"{path}:2: the last line has no end, what wrote it was killed; delete the line, or end it if it is whole, "
            "and add its run again"
        )
        assert path.read_bytes() == whole[:-cut]


GOOD = point(1.0).model_dump(mode="json")
DAMAGED = {
    "cut short": ('{"schema_version": 1, "at"', "damaged, not valid JSON; mend or delete the line"),
    "empty": ("", "damaged, not valid JSON; mend or delete the line"),
    "conflict": ("<<<<<<< HEAD", "damaged, not valid JSON; mend or delete the line"),
    "nested": ("[" * 100_000, "damaged, not valid JSON (nested too deeply); mend or delete the line"),
    "digits": ("9" * 5000, "damaged, the whole: a whole number of 5000 digits; mend or delete the line"),
    "list": ("[1]", "not a point of a history: it has no schema_version; use the edgepress that wrote it"),
    "version": (
        json.dumps({**GOOD, "schema_version": 2}),
        "schema_version is 2, this edgepress reads 1; use the edgepress that wrote it",
    ),
    "key": (json.dumps({**GOOD, "extra": 1}), "not a point of a history: extra: Extra inputs are not permitted"),
    "measure": (
        json.dumps({**GOOD, "measure": "power"}),
        "not a point of a history: measure: Input should be 'latency_ms', 'bytes' or 'metric'",
    ),
    "negative": (
        json.dumps({**GOOD, "value": -1}), "not a point of a history: value: latency_ms must be above 0",
    ),
    "nan": (
        json.dumps({**GOOD, "value": float("nan")}),
        "not a point of a history: value: Input should be a finite number",
    ),
    "surrogate": (
        json.dumps({**GOOD, "model": "\ud800"}),
        "damaged, model: half a character (a lone surrogate); mend or delete the line",
    ),
    "time": (
        json.dumps({**GOOD, "at": "2026-03-14T09:18:02"}),
        "not a point of a history: at: Input should have timezone info",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("line", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_line_is_told_with_its_number(line: str, message: str, tmp_path: Path) -> None:
    path = history(tmp_path, [point(1.0)])
    content = path.read_text() + line + "\n" + path.read_text()
    path.write_text(content)
    for use in (read, lambda path: append(path, [point(2.0, 1)])):
        with pytest.raises(CompressError) as told:
            use(path)
        assert str(told.value) == f"{path}:2: {message}"
    assert path.read_text() == content


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(CompressError, match=r"history.jsonl:1: damaged"):
        read(path)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = history(tmp_path, [point(1.0)])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CompressError, match=re.escape(f"{path}: No space left on device")):
        append(path, [point(2.0, 1)])
    assert read(path) == [point(1.0)]


# Changes


def test_a_change_names_its_commits_and_how_far_it_went() -> None:
    [found] = series_of(series([2.0, 2.02, 1.98, 2.0, 2.14, 2.12, 2.16, 2.14]))
    [change] = found.changes
    assert (change.before.commit, change.after.commit) == (commit(3), commit(4))
    assert (change.level_before, change.level_after) == (2.0, 2.14)
    assert change.ratio == pytest.approx(1.07)
    assert change.worse
    assert change_text(change) == "+7.0 %"
    assert level_texts(change) == ("2.00 ms", "2.14 ms")


@pytest.mark.parametrize(
    ("measure", "unit", "after", "worse", "text"),
    [
        ("latency_ms", "ms", 0.25, False, f"{MINUS}50.0 %"),
        ("bytes", "B", 0.75, True, "+50.0 %"),
        ("metric", "top1", 0.48, True, f"{MINUS}2.0 points"),
        ("metric", "top1", 0.504, False, "+0.40 points"),
        ("metric", "score", 5.0, False, "+900.0 %"),
    ],
)
def test_which_way_is_worse(measure: str, unit: str, after: float, worse: bool, text: str) -> None:
    [found] = series_of(series([0.5] * 4 + [after] * 4, measure=measure, unit=unit))
    assert [(change.worse, change_text(change)) for change in found.changes] == [(worse, text)]


def test_levels_that_rounding_would_make_equal_show_their_digits() -> None:
    [found] = series_of(series([3_498_112] * 3 + [3_499_316] * 3, measure="bytes", unit="B"))
    assert level_texts(found.changes[0]) == ("3,498,112 B", "3,499,316 B")
    assert change_text(found.changes[0]) == "+0.034 %"


def test_a_metric_below_zero_has_a_difference_and_no_ratio() -> None:
    [found] = series_of(series([-2.0] * 3 + [-3.5] * 3, measure="metric", unit="score"))
    assert (found.changes[0].ratio, change_text(found.changes[0]), found.changes[0].worse) == (
        None, f"{MINUS}1.5", True,
    )  # fmt: skip


def test_another_machine_is_told() -> None:
    points = series([1.0] * 3) + [point(2.0, 3 + i, machine="Xeon") for i in range(3)]
    assert [change.other_machine for change in series_of(points)[0].changes] == [True]


def test_runs_are_in_the_order_of_their_times_and_other_metrics_are_other_series() -> None:
    points = series([1.0] * 3 + [2.0] * 3)
    assert series_of(points[::-1])[0].changes == series_of(points)[0].changes
    metrics = [point(0.9, i, measure="metric", unit=unit) for i in range(3) for unit in ("top1", "top5")]
    assert [each.latest.unit for each in series_of(metrics)] == ["top1", "top5"]


def test_a_commit_without_a_name_is_its_day_and_a_tag_stays() -> None:
    assert [commit_name(point(1.0, commit=c)) for c in (40 * "a", "", "v1.2", "abc1234")] == [
        "aaaaaaa", "2026-03-14", "v1.2", "abc1234",
    ]  # fmt: skip


def test_intervals() -> None:
    assert interval_text(point(1.2, ci95=(1.1761, 1.224))) == "1.18–1.22 ms"
    assert interval_text(point(0.9, measure="metric", unit="top1", ci95=(0.88, 0.92))) == "88.00–92.00 %"
    assert interval_text(point(0.9, measure="metric", unit="top1", ci95=None)) == "no interval"
    assert interval_text(point(9, measure="bytes", unit="B", ci95=None)) == "exact"


# The page


STEP = [2.0, 2.02, 1.98, 2.0, 2.14, 2.12, 2.16, 2.14]


def test_the_page_shows_every_point_interval_and_change() -> None:
    page = Page(history_html(series_of(series(STEP))))
    assert page.classes("circle") == ["point"] * 8
    assert page.classes("line").count("whisker") == 8
    assert page.classes("line").count("level") == 2
    assert page.classes("line").count("change worse") == 1
    assert "+7.0 % at 0000004" in page.text
    assert "0000003 and 0000004" in page.text
    assert "2.00 ms → 2.14 ms" in page.text
    [label] = [a["aria-label"] for tag, a in page.tags if tag == "svg"]
    assert label == (
        "latency of digits, openvino:CPU, 8 points, latest 2.14 ms at 0000007, changes: +7.0 % at 0000004, worse"
    )


def test_points_and_marks_lie_where_they_belong() -> None:
    """Plot from y 20 to 150, x 9 to 96.5 %; values 1 to 2 with a tenth of room: 2 at 20 + 130 * 0.1 / 1.2."""
    page = Page(history_html(series_of(series([1.0] * 3 + [2.0] * 3, ci95=None))))
    dots = [(a["cx"], a["cy"]) for tag, a in page.tags if tag == "circle"]
    assert dots == [(f"{9 + 17.5 * i:.2f}%", "139.2" if i < 3 else "30.8") for i in range(6)]
    [mark] = [a for tag, a in page.tags if tag == "line" and a["class"] == "change worse"]
    assert mark["x1"] == "52.75%"


@pytest.mark.parametrize("count", [1, 5, 40, 500])
def test_names_on_the_axis_do_not_overlap(count: int) -> None:
    """Ten names of seven characters take 10 x 52 of the 900 pixels; the newest commit is always named."""
    text = history_html(series_of(series([1.0] * count)))
    names = re.findall(
        r'<text class="tick(?: second)?" x="([\d.]+)%" y="166" text-anchor="middle">(\w+)<', text
    )
    places = sorted(float(x) for x, _ in names)
    assert 1 <= len(names) <= 10
    assert all(b - a > 8 for a, b in pairwise(places))
    assert names[0][1] == f"{count - 1:07x}"
    assert ("The newest 200 of 500 points." in text) == (count == 500)


def test_a_long_history_shows_changes_of_its_newest_points() -> None:
    page = Page(history_html(series_of(series([1.0] * 100 + [2.0] * 99 + [3.0] * 101))))
    assert len(page.classes("circle")) == 200
    assert page.classes("line").count("change worse") == 1
    assert "+100.0 %" in page.text  # the table holds the change that the chart no longer shows


HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "a\x1b[31m\u202eb"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_only_text(name: str) -> None:
    def page(name: str) -> Page:
        shared = {"model": name, "commit": name, "source": name, "machine": name}
        latencies = series([1.0] * 3 + [2.0] * 3, device=name, **shared)
        return Page(
            history_html(series_of(latencies + series([0.5] * 6, measure="metric", unit=name, **shared)))
        )

    assert page(name).shape == page("name").shape
    assert not {"\x1b", "\u202e"} & set(page(name).text)
    assert ("<U+001B>[31m" if "\x1b" in name else name) in page(name).text


def test_the_page_loads_nothing() -> None:
    text = history_html(series_of(series(STEP)))
    tags = Page(text).tags
    assert len(tags) > 20
    for tag, attributes in tags:
        assert tag not in ("script", "link", "img", "iframe")
        assert not {"src", "href"} & set(attributes)
    assert "default-src 'none'" in text


def test_a_page_of_many_points_stays_small() -> None:
    points = [p for d in range(10) for p in series([1.0 + i % 7 for i in range(2000)], device=f"d{d}")]
    assert len(history_html(series_of(points))) < 1_500_000


# The commands


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a finished run in runs/digits, outside of any repository."""
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    write_record(tmp_path / "runs" / "digits" / "run.json", run(environment={"cpu": "EPYC"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("GITHUB_SHA", raising=False)
    monkeypatch.delenv("CI_COMMIT_SHA", raising=False)
    return tmp_path


def test_add_and_add_again(folder: Path) -> None:
    added = compress("history", "add", "runs/digits", "--commit", "abc1234")
    assert (added.exit_code, added.output) == (
        0,
        "history.jsonl: 4 points of digits at abc1234 added\nleft out: tensorrt: built, not run\n",
    )
    again = compress("history", "add", "runs/digits", "--commit", "abc1234")
    assert again.output.startswith("history.jsonl: 0 points of digits at abc1234 added, 4 held already\n")
    again = compress("history", "add", "runs/digits", "--commit", "abc1234", "--json")
    assert json.loads(again.output) == {
        "path": "history.jsonl", "added": [], "held": 4, "left_out": ["tensorrt: built, not run"],
    }  # fmt: skip
    assert {p.source for p in read(folder / "history.jsonl")} == {"runs/digits"}


def test_the_commit_is_that_of_the_repository_else_of_the_ci_job_else_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def added(file: str) -> str:
        assert compress("history", "add", "runs/digits", "--file", file).exit_code == 0
        return read(folder / file)[0].commit

    assert added("none.jsonl") == ""
    monkeypatch.setenv("CI_COMMIT_SHA", "c1")
    assert added("gitlab.jsonl") == "c1"
    monkeypatch.setenv("GITHUB_SHA", "9a")
    assert added("github.jsonl") == "9a"
    own = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run([*own, "init", "-q"], check=True)
    assert added("unborn.jsonl") == "9a"  # a repository without a commit
    subprocess.run([*own, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert added("git.jsonl") == head.strip()
    monkeypatch.setenv("PATH", "")  # no git here
    assert added("no_git.jsonl") == "9a"


def test_add_of_no_run(folder: Path) -> None:
    result = compress("history", "add", "runs")
    assert result.exit_code == 2
    assert result.output == "error: runs: not a run folder, it holds no run.json; name one that a run wrote\n"
    assert not (folder / "history.jsonl").exists()


@pytest.mark.parametrize(
    "arguments", [["history"], ["history", "show"], ["history", "--device", "openvino:CPU"]]
)
def test_show(arguments: list[str], folder: Path) -> None:
    append(folder / "history.jsonl", series(STEP))
    result = compress(*arguments)
    assert result.exit_code == 0
    heads, row, page = result.output.splitlines()
    assert heads.split("  ")[0] == "model"
    assert re.split(r"\s{2,}", row.strip()) == [
        "digits", "latency", "openvino:CPU", "8", "2.14 ms", "2.10–2.18 ms", "+7.0 % at 0000004, worse",
    ]  # fmt: skip
    assert page == f"page: {folder / 'history.html'}"
    assert "+7.0 %" in (folder / "history.html").read_text()


def test_show_as_json(folder: Path) -> None:
    append(folder / "history.jsonl", series(STEP))
    result = json.loads(compress("history", "--json", "-o", "page.html").output)
    assert result["page"] == "page.html"
    [found] = result["series"]
    assert (found["model"], found["device"], found["measure"], found["unit"], found["points"]) == (
        "digits", "openvino:CPU", "latency_ms", "ms", 8,
    )  # fmt: skip
    assert (found["latest"]["value"], found["latest"]["at"]) == (2.14, "2026-03-21T09:18:02Z")
    [change] = found["changes"]
    assert change["ratio"] == pytest.approx(1.07)
    assert {key: change[key] for key in change if key != "ratio"} == {
        "commit_before": commit(3), "commit_after": commit(4), "at": "2026-03-18T09:18:02Z",
        "level_before": 2.0, "level_after": 2.14, "worse": True, "other_machine": False,
    }  # fmt: skip


def test_show_of_one_model_and_of_the_file(folder: Path) -> None:
    compress("history", "add", "runs/digits")
    append(folder / "history.jsonl", series([1.0], model="other"))
    chosen = json.loads(compress("history", "--model", "digits", "--device", "file", "--json").output)[
        "series"
    ]
    assert [(each["model"], each["measure"]) for each in chosen] == [
        ("digits", "metric"),
        ("digits", "bytes"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "history.jsonl: there is no such file; compress history add RUN starts one"),
        (
            ["--file", "empty.jsonl"],
            "empty.jsonl: holds no points; compress history add RUN adds those of a run",
        ),
        (["--file", "full.jsonl", "--model", "x"], "--model x: full.jsonl has no such points; it has digits"),
        (
            ["--file", "full.jsonl", "--device", "CPU"],
            "--device CPU: full.jsonl has no such points; it has file, openvino:CPU",
        ),
        (
            ["--file", "full.jsonl", "-o", "full.jsonl"],
            "full.jsonl: the page would overwrite the history; name another file with -o",
        ),
    ],
)
def test_what_cannot_be_shown(arguments: list[str], message: str, folder: Path) -> None:
    (folder / "empty.jsonl").touch()
    compress("history", "add", "runs/digits", "--file", "full.jsonl")
    before = (folder / "full.jsonl").read_bytes()
    result = compress("history", *arguments)
    assert (result.exit_code, result.output) == (2, f"error: {message}\n")
    assert (folder / "full.jsonl").read_bytes() == before
    assert not list(folder.glob("*.html"))


@pytest.mark.parametrize("name", ["show", "add"])
def test_every_subcommand_has_help_with_an_example(name: str) -> None:
    text = compress("history", name, "--help").output
    assert f"Example:\n    compress history {name}" in text
    assert "--json" in text
    assert "--debug" in text


def test_a_wrong_subcommand_is_told() -> None:
    result = compress("history", "shwo")
    assert result.exit_code == 2
    assert "No such command 'shwo'" in result.output
