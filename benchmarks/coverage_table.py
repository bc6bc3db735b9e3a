"""How structure coverage is shown: one row an architecture, and the reasons below the table."""

from __future__ import annotations

from typing import Any

from reporting import markdown_table, provenance, wide_console

ENOUGH_INT8 = 0.95
HEADER = (
    "architecture",
    "INT8 planned",
    "INT8 OpenVINO",
    "INT8 onnxruntime",
    "float layers (OpenVINO)",
    "INT8 vs float, dB",
    "onnxruntime vs torch, dB",
    "OpenVINO vs torch, dB",
    "TensorRT",
    "lint",
    "failed",
)


def int8_share(row: dict[str, Any], runtime: str) -> float | None:
    """Share of the multiply-accumulates that the runtime says it ran in INT8; None when it did not run."""
    shares = row.get(f"{runtime}_precision")
    return None if shares is None else shares.get("int8", 0.0)


def short_of_int8(row: dict[str, Any]) -> list[str]:
    """Why less than nearly all runs in INT8: the layers, largest first, in OpenVINO's and our own words."""
    share = int8_share(row, "openvino")
    if share is None or share >= ENOUGH_INT8:
        return []
    planned = {layer["layer"]: layer["reason"] for layer in row["planned_float"]}
    told = []
    for layer in sorted(row["openvino_float"], key=lambda x: -x["macs"]):
        reason = next((planned[n] for n in layer["nodes"] if n in planned), "quantized in the graph")
        told.append(
            f"{', '.join(layer['nodes'][:3])} ran in {layer['precision']}, "
            f"{100 * layer['macs'] / row['macs']:.1f} % of MACs ({reason})"
        )
    return told


def cells(row: dict[str, Any]) -> list[str]:
    """The row's cells under HEADER; what was not reached is a dash."""

    def number(key: str) -> str:
        return f"{row[key]:.1f}" if key in row else "–"

    def share(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f} %"

    lint = row.get("lint", {}) | ({"tensorrt": row["lint_tensorrt"]} if "lint_tensorrt" in row else {})
    return [
        row["name"],
        share(row.get("planned_int8")),
        share(int8_share(row, "openvino")),
        share(int8_share(row, "onnxruntime")),
        f"{len(row['openvino_float'])} of {row['layers']}" if "openvino_float" in row else "–",
        number("quantization_sqnr_db"),
        number("onnxruntime_parity_db"),
        number("openvino_parity_db"),
        row.get("tensorrt", "–"),
        str(sum(map(len, lint.values()))) if lint else "–",
        "; ".join(x.partition(":")[0] for x in row["failures"]) or "–",
    ]


def line(row: dict[str, Any]) -> str:
    """One architecture on one line, for the log of a long run."""
    told = [f"{name} {cell}" for name, cell in zip(HEADER[1:], cells(row)[1:], strict=True)]
    return f"{row['name']} ({row['seconds']:.0f} s): " + ", ".join(told)


def markdown(rows: list[dict[str, Any]], told: dict[str, Any], samples: int) -> str:
    """The table with its provenance, then what failed or fell short, by architecture."""
    text = "# Structure coverage\n\n" + provenance(told)
    text += "\n" + markdown_table(HEADER, [cells(r) for r in rows])
    text += f"\nRandom weights, {samples} random images; shares are of MACs, by the runtime's own word.\n"
    for row in rows:
        items = [f"failed at {x}" for x in row["failures"]] + short_of_int8(row)
        if items:
            text += f"\n**{row['name']}** (`{row['source']}`)\n\n" + "".join(f"- {item}\n" for item in items)
    return text


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table and what failed or fell short."""
    from rich.table import Table

    table = Table(*HEADER)
    for row in rows:
        table.add_row(*cells(row), style="red" if row["failures"] else None)
    wide_console().print(table)
    for row in rows:
        for item in [*row["failures"], *short_of_int8(row)[:5]]:
            print(f"{row['name']}: {item}")
