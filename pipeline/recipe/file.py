"""A recipe from a YAML file: everything that is wrong with it at once, each with its line and column."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ...calibration.named import why_not_named
from ...form import form_named
from ...passes.base import Pass
from ...passes.order import order_problem
from ..budgets import KINDS
from ..devices.file import DEVICES_FILE, read_devices, why_not_ahead
from ..devices.sections import DeviceSection
from .paths import absolute, is_callable_name, locate
from .problems import Location, RecipeError, describe, unknown
from .sections import Recipe, TargetSection
from .validation import validated
from .yaml_text import Document, parse, recipe_text_of

__all__ = ["TARGET_OPTIONS", "RecipeError", "read_recipe", "recipe_text_of"]

_NULL_MEANS_DEFAULT = ("passes", "export", "measure", "budgets")  # all their options may be commented out
TARGET_OPTIONS = ["threads", "float_precision", "compute_capabilities", "required"]
_PER_TARGET_BUDGETS = [key for key, kind in KINDS.items() if kind.subject == "device"]
_MODEL_FILES = (".pt2", ".onnx")


def read_recipe(path: Path) -> Recipe:
    """Read and validate a recipe; its paths come back absolute, its name defaults to the file's.

    Nothing is imported or evaluated for it. Raises RecipeError with every problem found, each as
    `file:line:column: key: what was expected, what was found`.
    """
    document = parse(path)
    _refuse_python_itself(document, path.parent)
    data = {
        key: value
        for key, value in document.data.items()
        if value is not None or key not in _NULL_MEANS_DEFAULT or document.is_bad((key,))
    }
    passes = _read_passes(document, data, path.parent)
    devices = _devices_beside(path.parent, data)
    targets = _read_targets(document, data, devices)
    _check_budget_names(document, devices)
    _resolve_files(document, data, path.parent)
    recipe = validated(document, Recipe, data, ())
    if document.problems or recipe is None:
        raise RecipeError(path, document.problems)
    return recipe.model_copy(
        update={"passes": tuple(passes), "targets": tuple(targets), "name": recipe.name or path.stem}
    )


def _refuse_python_itself(document: Document, folder: Path) -> None:
    """Refuse every function of the standard library that is named, wherever one can be."""
    named: list[tuple[Location, Any]] = [
        (place, _at(document.data, place)) for place in (("model", "source"), ("data", "source"), ("metric",))
    ]
    named += _texts(document.data.get("passes"), ("passes",))
    for location, text in named:
        if isinstance(text, str) and is_callable_name(text) and (reason := why_not_named(text, folder)):
            document.refuse(location, f"{text}: {reason}", unsafe=True)


def _at(data: Any, location: Location) -> Any:
    for part in location:
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _texts(data: Any, location: Location) -> Iterator[tuple[Location, str]]:
    if isinstance(data, str):
        yield location, data
    elif isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _texts(value, (*location, key))


def _read_passes(document: Document, data: dict[str, Any], folder: Path) -> list[Pass]:
    """The passes that are right; a list is taken out of `data`, anything else left for pydantic to refuse."""
    from ...passes import PASSES

    passes: list[Pass] = []
    start = form_named(str(_at(document.data, ("model", "source"))))
    for location, name, options in _named_items(document, data, "passes", left_behind=[]):
        if name not in PASSES:
            document.refuse(location, unknown("pass", name, PASSES), at_key=True)
            continue
        options = _with_files(document, options, location, folder)
        for key in PASSES[name].file_options:
            _resolve(document, options, (*location, key), folder, find=absolute)
        read = validated(document, PASSES[name], options, location)
        reason = order_problem(read, passes, start) if read else None
        if reason:
            document.refuse(location, reason, at_key=True)
        if read:
            passes.append(read)
    return passes


def _with_files(document: Document, options: Any, location: Location, folder: Path) -> Any:
    """The options of a pass with the files of the networks that they name made absolute, at any depth."""
    if isinstance(options, list):
        return [_with_files(document, item, (*location, i), folder) for i, item in enumerate(options)]
    if not isinstance(options, dict):
        return options
    found = {k: _with_files(document, value, (*location, k), folder) for k, value in options.items()}
    if "source" in found:
        _resolve(document, found, (*location, "weights"), folder)
        if str(found["source"]).endswith(_MODEL_FILES):
            _resolve(document, found, (*location, "source"), folder)
    return found


def _devices_beside(folder: Path, data: Mapping[str, Any]) -> dict[str, DeviceSection]:
    """The devices of the devices.yaml in a recipe's folder, where one of its targets is not named by a runtime."""
    from ...targets import TARGETS

    path = folder / DEVICES_FILE
    needed = any(label.partition(":")[0] not in TARGETS for label in _labels(data))
    return read_devices(path) if needed and path.is_file() else {}


def _read_targets(
    document: Document, data: dict[str, Any], devices: Mapping[str, DeviceSection]
) -> list[TargetSection]:
    """The targets that are right; a list is taken out of `data`, and one valid target stands in for it."""
    from ...targets import REFERENCE, TARGETS

    targets: list[TargetSection] = []
    stand_in = [{"runtime": REFERENCE}]
    for location, label, options in _named_items(document, data, "targets", left_behind=stand_in):
        runtime, colon, device = label.partition(":")
        if runtime not in TARGETS and label not in devices:
            if colon and runtime in devices:
                message = (
                    f"{runtime} is a device of {DEVICES_FILE}, which says which one: leave out :{device}"
                )
                document.refuse(location, message, at_key=True)
                continue
            known = [*devices, *TARGETS]
            document.refuse(location, unknown("target", runtime, known), at_key=True)
            continue
        if colon and not device:
            message = f"expected a device after the colon, as in openvino:CPU, got {describe(label)}"
            document.refuse(location, message, at_key=True)
            continue
        if any(label == target.label for target in targets):
            message = f"{label} is listed twice: budgets and reports name a target once"
            document.refuse(location, message, at_key=True)
            continue
        possible = (
            TARGET_OPTIONS if runtime in TARGETS else ["required"]
        )  # the others are said in devices.yaml
        for key in options.keys() - set(possible):
            document.refuse((*location, key), unknown("option", key, possible), at_key=True)
        chosen = {key: options[key] for key in possible if key in options}
        if chosen.get("compute_capabilities") and (reason := why_not_ahead(runtime)):
            document.refuse((*location, "compute_capabilities"), reason)
        if runtime in TARGETS:
            chosen |= {"runtime": runtime, "device": device}
        else:
            chosen |= {"name": label, **devices[label].model_dump(mode="json", exclude_unset=True)}
        if chosen.get("mode") == "throughput":
            message = f"{DEVICES_FILE} has it in throughput mode, and a run times single inferences: set mode: latency"
            document.refuse(location, message, at_key=True)
            continue
        read = validated(document, TargetSection, chosen, location)
        if read:
            targets.append(read)
    return targets


def _named_items(
    document: Document, data: dict[str, Any], key: str, left_behind: list[Any]
) -> list[tuple[Location, str, dict[str, Any]]]:
    """The items of a list, each `name` or `name:` with options below it: where it stands, name, options.

    A list that is not empty is taken out of `data`, and `left_behind` put in its place.
    """
    if not isinstance(data.get(key), list) or not data[key]:
        return []
    items: list[tuple[Location, str, dict[str, Any]]] = []
    for index, item in enumerate(data[key]):
        location: Location = (key, index)
        if document.is_bad(location):
            continue
        if isinstance(item, str):
            items.append((location, item, {}))
        elif isinstance(item, dict) and len(item) == 1:
            name, options = next(iter(item.items()))
            if isinstance(options, dict | None):
                items.append(((*location, name), name, options or {}))
            elif not document.is_bad((*location, name)):
                document.refuse((*location, name), f"expected options (key: value), got {describe(options)}")
        elif isinstance(item, dict) and item:
            listed = ", ".join(item)
            document.refuse(location, f"expected one name, got {listed}: indent the options below their name")
        else:
            document.refuse(location, f"expected a name, or a name with options, got {describe(item)}")
    data[key] = left_behind
    return items


def _labels(data: Mapping[str, Any]) -> list[str]:
    """What the targets of a recipe are called, as they are written; none where they are no list."""
    items = data.get("targets")
    listed = items if isinstance(items, list) else []
    return [str(next(iter(item), "")) if isinstance(item, dict) else str(item) for item in listed]


def _check_budget_names(document: Document, devices: Collection[str]) -> None:
    """Each per-device budget must name a target of the recipe."""
    from ...targets import TARGETS

    budgets, labels = document.data.get("budgets"), _labels(document.data)
    if not isinstance(budgets, dict) or not labels:
        return
    if any(label.partition(":")[0] not in (*TARGETS, *devices) for label in labels):
        return  # a target that is itself misspelt must not make its budget wrong too
    for kind in _PER_TARGET_BUDGETS:
        for name in budgets[kind] if isinstance(budgets.get(kind), dict) else ():
            if name not in labels:
                message = unknown("target", name, dict.fromkeys(labels)).replace("known:", "this recipe's:")
                document.refuse(("budgets", kind, name), message, at_key=True)


def _resolve_files(document: Document, data: dict[str, Any], folder: Path) -> None:
    """Make the paths of `model` and `data` absolute, and refuse those that lead nowhere."""
    model, samples = data.get("model"), data.get("data")
    if isinstance(model, dict):
        data["model"] = model = dict(model)
        source = model.get("source")
        if isinstance(source, str) and source.endswith(_MODEL_FILES):
            _resolve(document, model, ("model", "source"), folder)
            for key in ("weights", "args"):
                if model.get(key):
                    message = "a .pt2 or .onnx file is the whole model: remove this key"
                    document.refuse(("model", key), message)
        _resolve(document, model, ("model", "weights"), folder)
    if isinstance(samples, dict):
        data["data"] = samples = dict(samples)
        source = samples.get("source")
        if isinstance(source, str) and not is_callable_name(source):
            _resolve(document, samples, ("data", "source"), folder, find=partial(locate, folders=True))


def _resolve(
    document: Document,
    section: dict[str, Any],
    location: Location,
    folder: Path,
    find: Callable[[str, Path], Path] = locate,
) -> None:
    key = str(location[-1])
    if isinstance(section.get(key), str) and not document.is_bad(location):
        try:
            section[key] = str(find(section[key], folder))
        except ValueError as error:
            document.refuse(location, str(error))
