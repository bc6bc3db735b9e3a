"""The solar ViT with fewer tokens, judged by five folds of all its cells: accuracy, KL divergence and agreement.

\b
    python benchmarks/token_folds.py                       # needs examples/solar's checkpoint; about an hour
    python benchmarks/token_folds.py --target 0.5 --network greedy --network ToMe

The backbone is frozen: each fold has a linear head of its own, a logistic regression on the whole network's features of
the other folds' cells, which all networks are judged with. Schedules are found on the calibration part, and kept by the
validation part: cells of these two are learned from and not judged. All networks drop, exactly, what nothing reads.
Features and schedules are kept under benchmarks/results/token_folds; a run that is broken off goes on from there. Exit
code 1 when no network of ours at its lowest share does as well as ToMe does at the share before.
"""

from __future__ import annotations

import copy
import hashlib
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from int8_peers import EXAMPLES, _read
from reporting import RESULTS, environment, markdown_table, provenance, write
from token_tome import tome_at

PACKAGES = ("edgepress", "torch", "timm", "scikit-learn")
NETWORKS = ("greedy", "importance", "learned", "uniform", "soft", "ToMe")
OPTIONS = {
    "greedy": {"method": "greedy"},
    "importance": {"method": "greedy", "matching": "importance"},
    "learned": {"method": "learned"},
    "uniform": {"method": "uniform"},
    "soft": {"method": "greedy", "merge": "soft"},
}
FOLDS, BATCH, STRENGTHS = 5, 16, (0.001, 0.003, 0.01, 0.03, 0.1)
FOLDER = RESULTS / "token_folds"
Values = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Backbone:
    """A network that puts out features. share: of the whole one's multiply-accumulates."""

    name: str
    target: float
    share: float
    module: Any
    note: str = ""


def backbone(name: str, target: float, model: Any, context: Any) -> Backbone:
    """A network of that name and target, its head taken off."""
    if name == "ToMe":
        module, share, note = tome_at(model, target)
        return Backbone(name, target, share, _headless(module), note)
    from edgepress.passes.merging.schedule import Schedule
    from edgepress.passes.tokens import Tokens

    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}-{target:g}.json"
    asked: dict[str, Any] = {"target": target, **OPTIONS[name]}
    if path.exists():
        asked = {"schedule": path}
    result = Tokens.model_validate(asked).apply(model, context)
    schedule = Schedule.model_validate(result.plan.structure["schedule"])
    if "schedule" not in asked:
        for note in result.notes:
            print(f"  {name} {target:g}: {note}", flush=True)
        path.write_text(schedule.model_dump_json())
    share = result.model.facts().macs / model.facts().macs
    counts = ", ".join(str(kept.merged) for kept in schedule.blocks[:-1])
    return Backbone(name, target, share, _headless(result.model.module), counts)


def _headless(module: Any) -> Any:
    found = copy.deepcopy(module)
    found.head = torch.nn.Identity()
    return found.eval()


def features(made: Backbone, model: Any, parts: list[Any], progress: Any) -> Values:
    """Of all cells of some data sets, in their order, (cells, 384), by OpenVINO in float32."""
    kept = f"{made.name}-{made.share:.4f}-{hashlib.sha256(made.note.encode()).hexdigest()[:8]}.npy"
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / kept
    if path.exists():
        return np.load(path)
    loader = torch.utils.data.DataLoader(torch.utils.data.ConcatDataset(parts), BATCH)
    told = f"{made.name} {made.target:g}: {sum(map(len, parts))} cells"
    run = _compiled(replace(model, module=made.module))
    found = [run(x.numpy()) for x, _ in progress.track(loader, told, len(loader))]
    values: Values = np.concatenate(found)
    np.save(path, values)
    return values


def _compiled(model: Any) -> Any:
    """A function of images that gives features, both arrays."""
    import openvino
    from edgepress.pipeline.export import export

    with tempfile.TemporaryDirectory() as folder:
        path = export(model, Path(folder) / "model.onnx")
        engine = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: engine(images)[0]


def heads(whole: Values, labels: Values, folds: list[tuple[Values, Values]]) -> list[Any]:
    """Of each fold a regression on standardized features of the cells that are not in it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    made = [
        make_pipeline(
            StandardScaler(),
            GridSearchCV(LogisticRegression(max_iter=2000), {"C": STRENGTHS}, scoring="accuracy", cv=5),
        )
        for _ in folds
    ]
    return [head.fit(whole[rest], labels[rest]) for head, (rest, _) in zip(made, folds, strict=True)]


def probabilities(
    found: Values, judged: Values, of_folds: list[Any], folds: list[tuple[Values, Values]], classes: int = 2
) -> Values:
    """Of each judged cell, whose features these are, by the head that was fitted without it, (judged, classes)."""
    place = np.cumsum(judged) - 1
    answers = np.zeros((len(found), classes))
    for head, (_, held_out) in zip(of_folds, folds, strict=True):
        rows = place[held_out[judged[held_out]]]
        answers[rows] = head.predict_proba(found[rows])
    return answers


def row_of(made: Backbone, q: Values, p: Values, y: Values) -> dict[str, Any]:
    """By a network's probabilities of the judged cells, the whole network's, and the labels."""
    right, before = (each.argmax(1) == y for each in (q, p))
    lost = before.astype(float) - right
    error = float(lost.std(ddof=1)) / len(lost) ** 0.5
    return {
        "network": made.name,
        "target": made.target,
        "macs": made.share,
        "accuracy": float(right.mean()),
        "lost": 100 * float(lost.mean()),
        "lost_ci95": [100 * (float(lost.mean()) + z * error) for z in (-1.96, 1.96)],
        "kl": float((p * (np.log(p) - np.log(q))).sum(1).mean()),
        "agreement": float((p.argmax(1) == q.argmax(1)).mean()),
        "note": made.note,
    }


@click.command(help=__doc__)
@click.option(
    "--network", "networks", multiple=True, type=click.Choice(NETWORKS), default=("greedy", "uniform", "ToMe")
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=(0.8, 0.7, 0.6, 0.5, 0.4),
    show_default=True,
    help="Shares of the multiply-accumulates.",
)
def main(networks: tuple[str, ...], targets: tuple[float, ...]) -> None:
    """Make all networks, judge them by folds, and write the table."""
    from edgepress.progress import for_stream
    from sklearn.model_selection import StratifiedKFold

    told, progress = environment(PACKAGES), for_stream()
    model, _, context, _ = _read(EXAMPLES / "solar" / "vit.yaml")
    from edgepress.examples.solar.data import elpv

    cells = elpv(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    judged_parts = [cells["train"], cells["test"]]
    labels = np.concatenate([np.array(samples.labels) for samples in cells.values()])
    judged = np.concatenate([np.full(len(s), name in ("train", "test")) for name, s in cells.items()])
    plain = features(
        Backbone("whole", 1.0, 1.0, _headless(model.module)), model, list(cells.values()), progress
    )
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(plain, labels))
    of_folds = heads(plain, labels, folds)
    whole = probabilities(plain[judged], judged, of_folds, folds)
    rows = []
    for target in targets:
        for name in networks:
            made = backbone(name, target, model, context)
            found = features(made, model, judged_parts, progress)
            answers = probabilities(found, judged, of_folds, folds)
            rows.append(row_of(made, answers, whole, labels[judged]))
            print(_told(rows[-1]), flush=True)
    accuracy = float((whole.argmax(1) == labels[judged]).mean())
    text = (
        f"# Solar ViT, {int(judged.sum())} cells of {FOLDS} folds; whole network {100 * accuracy:.2f} %\n\n"
        f"{provenance(told)}\n{_table(rows)}"
    )
    record = {"environment": told, "accuracy": accuracy, "rows": rows}
    print(text, "written:", *write("token_folds", record, text))
    sys.exit(not _ahead(rows))


def _ahead(rows: list[dict[str, Any]]) -> bool:
    """Whether the lowest target of ours is as like the whole network as ToMe's at the next higher one."""
    targets = sorted({row["target"] for row in rows})
    peers = [row for row in rows if row["network"] == "ToMe" and row["target"] in targets[1:2]]
    own = [row for row in rows if row["network"] != "ToMe" and row["target"] == targets[0]]
    return not peers or any(
        row["kl"] <= peers[0]["kl"] and row["agreement"] >= peers[0]["agreement"] for row in own
    )


def _told(row: dict[str, Any]) -> str:
    return (
        f"{row['network']} {row['target']:g}: {row['macs']:.3f} of the MACs, {100 * row['accuracy']:.2f} %,"
        f" {row['lost']:.2f} points lost ({row['lost_ci95'][0]:.2f} to {row['lost_ci95'][1]:.2f}), KL {row['kl']:.4f},"
        f" agreement {100 * row['agreement']:.2f} %"
    )


def _table(rows: list[dict[str, Any]]) -> str:
    header = ("network", "MACs", "accuracy", "points lost, 95 %", "KL", "agreement", "tokens")
    return markdown_table(
        header,
        [
            [
                row["network"],
                f"{row['macs']:.3f}",
                f"{100 * row['accuracy']:.2f} %",
                f"{row['lost']:.2f} ({row['lost_ci95'][0]:.2f} to {row['lost_ci95'][1]:.2f})",
                f"{row['kl']:.4f}",
                f"{100 * row['agreement']:.2f} %",
                row["note"],
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
