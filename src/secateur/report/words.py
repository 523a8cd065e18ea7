"""Numbers as a reader wants them: few digits, a unit, a sign where one is meant."""

from __future__ import annotations

import datetime
import math

__all__ = ["NOTHING", "count", "date", "duration", "energy", "exact", "milliseconds", "size", "times", "tiny"]

NOTHING = "–"

_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def exact(value: float | None) -> str:
    """Returns a whole number with thousands separated.

    >>> exact(853018)
    '853,018'
    """
    return NOTHING if value is None else f"{value:,.0f}"


def count(value: float | None) -> str:
    """Returns a count with three digits and a prefix.

    >>> count(853018), count(125485696), count(999_999), count(42)
    ('853 k', '125 M', '1.00 M', '42')
    """
    if value is None:
        return NOTHING
    for unit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit * 0.9995:
            return f"{_digits(value / unit)} {prefix}"
    return f"{value:.0f}"


def size(value: float | None) -> str:
    """Returns bytes in decimal units.

    >>> size(3_450_000), size(512)
    ('3.45 MB', '512 B')
    """
    return NOTHING if value is None else f"{count(value)}{'' if value >= 999.5 else ' '}B"


def energy(value: float | None) -> str:
    """Returns millijoules with three digits.

    >>> energy(0.012345), energy(None) == NOTHING
    ('0.0123 mJ', True)
    """
    return NOTHING if value is None else f"{value:#.3g} mJ"


def milliseconds(value: float | None) -> str:
    """Returns milliseconds with three digits.

    >>> milliseconds(12.345), milliseconds(0.0217), milliseconds(0.065)
    ('12.3 ms', '0.0217 ms', '0.0650 ms')
    """
    if value is None:
        return NOTHING
    return f"{_digits(value) if value >= 1 else format(value, '#.3g')} ms"


def duration(seconds: float | None) -> str:
    """Returns a time span.

    >>> duration(302), duration(48.2), duration(7300)
    ('5 min 2 s', '48 s', '2 h 1 min')
    """
    if seconds is None:
        return NOTHING
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"


def date(text: str) -> str:
    """Returns an ISO date and time in words; any other text stays as it is.

    >>> date("2026-11-20T10:49:45+00:00"), date("yesterday")
    ('20 November 2026, 10:49 UTC', 'yesterday')
    """
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC)
    month = _MONTHS[moment.month - 1]  # not by strftime, which follows the reader's locale
    zone = " UTC" if moment.tzinfo else ""
    return f"{moment.day} {month} {moment.year}, {moment:%H:%M}{zone}"


def times(value: float | None) -> str:
    """Returns a ratio.

    >>> times(2.1266)
    '2.13×'
    """
    return NOTHING if value is None else f"{_digits(value)}×"


def tiny(value: float | None) -> str:
    """Returns a very small number in powers of ten.

    >>> tiny(2.1e-7), tiny(0.0), tiny(float("inf"))
    ('2.1 × 10⁻⁷', '0', '∞')
    """
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞"
    mantissa, exponent = f"{value:.1e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    lead = "" if mantissa == "1.0" else f"{mantissa} × "
    return f"{lead}10{raised}"


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
