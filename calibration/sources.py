"""From what a recipe names as data to disjoint parts with a manifest."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CompressError, UnsafeInputError
from ..progress import Progress, Silent
from .data import DataParts, Part, Sample, Subset
from .images import ImageSamples, Preprocessing, image_folder, image_parts
from .manifest import Inspector
from .named import call, did_you_mean, import_callable, is_callable_name
from .samples import MapSamples, array_samples

PART_NAMES = ("train", "calibration", "validation", "test")
NEEDED = ("calibration", "validation")
DEFAULT_SPLIT = {"train": 0.6, "calibration": 0.1, "validation": 0.1, "test": 0.2}
GIVEN = 1 / 7  # of a part, where another is missing: what DEFAULT_SPLIT gives it of the two
MAX_RATIO, HARMLESS_BYTES = 20, 2**20  # as of checkpoints: more is an archive made to exhaust memory
MAX_NPZ_BYTES = 16 * 2**30  # unpacked; an archive of a few kilobytes can claim far more


def load_data(
    source: str,
    args: Mapping[str, Any],
    split: Mapping[str, float] | None,
    preprocess: Preprocessing,
    calibration_samples: int,
    seed: int,
    *,
    folder: Path | None = None,
    integer_labels: bool = True,
    progress: Progress = Silent(),
) -> DataParts:
    """Read `source` (a factory's name, an image folder, an `.npz`), split it if need be, check every sample.

    split: fractions of the parts, for a source without parts; a seeded permutation keeps them disjoint.
    folder: what paths are relative to, and importable for factories.
    integer_labels: False when the metric is a function of the user's own.
    CompressError names the file, part or sample that cannot be used; UnsafeInputError a file that holds code.
    """
    notes: tuple[str, ...] = ()
    found = _read(source, args, preprocess, folder or Path())
    if isinstance(found, dict):
        if split is not None:
            raise CompressError(
                f"data.split: {source} already comes in the parts {', '.join(found)}; remove `split`"
            )
        parts, notes = found, _notes(found.values())
        if any(name not in parts for name in NEEDED):
            parts, added = _completed(parts, seed, source)
            notes += added
    else:
        notes = _notes([found])
        parts = _split(found, dict(split or DEFAULT_SPLIT), seed, source)
    named = {name: Part(name, parts[name]) for name in PART_NAMES if name in parts}
    named["calibration"] = named["calibration"].head(calibration_samples)
    inspector = Inspector(integer_labels)
    for part in named.values():
        inspector.read(part, progress)
    nothing = Part("train", ())
    return DataParts(
        named.get("train", nothing),
        named["calibration"],
        named["validation"],
        named.get("test"),
        inspector.manifest,
        (*notes, *inspector.notes()),
    )


def _read(
    source: str, args: Mapping[str, Any], preprocess: Preprocessing, folder: Path
) -> Sequence[Sample] | dict[str, Sequence[Sample]]:
    if is_callable_name(source):
        made = call(import_callable(source, "data factory", folder), f"data factory {source}", **args)
        return _from_factory(made, f"data factory {source}")
    if args:
        raise CompressError(
            f"data.args: only a factory takes arguments, and {source!r} is a path; remove `args`"
        )
    path = folder / source
    if path.is_dir():
        return image_parts(path, preprocess) or image_folder(path, preprocess)
    if path.suffix.lower() == ".npz":
        return _from_npz(path)
    problem = "is neither a folder nor an .npz file" if path.exists() else "does not exist"
    raise CompressError(
        f"data.source: {path} {problem}; expected pkg.module:factory, a folder with one sub-folder a class,"
        f" or an .npz file with arrays x and y"
    )


def _from_factory(made: Any, what: str) -> Sequence[Sample] | dict[str, Sequence[Sample]]:
    if not isinstance(made, Mapping):
        return _samples(made, what)
    unknown = [str(name) for name in made if name not in PART_NAMES]
    if unknown:
        raise CompressError(
            f"{what}: returned an unknown part {unknown[0]!r}{did_you_mean(unknown[0], list(PART_NAMES))}"
            f" (parts are {', '.join(PART_NAMES)})"
        )
    missing = [name for name in NEEDED if name not in made]
    if missing:
        raise CompressError(f"{what}: returned no {' and no '.join(missing)} part; every run needs both")
    return {name: _samples(made[name], f"{what}, part {name}") for name in PART_NAMES if name in made}


def _samples(made: Any, what: str) -> Sequence[Sample]:
    """A pair of arrays or a map-style dataset as samples."""
    if isinstance(made, (tuple, list)) and len(made) == 2 and not _is_sample(made[0]):
        return array_samples(made[0], made[1], what)
    if (
        hasattr(made, "__getitem__")
        and hasattr(made, "__len__")
        and not isinstance(made, (str, np.ndarray, torch.Tensor))
    ):
        return MapSamples(made, what)
    raise CompressError(
        f"{what}: returned {type(made).__name__}; expected a pair of arrays (x, y), a map-style dataset of"
        f" pairs, or a dict of such by part ({', '.join(PART_NAMES)})"
    )


def _is_sample(value: Any) -> bool:
    """Whether `value` is one sample (x, y): a list of two of them is a dataset and no pair of arrays."""
    return isinstance(value, tuple) and len(value) == 2 and np.ndim(value[1]) == 0


def _from_npz(path: Path) -> Sequence[Sample]:
    if not path.is_file():
        raise CompressError(f"data.source: {path} does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MAX_NPZ_BYTES:
            raise UnsafeInputError(
                f"data.source: {path} would unpack to {size / 2**30:.0f} GiB; the limit is"
                f" {MAX_NPZ_BYTES // 2**30} GiB"
            )
        if size > MAX_RATIO * path.stat().st_size and size > HARMLESS_BYTES:
            raise UnsafeInputError(
                f"data.source: {path}: {path.stat().st_size:,} bytes would unpack to {size:,}, over {MAX_RATIO} times"
                " as much; if it is yours, save it with np.savez, not compressed"
            )
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in ("x", "y") if name not in arrays.files]
            if missing:
                raise CompressError(
                    f"data.source: {path} has no array {missing[0]!r}; it holds"
                    f" {', '.join(arrays.files) or 'none'}"
                )
            x, y = arrays["x"], arrays["y"]
    except CompressError:
        raise
    except Exception as error:
        if "allow_pickle" in str(error):
            raise UnsafeInputError(
                f"data.source: {path} holds Python objects, and reading those runs code; save plain arrays"
                f" of numbers"
            ) from error
        raise CompressError(f"data.source: {path} is not a readable .npz file: {error}") from error
    return array_samples(x, y, f"data.source: {path}")


def _notes(sources: Iterable[Sequence[Sample]]) -> tuple[str, ...]:
    return tuple(note for each in sources if isinstance(each, ImageSamples) for note in each.notes)


def _completed(
    parts: Mapping[str, Sequence[Sample]], seed: int, source: str
) -> tuple[dict[str, Sequence[Sample]], tuple[str, ...]]:
    """The parts that every run needs, taken out of train (or of validation), which then lacks those samples."""
    complete, notes = dict(parts), []
    for name in NEEDED:
        if name in complete:
            continue
        giver = next((n for n in ("train", "validation") if n in complete), None)
        if giver is None:
            raise CompressError(
                f"data.source: {source} has no part to take {name} samples from; it has {', '.join(complete)}: name"
                " one of these folders itself, and it is split"
            )
        samples = complete[giver]
        count = max(1, round(GIVEN * len(samples)))
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
        if len(samples) - count < 1:
            raise CompressError(
                f"data: the {giver} part of {source} has too few samples to take a {name} part from"
            )
        complete[name], complete[giver] = Subset(samples, order[:count]), Subset(samples, order[count:])
        notes.append(
            f"no {name} part: {count} of the {len(samples)} {giver} samples are it, and {giver} lacks them"
        )
    return complete, tuple(notes)


def _split(
    samples: Sequence[Sample], fractions: dict[str, float], seed: int, source: str
) -> dict[str, Sequence[Sample]]:
    """Cut a seeded permutation at the rounded cumulative fractions; every sample is in one part."""
    missing = [name for name in NEEDED if not fractions.get(name)]
    if missing:
        raise CompressError(
            f"data.split: no fraction for {' and no fraction for '.join(missing)}; every run needs both"
        )
    fractions = {name: value for name, value in fractions.items() if value}
    if any(f < 0 for f in fractions.values()) or sum(fractions.values()) > 1 + 1e-9:
        text = ", ".join(f"{name}: {value:g}" for name, value in fractions.items())
        raise CompressError(f"data.split: fractions must be positive and add up to at most 1; got {text}")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
    parts: dict[str, Sequence[Sample]] = {}
    start, total = 0, 0.0
    for name in (n for n in PART_NAMES if n in fractions):
        total += fractions[name]
        end = round(total * len(samples))
        if end == start:
            raise CompressError(f"data.split: {source} has {len(samples)} samples, too few for a {name} part")
        parts[name] = Subset(samples, tuple(order[start:end]))
        start = end
    return parts
