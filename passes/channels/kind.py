"""Kind: what can be taken out of a network; apart from `units`, for options name it without loading torch."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a choice is.

    CHANNELS: one channel of a layer and of all that is tied to it, hidden units of an MLP among them; HEADS: one
    attention head; HEAD_SIZE: one dimension of every head of an attention, of queries, keys and values alike;
    BLOCK: a whole block whose output has its input's shape, which is then passed over.
    """

    CHANNELS = "channels"
    HEADS = "heads"
    HEAD_SIZE = "head_size"
    BLOCK = "block"
