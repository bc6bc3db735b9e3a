"""Target `onnxruntime`: Microsoft's runtime on the CPU; the reference for the other runtimes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..calibration.scheme import QuantScheme
from ..errors import CompressError, DeviceUnavailableError, cause
from ..writing import writing_whole
from .base import Artefact, Engine, Feeds, Lint, TargetOptions, require_feeds
from .graphs.attribution import Executed, attribute
from .graphs.macs import CONTROL_FLOW
from .graphs.onnx_formulas import is_free_type
from .graphs.onnx_graph import OnnxGraph, load_onnx, require_one_file, stable_names
from .graphs.portable import portable
from .graphs.vnni import weight_limit

if TYPE_CHECKING:
    from .layer import Layer

name = "onnxruntime"
scheme = QuantScheme(asymmetric=True, weight_limit=weight_limit(), both_addends=True)
saturates = True
own_float_default = False
builds_ahead = False
bakes_in_batch = False
default_device = "CPU"
engine_suffix = ".onnx"
packages = ("onnxruntime",)

PROVIDER = "CPUExecutionProvider"
WARM_UP = 5
STREAMS = 2

_DYNAMIC = {"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
_REGIONS = {"Attention", "QAttention", "MultiHeadAttention"}
_PRECISIONS = {"float": "f32", "float16": "f16", "bfloat16": "bf16", "double": "f64", "uint8": "int8"}


def version() -> str | None:
    """The installed onnxruntime's version, None without one."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return str(onnxruntime.__version__)


def devices() -> list[str]:
    """`CPU`: other execution providers are not offered, since nothing here could check what they execute."""
    return ["CPU"] if version() else []


def unavailable(device: str) -> str | None:
    """Why `device` cannot be used, None when it can."""
    if version() is None:
        return "onnxruntime is not installed (pip install onnxruntime)"
    if device not in {"", "CPU"}:
        return f"onnxruntime runs on CPU only here, not on {device!r}"
    return None


def facts(device: str) -> dict[str, str]:
    """The execution provider that is used."""
    return {} if unavailable(device) else {"name": PROVIDER}


def can_build() -> str | None:
    """Why no session can be made, None when it can."""
    return unavailable("")


def capabilities() -> list[str]:
    """None: what is built is compiled where it is loaded."""
    return []


def build(onnx_path: Path, options: TargetOptions, folder: Path) -> Engine:
    """A session on the ONNX file, of which `folder` keeps the copy that is run (`model.onnx`).

    On x86 the copy is rewritten value for value (`fusable`): as it is, onnxruntime runs layers of a symmetric
    graph in float, those before a Relu and those whose input has several readers.
    """
    import onnx

    from .graphs.fusable import fusable, worth_it

    if reason := unavailable(options.device):
        raise DeviceUnavailableError(f"onnxruntime:{options.device}: {reason}; see `compress doctor`")
    model = load_onnx(onnx_path)
    portable(model)
    rewritten = 0
    if worth_it():
        model, rewritten = fusable(model)
    for node, own in zip(model.graph.node, stable_names(list(model.graph.node)), strict=True):
        node.name = node.name or own  # its profiler numbers what has none
    require_one_file(model, onnx_path)
    path = folder / "model.onnx"
    with writing_whole(path):
        onnx.save(model, str(path))
    try:
        engine = OnnxruntimeEngine(path, options)
    except CompressError as error:
        raise CompressError(str(error).replace(str(path), str(onnx_path))) from error
    engine.settings["quantizers_rewritten_value_for_value"] = rewritten
    return engine


def load(path: Path, options: TargetOptions) -> Engine:
    """A session on the ONNX file at `path`."""
    if reason := unavailable(options.device):
        raise DeviceUnavailableError(f"onnxruntime:{options.device}: {reason}; see `compress doctor`")
    return OnnxruntimeEngine(path, options)


def files(path: Path) -> list[Path]:
    """The one ONNX file, which holds its weights."""
    return [path]


def lint(onnx_path: Path) -> list[Lint]:
    """What onnxruntime refuses, or runs in float by its own word on what `build` makes."""
    from .graphs import lint_rules

    graph = OnnxGraph(load_onnx(onnx_path))
    found = lint_rules.check(graph, lint_rules.ONNXRUNTIME)
    if version() is None:
        return found
    try:
        with tempfile.TemporaryDirectory() as folder:
            built = build(onnx_path, TargetOptions(), Path(folder))
            copy = built.artefacts[0].path
            executed = _executed_ops(copy, _session_options(copy, TargetOptions()))
    except CompressError as error:
        return found or [Lint("", "refused", str(error), "export again at opset 18 to 20")]
    return lint_rules.with_float_layers(graph, found, attribute(graph, executed), "onnxruntime")


def _session_options(path: Path, options: TargetOptions) -> Any:
    """Session options: every graph optimization; which kernels suit this CPU is onnxruntime's own choice."""
    import onnxruntime

    chosen = onnxruntime.SessionOptions()
    chosen.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    chosen.intra_op_num_threads = options.threads
    chosen.log_severity_level = 3
    if options.batch:
        for dimension in _batch_names(path):
            chosen.add_free_dimension_override_by_name(dimension, options.batch)
    return chosen


def _batch_names(path: Path) -> set[str]:
    """Names of the varying first axes of the model's inputs."""
    shapes = [value.type.tensor_type.shape for value in load_onnx(path).graph.input]
    return {shape.dim[0].dim_param for shape in shapes if shape.dim and shape.dim[0].dim_param}


def _session(path: Path, chosen: Any) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(path), chosen, providers=[PROVIDER])
    except Exception as error:  # its exceptions share no public base class
        reason = cause(error)
        raise CompressError(f"{path}: onnxruntime {version()} refuses the model: {reason}") from error


class OnnxruntimeEngine:
    """A session; see `Engine`."""

    def __init__(self, path: Path, options: TargetOptions) -> None:
        self._path = path
        self._options = options
        self._session = _session(path, _session_options(path, options))
        self._callers: ThreadPoolExecutor | None = None
        self._inputs = [i.name for i in self._session.get_inputs()]
        self.artefacts: tuple[Artefact, ...] = (Artefact(path, "onnxruntime-model"),)
        effective = self._session.get_session_options()
        self.settings: dict[str, Any] = {
            "providers": list(self._session.get_providers()),
            "graph_optimization_level": str(effective.graph_optimization_level).rpartition(".")[2],
            "intra_op_num_threads": effective.intra_op_num_threads or "default (one a core)",
            "execution_mode": str(effective.execution_mode).rpartition(".")[2],
            "float_precision": "f32",
        }
        if options.mode == "throughput":
            self.settings["streams"] = options.streams or STREAMS

    def run(self, feeds: Feeds) -> list[np.ndarray[Any, Any]]:
        """One synchronous inference."""
        ready = require_feeds(feeds, self._inputs)
        try:
            return [np.asarray(array) for array in self._session.run(None, ready)]
        except Exception as error:
            reason = cause(error)
            raise CompressError(
                f"{self._path}: onnxruntime cannot run it on these inputs: {reason}"
            ) from error

    def prepared(self, feeds: Feeds) -> Callable[[], object]:
        """The session with its inputs and outputs bound."""
        ready = require_feeds(feeds, self._inputs)
        binding = self._session.io_binding()
        for name, array in ready.items():
            binding.bind_cpu_input(name, array)
        for output in self._session.get_outputs():
            binding.bind_output(output.name)
        return partial(self._session.run_with_iobinding, binding)

    def run_many(self, feeds: Feeds, count: int) -> None:
        """`count` inferences from as many threads as there are streams, two when none are named."""
        ready = require_feeds(feeds, self._inputs)
        if self._callers is None:
            self._callers = ThreadPoolExecutor(self._options.streams or STREAMS)
        for done in [self._callers.submit(self._session.run, None, ready) for _ in range(count)]:
            done.result()

    def layers(self, feeds: Feeds, iterations: int) -> list[Layer]:
        """Every node of the optimized graph, timed by onnxruntime's profiler in a session of its own."""
        ready = require_feeds(feeds, self._inputs)
        chosen = _session_options(self._path, self._options)
        chosen.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            chosen.profile_file_prefix = str(Path(folder) / "profile")
            chosen.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
            session = _session(self._path, chosen)
            for _ in range(WARM_UP + iterations):
                session.run(None, ready)
            events = json.loads(Path(session.end_profiling()).read_text())
            tensors = _output_tensors(Path(folder) / "optimized.onnx")
        return attribute(OnnxGraph(load_onnx(self._path)), _executed(events, iterations, tensors))


def _output_tensors(optimized: Path) -> dict[str, tuple[str, ...]]:
    """Output tensors of every node of the optimized graph, by node name."""
    import onnx

    graph = onnx.load(str(optimized), load_external_data=False).graph
    return {node.name: tuple(node.output) for node in graph.node}


def _executed(
    events: list[dict[str, Any]], iterations: int, tensors: dict[str, tuple[str, ...]]
) -> list[Executed]:
    """One entry a node, from the profiler's kernel events; the warm-up runs are left out of the mean."""
    first: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            key = event["name"].removesuffix("_kernel_time")
            first.setdefault(key, event["args"])
            times.setdefault(key, []).append(event["dur"] / 1000)
    executed = []
    for key, arguments in first.items():
        warm = len(times[key]) * WARM_UP // (WARM_UP + iterations)
        kinds = [k for shape in arguments.get("input_type_shape", ()) for k in shape]
        executed.append(
            _entry(
                key, arguments["op_name"], kinds, sum(times[key][warm:]) / iterations, tensors.get(key, ())
            )
        )
    return executed


def _entry(key: str, op_type: str, kinds: list[str], ms: float | None, tensors: tuple[str, ...]) -> Executed:
    integer = op_type.startswith("Q") or "Integer" in op_type or op_type in _DYNAMIC
    kind = kinds[0] if kinds else "float"
    precision = "int8" if integer and op_type != "QuantizeLinear" else _PRECISIONS.get(kind, kind)
    if op_type in CONTROL_FLOW:
        precision = "unknown"  # its own is that of what goes in; what its body executes in is not told
    computes = "many" if op_type in _REGIONS else "none" if is_free_type(op_type) else "one"
    return Executed(key, op_type, precision, ms, (key, *tensors), computes)


def _executed_ops(path: Path, chosen: Any) -> list[Executed]:
    """The optimized graph without running it: node types tell the precision of everything that multiplies."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        chosen.optimized_model_filepath = str(optimized)
        _session(path, chosen)
        nodes = onnx.load(str(optimized), load_external_data=False).graph.node
    return [_entry(node.name, node.op_type, [], None, tuple(node.output)) for node in nodes]
