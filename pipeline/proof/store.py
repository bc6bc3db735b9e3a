"""The proofs of a run's exported files in the store, with the outputs that devices are compared with."""

from __future__ import annotations

from pydantic import ValidationError
from torch import Tensor

from ..run_record import ParityRecord
from ..store import Entry, Store

MAX_BYTES = 64 << 20
"""Most bytes of outputs that are kept: those of a segmentation network are made anew sooner than read."""

Outputs = list[tuple[Tensor, ...]]


def store_proofs(store: Store, key: str, proofs: list[ParityRecord], references: tuple[Outputs, ...]) -> None:
    """Keep proofs that hold, and the outputs of each reference, batch by batch; failures are never kept."""
    tensors = {
        f"{index}.{batch}.{output}": tensor
        for index, outputs in enumerate(references)
        for batch, row in enumerate(outputs)
        for output, tensor in enumerate(row)
    }
    if all(proof.ok for proof in proofs) and sum(tensor.nbytes for tensor in tensors.values()) <= MAX_BYTES:
        store.put(key, Entry({"proofs": [proof.model_dump(mode="json") for proof in proofs]}, tensors))


def stored_proofs(store: Store, key: str) -> tuple[list[ParityRecord], tuple[Outputs, ...]] | None:
    """What `store_proofs` kept, bit for bit; None when there is nothing, or it is of another form."""
    entry = store.get(key)
    if entry is None:
        return None
    try:
        proofs = [ParityRecord.model_validate(proof) for proof in entry.values["proofs"]]
        rows: dict[int, dict[int, dict[int, Tensor]]] = {}
        for name, tensor in entry.tensors.items():
            index, batch, output = map(int, name.split("."))
            rows.setdefault(index, {}).setdefault(batch, {})[output] = tensor
    except (LookupError, TypeError, ValueError, ValidationError):
        return None
    references = tuple(
        [tuple(row[output] for output in sorted(row)) for _, row in sorted(batches.items())]
        for _, batches in sorted(rows.items())
    )
    return proofs, references
