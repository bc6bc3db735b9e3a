"""A checked ONNX file as a network: converted to PyTorch and proven, or run by onnxruntime as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from ...calibration.named import describe
from ...errors import CompressError, cause
from ...macs import OperatorMacs
from ...model import FILE_NAMES
from ..file_limits import within_limits
from .file import graph_inputs, read_onnx, sample_shape, weight_tensors
from .functions import expanded_size
from .inputs import pin
from .names import with_safe_names
from .normal import InexpressibleError, normal_form
from .operators.table import register
from .quantized import why_no_pass_on_quantized

if TYPE_CHECKING:
    import onnx

MAX_CONVERTED = 20_000  # onnx2torch and torch.fx take time that grows with the square of the nodes
_INSTALL = "pip install edgepress[onnx-import]"


class OnnxRuntimeNetwork(nn.Module):
    """Runs an ONNX file with onnxruntime, for a file that PyTorch cannot take over: no pass can change it.

    no_passes: why, in words. counts: of the graph's nodes, since torch sees no operator here.
    """

    def __init__(
        self, path: Path, weights: Sequence[Tensor], counts: list[OperatorMacs], no_passes: str
    ) -> None:
        super().__init__()
        self.path, self.no_passes, self.counts = path, no_passes, counts
        self.weights = nn.ParameterList([nn.Parameter(w, requires_grad=False) for w in weights])
        self._session: Any = None

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One tensor per graph input -> one per graph output."""
        if self._session is None:
            self._session = _session(self.path)
        names = [i.name for i in self._session.get_inputs()]
        feeds = {n: x.detach().cpu().numpy() for n, x in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(y)) for y in self._session.run(None, feeds))

    def operator_macs(self) -> list[OperatorMacs]:
        """Multiply-accumulates of one sample, of each node that has any, or may have."""
        return self.counts

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxRuntimeNetwork:
        """A session cannot be copied; the copy opens its own."""
        return OnnxRuntimeNetwork(
            self.path, [w.data.clone() for w in self.weights], self.counts, self.no_passes
        )


def why_no_pass(module: nn.Module) -> str | None:
    """Why no pass can change this network, in words; None when passes can."""
    return module.no_passes if isinstance(module, OnnxRuntimeNetwork) else None


def as_network(model: onnx.ModelProto, path: Path, example: tuple[Tensor, ...]) -> nn.Module:
    """A torch module converted by onnx2torch and proven on `example`, else one that runs onnxruntime.

    The second says why no pass can change it: onnx2torch is missing, lacks an operator, or is wrong. CompressError
    when onnxruntime cannot run the file, or when running it takes more time or memory than a file may.
    """
    judged = within_limits("running", _judged, path, example)
    found = judged.no_passes or _network(model, path, example)
    return (
        found
        if isinstance(found, nn.Module)
        else OnnxRuntimeNetwork(path, _weights(model), judged.macs, found)
    )


@dataclass(frozen=True)
class _Judged:
    """What one run of a file has shown. no_passes: why PyTorch cannot take it over, "" where it can."""

    macs: list[OperatorMacs]
    no_passes: str


def _judged(path: Path, example: tuple[Tensor, ...]) -> _Judged:
    """Run the file with onnxruntime and, converted, with PyTorch."""
    model = read_onnx(path)
    pin(model, {v.name: (0, *x.shape[1:]) for v, x in zip(graph_inputs(model), example, strict=True)})
    macs = _macs(model)
    runtime = OnnxRuntimeNetwork(path, [], macs, "")
    try:
        with torch.no_grad():
            expected = runtime(*example)
    except Exception as error:
        text = describe(error)
        raise CompressError(f"model.source: onnxruntime cannot run {path}: {text}") from error
    network = _network(model, path, example)
    if isinstance(network, str):
        return _Judged(macs, network)
    problem = _difference(network, example, expected)
    if not problem and _has_dynamic_batch(model):
        pairs = tuple(torch.cat([x, x]) for x in example)
        problem = _difference(network, pairs, runtime(*pairs))
    wrong = f"passes need PyTorch, and onnx2torch converts {path.name} wrongly: {problem}"
    return _Judged(macs, wrong if problem else "")


def _network(model: onnx.ModelProto, path: Path, example: tuple[Tensor, ...]) -> nn.Module | str:
    """The torch module, or why there is no pass without it."""
    if why := why_no_pass_on_quantized(model, path.name):
        return why
    found = converted(model, example)
    why = f"passes need PyTorch, and {path.name} cannot be converted: "
    return found if isinstance(found, nn.Module) else why + found


def _has_dynamic_batch(model: onnx.ModelProto) -> bool:
    shapes = [sample_shape(value) for value in graph_inputs(model)]
    return all(isinstance(shape[0], str) for shape in shapes if shape)


def converted(model: onnx.ModelProto, example: tuple[Tensor, ...]) -> nn.Module | str:
    """The torch module, or why there is none."""
    if (nodes := expanded_size(model)) > MAX_CONVERTED:
        return f"it has {nodes:,} nodes, and a conversion takes at most {MAX_CONVERTED:,}"
    try:
        from onnx2torch import convert
    except ImportError:
        return f"onnx2torch is not installed ({_INSTALL})"
    register()
    try:
        graph = normal_form(model, example, _has_dynamic_batch(model))
        if foreign := _foreign(graph):
            return f"onnx2torch lacks {foreign}"
        named, names = with_safe_names(graph)
        module = _returning_a_tuple(convert(named).eval())
        module.meta[FILE_NAMES] = names
        return module
    except InexpressibleError as error:
        return f"nothing here converts {error}"
    except NotImplementedError as error:
        return f"onnx2torch lacks an operator: {cause(error)}"
    except Exception as error:
        return f"onnx2torch failed: {describe(error)}"


def _foreign(graph: onnx.ModelProto) -> str:
    """What no converter may see: operators of other domains, and those whose attributes are graphs."""
    nested = sorted({n.op_type for n in graph.graph.node for a in n.attribute if a.HasField("g") or a.graphs})
    if nested:
        return f"an operator: {', '.join(nested)[:200]} (its attributes are graphs)"
    domains = sorted({n.domain for n in graph.graph.node} - {"", "ai.onnx"})
    return f"the operators of {', '.join(map(repr, domains))[:200]}" if domains else ""


def _returning_a_tuple(module: fx.GraphModule) -> fx.GraphModule:
    """onnx2torch returns several outputs as a list; a `Model` has them as a tuple."""
    output = next(node for node in module.graph.nodes if node.op == "output")
    if isinstance(output.args[0], list):
        output.args = (tuple(output.args[0]),)
        module.recompile()
    return module


def _difference(module: nn.Module, example: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> str:
    """How a network differs from onnxruntime on the example; "" within 0.1 % of the largest output."""
    try:
        with torch.no_grad():
            found = module(*example)
    except Exception as error:
        return describe(error)
    outputs = found if isinstance(found, tuple) else (found,)
    for index, (ours, theirs) in enumerate(zip(outputs, expected, strict=False)):
        if ours.shape != theirs.shape:
            return f"output {index} has shape {tuple(ours.shape)}, onnxruntime gives {tuple(theirs.shape)}"
        size = float(theirs.double().abs().max()) if theirs.numel() else 0.0
        error_size = float((ours.double() - theirs.double()).abs().max()) if theirs.numel() else 0.0
        if not error_size <= 1e-3 * max(size, 1e-6):
            return f"output {index} is off by {error_size:.3g} (largest value {size:.3g})"
    return "" if len(outputs) == len(expected) else f"{len(outputs)} outputs instead of {len(expected)}"


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _weights(model: onnx.ModelProto) -> list[Tensor]:
    from onnx import numpy_helper

    return [torch.from_numpy(np.array(numpy_helper.to_array(t))) for _, t in weight_tensors(model)]


def _macs(model: onnx.ModelProto) -> list[OperatorMacs]:
    from ...targets.graphs.macs import operator_macs

    return operator_macs(model)
