"""Make the checkpoints of the solar example: `python -m edgepress.examples.solar.train cnn|vit`."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import CompressError
from ...progress import Progress, for_stream
from .data import Cells, elpv
from .models import (
    VIT_SIZE,
    dinov2_backbone_state,
    dinov2_vit_small,
    efficientnet_lite0,
    fold_standardization,
    imagenet_state,
)

CHECKPOINTS = {"cnn": "effnet_lite0_elpv128.pt", "vit": "dinov2_s14_elpv.safetensors"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 32
REGULARIZATION = (0.001, 0.003, 0.01, 0.03, 0.1)  # LogisticRegression's C, chosen on the validation part


def fine_tune_cnn(epochs: int, steps: int | None, seed: int, progress: Progress) -> nn.Module:
    """EfficientNet-Lite0 from its ImageNet weights: AdamW, cosine schedule, mirrored cells."""
    torch.manual_seed(seed)
    network = efficientnet_lite0(drop_connect_rate=0.2)
    network.load_state_dict(imagenet_state(), strict=False)  # only the two-class `_fc` is not in it
    samples = elpv()["train"]
    planned = epochs * math.ceil(len(samples) / BATCH)
    total = planned if steps is None else min(steps, planned)
    optimizer = torch.optim.AdamW(network.parameters(), 5e-4, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(planned, 1))
    loader = batches(samples, shuffle=True)
    network.train()
    for step in progress.track(range(total), "fine-tuning", total):
        if step % len(loader) == 0:
            epoch = iter(loader)
        images, labels = next(epoch)
        loss = F.cross_entropy(network(mirrored(images)), labels, label_smoothing=0.05)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        rate.step()
    deployed = efficientnet_lite0()
    deployed.load_state_dict(network.state_dict())
    return deployed


def batches(cells: Cells, shuffle: bool = False) -> torch.utils.data.DataLoader[tuple[Tensor, Tensor]]:
    """Batches of images (n, 3, size, size) and labels (n,)."""
    return torch.utils.data.DataLoader(cells, BATCH, shuffle)  # type: ignore[arg-type]


def mirrored(images: Tensor) -> Tensor:
    """Each image flipped left-right and top-bottom, each with probability one half: a cell has no up."""
    for axis in (2, 3):
        chosen = torch.rand(len(images)) < 0.5
        images = torch.where(chosen.view(-1, 1, 1, 1), images.flip(axis), images)
    return images


def assemble_vit(head: dict[str, Tensor]) -> nn.Module:
    """The DINOv2 backbone with a head: weight (2, 384), bias (2,), and the features' mean and std (384,)."""
    network = dinov2_vit_small()
    network.load_state_dict(dinov2_backbone_state() | fold_standardization(**head))
    return network


def read_head(path: Path) -> dict[str, Tensor]:
    """The tensors weight, bias, mean and std of a `.safetensors` file; CompressError when not there."""
    expected = {"weight": (2, 384), "bias": (2,), "mean": (384,), "std": (384,)}
    try:
        head = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CompressError(f"--head {path}: cannot be read as safetensors: {error}") from error
    found = {name: tuple(tensor.shape) for name, tensor in head.items()}
    if found != expected:
        raise CompressError(f"--head {path}: holds {found}; expected {expected}")
    return head


def fit_head(progress: Progress) -> dict[str, Tensor]:
    """A logistic regression on class-token features: fitted on train, its strength chosen on validation."""
    from sklearn.linear_model import LogisticRegression

    backbone = dinov2_vit_small()
    backbone.load_state_dict(dinov2_backbone_state(), strict=False)
    backbone.head = nn.Identity()
    parts = elpv(VIT_SIZE, IMAGENET_MEAN, IMAGENET_STD)
    features, labels = outputs(backbone, parts["train"], progress)
    mean, std = features.mean(0), features.std(0)
    checked, answers = outputs(backbone, parts["validation"], progress)
    fits = [
        LogisticRegression(C=c, max_iter=2000).fit((features - mean) / std, labels) for c in REGULARIZATION
    ]
    best = max(fits, key=lambda fit: float(fit.score((checked - mean) / std, answers)))
    half = np.concatenate([best.coef_, best.intercept_[:, None]], axis=1)[0] / 2
    both = torch.from_numpy(np.stack([-half, half])).float()  # the two logits differ by the regression's one
    return {"weight": both[:, :-1], "bias": both[:, -1], "mean": mean, "std": std}


@torch.no_grad()
def outputs(network: nn.Module, cells: Cells, progress: Progress) -> tuple[Tensor, Tensor]:
    """What `network` answers for every cell (n, outputs), and the labels (n,)."""
    loader = batches(cells)
    pairs = [(network(x), y) for x, y in progress.track(loader, f"{len(cells)} cells", len(loader))]
    answers, labels = zip(*pairs, strict=True)
    return torch.cat(answers), torch.cat(labels)


def report(network: nn.Module, parts: dict[str, Cells], progress: Progress) -> None:
    """Print the accuracy on the validation and test parts."""
    for name in ("validation", "test"):
        logits, labels = outputs(network, parts[name], progress)
        correct = float((logits.argmax(1) == labels).float().mean())
        print(f"{name} accuracy {correct:.4f} ({len(labels)} cells)")


def run(options: argparse.Namespace) -> None:
    """Make the checkpoint that the command line asks for."""
    progress = for_stream()
    if options.network == "cnn":
        if options.head:
            raise CompressError("--head goes with vit: the CNN's classifier is trained with the rest of it")
        network = fine_tune_cnn(options.epochs, options.steps, options.seed, progress)
        parts = elpv()
    else:
        network = assemble_vit(read_head(options.head) if options.head else fit_head(progress))
        parts = elpv(VIT_SIZE, IMAGENET_MEAN, IMAGENET_STD)
    path = options.out or Path(__file__).parent / "checkpoints" / CHECKPOINTS[options.network]
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    if path.suffix == ".safetensors":
        path.write_bytes(save(state))
    else:
        torch.save(state, path)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if not options.no_report:
        report(network, parts, progress)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line; the exit code is 0, or that of the error printed."""
    parser = argparse.ArgumentParser(prog="python -m edgepress.examples.solar.train", description=__doc__)
    parser.add_argument("network", choices=sorted(CHECKPOINTS))
    parser.add_argument("--head", type=Path, help="vit: a linear head (.safetensors) instead of fitting one")
    parser.add_argument("--epochs", type=int, default=15, help="cnn: passes over the train part")
    parser.add_argument("--steps", type=int, help="cnn: stop after this many steps, for a quick check")
    parser.add_argument("--seed", type=int, default=0, help="cnn: of the fine-tuning")
    parser.add_argument("--out", type=Path, help="checkpoint to write, .pt or .safetensors")
    parser.add_argument("--no-report", action="store_true", help="leave out the accuracies")
    options = parser.parse_args(arguments)
    try:
        run(options)
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
