"""A pruned network as a file that loads into its factory, pruned.safetensors, and as a table of widths, widths.json."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from ...errors import CompressError
from ...form import Form
from ...model import Model
from ..files import write_atomically
from ..ingest.checkpoint import load_into, read_checkpoint
from ..ingest.removals import KEY, text_of
from ..ingest.smaller import without_removed
from .pruned_names import WEIGHTS, WIDTHS, sibling

SCHEMA_VERSION = 1
NEAR = 1e-5
"""Of the largest output: the same weights, perhaps laid out otherwise in memory, which chooses other kernels."""
_SIZES = (("in_features", "out_features"), ("in_channels", "out_channels"))
"""Under which names layers hold how many channels they read and make."""
_WAS = "_name_before"


def write_pruned(models: Sequence[Model], folder: Path) -> list[tuple[Path, str]]:
    """Write weights and widths of the last network of modules among a run's models, where passes took something out.

    What the same training left in other sizes is written beside it, as pruned-SHARE.safetensors.
    Returns the files with their kinds; none where no factory makes the network, into which they could be loaded. The
    weights are read back as any file is: CompressError when they are not the network.
    """
    loadable = (
        model for model in reversed(models) if model.form is Form.MODULES and model.removals is not None
    )
    model = next(loadable, None)
    if model is None or model.whole is None:
        return []
    weights, widths = folder / WEIGHTS, folder / WIDTHS
    loaded = _write_weights(model, model.whole, weights)
    write_atomically(widths, _widths(model.whole, loaded).encode())
    files = [(weights, "pruned-weights"), (widths, "widths")]
    for share, smaller in model.siblings.items():
        path = folder / sibling(share)
        _write_weights(smaller, model.whole, path)
        files.append((path, "pruned-weights"))
    return files


def _write_weights(model: Model, whole: Model, path: Path) -> nn.Module:
    """Write one network's weights; returns what the file makes of the whole one."""
    assert model.removals is not None
    tensors = {n: tensor.detach().clone().contiguous() for n, tensor in model.module.state_dict().items()}
    write_atomically(path, save(tensors, {KEY: text_of(model.removals)}))
    return _read_back(path, model, whole)


def _read_back(path: Path, model: Model, whole: Model) -> nn.Module:
    """What the file makes of the whole network; each layer knows the name that it had there."""
    named = copy.deepcopy(whole.module)
    for name, layer in named.named_modules():
        vars(layer)[_WAS] = name
    checkpoint = read_checkpoint(path)
    loaded = without_removed(named, checkpoint.removals[len(whole.removals or ()) :], path)
    load_into(loaded, checkpoint)
    found, expected = (each.run(*model.example_inputs) for each in (replace(model, module=loaded), model))
    for one, other in zip(found, expected, strict=True):
        if float((one.double() - other.double()).abs().max()) > NEAR * float(other.double().abs().max()):
            raise CompressError(f"{path.name}: does not load as the network that was pruned; report this")
    return loaded


def _widths(whole: Model, loaded: nn.Module) -> str:
    """The table, a layer a line."""
    left = {vars(layer)[_WAS]: (name, layer) for name, layer in loaded.named_modules() if _WAS in vars(layer)}
    names = [name for name, _ in whole.module.named_modules()]
    table = {
        "schema_version": SCHEMA_VERSION,
        "network": whole.source,
        "weights": WEIGHTS,
        "params": [sum(p.numel() for p in each.parameters()) for each in (whole.module, loaded)],
        "gone": [name for name in names if name not in left and name.rpartition(".")[0] in left],
    }
    lines = [f' "{key}": {json.dumps(value)},' for key, value in table.items()]
    rows = ",\n".join(f"  {json.dumps(row)}" for row in _rows(whole.module, left))
    return "\n".join(["{", *lines, ' "layers": [', rows, " ]", "}", ""])


def _rows(whole: nn.Module, left: dict[str, tuple[str, nn.Module]]) -> Iterator[dict[str, Any]]:
    """What each layer read and made, and does now; 0 where it is gone. now: its name, where that is another."""
    for name, layer in whole.named_modules():
        sizes = next((pair for pair in _SIZES if all(hasattr(layer, size) for size in pair)), None)
        if sizes is None:
            continue
        now, kept = left.get(name, (name, None))
        inputs, outputs = ([getattr(layer, size), getattr(kept, size, 0)] for size in sizes)
        row = {"name": name, "type": type(layer).__name__, "inputs": inputs, "outputs": outputs}
        yield row | {"gone": kept is None} | ({"now": now} if now != name else {})
