"""Target `openvino`: Intel's runtime, on any device it lists (CPU, GPU, NPU)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..calibration.scheme import QuantScheme
from ..errors import CompressError, DeviceUnavailableError, cause
from ..writing import writing_whole
from .base import Artefact, Engine, Feeds, Lint, TargetOptions, require_feeds
from .graphs.attribution import Executed, attribute
from .graphs.fusable import shift_to_unsigned, trim_to_unsigned
from .graphs.onnx_graph import OnnxGraph, load_onnx
from .graphs.portable import portable
from .graphs.vnni import weight_limit
from .openvino_recurrent import RECURRENT_LAYERS, name_recurrent, one_direction_of
from .openvino_shared import part_equal_weights

if TYPE_CHECKING:
    from .layer import Layer

name = "openvino"
scheme = QuantScheme(asymmetric=True, weight_limit=weight_limit(), both_addends=True, centred_products=True)
saturates = True
own_float_default = True
builds_ahead = False
bakes_in_batch = False
default_device = "CPU"
engine_suffix = ".xml"
packages = ("openvino",)

WARM_UP = 10

_PRECISIONS = {"u8": "int8", "i8": "int8", "u4": "int4", "i4": "int4"}
_MULTIPLY = {"convolution", "deconvolution", "fullyconnected", "fully_connected", "matmul", "gemm"}
_BODIES = {"tensoriterator", "loop", "if"}
_MULTIPLY |= {"deformableconvolution", "rdft", "dft", "stft", "istft"} | RECURRENT_LAYERS | _BODIES
_REGIONS = {"subgraph", "scaleddotproductattention", "scaled_dot_product_attention", "mha"}
_SETTINGS = (
    "PERFORMANCE_HINT",
    "INFERENCE_PRECISION_HINT",
    "INFERENCE_NUM_THREADS",
    "NUM_STREAMS",
    "EXECUTION_MODE_HINT",
    "ENABLE_CPU_PINNING",
    "ENABLE_HYPER_THREADING",
    "SCHEDULING_CORE_TYPE",
    "MODEL_PRIORITY",
    "EXECUTION_DEVICES",
    "PERF_COUNT",
)


def version() -> str | None:
    """The installed OpenVINO's version, None without one."""
    try:
        import openvino
    except ImportError:
        return None
    return str(openvino.__version__).split("-")[0]


def devices() -> list[str]:
    """The device strings that OpenVINO lists here."""
    if version() is None:
        return []
    import openvino

    return [str(device) for device in openvino.Core().available_devices]


def unavailable(device: str) -> str | None:
    """Why `device` cannot be used, None when it can."""
    if version() is None:
        return "openvino is not installed (pip install openvino)"
    here = devices()
    if (device or default_device) not in {*here, "AUTO"}:
        return f"OpenVINO has no device {device or 'CPU'!r} here, only {', '.join(here) or 'none'}"
    return None


def facts(device: str) -> dict[str, str]:
    """The device's full name and what it is fast in, by OpenVINO's own word."""
    if unavailable(device) or device == "AUTO":
        return {}
    import openvino

    core = openvino.Core()
    asked = {"name": "FULL_DEVICE_NAME", "capabilities": "OPTIMIZATION_CAPABILITIES"}
    return {key: _text(core.get_property(device or default_device, name)) for key, name in asked.items()}


def can_build() -> str | None:
    """Why no IR can be made, None when it can."""
    return None if version() else "openvino is not installed (pip install openvino)"


def capabilities() -> list[str]:
    """None: what is built is compiled for a device where it is loaded."""
    return []


def build(onnx_path: Path, options: TargetOptions, folder: Path) -> Engine:
    """Convert to IR (`model.xml`, `model.bin` in `folder`, weights as they are) and compile that IR.

    int8 activations at zero point 0 become uint8, the same numbers, at 0 where none is negative, and where
    convolutions read them else at 128: OpenVINO's convolutions read uint8 only and are slower at another zero point
    than 0, and version 2026.4 runs a quantized concatenation of int8 with wrong results. Others that matmuls read
    stay: OpenVINO multiplies two activations in INT8 at zero point 0 only.
    """
    _require(options)
    import openvino

    path = folder / "model.xml"
    onnx_model = load_onnx(onnx_path)
    changed = (
        portable(onnx_model) + trim_to_unsigned(onnx_model) + shift_to_unsigned(onnx_model, products=False)
    )
    try:
        core = openvino.Core()
        model = core.read_model(onnx_model.SerializeToString() if changed else str(onnx_path))
    except RuntimeError as error:
        raise CompressError(f"{onnx_path}: {_refusal(error)}") from error
    name_recurrent(model, onnx_model)
    part_equal_weights(model)
    _number_unnamed(model, {name for node in onnx_model.graph.node for name in (node.name, *node.output)})
    with writing_whole(path, path.with_suffix(".bin")):
        openvino.save_model(model, str(path), compress_to_fp16=False)
    return OpenvinoEngine(path, options, onnx_path)


def _number_unnamed(model: Any, named: set[str]) -> None:
    """Number what the converter made itself by place: it numbers by a count of the process, and bytes would differ."""
    for place, operation in enumerate(model.get_ordered_ops()):
        name, kind = operation.get_friendly_name(), operation.get_type_name()
        if name not in named and name.removeprefix(f"{kind}_").isdigit():
            operation.set_friendly_name(f"{kind}_{place}")


def load(path: Path, options: TargetOptions) -> Engine:
    """Compile an IR, or an ONNX file as it is."""
    _require(options)
    return OpenvinoEngine(path, options, path if path.suffix == ".onnx" else None)


def files(path: Path) -> list[Path]:
    """An IR's weights lie beside it."""
    weights = path.with_suffix(".bin")
    return [path, weights] if path.suffix == engine_suffix and weights.is_file() else [path]


def lint(onnx_path: Path) -> list[Lint]:
    """What OpenVINO refuses, or runs in float by its own word when compiled for the CPU."""
    from .graphs import lint_rules

    graph = OnnxGraph(load_onnx(onnx_path))
    found = lint_rules.check(graph, lint_rules.OPENVINO)
    if unavailable(""):
        return found
    try:
        compiled = _compile(onnx_path, TargetOptions(), profiling=False)
    except CompressError as error:
        return found or [Lint("", "refused", str(error), "export again at opset 18 to 20")]
    return lint_rules.with_float_layers(graph, found, attribute(graph, _executed(compiled)), "OpenVINO")


def _require(options: TargetOptions) -> None:
    if reason := unavailable(options.device):
        raise DeviceUnavailableError(f"openvino:{options.device or 'CPU'}: {reason}; see `compress doctor`")


def _refusal(error: Exception) -> str:
    reason = cause(error)
    return f"OpenVINO {version()} refuses the model: {reason}"


def _compile(path: Path, options: TargetOptions, profiling: bool) -> Any:
    import openvino

    config: dict[str, Any] = {"PERFORMANCE_HINT": options.mode.upper()}
    if options.float_precision == "f32":
        config["INFERENCE_PRECISION_HINT"] = "f32"
    if options.threads:
        config["INFERENCE_NUM_THREADS"] = options.threads
    if options.streams:
        config["NUM_STREAMS"] = options.streams
    if profiling:
        config["PERF_COUNT"] = True
    core = openvino.Core()
    try:
        model = core.read_model(str(path))
        if path.suffix == ".onnx":
            name_recurrent(model, load_onnx(path))
        if options.batch:
            _fix_batch(model, options.batch)
        return core.compile_model(model, options.device or default_device, config)
    except RuntimeError as error:
        raise CompressError(f"{path}: {_refusal(error)}") from error


def _fix_batch(model: Any, batch: int) -> None:
    shapes = {}
    for port in model.inputs:
        shape = port.partial_shape
        if len(shape) and shape[0].is_dynamic:
            shape[0] = batch
            shapes[port] = shape
    if shapes:
        model.reshape(shapes)


class OpenvinoEngine:
    """A compiled model; see `Engine`. onnx_path: where the IR came from, needed only to attribute layers."""

    def __init__(self, path: Path, options: TargetOptions, onnx_path: Path | None) -> None:
        self._path = path
        self._options = options
        self._onnx_path = onnx_path
        self._compiled = _compile(path, options, profiling=False)
        self._request = self._compiled.create_infer_request()
        self._queue: Any = None
        self._inputs = [_input_name(port) for port in self._compiled.inputs]
        files = [Artefact(path, "onnx" if path.suffix == ".onnx" else "openvino-ir")]
        if path.suffix == ".xml":
            files.append(Artefact(path.with_suffix(".bin"), "openvino-weights"))
        self.artefacts = tuple(files)
        self.settings = _settings(self._compiled)

    def run(self, feeds: Feeds) -> list[np.ndarray[Any, Any]]:
        """One synchronous inference."""
        return self._infer(self._request, self._compiled, require_feeds(feeds, self._inputs))

    def _infer(self, request: Any, compiled: Any, ready: Feeds) -> list[np.ndarray[Any, Any]]:
        try:
            results = request.infer(dict(ready), share_inputs=False, share_outputs=False)
        except (RuntimeError, ValueError, TypeError) as error:
            reason = cause(error)
            raise CompressError(f"{self._path}: OpenVINO cannot run it on these inputs: {reason}") from error
        return [results[port] for port in compiled.outputs]

    def prepared(self, feeds: Feeds) -> Callable[[], object]:
        """The request with its input tensors set, which share these arrays' memory."""
        import openvino

        ready = require_feeds(feeds, self._inputs)
        for port in self._compiled.inputs:
            self._request.set_tensor(port, openvino.Tensor(ready[_input_name(port)], shared_memory=True))
        return partial(self._request.infer, share_outputs=True)

    def run_many(self, feeds: Feeds, count: int) -> None:
        """`count` inferences in a queue of as many requests as OpenVINO finds best."""
        import openvino

        ready = require_feeds(feeds, self._inputs)
        if self._queue is None:
            self._queue = openvino.AsyncInferQueue(self._compiled)
        for _ in range(count):
            self._queue.start_async(dict(ready), share_inputs=False)
        self._queue.wait_all()

    def layers(self, feeds: Feeds, iterations: int) -> list[Layer]:
        """Every executed layer, from a compilation of its own with performance counters on."""
        if self._onnx_path is None:
            raise CompressError(
                f"{self._path}: layers are told from ONNX nodes; build from the ONNX file instead"
            )
        ready = require_feeds(feeds, self._inputs)
        compiled = _compile(self._path, self._options, profiling=True)
        request = compiled.create_infer_request()
        for _ in range(WARM_UP):
            self._infer(request, compiled, ready)
        before = _mean_us(compiled)
        for _ in range(iterations):
            self._infer(request, compiled, ready)
        after = _mean_us(compiled)
        total = WARM_UP + iterations  # the counters are means since the start: take the warm-up out again
        ms = {
            layer: max(0.0, mean * total - before.get(layer, 0.0) * WARM_UP) / iterations / 1000
            for layer, mean in after.items()
        }
        return attribute(OnnxGraph(load_onnx(self._onnx_path)), _executed(compiled, ms))


def _input_name(port: Any) -> str:
    """The model's own name of an input; a folded cast behind it leaves a second one on the port."""
    own = str(port.get_node().get_friendly_name())
    return own if own in port.get_names() else str(port.any_name)


def _settings(compiled: Any) -> dict[str, Any]:
    """The effective settings, read back from the compiled model."""
    supported = set(compiled.get_property("SUPPORTED_PROPERTIES"))
    found = {}
    for key in _SETTINGS:
        if key in supported:
            value = compiled.get_property(key)
            found[key] = value if isinstance(value, (bool, int, float, str)) else _text(value)
    return found


def _text(value: Any) -> str:
    if hasattr(value, "get_type_name"):  # an element type: f32, bf16
        return str(value.to_string())
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value).rpartition(".")[2]


def _facts(operation: Any) -> dict[str, str]:
    """What the runtime graph says of a layer."""
    facts = operation.get_rt_info()
    return {key: facts[key].astype(str) for key in facts}


def _mean_us(compiled: Any) -> dict[str, float]:
    """Mean time of each layer since the start, in whole microseconds as OpenVINO gives it."""
    times = {}
    for operation in compiled.get_runtime_model().get_ordered_ops():
        time = _facts(operation).get("execTimeMcs", "")
        if time.isdigit():
            times[operation.get_friendly_name()] = float(time)
    return times


def _executed(compiled: Any, ms: dict[str, float] | None = None) -> list[Executed]:
    """The layers of the runtime graph that run at inference; constants, and what is made of them once, are left out."""
    executed, once = [], set[str]()
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts = _facts(operation)
        layer, kind = operation.get_friendly_name(), facts.get("layerType", "unknown")
        lowered = kind.lower()
        reads = {value.get_node().get_friendly_name() for value in operation.input_values()}
        if lowered == "const" or (reads and reads <= once):
            once.add(layer)
            continue
        computes = "one" if lowered in _MULTIPLY else "many" if lowered in _REGIONS else "none"
        if computes == "none" and (ms is None or layer not in ms):
            continue
        precision = facts.get("runtimePrecision", "unknown")
        if lowered in _BODIES:
            precision = "unknown"  # its own is that of what goes in; what its body executes in is not told
        sources = tuple(part for part in facts.get("originalLayersNames", "").split(",") if part)
        if lowered in RECURRENT_LAYERS:
            sources = (*sources, *one_direction_of(operation))
        time = ms.get(layer) if ms is not None else None
        executed.append(
            Executed(layer, kind, _PRECISIONS.get(precision, precision), time, (*sources, layer), computes)
        )
    return executed
