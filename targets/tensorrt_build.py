"""Building TensorRT engines from ONNX, and saying what it refused; `trt` is the vendor module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import CAUSE_LIMIT, CompressError
from ..text import short
from .base import Lint
from .graphs.onnx_graph import OnnxGraph, load_onnx

LARGEST_BATCH = 32

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


def collecting_logger(trt: Any) -> Any:
    """A logger that keeps errors (`errors`) and prints nothing."""

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
        self._logger = collecting_logger(trt)
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
            problem = f"{operator}: {short(told, CAUSE_LIMIT)}"
            lints.append(Lint(name, "refused", problem, _fix(problem)))
        lints = lints or [
            Lint("", "refused", short(e, CAUSE_LIMIT), _fix(e)) for e in self._logger.errors[:1]
        ]
        return self._refusal(lints)

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
                problem = (
                    f"input {tensor.name!r} has shape {(batch, *rest)}; TensorRT builds with a varying batch "
                    "(axis 0) only"
                )
                fix = f"say a sample's size by --input-shape {tensor.name}=3x224x224, or export fixed sizes"
                raise self._refusal([Lint("", "refused", problem, fix)])
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
            lints.append(Lint(node, "refused", short(error, CAUSE_LIMIT), _fix(error)))
        return self._refusal(lints)

    def _refusal(self, lints: list[Lint]) -> RefusedError:
        return RefusedError(self._path, f"{self._trt.__name__} {self._trt.__version__}", lints)
