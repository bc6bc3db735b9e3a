"""Sharing: one weight that layers of unlike kinds read becomes one weight for each kind.

A decoder may read its encoder's kernels, a matrix may stand on either side of a product. An INT8 weight has a scale
for each output channel, and where those lie depends on the reader: axis 0 for a convolution, axis 1 for a transposed
one. So each kind gets a copy with scales of its own. Readers of one kind, such as tied heads, go on sharing.
"""

from __future__ import annotations

from torch import Tensor, fx, nn

from .folding import LEARNED
from .operators import CONVOLUTIONS, MATMULS, TRANSPOSED, aten

EMBEDDINGS = (aten.embedding.default,)  # rows of a matrix: what a tied linear layer has as output channels


def separate_kinds(module: fx.GraphModule) -> None:
    """Give each kind of reader of a constant its own copy; the first keeps the name.

    Only constants that a layer reads as its weight are looked at; the outputs stay the same.
    """
    readers: dict[str, dict[str, list[tuple[fx.Node, fx.Node]]]] = {}
    for node in module.graph.nodes:
        for constant in node.all_input_nodes:
            if constant.op == "get_attr" and isinstance(constant.meta.get("val"), Tensor):
                kinds = readers.setdefault(str(constant.target), {})
                kinds.setdefault(_kind(node, constant), []).append((node, constant))
    for name, kinds in readers.items():
        if len(kinds) < 2 or all(kind == "other" or kind.startswith("bias") for kind in kinds):
            continue
        for kind, found in list(kinds.items())[1:]:
            copy = _copied(module, name, kind)
            for reader, constant in found:
                _read_copy(module, reader, constant, copy)
                if kind != "other":
                    reader.meta["layer"] = f"{name.removesuffix('.weight')}.as_{kind}"
    module.graph.eliminate_dead_code()


def _kind(node: fx.Node, constant: fx.Node) -> str:
    """How a node reads a constant: the same word where one copy, with scales along one axis, serves."""
    place = [index for index, argument in enumerate(node.args) if argument is constant]
    if node.target in MATMULS:
        return "left_matrix" if 0 in place else "right_matrix"
    if node.target in EMBEDDINGS:
        return "linear"
    for kind, operators in (
        ("conv", CONVOLUTIONS),
        ("transposed_conv", TRANSPOSED),
        ("linear", (aten.linear.default,)),
    ):
        if node.target in operators:
            return kind if 1 in place else f"bias_of_{kind}"
    return "other"


def _copied(module: fx.GraphModule, name: str, kind: str) -> str:
    owner_name, _, attribute = name.rpartition(".")
    owner, copy = module.get_submodule(owner_name), f"{attribute}_as_{kind}"
    tensor = getattr(owner, attribute)
    if isinstance(tensor, nn.Parameter):
        setattr(owner, copy, nn.Parameter(tensor.detach().clone(), requires_grad=tensor.requires_grad))
    else:
        owner.register_buffer(copy, tensor.detach().clone())
    full = f"{owner_name}.{copy}" if owner_name else copy
    if name in module.meta.get(LEARNED, ()):
        module.meta[LEARNED].add(full)
    return full


def _read_copy(module: fx.GraphModule, reader: fx.Node, constant: fx.Node, copy: str) -> None:
    with module.graph.inserting_before(reader):
        node = module.graph.get_attr(copy)
    node.meta.update(constant.meta)
    reader.replace_input_with(constant, node)
