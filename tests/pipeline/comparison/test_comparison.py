"""Many models on many devices: what may be compared, what is ahead, and what a stranger reads of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from edgepress.cli import cli
from edgepress.errors import CompressError
from edgepress.pipeline.comparison.charts import Mark, Scale, front_chart
from edgepress.pipeline.comparison.collect import Comparison, load_comparison
from edgepress.pipeline.comparison.fronts import Front, benches
from edgepress.pipeline.comparison.page import comparison_document, comparison_page
from edgepress.pipeline.comparison.pareto import Point, Standing, estimated, exact, standings
from edgepress.pipeline.pages.words import metric_value
from edgepress.pipeline.profile.record import DeviceProfile, Profile
from edgepress.pipeline.record_file import write_record
from edgepress.pipeline.run_record import EngineRecord, RunRecord
from html_page import Page
from run_records import F32, cpu, engine, latency, metric, run, tensorrt

MACHINE = {"cpu": "AMD EPYC", "logical cores": 2, "edgepress": "0.1.0", "openvino": "2026.4.0"}
OPENVINO = {"INFERENCE_NUM_THREADS": 2, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "bf16"}
NAN = float("nan")


def openvino(p50: float, value: float = 0.8628, int8: float = 1.0, **changes: object) -> EngineRecord:
    return engine("compressed", p50, value, {"int8": int8, "f32": 1 - int8}, settings=OPENVINO, **changes)


def a_run(p50: float = 1.2, value: float = 0.8628, **changes: object) -> RunRecord:
    return run(**{"environment": MACHINE, "targets": [cpu(compressed=openvino(p50, value))], **changes})


def a_profile(p50: float = 2.0, threads: str = "2", **changes: object) -> Profile:
    settings = {key: str(value) for key, value in OPENVINO.items()} | {"INFERENCE_NUM_THREADS": threads}
    timed = engine("openvino:CPU", p50, 0.8, {"f32": 1.0}, settings=settings, metric=None)
    devices = [
        DeviceProfile(device="CPU", runtime="openvino", version="2026.4.0", status="run", engine=timed),
        DeviceProfile(
            device="NPU", runtime="openvino", version=None, status="unavailable", reason="none here"
        ),
    ]
    fields = {
        "source": "m.onnx", "sha256": "ef" * 32, "inputs": {"x": [1, 16]}, "batch": 1, "pairs": 2,
        "iterations": 11, "float_precision": "default", "seed": 0, "environment": MACHINE, "devices": devices,
    }  # fmt: skip
    return Profile.model_validate({**fields, **changes})


def compared(folder: Path, **records: RunRecord | Profile) -> Comparison:
    """The comparison of records, each written into a folder of its name."""
    return load_comparison([written(folder / name, record) for name, record in records.items()])


def written(folder: Path, record: RunRecord | Profile) -> Path:
    write_record(folder / ("run.json" if isinstance(record, RunRecord) else "profile.json"), record)
    return folder


def names(comparison: Comparison) -> list[str]:
    return [row.name for row in comparison.rows]


def standing_of(front: Front) -> dict[str, str]:
    return {member.row.name: member.words for member in front.members}


# The Pareto front: less x is better, and less y unless it is said otherwise


def near(value: float, by: float = 1.0) -> tuple[float, tuple[float, float]]:
    return value, (value - by, value + by)


def point(x: float, y: float, by: float = 1.0) -> Point:
    return Point(estimated(*near(x, by)), estimated(*near(y, by)))


FRONTS = {
    "one point is a front": ([(5, 5)], ["front"]),
    "a trade: each is better in one": ([(1, 9), (5, 5), (9, 1)], ["front"] * 3),
    "better in both beyond the intervals": ([(1, 1), (9, 9)], ["front", "dominated by 0"]),
    "ahead in both, the intervals of one overlap": ([(1, 1), (9, 2)], ["front", "undecided by 0"]),
    "ahead in both, both overlap": ([(1, 1), (2, 2)], ["front", "undecided by 0"]),
    "intervals that touch are not told apart": ([(1, 1), (3, 9)], ["front", "undecided by 0"]),
    "equal in one, far better in the other": ([(1, 5), (9, 5)], ["front", "undecided by 0"]),
    "the same values are both on the front": ([(5, 5), (5, 5)], ["front", "front"]),
    "behind two, the fastest of them is named": ([(2, 3), (1, 4), (9, 9)], ["front", "front", "dominated by 1"]),
    "one that beats is named before one that is ahead": (
        [(4, 1), (1, 7.5), (9, 9)], ["front", "front", "dominated by 0"]
    ),
    "behind an undecided point, the front is named": (
        [(1, 1), (2, 2), (3, 2.5)], ["front", "undecided by 0", "undecided by 0"]
    ),
}  # fmt: skip


def told(found: list[Standing]) -> list[str]:
    return [s.kind if s.by is None else f"{s.kind} by {s.by}" for s in found]


@pytest.mark.parametrize(("points", "expected"), FRONTS.values(), ids=FRONTS.keys())
def test_where_points_stand(points: list[tuple[float, float]], expected: list[str]) -> None:
    assert told(standings([point(x, y) for x, y in points])) == expected
    turned = [point(x, -y) for x, y in points]
    assert told(standings(turned, more_is_better=True)) == expected


def test_an_exact_measure_is_told_apart_by_any_difference() -> None:
    small, large, same = (Point(estimated(*near(x)), exact(y)) for x, y in ((1, 10), (9, 11), (9, 10)))
    assert told(standings([small, large])) == ["front", "dominated by 0"]
    (_, equal) = standings([small, same])
    assert (equal.kind, equal.clear) == ("undecided", (True, False))


def test_an_interval_that_is_not_known_tells_nothing_apart() -> None:
    unknown = Point(estimated(1, (NAN, NAN)), exact(1))
    assert told(standings([unknown, point(99, 99)])) == ["front", "undecided by 0"]


def test_an_interval_is_widened_to_hold_its_value() -> None:
    assert estimated(0.9, (1.0, 1.2)).low == 0.9
    assert estimated(1.3, (1.0, 1.2)).high == 1.3


# Records


def test_a_run_gives_a_row_for_each_model_and_a_profile_one(tmp_path: Path) -> None:
    target = cpu(default=openvino(1.4), compressed=openvino(1.2))
    found = compared(tmp_path, cnn=a_run(targets=[target, tensorrt()]), base=a_profile())
    assert names(found) == [
        "cnn, float, f32", "cnn, float, runtime default", "cnn, compressed", "base, profile"
    ]  # fmt: skip
    assert found.devices == ("openvino:CPU", "tensorrt", "openvino:NPU")
    cells = {
        row.name: {d: (row.cell(d).status, row.cell(d).reason) for d in found.devices} for row in found.rows
    }
    assert cells["cnn, compressed"]["openvino:CPU"] == ("run", "")
    assert cells["cnn, float, f32"]["tensorrt"] == ("missing", "no such engine in its record")
    assert cells["base, profile"]["openvino:NPU"] == ("unavailable", "none here")
    assert cells["base, profile"]["tensorrt"] == ("missing", "not in its record")


def test_roles_without_any_engine_have_no_row(tmp_path: Path) -> None:
    assert names(compared(tmp_path, bare=a_run(targets=[tensorrt()]))) == ["bare, compressed"]


def test_folders_of_one_name_are_told_apart_by_their_parents(tmp_path: Path) -> None:
    folders = [written(tmp_path / parent / "cnn", a_run()) for parent in ("a", "b")]
    folders.append(written(tmp_path / "c" / "vit", a_run()))
    found = load_comparison([*folders, folders[0]])
    assert [source.name for source in found.sources] == ["a/cnn", "b/cnn", "vit"]


def test_a_folder_with_two_records_gives_both(tmp_path: Path) -> None:
    written(written(tmp_path / "both", a_run()), a_profile())
    found = load_comparison([tmp_path / "both"])
    assert [(s.name, s.kind) for s in found.sources] == [
        ("both (run.json)", "run"), ("both (profile.json)", "profile")
    ]  # fmt: skip


def test_profiles_of_several_models_are_read_from_the_folder_that_holds_them(tmp_path: Path) -> None:
    for name in ("float", "int8"):
        written(tmp_path / "both" / name, a_profile())
    (tmp_path / "both" / "profiles.json").write_text("{}")
    assert names(load_comparison([tmp_path / "both"])) == ["float, profile", "int8, profile"]


def test_a_source_is_identified_by_its_files(tmp_path: Path) -> None:
    found = compared(tmp_path, cnn=a_run(), base=a_profile())
    assert [source.digests for source in found.sources] == [{"model.onnx": "ab" * 32}, {"m.onnx": "ef" * 32}]
    assert [source.date for source in found.sources] == ["2026-03-14T09:18:02Z", "2026-03-14T09:21:07Z"]
    assert found.sources[1].versions == {"edgepress": "0.1.0", "openvino": "2026.4.0"}


BAD_RECORDS = {
    "neither record": ({}, "holds neither run.json nor profile.json"),
    "a cut profile": (
        {"profile.json": '{"source": "m'},
        "profile.json: damaged, not valid JSON (line 1); profile the model again",
    ),
    "a profile of something else": ({"profile.json": '{"speed": 3}'}, "source: Field required"),
    "a binary profile": ({"profile.json": "\udcff\udcfe"}, "damaged, not valid JSON (not UTF-8, byte 0)"),
    "a deep profile": ({"profile.json": "[" * 100_000}, "damaged, not valid JSON (nested too deeply)"),
    "a damaged run": ({"run.json": "{"}, "run.json: damaged, not valid JSON"),
}


@pytest.mark.parametrize(("files", "message"), BAD_RECORDS.values(), ids=BAD_RECORDS.keys())
def test_a_bad_record_is_refused_by_name(files: dict[str, str], message: str, tmp_path: Path) -> None:
    good, bad = written(tmp_path / "good", a_run()), tmp_path / "bad"
    bad.mkdir()
    for name, text in files.items():
        (bad / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CompressError) as caught:
        load_comparison([good, bad])
    assert str(bad) in str(caught.value)
    assert message in str(caught.value)


# What may be compared


def test_records_of_one_machine_and_alike_settings_are_one_group(tmp_path: Path) -> None:
    found = compared(tmp_path, cnn=a_run(), base=a_profile(threads="2"))
    assert [group.sources for group in found.groups] == [("cnn", "base")]
    assert found.differences == ()


BATCH_4 = "name: r\nmeasure: {pairs: 2, batch: 4}\n"
APART = {
    "threads": (a_profile(threads="1"), "threads on openvino:CPU: 2 in Group 1, 1 in Group 2"),
    "machine": (
        a_profile(environment={**MACHINE, "cpu": "Intel"}),
        "machine: AMD EPYC in Group 1, Intel in Group 2",
    ),
    "cores": (
        a_profile(environment={**MACHINE, "logical cores": 8}),
        "logical cores on openvino:CPU: 2 in Group 1, 8 in Group 2",
    ),
    "batch of a profile": (a_profile(batch=4), "batch on openvino:CPU: 1 in Group 1, 4 in Group 2"),
    "batch of a run": (a_run(recipe=BATCH_4), "batch on openvino:CPU: 1 in Group 1, 4 in Group 2"),
    "a recipe that is no YAML": (
        a_run(recipe="a: [\x00"),
        "batch on openvino:CPU: 1 in Group 1, not told in Group 2",
    ),
    "a recipe too deep": (
        a_run(recipe="[" * 100_000),
        "batch on openvino:CPU: 1 in Group 1, not told in Group 2",
    ),
}


@pytest.mark.parametrize(("other", "difference"), APART.values(), ids=APART.keys())
def test_rows_measured_otherwise_are_grouped_apart(
    other: RunRecord | Profile, difference: str, tmp_path: Path
) -> None:
    found = compared(tmp_path, cnn=a_run(), other=other)
    assert [group.sources for group in found.groups] == [("cnn",), ("other",)]
    assert len(found.differences) == 1
    assert difference in found.differences[0]
    assert [len(bench.rows) for bench in benches(found)] == [2, 2 if isinstance(other, RunRecord) else 1]
    page = comparison_page(found)
    assert "Not all rows can be compared." in page
    assert "Group 2: " in page


def on_device(**changes: object) -> Profile:
    """A profile of one device, which tells more of itself."""
    profile = a_profile()
    return profile.model_copy(update={"devices": [profile.devices[0].model_copy(update=changes)]})


def test_a_time_over_many_inputs_is_not_compared_with_that_of_one(tmp_path: Path) -> None:
    many = a_profile()
    timed = many.devices[0].engine
    assert timed is not None and timed.latency_ms is not None
    fed = timed.latency_ms.model_copy(update={"inputs": 64, "inputs_origin": "64 random inputs, seed 0"})
    other = on_device(engine=timed.model_copy(update={"latency_ms": fed}))
    found = compared(tmp_path, one=a_profile(), many=other)
    assert found.differences == (
        "fed on openvino:CPU: one input in Group 1, 64 random inputs, seed 0 in Group 2",
    )


def test_throughput_is_not_compared_with_latency(tmp_path: Path) -> None:
    found = compared(tmp_path, one=a_profile(), many=on_device(options={"mode": "throughput"}))
    assert found.differences == ("mode on openvino:CPU: latency in Group 1, throughput in Group 2",)


def test_a_device_of_another_machine_goes_by_its_own_name_and_machine(tmp_path: Path) -> None:
    driven = {"machine": "Cortex-A76", "label": "kiosk"}
    found = compared(
        tmp_path,
        here=on_device(**driven),
        there=on_device(**driven).model_copy(update={"environment": {"cpu": "laptop", "logical cores": 16}}),
    )
    assert found.devices == ("kiosk",)
    assert len(found.groups) == 1
    assert found.groups[0].machines == "Cortex-A76"


def test_records_without_a_common_device_are_grouped_by_machine(tmp_path: Path) -> None:
    gpu, elsewhere = on_device(label="gpu"), on_device(label="npu", machine="Cortex-A76")
    found = compared(tmp_path, cnn=a_run(), gpu=gpu, elsewhere=elsewhere, bare=a_run(targets=[tensorrt()]))
    assert [group.sources for group in found.groups] == [("cnn", "gpu", "bare"), ("elsewhere",)]
    assert found.differences == ("machine: AMD EPYC in Group 1, Cortex-A76 in Group 2",)


def test_a_device_that_was_not_timed_declares_nothing(tmp_path: Path) -> None:
    bare = openvino(1.2, latency_ms=None).model_copy(update={"settings": {"INFERENCE_NUM_THREADS": 7}})
    found = compared(tmp_path, cnn=a_run(), other=a_run(targets=[cpu(baseline=None, compressed=bare)]))
    assert len(found.groups) == 1


# Fronts


def test_metrics_of_different_data_are_never_on_one_front(tmp_path: Path) -> None:
    other = a_run(data={"manifest": "00" * 32})
    found = compared(tmp_path, one=a_run(1.0), two=a_run(1.1), other=other)
    fronts = benches(found)[0].fronts
    assert [{m.row.source for m in front.members} for front in fronts] == [{"one", "two"}, {"other"}]
    assert all(front.measure == "top1" for front in fronts)


def test_rows_that_share_no_metric_are_compared_by_size(tmp_path: Path) -> None:
    alone = [cpu(baseline=None, compressed=openvino(1.0))]
    found = compared(
        tmp_path, one=a_run(targets=alone), two=a_run(targets=alone, data={"manifest": "00" * 32})
    )
    assert [front.measure for front in benches(found)[0].fronts] == ["engine size"]


def test_a_row_without_a_metric_is_compared_by_size(tmp_path: Path) -> None:
    found = compared(tmp_path, cnn=a_run(), base=a_profile(9.0))
    by_metric, by_size = benches(found)[0].fronts
    assert len(by_metric.members) == 2
    assert standing_of(by_size) == {
        "cnn, compressed": "on the front: the fastest and the smallest",
        "cnn, float, f32": "not told apart from 1 in engine size",
        "base, profile": "not told apart from 1 in engine size",
    }


def test_standings_in_words(tmp_path: Path) -> None:
    found = compared(
        tmp_path,
        quick=a_run(1.0, 0.80, targets=[cpu(baseline=None, compressed=openvino(1.0, 0.80))]),
        good=a_run(2.0, 0.95, targets=[cpu(baseline=None, compressed=openvino(2.0, 0.95))]),
        near=a_run(2.5, 0.94, targets=[cpu(baseline=None, compressed=openvino(2.5, 0.94))]),
        poor=a_run(3.0, 0.50, targets=[cpu(baseline=None, compressed=openvino(3.0, 0.50))]),
    )
    (front,) = benches(found)[0].fronts
    assert standing_of(front) == {
        "quick, compressed": "on the front: the fastest",
        "good, compressed": "on the front: the best in top1",
        "near, compressed": "not told apart from 2 in top1",
        "poor, compressed": "dominated by 1: slower and lower in top1, beyond the intervals",
    }
    svg = ElementTree.fromstring(front.chart)
    kinds = [circle.get("class", "").split()[-1] for circle in svg.iter("circle")]
    assert sorted(kinds) == ["dominated", "front", "front", "undecided"]
    assert len(svg.findall("line[@class='front-line']")) == 1
    assert svg.get("aria-label") == "Latency against top1. On the front: quick, compressed, good, compressed"


def test_a_latency_that_cannot_be_is_not_compared(tmp_path: Path) -> None:
    for p50 in (0.0, NAN):
        odd = openvino(1.2, latency_ms=latency(1.2).model_copy(update={"p50": p50}))
        found = compared(tmp_path, cnn=a_run(targets=[cpu(compressed=odd)]), base=a_profile())
        assert "cnn, compressed" not in [row.name for row in benches(found)[0].rows]
        comparison_page(found)
        json.dumps(comparison_document(found), allow_nan=False)


# Charts


def test_whiskers_whose_bounds_are_not_known_are_not_drawn() -> None:
    unknown = Point(estimated(1.0, (NAN, NAN)), exact(0.5))
    mark = Mark(1, "a", "int8", unknown, Standing("front"))
    svg = ElementTree.fromstring(front_chart([mark], Scale("top1", metric_value, True)))
    assert len([x for x in svg.iter("line") if "spread" in x.get("class", "")]) == 1


# The page


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    page = comparison_page(compared(tmp_path, cnn=a_run(), base=a_profile()))
    tags = Page(page).tags
    assert len(tags) > 50
    for tag, attributes in tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "base", "form"), tag
        assert not {"src", "href", "xlink:href", "srcset", "action"} & set(attributes), tag
    assert "url(" not in page
    assert "@import" not in page


def test_the_page_says_what_was_measured_and_why_not(tmp_path: Path) -> None:
    page = comparison_page(compared(tmp_path, cnn=a_run(targets=[cpu(), tensorrt()]), base=a_profile()))
    text = " ".join(" ".join(Page(page).words).split())
    for expected in (
        "3 models on 3 devices", "from 1 run and 1 profile", "1.20 ms", "(1.18–1.22)",
        "AMD EPYC, logical cores 2, batch 1, mode latency, threads 2, streams 1, float precision bf16",
        f"1.32× (1.29–1.35×) over {F32}", "INT8 97.1 % · 4.00 kB", "built, not run",
        "no NVIDIA GPU here to run on", "unavailable", "none here", "not in its record", "ef" * 32,
    ):  # fmt: skip
        assert expected in text, expected


def test_what_was_not_measured_is_never_a_zero(tmp_path: Path) -> None:
    bare = engine("int8", 1.2, 0.8, {}, latency_ms=None, metric=None, engine_bytes=0)
    page = comparison_page(
        compared(tmp_path, cnn=a_run(targets=[cpu(baseline=None, compressed=bare, speedup=[])]))
    )
    matrix = page[page.index("<h2>Models") : page.index("<h2>Device by")]
    assert matrix.count("not measured") == 3  # latency, INT8 and size
    assert not re.search(r"\b0(\.0+)? ?(ms|%|B)", matrix)
    assert "No record holds a latency." in page


def test_no_cell_of_the_matrix_is_empty(tmp_path: Path) -> None:
    failed = cpu(device="GPU", status="failed", baseline=None, compressed=None, speedup=[], parity=None)
    found = compared(tmp_path, cnn=a_run(targets=[cpu(), failed, tensorrt()]), base=a_profile())
    page = comparison_page(found)
    matrix = page[page.index("<h2>Models") : page.index("<h2>Device by")]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", matrix, flags=re.DOTALL)
    assert len(cells) == len(found.rows) * (len(found.devices) + 1)
    assert all(re.sub(r"<[^>]*>", "", cell).strip() for cell in cells)
    assert "no reason given" in page


def test_a_cached_latency_is_shown_with_its_date(tmp_path: Path) -> None:
    reused = openvino(1.2, latency_ms=latency(1.2, cached=True, measured_at="2026-01-02T03:04:05Z"))
    found = compared(tmp_path, cnn=a_run(targets=[cpu(compressed=reused)]), base=a_profile())
    page = comparison_page(found)
    dated = re.findall(r'cached</span> <span class="soft small">2026-01-02T03:04:05Z', page)
    assert len(dated) == 3  # in the matrix and in both fronts
    assert "2026-01-02 to 2026-03-14" in page


HOSTILE = {
    "script": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "template": "{{ 7 * 7 }}{% raw %}",
    "controls": "conv\u202egnp.exe\x1b[31m\x00",
}


def hostile(name: str, p50: float) -> RunRecord:
    shares = {name: 0.6, "int8": 0.4}
    own = metric(0.8).model_copy(update={"name": name, "part": name})
    bad = engine(name, p50, 0.8, shares, settings={"NUM_STREAMS": name}, metric=own)
    targets = [cpu(device=name, runtime=name, reason=name, baseline=bad, compressed=bad), tensorrt()]
    environment = {"cpu": name, "openvino": name}
    return run(
        environment=environment, targets=targets, data={"manifest": name}, started_at=name, recipe=name
    )


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_name_is_only_text(name: str, tmp_path: Path) -> None:
    plain = Page(comparison_page(compared(tmp_path / "plain", a=hostile("name", 1), b=hostile("name", 2))))
    page = comparison_page(compared(tmp_path / "hostile", a=hostile(name, 1), b=hostile(name, 2)))
    assert Page(page).shape == plain.shape
    assert not set("\u202e\x1b\x00") & set(page)


def test_a_hostile_folder_is_only_text(tmp_path: Path) -> None:
    folders = [written(tmp_path / name, a_run()) for name in ("<script>x<b>", "bell\x07\x1b[31m")]
    page = comparison_page(load_comparison(folders))
    assert "<script" not in page
    assert "&lt;script&gt;x&lt;b&gt;, compressed" in page
    assert "bell&lt;U+0007&gt;&lt;U+001B&gt;[31m" in page


def test_the_document_leaves_samples_and_layers_to_the_records(tmp_path: Path) -> None:
    document = comparison_document(compared(tmp_path, cnn=a_run(), base=a_profile()))
    cell = document["rows"][1]["cells"]["openvino:CPU"]
    assert cell["engine"]["latency_ms"]["p50"] == 1.2
    assert cell["speedups"][0]["ratio"] == 1.32
    assert "samples_ms" not in json.dumps(document)
    assert "layers" not in cell["engine"]
    assert [front["measures"] for front in document["fronts"]] == [
        ["latency p50", "top1"], ["latency p50", "engine size"]
    ]  # fmt: skip
    assert {"row": "cnn, compressed", "standing": "front"}.items() <= document["fronts"][0]["members"][
        0
    ].items()


# The command


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    return [written(Path("cnn"), a_run()), written(Path("base"), a_profile(threads="1"))]


def compress(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="compress")
    assert "Traceback" not in result.output
    return result


def test_several_folders_give_one_page(folders: list[Path]) -> None:
    result = compress("report", *folders)
    assert result.exit_code == 0, result.output
    for expected in (
        "not compared across: threads on openvino:CPU: 2 in Group 1, 1 in Group 2", "cnn, compressed",
        "1.20 ms (1.18–1.22)", "unavailable: none here", "wrote comparison.html",
    ):  # fmt: skip
        assert expected in result.stdout
    assert "base, profile" in Path("comparison.html").read_text(encoding="utf-8")
    assert not Path("cnn/report.html").exists()


def test_one_folder_gives_its_own_reports_unless_a_page_is_named(folders: list[Path]) -> None:
    assert compress("report", "cnn").exit_code == 0
    assert Path("cnn/report.html").is_file()
    assert not Path("comparison.html").exists()
    assert compress("report", "base/profile.json", "-o", "pages/one.html").exit_code == 0
    assert "<h1>1 model on 2 devices</h1>" in Path("pages/one.html").read_text(encoding="utf-8")


def test_json_is_one_document(folders: list[Path]) -> None:
    document = json.loads(compress("report", *folders, "-o", "p.html", "--json").stdout)
    assert document["page"] == "p.html"
    assert [source["name"] for source in document["sources"]] == ["cnn", "base"]
    assert Path("p.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cnn", "none"], "error: none: there is no such folder; name folders of runs or profiles"),
        (["cnn", "."], "holds neither run.json nor profile.json"),
        (["cnn", "base", "-o", "cnn/run.json"], "cnn/run.json: a comparison is one HTML page"),
        (
            ["base"],
            "base: holds a profile, which has no report of its own; compare it: add -o comparison.html",
        ),
        ([], "Missing argument 'FOLDER...'"),
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments: list[str], message: str, folders: list[Path]) -> None:
    result = compress("report", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
