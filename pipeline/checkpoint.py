"""Weight files, read without running what is in them: `.safetensors`, `.l2z` and weights-only `.pt` / `.pth`."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..calibration.named import did_you_mean
from ..errors import CompressError, UnsafeInputError
from .files import sha256_file
from .l2z.codec import unpack_tensors
from .pickle_scan import imported_names

WEIGHT_SUFFIXES = (".safetensors", ".l2z", ".pt", ".pth", ".bin", ".ckpt")
WRAPPERS = ("state_dict", "model", "model_state_dict")  # keys under which trainers keep the state dict
PREFIXES = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name
MAX_UNPACKED_BYTES = 64 * 2**30
MAX_RATIO = 20  # torch.save does not compress; more than this is an archive made to exhaust memory
SHOWN = 5  # names in one message
_PLAIN = re.compile(
    r"torch\._utils\._rebuild\w+|torch\.storage\.\w+|torch\.\w+Storage|collections\.OrderedDict"
)


def read_weights(path: Path, trust_pickle: str | None = None) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU.

    trust_pickle: SHA-256 of a file that may be unpickled although it holds code.
    UnsafeInputError for a pickle that holds code, CompressError for anything else that is no set of tensors.
    """
    require_file(path, "weights")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".l2z":
        tensors, graph = unpack_tensors(path.read_bytes(), f"weights: {path}")
        if graph is not None:
            raise CompressError(
                f"weights: {path} holds an ONNX graph; unpack it: compress unpack {path} -o model.onnx"
            )
        return tensors
    if path.suffix not in WEIGHT_SUFFIXES:
        raise CompressError(f"weights: {path}: expected a .safetensors, .l2z, .pt or .pth file")
    return _state_dict(load_pickle(path, trust_pickle), path)


def require_file(path: Path, what: str) -> None:
    """CompressError unless `path` is a file with something in it."""
    if not path.is_file():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        problem = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise CompressError(f"{what}: {path} {problem}{did_you_mean(path.name, near)}")
    if path.stat().st_size == 0:
        raise CompressError(f"{what}: {path} is empty (0 bytes)")


def load_pickle(path: Path, trust_pickle: str | None = None) -> Any:
    """What `torch.load` finds, without running code unless the file's own SHA-256 is `trust_pickle`."""
    if trust_pickle is not None:
        content = path.read_bytes()  # hashed and loaded from the same bytes: nobody can swap the file between
        if hashlib.sha256(content).hexdigest() == trust_pickle.lower():
            return _torch_load(io.BytesIO(content), path, weights_only=False)
    refuse_bombs(path)
    with path.open("rb") as file:
        return _torch_load(file, path, weights_only=True)


def refuse_bombs(path: Path) -> None:
    """UnsafeInputError for a zip archive that unpacks to far more than the file's size."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CompressError(f"{path} is a damaged zip archive: {error}") from error
    if unpacked > MAX_UNPACKED_BYTES or unpacked > MAX_RATIO * path.stat().st_size:
        raise UnsafeInputError(
            f"{path}: {path.stat().st_size:,} bytes would unpack to {unpacked:,}; no checkpoint does that"
        )


def load_into(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> str:
    """Load every tensor into `module`, strictly, and say what was adjusted ("" for nothing).

    CompressError lists missing, unexpected and mis-shaped names, and names NaN and infinite weights.
    """
    own = module.state_dict()
    weights, note = _without_prefix(weights, own)
    tied = {t.data_ptr() for k, t in own.items() if k in weights and t.numel()}
    missing = [k for k in own if k not in weights and not _may_lack(k, own[k], tied)]
    unexpected = [k for k in weights if k not in own]
    reshaped = [k for k in own if k in weights and own[k].shape != weights[k].shape]
    problems = []
    if missing:
        problems.append(f"missing {_names(missing)}")
    if unexpected:
        problems.append(f"unexpected {_names(unexpected)}{did_you_mean(unexpected[0], missing)}")
    if reshaped:
        shapes = [f"{k}: {list(weights[k].shape)}, the network has {list(own[k].shape)}" for k in reshaped]
        problems.append(f"wrong shape {_names(shapes)}")
    if problems:
        raise CompressError(f"weights: {path} does not fit the network: {'; '.join(problems)}")
    for name, tensor in weights.items():
        _check_kind(name, tensor, own[name], path)
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    refuse_unusable(weights, str(path), parameters)
    module.load_state_dict(dict(weights), strict=False)
    return note


def refuse_unusable(weights: Mapping[str, Tensor], where: str, parameters: set[str] | None = None) -> None:
    """CompressError for NaN in any tensor, or an infinity in a parameter (a mask buffer may hold -inf)."""
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or bool(tensor.isfinite().all()):
            continue
        if bool(tensor.isnan().any()):
            raise CompressError(
                f"weights: {where}: tensor {name!r} holds NaN; the training diverged or the file is damaged"
            )
        if parameters is None or name in parameters:
            raise CompressError(
                f"weights: {where}: tensor {name!r} holds infinite values; use an earlier checkpoint"
            )


def untrusted(path: Path, finding: str) -> UnsafeInputError:
    """The refusal of a file that could run code, with the way to trust this very file."""
    return UnsafeInputError(
        f"{path} {finding}, and reading it could run that code. Save plain tensors instead (a state dict,"
        f" best as"
        f" .safetensors), or, if you trust this file: --trust-pickle {sha256_file(path)}"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise CompressError(
            f"weights: {path} is not a readable .safetensors file ({error}); it may be cut short or have"
            f" another format"
        ) from error


def _torch_load(file: Any, path: Path, weights_only: bool) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=weights_only)
    except Exception as error:
        raise _load_error(error, path) from error


def _load_error(error: Exception, path: Path) -> CompressError:
    text = str(error)
    if "TorchScript" in text:
        return CompressError(
            f"weights: {path} is a TorchScript archive, not a set of tensors; save its state dict, or the"
            f" network with"
            " torch.export.save as .pt2"
        )
    names = [name for name in imported_names(path) if not _PLAIN.fullmatch(name)]
    blocked = re.search(r"GLOBAL ([\w.]+\.\w+)", text)
    if blocked and blocked[1] in names:  # a name that is not in the file whole was cut off with its end
        names = [blocked[1]]
    if isinstance(error, pickle.UnpicklingError) and names:
        return untrusted(path, f"is a pickle that calls {names[0]}")
    if isinstance(error, pickle.UnpicklingError) and re.search(r"REDUCE|BUILD|NEWOBJ", text):
        return untrusted(path, "is a pickle that holds code")
    return CompressError(
        f"weights: {path} is not a checkpoint of torch.save ({_brief(error)}); it may be cut short or have"
        f" another format"
    )


def _brief(error: Exception) -> str:
    """The first useful words of torch's message, which may be a page long."""
    text = " ".join(str(error).split())
    found = re.search(r"WeightsUnpickler error: (.*?)(?: Check the documentation|$)", text)
    return (found[1] if found else text.split(". ")[0])[:160] or type(error).__name__


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(found, nn.Module):  # only a trusted pickle gets here
        return dict(found.state_dict())
    if isinstance(found, Mapping):
        for key in WRAPPERS:
            inner = found.get(key)
            if isinstance(inner, nn.Module):
                return dict(inner.state_dict())
            if isinstance(inner, Mapping):
                found = inner
                break
    if not isinstance(found, Mapping):
        raise CompressError(
            f"weights: {path} holds a {type(found).__name__}, not a state dict (tensors by name)"
        )
    wrong = [k for k, v in found.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if wrong or not found:
        holds = (
            f"the entry {str(wrong[0])!r} is a {type(found[wrong[0]]).__name__}" if wrong else "it is empty"
        )
        raise CompressError(
            f"weights: {path} holds no state dict (tensors by name, or such under {' or '.join(WRAPPERS)}):"
            f" {holds}"
        )
    for name, tensor in found.items():
        _refuse_inflated(name, tensor, path)
    return dict(found)


def _refuse_inflated(name: str, tensor: Tensor, path: Path) -> None:
    """A view with stride 0 claims any size in a few stored bytes, and takes it once it is read."""
    if tensor.layout != torch.strided:
        raise CompressError(f"weights: {path}: tensor {name!r} is sparse; store it dense")
    claimed, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if claimed > MAX_RATIO * max(stored, 1):
        raise UnsafeInputError(
            f"{path}: tensor {name!r} claims {claimed:,} bytes and stores {stored:,}; no checkpoint does that"
        )


def _without_prefix(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], str]:
    for prefix in PREFIXES:
        if (
            weights
            and all(k.startswith(prefix) for k in weights)
            and not any(k.startswith(prefix) for k in own)
        ):
            stripped = {k.removeprefix(prefix): v for k, v in weights.items()}
            inner, note = _without_prefix(stripped, own)
            return inner, f"the prefix {prefix!r} was taken off all names{'; ' + note if note else ''}"
    return weights, ""


def _may_lack(name: str, tensor: Tensor, tied: set[int]) -> bool:
    """Batch counters of old checkpoints, and tensors that share their memory with one that is there."""
    return name.endswith("num_batches_tracked") or (tensor.numel() > 0 and tensor.data_ptr() in tied)


def _check_kind(name: str, tensor: Tensor, own: Tensor, path: Path) -> None:
    if tensor.is_floating_point() != own.is_floating_point() or tensor.is_complex() != own.is_complex():
        have, want = (str(t.dtype).removeprefix("torch.") for t in (tensor, own))
        raise CompressError(f"weights: {path}: tensor {name!r} is {have}, the network needs {want}")


def _names(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"[{', '.join(names[:SHOWN])}{more}]"
