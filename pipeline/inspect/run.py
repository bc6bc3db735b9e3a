"""What a model is made of: layers or tensors, parameters, multiply-accumulates, and which passes apply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...calibration.named import is_callable_name
from ...errors import CompressError
from ...macs import total_macs, uncounted_notes
from ..files import require_file
from ..onnx_files.inputs import NOTHING, GivenShapes
from .layers import layer_rows
from .record import Inspection, PassRow, TensorRow

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

    from ...model import Model
    from ...passes.base import Pass
    from ..ingest.state_dicts import Checkpoint
    from ..recipe.sections import ModelSection


def inspect_model(
    target: str | ModelSection,
    example: tuple[Tensor, ...] | None = None,
    trust_pickle: str | None = None,
    folder: Path | None = None,
    given: GivenShapes = NOTHING,
) -> Inspection:
    """Inspect a recipe's model section, or what a user names: a recipe, .onnx, .pt2, weights, a factory.

    Which passes apply follows from a recipe's options of them, and from the defaults of those it does not name.
    example: inputs with a batch dimension, when the model does not state their shape; given: shapes, where a user
    states them. Errors as `ingest`.
    """
    from ..recipe.sections import ModelSection

    if isinstance(target, ModelSection):
        return _inspect_section(target, example, trust_pickle, folder, given)
    path = (folder or Path()) / target
    if target.startswith(("timm:", "torchvision:")) or is_callable_name(target):
        return _inspect_section(ModelSection(source=target), example, trust_pickle, folder or Path(), given)
    require_file(path, "model")
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        from ..recipe.file import read_recipe

        recipe = read_recipe(path)
        return _inspect_section(recipe.model, example, trust_pickle, path.parent, given, tuple(recipe.passes))
    if suffix in (".onnx", ".pt2"):
        section = ModelSection(source=str(path))
        return _inspect_section(section, example, trust_pickle, None, given)
    if suffix == ".l2z":
        return _inspect_l2z(path)
    from ..ingest.checkpoint import WEIGHT_SUFFIXES, read_checkpoint  # here, as it brings PyTorch

    if suffix in WEIGHT_SUFFIXES:
        return _inspect_weights(read_checkpoint(path, trust_pickle))
    raise CompressError(
        f"model: {path}: expected a recipe (.yaml), .onnx, .pt2, .safetensors, .l2z or .pt file,"
        f" pkg.module:factory, timm:NAME or torchvision:NAME"
    )


def _inspect_section(
    section: ModelSection,
    example: tuple[Tensor, ...] | None,
    trust: str | None,
    folder: Path | None,
    given: GivenShapes,
    asked: tuple[Pass, ...] = (),
) -> Inspection:
    from ..file_limits import within_limits

    base = folder or Path()
    path, suffix = base / section.source, Path(section.source).suffix.lower()
    if suffix == ".onnx":
        return within_limits("inspecting", _inspect_onnx, path, section, example, base, given, asked)
    if suffix == ".pt2":
        return within_limits(
            "inspecting", _inspect_exported, path, section, example, trust, folder, given, asked
        )
    return _inspect_network(section, example, trust, folder, given, asked)


def _inspect_exported(path: Path, *of_network: Any) -> Inspection:
    """A program of torch.export computes what its file says, as an ONNX file does."""
    return _inspect_network(*of_network)


def _inspect_network(
    section: ModelSection,
    example: tuple[Tensor, ...] | None,
    trust: str | None,
    folder: Path | None,
    given: GivenShapes,
    asked: tuple[Pass, ...],
) -> Inspection:
    from ..ingest.model import ingest

    model = ingest(section, example, trust, folder=folder, given=given)
    facts = model.facts()
    return Inspection(
        kind="network",
        source=model.source,
        params=facts.params,
        macs=facts.macs,
        counted_macs=facts.counted,
        uncounted=list(facts.uncounted),
        bytes=facts.bytes,
        inputs={n: list(x.shape) for n, x in zip(model.input_names, model.example_inputs, strict=True)},
        outputs={n: list(y.shape) for n, y in zip(model.output_names, _outputs(model), strict=True)},
        layers=layer_rows(model),
        passes=pass_rows(model, asked),
        notes=uncounted_notes(model.operator_macs()),
    )


def _outputs(model: Model) -> tuple[Tensor, ...]:
    return model.run(*model.example_inputs)


def pass_rows(model: Model, asked: Sequence[Pass] = ()) -> list[PassRow]:
    """Every pass, and why those that cannot work on `model` cannot.

    Each is judged on `model` itself. asked: the passes of a recipe, whose options count, those of the first where one
    stands there twice; all others are judged by their defaults.
    """
    from ...passes import PASSES
    from ...passes.order import refusal
    from ..onnx_files.network import why_no_pass

    blocked = why_no_pass(model.module) or _why_not_captured(model)
    passes = {name: kind() for name, kind in PASSES.items()} | {one.name: one for one in reversed(asked)}
    reasons = {
        name: blocked or refusal(chosen, model.form) or _why_not(chosen, model)
        for name, chosen in passes.items()
    }
    return [PassRow(name=name, applies=not reason, reason=reason or "") for name, reason in reasons.items()]


def _why_not(chosen: Pass, model: Model) -> str:
    """Why a pass can do nothing with a network, or why that could not be found out."""
    try:
        return chosen.why_not(model)
    except CompressError as error:
        return str(error)


def _inspect_weights(checkpoint: Checkpoint) -> Inspection:
    from ..ingest.checkpoint import is_finite
    from ..ingest.removals import in_words
    from ..ingest.state_dicts import plain_tensors
    from ..ingest.weight_choice import to_show

    shown, kept = to_show(checkpoint)
    path = checkpoint.path
    weights = plain_tensors(shown.entries, path)
    rows = [
        TensorRow(name=n, shape=list(t.shape), dtype=str(t.dtype).removeprefix("torch."), params=t.numel())
        for n, t in weights.items()
    ]
    bad = [n for n, t in weights.items() if not is_finite(t)]
    notes = [*kept, "weights alone: which passes apply needs the network (inspect a recipe or a factory)"]
    notes += [f"tensor {n!r} holds NaN or infinite values" for n in bad]
    if pruned := in_words(checkpoint.removals):
        notes.append(f"{pruned}: they load into the factory of the whole network")
    size = sum(t.numel() * t.element_size() for t in weights.values())
    total = sum(r.params for r in rows)
    return Inspection(kind="weights", source=path.name, params=total, bytes=size, tensors=rows, notes=notes)


def _why_not_captured(model: Model) -> str:
    """What every pass would say of a network that PyTorch cannot capture, "" when it can: it is tried."""
    from ...passes.graph.capture import capture

    try:
        capture(model)
    except CompressError as error:
        return str(error)
    return ""


def stored_tensors(graph: onnx.ModelProto) -> list[TensorRow]:
    """Initializers and the tensors of Constant nodes, each with its parameters: weights, wherever they stand."""
    from ..onnx_files.file import type_name, weight_tensors

    weights = dict(weight_tensors(graph))
    held = {t.name: t for t in graph.graph.initializer} | weights
    return [
        TensorRow(
            name=name,
            shape=list(tensor.dims),
            dtype=type_name(tensor.data_type),
            params=prod(tensor.dims) if name in weights else 0,
        )
        for name, tensor in held.items()
    ]


def _inspect_l2z(path: Path) -> Inspection:
    from ..l2z.sizes import tensor_sizes

    content = path.read_bytes()
    rows = [
        TensorRow(
            name=t.name,
            shape=list(t.shape),
            dtype=t.dtype,
            params=t.elements,
            bits=t.bits,
            share=t.bytes / len(content),
            zeros=t.zeros,
        )
        for t in tensor_sizes(content, str(path))
    ]
    rest = 1 - sum(row.share or 0.0 for row in rows)
    return Inspection(
        kind="l2z",
        source=path.name,
        params=sum(row.params for row in rows),
        bytes=len(content),
        tensors=rows,
        notes=[f"header, tables and graph take {100 * rest:.1f} % of the file"],
    )


def _inspect_onnx(
    path: Path,
    section: ModelSection,
    example: tuple[Tensor, ...] | None,
    folder: Path,
    given: GivenShapes,
    asked: tuple[Pass, ...],
) -> Inspection:
    from ...targets.graphs.macs import operator_macs
    from ..ingest.model import ingest
    from ..onnx_files.file import graph_inputs, read_onnx, sample_shape
    from ..onnx_files.inputs import pin, sizes_of
    from ..onnx_files.precision import quantized_note

    graph = read_onnx(path)
    sizes_of(graph, given)  # what a user states wrongly is an error, not a note
    notes: list[str] = []
    passes: list[PassRow] = []
    declared = {v.name: sample_shape(v) for v in graph_inputs(graph)}
    try:
        model = ingest(section, example, folder=folder, given=given)
        passes = pass_rows(model, asked)
        samples = zip(model.input_names, model.example_inputs, strict=True)
        pin(graph, {name: (0, *x.shape[1:]) for name, x in samples})
    except CompressError as error:
        notes.append(f"which passes apply is not known: {error}")
    tensors = stored_tensors(graph)
    if note := quantized_note(graph):
        notes.append(note)
    counts = operator_macs(graph)
    notes += uncounted_notes(counts)
    return Inspection(
        kind="onnx",
        source=path.name,
        params=sum(t.params for t in tensors),
        macs=total_macs(c.macs for c in counts),
        counted_macs=sum(c.macs for c in counts if c.macs is not None),
        uncounted=[str(c) for c in counts if c.macs is None],
        bytes=path.stat().st_size,
        inputs=declared,
        outputs={v.name: sample_shape(v) for v in graph.graph.output},
        tensors=tensors,
        operators=dict(Counter(n.op_type for n in graph.graph.node).most_common()),
        opset={o.domain or "ai.onnx": o.version for o in graph.opset_import},
        ir_version=graph.ir_version,
        passes=passes,
        notes=notes,
    )
