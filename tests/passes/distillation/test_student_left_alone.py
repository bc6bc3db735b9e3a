"""What a student's width and depth must leave whole, keep together or refuse, and what is said of each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from edgepress.errors import CompressError
from edgepress.examples.digits.models import ResidualBlock
from edgepress.model import Model
from edgepress.passes.distillation.student import derive
from quantization_nets import Net, largest_difference, model_of, settled
from silent_channels import kept, without_channels
from torch import Tensor, nn

INSTEAD = "Name a factory for the student instead: `student: {source: pkg.module:factory}`."
HOLDS_SIZES = (
    " Its forward() holds sizes as numbers, or reshapes in a way that cannot be followed. Leave width out. "
    + INSTEAD
)
MIXED = (
    "width: something other than a norm layer mixes channels, such as a shuffle or a softmax over them: the kept ones"
    " do not compute what they do in the teacher"
)
NUMBERED = "blocks: forward() goes by their numbers: a kept one does not compute what it does in the teacher"


def conv(inputs: int, outputs: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def net(forward: Callable[..., Tensor], **parts: nn.Module | Tensor) -> nn.Module:
    """Convolutions `a`, 3 to 32, and `b`, 32 to 32, and a head for 5 classes, unless others are given."""
    own = {"a": conv(3, 32), "b": conv(32, 32), "head": nn.Linear(32, 5)}
    found = Net(forward, **{n: part for n, part in {**own, **parts}.items() if isinstance(part, nn.Module)})
    for name, part in parts.items():
        if isinstance(part, nn.Parameter):
            setattr(found, name, part)
        elif isinstance(part, Tensor):
            found.register_buffer(name, part)
    return settled(found)


def classes(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(torch.relu(m.b(x)).mean((2, 3)))


def gated(m: nn.Module, x: Tensor) -> Tensor:
    value, gate = m.a(x).chunk(2, 1)
    return classes(m, value * torch.sigmoid(gate))


def shuffled(m: nn.Module, x: Tensor) -> Tensor:
    y = m.a(x)
    return classes(m, y.view(len(x), 4, -1, *y.shape[2:]).transpose(1, 2).reshape(y.shape))


def rows_read(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(m.rows(torch.relu(m.a(x)).mean(2).transpose(1, 2))[0][:, -1])


@dataclass(frozen=True)
class Case:
    """whole: the shapes of weights that must keep them, or some of them; narrowed: groups of all, and channels."""

    module: Callable[[], nn.Module]
    whole: dict[str, tuple[int, ...]]
    narrowed: str
    shape: tuple[int, ...] = (3, 8, 8)
    narrow: dict[str, tuple[int, ...]] = field(default_factory=dict)


def words(scores: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module) -> nn.Module:
    """An embedding of 50 words in 32 numbers, a block, and what makes scores of their mean."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.embed((4 * x.abs()).long().clamp(max=49))
        return scores(m, (y + m.down(torch.relu(m.up(y)))).mean(1))

    return Net(forward, embed=nn.Embedding(50, 32), up=nn.Linear(32, 64), down=nn.Linear(64, 32), **parts)


LEFT_WHOLE = {
    "inputs and classes": Case(
        lambda: net(lambda m, x: classes(m, torch.relu(m.a(x)))),
        {}, "2 of 2 channel groups narrowed to 0.5, 64 -> 32 channels",
        narrow={"a": (16, 3, 3, 3), "b": (16, 16, 3, 3), "head": (5, 16)},
    ),
    "a convolution that makes the outputs": Case(
        lambda: net(lambda m, x: m.b(torch.relu(m.a(x)))),
        {"b": (32, 16, 3, 3)}, "1 of 1 channel groups narrowed to 0.5, 32 -> 16 channels",
    ),
    "outputs that are added up": Case(
        lambda: net(lambda m, x: m.b(torch.relu(m.a(x))) + m.skip(x), skip=conv(3, 32)),
        {"b": (32, 16, 3, 3), "skip": (32, 3, 3, 3)}, "1 of 1 channel groups narrowed to 0.5, 32 -> 16 channels",
    ),
    "a factor for each place of a map": Case(
        lambda: net(
            lambda m, x: classes(m, torch.relu(m.a(x)) * m.factor), factor=nn.Parameter(torch.rand(32, 8, 8))
        ),
        {"a": (32, 3, 3, 3)}, "1 of 2 channel groups narrowed to 0.5, 32 -> 16 channels",
        narrow={"b": (16, 32, 3, 3)},
    ),
    "values and gates in one convolution": Case(
        lambda: net(gated, a=conv(3, 64)),
        {"a": (64, 3, 3, 3)}, "1 of 2 channel groups narrowed to 0.5, 32 -> 16 channels", narrow={"b": (16, 32, 3, 3)},
    ),
    "a channel that is asked for by its number": Case(
        lambda: net(lambda m, x: classes(m, m.a(x)) + m.a(x)[:, 5].mean((1, 2))[:, None]),
        {"a": (32, 3, 3, 3)}, "1 of 1 channel groups narrowed to 0.5, 32 -> 16 channels", narrow={"b": (16, 32, 3, 3)},
    ),
    "too few channels": Case(
        lambda: net(lambda m, x: classes(m, m.a(x)), a=conv(3, 1), b=conv(1, 32)),
        {"a": (1, 3, 3, 3)}, "1 of 2 channel groups narrowed to 0.5, 32 -> 16 channels", narrow={"b": (16, 1, 3, 3)},
    ),
    "what a depthwise convolution makes several channels of": Case(
        lambda: net(lambda m, x: classes(m, m.d(torch.relu(m.a(x)))), d=conv(32, 64, groups=32), b=conv(64, 32)),
        {"a": (32, 3, 3, 3)}, "2 of 3 channel groups narrowed to 0.5, 96 -> 48 channels",
        narrow={"d": (32, 1, 3, 3), "b": (16, 32, 3, 3)},
    ),
    "states of a recurrent layer": Case(
        lambda: net(rows_read, rows=nn.LSTM(32, 32, batch_first=True), b=nn.Identity()),
        {"head": (5, 32)}, "1 of 1 channel groups narrowed to 0.5, 32 -> 16 channels", narrow={"a": (16, 3, 3, 3)},
    ),
    "an embedding that a function takes for the head": Case(
        lambda: words(lambda m, y: F.linear(y, m.embed.weight)),
        {"embed": (50, 32)}, "1 of 1 channel groups narrowed to 0.5, 64 -> 32 channels", (6,), {"up": (32, 32)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_WHOLE)
def test_what_must_stay_whole(case: str) -> None:
    told = LEFT_WHOLE[case]
    model = model_of(told.module(), *told.shape)
    student = derive(model, width=0.5)
    found = {
        name: tuple(student.module.get_submodule(name).weight.shape) for name in {**told.whole, **told.narrow}
    }
    assert found == {**told.whole, **told.narrow}
    assert student.notes[0] == f"width: {told.narrowed}"
    assert [note for note in student.notes[1:] if not note.startswith("student: params")] == []
    # Sums over fewer terms are rounded in another order; a wrong channel would be off by about 1.
    assert (
        largest_difference(without_channels(model, student)(*inputs(model)), student.module(*inputs(model)))
        < 1e-4
    )


def inputs(model: Model) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(4, *x.shape[1:], generator=generator) for x in model.example_inputs)


# What must go together


def test_channels_that_are_added_up_are_the_same_ones() -> None:
    model = model_of(net(lambda m, x: classes(m, torch.relu(m.a(x) + m.skip(x))), skip=conv(3, 32)), 3, 8, 8)
    student = derive(model, width=0.5)
    chosen = kept(student, "a.weight")[0]
    assert len(chosen) == 16 and kept(student, "skip.weight")[0] == chosen == kept(student, "b.weight")[1]


def test_a_depthwise_convolution_follows_its_input() -> None:
    model = model_of(
        net(lambda m, x: classes(m, m.d(torch.relu(m.a(x)))), d=conv(32, 32, groups=32)), 3, 8, 8
    )
    student = derive(model, width=0.5)
    chosen = kept(student, "a.weight")[0]
    assert (
        len(chosen) == 16
        and kept(student, "d.weight") == {0: chosen}
        and kept(student, "b.weight")[1] == chosen
    )
    assert student.module.d.groups == student.module.d.in_channels == 16


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_a_grouped_convolution_keeps_groups_of_one_size(groups: int) -> None:
    model = model_of(
        net(lambda m, x: classes(m, m.d(m.a(x))), d=conv(32, 64, groups=groups), b=conv(64, 32)), 3, 8, 8
    )
    student = derive(model, width=0.5)
    for channels, name, dim in ((32, "a.weight", 0), (64, "d.weight", 0)):
        parts = [index // (channels // groups) for index in kept(student, name)[dim]]
        assert [parts.count(part) for part in range(groups)] == [channels // 2 // groups] * groups
    assert student.module.d.groups == groups
    assert (
        largest_difference(without_channels(model, student)(*inputs(model)), student.module(*inputs(model)))
        < 1e-4
    )


def test_a_layer_that_is_called_twice_stays_one() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.head(torch.relu(m.both(torch.relu(m.both(torch.relu(m.first(x)))))))

    layers = {"first": nn.Linear(12, 32), "both": nn.Linear(32, 32), "head": nn.Linear(32, 5)}
    model = model_of(Net(forward, **layers), 12)
    student = derive(model, width=0.5)
    assert student.module.both.weight.shape == (16, 16)
    assert (
        largest_difference(without_channels(model, student)(*inputs(model)), student.module(*inputs(model)))
        < 1e-4
    )


# What is said


MIXING = {
    "a shuffle by reshapes": lambda: net(shuffled, b=conv(32, 32, groups=4)),
    "a shuffle by its layer": lambda: net(
        lambda m, x: classes(m, m.shuffle(m.a(x))), shuffle=nn.ChannelShuffle(4), b=conv(32, 32, groups=4)
    ),
    "a softmax": lambda: net(lambda m, x: classes(m, m.a(x).softmax(1))),
}


@pytest.mark.parametrize("case", MIXING)
def test_channels_that_are_mixed_are_told(case: str) -> None:
    """Of equal shapes the student would run and train, and inherit nothing."""
    assert derive(model_of(MIXING[case](), 3, 8, 8), width=0.5).notes[-2] == MIXED


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(32), nn.GroupNorm(4, 32), nn.InstanceNorm2d(32, affine=True)],
    ids=lambda n: type(n).__name__,
)
def test_norms_are_not_told_as_mixing(norm: nn.Module) -> None:
    module = net(lambda m, x: classes(m, torch.relu(m.norm(m.a(x)))), norm=norm)
    assert MIXED not in derive(model_of(module, 3, 8, 8), width=0.5).notes


def test_a_norm_of_all_channels_is_not_told_as_mixing() -> None:
    module = nn.Sequential(nn.Linear(12, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 5))
    assert MIXED not in derive(model_of(module, 12), width=0.5).notes


def numbered(m: nn.Module, x: Tensor) -> Tensor:
    """The second and the fourth block are looked at."""
    seen = []
    for index, block in enumerate(m.blocks):
        x = block(x)
        if index % 2:
            seen.append(x)
    return torch.stack(seen).sum(0)


def through(m: nn.Module, x: Tensor) -> Tensor:
    for block in m.blocks:
        x = block(x)
    return x


@pytest.mark.parametrize(("forward", "notes"), [(numbered, [NUMBERED]), (through, [])])
def test_blocks_that_count_are_told(forward: Callable[..., Tensor], notes: list[str]) -> None:
    module = Net(forward, blocks=nn.ModuleList(ResidualBlock(8, 8) for _ in range(4)))
    student = derive(model_of(settled(module), 8, 8, 8), depth=0.5)
    assert list(student.notes[:-1]) == ["blocks: 2 of 4 kept (blocks: 0, 3)", *notes]


def test_nothing_is_dropped_or_narrowed_where_all_is_asked_for() -> None:
    model = model_of(net(lambda m, x: classes(m, torch.relu(m.a(x)))), 3, 8, 8)
    student = derive(model, depth=1.0, width=1.0)
    assert student.notes == ("student: params 10.3 k -> 10.3 k",)
    assert torch.equal(student.module(*inputs(model)), model.module(*inputs(model)))
    assert student.module is not model.module


# Refused


class AlsoSeen(nn.Module):
    """A map that is an output, and read further on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 32), conv(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.relu(self.a(x))
        return classes(self, seen), seen


def tied() -> nn.Module:
    layers = [layer for size in (4, 32, 32) for layer in (nn.Linear(size, 32), nn.ReLU())]
    layers[4].weight = layers[2].weight
    return nn.Sequential(*layers, nn.Linear(32, 2))


def tied_words() -> nn.Module:
    found = words(lambda m, y: m.head(y), head=nn.Linear(32, 50, bias=False))
    found.head.weight = found.embed.weight
    return found


NOT_RUN = "narrowed to 0.5, the network does not run: RuntimeError: "
REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str]] = {
    "a map that is an output too": (
        AlsoSeen, (3, 8, 8),
        "narrowed to 0.5, the outputs are [((1, 5), torch.float32), ((1, 16, 8, 8), torch.float32)], where the"
        " teacher's are [((1, 5), torch.float32), ((1, 32, 8, 8), torch.float32)].", HOLDS_SIZES,
    ),
    "one weight of two layers": (tied, (4,), NOT_RUN, HOLDS_SIZES),
    "one weight of an embedding and its head": (tied_words, (6,), NOT_RUN, HOLDS_SIZES),
    "a buffer for each channel": (
        lambda: net(lambda m, x: classes(m, m.a(x) * m.factor), factor=torch.rand(1, 32, 1, 1)),
        (3, 8, 8), NOT_RUN, HOLDS_SIZES,
    ),
    "a matrix that is no layer's": (
        lambda: net(lambda m, x: m.head(m.a(x).mean((2, 3)) @ m.matrix), matrix=nn.Parameter(torch.rand(32, 32))),
        (3, 8, 8), NOT_RUN, HOLDS_SIZES,
    ),
    "halves by number": (
        lambda: net(
            lambda m, x: m.head((m.b(m.a(x)[:, :16]) + m.c(m.a(x)[:, 16:])).mean((2, 3))),
            b=conv(16, 32), c=conv(16, 32),
        ),
        (3, 8, 8), NOT_RUN, HOLDS_SIZES,
    ),
    "channels that become places": (
        lambda: net(lambda m, x: classes(m, m.larger(m.a(x))), larger=nn.PixelShuffle(2), b=conv(8, 32)),
        (3, 8, 8), "torch-pruning cannot follow this network: IndexError: ", f" Leave width out. {INSTEAD}",
    ),
    "a norm over places": (
        lambda: net(lambda m, x: classes(m, m.norm(m.a(x))), norm=nn.LayerNorm([8, 8])),
        (3, 8, 8), "torch-pruning cannot follow this network: IndexError: ", f" Leave width out. {INSTEAD}",
    ),
    "places that become channels": (
        lambda: net(lambda m, x: classes(m, m.smaller(m.a(x))), smaller=nn.PixelUnshuffle(2), b=conv(128, 32)),
        (3, 8, 8), NOT_RUN, HOLDS_SIZES,
    ),
    "nothing but outputs": (
        lambda: nn.Sequential(conv(3, 32), nn.ReLU()), (3, 8, 8),
        "no layer can be narrowed to 0.5: each makes the network's outputs, or has too few channels. Ask for a smaller"
        " width, or leave it out.", f" {INSTEAD}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_width_cannot_change_is_refused(case: str) -> None:
    build, shape, begins, ends = REFUSED[case]
    module = build().eval()
    names = {"output_names": ("classes", "seen")} if isinstance(module, AlsoSeen) else {}
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(CompressError) as caught:
        derive(model_of(module, *shape, **names), width=0.5)
    assert str(caught.value).startswith(f"distill.student: width: {begins}")
    assert str(caught.value).endswith(ends)
    assert [
        name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])
    ] == []
