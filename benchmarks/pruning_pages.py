"""What pruning_curve.py writes: the tables, and the curve of accuracy against measured latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning_methods import LABELS, OURS
from reporting import markdown_table, provenance

NETWORKS = (
    "method",
    "asked for",
    "seed",
    "weights",
    "MACs",
    "float, validation",
    "float, test",
    "KL",
    "agreement",
    "INT8, test",
    "latency / original's",
    "took",
)
MEANS = (
    "method",
    "asked for",
    "trainings",
    "latency",
    "weights",
    "MACs",
    "float, test",
    "INT8, test",
    "lost (95 % interval)",
    "lost, each seed",
    "KL",
    "agreement",
)
EQUAL = (
    "ours",
    "asked for",
    "at latency",
    "against",
    "more accurate by (95 % interval)",
    "each seed",
    "wins",
)
FASTER = ("network", "no less accurate than", "latency ratio (95 % interval)", "accuracy above it", "faster")
LOST = "Accuracy lost by the INT8 engine to the original's, in points; the interval is over test samples.\n\n"
EQUALLY = "Between two networks of a method, and the original, its accuracy is read off a straight line.\n\n"
FASTEST = "The fastest network that is on the mean no less accurate.\n\n"
ALIKE = (
    "Latency at equal KL divergence from the original, read off a straight line between the networks of a seed; the"
    " interval is over seeds.\n\n"
)
LIKENESS = "KL (nats) and agreement of the float network's outputs with the original's.\n\n"
PREDICTED = ("network", "seed", "predicted", "measured (95 % interval)", "predicted / measured")
NEAR = 0.1
NEAREST = ("ours", "against the nearest of", "seed", "latencies", "more accurate by", "McNemar p", "p, Holm")


def page(record: dict[str, Any], n: int) -> str:
    """All tables of a record as Markdown; n: test samples."""
    original = record["original"]
    how = ", ".join(f"{key} {value}" for key, value in record["training"].items())
    text = f"""# Accuracy against measured latency: {record["network"]}

{provenance(record["environment"])}
Every network trained for {record["epochs"]} epochs ({how}). {n} test samples; the original has
{_percent(original["accuracy"]["float_test"])} in float and {_percent(original["accuracy"]["int8_test"])} in INT8, and
takes {original["latency"]["ms"]:.2f} ms. Latencies are of INT8 engines on OpenVINO, batch 1, as shares of the
original's in the same rounds of launches; engines that differ in nothing but their weights are timed once.
"""
    for title, told, table, rows in (
        ("Means over the trainings", LOST, _means, record["means"]),
        ("At equal measured latency", EQUALLY, _at_equal_latency, record["at_equal_latency"]),
        (
            "The nearest networks, training by training",
            "",
            _nearest,
            [row for row in record["nearest"] if _near(row)],
        ),
        ("Driven by latency or by multiply-accumulates", FASTEST, _faster, record["latency_driven"]),
        ("The same, by divergence", ALIKE, _as_alike, record["as_alike"]),
        ("Latency as the table predicts it, and measured", "", _predictions, record["predicted"]),
        ("Solver or trained gates", FASTEST, _faster, record["solver"]),
        ("All networks", LIKENESS, _networks, [original, *record["rows"]]),
    ):
        if rows:
            text += f"\n## {title}\n\n{told}{table(rows)}"
    return text


def _networks(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each training."""
    return markdown_table(NETWORKS, [_network_cells(row) for row in rows])


def _network_cells(row: dict[str, Any]) -> list[str]:
    accuracy, latency = row["accuracy"], row["latency"]
    timed = "–" if latency is None else f"{latency['ratio']:.3f} ({_span(latency['ci95'], 3)})"
    return [
        LABELS[row["method"]],
        f"{row['target']:g}",
        str(row["seed"]),
        f"{row['params'] / 1e6:.2f} M",
        "–" if row["macs"] is None else f"{row['macs'] / 1e6:.0f} M",
        *(_percent(accuracy[key]) for key in ("float_validation", "float_test")),
        f"{row['float']['kl']:.4f}",
        _percent(row["float"]["agreement"]),
        _percent(accuracy["int8_test"]),
        timed,
        f"{row['seconds'] / 60:.1f} min",
    ]


def _means(means: Sequence[dict[str, Any]]) -> str:
    """One line for each method and target."""
    return markdown_table(
        MEANS,
        [
            [
                LABELS[row["method"]],
                f"{row['target']:g}",
                str(row["seeds"]),
                f"{row['latency']:.3f}",
                _percent(row["params_share"]),
                _percent(row["macs_share"]),
                _percent(row["float_test"]),
                _percent(row["int8_test"]),
                f"{row['lost']:+.2f} ({_span(row['lost_ci95'])})",
                _each(row["lost_seeds"]),
                f"{row['kl']:.4f}",
                _percent(row["agreement"]),
            ]
            for row in means
        ],
    )


def _at_equal_latency(rows: Sequence[dict[str, Any]]) -> str:
    """Ours against each baseline."""
    return markdown_table(
        EQUAL,
        [
            [
                LABELS[row["ours"]],
                f"{row['target']:g}",
                f"{row['latency']:.3f}",
                LABELS[row["other"]] + ("" if row["reached"] else ", whose fastest is slower"),
                f"{row['points']:+.2f} ({_span(row['ci95'])})",
                _each(row["seeds"]),
                {"ours": LABELS[row["ours"]], "other": LABELS[row["other"]], "": "not told apart"}[
                    row["wins"]
                ],
            ]
            for row in rows
        ],
    )


def _nearest(rows: Sequence[dict[str, Any]]) -> str:
    """Ours against each baseline's network that is nearest in latency, training by training."""
    return markdown_table(
        NEAREST,
        [
            [
                f"{LABELS[row['ours']]} {row['target']:g}",
                f"{LABELS[row['other']]} {row['other_target']:g}",
                str(row["seed"]),
                " / ".join(f"{latency:.3f}" for latency in row["latency"]),
                f"{row['points']:+.2f}",
                f"{row['p']:.3f}",
                f"{row['p_holm']:.3f}",
            ]
            for row in rows
        ],
    )


def _as_alike(rows: Sequence[dict[str, Any]]) -> str:
    """Latency at equal divergence."""
    return markdown_table(
        ("ours", "other", "latency, ours/other", "seeds", "ours is faster"),
        [
            [
                LABELS[row["one"]],
                f"{LABELS[row['other']]} {row['other_target']:g}",
                f"{'' if row['reached'] else 'at most '}{row['ratio']:.3f} ({_span(row['ci95'], 3)})",
                f"{row['seeds']}",
                "yes" if row["faster"] else "not told apart",
            ]
            for row in rows
        ],
    )


def _faster(rows: Sequence[dict[str, Any]]) -> str:
    """Latency at no lower accuracy."""
    return markdown_table(
        FASTER,
        [
            [
                f"{LABELS[row['one']]} {row['target']:g}",
                f"{LABELS[row['other']]} {row['other_target']:g}",
                f"{row['ratio']:.3f} ({_span(row['ci95'], 3)})",
                f"{row['points']:+.2f} ({_span(row['points_ci95'])})",
                "yes" if row["faster"] else "not told apart",
            ]
            for row in rows
        ],
    )


def _predictions(rows: Sequence[dict[str, Any]]) -> str:
    """Shares of the original's latency."""
    return markdown_table(
        PREDICTED,
        [
            [
                f"{LABELS[row['method']]} {row['target']:g}",
                str(row["seed"]),
                f"{row['predicted']:.3f}",
                f"{row['measured']:.3f} ({_span(row['ci95'], 3)})",
                f"{row['predicted'] / row['measured']:.3f}",
            ]
            for row in rows
        ],
    )


def _near(row: dict[str, Any]) -> bool:
    """Whether two networks are of much the same latency; the record has all pairs."""
    one, other = row["latency"]
    return bool(abs(one / other - 1) <= NEAR)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def _span(ci95: Sequence[float], digits: int = 2) -> str:
    return " to ".join(f"{end:.{digits}f}" for end in ci95)


def _each(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.2f}" for value in values)


def plot(
    rows: Sequence[dict[str, Any]], means: Sequence[dict[str, Any]], original: dict[str, Any], path: Path
) -> Path:
    """Accuracy of the INT8 engines over their latency: a dot for each training, a line through the means."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    whole = 100 * original["accuracy"]["int8_test"]
    for method in dict.fromkeys(row["method"] for row in means):
        own = sorted((row["latency"], 100 * row["int8_test"]) for row in means if row["method"] == method)
        line = axes.plot(
            *zip(*own, (1.0, whole), strict=True),
            label=LABELS[method],
            linestyle="-" if method in OURS else "--",
            linewidth=2 if method in OURS else 1,
        )[0]
        dots = [row for row in rows if row["method"] == method]
        axes.scatter(
            [row["latency"]["ratio"] for row in dots],
            [100 * row["accuracy"]["int8_test"] for row in dots],
            s=14,
            color=line.get_color(),
        )
    axes.axhline(whole, color="grey", linewidth=0.8)
    axes.axhline(whole - 1, color="grey", linewidth=0.8, linestyle=":")
    axes.set(
        xlabel="measured latency / the original's (INT8, OpenVINO CPU, batch 1)", ylabel="test accuracy, %"
    )
    axes.legend(fontsize=8)
    figure.savefig(path)
    return path
