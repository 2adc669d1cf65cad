"""Numbers, dates and names as people read them: the filters of the templates."""

from collections.abc import Iterable
from datetime import datetime
from math import isfinite
from string import ascii_letters, digits

from markupsafe import Markup

_MINUS, NOT_AVAILABLE = "\u2212", "not available"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as percent with a true minus sign."""
    return NOT_AVAILABLE if value is None else f"{number(100 * value, digits)}\u00a0%"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number for people; never a bare "nan"."""
    if value is None or not isfinite(value):
        return NOT_AVAILABLE
    text = f"{value:,.{digits}f}"
    return text.replace("-", _MINUS) if float(text.replace(",", "")) else text.lstrip("-")


def chance(p_value: float | None) -> str:
    """Return a p-value; below a thousandth it says so."""
    return "below 0.001" if p_value is not None and p_value < 0.001 else number(p_value, 3)


def tiny(value: float) -> str:
    """Return a small number as 1.1 × 10⁻⁵."""
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')} × 10{str(int(exponent)).translate(_RAISED)}"


def day(text: str) -> str:
    """Return an ISO date or time as "3 March 2026", with the time of day in UTC if it has one."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    date = f"{moment.day} {moment:%B %Y}"
    return f"{date}, {moment:%H:%M} UTC" if len(text) > len("2026-03-03") else date


def words(code: str) -> str:
    """Return a code as words."""
    return code.replace("_", " ")


def listed(names: Iterable[str]) -> str:
    """Return "a, b and c"."""
    *most, last = list(names) or ["none"]
    return f"{', '.join(most)} and {last}" if most else last


def patients(count: float) -> str:
    """Return a number of patients."""
    return f"{number(count, 0)}\u00a0{'patient' if round(count) == 1 else 'patients'}"


def css_string(text: str) -> Markup:
    """Return what stands between quotes of a style sheet: all but plain characters escaped."""
    plain = set(ascii_letters + digits + " .,:-")
    return Markup("".join(c if c in plain else f"\\{ord(c):06x} " for c in text))
