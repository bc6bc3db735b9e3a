"""Train a digits network and write its checkpoint: `python -m edgepress.examples.digits.train cnn|vit`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from . import models
from .data import digits

BATCH = 64


class Schedule(NamedTuple):
    """How a network is trained: AdamW with a linear warm-up over 10 % of the steps, then a cosine to zero."""

    epochs: int
    learning_rate: float
    weight_decay: float


SCHEDULES = {"cnn": Schedule(12, 4e-3, 0.02), "vit": Schedule(70, 2e-3, 0.05)}


def train(name: str, seed: int = 0, epochs: int | None = None) -> nn.Module:
    """A trained network, `cnn` or `vit`, in eval mode; `epochs` replaces the number that the schedule has."""
    schedule = SCHEDULES[name]
    return fit(
        getattr(models, name), digits()["train"], schedule._replace(epochs=epochs or schedule.epochs), seed
    )


def fit(
    made: Callable[[], nn.Module], part: tuple[Tensor, Tensor], schedule: Schedule, seed: int
) -> nn.Module:
    """A network, made and then trained on images (n, 1, h, w) and labels (n,), in eval mode."""
    torch.manual_seed(seed)
    network = made()
    images, labels = part
    steps = schedule.epochs * math.ceil(len(labels) / BATCH)
    optimizer = torch.optim.AdamW(
        network.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    warmup = max(steps // 10, 1)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * i / steps))
    )
    network.train()
    for _ in range(schedule.epochs):
        for rows in torch.split(torch.randperm(len(labels)), BATCH):
            loss = F.cross_entropy(network(distorted(images[rows])), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            rate.step()
    trained: nn.Module = network.eval()
    return trained


def distorted(images: Tensor) -> Tensor:
    """Each image turned by up to 10 degrees, scaled by up to 10 % and moved by up to 6 % of its width."""
    n = len(images)
    angle = (torch.rand(n) * 2 - 1) * math.radians(10)
    scale = 1 + (torch.rand(n) * 2 - 1) * 0.1
    shift = (torch.rand(n, 2, 1) * 2 - 1) * 0.12  # the grid is two units wide
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rotation = torch.stack([cosine, -sine, sine, cosine], dim=1).view(n, 2, 2)
    grid = F.affine_grid(torch.cat([rotation, shift], dim=2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def accuracy(network: nn.Module, part: tuple[Tensor, Tensor]) -> float:
    """Share of `part` that `network` classifies correctly."""
    images, labels = part
    return float((network(images).argmax(1) == labels).float().mean())


def main() -> None:
    """Read the command line, train, print the accuracies and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=sorted(SCHEDULES))
    parser.add_argument("--epochs", type=int, help="instead of the schedule's own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="checkpoint to write (default: beside this script)")
    options = parser.parse_args()
    network = train(options.network, options.seed, options.epochs)
    parts = digits()
    for name in ("validation", "test"):
        print(f"{options.network}: {name} accuracy {accuracy(network, parts[name]):.4f}")
    path = options.out or Path(__file__).with_name(f"{options.network}.safetensors")
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in network.state_dict().items()}))
    print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
