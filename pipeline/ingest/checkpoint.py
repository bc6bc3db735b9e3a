"""Weight files, read without running what is in them: `.safetensors`, `.l2z` and weights-only `.pt` / `.pth`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ...calibration.named import did_you_mean
from ...errors import CompressError
from ...progress import Progress, Silent
from ..files import require_file
from .removals import KEY, as_tensor, removals_in, text_in
from .safetensors_file import read_safetensors
from .state_dicts import Checkpoint, find_state_dicts, plain_tensors
from .torch_file import load_pickle
from .weight_choice import choose, choose_alone, missing_names, named

WEIGHT_SUFFIXES = (".safetensors", ".l2z", ".pt", ".pth", ".bin", ".ckpt", ".tar")  # .tar: as in .pth.tar


def read_weights(
    path: Path, trust_pickle: str | None = None, progress: Progress = Silent()
) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU; of several state dicts the one to deploy, which is said.

    What was removed before the tensors fit their network is one of them, of bytes, as .l2z files keep it.
    trust_pickle: SHA-256 of a file that may be unpickled although it holds code.
    UnsafeInputError for a pickle that holds code, CompressError for anything else that is no set of tensors.
    """
    checkpoint = read_checkpoint(path, trust_pickle)
    chosen = choose_alone(checkpoint)
    if len(checkpoint.sets) > 1:
        progress.say(
            f"{path.name} holds the state dicts {named(checkpoint.sets)}; {chosen.label} alone is read"
        )
    told = {KEY: as_tensor(checkpoint.removals)} if checkpoint.removals else {}
    return plain_tensors(chosen.entries, path) | told


def read_checkpoint(path: Path, trust_pickle: str | None = None) -> Checkpoint:
    """Every state dict of a weight file by its key, "" where the file is one itself. Errors as `read_weights`."""
    require_file(path, "weights")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        removals = removals_in(metadata[KEY], path) if KEY in metadata else ()
        return Checkpoint(path, {"": tensors}, removals=removals)
    if suffix == ".l2z":
        from ..l2z.codec import unpack_tensors

        tensors, graph = unpack_tensors(path.read_bytes(), f"weights: {path}")
        if graph is not None:
            raise CompressError(
                f"weights: {path} holds an ONNX graph; unpack it: compress unpack {path} -o model.onnx"
            )
        removals = removals_in(text_in(tensors.pop(KEY), path), path) if KEY in tensors else ()
        return Checkpoint(path, {"": tensors}, removals=removals)
    if suffix not in WEIGHT_SUFFIXES:
        raise CompressError(f"weights: {path}: expected a .safetensors, .l2z, .pt or .pth file")
    return find_state_dicts(load_pickle(path, trust_pickle), path)


def load_into(module: nn.Module, checkpoint: Checkpoint, key: str | None = None) -> str:
    """Load a state dict of `checkpoint` into `module`, strictly, and say what was chosen and adjusted ("": nothing).

    key: which of several; None for the one that fits, averaged weights first.
    CompressError lists missing, unexpected and mis-shaped names, and names NaN and infinite weights.
    """
    own = module.state_dict()
    path = checkpoint.path
    chosen, note = choose(checkpoint, own, key)
    weights = plain_tensors(chosen.entries, path)
    _require_fit(weights, own, path, note)
    for name, tensor in weights.items():
        _check_kind(name, tensor, own[name], path)
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    refuse_unusable(weights, str(path), parameters)
    module.load_state_dict(weights, strict=False)
    return joined(note, _conversions(weights))


def joined(*notes: str) -> str:
    """What is to be said, with what is empty left out."""
    return "; ".join(filter(None, notes))


def _require_fit(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path, note: str) -> None:
    missing = missing_names(weights, own)
    unexpected = [k for k in weights if k not in own]
    reshaped = [k for k in own if k in weights and own[k].shape != weights[k].shape]
    problems = []
    if missing:
        problems.append(f"missing [{named(missing)}]")
    if unexpected:
        problems.append(f"unexpected [{named(unexpected)}]{did_you_mean(unexpected[0], missing)}")
    if reshaped:
        shapes = [f"{k}: {list(weights[k].shape)}, the network has {list(own[k].shape)}" for k in reshaped]
        problems.append(f"wrong shape [{named(shapes)}]")
    if problems:
        which = f" ({note})" if note else ""
        raise CompressError(f"weights: {path} does not fit the network{which}: {'; '.join(problems)}")


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity; whole numbers never do."""
    return not tensor.is_floating_point() or bool(_comparable(tensor).isfinite().all())


def refuse_unusable(weights: Mapping[str, Tensor], where: str, parameters: set[str] | None = None) -> None:
    """CompressError for NaN in any tensor, or an infinity in a parameter (a mask buffer may hold -inf)."""
    for name, tensor in weights.items():
        if is_finite(tensor):
            continue
        if bool(_comparable(tensor).isnan().any()):
            raise CompressError(
                f"weights: {where}: tensor {name!r} holds NaN; the training diverged or the file is damaged"
            )
        if parameters is None or name in parameters:
            raise CompressError(
                f"weights: {where}: tensor {name!r} holds infinite values; use an earlier checkpoint"
            )


def _comparable(tensor: Tensor) -> Tensor:
    """Float8 as float32, of which torch knows more operators; all else as it is."""
    return tensor.float() if tensor.element_size() == 1 and tensor.is_floating_point() else tensor


def _conversions(weights: Mapping[str, Tensor]) -> str:
    """What to say of float8 weights: the network computes in float32."""
    small = Counter(
        str(t.dtype).removeprefix("torch.")
        for t in weights.values()
        if t.is_floating_point() and t.element_size() == 1
    )
    return "; ".join(
        f"{count} tensor{'' if count == 1 else 's'} of {dtype} turned into float32"
        for dtype, count in small.items()
    )


def _check_kind(name: str, tensor: Tensor, own: Tensor, path: Path) -> None:
    if tensor.is_floating_point() != own.is_floating_point() or tensor.is_complex() != own.is_complex():
        have, want = (str(t.dtype).removeprefix("torch.") for t in (tensor, own))
        raise CompressError(f"weights: {path}: tensor {name!r} is {have}, the network needs {want}")
