"""Networks that are cut out and refitted: each structure of a target once, though several steps look at it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from ..channels.dissected import Dissected
from ..channels.removal import Removal
from ..channels.units import Kept
from .batch_norm import norms_of
from .held_out import least
from .lessons import Lessons
from .options import GatesOptions
from .repair import refitted, why_left


@dataclass(frozen=True)
class CutOut:
    """What is left of a network after a removal, not trained yet. unlike: the whole one, on held-out samples."""

    removal: Removal
    network: nn.Module
    unlike: float
    notes: tuple[str, ...]


class Cuts:
    """Cuts structures out of a network: out of its weights as they were, or of those that trained with the gates.

    Gates choose well and train little: what their training costs the weights, a refitting may not give back. Of both
    the one is taken that is more like the whole network on held-out samples.
    """

    def __init__(
        self,
        options: GatesOptions,
        dissected: Dissected,
        whole: nn.Module,
        trained: nn.Module,
        lessons: Lessons,
    ) -> None:
        """whole: the network as it was, that of `lessons`; trained: its copy that gates train in."""
        self.options, self.dissected, self.lessons = options, dissected, lessons
        self.sources = {"out of the weights before": whole}
        if options.method != "solver":
            self.sources = {"out of the trained weights": trained} | self.sources
        repairs = options.compensation or norms_of(whole)
        self.how = "refitted" if repairs and not why_left(lessons.model, lessons) else "as they are cut"
        self._made: list[tuple[Kept, CutOut]] = []

    def of(self, kept: Kept) -> CutOut:
        """What is left of the network without all but `kept`; until it is forgotten it is the same one."""
        for other, cut in self._made:
            if other == kept:
                return cut
        cut = self._cut(kept)
        self._made.append((kept, cut))
        return cut

    def forget(self, but: Kept | None = None) -> None:
        """Hold no network any longer, or one alone: where the weights have changed, and to have the room."""
        self._made = [(kept, cut) for kept, cut in self._made if kept == but]

    def _cut(self, kept: Kept) -> CutOut:
        removal, found = self.dissected.removal(kept), list[CutOut]()
        for source in self.sources.values():
            network, notes = refitted(source, removal, self.lessons, self.options.compensation)
            found.append(CutOut(removal, network, self.lessons.unlike(network), tuple(notes)))
        place = least([cut.unlike for cut in found])
        best = found[place]
        if len(found) == 1:
            return best
        told = ", ".join(f"{cut.unlike:.4g} {name}" for cut, name in zip(found, self.sources, strict=True))
        note = f"unlikeness on held-out samples {told}: cut {list(self.sources)[place]}"
        return replace(best, notes=(*best.notes, note))
