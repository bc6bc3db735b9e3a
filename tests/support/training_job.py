"""A small training, which may kill its process, and as a program: `python training_job.py FOLDER OPTIONS [...]`.

Trains quantized students of a small network, one for each folder and its options, and writes their weights. Under
torchrun all processes take part.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from edgepress.passes.distill import Distill
from edgepress.passes.training import parallel, serving
from edgepress.progress import Silent
from quantization_nets import context_of, model_of, samples
from safetensors.torch import save_file
from torch import nn


class Killed(Silent):
    """Kills the process when the given step of the training of the pass `what` begins."""

    def __init__(self, step: int | None, what: str = "distill") -> None:
        self.step, self.what = step, what

    def track(self, items: Iterable[Any], description: str, *_: Any, **__: Any) -> Iterator[Any]:
        for item in items:
            if description.startswith(self.what) and item == self.step:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def run(folder: Path, options: dict[str, Any], step: int | None = None) -> None:
    """Train in a folder, from what an earlier run left in it; kills the process with SIGKILL before step `step`."""
    folder.mkdir(exist_ok=True)
    context = context_of(samples(32, 1, 8, 8), scratch=folder / "scratch", progress=Killed(step))
    plan = Distill.model_validate_json(json.dumps(options)).plan(model_of(network(), 1, 8, 8), context)
    save_file(plan.tensors, folder / "weights.safetensors")
    (folder / "details.json").write_text(json.dumps([plan.structure, plan.details]))


def main() -> None:
    torch.set_num_threads(1)
    with parallel.joined() as first:
        if not first:
            serving.serve()
            return
        for folder, options in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
            run(Path(folder), json.loads(options))


if __name__ == "__main__":
    main()
