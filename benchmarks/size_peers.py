"""`.l2z` against nncodec (Fraunhofer's NNC / DeepCABAC), zstd and order-0 entropy: the solar CNN's weights.

\b
    pip install -r benchmarks/requirements.txt
    pip install --no-deps nncodec                   # compiles for some minutes; only its coder is used
    python benchmarks/size_peers.py [--quick]

(a) bytes of the same INT8 integers without loss; (b) bytes of weights at the same squared error, both by dependent
quantization; (c) bytes of the whole network at the same test accuracy, ours from the means of l2_curve.py; (d) integers
a second, coded and decoded in turns. nncodec's files are counted without their headers. Exit code
1 when a limit is broken.
"""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from typing import Any

import click
import numpy as np
from int8_peers import EXAMPLES, _read
from numpy.typing import NDArray
from reporting import RESULTS, environment, markdown_table, provenance, write

PACKAGES = ("edgepress", "nncodec", "torch", "numpy")
RECIPE = EXAMPLES / "solar" / "cnn.yaml"
Arrays = dict[str, NDArray[Any]]

UNARY = 10  # bins of a magnitude that have contexts of their own: nncodec's default
QP_DENSITY = 2
OTHERS_QP = -75  # of vectors, as nncodec has it
WEIGHTS_QP = (-44, -38, -34, -32, -30, -28, -26, -24, -22, -20)
MOST_LOSSLESS, MOST_AT_ERROR = 1.0, 0.95  # ours / nncodec
LEAST_AT_ACCURACY, LEAST_FASTER = 2.5, 5.0  # nncodec / ours
ERRORS = (3e-3, 1e-2, 3e-2, 1e-1)
SEARCHES = 20
SPACE_FILLING = 0.5 * np.log2(2 * np.pi * np.e / 12)
"""Bits a weight between rounding each by itself in fine steps and the best that any quantizer could do (Gish and Pierce
1968, IEEE Trans. Inf. Theory 14(5))."""


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Leaves (c) out, which measures ten networks.")
def main(quick: bool) -> None:
    """Compare, write the results, and fail when a limit is broken."""
    if find_spec("nncodec") is None:
        print("nncodec cannot be imported: pip install --no-deps nncodec", file=sys.stderr)
        sys.exit(2)
    told = environment(PACKAGES)
    model, data, context, _ = _read(RECIPE)
    state = {
        name: t.detach().numpy() for name, t in model.module.state_dict().items() if t.is_floating_point()
    }
    weights = {name: array for name, array in state.items() if array.ndim > 1}
    integers = {name: _int8(array) for name, array in weights.items()}
    record: dict[str, Any] = {"environment": told, "lossless": lossless(integers), "speed": speed(integers)}
    record["error"] = at_errors(weights)
    record["accuracy"] = [] if quick else at_accuracy(model, state, data, context)
    record["broken"] = broken = _broken(record)
    text = _markdown(record)
    paths = write("size_peers_quick" if quick else "size_peers", record, text)
    print(text, "written:", *paths)
    for limit in broken:
        print(f"LIMIT BROKEN: {limit}")
    sys.exit(bool(broken))


def _int8(weight: NDArray[np.float32]) -> NDArray[np.int8]:
    """Each output channel by its largest weight."""
    most = np.abs(weight).max(tuple(range(1, weight.ndim)), keepdims=True)
    return np.round(weight / np.maximum(most, 1e-12) * 127).astype(np.int8)


def nnc(integers: NDArray[np.int32], dependent: int = 0) -> NDArray[np.uint8]:
    """A tensor of integers as nncodec codes it."""
    from nncodec.extensions import deepCABAC

    encoder = deepCABAC.Encoder()
    encoder.initCtxModels(UNARY, 0)
    skipped = np.zeros(integers.shape[0], np.int32)
    encoder.encodeLayer(integers, dependent, 0, 1, 0, 0, skipped, *_off(), 0, 0)
    return encoder.finish()


def un_nnc(coded: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """The inverse."""
    from nncodec.extensions import deepCABAC

    decoder = deepCABAC.Decoder()
    decoder.setStream(coded)
    decoder.initCtxModels(UNARY)
    found = np.zeros(shape, np.int32)
    decoder.decodeLayer(found, 0, 0, 1, 0, *_off(), 0, 0)
    return found


def _off() -> list[Any]:
    from nncodec.extensions.deepCABAC import HdspMode

    return [HdspMode.AlwaysOff, np.zeros(2, np.int8)]


def nnc_lossy(weight: NDArray[np.float32], qp: int) -> tuple[int, NDArray[np.float32]]:
    """Bytes and decoded values of a tensor, with dependent quantization, nncodec's default."""
    from nncodec.extensions import deepCABAC

    matrix = np.ascontiguousarray(weight.reshape(weight.shape[0], -1) if weight.ndim > 1 else weight)
    integers, decoded = np.zeros(matrix.shape, np.int32), np.zeros(matrix.shape, np.float32)
    encoder = deepCABAC.Encoder()
    encoder.initCtxModels(UNARY, 0)
    qp = encoder.quantLayer(matrix, integers, 1, QP_DENSITY, qp, 0.0, UNARY, 0, 1)
    deepCABAC.Decoder().dequantLayer(decoded, integers.copy(), QP_DENSITY, qp, 0)
    return len(nnc(integers, 1)), decoded.reshape(weight.shape)


def lossless(integers: Arrays) -> dict[str, int]:
    """Bytes of the same integers."""
    from edgepress.passes.lossy.counter import entropy_bits

    tensors = _tensors(integers)
    return {
        "ours": _packed(integers),
        "nncodec": sum(len(nnc(_matrix(array))) for array in integers.values()),
        "zstd": sum(_zstd(array.tobytes()) for array in integers.values()),
        "order-0": round(sum(entropy_bits(tensor) for tensor in tensors.values()) / 8),
        "int8": sum(array.size for array in integers.values()),
    }


def _packed(integers: Arrays) -> int:
    from edgepress.pipeline.l2z.codec import pack_tensors

    return len(pack_tensors(_tensors(integers)))


def _tensors(arrays: Arrays) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _matrix(array: NDArray[Any]) -> NDArray[np.int32]:
    return np.ascontiguousarray(array.reshape(array.shape[0], -1), dtype=np.int32)


def _zstd(content: bytes) -> int:
    """zstd's strongest level where it is installed, else zlib's."""
    if find_spec("zstandard") is None:
        return len(zlib.compress(content, 9))
    import zstandard

    return len(zstandard.ZstdCompressor(level=19).compress(content))


def at_errors(weights: Arrays) -> list[dict[str, float]]:
    """The rows of (b). bound: Shannon's lower bound, half a bit a weight for each half of the error, from what rounding
    each weight by itself takes at the smallest error: of any quantizer, for weights that tell no more of each other
    than our coder sees, and out of reach at few bits."""
    total = sum(float((w.astype(np.float64) ** 2).sum()) for w in weights.values())
    count = sum(weight.size for weight in weights.values())
    fine = min(ERRORS)
    alone = _ours_at_error(weights, fine * total, dependent=False)
    return [
        {
            **at_error(weights, nmse),
            "bound": alone - (SPACE_FILLING + 0.5 * np.log2(nmse / fine)) * count / 8,
        }
        for nmse in ERRORS
    ]


def at_error(weights: Arrays, nmse: float) -> dict[str, float]:
    """Bytes of all weights where Σ (w - ŵ)² is this share of Σ w², the same step for all tensors on both sides."""
    total = sum(float((w.astype(np.float64) ** 2).sum()) for w in weights.values())
    points = []
    for qp in range(-60, 0, 2):
        found = {name: nnc_lossy(w, qp) for name, w in weights.items()}
        error = sum(float(((weights[n] - d) ** 2).sum()) for n, (_, d) in found.items()) / total
        points.append((error, sum(size for size, _ in found.values())))
        if error > nmse:
            break
    (low, more), (high, less) = points[-2:]
    share = np.log(nmse / low) / np.log(high / low)
    theirs = more + share * (less - more)  # bytes are close to linear in the error's logarithm
    ours = _ours_at_error(weights, nmse * total, dependent=True)
    return {"nmse": nmse, "nncodec": float(theirs), "ours": float(ours)}


def _ours_at_error(weights: Arrays, wanted: float, dependent: bool) -> int:
    """Bytes at the wanted squared error, or up to a five-hundredth below it."""
    step = (12 * wanted / sum(weight.size for weight in weights.values())) ** 0.5
    for _ in range(SEARCHES):
        error, size = _ours_at(weights, step, dependent)
        if 0.998 * wanted <= error <= wanted:
            return size
        step *= (0.999 * wanted / error) ** 0.5
    raise RuntimeError(f"no step gives the squared error {wanted:g}")


def _ours_at(weights: Arrays, step: float, dependent: bool) -> tuple[float, int]:
    """Squared error and bytes with the same step for all weights, rounded along the trellis or each by itself."""
    import torch
    from edgepress.model import CodedTensor
    from edgepress.passes.lossy.coded import about_zero, evenly
    from edgepress.passes.lossy.dependent import LARGEST, kind_for, walked
    from edgepress.pipeline.l2z.codec import pack_tensors
    from edgepress.trellis import NONE

    coded = {}
    for name, weight in weights.items():
        own = max(step, float(np.abs(weight).max()) / LARGEST)
        steps = weight.reshape(len(weight), -1).astype(np.float64) / own
        kind = kind_for(steps) if dependent else NONE
        multiples = walked(steps, kind) if dependent else np.round(steps).astype(np.int16)
        most = int(np.abs(multiples).max())
        values = about_zero(evenly(torch.arange(1, most + 1) * torch.tensor(own)))
        indices = torch.from_numpy((multiples + most).astype(np.uint8)).reshape(weight.shape)
        coded[name] = CodedTensor(indices, values, trellis=kind)
    decoded = {name: each.tensor() for name, each in coded.items()}
    error = sum(float(((weights[n] - d.numpy()) ** 2).sum()) for n, d in decoded.items())
    return error, len(pack_tensors(decoded, coded=coded))


def at_accuracy(model: Any, state: Arrays, data: Any, context: Any) -> list[dict[str, float]]:
    """For each mean over seeds of the curve the smallest of nncodec's files that is as accurate, or, where none is, as
    its most accurate one."""
    import copy

    import torch
    from edgepress.model import Model

    curve = RESULTS / "l2_curve.json"
    if not curve.is_file():
        print("(c) is left out: run python benchmarks/l2_curve.py --network solar-cnn first", file=sys.stderr)
        return []
    theirs = []
    for qp in WEIGHTS_QP:
        coded = {
            n: nnc_lossy(a.astype(np.float32), qp if a.ndim > 1 else OTHERS_QP) for n, a in state.items()
        }
        network = copy.deepcopy(model.module)
        network.load_state_dict({n: torch.from_numpy(d) for n, (_, d) in coded.items()}, strict=False)
        candidate = Model(network.eval(), model.example_inputs)
        accuracy = context.metric.measure(candidate.run, data.judge, 16).record.value
        theirs.append({"qp": qp, "nncodec": sum(size for size, _ in coded.values()), "accuracy": accuracy})
        print(f"  nncodec at qp {qp}: {theirs[-1]['nncodec']:,} bytes, {100 * accuracy:.2f} %", flush=True)
    best = max(x["accuracy"] for x in theirs)
    rows = []
    for row in json.loads(curve.read_text())["means"]:
        if row["network"] == "solar-cnn":
            enough = [x for x in theirs if x["accuracy"] >= min(row["accuracy"], best)]
            smallest = min(enough, key=lambda x: x["nncodec"])
            rows.append(
                {
                    "accuracy": row["accuracy"],
                    "ours": row["bytes"],
                    "nncodec_accuracy": smallest["accuracy"],
                    "nncodec": smallest["nncodec"],
                }
            )
    return rows


def speed(integers: Arrays, rounds: int = 5) -> dict[str, float]:
    """Millions of integers a second, medians of rounds in turns, on one thread."""
    from edgepress.pipeline.l2z.codec import pack_tensors, unpack_tensors

    matrices = {name: _matrix(array) for name, array in integers.items()}
    tensors = _tensors(integers)
    count = sum(array.size for array in integers.values())
    coded = {name: nnc(matrix) for name, matrix in matrices.items()}
    packed = pack_tensors(tensors)
    works: dict[str, Callable[[], Any]] = {
        "nncodec codes": lambda: [nnc(matrix) for matrix in matrices.values()],
        "ours packs": lambda: pack_tensors(tensors),
        "nncodec decodes": lambda: [un_nnc(coded[n], matrices[n].shape) for n in coded],
        "ours unpacks": lambda: unpack_tensors(packed, "x"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return {name: count / median(taken) / 1e6 for name, taken in seconds.items()}


def _broken(record: dict[str, Any]) -> list[str]:
    found = []
    ratio = record["lossless"]["ours"] / record["lossless"]["nncodec"]
    if ratio > MOST_LOSSLESS:
        found.append(f"(a) ours is {ratio:.3f} of nncodec's bytes, the limit is {MOST_LOSSLESS}")
    for row in record["error"]:
        if (ratio := row["ours"] / row["nncodec"]) > MOST_AT_ERROR:
            found.append(
                f"(b) ours is {ratio:.3f} of nncodec's bytes at {row['nmse']:g}, the limit is {MOST_AT_ERROR},"
                f" the bound about {row['bound'] / row['nncodec']:.3f}"
            )
    for row in record["accuracy"]:
        if (ratio := row["nncodec"] / row["ours"]) < LEAST_AT_ACCURACY:
            found.append(f"(c) nncodec is {ratio:.2f} of our bytes, the least is {LEAST_AT_ACCURACY}")
    for ours, theirs in (("ours packs", "nncodec codes"), ("ours unpacks", "nncodec decodes")):
        if (ratio := record["speed"][ours] / record["speed"][theirs]) < LEAST_FASTER:
            found.append(f"(d) {ours} {ratio:.1f} times as fast as {theirs}, the least is {LEAST_FASTER}")
    return found


def _markdown(record: dict[str, Any]) -> str:
    text = "# `.l2z` against nncodec: the solar CNN's weights\n\n" + provenance(record["environment"])
    sizes = record["lossless"]
    rows = [[name, f"{size:,}", f"{size / sizes['nncodec']:.3f}"] for name, size in sizes.items()]
    text += "\n(a) The same integers without loss\n\n" + markdown_table(("", "bytes", "of nncodec's"), rows)
    rows = [
        [
            f"{r['nmse']:g}",
            f"{r['nncodec']:,.0f}",
            f"{r['ours']:,.0f}",
            *(f"{r[which] / r['nncodec']:.3f}" for which in ("ours", "bound")),
        ]
        for r in record["error"]
    ]
    text += "\n(b) At the same error. Bound: Shannon's, of any quantizer, for weights that tell no more of each other"
    text += " than our coder sees\n\n"
    text += markdown_table(("NMSE", "nncodec", "ours", "ours / it", "bound / it"), rows)
    rows = [
        [
            f"{100 * r['accuracy']:.2f} %",
            f"{100 * r['nncodec_accuracy']:.2f} %",
            f"{r['nncodec']:,}",
            f"{r['ours']:,.0f}",
            f"{r['nncodec'] / r['ours']:.2f}",
        ]
        for r in record["accuracy"]
    ]
    text += "\n(c) At the same test accuracy, or the best that nncodec reaches, all tensors\n\n"
    header = ("accuracy, ours", "accuracy, nncodec", "nncodec", "ours, the whole file", "nncodec / ours")
    text += markdown_table(header, rows)
    rows = [[name, f"{value:.1f}"] for name, value in record["speed"].items()]
    return text + "\n(d) Millions of integers a second\n\n" + markdown_table(("", "M/s"), rows)


if __name__ == "__main__":
    main()
