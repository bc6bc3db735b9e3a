"""Training gates: the target is met by no weight that anybody sets, and a killed run ends as one that was not."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path

import gating_job
import pytest
import slim_job
import torch
from edgepress.passes.channels.units import Kept
from edgepress.passes.gating.objective import BAND, SHARE, Gating, Ramp
from edgepress.passes.gating.projection import project
from edgepress.passes.training.draws import Draws
from forked import ended, started
from safetensors.torch import load_file
from torch import Tensor


def test_a_ramp_waits_falls_fast_at_first_and_holds() -> None:
    ramp = Ramp(1.0, 0.5, warm_up=0.1, hold=0.3)
    assert [ramp.at(share) for share in (0, 0.05, 0.1)] == [1, 1, 1]
    assert ramp.at(0.4) == pytest.approx(0.5 + 0.5 / 8)  # half way: a cubic has an eighth left
    assert [ramp.at(share) for share in (0.7, 0.9, 1.0)] == pytest.approx([0.5, 0.5, 0.5])
    falling = [ramp.at(i / 50) for i in range(51)]
    assert falling == sorted(falling, reverse=True)


def test_the_next_ramp_of_a_series_goes_on_where_the_last_one_ended() -> None:
    assert Ramp(0.8, 0.65, warm_up=0.0).at(0.0) == 0.8
    assert Ramp(0.8, 0.65, warm_up=0.5, hold=0.5).at(0.4) == 0.8
    assert Ramp(0.8, 0.65, warm_up=0.5, hold=0.5).at(0.6) == 0.65


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Gating]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, gating_job.run(folder)


def test_the_cost_meets_its_target_and_the_projection_does_exactly(trained: tuple[Path, Gating]) -> None:
    """24 steps are few: to 5 % of it before the projection."""
    objective = trained[1]
    assert objective.target == gating_job.TARGET
    left = float(objective.left({name: gate() for name, gate in objective.gates.items()}).detach())
    assert left == pytest.approx(gating_job.TARGET, rel=0.05)
    units = gating_job.dissected().anatomy.units
    kept: Kept = project(
        objective.scores(), objective.cost, gating_job.TARGET, units, round_to=1, per_cost=False
    )
    assert all(len(kept.get(unit.name, range(unit.size))) >= 1 for unit in units)


def test_what_trains_is_told_by_name(trained: tuple[Path, Gating]) -> None:
    _, histories = json.loads((trained[0] / "told.json").read_text())
    assert {"labels", "teacher", "cost"} <= histories["gates"]["epochs"][1].keys()
    assert all(bool((gate.u.detach().abs() <= 1).all()) for gate in trained[1].gates.values())


def test_killed_within_an_epoch_it_ends_with_the_very_same_gates_and_weights(
    trained: tuple[Path, Gating], tmp_path: Path
) -> None:
    assert ended(started(gating_job.run, tmp_path, 14)) == -signal.SIGKILL
    gating_job.run(tmp_path)
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (trained[0], tmp_path))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (trained[0] / "told.json").read_text() == (tmp_path / "told.json").read_text()


def gradients(objective: Gating, inputs: Tensor, labels: Tensor, terms: list[str]) -> Tensor:
    """Of the named parts of the loss, in all gates."""
    for parameter in objective.network.parameters():
        parameter.grad = None
    parts = objective.loss(objective.network, (inputs,), labels, Draws(0, 0, len(inputs), range(len(inputs))))
    torch.stack([parts[name] for name in terms]).sum().backward()
    return torch.cat(
        [torch.zeros_like(g.u) if g.u.grad is None else g.u.grad for g in objective.gates.values()]
    )


def test_the_cost_has_its_share_of_the_gradient_whatever_the_loss_is_multiplied_by(tmp_path: Path) -> None:
    """At BAND over the target. The task's gradient is known from the steps before, here of the same batch."""
    objective = gating_job.objective_over(tmp_path)
    objective.training(True)
    context = slim_job.context_in(tmp_path)
    inputs, labels = context.data.train.batch(range(16))
    objective.target = 1 - BAND
    task = gradients(objective, inputs[0], labels, ["labels", "teacher"])
    cost = gradients(objective, inputs[0], labels, ["cost"])
    share = float(cost.norm() / (cost.norm() + task.norm()))
    assert share == pytest.approx(SHARE, rel=1e-3)
    objective.target = 1 - 2 * BAND
    twice = gradients(objective, inputs[0], labels, ["cost"])
    torch.testing.assert_close(twice, 2 * cost, rtol=1e-3, atol=1e-7)


def test_what_closed_too_much_opens_again_from_the_last_on(tmp_path: Path) -> None:
    objective = gating_job.objective_over(tmp_path)
    gate = objective.gates["blocks.3.depthwise.0"]
    with torch.no_grad():
        for each in objective.gates.values():
            each.u.sub_(0.7)
    objective.target = 0.8
    before = objective.scores()
    objective.training(True)
    left = float(objective.left({name: each() for name, each in objective.gates.items()}).detach())
    assert 0.8 - 0.03 <= left <= 0.8  # one channel of the widest map is 3 % of all
    for name, each in objective.gates.items():
        opened = (each.u.detach() > 0) & (before[name] <= 0)
        still = each.u.detach() <= 0
        assert not opened.any() or not still.any() or before[name][opened].min() >= before[name][still].max()
    again = {name: each.u.detach().clone() for name, each in objective.gates.items()}
    objective.training(True)
    assert all(each.u.detach().equal(again[name]) for name, each in objective.gates.items())
    assert len(gate.u) == 64


def test_below_its_target_nothing_is_pushed(tmp_path: Path) -> None:
    objective = gating_job.objective_over(tmp_path)
    objective.target = 1.0
    parts = objective.terms()
    assert float(parts["cost"]) == 0 and not parts["cost"].requires_grad
    assert math.isclose(float(objective.left({})), 1.0)
