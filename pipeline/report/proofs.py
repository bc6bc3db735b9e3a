"""The proofs of a record: which there are, and each in words."""

from __future__ import annotations

from ..pages.words import known, number, percent
from ..run_record import ParityRecord, RunRecord


def all_proofs(record: RunRecord) -> list[ParityRecord]:
    """Every proof once: those of the flow, then those that only a device holds."""
    own = [proof for target in record.targets for proof in target.parities]
    return record.proofs + [proof for proof in own if proof not in record.proofs]


def broken_proof(proof: ParityRecord) -> str:
    """A broken proof in words: by how much, against which limit, and from which layer on."""
    found = "the outputs differ by more than the limit" if known(proof.sqnr_db) else "the outputs differ"
    text = f"The proof {proof.edge} is broken: {found} ({proof.limit})"
    if proof.worst:
        text += f"; the worst is {proof.worst}"
    elif known(proof.sqnr_db):
        text += f", SQNR {number(proof.sqnr_db, 1)} dB"
    return text + (f". First layer that differs: {proof.where}" if proof.where else "") + "."


def proof_text(proof: ParityRecord) -> str:
    """What a proof found, and where: of its numbers those that there are."""
    parts = [f"SQNR {number(proof.sqnr_db, 1)} dB"] * known(proof.sqnr_db)
    parts += [f"same top-1 {percent(proof.top1_agreement)}"] * known(proof.top1_agreement)
    parts += [f"equal {percent(proof.agreement)}"] * known(proof.agreement)
    parts += [f"max error {proof.max_error:.3g}" if proof.max_error is not None else ""]
    text = ", ".join(filter(None, parts))
    text = "; ".join(
        filter(None, [text, f"limit {proof.limit}", f"worst: {proof.worst}" * bool(proof.worst)])
    )
    return text + (f"; first layer that differs: {proof.where}" if proof.where else "")
