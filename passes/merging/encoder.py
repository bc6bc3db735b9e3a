"""The encoder of a network: its list of transformer blocks, found by what they hold, and rebuilt for fewer tokens."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...calibration.named import describe
from ...errors import CompressError
from ...macs import listed
from ..channels.attention_layers import heads_of
from ..channels.removal import Skipped
from ..channels.runs import Call, calls_of
from .blocks import TokenBlock, TokenBlocks
from .parts import attentions_in, token_blocks

CLOSE = 1e-4
"""Most that what is rebuilt may differ, of its largest output: sums in another order, in float32."""


@dataclass(frozen=True)
class Encoder:
    """Where a network has its blocks.

    place: the name of their list. leading: tokens before those of patches; patches: how many of these there are.
    """

    place: str
    leading: int
    patches: int


class NoEncoderError(CompressError):
    """A network has no transformer whose tokens could go; says why."""


def token_network(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Encoder, nn.Module]:
    """Where a network has its blocks, and the network rebuilt for fewer tokens; NoEncoderError where it cannot be."""
    encoder = find_encoder(module, inputs)
    return encoder, rebuilt(module, inputs, encoder)


def find_encoder(module: nn.Module, inputs: tuple[Tensor, ...]) -> Encoder:
    """The list of transformer blocks of a network that runs on `inputs`; NoEncoderError where there is not just one."""
    if any(isinstance(part, TokenBlocks) for part in module.modules()):
        raise NoEncoderError("its tokens go already, by a pass before: list it once, with the target of both")
    lists = [name for name, part in module.named_modules() if _is_list_of_blocks(part)]
    if not lists:
        raise NoEncoderError(_why_none(module))
    if len(lists) > 1:
        raise NoEncoderError(
            f"it has {len(lists)} lists of transformer blocks ({listed(lists)}), and tokens can go from one"
            " list to the end: hierarchical networks, and those of several towers, stay as they are"
        )
    odd = {p.dtype for p in module.parameters() if p.is_floating_point()} - {torch.float32, torch.float64}
    if odd:
        raise NoEncoderError(
            f"its weights are {str(odd.pop()).removeprefix('torch.')}: give the network in float32 (network.float())"
        )
    [place] = lists
    tokens, patches = _counted(module, module.get_submodule(place), inputs, place)
    return Encoder(place, tokens - patches, patches)


def rebuilt(module: nn.Module, inputs: tuple[Tensor, ...], encoder: Encoder) -> nn.Module:
    """A copy of the network whose blocks are TokenBlocks that keep all tokens: its outputs are the same.

    NoEncoderError where they cannot be.
    """
    network = copy.deepcopy(module).eval()
    blocks = network.get_submodule(encoder.place)
    calls = calls_of(network, inputs, blocks_in(blocks).values())
    each = [
        (name, _rebuilt_block(block, calls.get(id(block), []), encoder, f"{encoder.place}.{name}"))
        for name, block in blocks_in(blocks).items()
    ]
    holder, _, name = encoder.place.rpartition(".")
    setattr(network.get_submodule(holder), name, TokenBlocks(each, encoder.leading))
    try:
        with torch.no_grad():
            wanted, found = module(*inputs), network(*inputs)
    except Exception as error:  # whatever the code around the list raises that looks into its blocks
        raise NoEncoderError(
            f"{encoder.place}: what runs its blocks also looks into them: {describe(error)}"
        ) from error
    if not alike(wanted, found):
        raise NoEncoderError(f"{encoder.place}: its blocks are not simply run one after another")
    return network


def _rebuilt_block(block: nn.Module, calls: list[Call], encoder: Encoder, where: str) -> TokenBlock:
    """The first of the common forms of a block that computes what it does."""
    if len(calls) != 1 or calls[0].taken is None or not isinstance(calls[0].returned, Tensor):
        raise NoEncoderError(f"{where}: it is not run once, on one tensor of tokens that it returns one of")
    [call] = calls
    further = {f"argument {place}": x for place, x in enumerate(call.given[1:], 1)} | call.named
    if given := [
        n for n, x in further.items() if n != "rope" and x is not call.taken and not (x is None or x is False)
    ]:
        raise NoEncoderError(f"{where}: it is also given {listed(given)}, which is not known here")
    for candidate in token_blocks(block):
        alone = TokenBlocks([("0", candidate)], encoder.leading)
        try:
            with torch.no_grad():
                found = alone(call.taken, rope=call.named.get("rope"))
        except (
            Exception
        ):  # parts that do not fit together, in whatever way they say so: so it is something else
            continue
        if alike(call.returned, found):
            return candidate
    raise NoEncoderError(
        f"{where}: it computes something else than x + attention(norm(x)), then x + mlp(norm(x)), each perhaps times a"
        " factor for each channel"
    )


def alike(wanted: Any, found: Any) -> bool:
    """Whether outputs of two networks are the same to float error, each a tensor or several."""
    pairs = several_of(wanted), several_of(found)
    return len(pairs[0]) == len(pairs[1]) and all(map(_close, *pairs))


def _close(wanted: Tensor, found: Tensor) -> bool:
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return False
    if not wanted.is_floating_point() or not wanted.numel():
        return torch.equal(wanted, found)
    return bool((wanted - found).abs().max() <= CLOSE * wanted.abs().max().clamp(min=1e-12))


def blocks_in(part: nn.Module) -> dict[str, nn.Module]:
    """The children of a list that do anything; others stand where a block was taken out."""
    passed = (Skipped, nn.Identity)
    return {name: child for name, child in part.named_children() if not isinstance(child, passed)}


def _is_list_of_blocks(part: nn.Module) -> bool:
    blocks = blocks_in(part)
    return len(blocks) > 1 and all(len(attentions_in(block)) == 1 for block in blocks.values())


def _why_none(module: nn.Module) -> str:
    looks = sorted({type(part).__name__ for part in module.modules() if heads_of(part) is not None})
    has = (
        f"its attention (in {listed(looks)})"
        if looks
        else "it has no attention that is known, and what it has"
    )
    return f"no vision transformer: {has} is not in a list of two or more blocks that each hold one"


def _counted(module: nn.Module, blocks: nn.Module, inputs: tuple[Tensor, ...], place: str) -> tuple[int, int]:
    """How many tokens the first block is given, and how many of them, the last ones, are made of patches.

    These are as many as the last convolution before it has positions, and what a change of its output changes.
    """
    first = next(iter(blocks_in(blocks).values()))
    before, patches = _given_to(first, module, inputs, shifted=False)
    after, _ = _given_to(first, module, inputs, shifted=True)
    if before is None or after is None or before.dim() != 3:
        raise NoEncoderError(f"{place}: its first block is not given tokens as (n, tokens, width)")
    if not patches:
        raise NoEncoderError(
            f"{place}: no convolution makes its patches, and which tokens those are is not known"
        )
    tokens = before.shape[1]
    made = ((before - after).abs().sum((0, 2)) > 0).nonzero().flatten().tolist()
    if made != list(range(tokens - patches, tokens)):
        raise NoEncoderError(
            f"{place}: its first block is given {tokens} tokens, and the last {patches} of them should be those of the"
            f" patches, and no others: {listed([str(token) for token in made])} are"
        )
    return tokens, patches


def _given_to(
    first: nn.Module, module: nn.Module, inputs: tuple[Tensor, ...], shifted: bool
) -> tuple[Tensor | None, int]:
    """What the first block is given, and the positions of the last convolution before it.

    shifted: with noise on the output of that and all other convolutions.
    """
    given: list[Tensor] = []
    seen, draw = [0], torch.Generator().manual_seed(0)

    def convolved(_: nn.Module, __: Any, output: Any) -> Any:
        if given or not isinstance(output, Tensor):
            return output
        seen[0] = int(output.shape[2:].numel())
        return output + torch.rand(output.shape, generator=draw).to(output) if shifted else output

    def entered(_: nn.Module, by_place: Any, named: Any) -> None:
        given.append(by_place[0] if by_place else next(iter(named.values())))

    convolutions = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    handles = [part.register_forward_hook(convolved) for part in convolutions]
    handles.append(first.register_forward_pre_hook(entered, with_kwargs=True))
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return (given[0] if given else None), seen[0]


def several_of(outputs: Any) -> tuple[Tensor, ...]:
    """The outputs of a network, which may be one tensor."""
    return outputs if isinstance(outputs, tuple) else (outputs,)
