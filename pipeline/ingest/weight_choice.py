"""Which state dict of a checkpoint a network is loaded from: one that fits, averaged weights first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...calibration.named import did_you_mean
from ...errors import CompressError
from .state_dicts import MAIN_KEYS, Checkpoint, is_averaged

PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel and AveragedModel, torch.compile, Lightning
SHOWN = 5  # names in one message


@dataclass(frozen=True)
class Candidate:
    """One state dict, read with a prefix taken off. foreign: names without the prefix, and so not the network's."""

    key: str
    prefix: str
    entries: Mapping[str, Any]
    foreign: tuple[str, ...] = ()

    @property
    def full(self) -> str:
        """The key and the prefix below it: `state_dict.module`."""
        return ".".join(part for part in (self.key, self.prefix.rstrip(".")) if part)

    @property
    def label(self) -> str:
        """What `weights_key` calls it: `state_dict_ema`, `state_dict.model_ema`; wrappers' prefixes are left out."""
        plain = all(f"{part}." in PREFIXES for part in self.prefix.rstrip(".").split("."))
        return self.key if plain and self.key else self.full

    @property
    def taken_off(self) -> str:
        """What to say of the prefix and of foreign entries; empty for neither."""
        if not self.prefix:
            return ""
        steps, rest = [], self.prefix
        while known := next((p for p in PREFIXES if rest.startswith(p)), None):
            steps.append(known)
            rest = rest.removeprefix(known)
        steps += [rest] if rest else []
        names = "all names" if not self.foreign else "the network's names"
        text = "; ".join(f"the prefix {step!r} was taken off {names}" for step in steps)
        return f"{text}; not the network's, and left out: {named(self.foreign)}" if self.foreign else text


def choose(
    checkpoint: Checkpoint, own: Mapping[str, Tensor], key: str | None = None
) -> tuple[Candidate, str]:
    """The state dict to load into a network with the tensors `own`, and a note ("" when nothing was chosen).

    key: what `weights_key` says. Of several that fit, the averaged weights (EMA) are taken: they are kept to be
    deployed. CompressError where nothing tells which; a candidate that does not fit comes back for its own message.
    """
    known = [c for name, entries in checkpoint.sets.items() for c in _candidates(name, entries, own)]
    asked = (
        known
        if key is None
        else [c for c in known if key in (c.label, c.full, c.key, c.prefix.rstrip(".") or None)]
    )
    if not asked:
        labels = list(dict.fromkeys(c.label for c in known))
        raise CompressError(
            f"weights: {checkpoint.path} holds no state dict {key!r}{did_you_mean(str(key), labels)}; it holds"
            f" {named([label or '(the file itself)' for label in labels])}"
        )
    whole = [c for c in asked if _fits(c, own)]
    fitting = whole if key is not None else [c for c in whole if _is_clear(c)]
    plain = [c for c in fitting if not c.foreign]
    fitting = plain + [c for c in fitting if c.foreign and not any(p.key == c.key for p in plain)]
    if not fitting:
        best = max((c for c in asked if not c.foreign), key=lambda c: (_matching(c, own), -_rank(c)))
        parts = [f"weights_key: {c.label}" for c in whole]
        hint = f"a part of it would fit: {named(parts)}" if parts else ""
        return best, "; ".join(filter(None, (_others_note(best, checkpoint, []), hint)))
    exact = [c for c in fitting if key in (c.label, c.full)]
    fitting = exact or fitting
    chosen = _preferred(fitting, checkpoint)
    return chosen, "; ".join(filter(None, (_others_note(chosen, checkpoint, fitting), chosen.taken_off)))


def choose_alone(checkpoint: Checkpoint) -> Candidate:
    """Choose by name alone, where there is no network to fit."""
    return _preferred([Candidate(name, "", entries) for name, entries in checkpoint.sets.items()], checkpoint)


def to_show(checkpoint: Checkpoint) -> tuple[Candidate, list[str]]:
    """The state dict that stands for a checkpoint where there is no network, and what else it holds, in words."""
    try:
        shown = choose_alone(checkpoint)
    except CompressError:
        shown = next(Candidate(name, "", entries) for name, entries in checkpoint.sets.items())
    held = []
    if len(checkpoint.sets) > 1:
        sizes = [f"{name} ({len(entries)} entries)" for name, entries in checkpoint.sets.items()]
        held.append(f"{len(sizes)} state dicts: {named(sizes)}; listed here: {shown.label}")
    if checkpoint.others:
        held.append(f"beside tensors: {named(checkpoint.others)}")
    return shown, held


def named(names: Sequence[str] | Mapping[str, Any]) -> str:
    """The first few of `names`, and how many more there are."""
    listed = [name[:80] for name in names]
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return f"{', '.join(listed[:SHOWN])}{more}"


def may_lack(name: str, tensor: Tensor, tied: set[int]) -> bool:
    """Batch counters of old checkpoints, and tensors that share their memory with one that is there."""
    return name.endswith("num_batches_tracked") or (tensor.numel() > 0 and tensor.data_ptr() in tied)


def missing_names(entries: Mapping[str, Any], own: Mapping[str, Tensor]) -> list[str]:
    """The network's names that are not there, and are needed."""
    tied = {t.data_ptr() for k, t in own.items() if k in entries and t.numel()}
    return [k for k in own if k not in entries and not may_lack(k, own[k], tied)]


def _candidates(key: str, entries: Mapping[str, Any], own: Mapping[str, Tensor]) -> Iterator[Candidate]:
    yield Candidate(key, "", entries)
    prefixes = dict.fromkeys([_common_prefix(entries, own)])
    first = next((k for k in own if not k.endswith("num_batches_tracked")), None)
    if first is not None:
        prefixes |= dict.fromkeys(k.removesuffix(first) for k in entries if k.endswith(f".{first}"))
    for prefix in prefixes:
        if prefix:
            inside = {k.removeprefix(prefix): v for k, v in entries.items() if k.startswith(prefix)}
            yield Candidate(key, prefix, inside, tuple(k for k in entries if not k.startswith(prefix)))


def _common_prefix(entries: Mapping[str, Any], own: Mapping[str, Tensor]) -> str:
    """The known prefixes that all names have, one after the other, and the network's own names have not."""
    found = ""
    while known := next(
        (
            p
            for p in PREFIXES
            if entries
            and all(k.startswith(found + p) for k in entries)
            and not any(k.startswith(p) for k in own)
        ),
        None,
    ):
        found += known
    return found


def _fits(candidate: Candidate, own: Mapping[str, Tensor]) -> bool:
    """Whether every tensor of the network is there in its shape, and under the prefix nothing else."""
    entries = candidate.entries
    if missing_names(entries, own) or any(k not in own for k in entries):
        return False
    return all(isinstance(v, Tensor) and _shape(v) == own[k].shape for k, v in entries.items())


def _is_clear(candidate: Candidate) -> bool:
    """Whether the prefix is surely the network's: its names could stand in the middle of another, larger network."""
    return len(candidate.foreign) < len(candidate.entries) or _is_known(candidate.prefix)


def _shape(tensor: Tensor) -> object:
    return None if tensor.is_nested else tensor.shape


def _is_known(prefix: str) -> bool:
    parts = prefix.rstrip(".").split(".")
    return all(f"{part}." in PREFIXES or part in MAIN_KEYS or is_averaged(part) for part in parts)


def _matching(candidate: Candidate, own: Mapping[str, Tensor]) -> int:
    return sum(
        k in own and isinstance(v, Tensor) and _shape(v) == own[k].shape for k, v in candidate.entries.items()
    )


def _rank(candidate: Candidate) -> int:
    key = candidate.key.rpartition(".")[2]
    return MAIN_KEYS.index(key) if key in MAIN_KEYS else len(MAIN_KEYS)


def _preferred(fitting: Sequence[Candidate], checkpoint: Checkpoint) -> Candidate:
    averaged = [c for c in fitting if is_averaged(c.label)]
    if len(averaged) == 1:
        return averaged[0]
    rest = averaged or fitting
    least = min(_rank(c) for c in rest)
    best = [c for c in rest if _rank(c) == least]
    if len(best) > 1 and not _are_alike(best):
        raise CompressError(
            f"weights: {checkpoint.path} holds several state dicts, and nothing tells which is meant:"
            f" {named([c.label for c in best])}; name one with `weights_key`, as in weights_key: {best[0].label}"
        )
    return best[0]


def _are_alike(candidates: Sequence[Candidate]) -> bool:
    first, *others = (c.entries for c in candidates)
    return all(
        other.keys() == first.keys()
        and all(
            isinstance(v, Tensor) and isinstance(first[k], Tensor) and _same(v, first[k])
            for k, v in other.items()
        )
        for other in others
    )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.layout == b.layout and _shape(a) == _shape(b) and a.dtype == b.dtype and bool((a == b).all())


def _others_note(chosen: Candidate, checkpoint: Checkpoint, fitting: Sequence[Candidate]) -> str:
    """What was taken and what was not, where there was anything to choose."""
    others = [c.label for c in fitting if c is not chosen]
    unfit = [key for key in checkpoint.sets if key != chosen.key and all(c.key != key for c in fitting)]
    if not others and not unfit:
        return ""
    why = ", the averaged weights, which are kept to be deployed" if is_averaged(chosen.label) else ""
    text = f"the weights are those of {chosen.label!r}{why}"
    if others:
        text += f"; {named(others)} would fit too and was not taken (`weights_key` chooses)"
    if unfit:
        text += f"; not of this network: {named(unfit)}"
    return text
