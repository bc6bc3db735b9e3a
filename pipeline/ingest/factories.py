"""Networks made by a named factory, by timm or by torchvision: their structure, never downloaded weights."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from ...calibration.named import call, did_you_mean, import_callable
from ...errors import CompressError

_VISION = "pip install edgepress[vision]"
Shapes = list[tuple[int, ...]]


def build_network(source: str, args: dict[str, Any], base: Path) -> tuple[nn.Module, Shapes]:
    """The network without trained weights, and the sample shapes it states for itself (none: unknown)."""
    kind, _, name = source.partition(":")
    if kind == "timm":
        module = _timm(name, args)
        size = getattr(module, "default_cfg", {}).get("input_size")
        return module, [tuple(size)] if size else []
    if kind == "torchvision":
        return _torchvision(name, args)
    made = call(import_callable(source, "model factory", base), f"model factory {source}", **args)
    if not isinstance(made, nn.Module):
        raise CompressError(
            f"model factory {source}: returned {type(made).__name__}, expected a torch.nn.Module"
        )
    return made, []


def _timm(name: str, args: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise CompressError(
            f"model.source timm:{name}: timm cannot be imported ({error}); {_VISION}"
        ) from error
    if ":" in name or not timm.is_model(name):
        raise CompressError(
            f"model.source: timm has no model {name!r}{did_you_mean(name, timm.list_models())}"
        )
    if args.pop("pretrained", False):
        raise CompressError(
            "model.args: pretrained would download weights; name a file under `weights` instead"
        )
    if args.get("checkpoint_path"):
        raise CompressError(
            "model.args: checkpoint_path is read by timm: name the file under `weights` instead"
        )
    return call(timm.create_model, f"timm model {name}", name, pretrained=False, **args)  # type: ignore[no-any-return]


def _torchvision(name: str, args: dict[str, Any]) -> tuple[nn.Module, Shapes]:
    try:
        from torchvision import models
    except ImportError as error:
        raise CompressError(
            f"model.source torchvision:{name}: torchvision cannot be imported ({error}); {_VISION}"
        ) from error
    if name not in models.list_models():
        raise CompressError(
            f"model.source: torchvision has no model {name!r}{did_you_mean(name, models.list_models())}"
        )
    if args.pop("weights", None) is not None or args.pop("weights_backbone", None) is not None:
        raise CompressError(
            "model.args: these weights would be downloaded; name a file under `weights` of the model"
        )
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        args["weights_backbone"] = None
    module = call(models.get_model, f"torchvision model {name}", name, weights=None, **args)
    trained = getattr(models.get_model_weights(name), "DEFAULT", None)  # names files, fetches nothing
    crop = getattr(trained.transforms(), "crop_size", None) if trained is not None else None
    size = int(args.get("image_size", (crop or [224])[0]))
    return module, [(3, size, size)]
