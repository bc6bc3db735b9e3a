"""How unlike its teachers a network is: the parts of the loss, and who is looked at for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from edgepress.passes.teaching.likeness import Likeness, Teacher
from edgepress.passes.teaching.taps import Tapped, frozen
from edgepress.passes.teaching.task import Task, read_task
from edgepress.passes.training.draws import Draws
from torch import Tensor, nn
from torch.nn import functional as F

TASK = Task(classification=True, variances=(1.0,))
DRAWS = Draws(0, 0, 6, range(6))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def inputs() -> tuple[Tensor, ...]:
    return (torch.randn(6, 5),)


def parts_of(
    likeness: Likeness, student: nn.Module, paths: list[str], x: Any, labels: Tensor = LABELS
) -> Any:
    return likeness.loss(Tapped(student, paths)(*x), likeness.answers(x), labels, DRAWS)


def test_each_part_has_its_weight() -> None:
    student, teacher, x = network(), network(), inputs()
    likeness = Likeness([Teacher(frozen(teacher, ["0"]))], TASK, 3.0, teacher_weight=0.25, feature_weight=2.0)
    parts = parts_of(likeness, student, ["0"], x)
    kl = F.kl_div((student(*x) / 3).log_softmax(1), (teacher(*x) / 3).softmax(1), reduction="batchmean")
    ours, theirs = student[0](*x), teacher[0](*x)
    features = (((ours - theirs) ** 2).mean(1) / (theirs**2).mean(1)).mean()
    torch.testing.assert_close(parts["labels"], 0.75 * F.cross_entropy(student(*x), LABELS))
    torch.testing.assert_close(parts["teacher"], 0.25 * 9 * kl)
    torch.testing.assert_close(parts["features"], 2 * features)
    assert parts.keys() == {"labels", "teacher", "features"}


def test_labels_are_not_looked_at_when_the_teacher_has_the_whole_loss() -> None:
    likeness = Likeness([Teacher(frozen(network(), []))], TASK, teacher_weight=1.0)
    nonsense = torch.full((6, 7), float("nan"))
    parts = parts_of(likeness, network(), [], inputs(), nonsense)
    assert parts.keys() == {"teacher"} and parts["teacher"].isfinite()


@pytest.mark.parametrize(
    ("weight", "paths", "asked"),
    [(0.5, [], [1, 1]), (0.0, ["0"], [1, 0]), (0.0, [], [0, 0])],
    ids=["both teach", "features alone: of the first", "nobody teaches"],
)
def test_teachers_run_only_where_they_are_looked_at(
    weight: float, paths: list[str], asked: list[int]
) -> None:
    teachers = [Teacher(frozen(network(), paths)), Teacher(frozen(network(), []))]
    runs = [0, 0]

    def count(index: int) -> Any:
        def counted(*_: Any) -> None:
            runs[index] += 1

        return counted

    for index, teacher in enumerate(teachers):
        teacher.network.register_forward_hook(count(index))
    parts_of(Likeness(teachers, TASK, teacher_weight=weight), network(), paths, inputs())
    assert runs == asked


def test_several_outputs_are_each_compared_with_the_same_answers() -> None:
    """As exits are: each by itself, the teachers being asked once."""
    teacher, x = network(), inputs()
    likeness = Likeness([Teacher(frozen(teacher, []))], TASK, teacher_weight=1.0)
    answers = likeness.answers(x)
    losses = [
        likeness.loss(((logits,), ()), answers, LABELS, DRAWS)["teacher"]
        for logits in (teacher(*x), network()(*x))
    ]
    assert float(losses[0].detach()) == pytest.approx(0, abs=1e-6) and losses[1] > 1e-4


def test_teachers_do_not_learn() -> None:
    teacher, student = frozen(network(), []), network()
    parts = parts_of(Likeness([Teacher(teacher)], TASK), student, [], inputs())
    torch.stack(list(parts.values())).sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


def test_the_losses_of_probabilities_are_those_of_their_logits() -> None:
    """A network that ends in its own softmax is asked for the same as one that leaves it to the loss."""
    teacher, student, x = network(), network(), inputs()
    with torch.no_grad():
        task = read_task([nn.Sequential(teacher, nn.Softmax(1))(*x)], LABELS, used_by="gates")
    assert task.probabilities == {0}
    plain = parts_of(Likeness([Teacher(frozen(teacher, []))], TASK, teacher_weight=0.5), student, [], x)
    softened = Likeness(
        [Teacher(frozen(nn.Sequential(teacher, nn.Softmax(1)), []))], task, teacher_weight=0.5
    )
    found = parts_of(softened, nn.Sequential(student, nn.Softmax(1)), [], x)
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value)
