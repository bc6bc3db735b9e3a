"""Numbers as text: one way to print each quantity, wherever it is printed; names are `text`'s."""

from __future__ import annotations

import math

NOT_MEASURED = "not measured"
UNKNOWN = "unknown"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
EN_DASH = "\N{EN DASH}"


def known(value: float | None) -> bool:
    """Whether there is a number to print."""
    return value is not None and not math.isnan(value)


def number(value: float | None, decimals: int = 2) -> str:
    """A plain number with thousands separators, or "not measured"."""
    if value is None or math.isnan(value):
        return NOT_MEASURED
    return "∞" if math.isinf(value) else f"{value:,.{decimals}f}"


def ms(value: float | None) -> str:
    """Milliseconds with three significant digits and their unit."""
    if value is None or math.isnan(value):
        return NOT_MEASURED
    return f"{bare_ms(value)} ms"


def bare_ms(value: float | None) -> str:
    """Milliseconds with three significant digits, for a column whose head names the unit."""
    if value is None or math.isnan(value):
        return NOT_MEASURED
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def percent(fraction: float | None, decimals: int = 2) -> str:
    """A fraction as "86.28 %"."""
    if fraction is None or math.isnan(fraction):
        return NOT_MEASURED
    return f"{100 * fraction:.{decimals}f} %"


def is_share(value: float | None) -> bool:
    """Whether a metric's value can be a share, as an accuracy is; PSNR in dB and mAP in 0 to 100 are none."""
    return value is not None and 0 <= value <= 1


def metric_value(value: float | None, decimals: int = 2) -> str:
    """A metric: a fraction as per cent, anything outside [0, 1] as the number it is."""
    if value is None or math.isnan(value) or is_share(value):
        return percent(value, decimals)
    return f"{value:.4g}"


def metric_interval(value: float, ci95: tuple[float, float]) -> str:
    """The bounds of a metric written as its value is: "83.65–88.91 %", "31.02–31.4"; "no interval" for unknown ones."""
    if not all(map(known, ci95)):
        return "no interval"
    if is_share(value):
        return between(f"{100 * ci95[0]:.2f}", percent(ci95[1]))
    return between(*(f"{bound:.4g}" for bound in ci95))


def metric_change(before: float, after: float) -> str:
    """How far a metric moved: "+0.42 points" of a share, of anything else the number itself; "" for unknown ones."""
    if not (known(before) and known(after)):
        return ""
    if is_share(before) and is_share(after):
        return f"{signed(100 * (after - before) + 0.0)} points"
    return f"{after - before + 0.0:+.4g}".replace("-", MINUS)


def signed(value: float, decimals: int = 2) -> str:
    """A change, with its sign."""
    return f"{value:+,.{decimals}f}".replace("-", MINUS)


def energy(joules: float | None) -> str:
    """Energy of one inference: "12.3 mJ"."""
    return NOT_MEASURED if joules is None or math.isnan(joules) else f"{1000 * joules:.3g} mJ"


def byte_size(count: float | None) -> str:
    """Bytes in decimal units, as budgets are written: "1.32 MB"."""
    if count is None or math.isnan(count):
        return NOT_MEASURED
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:,.0f} B"


def count_size(count: float | None) -> str:
    """A count of weights or MACs: "4.65 M"; one that is None could not be counted."""
    if count is None or math.isnan(count):
        return UNKNOWN
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:,.0f}"


def ratio(value: float | None) -> str:
    """A speed-up with its multiplication sign."""
    return NOT_MEASURED if value is None or math.isnan(value) else f"{value:.2f}{TIMES}"


def between(low: str, high: str) -> str:
    """An interval, with an en dash."""
    return f"{low}{EN_DASH}{high}"


def ratio_interval(ci95: tuple[float, float]) -> str:
    """The interval of a speed-up, the multiplication sign once."""
    return between(f"{ci95[0]:.2f}", ratio(ci95[1]))


def duration(seconds: float) -> str:
    """Wall-clock time of a step or a run."""
    if seconds >= 60:
        return f"{int(seconds // 60)} min {seconds % 60:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
