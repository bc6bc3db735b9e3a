"""What closed-form compensation wins back after a removal, against fine-tuning: solar and digits.

\b
    python benchmarks/compensation.py                                  # both solar networks; some hours on two cores
    python benchmarks/compensation.py --network solar-cnn --share 0.5 --seeds 3
    python benchmarks/compensation.py --network digits-cnn --quick

Of each network the channels and heads of least Taylor importance are removed, all at once, until a share of its
parameters is left. Then it is refitted in closed form as the pass `gates` does it (`passes/gating/repair.py`); or
fine-tuned as there, towards the whole network's outputs and the labels; or one after the other. Told is, on the test
part, how unlike the whole network it answers: KL divergence in nats, agreement of the first class, and accuracy. A seed
draws the labels that importance is taken of, and the training's order. Finished rows are kept in results/compensation/.
Large networks train in BF16 where the CPU computes in it.
Exit code 1 when a limit is broken: compensation alone takes back at least half of the KL that fine-tuning takes back.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import sys
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import click
from int8_peers import EXAMPLES, _read
from pruning_methods import Remembered
from pruning_setting import AMP
from reporting import RESULTS, environment, markdown_table, provenance, write

PACKAGES = ("edgepress", "torch", "torch-pruning")
WON_BACK = 0.5  # of the KL that fine-tuning takes back
VARIANTS = ("removed", "compensated", "fine-tuned", "compensated, fine-tuned")
FLIPS = ("flip_horizontal", "flip_vertical")
QUICK = {"train": 64, "calibration": 32, "validation": 32, "test": 64}  # samples


@dataclass(frozen=True)
class Network:
    """A recipe's network, and how it is fine-tuned."""

    recipe: Path
    training: dict[str, Any]


NETWORKS = {
    "solar-cnn": Network(
        EXAMPLES / "solar" / "cnn.yaml", {"epochs": 8, "batch": 32, "lr": 5e-4, "augment": FLIPS}
    ),
    "solar-vit": Network(
        EXAMPLES / "solar" / "vit.yaml",
        {"epochs": 3, "batch": 16, "lr": 1e-6, "amp": AMP, "augment": FLIPS},
    ),
    "digits-cnn": Network(EXAMPLES / "digits" / "cnn.yaml", {"epochs": 8, "lr": 1e-3, "augment": ("shift",)}),
    "digits-vit": Network(EXAMPLES / "digits" / "vit.yaml", {"epochs": 8, "lr": 5e-4, "augment": ("shift",)}),
}
SOLAR = [name for name in NETWORKS if name.startswith("solar")]


@dataclass
class Bench:
    """One network and its data. answers: of the whole network, by image."""

    model: Any
    context: Any
    training: dict[str, Any]
    answers: dict[int, Any] = field(default_factory=dict)

    @cached_property
    def dissected(self) -> Any:
        """What can be removed."""
        from edgepress.passes.channels.dissect import Rules, dissect
        from edgepress.passes.channels.kind import Kind

        return dissect(self.model, "benchmark", Rules(frozenset({Kind.CHANNELS, Kind.HEADS})))

    def lessons(self, seed: int) -> Any:
        """The samples that the pass fits to, and its loss."""
        from edgepress.passes.gates import Gates
        from edgepress.passes.gating.lessons import Lessons

        macs = sum(term.whole for layer in self.dissected.anatomy.layers for term in layer.macs)
        return Lessons(Gates(), self.model, replace(self.context, seed=seed), macs)

    def removed(self, share: float, lessons: Any) -> tuple[Any, Any]:
        """The network with this share of its parameters, and the removal."""
        from edgepress.passes.channels.removal import removed
        from edgepress.passes.gating.cost import ParamsCost
        from edgepress.passes.gating.importance import taylor
        from edgepress.passes.gating.projection import project

        anatomy = self.dissected.anatomy
        importance = taylor(lessons.importance_losses(self.dissected), anatomy.units)
        kept = project(importance, ParamsCost(anatomy), share, anatomy.units)
        removal = self.dissected.removal(kept)
        return removed(self.model.module, removal), removal

    def compensated(self, smaller: Any, removal: Any, lessons: Any) -> tuple[Any, float, list[str]]:
        """A refitted copy, the seconds that it took, and notes."""
        from edgepress.passes.gating.repair import repaired

        network, started = copy.deepcopy(smaller), time.perf_counter()
        notes = repaired(self.model, network, removal, lessons)
        return network, time.perf_counter() - started, notes

    def left(self, network: Any) -> float:
        """The share of the parameters that is left."""
        return float(sum(p.numel() for p in network.parameters()) / self.model.facts().params)

    def fine_tuned(self, network: Any, lessons: Any, seed: int, epochs: int | None) -> None:
        """Train `network` in place as the pass does it."""
        from edgepress.passes.gating.fine_tuning import FineTuning
        from edgepress.passes.teaching.taps import Tapped
        from edgepress.passes.training.options import TrainingOptions
        from edgepress.passes.training.stage import Stages

        options = TrainingOptions(**self.training | ({} if epochs is None else {"epochs": epochs}))
        stages = Stages("benchmark", self.context.data.train, replace(self.context, seed=seed), None)
        objective = FineTuning(Tapped(network, []), lessons.likeness())
        stages.train("fine-tuning", objective, options, judged=objective.outputs)
        network.eval()

    def told(self, network: Any) -> dict[str, float]:
        """KL, agreement and the metric on the test part."""
        from edgepress.calibration.fidelity import Compared

        whole = Remembered(self.model.module, self.answers)
        beside = Compared(replace(self.model, module=network).run, lambda *inputs: (whole(*inputs),))
        part = self.context.data.judge
        metric = self.context.metric.measure(beside, part, 32).record.value
        record = beside.record(part.name)
        assert record is not None  # both solar and both digits networks give logits
        return {"kl": record.kl, "agreement": record.agreement, "accuracy": metric}


def opened(network: Network, quick: bool) -> Bench:
    """Read a network and its data."""
    model, data, context, _ = _read(network.recipe)
    if quick:
        data = replace(data, **{name: getattr(data, name).head(count) for name, count in QUICK.items()})
    return Bench(model, replace(context, data=data), network.training)


def rows_of(
    name: str, bench: Bench, share: float, seed: int, epochs: int | None, folder: Path
) -> list[dict[str, Any]]:
    """A row for each variant; those of an earlier run are read."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {variant: folder / f"{variant.replace(', ', '-')}-{seed}.json" for variant in VARIANTS}
    if not all(path.is_file() for path in paths.values()):
        lessons = bench.lessons(seed)
        smaller, removal = bench.removed(share, lessons)
        starts = {False: (smaller, 0.0, []), True: bench.compensated(smaller, removal, lessons)}
    for variant, path in paths.items():
        if path.is_file():
            continue
        start, seconds, notes = starts["compensated" in variant]
        network, started = copy.deepcopy(start), time.perf_counter()
        if "fine-tuned" in variant:
            bench.fine_tuned(network, lessons, seed, epochs)
        seconds += time.perf_counter() - started
        row = {"network": name, "share": share, "left": bench.left(network), "seed": seed}
        row |= {"variant": variant, **bench.told(network), "seconds": seconds, "notes": notes}
        path.write_text(json.dumps(row) + "\n")
        print(row, flush=True)
    return [json.loads(path.read_text()) for path in paths.values()]


@click.command(help=__doc__)
@click.option("--network", "names", multiple=True, type=click.Choice(list(NETWORKS)), help="Default: solar.")
@click.option(
    "--share", "shares", multiple=True, default=(0.7, 0.5), show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Of the parameters, that is left.",
)  # fmt: skip
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="0, 1, …")
@click.option("--epochs", type=click.IntRange(1), help="Of fine-tuning, in place of the network's own.")
@click.option("--quick", is_flag=True, help="One epoch, few samples: proves nothing.")
def main(
    names: tuple[str, ...], shares: tuple[float, ...], seeds: int, epochs: int | None, quick: bool
) -> None:
    """Remove, compensate and fine-tune, and write the table."""
    told = environment(PACKAGES)
    epochs = 1 if quick else epochs
    rows: list[dict[str, Any]] = []
    for name in names or SOLAR:
        bench = opened(NETWORKS[name], quick)
        for share in shares:
            kept = f"{name}-{share:g}-{_digest(NETWORKS[name], epochs)}" + ("-quick" if quick else "")
            for seed in range(seeds):
                rows += rows_of(name, bench, share, seed, epochs, RESULTS / "compensation" / kept)
    won = won_back(rows)
    broken = [
        f"{name} at {share:g}: {_told(part)}"
        for (name, share), part in won.items()
        if not quick and not part >= WON_BACK
    ]
    text = (
        "# Compensation against fine-tuning\n\n" + provenance(told) + "\n" + _table(rows) + "\n" + _won(won)
    )
    record = {"environment": told, "quick": quick, "rows": rows, "broken": broken}
    paths = write("compensation_quick" if quick else "compensation", record, text)
    print(text, "written:", *paths)
    for limit in broken:
        print(f"LIMIT BROKEN: {limit}")
    sys.exit(bool(broken))


def _digest(network: Network, epochs: int | None) -> str:
    """Of how a network is trained: rows of other trainings are kept apart."""
    trained = {**network.training, **({} if epochs is None else {"epochs": epochs})}
    return hashlib.sha256(json.dumps(trained, sort_keys=True).encode()).hexdigest()[:8]


def won_back(rows: list[dict[str, Any]]) -> dict[tuple[str, float], float]:
    """By network and share, how much of the KL that fine-tuning takes back compensation takes back; means of seeds.

    Where fine-tuning takes nothing back, that is infinite if compensation does, and NaN if neither does.
    """
    won = {}
    for name, share in dict.fromkeys((row["network"], row["share"]) for row in rows):
        own = [row for row in rows if (row["network"], row["share"]) == (name, share)]
        kl = {each: mean(row["kl"] for row in own if row["variant"] == each) for each in VARIANTS}
        lost, compensated, tuned = (kl[each] for each in VARIANTS[:3])
        by_tuning, by_fitting = lost - tuned, lost - compensated
        alone = math.inf if by_fitting > 0 else math.nan
        won[name, share] = by_fitting / by_tuning if by_tuning > 0 else alone
    return won


def _told(part: float) -> str:
    if math.isnan(part):
        return "neither takes back anything"
    if math.isinf(part):
        return "fine-tuning takes nothing back, compensation does"
    return f"{100 * part:.0f} % of what fine-tuning takes back, the limit is {100 * WON_BACK:.0f} %"


def _won(won: dict[tuple[str, float], float]) -> str:
    header = ("network", "parameters left", "compensation takes back, of the KL")
    return markdown_table(header, [[name, f"{share:g}", _told(part)] for (name, share), part in won.items()])


def _table(rows: list[dict[str, Any]]) -> str:
    return markdown_table(
        ("network", "parameters left", "seed", "variant", "KL", "agreement", "accuracy", "took"),
        [
            [
                row["network"],
                f"{100 * row['left']:.1f} %",
                str(row["seed"]),
                row["variant"],
                f"{row['kl']:.4f}",
                f"{100 * row['agreement']:.1f} %",
                f"{100 * row['accuracy']:.1f} %",
                f"{row['seconds']:.0f} s",
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
