"""Proofs that are kept: bit for bit, only those that hold, and only while their bytes are the ones that were kept."""

from __future__ import annotations

from pathlib import Path

import torch
from edgepress.pipeline.proof.store import MAX_BYTES, store_proofs, stored_proofs
from edgepress.pipeline.store import Store
from edits import replaced
from run_records import parity


def test_proofs_come_back_with_their_outputs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    before = [(torch.randn(2, 3), torch.arange(2)) for _ in range(11)]
    after = [(torch.randn(2, 3), torch.arange(2)) for _ in range(11)]
    store_proofs(store, "key", [parity()], (before, after))
    found = stored_proofs(store, "key")
    assert found is not None
    proofs, references = found
    assert proofs == [parity()]
    for wanted, got in zip((before, after), references, strict=True):
        assert len(wanted) == len(got) == 11
        for one, other in zip(wanted, got, strict=True):
            assert [t.dtype for t in one] == [t.dtype for t in other] == [torch.float32, torch.int64]
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_broken_proof_and_endless_outputs_are_not_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store_proofs(store, "broken", [parity(), parity(ok=False)], ([], []))
    store_proofs(store, "large", [parity()], ([(torch.zeros(MAX_BYTES // 4 + 1),)], []))
    assert stored_proofs(store, "broken") is None
    assert stored_proofs(store, "large") is None


def test_other_bytes_are_not_reused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store_proofs(store, "key", [parity()], ([(torch.zeros(2),)], [(torch.zeros(2),)]))
    values = tmp_path / "key" / "values.json"
    values.write_text(replaced(values.read_text(), "34.2", "99.9"))
    assert stored_proofs(store, "key") is None
