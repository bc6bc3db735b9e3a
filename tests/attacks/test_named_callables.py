"""What a recipe names is looked up, never Python itself: `os:system` is refused before anything is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from edgepress.calibration.metric import metric_named
from edgepress.calibration.named import import_callable, why_not_named
from edgepress.errors import CompressError, ExitCode
from edgepress.pipeline.recipe.file import RecipeError, read_recipe

OWN = "of Python itself, where functions can run any command; name one of an installed package, or of a module in"
HOSTILE = """\
model: {source: "os:system", args: {command: "touch ran"}}
data: {source: "subprocess:run"}
metric: "builtins:exec"
passes:
  - distill: {teachers: [{source: "posix:popen"}], training: {augment: ["shutil:rmtree"]}, student: {source: "runpy:x"}}
targets: [onnxruntime]
"""
PLACES = {
    "1:17: model.source: os:system: os": 0,
    "2:16: data.source: subprocess:run: subprocess": 1,
    "3:9: metric: builtins:exec: builtins": 2,
    "5:35: passes[0].distill.teachers[0].source: posix:popen: posix": 3,
    "5:73: passes[0].distill.training.augment[0]: shutil:rmtree: shutil": 4,
    "5:110: passes[0].distill.student.source: runpy:x: runpy": 5,
}


def test_every_place_of_a_recipe_refuses_them_at_once(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(HOSTILE)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert caught.value.exit_code == ExitCode.UNSAFE_INPUT
    lines = str(caught.value).split("\n")
    for start, index in PLACES.items():
        assert lines[index].startswith(f"{path}:{start} is a module {OWN}")


@pytest.mark.parametrize("command", [["run", "--dry-run"], ["inspect"]])
def test_commands_refuse_it_and_run_nothing(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(HOSTILE)
    found = subprocess.run(
        [sys.executable, "-m", "edgepress", command[0], "recipe.yaml", *command[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == ExitCode.UNSAFE_INPUT
    assert "recipe.yaml:1:17: model.source: os:system" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


REFUSED = ["os:system", "builtins:exec", "os.path:join", "nt:system", "__main__:x", "ctypes:CDLL", "this:x"]


@pytest.mark.parametrize("name", REFUSED)
def test_modules_of_python_are_refused_before_they_are_imported(tmp_path: Path, name: str) -> None:
    with pytest.raises(CompressError, match="is a module of Python itself") as caught:
        import_callable(name, "data factory", tmp_path)
    assert caught.value.exit_code == ExitCode.UNSAFE_INPUT
    assert "this" not in sys.modules


def test_metric_functions_too() -> None:
    with pytest.raises(CompressError, match=r"metric 'os:system': os is a module of Python itself"):
        metric_named("os:system")


def test_a_function_of_python_is_no_better_for_being_imported_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "brings_system.py").write_text("from os import system\nfrom pathlib import Path\n")
    for name in ("system", "Path"):
        with pytest.raises(CompressError, match=r"it is of (posix|nt|pathlib), a module of Python itself"):
            import_callable(f"brings_system:{name}", "model factory", tmp_path)


def test_own_modules_and_installed_packages_remain(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from functools import partial, lru_cache\n"
        "def make(depth=1): return depth\n"
        "deep = partial(make, 3)\n"
        "cached = lru_cache(make)\n"
    )
    assert import_callable("mine:deep", "model factory", tmp_path)() == 3
    assert import_callable("mine:cached", "model factory", tmp_path)() == 1
    assert import_callable("torch.nn:Identity", "model factory", tmp_path)
    assert why_not_named("mine:make") is None


def test_an_own_module_may_bear_a_name_of_python(tmp_path: Path) -> None:
    (tmp_path / "sndhdr.py").write_text("def make(): return 7\n")
    sys.modules.pop("sndhdr", None)
    assert import_callable("sndhdr:make", "model factory", tmp_path)() == 7
    (tmp_path / "os.py").write_text("def system(): return 7\n")
    with pytest.raises(CompressError, match="Python already uses another of that name"):
        import_callable("os:system", "model factory", tmp_path)
