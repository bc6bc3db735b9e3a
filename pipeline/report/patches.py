"""What became of the patches of a few images in a network that drops and merges tokens, as a pass left it.

A picture comes out of a record, which may be damaged or hostile: it is decoded, and nothing but its pixels is used.
"""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

from PIL import Image

from ..run_record import StepRecord
from .details import number_in

PICTURES = 32
"""Most of them that are shown."""
PATCHES = 4096
SIDE = 256
"""Most pixels of the longer side of a picture."""
LONGEST = 1 << 19
"""Most characters of a picture: more than its pixels take without any compression."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class PatchPicture:
    """An image, and of each of its patches, row by row, the token that it ended in; below 0: it was dropped."""

    image: Image.Image
    rows: int
    columns: int
    ended: tuple[int, ...]

    @cached_property
    def tokens(self) -> list[list[int]]:
        """The patches of each token that is left, in the order of their first ones."""
        found = dict[int, list[int]]()
        for patch, token in enumerate(self.ended):
            if token >= 0:
                found.setdefault(token, []).append(patch)
        return list(found.values())

    @property
    def groups(self) -> list[list[int]]:
        """The patches of each token that is made of several."""
        return [patches for patches in self.tokens if len(patches) > 1]

    @property
    def dropped(self) -> list[int]:
        """The patches that are part of no token any more."""
        return [patch for patch, token in enumerate(self.ended) if token < 0]

    @property
    def line(self) -> str:
        """All patches in a line: "81 stand alone, 120 merged into 14 groups, 55 dropped"."""
        merged, groups, dropped = sum(map(len, self.groups)), len(self.groups), len(self.dropped)
        alone = len(self.tokens) - groups
        told = (
            (alone, f"{alone:,} stand{'s' if alone == 1 else ''} alone"),
            (merged, f"{merged:,} merged into {groups:,} group{'' if groups == 1 else 's'}"),
            (dropped, f"{dropped:,} dropped"),
        )
        return ", ".join(words for count, words in told if count)


def patch_pictures(step: StepRecord) -> list[PatchPicture]:
    """The pictures that a step left in its details, without those of another shape than ours."""
    tokens = step.details.get("tokens")
    rows = tokens.get("pictures") if isinstance(tokens, dict) else None
    found = [_picture(row) for row in rows[:PICTURES]] if isinstance(rows, list) else []
    return [picture for picture in found if picture is not None]


def _picture(row: Any) -> PatchPicture | None:
    if not isinstance(row, dict):
        return None
    rows, columns = (_whole(row.get(key), 1, PATCHES) for key in ("rows", "columns"))
    places = row.get("patches")
    if rows is None or columns is None or not isinstance(places, list):
        return None
    if not rows * columns == len(places) <= PATCHES:
        return None
    ended = [place for each in places if (place := _whole(each, -1, PATCHES)) is not None]
    if len(ended) < len(places):
        return None
    image = _image(row.get("image"))
    return None if image is None else PatchPicture(image, rows, columns, tuple(ended))


def _whole(value: Any, least: int, most: int) -> int | None:
    number = number_in(value)
    return int(number) if number is not None and number % 1 == 0 and least <= number <= most else None


def _image(text: Any) -> Image.Image | None:
    """The pixels of a grey or RGB PNG in base64; None of all else."""
    if not isinstance(text, str) or len(text) > LONGEST:
        return None
    try:
        content = b64decode(text, validate=True)
        if not content.startswith(SIGNATURE):
            return None
        with Image.open(BytesIO(content), formats=("PNG",)) as image:
            if image.mode not in ("L", "RGB") or max(image.size) > SIDE:
                return None
            return Image.frombytes(image.mode, image.size, image.tobytes())
    except Exception:  # damaged, in whatever way the decoder says so
        return None
