"""Building, running and profiling TensorRT engines; `trt` is the vendor module (tensorrt or tensorrt_rtx)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CompressError
from .attribution import UNKNOWN, Executed, attribute
from .base import Artefact, Feeds, Layer, Lint, TargetOptions, require_feeds
from .onnx_graph import OnnxGraph, load_onnx

LARGEST_BATCH = 32
WARM_UP = 10

# A fragment of the runtime's message, and what to do about it.
_FIXES = (
    ("Int32 but must have type", "keep the bias in float32 instead of an int32 DequantizeLinear"),
    ("zero point", "quantize activations on the symmetric int8 grid (zero point 0)"),
    ("input type of UINT8", "quantize to int8 with zero point 0"),
    (
        "only allowed before DQ",
        "store the weight as an int8 initializer that one DequantizeLinear reads directly",
    ),
    ("reduction", "write the reduction as a product with a one-hot matrix"),
)
_PRECISIONS = {"int8": "int8", "fp8": "fp8", "bfloat16": "bf16", "bf16": "bf16", "fp16": "f16", "half": "f16"}
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_PRECISIONS |= {"float": "f32", "fp32": "f32"}


class RefusedError(CompressError):
    """TensorRT refused a model; `lints` says what, node by node."""

    def __init__(self, path: Path, version: str, lints: list[Lint]) -> None:
        self.lints = lints
        told = "; ".join(
            f"{f'node {lint.node}: ' if lint.node else ''}{lint.problem} (fix: {lint.fix})" for lint in lints
        )
        super().__init__(f"{path}: {version} refuses the model: {told}")


def _fix(problem: str) -> str:
    found = (fix for fragment, fix in _FIXES if fragment.lower() in problem.lower())
    return next(found, "export at opset 18 to 20 without this operator, or leave out the tensorrt target")


def _logger(trt: Any) -> Any:
    class Collecting(trt.ILogger):  # type: ignore[misc]
        """Keeps errors for the exception message instead of printing them."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Collecting()


class Parsed:
    """An ONNX file parsed once, from which engines for several GPUs are built; or RefusedError."""

    def __init__(self, trt: Any, onnx_path: Path, batch: int = 0) -> None:
        self._trt = trt
        self._path = onnx_path
        self._batch = (batch or 1, batch or LARGEST_BATCH)
        self._logger = _logger(trt)
        self._builder = trt.Builder(self._logger)
        flags = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        self._network = self._builder.create_network(0 if flags is None else 1 << int(flags))
        self._parser = trt.OnnxParser(self._network, self._logger)  # owns weights that the network points to
        if not self._parser.parse_from_file(str(onnx_path)):
            raise self._refused([self._parser.get_error(i) for i in range(self._parser.num_errors)])
        self.settings: dict[str, Any] = {
            "library": f"{trt.__name__} {trt.__version__}",
            "typing": "strong: precision is what the ONNX says",
            "batch": self._batches(),
        }

    def _refused(self, errors: list[Any]) -> RefusedError:
        graph = OnnxGraph(load_onnx(self._path))
        lints = []
        for error in errors:
            index = error.node()
            name = graph.names[index] if 0 <= index < len(graph.names) else error.node_name()
            operator = graph.nodes[index].op_type if 0 <= index < len(graph.names) else error.node_operator()
            # without a GPU every message drags along that there is no driver
            told = " ".join(error.desc().split()).split("[checkMacros")[0]
            problem = f"{operator}: {told[:400]}"
            lints.append(Lint(name, "refused", problem, _fix(problem)))
        lints = lints or [Lint("", "refused", e[:400], _fix(e)) for e in self._logger.errors[:1]]
        return RefusedError(self._path, f"{self._trt.__name__} {self._trt.__version__}", lints)

    def _inputs(self) -> list[Any]:
        return [self._network.get_input(i) for i in range(self._network.num_inputs)]

    def _batches(self) -> str:
        dynamic = any(-1 in tuple(tensor.shape) for tensor in self._inputs())
        least, most = self._batch
        return f"{least} to {most}, tuned for {least}" if dynamic else "fixed by the model"

    def serialized(self, capability: str | None) -> bytes:
        """The engine for one compute capability ("SM86", "CURRENT"; None: the library's own default)."""
        trt = self._trt
        config = self._builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if capability is not None:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
        dynamic = [tensor for tensor in self._inputs() if -1 in tuple(tensor.shape)]
        if dynamic:
            config.add_optimization_profile(self._profile(dynamic))
        self._logger.errors.clear()
        engine = self._builder.build_serialized_network(self._network, config)
        if engine is None:
            raise self._build_refused()
        return bytes(engine)

    def _profile(self, dynamic: list[Any]) -> Any:
        profile = self._builder.create_optimization_profile()
        for tensor in dynamic:
            batch, *rest = tuple(tensor.shape)
            if -1 in rest:
                raise CompressError(
                    f"{self._path}: input {tensor.name!r} has shape {(batch, *rest)}; TensorRT builds with a "
                    "varying batch (axis 0) only, export the other axes with fixed sizes"
                )
            least, most = self._batch
            profile.set_shape(tensor.name, (least, *rest), (least, *rest), (most, *rest))
        return profile

    def _build_refused(self) -> RefusedError:
        errors = self._logger.errors or ["no reason given"]
        graph = OnnxGraph(load_onnx(self._path))
        lints = []
        for error in errors[:3]:
            named = [n for n in graph.names if n in error]
            tensors = [r for t, readers in graph.readers.items() if f"({t})" in error for r in readers]
            node = max(named, key=len) if named else (tensors or [""])[0]
            lints.append(Lint(node, "refused", error[:400], _fix(error)))
        return RefusedError(self._path, f"{self._trt.__name__} {self._trt.__version__}", lints)


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
        logger = _logger(trt)
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
                        f"input {name!r}: shape {tuple(tensor.shape)} is outside what the engine was built for, "
                        f"{tuple(least)} to {tuple(most)}"
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
