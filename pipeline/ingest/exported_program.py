"""`torch.export` archives (`.pt2`), read so that nothing in them can run code.

`torch.export.load` unpickles members without restraint, evaluates shape expressions, executes guard code,
resolves any `torch.*` name as an operator and loads compiled libraries. So only members of a known kind are
taken, checked, and copied into a fresh archive in memory, which is what torch then reads.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from keyword import iskeyword
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ...errors import CompressError, UnsafeInputError, cause
from ..files import require_file
from .shape_expressions import is_shape_expression
from .state_dicts import plain_tensor
from .torch_file import UNREADABLE_ZIP, refuse_attacks, refuse_bombs, untrusted

MAX_GRAPH_BYTES = 128 * 2**20
MAX_SAMPLE_ELEMENTS = 2**28  # a stored sample may be one number, expanded; below this it does no harm
_PLAIN_MEMBER = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|\.format_version"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+"
)
_CONFIG_MEMBER = re.compile(r"data/(weights|constants)/model_(weights|constants)_config\.json")
_GRAPH_MEMBER, _SAMPLE_MEMBER = "models/model.json", "data/sample_inputs/model.pt"
_IGNORED_MEMBER = re.compile(r"extra/.*")
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|torchvision|quantized_decomposed)\.\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.(cond|scan|map_impl|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\.(sym_\w+|_sym_\w+)|math\.\w+"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|abs|and_|or_|xor|not_|eq|ne|lt|le|gt|ge|getitem|lshift|rshift)"
)
_FILE_OPERATOR = re.compile(r"torch\.ops\.aten\.(from_file|_print|save)\b.*")
_PLAIN_TEXT = re.compile(r"[\w.:/<>,\- +]*")
_NAME_KEYS = ("name", "forward_arg_names", "user_input_name")
_TREE_TYPES = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def load_exported(path: Path, trust_pickle: str | None = None) -> ExportedProgram:
    """The exported program in `path`; UnsafeInputError for an archive that could run code.

    trust_pickle: the SHA-256 of a file that is read as `torch.export.load` would read it.
    """
    require_file(path, "model.source")
    content = io.BytesIO(
        path.read_bytes()
    )  # judged and loaded from the same bytes: nobody can swap the file between
    if trust_pickle is not None and trust_pickle.lower() == hashlib.sha256(content.getbuffer()).hexdigest():
        return _load(content, path)
    refuse_bombs(content, path)
    if not zipfile.is_zipfile(content):
        raise CompressError(
            f"model.source: {path} is not a .pt2 archive of torch.export.save (not a zip file)"
        )
    program = _load(_checked_copy(content, path), path)
    _refuse_odd_tensors(program, path)
    return program


def _load(archive: io.BytesIO, path: Path) -> ExportedProgram:
    import logging

    quiet = [logging.getLogger(name) for name in ("torch.export", "torch.export.pt2_archive._package")]
    levels = [logger.level for logger in quiet]
    try:
        for logger in quiet:
            logger.setLevel(logging.CRITICAL)  # torch logs a traceback before it raises
        return torch.export.load(archive)
    except Exception as error:
        text = cause(error)
        raise CompressError(
            f"model.source: {path} cannot be read ({type(error).__name__}: {text}); it may be damaged, or"
            f" saved by another version of torch than {torch.__version__}: export it again"
        ) from error
    finally:
        for logger, level in zip(quiet, levels, strict=True):
            logger.setLevel(level)


def _checked_copy(content: io.BytesIO, path: Path) -> io.BytesIO:
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(content) as source, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
            root = _root(source, path)
            for info in source.infolist():
                name = info.filename.removeprefix(root)
                if not _IGNORED_MEMBER.fullmatch(name):
                    target.writestr(f"model/{name}", _checked_member(name, source.read(info), path))
    except UNREADABLE_ZIP as error:
        raise CompressError(
            f"model.source: {path} is a damaged zip archive: {str(error)[:200] or type(error).__name__}"
        ) from error
    copy.seek(0)
    return copy


def _root(archive: zipfile.ZipFile, path: Path) -> str:
    """The one folder all members lie in; CompressError when this is no archive of torch.export."""
    names = archive.namelist()
    root = names[0].partition("/")[0] + "/" if names else ""
    if not root or any(not n.startswith(root) for n in names) or f"{root}{_GRAPH_MEMBER}" not in names:
        raise CompressError(
            f"model.source: {path} is a zip file, but not one of torch.export.save (it has no"
            f" {_GRAPH_MEMBER}); export the network again with torch 2.8 or newer"
        )
    if len(set(names)) != len(names):
        raise UnsafeInputError(f"{path} holds two members of one name; no archive of torch.export.save does")
    return root


def _checked_member(name: str, content: bytes, path: Path) -> bytes:
    if _PLAIN_MEMBER.fullmatch(name):
        return content
    if name == _SAMPLE_MEMBER:
        return (
            content
            if not content or _is_plain_pickle(content, path)
            else _refuse(path, "has sample inputs that hold code")
        )
    if _CONFIG_MEMBER.fullmatch(name):
        _check_config(_json(content, path), path)
        return content
    if name == _GRAPH_MEMBER:
        return json.dumps(_checked_program(_json(content, path), path)).encode()
    return _refuse(path, f"holds the member {name!r}, which may contain code")


def _check_config(config: dict[str, Any], path: Path) -> None:
    """Weights are plain bytes with a shape each."""
    for name, entry in _mapping(config.get("config", {}), "list of weights", path).items():
        stored = str(_mapping(entry, f"entry of the weight {name[:80]!r}", path).get("path_name"))
        if entry.get("use_pickle") or not re.fullmatch(r"(weight|tensor)_\d+", stored):
            _refuse(path, f"stores {stored[:80]!r} as a pickle")


def _mapping(value: Any, what: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CompressError(f"model.source: {path} holds a damaged {what}: it is a {type(value).__name__}")
    return value


def _refuse_odd_tensors(program: ExportedProgram, path: Path) -> None:
    """Weights and samples must be dense, here, and as large as they say: whatever reads them takes that memory."""
    samples, keywords = program.example_inputs or ((), {})
    named = {**program.state_dict, **program.constants}
    for name, tensor in named.items():
        if isinstance(tensor, Tensor):
            plain_tensor(name, tensor, path)
    for index, sample in enumerate((*samples, *keywords.values())):
        if isinstance(sample, Tensor) and sample.numel() > MAX_SAMPLE_ELEMENTS:
            plain_tensor(f"sample input {index}", sample, path)


def _is_plain_pickle(content: bytes, path: Path) -> bool:
    refuse_attacks(io.BytesIO(content), path)
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # torch raises many types; whatever it cannot read plainly is not plain
        return False
    return True


def _checked_program(program: dict[str, Any], path: Path) -> dict[str, Any]:
    """The program without guard code and source metadata, every other string checked."""
    program["guards_code"] = []
    module = _mapping(program.get("graph_module"), "graph description", path)
    for node in _graph_nodes(program):
        target = str(node.get("target"))
        metadata = _mapping(node.get("metadata") or {}, "graph description", path)
        if not _OPERATOR.fullmatch(target) or _FILE_OPERATOR.fullmatch(target):
            _refuse(path, f"calls {target[:80]!r}, which is no operator of a network")
        node["metadata"] = {k: v for k, v in metadata.items() if k == "nn_module_stack"}
    module["metadata"] = {}
    for key, text in _strings(program):
        if key == "expr_str":
            allowed = is_shape_expression(text)
        elif key in ("in_spec", "out_spec"):
            allowed = _is_plain_tree(text)
        elif key in _NAME_KEYS:  # torch.fx makes names of variables and arguments of them
            allowed = not text or (text.isidentifier() and not iskeyword(text))
        else:
            allowed = _PLAIN_TEXT.fullmatch(text) is not None
        if not allowed and key == "expr_str":
            raise UnsafeInputError(
                f"{path} holds the text {text[:80]!r} as expr_str; a size is a short sum or product of symbols and"
                " numbers, and nothing else is evaluated"
            )
        if not allowed and key != "nn_module_stack":  # shown as text, never parsed as code
            _refuse(path, f"holds the text {text[:80]!r} as {key}")
    return program


def _graph_nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every node of every graph, nested ones included."""
    if isinstance(value, dict):
        if "target" in value and "inputs" in value:
            yield value
        for inner in value.values():
            yield from _graph_nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _graph_nodes(inner)


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string and every mapping's key, with the key it stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield "key", str(name)
            if name == "as_operator":
                yield "operator", "" if _OPERATOR.fullmatch(str(inner)) else "("
            yield from _strings(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, key)


def _is_plain_tree(text: str) -> bool:
    """A tree of tuples, lists and dicts with plain keys: other node types import modules."""
    try:
        version, tree, *_ = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return text == ""
    pending = [tree]
    while pending:
        node = pending.pop()
        context = node.get("context") if isinstance(node, dict) else "("
        if not isinstance(node, dict) or node.get("type") not in _TREE_TYPES:
            return False
        if context is not None and not re.fullmatch(r'null|\[("\w*"(, ?)?|\d+(, ?)?)*\]', str(context)):
            return False
        children = node.get("children_spec") or []
        if not isinstance(children, list):
            return False
        pending.extend(children)
    return isinstance(version, int)


def _json(content: bytes, path: Path) -> dict[str, Any]:
    if len(content) > MAX_GRAPH_BYTES:
        raise UnsafeInputError(
            f"{path} describes its graph in {len(content):,} bytes; the limit is {MAX_GRAPH_BYTES:,}"
        )
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CompressError(f"model.source: {path} holds a damaged graph description: {error}") from error
    if not isinstance(found, dict):
        raise CompressError(f"model.source: {path} holds a damaged graph description")
    return found


def _refuse(path: Path, finding: str) -> bytes:
    raise untrusted(path, finding)
