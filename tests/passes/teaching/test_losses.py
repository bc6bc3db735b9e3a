"""The losses of distillation by hand, and the modules whose outputs are compared."""

from __future__ import annotations

import math

import pytest
import torch
from edgepress.errors import CompressError
from edgepress.examples.digits.models import cnn, vit
from edgepress.passes.graph.capture import capture
from edgepress.passes.teaching.features import pair
from edgepress.passes.teaching.losses import (
    feature_loss,
    label_loss,
    mixed_teachers,
    regression_loss,
    same_map,
    soft_target_loss,
)
from edgepress.passes.teaching.taps import Tapped, frozen, move
from edgepress.passes.teaching.task import read_task
from quantization_nets import model_of
from torch import Tensor, nn


def test_soft_targets_are_the_temperature_squared_times_the_divergence() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3), 0.0]])
    # at T = 2 the teacher says 3/4 and 1/4, the student 1/2 and 1/2
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert soft_target_loss(student, teacher, 2.0).tolist() == pytest.approx([4 * divergence], abs=1e-6)


def test_soft_targets_of_a_map_are_the_mean_of_its_places() -> None:
    student, teacher = torch.randn(2, 5, 3, 3), torch.randn(2, 5, 3, 3)
    places = [
        soft_target_loss(student[:, :, i, j], teacher[:, :, i, j], 3.0) for i in range(3) for j in range(3)
    ]
    torch.testing.assert_close(soft_target_loss(student, teacher, 3.0), torch.stack(places).mean(0))


def test_a_student_like_its_teacher_loses_nothing() -> None:
    x = torch.randn(4, 3)
    assert soft_target_loss(x, x + 7, 2.0).abs().max() < 1e-6  # softmax does not see a shift
    assert regression_loss(x, x, 2.0).tolist() == [0.0] * 4
    assert feature_loss(x, x).tolist() == [0.0] * 4


def test_labels_by_cross_entropy_or_squared_error() -> None:
    logits = torch.tensor([[math.log(3), 0.0]])
    assert label_loss(logits, torch.tensor([0]), True, 1.0).tolist() == pytest.approx([-math.log(0.75)])
    # errors 1 and 3, squared, in units of a variance of 2
    found = label_loss(torch.tensor([[1.0], [5.0]]), torch.tensor([0.0, 2.0]), False, 2.0)
    assert found.tolist() == pytest.approx([0.5, 4.5])


def test_what_was_computed_in_bf16_is_compared_in_float32() -> None:
    output = torch.tensor([[1000.0]], dtype=torch.bfloat16)  # between whole numbers four apart
    assert label_loss(output, torch.tensor([1003]), False, 1.0).tolist() == [9.0]
    assert feature_loss(output, torch.tensor([[1003.0]])).item() == pytest.approx(9 / 1003**2)
    assert soft_target_loss(output, output, 2.0).dtype == torch.float32
    assert regression_loss(output.double(), output.double(), 1.0).dtype == torch.float64


def test_features_of_one_shape_by_their_relative_error() -> None:
    teacher = torch.tensor([[3.0, 4.0]])
    assert feature_loss(torch.tensor([[3.0, 0.0]]), teacher).tolist() == pytest.approx([16 / 25])


def test_features_of_other_channels_by_their_maps_of_energy() -> None:
    teacher = torch.zeros(1, 4, 1, 2)
    teacher[0, :, 0, 0] = 1.0  # all energy on the left
    same, other = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    same[0, 0, 0, 0] = 5.0
    other[0, 0, 0, 1] = 5.0
    assert feature_loss(same, teacher).tolist() == pytest.approx([0.0])
    assert feature_loss(other, teacher).tolist() == pytest.approx([2.0])


def test_what_can_be_compared() -> None:
    maps, fewer = torch.zeros(1, 8, 4, 4), torch.zeros(1, 6, 4, 4)
    assert same_map(maps, maps)
    assert same_map(maps, fewer)
    assert same_map(torch.zeros(1, 65, 64), torch.zeros(1, 65, 32))
    assert not same_map(maps, torch.zeros(1, 8, 2, 2))
    assert not same_map(torch.zeros(1, 10), torch.zeros(1, 12))


FITS = {
    "a class of each sample": ((4, 3), torch.tensor([0, 1, 2, 2]), True),
    "a class of each place, some left out": ((1, 3, 2, 2), torch.tensor([[[0, 1], [2, -100]]]), True),
    "values": ((4, 1), torch.rand(4), False),
    "counts": ((4, 1), torch.tensor([7, 1, 0, 3]), False),
    "several values": ((2, 3), torch.rand(2, 3), False),
}


@pytest.mark.parametrize("case", FITS)
def test_what_the_network_is_asked_for(case: str) -> None:
    shape, labels, classification = FITS[case]
    task = read_task([torch.randn(shape)], labels, used_by="distill")
    assert task.classification is classification


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        (
            (2, 3),
            torch.tensor([0, 3]),
            r"^gates: labels go from 0 to 3, and the network has the classes 0 to 2",
        ),
        (
            (2, 3),
            torch.tensor([0.5, 1.5]),
            r"^gates: the network gives \(2, 3\) for labels of shape \(2,\).*teacher_weight: 1",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused_where_they_are_used(
    shape: tuple[int, ...], labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(CompressError, match=message):
        read_task([torch.randn(shape)], labels, used_by="gates")
    read_task([torch.randn(shape)], labels, used_by=None)


class TestTeachers:
    near, far = torch.tensor([1.0, 4.0]), torch.tensor([3.0, 2.0])

    def test_weights_are_shared_out(self) -> None:
        mixed = mixed_teachers([self.near, self.far], [1.0, 3.0], 0.0, torch.rand(2, 2))
        assert mixed.tolist() == pytest.approx([(1 + 9) / 4, (4 + 6) / 4])

    def test_the_teacher_that_is_farthest_is_always_heard(self) -> None:
        # both drawn below the probability: the first sample keeps its second teacher, the second its first
        mixed = mixed_teachers([self.near, self.far], [1.0, 3.0], 0.5, torch.zeros(2, 2))
        assert mixed.tolist() == [3.0, 4.0]

    def test_dropping_is_by_sample(self) -> None:
        uniform = torch.tensor([[0.9, 0.9], [0.0, 0.0]])
        mixed = mixed_teachers([self.near, self.far], [1.0, 1.0], 0.5, uniform)
        assert mixed.tolist() == [2.0, 4.0]


@pytest.mark.parametrize("network", [cnn, vit], ids=["cnn", "vit"])
def test_a_captured_graph_has_the_features_of_its_network(network: object) -> None:
    model = model_of(network(), 1, 32, 32)  # type: ignore[operator]
    paths = [f"blocks.{index}" for index in range(4)]
    ours = Tapped(model.module, paths)(*model.example_inputs)
    theirs = Tapped(capture(model), paths)(*model.example_inputs)
    for one, other in zip((*ours[0], *ours[1]), (*theirs[0], *theirs[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)  # BatchNorm folded: float rounding


class TestPairs:
    def test_the_last_block_of_each_size_of_map(self) -> None:
        model = model_of(cnn(), 1, 32, 32)
        found = pair(model.module, model.module, model.example_inputs, None, "distill")
        assert found == (["blocks.0", "blocks.2", "blocks.3"],) * 2

    def test_a_transformers_blocks_by_relative_depth(self) -> None:
        teacher, student = model_of(vit(), 1, 32, 32), vit()
        student.blocks = student.blocks[:2]
        found = pair(student, teacher.module, teacher.example_inputs, None, "distill")
        assert found == (["blocks.0", "blocks.1"], ["blocks.1", "blocks.3"])

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ({"blocks.9": "blocks.0"}, "the student has no module 'blocks.9'; did you mean"),
            ({"blocks.0": "nothing"}, "the teacher has no module 'nothing'"),
            (
                {"blocks.0": "blocks.3"},
                r"gives \(1, 32, 32, 32\) and 'blocks.3' \(1, 96, 8, 8\): shapes must be equal",
            ),
        ],
    )
    def test_what_cannot_be_paired_is_told(self, asked: dict[str, str], message: str) -> None:
        model = model_of(cnn(), 1, 32, 32)
        with pytest.raises(CompressError, match=message):
            pair(model.module, model.module, model.example_inputs, asked, "distill")

    def test_a_network_without_blocks_has_nothing_to_pair(self) -> None:
        model = model_of(nn.Sequential(nn.Linear(4, 3)), 4)
        with pytest.raises(CompressError, match="auto found no blocks"):
            pair(model.module, model.module, model.example_inputs, None, "distill")


class MakesItsOwn(nn.Module):
    """Adds a tensor that it makes on the device of its input, and converts another."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.float32) + torch.full((x.shape[1],), 2.0, device=x.device)


def test_a_captured_graph_moves_with_the_devices_that_its_nodes_name() -> None:
    graph = capture(model_of(MakesItsOwn(), 5))
    moved = frozen(graph, [])
    move(moved, torch.device("meta"))  # as real as a GPU to the dispatcher: it refuses tensors of two devices
    outputs, _ = moved(torch.empty(3, 5, device="meta"))
    assert outputs[0].device.type == "meta"
    outputs, _ = frozen(graph, [])(torch.zeros(3, 5))
    assert torch.equal(outputs[0], torch.full((3, 5), 2.0))
