"""A stage of training: what a pass brings to it, what it gets from it, and what it is refused in its own name."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import slim_job
import torch
from edgepress.calibration.data import Part
from edgepress.errors import CompressError
from edgepress.passes.base import PassContext
from edgepress.passes.training.job import Group
from edgepress.passes.training.options import TrainingOptions
from edgepress.passes.training.stage import Stages
from edgepress.progress import Silent
from forked import ended, started
from safetensors.torch import load_file
from torch import nn


class TestAPassOfItsOwn:
    """Gates in the digits CNN: a module, groups of parameters, a term and a schedule, and nothing else."""

    def test_it_trains_what_it_names_towards_its_term_and_leaves_the_rest(self, tmp_path: Path) -> None:
        objective = slim_job.run(tmp_path)
        before, after = slim_job.trained_cnn().state_dict(), load_file(tmp_path / "weights.safetensors")
        gates = torch.cat([after["blocks.1.gates"], after["blocks.3.gates"]])
        assert gates.mean() < 0.98  # they start at 1
        assert not torch.equal(after["head.weight"], before["head.weight"])
        learned = {"head.weight", "head.bias", "blocks.1.gates", "blocks.3.gates"}
        parameters = {name for name, _ in objective.network.network.named_parameters()}
        for name in parameters - learned:
            assert torch.equal(after[name], before[name.replace(".block.", ".")]), name
        notes, histories = json.loads((tmp_path / "told.json").read_text())
        [note] = notes
        assert note.startswith("trained, gates: epoch 3 of 3 kept; top1 ") and "(50 validation" in note
        assert {"labels", "teacher", "features", "open", "metric"} <= histories["gates"]["epochs"][3].keys()

    def test_its_schedule_is_told_every_step_and_the_end(self, tmp_path: Path) -> None:
        context = slim_job.context_in(tmp_path / "scratch")
        objective = slim_job.objective_over(context)
        seen: list[float] = []
        inner = objective.terms
        objective.terms = lambda: (seen.append(objective.open), inner())[1]  # type: ignore[method-assign]
        Stages("slim", context.data.train, context, None).train("gates", objective, slim_job.OPTIONS)
        assert seen == [1 - 0.5 * step / 12 for step in range(12)]
        assert objective.open == 0.5

    def test_killed_within_an_epoch_it_ends_with_the_very_same_weights(self, tmp_path: Path) -> None:
        whole, other = tmp_path / "whole", tmp_path / "killed"
        whole.mkdir()
        other.mkdir()
        slim_job.run(whole)
        assert ended(started(slim_job.run, other, 6)) == -signal.SIGKILL  # the third step of the second epoch
        assert not (other / "weights.safetensors").exists()
        assert slim_job.run(other).open == 0.5
        ours, theirs = (load_file(folder / "weights.safetensors") for folder in (whole, other))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert (whole / "told.json").read_text() == (other / "told.json").read_text()

    def test_what_a_checkpoint_would_not_hold_cannot_learn(self, tmp_path: Path) -> None:
        class Outside(slim_job.Slim):
            def groups(self) -> list[Group]:
                return [Group([nn.Parameter(torch.zeros(3))])]

        context = slim_job.context_in(tmp_path)
        inside = slim_job.objective_over(context)
        stages = Stages("slim", context.data.train, context, None)
        with pytest.raises(AssertionError, match="outside the network"):
            stages.train("gates", Outside(inside.network, inside.likeness), slim_job.OPTIONS)


class TestStages:
    def context(self, folder: Path) -> PassContext:
        return slim_job.context_in(folder)

    def train(self, context: PassContext, stages: dict[str, Any], **options: Any) -> Stages:
        given = {"what": "slim", "part": context.data.train, "static_batch": None, **stages}
        made = Stages(context=context, **given)
        read = TrainingOptions.model_validate({"epochs": 1, "batch": 16, **options})
        assert made.train("gates", slim_job.objective_over(self.context(Path())), read) == []
        return made

    def test_a_part_without_samples_is_refused_unless_nothing_trains(self, tmp_path: Path) -> None:
        context, empty = self.context(tmp_path), {"part": Part("train", [])}
        with pytest.raises(CompressError, match=r"^slim: it trains on the train part .* training\.epochs: 0"):
            self.train(context, empty)
        assert self.train(context, empty, epochs=0).histories == {}

    def test_a_static_batch_must_be_the_training_batch(self, tmp_path: Path) -> None:
        with pytest.raises(CompressError, match=r"^slim: training\.batch is 16, .* exactly 4 samples"):
            self.train(self.context(tmp_path), {"static_batch": 4})

    def test_maps_of_labels_are_not_belied_where_labels_matter(self, tmp_path: Path) -> None:
        context = self.context(tmp_path)
        maps = [(x, torch.zeros(32, 32, dtype=torch.long)) for x, _ in context.data.calibration.samples]
        context = replace(context, data=replace(context.data, calibration=Part("calibration", maps)))
        with pytest.raises(CompressError, match=r"^slim: training\.augment shift moves images and not"):
            self.train(context, {}, augment=("shift",))
        assert self.train(context, {"labelled": False}, augment=("shift",)).histories.keys() == {"gates"}

    def test_without_a_judge_the_last_epoch_is_kept_and_nothing_is_told(self, tmp_path: Path) -> None:
        history = self.train(self.context(tmp_path), {}).histories["gates"]
        assert history["best"] is None
        assert "metric" not in history["epochs"][1]

    def test_a_training_that_only_does_harm_is_told_of_with_a_rate_that_does_none(
        self, tmp_path: Path
    ) -> None:
        def noted(lr: float) -> str:
            objective = slim_job.objective_over(context)
            stages = Stages("slim", context.data.train, replace(context, scratch=None), None)
            options = TrainingOptions(epochs=1, batch=16, lr=lr)
            [note] = stages.train("gates", objective, options, judged=objective.outputs)
            return note

        context = self.context(tmp_path)
        note = noted(1.0)
        told = re.search(
            r"epoch 0 of 1 kept, as every epoch was clearly worse: its first steps were predicted to change the loss by"
            r" (\S+) times what it was; try training.lr: (\S+); top1",
            note,
        )
        assert told is not None, note
        assert float(told[2]) == pytest.approx(0.3 / float(told[1]), rel=0.2)  # to one digit
        assert "epoch 1 of 1 kept" in noted(float(told[2]))

    @pytest.mark.parametrize("has", [True, False])
    def test_a_cpu_that_emulates_bf16_is_told_of_once(
        self, has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = list[str]()

        class Said(Silent):
            def say(self, line: str) -> None:
                lines.append(line)

        told = {"avx2": True, "avx512_bf16": has}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
        context = replace(self.context(tmp_path), progress=Said())
        few = context.data.train.head(40)  # where BF16 is emulated each step takes seconds
        stages = Stages("slim", few, context, None)
        for size in ("10", "20"):
            options = TrainingOptions(epochs=1, batch=20, amp="bf16")
            stages.train("gates", slim_job.objective_over(context), options, kept_as=f"gates-{size}")
        said = [line for line in lines if "BF16" in line]
        assert len(said) == (0 if has else 1)
        assert all(line.endswith("without training.amp: bf16 it trains in float32") for line in said)

    def test_one_stage_taken_twice_is_kept_under_two_names(self, tmp_path: Path) -> None:
        context = self.context(tmp_path)
        stages = Stages("slim", context.data.train, context, None)
        options = TrainingOptions(epochs=1, batch=16)
        for size in ("10", "20"):
            stages.train("gates", slim_job.objective_over(context), options, kept_as=f"gates-{size}")
        assert stages.histories.keys() == {"gates-10", "gates-20"}
        assert {path.name for path in tmp_path.iterdir()} == {
            "gates-10.safetensors",
            "gates-20.safetensors",
        }
