"""Eight runs at once on one store, two of them of the same recipe, some killed at random and started again.

\b
    python benchmarks/shared_store.py [--rounds 20]

In each round a new store is shared by eight runs of the digits CNN with seven seeds. While they work, some are killed
(SIGKILL) and started again. At the end every run must have passed, and its artefacts must be those of a run of the same
recipe that had a store of its own. Exit code 1 when one differs, is torn or lost.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from reporting import environment, markdown_table, provenance, write

PACKAGES = ("edgepress", "torch", "safetensors")
RUNS, KILLED = 8, 2
RECIPE = """\
name: digits-{seed}
seed: {seed}
model:
  source: edgepress.examples.digits.models:cnn
  weights: package:edgepress.examples.digits/cnn.safetensors
data:
  source: edgepress.examples.digits.data:digits
  calibration_samples: {calibration}
passes:
  - quantize: {{ ranges: minmax, equalization: "off", sensitivity_samples: 4 }}
targets: [onnxruntime]
measure: {{ pairs: 2, iterations: 11, warmup_s: 0 }}
"""


@click.command(help=__doc__)
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True, help="Of what is killed, and when.")
def main(rounds: int, seed: int) -> None:
    """The lone runs first, then the rounds."""
    told, draws = environment(PACKAGES), random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipes = [_recipe(folder, number % (RUNS - 1)) for number in range(RUNS)]
        alone = {path: _alone(path, folder / f"alone-{path.stem}") for path in dict.fromkeys(recipes)}
        rows = [_round(number, recipes, alone, folder / f"round-{number}", draws) for number in range(rounds)]
    cells = [[str(row[key]) for key in ("round", "killed", "reused", "differing", "seconds")] for row in rows]
    table = markdown_table(["round", "runs killed", "steps reused", "runs that differ", "seconds"], cells)
    paths = write("shared_store", {"environment": told, "rounds": rows}, provenance(told) + "\n" + table)
    print("written:", *paths)
    sys.exit(any(row["differing"] for row in rows))


def _recipe(folder: Path, seed: int) -> Path:
    path = folder / f"seed-{seed}.yaml"
    path.write_text(RECIPE.format(seed=seed, calibration=24 + 4 * seed))
    return path


def _alone(recipe: Path, out: Path) -> dict[str, str]:
    if _start(recipe, out, []).wait() != 0:
        raise SystemExit(f"a lone run of {recipe.name} failed: {out.with_suffix('.log').read_text()[-2000:]}")
    return _artefacts(out)


def _round(
    number: int, recipes: list[Path], alone: dict[Path, dict[str, str]], folder: Path, draws: random.Random
) -> dict[str, Any]:
    """One round; differing: how many runs did not end with the artefacts of the lone ones."""
    started = time.monotonic()
    options = ["--store", str(folder / "store")]
    outs = [folder / f"run-{index}" for index in range(len(recipes))]
    running = [_start(recipe, out, options) for recipe, out in zip(recipes, outs, strict=True)]
    killed = 0
    for index in draws.sample(range(len(recipes)), KILLED):
        time.sleep(draws.uniform(1, 12))
        if running[index].poll() is None:
            running[index].send_signal(signal.SIGKILL)
            running[index].wait()
            killed += 1
        running[index] = _start(recipes[index], outs[index], options)
    codes = [process.wait() for process in running]
    found = [_artefacts(out) if code == 0 else {} for out, code in zip(outs, codes, strict=True)]
    differing = sum(alone[recipe] != got for recipe, got in zip(recipes, found, strict=True))
    row = {
        "round": number + 1,
        "killed": killed,
        "reused": sum(_reused(out) for out, code in zip(outs, codes, strict=True) if code == 0),
        "differing": differing,
        "seconds": round(time.monotonic() - started),
    }
    print(row, flush=True)
    return row


def _start(recipe: Path, out: Path, options: list[str]) -> subprocess.Popen[bytes]:
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-m", "edgepress", "run", str(recipe), "-o", str(out), *options]
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=recipe.parent
        )


def _record(out: Path) -> Any:
    from edgepress.pipeline.report.read import load_run

    return load_run(out)


def _artefacts(out: Path) -> dict[str, str]:
    return {artefact.path: artefact.sha256 for artefact in _record(out).artefacts}


def _reused(out: Path) -> int:
    return sum(step.cached for step in _record(out).steps)


if __name__ == "__main__":
    main()
