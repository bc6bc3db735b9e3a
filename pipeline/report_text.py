"""Numbers and untrusted names as text: one way to print each quantity, wherever it is printed."""

from __future__ import annotations

import math
import re
import unicodedata

NOT_MEASURED = "not measured"
UNKNOWN = "unknown"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
EN_DASH = "\N{EN DASH}"
NAME_LIMIT = 90  # characters of a layer name or path that a table shows
TEXT_LIMIT = 20_000  # characters of any one text; a recipe is far below

_KEPT_CONTROLS = "\n\t"


def tidy(text: str, limit: int = TEXT_LIMIT) -> str:
    """`text` with everything that could mislead a reader made visible.

    Control characters (terminal escapes), bidirectional overrides and lone surrogates become <U+202E>;
    a text over `limit` characters keeps its start and says how much is left out.
    """
    if len(text) > limit:
        text = f"{text[:limit]} … ({len(text) - limit:,} characters left out)"
    return "".join(_visible(c) for c in text)


def _visible(character: str) -> str:
    if character in _KEPT_CONTROLS or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return f"<U+{ord(character):04X}>"


def short(text: str, limit: int = NAME_LIMIT) -> str:
    """A name on one line, its middle left out when it is long: layers differ at their ends."""
    return _ends(tidy(re.sub(r"\s+", " ", _ends(text, 4 * limit)).strip()), limit)


def _ends(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    tail = limit // 2
    return f"{text[: limit - tail - 1]}…{text[-tail:]}"


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


def metric_value(value: float | None, decimals: int = 2) -> str:
    """A metric: a fraction as per cent, anything outside [0, 1] as the number it is."""
    if value is None or math.isnan(value) or 0 <= value <= 1:
        return percent(value, decimals)
    return f"{value:.4g}"


def signed(value: float, decimals: int = 2) -> str:
    """A change, with its sign."""
    return f"{value:+,.{decimals}f}".replace("-", MINUS)


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
