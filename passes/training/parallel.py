"""Several processes under `torchrun`: the first runs the recipe, the others wait for trainings and take part.

    torchrun --nproc-per-node 2 -m edgepress run recipe.yaml

Each process computes its share of every batch, and `DistributedDataParallel` averages the gradients. Order, built-in
augmentation and rounding depend on seed, step and sample alone, so that the weights do not depend on the number of
processes, but for BatchNorm in training, whose statistics are those of a share, and dropout.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ...errors import CompressError
from .job import Forward, Job
from .options import TrainingOptions

PATIENCE = timedelta(hours=12)  # the others wait while the first calibrates, exports and measures


def rank() -> int:
    """The number of this process; 0 runs the recipe."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def require_static_batch(what: str, options: TrainingOptions, static_batch: int | None) -> None:
    """Raise CompressError unless each part of a batch is what a network of a static batch takes; None takes any."""
    parts = options.accumulate * processes()
    if options.epochs and static_batch is not None and static_batch * parts != options.batch:
        raise CompressError(
            f"{what}: training.batch is {options.batch}, and the network takes exactly {static_batch} samples at"
            f" once (export.dynamic_batch: false); write training.batch: {static_batch * parts}"
        )


def shared_batch(job: Job) -> int:
    """The samples of one step. Raises CompressError when they cannot be shared out evenly."""
    parts = job.options.accumulate * processes()
    batch = min(job.options.batch, len(job.part) // parts * parts)
    if batch == 0 or batch % parts:
        raise CompressError(
            f"{job.what}: training.batch: {job.options.batch} samples of {len(job.part)} cannot be shared out to"
            f" {processes()} process(es) times {job.options.accumulate} part(s); give a multiple of {parts}"
        )
    return batch


def device_of(name: str) -> torch.device:
    """The device by its name; of several GPUs the one of this process."""
    return torch.device("cuda", torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def in_step(network: nn.Module, device: torch.device) -> Forward:
    """The network as each process runs it: on several, behind what averages gradients."""
    if processes() == 1:
        return network
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=ids, find_unused_parameters=True)


def unsynchronized(forward: Forward) -> AbstractContextManager[None]:
    """While it is open gradients are added up in each process, and averaged only after it."""
    return forward.no_sync() if isinstance(forward, DistributedDataParallel) else nullcontext()


@contextmanager
def joined() -> Iterator[bool]:
    """Join the other processes that a launcher started, if any, for as long as the block runs.

    Yields whether this is the first process, which runs the recipe; at the end it releases those that serve.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield True
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    yield rank() == 0  # after an error nobody is released: the launcher ends the others
    if rank() == 0:
        share(None)
    # Networks in reference cycles hold on to the group; and a process that leaves while another is still connected to
    # it was seen to be aborted.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def share(value: Any) -> Any:
    """The first process's `value`, in every process. It travels pickled, between processes of one user's run."""
    if processes() == 1:
        return value
    held = [value]
    try:
        dist.broadcast_object_list(held, device=_device())
    except (AttributeError, TypeError) as error:
        raise CompressError(
            f"training on several processes sends network and data to each, and one cannot be pickled: {error}; give"
            " the data factory classes defined at the top of a module, or run without torchrun"
        ) from error
    return held[0]


def announce(job: Job, folder: Path | None) -> None:
    """Tell the processes that serve of a training; `folder`, where its functions lie, before they unpickle it."""
    share(str((folder or Path()).resolve()))
    share(job)


def _device() -> torch.device:
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )
