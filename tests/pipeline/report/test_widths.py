"""Widths of layers before and after pruning: bars as long as they are, in stages as the names tell them."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgepress.pipeline.report.widths import Width, widths
from edgepress.pipeline.report.write import write_reports
from html_page import Page
from pruned_records import gates
from run_records import STEPS, run, step


def test_bars_are_as_long_as_the_widths(tmp_path: Path) -> None:
    pruned = step("gates", 0.861, 2_000, details=gates(units=[]))
    write_reports(run(steps=[STEPS[0], pruned]), tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    rows = [dict(found) for tag, found in page.tags if "width" in (found.get("class") or "").split()]
    assert [row["title"] for row in rows][1:4:2] == [
        "layer1.0.conv1 (Conv2d): inputs 64 → 48, outputs 64 → 40",
        "layer2.1.conv1 (Conv2d): removed; it had inputs 128, outputs 128",
    ]
    assert [row["class"] for row in rows].count("width gone") == 2
    start = next(i for i, (_, found) in enumerate(page.tags) if found.get("title", "").startswith("layer1.0"))
    styles = [found["style"] for tag, found in page.tags[start:] if tag in ("i", "b") and "style" in found]
    # 40 of 64 in the first row; 32 of 32 in one half as wide; the blocks that went are outlines only.
    assert styles[:6] == [
        "width:100.00%", "width:62.50%", "width:50.00%", "width:100.00%", "width:100.00%", "width:100.00%"
    ]  # fmt: skip


STAGES = {
    "numbered stages": (
        ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.1.conv1", "fc"],
        [("", ["conv1"]), ("layer1", ["0.conv1", "0.conv2"]), ("layer2", ["0.conv1", "1.conv1"]), ("", ["fc"])],
    ),
    "numbered blocks": (
        ["patch.proj", "blocks.0.attn.qkv", "blocks.0.mlp.fc1", "blocks.1.attn.qkv", "blocks.1.mlp.fc1"],
        [("", ["patch.proj"]), ("blocks.0", ["attn.qkv", "mlp.fc1"]), ("blocks.1", ["attn.qkv", "mlp.fc1"])],
    ),
    "a number that all names share": (
        ["net0.stem.a", "net0.stem.b", "net0.s1.a", "net0.s1.b"],
        [("net0.stem", ["a", "b"]), ("net0.s1", ["a", "b"])],
    ),
    "layers that are numbered themselves": (
        ["features.0", "features.2", "classifier.1", "classifier.4"],
        [("features", ["0", "2"]), ("classifier", ["1", "4"])],
    ),
    "names without stages": (["a", "b", "a"], [("", ["a", "b", "a"])]),
    "no layers": ([], []),
}  # fmt: skip


@pytest.mark.parametrize("case", STAGES)
def test_layers_are_grouped_by_their_names(case: str) -> None:
    names, expected = STAGES[case]
    found = widths([{"name": name, "outputs": [8, 4]} for name in names]).stages
    assert [(stage.name, [row.label for row in stage.rows]) for stage in found] == expected
    assert [row.name for stage in found for row in stage.rows] == names


@pytest.mark.parametrize(
    "pair", [None, 8, "88", [8], [8, 9], [8, -1], [None, 4], [True, 1], [1e300, 1], [8, 4.5]], ids=str
)
def test_what_is_no_pair_of_counts_is_no_width(pair: object) -> None:
    assert Width.of(pair) is None
