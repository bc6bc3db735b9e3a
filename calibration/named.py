"""Callables that a recipe names as `pkg.module:function`: imported, never evaluated."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import CompressError, UnsafeInputError, cause

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_callable_name(text: str) -> bool:
    """Whether `text` has the form `pkg.module:function`."""
    return _NAME.fullmatch(text) is not None


def import_callable(name: str, role: str, folder: Path | None = None) -> Callable[..., Any]:
    """The callable `pkg.module:function`; `folder` (the recipe's) is importable, as a script's would be.

    role: what the message calls it ("model factory"). Raises CompressError when it cannot be imported, and
    UnsafeInputError for what belongs to Python itself: `os:system` makes no network.
    """
    if not is_callable_name(name):
        raise CompressError(f"{role} {name!r}: expected the form pkg.module:function")
    if reason := why_not_named(name, folder):
        raise UnsafeInputError(f"{role} {name!r}: {reason}")
    module_name, _, attribute = name.partition(":")
    if folder is not None and str(folder.resolve()) not in sys.path:
        sys.path.insert(0, str(folder.resolve()))
    module = _import(module_name, f"{role} {name!r}")
    _require_own(module, module_name, folder, f"{role} {name!r}")
    found = getattr(module, attribute, None)
    if _is_pythons(found) and found.__module__ != module_name:
        raise UnsafeInputError(f"{role} {name!r}: it is of {found.__module__}, a module {_OF_PYTHON}")
    if callable(found):
        return found  # type: ignore[no-any-return]
    problem = (
        f"module {module_name} has no function {attribute!r}" if found is None else "that is not callable"
    )
    public = [n for n in dir(module) if not n.startswith("_") and callable(getattr(module, n))]
    raise CompressError(f"{role} {name!r}: {problem}{did_you_mean(attribute, public)}")


_OF_PYTHON = (
    "of Python itself, where functions can run any command; name one of an installed package, or of a module in the"
    " recipe's own folder"
)


def why_not_named(name: str, folder: Path | None = None) -> str | None:
    """Why a recipe in `folder` must not name `pkg.module:function`; None when it may. Nothing is imported.

    The standard library and builtins are refused: none of it makes networks, samples or scores, and much of it runs
    whatever its arguments say. A module of the recipe's own folder may bear such a name.
    """
    module = name.partition(":")[0]
    top = module.partition(".")[0]
    if top not in sys.stdlib_module_names and top != "__main__":
        return None
    if folder is not None and any(path.is_file() for path in _own_files(folder, top)):
        return None
    return f"{top} is a module {_OF_PYTHON}"


def _is_pythons(found: object) -> bool:
    """Whether a function or class that a module merely imported is of the standard library."""
    if not (inspect.isroutine(found) or isinstance(found, type)):
        return False
    return str(getattr(found, "__module__", None) or "").partition(".")[0] in sys.stdlib_module_names


def _own_files(folder: Path, module: str) -> list[Path]:
    """Where `folder` would have the module."""
    place = folder / module.replace(".", "/")
    return [place.with_suffix(".py"), place / "__init__.py"]


def _require_own(module: ModuleType, name: str, folder: Path | None, what: str) -> None:
    """Refuse a module that Python took from elsewhere although the recipe's folder has one of that name."""
    if folder is None:
        return
    own = _own_files(folder, name)
    found = Path(module.__file__).resolve() if module.__file__ else None
    if any(path.is_file() for path in own) and found not in [path.resolve() for path in own]:
        raise CompressError(
            f"{what}: {folder} has a module {name!r}, but Python already uses another of that name ({found});"
            " rename the recipe's"
        )


def call(function: Callable[..., Any], what: str, *args: Any, **kwargs: Any) -> Any:
    """`function(*args, **kwargs)`; what it raises becomes a CompressError with type, message and place."""
    try:
        return function(*args, **kwargs)
    except CompressError:
        raise
    except Exception as error:
        raise CompressError(f"{what} failed: {describe(error)}") from error


def did_you_mean(word: str, known: list[str]) -> str:
    """`; did you mean 'x'?`, or nothing when no known name is close."""
    close = get_close_matches(word, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def describe(error: BaseException) -> str:
    """Type, message and innermost place of an exception, on one line."""
    message = cause(error) if str(error).strip() else ""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message}{place}"


def _import(module_name: str, subject: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name != missing and not module_name.startswith(f"{missing}."):
            raise CompressError(f"{subject}: importing {module_name} failed: {describe(error)}") from error
        raise CompressError(
            f"{subject}: there is no module {missing!r}{did_you_mean(missing, _siblings(missing))}"
            " (the recipe's own folder and installed packages are searched)"
        ) from error
    except Exception as error:
        raise CompressError(f"{subject}: importing {module_name} failed: {describe(error)}") from error


def _siblings(module_name: str) -> list[str]:
    """Full names of the modules beside `module_name`."""
    parent, _, _ = module_name.rpartition(".")
    if not parent:
        return [m.name for m in pkgutil.iter_modules()]
    package = sys.modules.get(parent)
    return [f"{parent}.{m.name}" for m in pkgutil.iter_modules(getattr(package, "__path__", []))]
