"""Train the MNIST network and write its checkpoint: `python -m edgepress.examples.mnist.train`."""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import save

from ..digits.train import Schedule, accuracy, fit
from .data import mnist
from .models import vit

SCHEDULE = Schedule(30, 1e-3, 0.05)


def main() -> None:
    """Read the command line, train, print the accuracies and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=SCHEDULE.epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "checkpoints" / "vit.safetensors")
    options = parser.parse_args()
    parts = mnist()
    network = fit(vit, parts["train"], SCHEDULE._replace(epochs=options.epochs), options.seed)
    for name in ("validation", "test"):
        print(f"{name} accuracy {accuracy(network, parts[name]):.4f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(save({name: t.contiguous() for name, t in network.state_dict().items()}))
    print(f"wrote {options.out} ({options.out.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
