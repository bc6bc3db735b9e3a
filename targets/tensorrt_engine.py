"""Running and profiling TensorRT engines on a GPU; `trt` is the vendor module (tensorrt or tensorrt_rtx)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CompressError
from .base import Artefact, Feeds, TargetOptions, require_feeds
from .graphs.attribution import UNKNOWN, Executed, attribute
from .graphs.onnx_graph import OnnxGraph, load_onnx
from .tensorrt_build import collecting_logger

if TYPE_CHECKING:
    from .layer import Layer

WARM_UP = 10

_PRECISIONS = {"int8": "int8", "fp8": "fp8", "bfloat16": "bf16", "bf16": "bf16", "fp16": "f16", "half": "f16"}
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_PRECISIONS |= {"float": "f32", "fp32": "f32"}


class TensorrtEngine:
    """A deserialized engine on one GPU; see `Engine`. Host arrays in and out: a run includes both copies."""

    def __init__(
        self,
        trt: Any,
        path: Path,
        options: TargetOptions,
        settings: dict[str, Any],
        onnx_path: Path | None = None,
    ) -> None:
        import torch

        self._trt = trt
        self._path = path
        self._onnx_path = onnx_path
        self._device = torch.device(options.device or "cuda:0")
        torch.cuda.set_device(self._device)
        logger = collecting_logger(trt)
        self._runtime = trt.Runtime(logger)  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            told = "; ".join(logger.errors[:2]) or "no reason given"
            raise CompressError(
                f"{path}: {trt.__name__} {trt.__version__} cannot open this engine on "
                f"{torch.cuda.get_device_name(self._device)}: {told}; build it again on this machine"
            )
        self._context = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        modes = {n: self._engine.get_tensor_mode(n) for n in names}
        self._inputs = [n for n in names if modes[n] == trt.TensorIOMode.INPUT]
        self._outputs = [n for n in names if modes[n] == trt.TensorIOMode.OUTPUT]
        self.artefacts: tuple[Artefact, ...] = (Artefact(path, "tensorrt-engine"),)
        self.settings: dict[str, Any] = {
            **settings,
            "gpu": torch.cuda.get_device_name(self._device),
            "cuda_graphs": False,
            "timed_region": "synchronous, copies to and from the GPU included",
        }

    def run(self, feeds: Feeds) -> list[np.ndarray[Any, Any]]:
        """One synchronous inference, the copies to and from the GPU included."""
        import torch

        ready = require_feeds(feeds, self._inputs)
        with torch.cuda.stream(self._stream):
            held = {n: torch.from_numpy(ready[n]).to(self._device) for n in self._inputs}
            for name, tensor in held.items():
                if not self._context.set_input_shape(name, tuple(tensor.shape)):
                    least, _, most = self._engine.get_tensor_profile_shape(name, 0)
                    raise CompressError(
                        f"input {name!r}: shape {tuple(tensor.shape)} is outside what the engine was built "
                        f"for, {tuple(least)} to {tuple(most)}"
                    )
                self._context.set_tensor_address(name, tensor.data_ptr())
            results = [self._output(name) for name in self._outputs]
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise CompressError("TensorRT could not run the engine on these inputs")
            copies = [tensor.cpu() for tensor in results]
        self._stream.synchronize()
        return [copy.numpy() for copy in copies]

    def _output(self, name: str) -> Any:
        import torch

        dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        shape = tuple(self._context.get_tensor_shape(name))
        tensor = torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device=self._device)
        self._context.set_tensor_address(name, tensor.data_ptr())
        return tensor

    def prepared(self, feeds: Feeds) -> Callable[[], object]:
        """Refuse: `run` includes both copies, which are not told apart here, and a row must say what it is."""
        raise CompressError(
            f"{self._path}: TensorRT is timed with its copies only; leave copies out of the settings"
        )

    def run_many(self, feeds: Feeds, count: int) -> None:
        """`count` inferences one after the other: an engine here has one execution context."""
        for _ in range(count):
            self.run(feeds)

    def layers(self, feeds: Feeds, iterations: int) -> list[Layer]:
        """Every layer that TensorRT's profiler times, with the precision that its inspector tells."""
        if self._onnx_path is None:
            raise CompressError(
                f"{self._path}: layers are told from ONNX nodes; build from the ONNX file instead"
            )
        profiler = _profiler(self._trt)
        for _ in range(WARM_UP):
            self.run(feeds)
        self._context.profiler = profiler
        for _ in range(iterations):
            self.run(feeds)
        self._context.profiler = None
        inspector = self._engine.create_engine_inspector()
        told = json.loads(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))
        times = {name: total / iterations for name, total in profiler.times.items()}
        return attribute(OnnxGraph(load_onnx(self._onnx_path)), executed_layers(told, times))


def executed_layers(told: dict[str, Any], ms: dict[str, float]) -> list[Executed]:
    """The layers of the inspector's JSON; the names of the ONNX nodes in each come from its metadata."""
    found = []
    for layer in told.get("Layers", []):
        if isinstance(layer, str):  # built without details: only names
            layer = {"Name": layer}
        name, kind = str(layer["Name"]), str(layer.get("LayerType", UNKNOWN))
        sources = _ONNX_LAYER.findall(str(layer.get("Metadata", ""))) or name.split(" + ")
        computes = "none" if kind.lower() in {"reformat", "noop", "shuffle", "constant"} else "many"
        found.append(Executed(name, kind, _precision(layer), ms.get(name), tuple(sources), computes))
    return found


def _precision(layer: dict[str, Any]) -> str:
    """The precision of a layer's first input, from the inspector's text ("Int8 NC/32HW32 format")."""
    told = [str(t.get("Format/Datatype", t.get("Datatype", ""))).lower() for t in layer.get("Inputs", [])]
    for fragment, precision in _PRECISIONS.items():
        if told and fragment in told[0]:
            return precision
    return UNKNOWN


def _profiler(trt: Any) -> Any:
    class Summing(trt.IProfiler):  # type: ignore[misc]
        """Adds up milliseconds by layer name."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times[layer_name] = self.times.get(layer_name, 0.0) + ms

    return Summing()
