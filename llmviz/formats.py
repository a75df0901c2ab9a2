"""How numbers are written for a person, wherever they are written."""

from __future__ import annotations

from .arguments import plain


def fixed(value: float, digits: int = 2) -> str:
    """Such as 0.25, with so many digits after the point, and never -0.00."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def given(value: float) -> str:
    """A setting as it was given: 1 for 1.0, and no digit less where it has many."""
    value = plain(value)
    if isinstance(value, int):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
