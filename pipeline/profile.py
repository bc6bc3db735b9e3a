"""Profile: the latency, the executed precision and the layers of any ONNX file on each device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import CompressError, DeviceUnavailableError
from ..progress import Progress, Silent
from ..targets import TARGETS
from ..targets.attribution import precision_shares
from ..targets.base import BuiltOnly, TargetOptions
from ..targets.latency import Contender, measure_interleaved, of, summarize
from .environment import environment
from .files import sha256_file, write_atomically
from .onnx_file import graph_inputs, read_onnx, sample_shape
from .recipe_problems import unknown
from .result import EngineRecord, LatencyRecord, LayerRecord, Record

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from ..targets.base import Artefact, FloatPrecision

    Feeds = dict[str, np.ndarray[Any, Any]]

LAYER_ITERATIONS = 30
RANDOM_INPUTS = (
    "the inputs are random: normal where the model takes floats, 0 or 1 where it takes integers, so that "
    "times which depend on the data (early exits, sparse inputs) may differ on real samples"
)


class DeviceProfile(Record):
    """One device. `engine` is null when nothing was built or run; `reason` says why it was not timed."""

    device: str
    runtime: str
    version: str | None
    status: Literal["run", "built", "unavailable", "failed"]
    reason: str = ""
    engine: EngineRecord | None = None


class Profile(Record):
    """What `compress profile` measured. inputs: shape of each input as it was fed, batch included."""

    source: str
    sha256: str
    inputs: dict[str, list[int]]
    note: str = RANDOM_INPUTS
    batch: int
    pairs: int
    iterations: int
    float_precision: str
    seed: int
    environment: dict[str, Any]
    devices: list[DeviceProfile]

    def write(self, folder: Path) -> Path:
        """Write profile.json into `folder`, complete or not at all."""
        path = folder / "profile.json"
        write_atomically(path, self.model_dump_json(indent=1).encode() + b"\n")
        return path


@dataclass(frozen=True)
class ProfilePlan:
    """How to measure. batch: 0 is the model's own fixed batch, or 1; threads: 0 is the runtime's own choice."""

    pairs: int = 6
    iterations: int = 60
    float_precision: FloatPrecision = "default"
    batch: int = 0
    threads: int = 0
    seed: int = 0
    warmup_s: float = 5.0


def runtime_and_device(label: str) -> tuple[str, str]:
    """`openvino:CPU` as ("openvino", "CPU"); CompressError for a runtime that there is not."""
    runtime, colon, device = label.partition(":")
    if runtime not in TARGETS:
        raise CompressError(unknown("target", runtime, TARGETS))
    if colon and not device:
        raise CompressError(f"target {label!r}: expected a device after the colon, as in openvino:CPU")
    return runtime, device


def profile(
    onnx_path: Path,
    labels: Sequence[str],
    folder: Path,
    plan: ProfilePlan = ProfilePlan(),
    progress: Progress = Silent(),
) -> Profile:
    """Build `onnx_path` for every device of `labels` in `folder`, and time the engines interleaved.

    A device that is not here, or a runtime that refuses the model, is a row with its reason. CompressError
    when the file is no ONNX model, has an axis besides the batch without a size, or a label is unknown.
    """
    named = {label: runtime_and_device(label) for label in labels}
    model = read_onnx(onnx_path)
    batch, varies = batch_of(model, plan.batch)
    feeds = random_feeds(model, batch, plan.seed)
    options = {
        label: TargetOptions(device, plan.float_precision, plan.threads, batch=batch if varies else 0)
        for label, (_, device) in named.items()
    }
    rows: dict[str, DeviceProfile] = {}
    contenders: list[Contender] = []
    for label, (runtime, _) in named.items():
        progress.say(f"{label}: building")
        rows[label], path = _built(label, runtime, onnx_path, options[label], feeds, folder)
        if path is not None:
            contenders.append(Contender(label, runtime, path, options[label]))
    if contenders:
        progress.say(f"timing {len(contenders)} engines, {plan.pairs} interleaved launches each")
        _time(rows, contenders, feeds, plan, progress)
    return Profile(
        source=onnx_path.name,
        sha256=sha256_file(onnx_path),
        inputs={name: list(array.shape) for name, array in feeds.items()},
        batch=batch,
        pairs=plan.pairs,
        iterations=plan.iterations,
        float_precision=plan.float_precision,
        seed=plan.seed,
        environment=environment(),
        devices=list(rows.values()),
    )


def _built(
    label: str, runtime: str, onnx_path: Path, options: TargetOptions, feeds: Feeds, folder: Path
) -> tuple[DeviceProfile, Path | None]:
    """The row of one device so far, and its engine file when there is something to time."""
    target = TARGETS[runtime]
    row = DeviceProfile(device=options.device, runtime=runtime, version=target.version(), status="run")
    try:
        engine = target.build(onnx_path, options, folder / label.replace(":", "-"))
        if isinstance(engine, BuiltOnly):
            record = _record(label, engine.settings, engine.artefacts)
            return row.model_copy(update={"status": "built", "reason": engine.reason, "engine": record}), None
        layers = engine.layers(feeds, LAYER_ITERATIONS)
        record = _record(label, engine.settings, engine.artefacts).model_copy(
            update={
                "precision": precision_shares(layers),
                "layers": [LayerRecord.model_validate(asdict(layer)) for layer in layers],
            }
        )
        return row.model_copy(update={"engine": record}), engine.artefacts[0].path
    except DeviceUnavailableError as error:
        return row.model_copy(update={"status": "unavailable", "reason": str(error)}), None
    except CompressError as error:
        return row.model_copy(update={"status": "failed", "reason": str(error)}), None


def _record(label: str, settings: Mapping[str, Any], artefacts: Iterable[Artefact]) -> EngineRecord:
    return EngineRecord(
        label=label,
        settings={key: v if isinstance(v, bool | int | float | str) else str(v) for key, v in settings.items()},
        engine_bytes=sum(artefact.path.stat().st_size for artefact in artefacts),
    )


def _time(
    rows: dict[str, DeviceProfile],
    contenders: Sequence[Contender],
    feeds: Feeds,
    plan: ProfilePlan,
    progress: Progress,
) -> None:
    """Add the latency, and the settings of the launches that were timed, to the rows of the contenders."""
    launches = measure_interleaved(
        contenders, feeds, plan.pairs, plan.iterations, plan.seed, progress, warmup_s=plan.warmup_s
    )
    for contender in contenders:
        own = of(launches, contender.label)
        engine = rows[contender.label].engine
        assert engine is not None
        engine.latency_ms = LatencyRecord.model_validate(asdict(summarize(own)))
        engine.settings = own[0].result.settings


def batch_of(model: onnx.ModelProto, wanted: int) -> tuple[int, bool]:
    """The batch to feed, and whether the model lets it vary. `wanted` 0: the model's own, or 1.

    CompressError when `wanted` is not the batch that the model fixes.
    """
    first = [shape[0] for value in graph_inputs(model) if (shape := sample_shape(value))]
    fixed = next((size for size in first if isinstance(size, int) and size > 0), None)
    if fixed is None or any(isinstance(size, str) for size in first):
        return wanted or 1, True
    if wanted not in (0, fixed):
        raise CompressError(
            f"batch {wanted}: the model is exported with the fixed batch {fixed}; leave the batch out, or "
            "export it with a dynamic batch axis"
        )
    return fixed, False


def random_feeds(model: onnx.ModelProto, batch: int, seed: int) -> Feeds:
    """Seeded inputs for every input of the graph, each of its shape with `batch` where the first axis varies."""
    import numpy as np
    import onnx

    draw = np.random.default_rng(seed)
    feeds: Feeds = {}
    for value in graph_inputs(model):
        shape: list[int] = []
        for axis, size in enumerate(sample_shape(value)):
            if isinstance(size, int) and size > 0:
                shape.append(size)
            elif axis == 0:
                shape.append(batch)
            else:
                raise CompressError(
                    f"input {value.name!r}: axis {axis} ({size or 'unknown'}) has no fixed size; only the batch "
                    "(axis 0) may vary, export the other axes with fixed sizes"
                )
        kind = value.type.tensor_type.elem_type
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
        except (KeyError, TypeError, ValueError) as error:
            raise CompressError(f"input {value.name!r}: is not a tensor of numbers") from error
        floating = dtype.kind == "f"
        feeds[value.name] = (draw.standard_normal(shape) if floating else draw.integers(0, 2, shape)).astype(dtype)
    return feeds
