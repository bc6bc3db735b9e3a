"""The files of a run folder against its run.json: a record is a claim, and the bytes are what counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..errors import CompressError, UnsafeInputError
from .files import sha256_file
from .run_record import ArtefactRecord, RunRecord


def shipped(artefacts: Sequence[ArtefactRecord]) -> tuple[str, int] | None:
    """Name and bytes of the file that is shipped: model.l2z, else model.onnx; None when neither was written."""
    if packed := [a for a in artefacts if a.kind == "l2z"]:
        return "model.l2z", packed[0].bytes
    files = [a for a in artefacts if a.path.startswith("model.onnx")]
    # Weights over 2 GB lie beside the model, in model.onnx.data.
    return ("model.onnx", sum(a.bytes for a in files)) if any(a.kind == "onnx" for a in files) else None


def path_inside(folder: Path, relative: str, where: str) -> Path:
    """`folder / relative`; UnsafeInputError for a path that is absolute, climbs, or leaves the folder by a link."""
    parts = PurePosixPath(relative).parts
    plain = bool(parts) and ".." not in parts and relative.isprintable() and "\\" not in relative
    if not plain or parts[0].startswith("/") or ":" in parts[0]:
        raise UnsafeInputError(
            f"{where}: the path {relative!r} does not stay in the run's folder; the record was not made by edgepress"
        )
    path = folder / relative
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:  # a link that points to itself, a name that is too long
        raise CompressError(f"{where}: {relative!r} cannot be looked at ({error})") from error
    if not inside:
        raise UnsafeInputError(
            f"{path}: a link leads out of the run's folder {folder}; copy the file itself into it"
        )
    return path


def checked_file(folder: Path, artefact: ArtefactRecord) -> Path | None:
    """The artefact's file, which has the size and SHA-256 of the record; None where there is no file.

    CompressError when there is another one, UnsafeInputError when its path leaves the folder.
    """
    path = path_inside(folder, artefact.path, f"{folder / 'run.json'}: artefacts")
    if not path.exists():
        return None
    if not path.is_file():
        raise CompressError(f"{path}: is not a file, and run.json tells of one; run the recipe again")
    if (size := path.stat().st_size) != artefact.bytes:
        raise CompressError(
            f"{path}: has {size:,} bytes, and run.json tells of {artefact.bytes:,}; run the recipe again"
        )
    if (found := sha256_file(path)) != artefact.sha256:
        raise CompressError(
            f"{path}: is not the file that run.json tells of (SHA-256 {found[:12]}, there "
            f"{artefact.sha256[:12]!r}); run the recipe again"
        )
    return path


def require_own_files(folder: Path, record: RunRecord) -> None:
    """Raise for the first file of a run that is there and is not the one its record tells of, or lies elsewhere.

    What is not there is no lie: engines and float models are often left behind when a run is moved.
    """
    for artefact in record.artefacts:
        checked_file(folder, artefact)
