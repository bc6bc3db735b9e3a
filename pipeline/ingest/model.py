"""From what a recipe names as its model to a `Model`: a network that runs, with its weights, in eval mode."""

from __future__ import annotations

import copy
import inspect
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...calibration.named import describe, is_callable_name
from ...calibration.typed import as_networks_take_it, in_type
from ...errors import CompressError
from ...form import Form
from ...isolated import in_child
from ...model import Model
from ...progress import Progress, Silent
from ..file_limits import within_limits
from ..onnx_files.inputs import NOTHING, GivenShapes
from .baked import bake_in, detach_computed
from .checkpoint import joined, load_into, read_checkpoint, refuse_unusable
from .factories import build_network
from .network_example import accepts, declared_sample, of_one_sample, random_example, stated_shapes
from .removals import Removals, in_words
from .smaller import require_no_larger, without_removed

if TYPE_CHECKING:
    from ..recipe.sections import ModelSection

INIT_SEED = 0  # a network without weights, and the numbers of an example input, are the same in every run


def ingest(
    section: ModelSection,
    example: tuple[Tensor, ...] | None = None,
    trust_pickle: str | None = None,
    *,
    folder: Path | None = None,
    progress: Progress = Silent(),
    given: GivenShapes = NOTHING,
) -> Model:
    """The model that `section` names, checked by one run.

    example: one tensor per input, shape (batch, ...), as `Part.example()` gives; without it the shape comes
    from `section.input_shape`, from what the source says of itself, or a CompressError asks for it.
    trust_pickle: SHA-256 of the one file that may run code.
    given: shapes that a user states beside the section, which then go before its own.
    folder: the recipe's: paths are relative to it, and factories may lie in it.
    CompressError says what to change; UnsafeInputError is for files that could run code.
    """
    base = folder or Path()
    suffix = Path(section.source).suffix.lower()
    if section.source.startswith(("timm:", "torchvision:")) or is_callable_name(section.source):
        return _from_factory(section, example, trust_pickle, base, progress, given or _given(section))
    for key in ("weights", "weights_key", "args"):
        if getattr(section, key):
            raise CompressError(f"model.{key}: only a factory takes {key}; {section.source} brings its own")
    if suffix == ".pt2":
        return _from_exported(section, example, trust_pickle, base, given or _given(section))
    if suffix == ".onnx":
        return _from_onnx(section, example, base, progress, given or _given(section))
    raise CompressError(
        f"model.source: {section.source!r}: expected pkg.module:factory, timm:NAME, torchvision:NAME, a .pt2"
        f" or an .onnx file; a file of weights alone belongs under `weights`, beside a factory"
    )


def _from_factory(
    section: ModelSection,
    example: tuple[Tensor, ...] | None,
    trust: str | None,
    base: Path,
    progress: Progress,
    given: GivenShapes,
) -> Model:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(INIT_SEED)
        warnings.simplefilter("ignore")
        module, shapes = build_network(section.source, dict(section.args), base)
    detach_computed(module)
    whole = module = copy.deepcopy(module).cpu().eval()
    removals: Removals = ()
    source = section.source
    if section.weights is None:
        progress.say(f"{section.source}: no weights are given: the network is as its factory leaves it")
        refuse_unusable(module.state_dict(), section.source, {n for n, _ in module.named_parameters()})
    else:
        path = base / section.weights
        checkpoint = read_checkpoint(path, trust)
        removals = checkpoint.removals
        module = without_removed(whole, removals, path)
        note = joined(in_words(removals), load_into(module, checkpoint, section.weights_key))
        source += f", weights {section.weights.name}" + (f" ({note})" if note else "")
        if note:
            progress.say(f"{path.name}: {note}")
    bake_in(module)
    stated = stated_shapes(given, *_parameters(module))
    if example is None:
        example = random_example(of_one_sample(module, stated) if stated else shapes, section.source)
    inputs = _plain(example)
    if section.weights is not None:
        require_no_larger(module, whole, inputs, base / section.weights)
    names = _input_names(module, len(inputs))
    told = tuple(each.removal().to_json() for each in removals)
    return _checked(section, module, inputs, names, source=source, removals=told)


def _from_exported(
    section: ModelSection,
    example: tuple[Tensor, ...] | None,
    trust: str | None,
    base: Path,
    given: GivenShapes,
) -> Model:
    """The exported program, once a process with limits has read and run it: its file says what it computes."""
    path = base / section.source
    if not in_child():
        within_limits("running", _run_exported, path, section, example, trust, given)
    return _exported(path, section, example, trust, given)


def _run_exported(path: Path, *given: Any) -> None:
    _exported(path, *given)


def _exported(
    path: Path,
    section: ModelSection,
    example: tuple[Tensor, ...] | None,
    trust: str | None,
    given: GivenShapes,
) -> Model:
    from .exported_program import load_exported

    program = load_exported(path, trust)
    parameters = {n for n, _ in program.named_parameters()}
    refuse_unusable(program.state_dict, str(path), parameters)
    own = program.example_inputs[0] if program.example_inputs else ()
    stored = example is None and not given and own and all(isinstance(x, Tensor) for x in own)
    if stored:
        example = tuple(own)
    names = tuple(n for n in program.graph_signature.user_inputs if isinstance(n, str))
    stated = stated_shapes(given, names)
    if example is None:
        values = {n.name: n.meta.get("val") for n in program.graph.nodes if n.name in names}
        samples = [
            declared_sample(shape, value.dim(), name, given.what) if isinstance(value, Tensor) else shape
            for shape, (name, value) in zip(stated, values.items(), strict=False)
        ]
        example = random_example(samples, section.source)
    inputs = example
    if len(own) == len(inputs) and all(isinstance(x, Tensor) for x in own):
        inputs = tuple(
            in_type(x, o.dtype, f"input {i}") for i, (x, o) in enumerate(zip(inputs, own, strict=True))
        )
    else:
        inputs = _plain(inputs)
    module = program.module()
    if len(names) != len(inputs):
        raise CompressError(f"model.source: {path} takes {len(names)} inputs, the data gives {len(inputs)}")
    fixed = not accepts(module, tuple(torch.cat([x, x]) for x in inputs))
    single = tuple(x[:1] for x in inputs)
    if not fixed and stored and accepts(module, single):
        inputs = single
    return _checked(
        section, module, inputs, names, source=path.name, dynamic_batch=not fixed, form=Form.GRAPH
    )


def _from_onnx(
    section: ModelSection,
    example: tuple[Tensor, ...] | None,
    base: Path,
    progress: Progress,
    given: GivenShapes,
) -> Model:
    from ..onnx_files.example import example_inputs
    from ..onnx_files.file import graph_inputs, read_onnx, sample_shape
    from ..onnx_files.inputs import open_axes, pin
    from ..onnx_files.network import as_network, why_no_pass
    from ..onnx_files.precision import limits_note
    from ..onnx_files.quantized import how_quantized

    path = base / section.source
    graph = read_onnx(path)
    declared = [sample_shape(value) for value in graph_inputs(graph)]
    inputs = example_inputs(graph, path, example, given)
    fixed = [shape[0] for shape in declared if shape and isinstance(shape[0], int)]
    source = path.name
    if open_axes(graph):
        sizes = {v.name: (0, *x.shape[1:]) for v, x in zip(graph_inputs(graph), inputs, strict=True)}
        pin(graph, sizes)
        told = ", ".join(f"{name} {' x '.join(map(str, size[1:]))}" for name, size in sizes.items())
        source += f" (it leaves sizes open; they are fixed to the data's, a sample being {told})"
        progress.say(f"{path.name} leaves sizes open; they are fixed to the data's: a sample is {told}")
    if how := how_quantized(graph):
        source += f" (quantized already, {how}; {limits_note(graph)})"
    module = as_network(graph, path, inputs)
    form = Form.INT8 if how else Form.MODULES
    if reason := why_no_pass(module):
        progress.say(reason)
        if not how:
            form = Form.GRAPH  # which onnxruntime runs: PyTorch has no layers of it
    names = tuple(value.name for value in graph_inputs(graph))
    outputs = tuple(value.name for value in graph.graph.output)
    return _checked(
        section,
        module,
        inputs,
        names,
        outputs,
        source=source,
        dynamic_batch=not fixed,
        onnx_path=path,
        form=form,
    )


def _given(section: ModelSection) -> GivenShapes:
    shape = section.input_shape
    if shape is None:
        return NOTHING
    what = "model.input_shape"
    return GivenShapes(shape, (), what) if isinstance(shape, dict) else GivenShapes({}, (shape,), what)


def _plain(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs of a network that declares no types."""
    return tuple(as_networks_take_it(x, f"data: input {i}") for i, x in enumerate(inputs))


def _what_to_check(module: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """Weights and inputs of two types, or else the shape."""
    odd = {p.dtype for p in module.parameters() if p.is_floating_point()} - {torch.float32}
    if odd and any(x.dtype == torch.float32 for x in inputs):
        types = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in odd))
        return f"its weights are {types}: let the factory return the network in float32 (network.float())"
    return "check model.input_shape, or the shape of the data's samples"


def _checked(
    section: ModelSection,
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: tuple[str, ...],
    output_names: tuple[str, ...] | None = None,
    **fields: Any,
) -> Model:
    """The Model, once its network has run on the example and returned finite tensors."""
    shapes = " and ".join(str(tuple(x.shape)) for x in inputs)
    try:
        with torch.no_grad():
            found = module(*inputs)
    except Exception as error:
        raise CompressError(
            f"{section.source}: the network fails on an example input of shape {shapes}: {describe(error)};"
            f" {_what_to_check(module, inputs)}"
        ) from error
    outputs = found if isinstance(found, tuple) else (found,)
    for output in outputs:
        if not isinstance(output, Tensor):
            raise CompressError(
                f"{section.source}: the network returns {_kind(found)}; it must return a tensor or a tuple"
                f" of tensors: wrap it in a module that picks them"
            )
        if output.is_floating_point() and bool(output.isnan().any()):
            raise CompressError(
                f"{section.source}: the network returns NaN on an example input of shape {shapes}"
            )
    names = output_names or section.outputs
    if "outputs" in section.model_fields_set and len(section.outputs) != len(outputs):
        raise CompressError(
            f"model.outputs: names {len(section.outputs)} outputs, and the network returns {len(outputs)}"
        )
    if len(names) != len(outputs):
        names = (names[0], *(f"output_{i}" for i in range(1, len(outputs))))
    all_names = [*input_names, *names]
    if twice := next((name for name in all_names if all_names.count(name) > 1), None):
        raise CompressError(
            f"model.outputs: '{twice}' names two of the network's inputs and outputs ({', '.join(all_names)}); ONNX"
            " needs a name each: name the outputs with `outputs: [...]`"
        )
    return Model(module, inputs, input_names, names, **fields)


def _kind(found: object) -> str:
    if isinstance(found, tuple):
        return f"a tuple of {', '.join(type(x).__name__ for x in found)}"
    return f"a {type(found).__name__}"


def _input_names(module: nn.Module, count: int) -> tuple[str, ...]:
    """`input` for one input; for several, the names of forward's parameters."""
    if count == 1:
        return ("input",)
    parameters, _ = _parameters(module)
    return parameters[:count] if len(parameters) >= count else tuple(f"input_{i}" for i in range(count))


def _parameters(module: nn.Module) -> tuple[tuple[str, ...], bool]:
    """The names of forward's positional parameters, and whether it takes any number more."""
    try:
        found = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # compiled code says nothing of its parameters
        return (), True
    names = tuple(p.name for p in found if p.kind is p.POSITIONAL_OR_KEYWORD)
    return names, any(p.kind is p.VAR_POSITIONAL for p in found)
