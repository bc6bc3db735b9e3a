"""Multiply-accumulates of a network that torch runs, operator by operator, in eager modules and captured graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode

from .macs import OperatorMacs, total_macs
from .torch_formulas import counted, is_composite, is_free, operator_name


def count_macs(module: nn.Module, inputs: Sequence[torch.Tensor]) -> list[OperatorMacs]:
    """Run `module` once on a batch and list what each operator multiplies and accumulates for one sample, in order."""
    counter = _Counter(int(inputs[0].shape[0]))
    with torch.no_grad(), _places_of(module, counter), counter:
        if isinstance(module, fx.GraphModule):
            _ByNode(module, counter).run(*inputs)
        else:
            module(*inputs)
    return counter.found


def node_macs(node: fx.Node) -> int | None:
    """Multiply-accumulates of a node of a captured graph, from the shapes noted at capture; a dynamic size counts as 1.

    None when they cannot be counted. What a composite operator does is found by running it on tensors without data.
    """
    if node.op != "call_function" or is_free(node.target):
        return 0
    counter = _Counter()
    try:
        with torch.no_grad():
            args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), _without_data)
            with counter:
                node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception:  # an operator that has no rule for tensors without data, in whatever way it says so
        return None
    return total_macs(found.macs for found in counter.found)


def _without_data(argument: Any) -> Any:
    if isinstance(argument, fx.Node):
        argument = argument.meta["val"]
    if isinstance(argument, (tuple, list)):
        return type(argument)(map(_without_data, argument))
    if isinstance(argument, torch.Tensor):
        return torch.empty([fixed_size(s) for s in argument.shape], dtype=argument.dtype, device="meta")
    return fixed_size(argument) if isinstance(argument, torch.SymInt) else argument


def fixed_size(size: int | torch.SymInt) -> int:
    """A size of a captured tensor; a dynamic one as it is for a batch of one."""
    if not isinstance(size, torch.SymInt):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))


# -- running and watching


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator below autograd and composites, and counts those that multiply."""

    supports_higher_order_operators = True

    def __init__(self, batch: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch = batch
        self.found: list[OperatorMacs] = []
        self.places = [""]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return self._control_flow(func, args, kwargs)
        if is_composite(func):  # reaches this mode whole inside a condition's branches
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if not is_free(func):
            self._add(operator_name(func), counted(func, args, result))
        return result

    def _control_flow(self, func: HigherOrderOperator, args: Any, kwargs: Any) -> Any:
        """Both branches of a condition, of which the costlier counts; what is wrapped; anything else is unknown."""
        name = str(func)
        if name in ("wrap_with_set_grad_enabled", "wrap_with_autocast"):
            index = next(i for i, a in enumerate(args) if callable(a))
            with self:
                return args[index](*args[index + 1 :])
        result = func(*args, **kwargs)
        macs = self._branches(args[1:3], args[3]) if name == "cond" else None
        self._add(name, macs)
        return result

    def _add(self, operator: str, macs: int | None) -> None:
        whole = macs // self.batch if macs is not None else None
        self.found.append(OperatorMacs(self.places[-1], operator, whole))

    def _branches(self, branches: Sequence[Any], operands: Sequence[Any]) -> int | None:
        counts = []
        for branch in branches:
            inner = _Counter()
            with inner:
                branch(*operands)
            counts.append(total_macs(found.macs for found in inner.found))
        known = [count for count in counts if count is not None]
        return max(known) if len(known) == len(counts) else None


class _ByNode(fx.Interpreter):
    """Runs a captured graph and tells the counter which node it is at."""

    def __init__(self, module: fx.GraphModule, counter: _Counter) -> None:
        super().__init__(module)
        self.counter = counter

    def run_node(self, n: fx.Node) -> Any:
        """The node's value."""
        self.counter.places.append(n.name)
        try:
            return super().run_node(n)
        finally:
            self.counter.places.pop()


@contextmanager
def _places_of(module: nn.Module, counter: _Counter) -> Iterator[None]:
    """Tell the counter which module is running."""
    handles = []
    for name, child in module.named_modules():
        if name:
            handles.append(child.register_forward_pre_hook(_enter(counter, name)))
            handles.append(child.register_forward_hook(_leave(counter), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _enter(counter: _Counter, name: str) -> Callable[..., None]:
    return lambda *_: counter.places.append(name)


def _leave(counter: _Counter) -> Callable[..., None]:
    def hook(*_: object) -> None:
        counter.places.pop()

    return hook
