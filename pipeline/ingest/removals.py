"""What a weight file says was removed of the network that its factory makes: read as data of strangers, and written.

In a .safetensors file it stands in the metadata; an .l2z file, which has none, keeps it in a tensor of bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from ...errors import CompressError
from ...passes.channels.removal import Removal
from ...passes.channels.surgery import Cut
from ...record import Record
from ...text import short
from ..record_file import NotARecordError, parsed, told

KEY = "edgepress.removals"
"""In the metadata, and the name of the tensor in an .l2z file."""
VERSION = 1
MAX_BYTES = 16 << 20
"""Of the text: the kept indices of a transformer with a billion weights take about one."""

_Index = Annotated[int, Field(ge=0, lt=2**31)]
_Dimension = Annotated[str, Field(pattern="^[0-9]$")]
Size = Annotated[int, Field(ge=1, lt=2**31)]


class CutRecord(Record):
    """The channels that stay, as `Cut.to_json` writes them: of each dimension of a tensor the number of a list."""

    indices: list[list[_Index]]
    tensors: dict[str, dict[_Dimension, _Index]]
    attributes: dict[str, dict[str, Size | list[Size]]]


class RemovalRecord(Record):
    """One removal, as `Removal.to_json` writes it, without the factors: the weights were multiplied by them."""

    cut: CutRecord
    skipped: list[str]
    children: dict[str, list[str]]

    def removal(self) -> Removal:
        """The removal itself: of a record that is known to fit a network, since it is as large as that may say."""
        cut = Cut.from_json(self.cut.model_dump())
        return Removal(cut, tuple(self.skipped), children=self.children)


class _Removals(Record):
    version: Literal[1]
    removals: Annotated[list[RemovalRecord], Field(min_length=1, max_length=16)]


Removals = tuple[RemovalRecord, ...]


def text_of(removals: Iterable[Mapping[str, Any]]) -> str:
    """Removals, in their order, as a file keeps them: the same text for the same ones."""
    kept = [{key: removal[key] for key in RemovalRecord.model_fields} for removal in removals]
    whole = {"version": VERSION, "removals": kept}
    return json.dumps(whole, sort_keys=True, separators=(",", ":"))


def removals_in(text: str, path: Path) -> Removals:
    """What `text_of` wrote; whether it fits a network is another matter. CompressError names the file otherwise."""
    where = f"weights: {path}: the metadata {KEY}"
    if len(text) > MAX_BYTES:
        raise CompressError(f"{where} has {len(text):,} characters; no network needs more than {MAX_BYTES:,}")
    try:
        value = parsed(text.encode(errors="surrogatepass"))
        return tuple(_Removals.model_validate(value, strict=True).removals)
    except NotARecordError as error:
        raise CompressError(f"{where}: {error}") from error
    except ValidationError as error:
        newer = isinstance(value, dict) and type(value.get("version")) is int and value["version"] > VERSION
        hint = "; a newer edgepress wrote it" if newer else ""
        raise CompressError(
            f"{where} is not what edgepress writes: {short(told(error), 400)}{hint}"
        ) from error


def in_words(removals: Removals) -> str:
    """What to say of weights that come with removals; empty where there are none."""
    return f"pruned by {len(removals)} pass{'es' if len(removals) > 1 else ''}" if removals else ""


def as_tensor(removals: Removals) -> Tensor:
    """The text as a tensor of bytes, uint8."""
    text = text_of(removal.model_dump() for removal in removals)
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def text_in(tensor: Tensor, path: Path) -> str:
    """The text that `as_tensor` made a tensor of; CompressError names the file where it is no text."""
    try:
        if tensor.dtype == torch.uint8:
            return tensor.numpy().tobytes().decode()
    except UnicodeDecodeError:
        pass
    raise CompressError(f"weights: {path}: the tensor {KEY} is no text; pack the weights again")
