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
from .checkpoint import require_file
from .environment import environment
from .files import sha256_file, write_atomically
from .onnx_file import check_external_data
from .random_inputs import NOTE, Feeds, batch_of, random_feeds
from .recipe_problems import unknown
from .result import EngineRecord, LatencyRecord, LayerRecord, Record

if TYPE_CHECKING:
    import onnx

    from ..targets.base import Artefact, FloatPrecision

LAYER_ITERATIONS = 30


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
    note: str = NOTE
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
    """How to measure. batch 0: the model's own fixed batch, or 1; threads 0: the runtime's own choice."""

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


def read_graph(path: Path) -> onnx.ModelProto:
    """Any ONNX graph, external weights left where they are; whether it is valid, each runtime says itself.

    CompressError when the file is none; UnsafeInputError when its weights lie outside its own folder.
    """
    import onnx

    require_file(path, "model")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors, and those of the file system, share no base class
        raise CompressError(f"{path}: cannot be read as an ONNX model ({error}); export it again") from error
    if not model.graph.node:
        raise CompressError(f"{path}: holds no ONNX graph (no nodes); give the path of an exported model")
    check_external_data(model, path)
    return model


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
    model = read_graph(onnx_path)
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
        progress.say(
            f"timing {', '.join(c.label for c in contenders)}: {plan.pairs} launches each, interleaved"
        )
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
        settings={k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in settings.items()},
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
