"""Mutants of small valid files: each is read or refused with a reason; none runs code, crashes or hangs.

Some of each kind by default; MUTATIONS=7500 for the fuzz that a change of a reader deserves.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mutations import KINDS, number_of_mutants, read_mutants

QUICK = 100  # over all kinds
SHARES = {"pt": 0.3, "legacy": 0.2, "safetensors": 0.2, "pt2": 0.1, "npz": 0.2}
BAD_KINDS = """\
import os, signal, sys
from pathlib import Path
from mutations import Kind, read_here

def read(path):
    if path.stem == "m1":
        raise ValueError("not ours")
    if path.stem == "m2":
        os.kill(os.getpid(), signal.SIGSEGV)

read_here({"bad": Kind("", lambda: b"x", lambda content, rng: content, read)}, sys.stdin.read().split(), Path.cwd())
"""


def test_mutants_are_read_or_refused() -> None:
    mutants = number_of_mutants(QUICK)
    assert SHARES.keys() == KINDS.keys()
    assert read_mutants({kind: round(mutants * share) for kind, share in SHARES.items()}) == []


def test_errors_and_crashes_are_seen_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad_kinds.py").write_text(BAD_KINDS)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    )
    wrong = read_mutants({"bad": 4}, module="bad_kinds")
    assert [text.partition(":")[0] for text in wrong] == ["wrong bad 1", "wrong bad 2"]
    assert "ValueError: not ours" in wrong[0]
    assert "the process ended with -11" in wrong[1]
