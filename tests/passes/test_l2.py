"""`l2` in a recipe, on the digits network: the file's size and accuracy, what it unpacks to, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import edgepress
import pytest
from click.testing import CliRunner
from digits_mlp import model_section
from edgepress.cli import cli
from edgepress.errors import CompressError
from edgepress.passes.l2 import L2
from edgepress.pipeline.packing.l2z_file import unpack_file
from edgepress.pipeline.pages.words import byte_size
from edgepress.pipeline.recipe.file import read_recipe
from edgepress.pipeline.run import compress
from edgepress.progress import Silent, Status
from pydantic import ValidationError
from recipes import recipe_text
from small_run import ABSENT

T = TypeVar("T")

UNTRAINED = {"importance_samples": 64, "transform_epochs": 0, "training": {"epochs": 0}}


def recipe(
    folder: Path,
    options: dict[str, Any],
    limit: str = "1 MB",
    more: tuple[str, ...] = (),
    **sections: Any,
) -> Path:
    """A recipe with `l2` of these options, and `more` passes behind it."""
    path = folder / "recipe.yaml"
    text = recipe_text(
        name="small",
        metric="top1",
        passes=[{"l2": options}, *more],
        budgets={"metric_drop": "1 points", "bytes": limit},
        measure={"pairs": 2, "iterations": 11},
        **sections,
    )
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("l2")
    options = {
        "ratio": 12,
        "importance_samples": 64,
        "samples": "calibration",  # 150 images are enough to learn from: in four epochs nothing is lost
        "training": {"epochs": 4, "lr": 1e-2},
    }
    path = recipe(folder, options, "35 kB")
    return folder, compress(path, folder / "run", progress=Silent())


def test_a_tenth_of_the_bytes_within_a_point(run: tuple[Path, Any]) -> None:
    folder, record = run
    assert record.verdict == "PASS", record.reason
    before = record.steps[0]
    size = (folder / "run" / "model.l2z").stat().st_size
    assert 0.95 * before.bytes / 12 <= size <= before.bytes / 12
    assert record.budgets[1].name == "size of model.l2z"
    assert record.budgets[1].measured == f"{size / 1000:.2f} kB"


def test_it_unpacks_to_the_graph_that_was_proven(run: tuple[Path, Any]) -> None:
    folder, _ = run
    unpack_file(folder / "run" / "model.l2z", folder / "back.onnx")
    assert (folder / "back.onnx").read_bytes() == (folder / "run" / "model.onnx").read_bytes()
    loaded = edgepress.load(folder / "run" / "model.l2z")
    assert loaded.SerializeToString(deterministic=True) == (folder / "back.onnx").read_bytes()


def test_the_finished_pass_is_reused_with_the_same_file(run: tuple[Path, Any]) -> None:
    folder, _ = run
    before = (folder / "run" / "model.l2z").read_bytes()
    again = compress(folder / "recipe.yaml", folder / "run", progress=Silent())
    assert again.steps[1].cached
    assert (folder / "run" / "model.l2z").read_bytes() == before


def test_every_layer_tells_its_bits(run: tuple[Path, Any]) -> None:
    _, record = run
    rows = record.steps[1].details["tensors"]
    assert sum(row["weights"] for row in rows) > 0.95 * record.steps[0].params
    assert all(0 <= row["bits_per_weight"] < 8 and 1 <= row["values"] <= 255 for row in rows)
    assert len({round(row["bits_per_weight"], 2) for row in rows}) > 3  # not one for all


def test_the_report_shows_what_the_file_takes_and_each_tensor_of_it(run: tuple[Path, Any]) -> None:
    folder, record = run
    size = (folder / "run" / "model.l2z").stat().st_size
    assert record.steps[1].bytes == size
    page = (folder / "run" / "report.html").read_text()
    largest = max(record.steps[1].details["tensors"], key=lambda row: row["weights"] * row["bits_per_weight"])
    [card] = [part for part in page.split("<article")[1:] if "Bits per weight: l2" in part]
    shown = card.split('class="name">')[1]
    assert shown.startswith(largest["tensor"]) and f"{largest['bits_per_weight']:.2f} bits" in shown
    assert byte_size(size) in page.split("Pass by pass")[0]


def test_commands_take_the_file(run: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = run
    small = str(folder / "run" / "model.l2z")
    shown = CliRunner().invoke(cli, ["inspect", small])
    assert shown.exit_code == 0 and "bits each" in shown.output and "█" in shown.output
    [note] = [line for line in shown.output.splitlines() if "header, tables and graph take" in line]
    assert 0 < float(note.split("take ")[1].split(" %")[0]) < 60
    assert CliRunner().invoke(cli, ["lint", small, "-t", "onnxruntime"]).exit_code == 0
    timed = CliRunner().invoke(
        cli, ["profile", small, "-t", "onnxruntime", "--pairs", "2", "--iterations", "11"]
    )
    assert timed.exit_code == 0 and "latency p50" in timed.output
    packed = CliRunner().invoke(cli, ["pack", str(folder / "run")])
    assert packed.exit_code == 2 and "is packed already" in packed.output


def test_without_training_it_meets_the_size_all_the_same(tmp_path: Path) -> None:
    path = recipe(tmp_path, {"bytes": "25kB", **UNTRAINED}, "25 kB", model=model_section(tmp_path))
    record = compress(path, tmp_path / "run", progress=Silent())
    size = (tmp_path / "run" / "model.l2z").stat().st_size
    assert 23_750 <= size <= 25_000
    assert record.verdict == "PASS", record.reason


SEARCH = {
    "max_drop": 1,
    "transform_epochs": 0,
    "samples": "calibration",
    "importance_samples": 32,
    "training": {"epochs": 1, "batch": 64, "lr": 1e-2},
}
TRIED = re.compile(r"^(\S+)x loses (\S+) ± \S+ points of the validation part \(n = \d+\)( and is not kept)?$")


def searching(folder: Path) -> Path:
    """Each size that is tried is exported several times: of a network where that takes no time, and for no device."""
    return recipe(folder, SEARCH, model=model_section(folder), targets=[ABSENT])


class Steps(Silent):
    """Counts the steps of training that are taken."""

    taken = 0

    def track(
        self, items: Iterable[T], description: str, total: int | None = None, status: Status | None = None
    ) -> Iterator[T]:
        for item in items:
            self.taken += description == "l2, weights"
            yield item


class Interrupted(Silent):
    """Ctrl-C as the search tells of the second size that it tried."""

    tried = 0

    def say(self, message: str) -> None:
        self.tried += "x loses " in message
        if self.tried == 2:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, int]:
    folder, progress = tmp_path_factory.mktemp("l2-search"), Steps()
    return (
        folder,
        compress(searching(folder), folder / "run", progress=progress),
        progress.taken,
    )


def test_the_smallest_file_inside_a_drop(searched: tuple[Path, Any, int]) -> None:
    folder, record, _ = searched
    tried = [told.groups() for note in record.steps[1].notes if (told := TRIED.match(note))]
    assert len(tried) >= 2
    kept = [float(ratio) for ratio, points, lost in tried if not lost and float(points) <= 1]
    assert all(lost for _, points, lost in tried if float(points) > 1.005)
    reached = record.steps[0].bytes / (folder / "run" / "model.l2z").stat().st_size
    assert max(kept) == pytest.approx(reached, abs=0.06) and reached >= 7


def test_an_interrupted_search_goes_on_with_each_sizes_own_training(
    searched: tuple[Path, Any, int], tmp_path: Path
) -> None:
    folder, whole, taken = searched
    path, progress = searching(tmp_path), Steps()
    with pytest.raises(KeyboardInterrupt):
        compress(path, tmp_path / "run", progress=Interrupted())
    resumed = compress(path, tmp_path / "run", progress=progress)
    assert resumed.steps[1].notes == whole.steps[1].notes
    small, other = (each / "run" / "model.l2z" for each in (folder, tmp_path))
    assert small.read_bytes() == other.read_bytes()
    tried = sum(bool(TRIED.match(note)) for note in whole.steps[1].notes)
    assert progress.taken == taken * (tried - 2) / tried


def test_a_size_below_the_graph_itself_is_refused(tmp_path: Path) -> None:
    options = {"bytes": "300B", **UNTRAINED, "importance_samples": 32}
    path = recipe(tmp_path, options, model=model_section(tmp_path), targets=[ABSENT])
    with pytest.raises(
        CompressError, match=r"l2: 300 bytes cannot be reached: the coarsest codes make a file"
    ):
        compress(path, tmp_path / "run", progress=Silent())


def test_it_has_one_target_and_is_last(tmp_path: Path) -> None:
    with pytest.raises(
        ValidationError, match="expected one of ratio, bytes and max_drop, got bytes and ratio"
    ):
        L2(ratio=3, bytes="1MB")
    with pytest.raises(CompressError, match="the file that l2 makes would not hold what this pass does"):
        read_recipe(recipe(tmp_path, {"ratio": 5}, more=("quantize",)))
