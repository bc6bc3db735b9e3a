"""`torch.export` archives (`.pt2`), read so that nothing in them can run code.

`torch.export.load` unpickles members without restraint, evaluates shape expressions, executes guard code,
resolves any `torch.*` name as an operator and loads compiled libraries. So only members of a known kind are
taken, checked, and copied into a fresh archive in memory, which is what torch then reads.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from keyword import iskeyword
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from ..errors import CompressError, UnsafeInputError
from .checkpoint import refuse_bombs, require_file, untrusted
from .files import sha256_file

MAX_GRAPH_BYTES = 128 * 2**20
_PLAIN_MEMBER = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|\.format_version"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+"
)
_CONFIG_MEMBER = re.compile(r"data/(weights|constants)/model_(weights|constants)_config\.json")
_GRAPH_MEMBER, _SAMPLE_MEMBER = "models/model.json", "data/sample_inputs/model.pt"
_IGNORED_MEMBER = re.compile(r"extra/.*")
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|torchvision|quantized_decomposed)\.\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|map_impl|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\.(sym_\w+|_sym_\w+)|math\.\w+"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|abs|and_|or_|xor|not_|eq|ne|lt|le|gt|ge|getitem|lshift|rshift)"
)
_FILE_OPERATOR = re.compile(r"torch\.ops\.aten\.(from_file|_print|save)\b.*")
_PLAIN_TEXT = re.compile(r"[\w.:/<>,\- +]*")
_SYMBOL = re.compile(r"[suz]f?\d+|zuf\d+")
_SHAPE_FUNCTIONS = frozenset(
    """FloorDiv ModularIndexing Where PythonMod Mod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift
    PowByNatural FloatPow FloatTrueDiv IntTrueDiv IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt
    RoundToInt RoundDecimal ToFloat Identity Symbol Integer Rational Float Add Mul Pow Max Min Abs Eq Ne Lt Le
    Gt Ge And Or Not floor ceiling true false True False int_oo oo""".split()  # noqa: SIM905 (a table of names)
)
_SYMBOL_TEXT = re.compile(r"[suz]f?\d+|zuf\d+|[\d.e+-]+")  # what Symbol('s0') and Float('0.5') quote
_SHAPE_NODES = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.BoolOp,
    ast.Call,
    ast.Name,
    ast.Constant,
)
_SHAPE_SYNTAX = (ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.expr_context, ast.keyword)
_TREE_TYPES = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def load_exported(path: Path, trust_pickle: str | None = None) -> ExportedProgram:
    """The exported program in `path`; UnsafeInputError for an archive that could run code.

    trust_pickle: the SHA-256 of a file that is read as `torch.export.load` would read it.
    """
    require_file(path, "model.source")
    if trust_pickle is not None and trust_pickle.lower() == sha256_file(path):
        return _load(io.BytesIO(path.read_bytes()), path)
    if not zipfile.is_zipfile(path):
        raise CompressError(
            f"model.source: {path} is not a .pt2 archive of torch.export.save (not a zip file)"
        )
    refuse_bombs(path)
    return _load(_checked_copy(path), path)


def _load(archive: io.BytesIO, path: Path) -> ExportedProgram:
    import logging

    quiet = [logging.getLogger(name) for name in ("torch.export", "torch.export.pt2_archive._package")]
    levels = [logger.level for logger in quiet]
    try:
        for logger in quiet:
            logger.setLevel(logging.CRITICAL)  # torch logs a traceback before it raises
        return torch.export.load(archive)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise CompressError(
            f"model.source: {path} cannot be read ({type(error).__name__}: {text}); it may be damaged, or"
            f" saved by another"
            f" version of torch than {torch.__version__}: export it again"
        ) from error
    finally:
        for logger, level in zip(quiet, levels, strict=True):
            logger.setLevel(level)


def _checked_copy(path: Path) -> io.BytesIO:
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
            root = _root(source, path)
            for info in source.infolist():
                name = info.filename.removeprefix(root)
                if not _IGNORED_MEMBER.fullmatch(name):
                    target.writestr(f"model/{name}", _checked_member(name, source.read(info), path))
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, UnicodeDecodeError) as error:
        raise CompressError(f"model.source: {path} is a damaged zip archive: {error}") from error
    copy.seek(0)
    return copy


def _root(archive: zipfile.ZipFile, path: Path) -> str:
    """The one folder all members lie in; CompressError when this is no archive of torch.export."""
    names = archive.namelist()
    root = names[0].partition("/")[0] + "/" if names else ""
    if not root or any(not n.startswith(root) for n in names) or f"{root}{_GRAPH_MEMBER}" not in names:
        raise CompressError(
            f"model.source: {path} is a zip file, but not one of torch.export.save (it has no"
            f" {_GRAPH_MEMBER}); export the"
            " network again with torch 2.8 or newer"
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
            if not content or _is_plain_pickle(content)
            else _refuse(path, "has sample inputs that hold code")
        )
    if _CONFIG_MEMBER.fullmatch(name):
        for entry in _json(content, path).get("config", {}).values():
            if entry.get("use_pickle") or not re.fullmatch(
                r"(weight|tensor)_\d+", str(entry.get("path_name"))
            ):
                _refuse(path, f"stores {entry.get('path_name')!r} as a pickle")
        return content
    if name == _GRAPH_MEMBER:
        return json.dumps(_checked_program(_json(content, path), path)).encode()
    return _refuse(path, f"holds the member {name!r}, which may contain code")


def _is_plain_pickle(content: bytes) -> bool:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # torch raises many types; whatever it cannot read plainly is not plain
        return False
    return True


def _checked_program(program: dict[str, Any], path: Path) -> dict[str, Any]:
    """The program without guard code and source metadata, every other string checked."""
    program["guards_code"] = []
    for node in _graph_nodes(program):
        target, metadata = str(node.get("target")), node.get("metadata") or {}
        if not _OPERATOR.fullmatch(target) or _FILE_OPERATOR.fullmatch(target):
            _refuse(path, f"calls {target!r}, which is no operator of a network")
        node["metadata"] = {k: v for k, v in metadata.items() if k == "nn_module_stack"}
    program["graph_module"]["metadata"] = {}
    for key, text in _strings(program):
        if key == "expr_str":
            allowed = _is_shape_expression(text)
        elif key in ("in_spec", "out_spec"):
            allowed = _is_plain_tree(text)
        elif key in ("name", "forward_arg_names"):  # torch.fx makes names of variables and arguments of them
            allowed = not text or (text.isidentifier() and not iskeyword(text))
        else:
            allowed = _PLAIN_TEXT.fullmatch(text) is not None
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


def _is_shape_expression(text: str) -> bool:
    """Arithmetic over size symbols: sympy evaluates these texts as Python."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(
        isinstance(n, (*_SHAPE_NODES, *_SHAPE_SYNTAX))
        and (not isinstance(n, ast.Call) or (isinstance(n.func, ast.Name)))
        and (not isinstance(n, ast.Name) or n.id in _SHAPE_FUNCTIONS or _SYMBOL.fullmatch(n.id) is not None)
        and (not isinstance(n, ast.Constant) or _is_shape_constant(n.value))
        for n in nodes
    )


def _is_shape_constant(value: object) -> bool:
    return (
        _SYMBOL_TEXT.fullmatch(value) is not None
        if isinstance(value, str)
        else isinstance(value, (int, float))
    )


def _is_plain_tree(text: str) -> bool:
    """A tree of tuples, lists and dicts with plain keys: other node types import modules."""
    try:
        version, tree = json.loads(text)
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
        pending.extend(node.get("children_spec") or [])
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
