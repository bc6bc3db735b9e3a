"""Mixed precision: what a training step is computed in, and what to say where a network cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from ...errors import CompressError


def mixed_precision(
    device: torch.device, amp: str
) -> tuple[Callable[[], AbstractContextManager[object]], torch.amp.GradScaler]:
    """How a step is computed by the option `amp`; auto, on CUDA, is BF16 where the card has it, else FP16 with scaled
    gradients."""
    kind = torch.bfloat16
    if amp == "auto" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        kind = torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=kind == torch.float16)
    if amp == "off" or (amp == "auto" and device.type != "cuda"):
        return nullcontext, scaler
    return lambda: torch.autocast(device.type, dtype=kind), scaler


def emulates_bf16(device: torch.device) -> bool:
    """Whether BF16 is emulated there, which takes many times as long as float32: a CPU known to have no such
    instructions."""
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return bool(told) and not any(has for name, has in told.items() if "bf16" in name)


@contextmanager
def told_of_types(what: str) -> Iterator[None]:
    """Some operators take no operands of two types, which mixed precision makes: say what to do."""
    try:
        yield
    except RuntimeError as error:
        mixed = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
        if mixed and any(name in str(error) for name in ("BFloat16", "Half")):
            raise CompressError(
                f"{what}: the network cannot be computed in mixed precision ({error}); set training.amp: off"
            ) from error
        raise
