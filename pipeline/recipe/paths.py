"""The files a recipe names: relative to its own folder, or inside an installed package."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from .problems import describe
from .values import FUNCTION

PACKAGE = "package:"


def is_callable_name(text: str) -> bool:
    """Whether `text` has the form `pkg.module:function` and does not name a file inside a package."""
    return not text.startswith(PACKAGE) and re.fullmatch(FUNCTION, text) is not None


def locate(text: str, folder: Path, folders: bool = False) -> Path:
    """The absolute path of the file that `text` names; with `folders`, also of a folder or an .npz file.

    folder: the recipe's, which relative paths start from.
    `package:pkg.name/file` is looked up without importing anything: reading a recipe runs no code.
    Raises ValueError, with the reason in words, when there is no such file.
    """
    path = absolute(text, folder)
    try:
        there, is_folder = path.exists(), path.is_dir()
    except OSError as error:
        raise ValueError(f"{describe(text)} cannot be opened: {error.strerror}") from None
    if not there:
        other = "expected pkg.module:factory, a folder or an .npz file, and there is " if folders else ""
        raise ValueError(f"{other}no such file: {path}")
    if is_folder and not folders:
        raise ValueError(f"expected a file, and this is a folder: {path}")
    if folders and not is_folder and path.suffix != ".npz":
        raise ValueError(f"expected pkg.module:factory, a folder or an .npz file, got {describe(text)}")
    return path


def absolute(text: str, folder: Path) -> Path:
    """The absolute path that `text` names, whether anything is there or not; as `locate` else."""
    if not text or not text.isprintable():
        raise ValueError(f"expected a path, got {describe(text)}")
    return _in_package(text) if text.startswith(PACKAGE) else Path(os.path.abspath(folder / text))  # noqa: PTH100


def _in_package(text: str) -> Path:
    package, _, inside = text.removeprefix(PACKAGE).partition("/")
    names = package.split(".")
    if not inside or ".." in Path(inside).parts or not all(name.isidentifier() for name in names):
        raise ValueError(f"expected package:pkg.name/file, got {describe(text)}")
    found = importlib.util.find_spec(names[0])
    if found is None or not found.submodule_search_locations:
        raise ValueError(f"the package {names[0]!r} is not installed")
    roots = [Path(root).joinpath(*names[1:]) for root in found.submodule_search_locations]
    return next((root / inside for root in roots if (root / inside).exists()), roots[0] / inside)
