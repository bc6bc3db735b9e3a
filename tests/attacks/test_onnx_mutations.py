"""Mutants of an ONNX file through inspect, lint and pack: each is read or refused; none runs, crashes or hangs.

Some by default; MUTATIONS=2500 for the fuzz that a change of a reader deserves.
"""

from __future__ import annotations

from mutations import number_of_mutants, read_mutants


def test_onnx_mutants_are_read_or_refused() -> None:
    assert read_mutants({"onnx": number_of_mutants(40)}, module="onnx_mutations") == []
