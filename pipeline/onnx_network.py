"""A checked ONNX file as a network: converted to PyTorch and proven, or run by onnxruntime as it is."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..calibration.named import describe
from ..errors import CompressError
from ..model import FILE_NAMES
from .onnx_file import is_weight
from .onnx_names import with_safe_names

if TYPE_CHECKING:
    import onnx

CONVERTIBLE_OPSET = 18
_INSTALL = "pip install edgepress[onnx-import]"


class OnnxRuntimeNetwork(nn.Module):
    """Runs an ONNX file with onnxruntime, for a file that PyTorch cannot take over: no pass can change it.

    no_passes: why, in words. macs_per_sample: counted on the graph, since torch sees no operator here; None
    when they cannot be.
    """

    def __init__(self, path: Path, weights: Sequence[Tensor], macs: int | None, no_passes: str) -> None:
        super().__init__()
        self.path, self.no_passes, self.macs_per_sample = path, no_passes, macs
        self.weights = nn.ParameterList([nn.Parameter(w, requires_grad=False) for w in weights])
        self._session: Any = None

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One tensor per graph input -> one per graph output."""
        if self._session is None:
            self._session = _session(self.path)
        names = [i.name for i in self._session.get_inputs()]
        feeds = {n: x.detach().cpu().numpy() for n, x in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(y)) for y in self._session.run(None, feeds))

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxRuntimeNetwork:
        """A session cannot be copied; the copy opens its own."""
        return OnnxRuntimeNetwork(
            self.path, [w.data.clone() for w in self.weights], self.macs_per_sample, self.no_passes
        )


def why_no_pass(module: nn.Module) -> str | None:
    """Why no pass can change this network, in words; None when passes can."""
    return module.no_passes if isinstance(module, OnnxRuntimeNetwork) else None


def as_network(model: onnx.ModelProto, path: Path, example: tuple[Tensor, ...]) -> nn.Module:
    """A torch module converted by onnx2torch and proven on `example`, else one that runs onnxruntime.

    The second says why no pass can change it: onnx2torch is missing, lacks an operator, or is wrong.
    """
    runtime = OnnxRuntimeNetwork(path, _weights(model), _macs(model), "")
    try:
        with torch.no_grad():
            expected = runtime(*example)
    except Exception as error:
        text = describe(error)
        raise CompressError(f"model.source: onnxruntime cannot run {path}: {text}") from error
    converted = _converted(model)
    if isinstance(converted, str):
        runtime.no_passes = f"passes need PyTorch, and {path.name} cannot be converted: {converted}"
        return runtime
    problem = _difference(converted, example, expected)
    if problem:
        runtime.no_passes = f"passes need PyTorch, and onnx2torch converts {path.name} wrongly: {problem}"
        return runtime
    return converted


def _converted(model: onnx.ModelProto) -> nn.Module | str:
    """The torch module, or why there is none."""
    if any(a.HasField("g") or a.graphs for node in model.graph.node for a in node.attribute):
        kinds = sorted(
            {n.op_type for n in model.graph.node for a in n.attribute if a.HasField("g") or a.graphs}
        )
        return f"onnx2torch lacks an operator: {', '.join(kinds)[:200]} (its attributes are graphs)"
    if foreign := sorted({n.domain for n in model.graph.node} - {"", "ai.onnx"}):
        return f"onnx2torch lacks the operators of {', '.join(map(repr, foreign))[:200]}"
    try:
        from onnx2torch import convert
    except ImportError:
        return f"onnx2torch is not installed ({_INSTALL})"
    try:
        named, names = with_safe_names(_older(model))
        converted = convert(named).eval()
        converted.meta[FILE_NAMES] = names
        return converted  # type: ignore[no-any-return]
    except NotImplementedError as error:
        return f"onnx2torch lacks an operator: {' '.join(str(error).split())[:200]}"
    except Exception as error:
        return f"onnx2torch failed: {describe(error)}"


def _older(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in opset 18, the newest that onnx2torch knows, where onnx can say it so; else as it is."""
    from onnx import numpy_helper, version_converter

    graph = copy.deepcopy(model)
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer if t.data_type == t.INT64}
    for node in graph.graph.node:
        if node.op_type == "Reshape" and node.input[1] in shapes and (shapes[node.input[1]] != 0).all():
            kept = [a for a in node.attribute if a.name != "allowzero"]  # says nothing when no size is 0
            del node.attribute[:]
            node.attribute.extend(kept)
    if (
        max((o.version for o in graph.opset_import if o.domain in ("", "ai.onnx")), default=0)
        <= CONVERTIBLE_OPSET
    ):
        return graph
    try:
        return version_converter.convert_version(graph, CONVERTIBLE_OPSET)
    except (
        Exception
    ):  # onnx raises bare RuntimeErrors where it has no rule; then onnx2torch says what it lacks
        return graph


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

    return [
        torch.from_numpy(np.array(numpy_helper.to_array(t))) for t in model.graph.initializer if is_weight(t)
    ]


def _macs(model: onnx.ModelProto) -> int | None:
    from ..targets.macs import node_macs

    try:
        return sum(node_macs(model).values())
    except CompressError:
        return None  # a graph of unknown sizes still runs
