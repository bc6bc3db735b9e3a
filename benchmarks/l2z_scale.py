"""What packing and unpacking cost, from 10^5 to 10^8 weights: time, and peak memory over the float weights.

\b
    python benchmarks/l2z_scale.py [--most 8]

Networks of square layers of 2^18 weights (one smaller one below that), each in a process of its own: codes of a normal
distribution at about 2 bits a weight, decoded to float32 as `l2` leaves them. The curve is an SVG beside the table.
Exit code 1 when 2 · 10^7 weights take more than three times the memory of the float weights, these included.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

import click
from reporting import RESULTS, environment, markdown_table, provenance, write

PACKAGES = ("edgepress", "torch", "numpy")
LAYER = 1 << 18
JUDGED, MOST_MEMORY = 20_000_000, 3.0


@click.command(help=__doc__)
@click.option("--most", default=8, show_default=True, type=click.IntRange(5, 8), help="Power of ten.")
@click.option("--one", type=int, hidden=True, help="Measure so many weights in this process, as JSON.")
def main(most: int, one: int | None) -> None:
    """Measure each size in a process of its own, and write the table and the curve."""
    if one is not None:
        print(json.dumps(measured(one)))
        return
    told = environment(PACKAGES)
    sizes = sorted({10**power for power in range(5, most + 1)} | ({JUDGED} if most >= 8 else set()))
    rows = []
    for size in sizes:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(size)], capture_output=True, text=True, check=True
        )
        rows.append(json.loads(done.stdout))
        print(rows[-1], flush=True)
    text = "# Cost of `.l2z` files against the number of weights\n\n" + provenance(told) + "\n" + _table(rows)
    paths = write("l2z_scale", {"environment": told, "rows": rows}, text)
    print(text, "written:", *paths, _plot(rows))
    broken = [r for r in rows if r["weights"] >= JUDGED and r["memory"] > MOST_MEMORY]
    for row in broken:
        print(f"LIMIT BROKEN: {row['weights']:,} weights take {row['memory']:.1f} times their own memory")
    sys.exit(bool(broken))


def measured(count: int) -> dict[str, Any]:
    """Seconds to pack and to unpack, bytes, and the peak memory over the float weights, these included."""
    import numpy as np
    import torch
    from edgepress.model import CodedTensor
    from edgepress.pipeline.l2z.codec import pack_tensors, unpack_tensors

    torch.set_num_threads(1)
    draws = np.random.default_rng(0)
    side = int(min(LAYER, count) ** 0.5)
    values = torch.arange(-32, 33, dtype=torch.float32) / 16
    coded = {}
    for index in range(max(1, round(count / side**2))):
        indices = (draws.standard_normal((side, side), np.float32) + 32.5).clip(0, 64).astype(np.uint8)
        coded[f"layer{index}"] = CodedTensor(torch.from_numpy(indices), values, torch.ones(side), 0)
    tensors = {name: each.tensor() for name, each in coded.items()}
    total = sum(tensor.numel() for tensor in tensors.values())
    before = _peak()
    started = time.perf_counter()
    content = pack_tensors(tensors, coded=coded)
    packed = time.perf_counter()
    memory = max(0, _peak() - before)
    found, _ = unpack_tensors(content, "x")
    unpacked = time.perf_counter()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    return {
        "weights": total,
        "bytes": len(content),
        "pack": packed - started,
        "unpack": unpacked - packed,
        "pack_memory": 1 + memory / (4 * total),
        "memory": 1 + (_peak() - before) / (4 * total),
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


HEADER = ("weights", "file", "bits each", "packed in", "unpacked in", "peak memory / float weights")


def _table(rows: list[dict[str, Any]]) -> str:
    return markdown_table(
        HEADER,
        [
            [
                f"{r['weights']:,}",
                f"{r['bytes']:,} B",
                f"{8 * r['bytes'] / r['weights']:.2f}",
                f"{r['pack']:.2f} s",
                f"{r['unpack']:.2f} s",
                f"{r['memory']:.2f}",
            ]
            for r in rows
        ],
    )


def _plot(rows: list[dict[str, Any]]) -> Any:
    """Seconds over weights, both on logarithmic axes, with the line of a linear cost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    counts = [r["weights"] for r in rows]
    for what in ("pack", "unpack"):
        axes.loglog(counts, [r[what] for r in rows], marker="o", label=what)
    last = rows[-1]
    axes.loglog(
        counts, [last["pack"] * n / last["weights"] for n in counts], ":", color="grey", label="linear"
    )
    axes.set(xlabel="weights", ylabel="seconds")
    axes.legend()
    figure.savefig(RESULTS / "l2z_scale.svg")
    return RESULTS / "l2z_scale.svg"


if __name__ == "__main__":
    main()
