"""Text that came from a file, a record, a line or another machine, made harmless before it is shown anywhere."""

from __future__ import annotations

import re
import unicodedata

NAME_LIMIT = 90  # characters of a layer name or path that a table shows
CELL_LIMIT = 2000  # characters of a cell of a table, or of one line
TEXT_LIMIT = 20_000  # characters of any one text; a recipe is far below

_KEPT_CONTROLS = "\n\t"
_BREAKS = re.compile(r"[\r\n\t][\r\n\t ]*")
_HIDDEN = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"))
"""General categories of Unicode that steer, are not drawn, or (Cn, Cs) are no characters of an XML file."""
_INVISIBLE = frozenset(
    (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10))
)  # fmt: skip
"""Letters and marks that are drawn as nothing (of Default_Ignorable_Code_Point, and the empty Braille cell)."""
_MARKS_ON_ONE = 4
"""Combining marks on one letter; more of them climb over the lines around."""


def tidy(text: str, limit: int = TEXT_LIMIT) -> str:
    """`text` with everything that could mislead a reader made visible; line breaks and tabs stay.

    Control characters (terminal escapes), bidirectional overrides, characters without width and lone surrogates become
    <U+202E>; a text over `limit` characters keeps its start and says how much is left out. What comes back is valid in
    XML, and no longer than `limit` and that remark.
    """
    shown: list[str] = []
    length = marks = 0
    for index, character in enumerate(text):
        marks = marks + 1 if unicodedata.combining(character) else 0
        piece = _code_point(character) if marks > _MARKS_ON_ONE or hidden(character) else character
        length += len(piece)
        if length > limit:
            return f"{''.join(shown)} … ({len(text) - index:,} characters left out)"
        shown.append(piece)
    return "".join(shown)


def one_line(text: str, limit: int = CELL_LIMIT) -> str:
    """`text` as one tidy line, its spaces kept: a line break in a name does not start a line of its own."""
    return tidy(_BREAKS.sub(" ", text), limit)


def short(text: str, limit: int = NAME_LIMIT) -> str:
    """A name on one line, its middle left out when it is long: layers differ at their ends."""
    return _ends(tidy(re.sub(r"\s+", " ", _ends(text, 4 * limit)).strip()), limit)


def hidden(character: str) -> bool:
    """Whether a character is one that `tidy` makes visible."""
    if character.isascii():
        return not character.isprintable() and character not in _KEPT_CONTROLS
    return unicodedata.category(character) in _HIDDEN or ord(character) in _INVISIBLE


def _code_point(character: str) -> str:
    return f"<U+{ord(character):04X}>"


def _ends(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    tail = limit // 2
    return f"{text[: limit - tail - 1]}…{text[-tail:]}"
