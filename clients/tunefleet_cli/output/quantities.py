"""Numbers as people read them: sizes, times, counts, learning rates."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

__all__ = [
    "age",
    "bytes_text",
    "count_text",
    "duration_text",
    "number_text",
    "percent_text",
    "rate_text",
    "until",
]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def bytes_text(size: float) -> str:
    """Return a size in binary units, such as `1.5 GiB`."""
    for unit in _UNITS:
        if abs(size) < 1024 or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable: the last unit takes every size")


def count_text(number: float) -> str:
    """Return a large count shortened, such as `596 M`; exact below ten thousand."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            scaled = number / (1e3 if unit == "k" else limit)
            return f"{scaled:.0f} {unit}" if scaled >= 100 else f"{scaled:.1f} {unit}"
    return f"{number:,.0f}"


def duration_text(seconds: float) -> str:
    """Return a duration in at most two units, such as `2m 13s`."""
    whole = int(seconds + 0.5)
    if seconds < 10:
        return f"{seconds:.1f}s"
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3600:02d}h"


def age(moment: Timestamp, now: datetime) -> str:
    """Return how long ago a moment was, in one unit, such as `3m`; empty if unset."""
    if not moment.seconds:
        return ""
    seconds = max(0, int(now.timestamp() - moment.seconds))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def until(moment: Timestamp, now: datetime) -> str:
    """Return how far away a moment is, such as `in 3h`; `ended` if it is past, empty if unset."""
    if not moment.seconds:
        return ""
    seconds = int(moment.seconds - now.timestamp())
    if seconds <= 0:
        return "ended"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"in {seconds // size}{unit}"
    return f"in {seconds}s"


def number_text(value: float) -> str:
    """Return a loss or a norm with four significant decimals."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.2e}"


def rate_text(value: float) -> str:
    """Return a learning rate as job files write it, such as `1.8e-4`."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}" if value else "0"


def percent_text(part: float, whole: float) -> str:
    """Return a share as a percentage; more digits where it is small."""
    if not whole:
        return "–"
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 10 or share == 0 else f"{share:.1f} %"
