"""Sites, the blocks that tokens go from: each takes time of its own, so that fewer of them can leave more tokens."""

from __future__ import annotations

from collections.abc import Sequence

from .cost import Cost
from .greedy import Harm, greedy
from .schedule import Schedule


def sites_of(schedule: Schedule) -> list[int]:
    """The blocks that keep fewer tokens than they are given."""
    rows = zip(schedule.blocks, schedule.entering(), strict=True)
    return [block for block, (kept, given) in enumerate(rows) if kept.merged < given]


def without_site(schedule: Schedule, block: int, prunes: bool) -> Schedule:
    """The same counts behind the next site: what went at this one goes there instead, or stays where there is none.

    prunes: whether tokens may be dropped, and not only merged.
    """
    before = schedule.entering()[block]
    behind = [site for site in sites_of(schedule) if site > block]
    end = behind[0] if behind else len(schedule.blocks)
    pruned, merged = ([getattr(kept, name) for kept in schedule.blocks] for name in ("pruned", "merged"))
    pruned[block:end] = merged[block:end] = [before] * (end - block)
    if behind and not prunes:
        pruned[end] = before
    return schedule.with_counts(pruned, merged)


def paying(schedule: Schedule, cost: Cost, prunes: bool) -> Schedule:
    """Without the sites that take no less than they save, the worst one first."""
    while sites := sites_of(schedule):
        others = {site: cost.of(without_site(schedule, site, prunes)) for site in sites}
        worst = min(others, key=lambda site: others[site])
        if others[worst] > cost.of(schedule):
            break
        schedule = without_site(schedule, worst, prunes)
    return schedule


def with_fewer_sites(schedule: Schedule, cost: Cost, limit: float, harm: Harm, prunes: bool) -> Schedule:
    """Of at most the same cost and less harm, by leaving out one site after the other and taking more at the rest.

    limit, harm and prunes: as of `greedy`.
    """
    best = paying(schedule, cost, prunes)
    while len(sites := sites_of(best)) > 1:
        tried = list[Schedule]()
        for site in sites:
            rest = [other for other in sites if other != site]
            found = greedy(without_site(best, site, prunes), rest, cost, limit, harm, prunes)
            tried += [found] if cost.of(found) <= limit else []
        better = min(tried, key=harm, default=best)
        if harm(better) >= harm(best):
            break
        best = better
    return best


def spread(sites: Sequence[int]) -> list[Sequence[int]]:
    """All sites, every second one, and so on to the first alone."""
    return [sites[::stride] for stride in range(1, len(sites) + 1)]
