"""What a killed run decided stands, whatever would be decided now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_gates
import torch
from edgepress.errors import CompressError
from edgepress.passes.base import PassResult
from edgepress.passes.gates import Gates
from edgepress.passes.gating import deciding, elastic, phases, race
from edgepress.passes.gating.check import Effect
from edgepress.passes.gating.decided import Decided, remembered

WAYS: dict[str, dict[str, Any]] = {
    "gates": {"gate_epochs": 1, "targets": [0.8, 0.6]},
    "solver": {"method": "solver", "target": 0.7},
    "solver, one target after the other": {"method": "solver", "targets": [0.8, 0.6]},
    "elastic": {"elastic": [1.0, 0.7]},
}


class KilledError(Exception):
    """In place of a signal."""


def pruned(scratch: Path, options: dict[str, Any]) -> PassResult:
    chosen = Gates.model_validate({"training": tiny_gates.TRAINING, "round_to": 1, **options})
    return chosen.apply(tiny_gates.model(), tiny_gates.context(scratch, validation=100))


def fail(*_: Any, **__: Any) -> Any:
    raise AssertionError("decided again")


def killed_at(owner: type, method: str, scratch: Path, options: dict[str, Any]) -> None:
    """A run that ends where it comes to a method."""

    def killed(*_: Any) -> Any:
        raise KilledError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(owner, method, killed)
        with pytest.raises(KilledError):
            pruned(scratch, options)


def require_same(found: PassResult, whole: PassResult) -> None:
    """The same network, notes and details."""
    assert found.notes == whole.notes
    assert found.plan.details["gates"] == whole.plan.details["gates"]
    assert found.plan.tensors.keys() == whole.plan.tensors.keys()
    assert all(torch.equal(found.plan.tensors[name], tensor) for name, tensor in whole.plan.tensors.items())


@pytest.mark.parametrize("way", list(WAYS))
def test_a_run_that_was_killed_goes_on_with_what_it_decided(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with the network, the notes and the details of one that was not."""
    whole = pruned(tmp_path / "whole", WAYS[way])
    killed_at(phases.Phases, "_judged", tmp_path / "killed", WAYS[way])
    if way in ("solver", "elastic"):  # others have a second target, which is still to be decided
        monkeypatch.setattr(deciding, "leave_one_out", fail)
        monkeypatch.setattr(race.Solver, "solve", fail)
        monkeypatch.setattr(elastic.Solver, "solve", fail)
    require_same(pruned(tmp_path / "killed", WAYS[way]), whole)


@pytest.mark.parametrize("way", ["gates", "solver, one target after the other"])
def test_a_run_that_was_killed_while_it_tried_out_what_is_to_go_ends_alike(tmp_path: Path, way: str) -> None:
    whole = pruned(tmp_path / "whole", WAYS[way])
    killed_at(deciding.Deciding, "_tried_out", tmp_path / "killed", WAYS[way])
    require_same(pruned(tmp_path / "killed", WAYS[way]), whole)


def test_what_was_decided_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = Decided({"a": (0, 2), "block": ()}, {"a": Effect(0.5, float("nan"))}, ("a note",))
    remembered(tmp_path / "new", "structure", lambda: [made])
    [read] = remembered(tmp_path / "new", "structure", fail)
    assert (read.kept, read.notes, str(read.effects)) == (made.kept, made.notes, str(made.effects))
    assert remembered(None, "structure", lambda: [made]) == [made]


@pytest.mark.parametrize("content", ["", "[1]", '[{"kept": 3}]', '[{"kept": {"a": 1}}]'])
def test_a_file_that_says_something_else_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "structure.json"
    path.write_text(content)
    with pytest.raises(CompressError, match=r"structure\.json: is not what was decided .*; delete it"):
        remembered(tmp_path, "structure", fail)
