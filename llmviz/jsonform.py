"""JSON (RFC 8259) for records: numbers that it lacks, and readers that say what is wrong where.

A reader takes a value as `loads` gives it and its path, such as `steps[0][2].rank`. It returns what
the value stands for, or raises a ValueError that names the path, shows the value and says what
would do.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable

from .arguments import is_number, is_whole, plain, shown

Reader = Callable[[object, str], object]

_MOST = 2**63 - 1  # an int64 holds no more
_SPELLED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def loads(text: str):
    """The value of a JSON text. Raises ValueError for anything else, the literal NaN included."""

    def constant(name: str):
        raise ValueError(f"it holds {name}, which is not JSON (RFC 8259)")

    try:
        return json.loads(text, parse_constant=constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def dumps(value) -> str:
    """`value`, in which all numbers are finite, as JSON that any encoding can hold."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which is escaped then
        return json.dumps(value, allow_nan=False)
    return text


def spelled(number: float) -> float | str:
    """A finite number as it is; "NaN", "Infinity" or "-Infinity" for one that JSON lacks."""
    number = plain(number)
    if math.isfinite(number):
        return number
    return next(name for name, value in _SPELLED.items() if repr(value) == repr(float(number)))


def wrapped(value):
    """Plain data in which `{"number": "NaN"}`, for one, stands for a number that JSON lacks."""
    if isinstance(value, dict):
        return {name: wrapped(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [wrapped(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": spelled(value)}
    return value


def unwrapped(value):
    """The data that `wrapped` was given."""
    if isinstance(value, list):
        return [unwrapped(v) for v in value]
    if not isinstance(value, dict):
        return value
    name = value.get("number")
    if len(value) == 1 and isinstance(name, str) and name in _SPELLED:
        return _SPELLED[name]
    return {name: unwrapped(v) for name, v in value.items()}


def refuse(path: str, value, wanted: str):
    raise ValueError(f"{path} is {shown(value)}: it must be {wanted}")


# Readers


def text(value, path: str) -> str:
    return value if isinstance(value, str) else refuse(path, value, "a string")


def mapping(value, path: str) -> dict:
    return value if isinstance(value, dict) else refuse(path, value, "an object")


def whole(low: int = 0, high: int = _MOST) -> Reader:
    """A whole number from `low` to `high`."""

    def read(value, path: str) -> int:
        if is_whole(value) and low <= value <= high:
            return value
        bounds = f"of {low} or more" if high == _MOST else f"from {low} to {high}"
        return refuse(path, value, f"a whole number {bounds}")

    return read


def real(low: float = -math.inf, high: float = math.inf) -> Reader:
    """A number from `low` to `high`, or NaN. What JSON lacks is spelled; null stands for −inf."""

    def read(value, path: str) -> float:
        if value is None or (isinstance(value, str) and value in _SPELLED):
            found = _SPELLED.get(value, -math.inf)
            good = math.isnan(found) or low <= found <= high
        else:  # a literal such as 1e999 is as good as infinite, and a mistake
            good = is_number(value) and low <= value <= high and abs(value) <= sys.float_info.max
            found = float(value) if good else None
        if good:
            return found
        bounds = "" if low == -math.inf and high == math.inf else f" from {low} to {high}"
        return refuse(path, value, f'a number{bounds}, or "NaN"')

    return read


def list_of(reader: Reader) -> Reader:
    def read(value, path: str) -> list:
        if not isinstance(value, list):
            refuse(path, value, "a list")
        return [reader(v, f"{path}[{i}]") for i, v in enumerate(value)]

    return read


def optional(reader: Reader) -> Reader:
    """null, or what `reader` reads."""
    return lambda value, path: None if value is None else reader(value, path)


def one_of(*allowed: str) -> Reader:
    def read(value, path: str) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        return refuse(path, value, "one of " + ", ".join(map(repr, allowed)))

    return read


def record(kind: type, **readers: Reader) -> Reader:
    """A dataclass, with a reader for each field that is written."""

    def read(value, path: str):
        place = path or "the whole"
        names = mapping(value, place).keys()
        for name in readers:
            if name not in names:
                raise ValueError(f"{place} has no {name}")
        for name in names - readers.keys():
            raise ValueError(f"{place} has an unknown field, {shown(name)}")
        before = f"{path}." if path else ""
        return kind(
            **{name: reader(value[name], before + name) for name, reader in readers.items()}
        )

    return read
