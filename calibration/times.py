"""How long a network takes beside another one that it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from .statistics import geometric_mean


@dataclass(frozen=True)
class Times:
    """Of each round of launches in turns the time over the whole network's (ratios), and the whole one's in ms.

    ms: its own, in the first round.
    """

    ratios: tuple[float, ...]
    whole_ms: tuple[float, ...]
    ms: float

    @property
    def ratio(self) -> float:
        """Over the whole network's, the geometric mean over rounds."""
        return geometric_mean(self.ratios)[0]

    @property
    def median_whole_ms(self) -> float:
        """The whole network's, the median over rounds."""
        return median(self.whole_ms)
