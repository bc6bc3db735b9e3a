"""Edits of texts whose very words or lines are what a test is about; what can be built from data is not edited."""

from __future__ import annotations

from typing import AnyStr


def replaced(text: AnyStr, old: AnyStr, new: AnyStr) -> AnyStr:
    """`text` with `new` for each `old`; AssertionError where there is none, for the test would be of another text."""
    assert old in text, f"{old!r} is not in {text!r:.2000}"
    return text.replace(old, new)
