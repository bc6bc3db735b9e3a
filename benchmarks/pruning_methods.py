"""The methods of pruning_curve.py: each makes a smaller network of the original, and trains it for as many epochs.

The baselines cut by their own rule and are then trained as `distill` trains a student in float; ours are the pass
`gates`, whose own epochs count.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pruning_setting import TEACHER, Bench, Cell, Setting
from torch import Tensor, nn

MOST_CUT = 0.9
"""Of a layer: ranks over all layers would leave some of them next to nothing. Ours has it as `least`."""
ROUND_TO = 8
PASS = "gates"


# -- baselines: (the original, how much to keep) -> a smaller module


def derived(model: Any, amount: float, depth: bool, width: bool) -> nn.Module:
    """A student as `distill` derives it: a share of the blocks, of the channels, or of both."""
    from edgepress.passes.distillation.student import derive

    module: nn.Module = derive(model, depth=amount if depth else 1.0, width=amount if width else 1.0).module
    return module


def torch_pruned(model: Any, amount: float, norm: int, **options: Any) -> nn.Module:
    """What Torch-Pruning leaves, channels ranked over the whole network, as its examples do it."""
    import torch_pruning

    module = copy.deepcopy(model.module)
    for parameter in module.parameters():
        parameter.requires_grad_(True)  # its tracer follows gradients
    attentions = [layer for layer in module.modules() if hasattr(layer, "qkv")]
    fused = [layer.fused_attn for layer in attentions]
    for layer in attentions:
        layer.fused_attn = False  # one operation that hides what is inside
    pruner_class = torch_pruning.pruner.GroupNormPruner if norm == 2 else torch_pruning.pruner.MagnitudePruner
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # that it cuts tokens and layer scales by their last dimension, rightly
        pruner = pruner_class(
            module,
            model.example_inputs[0],
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=norm),
            global_pruning=True,
            pruning_ratio=1 - amount,
            max_pruning_ratio=MOST_CUT,
            round_to=ROUND_TO,
            ignored_layers=[_last_layer(module)],
            num_heads={layer.qkv: layer.num_heads for layer in attentions},
            **options,
        )
    pruner.step()
    for layer, was_fused in zip(attentions, fused, strict=True):
        layer.num_heads = pruner.num_heads[layer.qkv]
        layer.head_dim = layer.qkv.out_features // (3 * layer.num_heads)
        layer.attn_dim = layer.qkv.out_features // 3
        layer.fused_attn = was_fused
    return module.eval()


def _last_layer(module: nn.Module) -> nn.Module:
    """The layer that makes the logits; it is written last in the example networks."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]


BASELINES: dict[str, tuple[str, Callable[[Any, float], nn.Module]]] = {
    "depth": ("distill, student: {depth}", partial(derived, depth=True, width=False)),
    "uniform": ("uniform width: distill, student: {width}", partial(derived, depth=False, width=True)),
    "depth-width": ("distill, student: {depth, width}", partial(derived, depth=True, width=True)),
    "tp-l1": ("Torch-Pruning, L1 magnitude", partial(torch_pruned, norm=1)),
    "tp-group-norm": ("Torch-Pruning, group norm", partial(torch_pruned, norm=2)),
    "tp-isomorphic": ("Torch-Pruning, isomorphic, L2", partial(torch_pruned, norm=2, isomorphic=True)),
}
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "gates-latency": ("gates, cost: latency", {"cost": "latency"}),
    "gates-macs": ("gates, cost: macs", {"cost": "macs"}),
    "gates-params": ("gates, cost: params", {"cost": "params"}),
    "solver": ("gates, method: solver, cost: latency", {"cost": "latency", "method": "solver"}),
}
LABELS = {"original": "original"} | {name: label for name, (label, _) in (BASELINES | OURS).items()}
METHODS = (*OURS, *BASELINES)


# -- training


class Remembered(nn.Module):
    """A network that does not learn, and is asked for each image once: a mirrored one comes back in other epochs.

    answers: of every process its own, for all of its trainings, by the image's bytes.
    """

    def __init__(self, network: nn.Module, answers: dict[int, Tensor]) -> None:
        super().__init__()
        self.network, self.answers = network, answers

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, classes) for images (n, ...)."""
        keys = [hash(image.numpy().tobytes()) for image in x]
        missing = [index for index, key in enumerate(keys) if key not in self.answers]
        if missing:
            with torch.no_grad():  # kept with their gradients, answers would hold all activations
                found = self.network(x[missing])
            self.answers.update({keys[index]: answer for index, answer in zip(missing, found, strict=True)})
        return torch.stack([self.answers[key] for key in keys])


def fine_tuned(bench: Bench, module: nn.Module, context: Any) -> nn.Module:
    """`module`, trained towards labels and the original's outputs, in float: what `distill` does with a student.

    The best epoch by the validation part is kept, as of all methods, the untrained start among them.
    """
    from edgepress.passes.distillation.objective import Distillation
    from edgepress.passes.teaching.likeness import Likeness, Teacher
    from edgepress.passes.teaching.taps import Tapped, frozen
    from edgepress.passes.teaching.task import TASK_SAMPLES, first_batch, read_task
    from edgepress.passes.training.options import TrainingOptions
    from edgepress.passes.training.stage import Stages

    inputs, labels = first_batch(context.data.calibration, TASK_SAMPLES, None)
    task = read_task(bench.model.run(*inputs), labels, used_by="distill")
    remembered = Remembered(frozen(bench.model.module, ()).network, bench.kept.setdefault("answers", {}))
    objective = Distillation(Tapped(module, ()), Likeness([Teacher(Tapped(remembered, ()))], task, **TEACHER))
    stages = Stages("fine-tuning", context.data.train, context, None)
    options = TrainingOptions.model_validate(bench.setting.training(bench.setting.epochs))
    stages.train("float", objective, options, judged=objective.outputs)
    return module.eval()


def gates_options(method: str, target: float, setting: Setting) -> dict[str, Any]:
    """The options of the pass: half of the epochs are the gates', of the solver none."""
    _, own = OURS[method]
    gate_epochs = 0 if own.get("method") == "solver" else max(1, setting.epochs // 2)
    table = {"table": str(setting.table)} if own["cost"] == "latency" and setting.table else {}
    epochs = {"gate_epochs": gate_epochs} if gate_epochs else {}
    return {
        **own,
        **table,
        **TEACHER,
        **epochs,
        "target": target,
        "round_to": ROUND_TO,
        "training": setting.training(setting.epochs - gate_epochs),
    }


def trained(cell: Cell, bench: Bench) -> tuple[Any, list[str]]:
    """The network of a cell, trained or as it is kept; and what is to be told of it."""
    if cell.method == "original":
        return bench.model, []
    place = bench.setting.place(cell)
    place.mkdir(parents=True, exist_ok=True)
    context = replace(bench.context, seed=cell.seed, scratch=place)
    return (_ours if cell.method in OURS else _baseline)(cell, bench, context, place)


def _baseline(cell: Cell, bench: Bench, context: Any, place: Path) -> tuple[Any, list[str]]:
    from edgepress.passes.base import PassPlan

    if cell.amount is None:
        raise ValueError(f"{cell.label}: its amount is not known yet")
    module = BASELINES[cell.method][1](bench.model, cell.amount)
    plan = kept_plan(place)
    if plan is None:
        plan = PassPlan({}, fine_tuned(bench, module, context).state_dict())
        _keep(plan, place)
    module.load_state_dict(plan.tensors)
    return bench.model.successor(module, bench.model.form), []


def _ours(cell: Cell, bench: Bench, context: Any, place: Path) -> tuple[Any, list[str]]:
    from edgepress.passes import PASSES

    options = gates_options(cell.method, cell.target, bench.setting)
    chosen = PASSES[PASS].model_validate_json(json.dumps(options))
    plan = kept_plan(place)
    if plan is None:
        plan = chosen.plan(bench.model, context)
        _keep(plan, place)
    result = chosen.result(bench.model, plan, context)
    return result.model, list(result.notes)


TRAINED, PLAN = "trained.safetensors", "plan.json"


def _keep(plan: Any, place: Path) -> None:
    """Keep a finished training, and nothing that was only there to go on with it."""
    from safetensors.torch import save_file

    save_file({name: t.detach().clone().contiguous() for name, t in plan.tensors.items()}, place / TRAINED)
    values = asdict(replace(plan, tensors={}))
    (place / PLAN).write_text(json.dumps(values, indent=1) + "\n")
    for path in place.glob("*.safetensors"):
        if path.name != TRAINED:
            path.unlink()


def kept_plan(place: Path) -> Any:
    """The plan of a finished training, None where it is not."""
    from edgepress.passes.base import PassPlan
    from safetensors.torch import load_file

    if not (place / PLAN).is_file():
        return None
    values = json.loads((place / PLAN).read_text())
    return PassPlan(**{**values, "tensors": load_file(place / TRAINED), "notes": tuple(values["notes"])})
