"""Progress: plain lines for a log file, also where the work gives its first sign late."""

from __future__ import annotations

import pytest
from edgepress import progress
from edgepress.progress import PlainLines


def test_a_first_item_that_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two items, each 20 s in the making: nothing is done yet when the first line is due."""
    clock = iter([0.0, 20.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(PlainLines().track(iter("ab"), "pairs", 2)) == ["a", "b"]
    assert capsys.readouterr().err == "  pairs: 0 of 2\n  pairs: 1 of 2, 40 s left\n"
