"""What `gates` removed, in every report: the numbers of its details, the unknown in words, and no text that acts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from edgepress.pipeline.pages.words import MINUS
from edgepress.pipeline.report.pruning import Pruning, file_of, pruning
from edgepress.pipeline.report.terminal import summary
from edgepress.pipeline.report.write import write_reports
from edgepress.pipeline.run_record import ArtefactRecord, RunRecord
from edgepress.text import short
from html_page import Page
from pruned_records import LAYERS, SERIES, UNITS, gates
from rich.console import Console
from run_records import STEPS, run, step


def record(**changes: Any) -> RunRecord:
    return run(steps=[STEPS[0], step("gates", 0.861, 2_000, details=gates(**changes))])


def view(**changes: Any) -> Pruning:
    found = pruning(record(**changes).steps[1])
    assert found is not None
    return found


def page_of(shown: RunRecord, folder: Path) -> Page:
    write_reports(shown, folder)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def words(page: Page) -> str:
    return " ".join(" ".join(page.words).split()).partition("Pruning: gates")[2]


def terminal(shown: RunRecord) -> str:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(summary(shown))
    return console.export_text()


# What is told


def test_the_page_tells_the_numbers_of_the_details(tmp_path: Path) -> None:
    text = words(page_of(record(), tmp_path))
    for told in (
        "latency 2.10 ms of 4.20 ms · 49.9 % left, target 50.0 %",
        "channels 168 of 192 · 1 of 2 units cut",
        "blocks 0 of 1 · 1 removed",
        "heads 4 of 6 · 1 of 1 units cut",
        "left whole 3 for 2 reasons, below",
        "80.0 % 3.36 ms 79.9 % 7.60 M 1.58 G 87.10 ± 2.57 % 98.6 % 0.0041",
        "65.0 % 2.73 ms 65.1 % 5.93 M 1.31 G not measured 97.1 % 0.0123",
        "50.0 % chosen 2.10 ms 49.9 % 4.25 M 1.04 G 86.10 % not measured 0.0312",
        "layer1.0.conv1 channels 64 → 40 12.0 % +0.0042",
        "layer2.1 block removed 11.4 % not measured",
        f"layer3.attn heads 6 → 4 unknown {MINUS}0.0007",
        "layer2.0.conv1 channels 128 30.0 % not cut",
        "removed with its block (2)",
        "2 named by keep aux.0, aux.1",
        "1 its outputs are the network's head",
    ):
        assert told in text, text


def test_markdown_and_the_terminal_tell_the_same(tmp_path: Path) -> None:
    write_reports(record(), tmp_path)
    rows = (tmp_path / "report.md").read_text(encoding="utf-8")
    for told in (
        "latency 4.20 ms → 2.10 ms (49.9 % left, target 50.0 %); channels 192 → 168, 1 of 2 units cut; 1 of 1 blocks",
        "| 65.0 % | 2.73 ms | 65.1 % | 5.93 M | 1.31 G | not measured | 97.1 % | 0.0123 | – |",
        "| 50.0 % (chosen) | 2.10 ms | 49.9 % | 4.25 M | 1.04 G | 86.10 % | not measured | 0.0312 | – |",
        "| layer2.1.conv1 | Conv2d | removed | removed |",
        "| head | Linear | 512 → 320 | 10 |",
        f"| layer3.attn | heads | 6 → 4 | unknown | {MINUS}0.0007 |",
        "| 2 | named by keep | aux.0, aux.1 |",
    ):
        assert told in rows, rows
    shown = terminal(record())
    for told in (
        "latency 4.20 ms → 2.10 ms (49.9 % left, target 50.0 %)",
        "channels 192 → 168, 1 of 2 units cut; 1 of 1 blocks removed; heads 6 → 4, 1 of 1 units cut",
        "removed: layer2.1",
        "left whole: 3, for 2 reasons (in the report)",
    ):
        assert told in shown, shown


SERIES_FILES = ("pruned.safetensors", "pruned-0.8.safetensors", "pruned-0.65.safetensors")


def with_files(shown: RunRecord, *names: str) -> RunRecord:
    files = [ArtefactRecord(path=name, kind="pruned-weights", bytes=1, sha256="ab" * 32) for name in names]
    return shown.model_copy(update={"artefacts": files})


def files_of(shown: RunRecord) -> list[list[str]]:
    pruned = [found for each in shown.steps if (found := pruning(each)) is not None]
    return [[file_of(point, each, shown) for point in each.series] for each in pruned]


def test_the_files_of_a_series_are_named(tmp_path: Path) -> None:
    shown = with_files(record(), *SERIES_FILES)
    page = words(page_of(shown, tmp_path))
    kl = ("0.0041", "0.0123", "0.0312")
    files = ("pruned-0.8.safetensors", "pruned-0.65.safetensors", "pruned.safetensors")
    assert all(f"{one} {file}" in page for one, file in zip(kl, files, strict=True)), page
    assert "0.0041 | pruned-0.8.safetensors |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    told = " ".join(terminal(shown).split())
    for row in (
        "target latency top1, validation KL, nats weights",
        "80.0 % 3.36 ms 87.10 ± 2.57 % 0.0041 pruned-0.8.safetensors",
        "65.0 % 2.73 ms not measured 0.0123 pruned-0.65.safetensors",
        "50.0 %, chosen 2.10 ms 86.10 % 0.0312 pruned.safetensors",
    ):
        assert row in told, told


def test_files_that_a_later_pass_has_left_its_own_weights_in_are_not_named() -> None:
    """A student in float, say: then the others of the series are not written."""
    assert files_of(with_files(record(), "pruned.safetensors")) == [["", "", ""]]
    first = step("gates", 0.861, 2_000, details=gates())
    twice = run(steps=[STEPS[0], first, step("gates", 0.86, 1_000, details=gates())])
    assert files_of(with_files(twice, *SERIES_FILES)) == [
        ["", "", ""],
        ["pruned-0.8.safetensors", "pruned-0.65.safetensors", "pruned.safetensors"],
    ]


def test_a_step_that_prunes_nothing_has_no_part_of_its_own(tmp_path: Path) -> None:
    assert pruning(STEPS[1]) is None
    assert words(page_of(run(), tmp_path)) == ""


def test_the_network_that_is_marked_is_the_chosen_one_and_the_last_one_else() -> None:
    marked = [SERIES[0] | {"chosen": True}, *SERIES[1:]]
    assert [point.chosen for point in view(series=marked).series] == [True, False, False]
    assert [point.chosen for point in view().series] == [False, False, True]
    assert view(series=[]).chosen is None


def test_units_that_are_cut_come_first_then_what_costs_the_most() -> None:
    names = [unit.name for unit in view().units]
    assert names == ["layer1.0.conv1", "layer2.1", "layer3.attn", "layer2.0.conv1"]


# What is unknown


UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "the cost": (
        {"whole_cost": None, "series": [{"target": 0.5}]},
        "latency unknown of unknown · share left unknown",
    ),
    "no series": ({"series": []}, "latency unknown of 4.20 ms · share left unknown"),
    "a series of nothing": (
        {"series": [{}]}, "unknown chosen unknown unknown unknown unknown not measured not measured"
    ),
    "what the cost is": ({"cost": None, "unit": None}, "unknown 2 of 4"),
    "a unit of which nothing is told": ({"units": [{}, 7]}, "unknown unknown unknown unknown not measured Left whole"),
    "a size that cannot be": ({"units": [UNITS[0] | {"kept": 65}]}, "layer1.0.conv1 channels unknown 12.0 % +0.0042"),
    "numbers that are none": (
        {"units": [UNITS[0] | {"saves": "much", "harm": float("nan")}]},
        "layer1.0.conv1 channels 64 → 40 unknown not measured",
    ),
    "a layer of which nothing is told": ({"layers": [{}]}, "unknown unknown What each unit"),
    "a reason": ({"whole": [{"name": "head"}]}, "1 no reason given head"),
    "what is no name": ({"uncounted": [7, {}]}, "49.9 % left, target 50.0 % channels 168"),
    "rows that are none": ({"layers": "all", "whole": None, "units": 3, "series": {}}, "left whole 0 no layer"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_is_unknown_is_told_and_is_never_zero(case: str, tmp_path: Path) -> None:
    changes, told = UNKNOWN[case]
    text = words(page_of(record(**changes), tmp_path))
    assert told in text, text
    assert "nan" not in text.lower() and "None" not in text
    terminal(record(**changes))


def test_a_share_of_what_can_be_counted_is_told_as_that(tmp_path: Path) -> None:
    shown = record(
        cost="macs", unit="multiply-accumulates", uncounted=[f"fft_r2c in 'head.{i}'" for i in range(7)]
    )
    told = "of those that can be counted; unknown: " + ", ".join(f"fft_r2c in 'head.{i}'" for i in range(5))
    assert f"49.9 % left, target 50.0 %, {told} and 2 more" in words(page_of(shown, tmp_path))
    rows = (tmp_path / "report.md").read_text(encoding="utf-8").replace("\\", "")
    assert f"(49.9 % left, target 50.0 %), {told} and 2 more; channels 192" in rows
    assert told in " ".join(terminal(shown).split())
    assert "can be counted" not in words(page_of(record(uncounted=[]), tmp_path))


def test_a_bar_of_what_is_unknown_is_not_drawn(tmp_path: Path) -> None:
    units = [UNITS[0] | {"saves": None, "harm": None}]
    assert view(units=units).scale.saves == 0
    page = page_of(record(units=units, layers=[], series=[]), tmp_path)
    drawn = [dict(found).get("class") for tag, found in page.tags if tag == "i"]
    assert "fill-other" not in drawn


def test_details_of_another_shape_are_not_shown(tmp_path: Path) -> None:
    odd = step("gates", 0.86, 1_000, details={"gates": ["a", "b"]})
    assert words(page_of(run(steps=[STEPS[0], odd]), tmp_path)) == ""


# Names

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}",
    "a | b\n@c",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_only_text(name: str, tmp_path: Path) -> None:
    def named(name: str) -> RunRecord:
        changes = {"name": name, "kind": name, "type": name, "reason": name}
        lists = {"units": UNITS, "layers": LAYERS, "whole": [{"name": "x", "reason": "y"}]}
        return record(
            cost=name,
            unit=name,
            uncounted=[name],
            **{key: [row | changes for row in rows] for key, rows in lists.items()},
        )

    plain, hostile = page_of(named("name"), tmp_path), page_of(named(name), tmp_path)
    assert hostile.shape == plain.shape
    assert short(name) in hostile.text
    rows = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<script" not in rows and "<img" not in rows and "@c" not in rows
    assert "\x1b" not in terminal(named("\x1b[31m" + name))


# Size


def test_of_a_huge_network_the_layers_that_lost_any_are_shown(tmp_path: Path) -> None:
    layers = [
        {"name": f"s{i // 50}.{i}.conv", "type": "Conv2d", "inputs": [8, 8], "outputs": [8, 8 - i % 2], "gone": False}
        for i in range(3000)
    ]  # fmt: skip
    units = [UNITS[0] | {"name": f"s{i}"} for i in range(3000)]
    whole = [{"name": f"s{i}", "reason": f"reason {i}"} for i in range(3000)]
    shown = record(layers=layers, units=units, whole=whole)
    text = words(page_of(shown, tmp_path))
    assert "400 of 3,000 layers, of those that lost anything; run.json has them all." in text
    assert "2,600 more in run.json" in text
    assert (tmp_path / "report.html").stat().st_size < 600_000
    assert (tmp_path / "report.md").stat().st_size < 65_536  # what a comment on a pull request may hold
    assert len(terminal(shown)) < 10_000
