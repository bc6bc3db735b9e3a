"""What the rows of a convolution's weight are multiplied with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def patches(inputs: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """The patches of padded inputs (samples, channels, *sizes): (samples, channels, *kernel, *positions).

    A view: whoever takes few positions copies no more than these. stride, dilation: as a convolution has them, one
    number standing for all dimensions.
    """
    rank = len(kernel)
    stride, dilation = _each(stride, rank), _each(dilation, rank)
    view = inputs
    for axis in range(rank):
        extent = dilation[axis] * (kernel[axis] - 1) + 1
        view = view.unfold(2 + axis, extent, stride[axis])[..., :: dilation[axis]]
    return view.permute(0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))


def padded(
    inputs: Tensor, kernel: Sequence[int], padding: str | Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Inputs (..., *sizes) with the zeros around them that a convolution with this `padding` adds."""
    if padding == "valid":
        both = [(0, 0) for _ in kernel]
    elif padding == "same":
        extents = zip(_each(dilation, len(kernel)), kernel, strict=True)
        totals = [d * (k - 1) for d, k in extents]
        both = [(total // 2, total - total // 2) for total in totals]
    else:
        assert not isinstance(padding, str)
        both = [(p, p) for p in _each(padding, len(kernel))]
    return F.pad(inputs, [end for ends in reversed(both) for end in ends])  # the last axis first


def _each(told: Sequence[int], rank: int) -> tuple[int, ...]:
    """A setting of a convolution for each of its dimensions: one number stands for all."""
    return tuple(told) * rank if len(told) == 1 else tuple(told)
