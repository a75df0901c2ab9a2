"""What an argument must be: each rule once, with an error that names the argument and its value.

Every function takes the argument's name and value, returns the value as plain Python (an int for a
numpy or torch integer, say), and raises where it is something else. A value that could never do
is a TypeError where its type is wrong for every use, and else a ValueError that says what would do.
"""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Sequence

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


def shown(value) -> str:
    """`value` as it stands in a message: short, on one line, and printable whatever it is."""
    try:
        text = _REPR.repr(value)
    except Exception:  # a foreign __repr__ may raise anything, and must not hide our message
        text = f"<{type(value).__name__}>"
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else f"⟨U+{ord(c):04X}⟩" for c in text)[:200]


def plain(value):
    """A numpy or torch scalar as Python's own number; anything else as it is."""
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        return value.item()
    return value


def is_whole(value) -> bool:
    """Whether `value` is a whole number: Python's, numpy's or torch's, but not True or False."""
    value = plain(value)
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value) -> bool:
    """Whether `value` is a real number: Python's, numpy's or torch's, but not True or False."""
    value = plain(value)
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_finite(value) -> bool:
    """Whether `value` is a real number that a float can hold."""
    try:
        return is_number(value) and math.isfinite(plain(value))
    except OverflowError:  # a whole number beyond all floats
        return False


def whole(name: str, value, low: int = 1, high: int | None = None) -> int:
    """A whole number from `low` to `high`, both included; None sets no upper bound."""
    if is_whole(value):
        found = int(plain(value))
        if low <= found and (high is None or found <= high):
            return found
    bounds = f"of {low} or more" if high is None else f"from {low} to {high}"
    raise ValueError(f"{name}={shown(value)}: it must be a whole number {bounds}")


def number(
    name: str,
    value,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    wanted: str = "a finite number",
) -> float | int:
    """A finite number from `low` to `high`, both included; `wanted` says so in the message."""
    if is_number(value):
        found = plain(value)
        if is_finite(found) and low <= found <= high:
            return found if isinstance(found, (int, float)) else float(found)
    raise ValueError(f"{name}={shown(value)}: it must be {wanted}")


def flag(name: str, value) -> bool:
    """True or False."""
    value = plain(value)
    if isinstance(value, bool):
        return value
    raise ValueError(f"{name}={shown(value)}: it must be True or False")


def choice(name: str, value, allowed: Sequence):
    """One of `allowed`, of the same type."""
    for one in allowed:
        if type(one) is type(value) and one == value:
            return one
    wanted = ", ".join(map(repr, allowed[:-1])) + f" or {allowed[-1]!r}"
    raise ValueError(f"{name}={shown(value)}: it must be {wanted}")


def text(name: str, value) -> str:
    """A string that can be encoded: half a surrogate pair, as some JSON holds, cannot."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}: {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} holds half a surrogate pair, {value[error.start]!r} at {error.start}, which "
            "is no character: remove it, or decode the text with errors='replace'"
        ) from error
    return value
