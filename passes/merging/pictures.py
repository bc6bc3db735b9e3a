"""What becomes of the patches of a few images: which are dropped, and which end in one token, as the network has it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from math import isqrt
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ...model import Model
from ..base import PassContext
from ..training.draws import generator
from .blocks import TokenBlocks
from .settings import Settings, blocks_of, set_up
from .token_batch import TokenBatch

SIDE = 224
"""Most pixels of the longer side of a picture."""


def pictures(
    network: nn.Module, settings: Settings, model: Model, context: PassContext, count: int
) -> list[dict[str, Any]]:
    """So many images of the validation part, picked at random, the same ones in every process, as JSON values.

    network: the model's, with TokenBlocks. Each picture has `image`, a PNG in base64; `rows` and `columns` of its
    patches; and `patches`, row by row the place of the token that each patch is part of in the end, -1 where it was
    dropped. Empty where nothing goes, or the network is not given one grey or RGB image that is cut into squares.
    """
    grid = grid_of(model.example_inputs, settings.encoder.patches)
    if settings.schedule.sites == 0 or grid is None or count == 0:
        return []
    rows, columns = grid
    smaller = replace(model, module=set_up(network, settings))
    forward, size = smaller.in_batches(count)
    blocks = blocks_of(smaller.module, settings.encoder)
    validation = context.data.validation
    order = torch.randperm(len(validation), generator=generator(context.seed, "tokens", "pictures"))
    found = list[dict[str, Any]]()
    for inputs, _ in validation.picked(order[:count].tolist()).batches(size):
        [images] = inputs
        with followed(blocks) as origins:
            forward(*inputs)
        for image, places in zip(images, origins[-1].tolist(), strict=False):  # a static batch is filled up
            found.append({"image": png(image), "rows": rows, "columns": columns, "patches": places})
    return found


def grid_of(inputs: tuple[Tensor, ...], patches: int) -> tuple[int, int] | None:
    """Rows and columns of the square patches that one grey or RGB image is cut into; None where it is not."""
    if len(inputs) != 1 or inputs[0].dim() != 4 or inputs[0].shape[1] not in (1, 3):
        return None
    height, width = inputs[0].shape[2:]
    side = isqrt(height * width // patches)
    if side == 0 or height % side or width % side or patches * side**2 != height * width:
        return None
    return height // side, width // side


@contextmanager
def followed(blocks: TokenBlocks) -> Iterator[list[Tensor]]:
    """While this lasts, which of the tokens that are left each patch is part of behind each block, (n, patches) int64.

    -1 where it was dropped. The blocks are told to follow their patches, and say themselves what each has joined. Of
    one that goes on with leading tokens alone there is none: it is as before it.
    """
    origins: list[Tensor] = []

    def begin(_: nn.Module, given: tuple[TokenBatch]) -> tuple[TokenBatch]:
        return (given[0].followed(),)

    def keep(_: nn.Module, __: object, left: TokenBatch) -> None:
        if left.origin is not None:
            origins.append(left.origin)

    handles = [block.register_forward_hook(keep) for block in blocks.each]
    handles.append(blocks.each[0].register_forward_pre_hook(begin))
    try:
        yield origins
    finally:
        for handle in handles:
            handle.remove()


def png(image: Tensor) -> str:
    """An image (1 or 3, height, width) of any range of values as a PNG in base64: its least is 0, its largest 255."""
    values = image.double()
    shares = (values - values.min()) / (values.max() - values.min())
    levels = (255 * shares.nan_to_num(0.0)).round().byte()  # of one value alone: black
    picture = Image.fromarray((levels[0] if len(levels) == 1 else levels.permute(1, 2, 0)).numpy())
    picture.thumbnail((SIDE, SIDE))
    content = BytesIO()
    picture.save(content, "PNG", optimize=True)
    return b64encode(content.getvalue()).decode()
