"""Accuracy against measured latency: trained gates, and the ways of making a network smaller that they must beat.

\b
    pip install -r benchmarks/requirements.txt
    compress tabulate examples/solar/cnn.yaml ...         # the latency table that gates are driven by
    python benchmarks/pruning_curve.py --network solar-cnn --table TABLE
    python benchmarks/pruning_curve.py --network solar-vit --table TABLE --methods solver --methods depth --seeds 3
    python benchmarks/pruning_curve.py --network digits-cnn --quick --methods uniform

Each method makes a smaller network of the original and trains it: as many epochs in all, the same rate, augmentation
and teacher, by the project's own trainer. Then it is quantized, built for OpenVINO and judged in float and INT8 on the
test part, and all engines are timed against the original's in process launches that take turns. A baseline's target is
a share of the original's measured latency: how much it must cut for that is found, before any training, by timing
what it cuts. The targets of gates are shares of their cost.

Everything finished is kept in results/pruning_curve/ and not done again. Trainings run in --jobs processes; timing
runs alone. Exit code 1 when a limit is broken or a training failed.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import click
from pruning_engines import judged
from pruning_latency import amounts_for
from pruning_methods import BASELINES, METHODS
from pruning_record import written
from pruning_setting import BY_TABLE, NETWORKS, ORIGINAL, Bench, Cell, Setting, opened
from reporting import environment

PACKAGES = ("edgepress", "torch", "torch-pruning", "openvino", "timm")
STAGES = ("amounts", "trainings", "all")
_bench: Bench | None = None  # of a process that trains


@click.command(help=__doc__)
@click.option("--network", default="solar-cnn", show_default=True, type=click.Choice(list(NETWORKS)))
@click.option(
    "--methods", "--method", multiple=True, type=click.Choice(METHODS), help="Default: the network's."
)
@click.option(
    "--targets", "--target", multiple=True, type=click.FloatRange(0, 1, True, True), help="Of all methods."
)
@click.option(
    "--seeds", default=3, show_default=True, type=click.IntRange(1), help="Trainings from seeds 0, 1, …."
)
@click.option("--epochs", type=click.IntRange(2), help="Of a training in all, in place of the network's own.")
@click.option(
    "--table", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Latency table of gates."
)
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1), help="Trainings at a time.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Of each of them.")
@click.option(
    "--pairs", default=6, show_default=True, type=click.IntRange(2), help="Launches of each engine."
)
@click.option(
    "--until", default="all", show_default=True, type=click.Choice(STAGES), help="Stop after these."
)
@click.option("--only-finished", is_flag=True, help="Train nothing: time and compare what is trained.")
@click.option("--quick", is_flag=True, help="2 epochs on 64 samples, one seed: shows that it works.")
def main(
    network: str, methods: tuple[str, ...], targets: tuple[float, ...], seeds: int, epochs: int | None,
    table: Path | None, jobs: int, threads: int, pairs: int, until: str, only_finished: bool, quick: bool,
) -> None:  # fmt: skip
    """Find amounts, train, time, compare."""
    import torch

    told = environment(PACKAGES)
    seeds, epochs, pairs = (1, 2, 2) if quick else (seeds, epochs or NETWORKS[network].epochs, pairs)
    setting = Setting(network, epochs, table, quick)
    asked = {m: targets or setting.network.targets.get(m, (0.5,)) for m in methods or setting.network.targets}
    if table is None and (driven := [m for m in asked if m in BY_TABLE]):
        raise click.UsageError(
            f"{', '.join(driven)}: a latency table drives them; name its file with --table"
        )
    torch.set_num_threads(jobs * threads)
    bench = opened(setting)
    judged(ORIGINAL, bench)
    cells = _cells(bench, asked, seeds, search=not only_finished)
    if only_finished:
        cells = [cell for cell in cells if (setting.place(cell) / "row.json").is_file()]
    if until == "amounts":
        return
    rows, failures = _trainings(bench, cells, jobs, threads)
    if until == "all" and rows:
        done = [cell for cell in cells if cell.label in rows]
        broken = written(
            bench, {ORIGINAL: judged(ORIGINAL, bench), **{c: rows[c.label] for c in done}}, pairs, told
        )
        for limit in broken:
            print(f"LIMIT BROKEN: {limit}")
        failures += broken
    sys.exit(bool(failures))


def _cells(bench: Bench, asked: dict[str, Sequence[float]], seeds: int, search: bool) -> list[Cell]:
    """All trainings, seed by seed, so that what is finished when time is over can be compared."""
    wanted: list[tuple[str, float, float | None]] = []
    for method, targets in asked.items():
        amounts = amounts_for(bench, method, targets, search) if method in BASELINES else {}
        known = amounts if method in BASELINES else targets
        wanted += [(method, target, amounts.get(target)) for target in known]
    return [Cell(method, target, seed, amount) for seed in range(seeds) for method, target, amount in wanted]


# -- trainings


def _open(setting: Setting, threads: int) -> None:
    import torch

    global _bench
    torch.set_num_threads(threads)
    _bench = opened(setting)


def _train(cell: Cell) -> dict[str, Any]:
    assert _bench is not None
    return judged(cell, _bench)


def _trainings(
    bench: Bench, cells: Sequence[Cell], jobs: int, threads: int
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Rows by the cells' labels, as far as they are; and what failed, which the others do not wait for."""
    setting, failures = bench.setting, list[str]()
    left = [cell for cell in cells if not (setting.place(cell) / "row.json").is_file()]
    rows = {cell.label: judged(cell, bench) for cell in cells if cell not in left}
    steps = len(bench.context.data.train) // setting.network.training["batch"] * setting.epochs
    first = len(left) * steps * setting.network.seconds_a_step / 60
    print(f"{len(cells)} trainings, {len(left)} of them to be done: some {first:.0f} min", flush=True)
    if not left:
        return rows, failures
    spawn, started, done = multiprocessing.get_context("spawn"), time.monotonic(), 0
    with ProcessPoolExecutor(jobs, spawn, _open, (setting, threads)) as pool:
        futures = {pool.submit(_train, cell): cell for cell in left}
        for future in as_completed(futures):
            cell = futures[future]
            try:
                row = rows[cell.label] = future.result()
            except Exception as error:  # whatever it is, it is this training's result
                failures.append(f"{cell.label}: {type(error).__name__}: {error}")
                print(f"FAILED {failures[-1]}", flush=True)
                continue
            done += 1
            minutes = (time.monotonic() - started) / done * (len(left) - done) / 60
            accuracy = row["accuracy"]
            print(
                f"{cell.label}: test {100 * accuracy['float_test']:.2f} % float, {100 * accuracy['int8_test']:.2f} %"
                f" INT8; {done} of {len(left)} done, some {minutes:.0f} min left",
                flush=True,
            )
    return rows, failures


if __name__ == "__main__":
    main()
