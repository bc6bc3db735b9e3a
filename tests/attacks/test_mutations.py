"""Mutants of small valid files: each is read or refused with a reason; none runs code, crashes or hangs.

Some of each kind by default; MUTATIONS=7500 for the fuzz that a change of a reader deserves.
"""

from __future__ import annotations

import pytest
from mutations import KINDS, number_of_mutants, read_mutants

QUICK = 100  # over all kinds
SHARES = {"pt": 0.3, "legacy": 0.2, "safetensors": 0.2, "pt2": 0.1, "npz": 0.2}


@pytest.mark.parametrize("kind", KINDS)
def test_mutants_are_read_or_refused(kind: str) -> None:
    count = round(number_of_mutants(QUICK) * SHARES[kind])
    assert read_mutants(kind, 0, count) == []
