"""Sizes in a `.pt2` archive: arithmetic over symbols, which sympy evaluates as Python and without limits."""

from __future__ import annotations

import ast
import re

MAX_LENGTH = 10_000  # characters
MAX_NODES = 1_000
MAX_DEPTH = 40
MAX_CHOICES = 8  # arguments of Max and Min, which sympy compares with each other
MAX_EXPONENT = 8  # sizes are multiplied, squared, and no more
MAX_SHIFT = 63
MAX_CONSTANT = 2**63
_SYMBOL = re.compile(r"[suz]f?\d{1,9}|zuf\d{1,9}")
_SYMBOL_TEXT = re.compile(
    r"[suz]f?\d{1,9}|zuf\d{1,9}|-?\d{1,19}|[\d.]{1,25}(e[+-]?\d{1,3})?"
)  # what Symbol('s0') and Float('0.5') quote
_FUNCTIONS = frozenset(
    """FloorDiv ModularIndexing Where PythonMod Mod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift
    PowByNatural FloatPow FloatTrueDiv IntTrueDiv IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt
    RoundToInt RoundDecimal ToFloat Identity Symbol Integer Rational Float Add Mul Pow Max Min Abs Eq Ne Lt Le
    Gt Ge And Or Not floor ceiling true false True False int_oo oo""".split()  # noqa: SIM905 (a table of names)
)
_POWERS, _SHIFTS = ("Pow", "PowByNatural", "FloatPow"), ("LShift", "RShift")
_NODES = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Call, ast.Name, ast.Constant)
_SYNTAX = (ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.expr_context, ast.keyword)


def is_shape_expression(text: str) -> bool:
    """Whether `text` is arithmetic over size symbols, and takes neither long nor much memory to evaluate."""
    if len(text) > MAX_LENGTH:
        return False
    try:
        tree = ast.parse(text, mode="eval")
        nodes = list(ast.walk(tree))
        return len(nodes) <= MAX_NODES and _depth(tree) <= MAX_DEPTH and all(map(_is_allowed, nodes))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_allowed(node: ast.AST) -> bool:
    match node:
        case ast.Name():
            return node.id in _FUNCTIONS or _SYMBOL.fullmatch(node.id) is not None
        case ast.Constant():
            return _is_constant(node.value)
        case ast.Call():
            return isinstance(node.func, ast.Name) and _is_bounded(node.func.id, node)
        case ast.BinOp(op=ast.Pow()):
            return _is_power(node.left, node.right)
        case ast.BinOp(op=ast.LShift() | ast.RShift()):
            return _is_shift(node.left, node.right)
    return isinstance(node, (*_NODES, *_SYNTAX))


def _is_constant(value: object) -> bool:
    if isinstance(value, str):
        return _SYMBOL_TEXT.fullmatch(value) is not None
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= MAX_CONSTANT)


def _is_bounded(name: str, call: ast.Call) -> bool:
    if name in _POWERS:
        return len(call.args) == 2 and not call.keywords and _is_power(*call.args)
    if name in _SHIFTS:
        return len(call.args) == 2 and not call.keywords and _is_shift(*call.args)
    return len(call.args) <= MAX_CHOICES if name in ("Max", "Min") else True


def _is_power(base: ast.expr, exponent: ast.expr) -> bool:
    """A small whole exponent, and no power or shift below it: 9**9**9 has 370 million digits."""
    number = _whole(exponent)
    half = isinstance(exponent, ast.Constant) and exponent.value == 0.5
    return (half or (number is not None and abs(number) <= MAX_EXPONENT)) and not _grows(base)


def _is_shift(value: ast.expr, count: ast.expr) -> bool:
    number = _whole(count)
    return number is not None and 0 <= number <= MAX_SHIFT and not _grows(value)


def _grows(node: ast.expr) -> bool:
    return any(
        (isinstance(n, ast.BinOp) and isinstance(n.op, ast.Pow | ast.LShift | ast.RShift))
        or (isinstance(n, ast.Name) and n.id in (*_POWERS, *_SHIFTS))
        for n in ast.walk(node)
    )


def _whole(node: ast.expr) -> int | None:
    """The whole number that `node` writes, with a sign or inside Integer(...); None for anything else."""
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            number = _whole(inner)
            return None if number is None else -number
        case ast.Call(func=ast.Name(id="Integer"), args=[inner]):
            return _whole(inner)
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            return value
    return None


def _depth(tree: ast.AST) -> int:
    deepest, level = 0, [tree]
    while level:
        deepest += 1
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return deepest
