"""The training loop: schedule, stateless randomness, resuming, several processes, and what stops it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import training_job
from edgepress.errors import CompressError
from edgepress.passes.training.augment import augmented
from edgepress.passes.training.draws import Draws, sample_order
from edgepress.passes.training.job import Forward, Group, Job
from edgepress.passes.training.loop import train
from edgepress.passes.training.options import TrainingOptions
from edgepress.passes.training.schedule import Moment, learning_rate
from forked import ended, started
from quantization_nets import samples
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).parent
SUPPORT = Path(training_job.__file__).parent
OPTIONS: dict[str, Any] = {
    "weight_bits": 4,
    "rounding": "stochastic",
    "equalization": "off",
    "ranges": "minmax",
    "training": {
        "epochs": 5,
        "batch": 8,
        "lr": 1e-2,
        "augment": ["flip_horizontal", "shift"],
        "checkpoint_seconds": 0,
        "keep": "last",
    },
}


@dataclass
class Regression:
    """Learns labels with one linear layer."""

    network: nn.Module = field(default_factory=lambda: nn.Linear(4, 3))
    dropout: float = 0.0
    broken_at: int | None = None

    def groups(self) -> list[Group]:
        return [Group(list(self.network.parameters()))]

    def to(self, device: torch.device) -> None:
        self.network.to(device)

    def training(self, on: bool) -> None:
        self.network.train(on)

    def schedule(self, now: Moment) -> None:
        pass

    def loss(
        self, forward: Forward, inputs: tuple[Tensor, ...], labels: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        x = F.dropout(inputs[0], self.dropout)
        loss = F.cross_entropy(forward(x), labels)
        return {"labels": loss * (float("nan") if draws.step == self.broken_at else 1.0)}


def trained(
    objective: Regression | None = None, evaluate: Any = None, checkpoint: Path | None = None, **options: Any
) -> tuple[Regression, Any]:
    if objective is None:
        torch.manual_seed(0)
        objective = Regression()
    read = TrainingOptions(**{"epochs": 3, "batch": 8, "lr": 0.05, **options})
    job = Job("test", objective, samples(34, 4), read, seed=0)
    return objective, train(job, evaluate, checkpoint)


def weights(objective: Regression) -> Tensor:
    return torch.cat([p.detach().flatten() for p in objective.network.parameters()])


class TestRandomness:
    def test_an_epoch_visits_every_sample_once_in_an_order_of_its_own(self) -> None:
        first, second = sample_order(0, 0, 50), sample_order(0, 1, 50)
        assert sorted(first) == sorted(second) == list(range(50))
        assert first != second
        assert first == sample_order(0, 0, 50)
        assert first != sample_order(1, 0, 50)

    def test_a_sample_draws_the_same_numbers_however_its_batch_is_shared(self) -> None:
        whole = Draws(0, 7, 8, range(8)).uniform("flip", 2)
        parts = [Draws(0, 7, 8, range(start, start + 2)).uniform("flip", 2) for start in (0, 2, 4, 6)]
        assert torch.equal(whole, torch.cat(parts))
        assert not torch.equal(whole, Draws(0, 8, 8, range(8)).uniform("flip", 2))
        assert not torch.equal(whole, Draws(0, 7, 8, range(8)).uniform("other", 2))

    def test_flips_mirror_some_images_and_leave_the_others(self) -> None:
        x = torch.arange(64.0 * 4).reshape(64, 1, 2, 2)
        (flipped,) = augmented((x,), ["flip_horizontal"], Draws(0, 0, 64, range(64)))
        mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, x, strict=True)]
        same = [torch.equal(a, b) for a, b in zip(flipped, x, strict=True)]
        assert all(m != s for m, s in zip(mirrored, same, strict=True))
        assert 16 < sum(mirrored) < 48

    def test_a_shift_moves_by_an_eighth_and_repeats_the_edge(self) -> None:
        x = torch.arange(8.0).reshape(1, 1, 1, 8).expand(40, 1, 8, 8)
        (moved,) = augmented((x,), ["shift"], Draws(0, 0, 40, range(40)))
        rows = {tuple(image[0, 0].tolist()) for image in moved}
        left, still, right = [(0, *range(7))], [tuple(range(8))], [(*range(1, 8), 7)]
        assert rows == {tuple(map(float, row)) for row in left + still + right}

    def test_a_function_of_the_user_must_keep_shapes(self) -> None:
        with pytest.raises(
            CompressError, match=r"gets \(inputs, generator\).*must return such a tuple; it returned a tuple"
        ):
            augmented((torch.zeros(2, 3),), ["test_training:halved"], Draws(0, 0, 2, range(2)), HERE)


def halved(inputs: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
    return tuple(x[:1] for x in inputs)


class TestLoop:
    def test_the_rate_rises_linearly_and_falls_as_half_a_cosine(self) -> None:
        assert [learning_rate(s, 10, 0.2) for s in (0, 1, 2)] == [0.5, 1.0, 1.0]
        assert learning_rate(6, 10, 0.2) == pytest.approx(0.5)
        assert learning_rate(9, 10, 0.2) == pytest.approx(0.5 * (1 + -0.923879532), abs=1e-6)
        assert learning_rate(0, 10, 0.0) == 1.0

    def test_an_epoch_has_whole_batches_only(self) -> None:
        _, history = trained()
        assert [row["epoch"] for row in history.epochs] == [0, 1, 2, 3]
        assert history.best is None

    def test_parts_of_a_batch_add_up_to_it(self) -> None:
        one, _ = trained()
        other, _ = trained(accumulate=4)
        # The same sums in another order: float32 rounding, grown over 12 steps.
        torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=1e-6)

    def test_bf16_computes_layers_in_it_and_learns_in_float32(self) -> None:
        met: list[torch.dtype] = []
        objective = Regression()
        objective.network.register_forward_hook(lambda module, inputs, output: met.append(output.dtype))
        trained(objective, amp="bf16")
        assert set(met) == {torch.bfloat16}
        assert weights(objective).dtype == torch.float32
        torch.manual_seed(0)
        learned = weights(trained(Regression(), amp="bf16")[0])
        torch.testing.assert_close(
            learned, weights(trained()[0]), rtol=0, atol=0.02
        )  # a rate of 0.05, 12 steps
        assert not torch.equal(learned, weights(trained()[0]))

    def test_a_network_that_bf16_cannot_compute_is_told_what_to_do(self) -> None:
        class Summed(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return torch.zeros(len(x), 3).index_add(0, torch.arange(len(x)), super().forward(x))

        with pytest.raises(CompressError, match=r"test: .* mixed precision .*; set training\.amp: off"):
            trained(Regression(Summed(4, 3)), amp="bf16")
        trained(Regression(Summed(4, 3)), amp="off")

    @pytest.mark.parametrize("amp", ["auto", "off"])
    def test_a_cpu_computes_in_float32_unless_it_is_told(self, amp: str) -> None:
        met: list[torch.dtype] = []
        objective = Regression()
        objective.network.register_forward_hook(lambda module, inputs, output: met.append(output.dtype))
        trained(objective, amp=amp)
        assert set(met) == {torch.float32}

    def test_the_best_epoch_is_kept_and_of_equals_the_later(self) -> None:
        seen: list[Tensor] = []
        objective = Regression()

        def evaluate() -> tuple[float, float]:
            seen.append(weights(objective))
            return [0.1, 0.9, 0.9, 0.5][len(seen) - 1], 0.01

        _, history = trained(objective, evaluate)
        assert history.best == 2
        assert torch.equal(weights(objective), seen[2])

    def test_the_last_epoch_is_kept_when_asked(self) -> None:
        scores = iter([0.9, 0.5, 0.4, 0.3])
        one, history = trained(evaluate=lambda: (next(scores), 0.01), keep="last")
        assert history.best is None
        assert torch.equal(weights(one), weights(trained()[0]))

    def test_a_start_that_training_only_spoils_is_kept(self) -> None:
        scores = iter([0.9, 0.5, 0.4, 0.3])
        torch.manual_seed(0)
        start = weights(Regression())
        one, history = trained(evaluate=lambda: (next(scores), 0.01))
        assert history.best == 0
        assert torch.equal(weights(one), start)

    def test_a_start_that_is_better_by_chance_is_not_kept(self) -> None:
        scores = iter([0.90, 0.88, 0.89, 0.87])
        _, history = trained(evaluate=lambda: (next(scores), 0.02))
        assert history.best == 2

    def test_of_a_start_whose_error_is_not_known_only_what_is_better_is_kept(self) -> None:
        """Scores that are all 0 before training have no standard error: that makes no bar that nothing passes."""
        found = iter([(0.0, None), (0.5, 0.1), (0.4, 0.1), (0.4, 0.1)])
        assert trained(evaluate=lambda: next(found))[1].best == 1
        spoilt = iter([(1.0, None), (0.5, 0.1), (0.4, 0.1), (0.3, 0.1)])
        assert trained(evaluate=lambda: next(spoilt))[1].best == 0

    def test_it_stops_when_nothing_gets_better(self) -> None:
        scores = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.9])
        _, history = trained(evaluate=lambda: (next(scores), 0.01), epochs=10, patience=3)
        assert (history.stopped_early, history.best, len(history.epochs)) == (True, 1, 5)

    def test_it_stops_also_when_the_last_epoch_is_kept_and_where_nothing_changes(self) -> None:
        _, history = trained(evaluate=lambda: (0.5, 0.01), epochs=10, patience=2, keep="last")
        assert (history.stopped_early, len(history.epochs)) == (True, 3)

    def test_no_epochs_leave_the_network_alone(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        start = weights(Regression())
        one, history = trained(epochs=0, checkpoint=tmp_path / "c.safetensors")
        assert torch.equal(weights(one), start)
        assert (history.epochs, list(tmp_path.iterdir())) == ([], [])

    def test_a_loss_that_is_not_finite_says_where(self) -> None:
        with pytest.raises(
            CompressError, match=r"the loss is nan at step 5 of 12 \(labels nan\); lower training\.lr"
        ):
            trained(Regression(broken_at=5))

    def test_a_batch_that_cannot_be_shared_out_is_refused(self) -> None:
        with pytest.raises(CompressError, match=r"training.batch: 9 samples of 34 .* give a multiple of 2"):
            trained(batch=9, accumulate=2)

    def test_a_file_that_is_no_checkpoint_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "c.safetensors"
        path.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
        with pytest.raises(CompressError, match=r"is not a training checkpoint .*delete it"):
            trained(checkpoint=path)

    @pytest.mark.parametrize("stop", [1, 4, 6, 11])
    def test_an_interrupted_run_ends_with_the_same_weights(self, tmp_path: Path, stop: int) -> None:
        def network(**options: Any) -> Regression:
            torch.manual_seed(0)
            return Regression(dropout=0.5, **options)

        whole, expected = trained(network(), lambda: (0.5, 0.01))
        checkpoint: dict[str, Any] = {"checkpoint": tmp_path / "c.safetensors", "checkpoint_seconds": 0}
        with pytest.raises(CompressError):
            trained(network(broken_at=stop), lambda: (0.5, 0.01), **checkpoint)
        other = Regression(dropout=0.5)  # neither its weights nor torch's own generator may matter now
        resumed, history = trained(other, lambda: (0.5, 0.01), **checkpoint)
        assert torch.equal(weights(resumed), weights(whole))
        assert history == expected


def torchrun(processes: int, jobs: dict[Path, dict[str, Any]]) -> int:
    """Train in each folder, with its options, in so many processes; returns the exit code."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)),
        training_job.__file__,
        *(text for folder, options in jobs.items() for text in (str(folder), json.dumps(options))),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(SUPPORT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, env=environment, check=False, timeout=300).returncode


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_killed_within_an_epoch_ends_with_the_very_same_weights(tmp_path: Path) -> None:
    whole, other = tmp_path / "whole", tmp_path / "killed"
    training_job.run(whole, OPTIONS)
    for step in (7, 14):  # the fourth step of the second epoch, and one that the first checkpoint leads to
        assert ended(started(training_job.run, other, OPTIONS, step)) == -signal.SIGKILL
        assert not (other / "weights.safetensors").exists()
    training_job.run(other, OPTIONS)
    assert same_weights(whole, other)
    assert (whole / "details.json").read_text() == (other / "details.json").read_text()


def test_two_processes_train_the_same_weights(tmp_path: Path) -> None:
    """20 steps at a small rate: sums in another order differ in their last bit, which grows at a rounding edge."""
    training = {**OPTIONS["training"], "lr": 1e-4}
    options = {**OPTIONS, "rounding": "deterministic", "training": training}
    students: dict[str, dict[str, Any]] = {
        "float": {**options, "weight_bits": "float"},
        "4 bits": {**options, "weight_bits": 4},
    }
    assert torchrun(2, {tmp_path / f"{name}, two": each for name, each in students.items()}) == 0
    for name, each in students.items():
        training_job.run(tmp_path / f"{name}, one", each)
        ours, theirs = (
            load_file(tmp_path / f"{name}, {count}" / "weights.safetensors") for count in ("one", "two")
        )
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=1e-6)
