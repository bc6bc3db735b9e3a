"""Which grid each observed tensor gets: one way to choose its range for all, or the best of several for each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import fx

from ...calibration.ranges import Observer, choose_range
from ...calibration.scheme import QuantScheme, RangeMethod
from ...progress import Progress
from ..graph.observe import Batch
from .output_effect import Change, Replaced, output_sqnr_db
from .quantizers import ActivationQuantizer, Grid

METHODS: tuple[RangeMethod, ...] = ("mse", "minmax", "percentile")
"""What `auto` chooses from; the first of equally good ones wins."""


def grid_of(low: float, high: float, scheme: QuantScheme, centred: bool = False) -> Grid:
    """The grid whose ends stand for `low` <= 0 and `high` >= 0, the larger of them for both if it is symmetric.

    centred: at zero point 0 under any scheme.
    """
    if scheme.asymmetric:
        scale = (high - low) / 255
        grid = Grid(scale, zero_point=max(0, min(255, round(-low / scale))), unsigned=True)
        if grid.zero_point == 0 or not centred:
            return grid
    return Grid(max(-low, high) / 127)


def grids_for(
    observers: Mapping[str, Observer],
    method: RangeMethod,
    scheme: QuantScheme,
    centred: Collection[str] = (),
) -> dict[str, Grid]:
    """A grid for each observed tensor, its range chosen by `method`; at zero point 0 for those in `centred`."""
    grids = {}
    for name, observer in observers.items():
        symmetric = not scheme.asymmetric or (name in centred and observer.low < 0)
        chosen = choose_range(observer, method, symmetric=symmetric)
        grids[name] = grid_of(chosen.low, chosen.high, scheme, name in centred)
    return grids


def best_grids(
    module: fx.GraphModule,
    candidates: Iterable[Mapping[str, Grid]],
    batches: Callable[[], Iterable[Batch]],
    generator: torch.Generator,
    progress: Progress,
    what: str,
) -> tuple[dict[str, Grid], dict[str, float]]:
    """Choose for each tensor the candidate's grid whose rounding moves the network's outputs least.

    candidates: grids by node name, the same names in each. Returns the grids, and the outputs' SQNR in dB when
    that tensor alone is rounded, to first order. what: the pass, for messages.
    """
    distinct = {(name, grid): None for grids in candidates for name, grid in grids.items()}
    changes: dict[tuple[str, Grid], Change] = {
        (name, grid): Replaced(name, ActivationQuantizer(grid)) for name, grid in distinct
    }
    sqnr = output_sqnr_db(module, batches(), changes, generator, progress, what)
    best: dict[str, Grid] = {}
    for name, grid in distinct:
        if name not in best or sqnr[name, grid] > sqnr[name, best[name]]:
            best[name] = grid
    return best, {name: sqnr[name, grid] for name, grid in best.items()}
