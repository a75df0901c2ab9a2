"""What an argument must be: each rule once, with an error that names the argument and its value.

Every function takes the argument's name and value, returns the value as plain Python (an int for a
numpy or torch integer, say), and raises where it is something else. A value that could never do
is a TypeError where its type is wrong for every use, and else a ValueError that says what would do.
"""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .trace import Step, Trace

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
            short = isinstance(found, int) and abs(found) < 2**53  # torch takes no longer ones
            return found if short else float(found)
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


def labels(name: str, value, count: int | None = None, of: str = "") -> list[str]:
    """One or more texts to be shown; `count` of them, which is the length of the argument `of`.

    They may hold anything, half a surrogate pair included: views show it by its code point.
    """
    listed = isinstance(value, Iterable) and getattr(value, "ndim", 1) == 1
    if isinstance(value, (str, bytes, Mapping, set, frozenset)):
        listed = False
    found = list(value) if listed else [None]
    if not all(isinstance(one, str) for one in found):
        raise TypeError(f"{name}={shown(value)}: it must be a list of strings")
    if not found:
        raise ValueError(f"{name} is empty: pass at least one string")
    if count not in (None, len(found)):
        raise ValueError(f"{name} has {len(found)} entries: it must have {count}, as {of}")
    return [str(one) for one in found]


def tensor(
    name: str,
    value,
    *shape: str,
    low: float = -math.inf,
    high: float = math.inf,
    double: bool = False,
    ruled_out: bool = False,
) -> Tensor:
    """Finite numbers from `low` to `high` as a float tensor on the CPU, none of its axes empty.

    `shape` names its axes, such as "tokens", "width"; axes of the same name are equally long.
    `ruled_out` allows −inf beside finite numbers, as the scores of tokens that cannot come.
    """
    import torch

    wanted = f"({', '.join(shape)}{',' * (len(shape) == 1)})"
    try:
        listed = _listed(value)  # a list's numbers would be rounded without the second argument
        found = torch.as_tensor(listed, dtype=torch.float64 if type(listed) is list else None)
        if found.dtype == torch.bool or found.is_complex():
            raise TypeError(f"{found.dtype} is no real number")
        found = found.detach().to("cpu", torch.float64 if double else torch.float32).to_dense()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(
            f"{name}={shown(value)}: it must be numbers of the shape {wanted}"
        ) from error
    sizes = dict(zip(shape, found.shape, strict=False))
    if found.ndim != len(shape) or tuple(sizes[axis] for axis in shape) != tuple(found.shape):
        raise ValueError(f"{name} has the shape {tuple(found.shape)}: it must be {wanted}")
    if not found.numel():
        raise ValueError(f"{name} is empty, of the shape {tuple(found.shape)}")
    fits = found.isfinite() & (low <= found) & (found <= high)
    if ruled_out and fits.any():
        fits |= found == -math.inf
    if not fits.all():
        at = (~fits).nonzero()[0].tolist()
        bounds = "finite numbers" if low == -math.inf else f"numbers of {low:g} or more"
        if high < math.inf:
            bounds = f"numbers from {low:.3g} to {high:.3g}"
        raise ValueError(f"{name}{at} is {found[tuple(at)].item()}: pass {bounds}")
    return found


def numbers_of(name: str, value, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """One or more finite numbers from `low` to `high`, as a list of floats."""
    return tensor(name, value, "values", low=low, high=high, double=True).tolist()


def _listed(value):
    """What torch can read: a table's column by its values, and whatever can be walked as a list."""
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if getattr(getattr(value, "flags", None), "writeable", True) is False:
        return value.copy()  # torch warns of an array that cannot be written to
    if hasattr(value, "__array__") or not isinstance(value, Iterable):
        return value
    if isinstance(value, (str, bytes, Mapping, set, frozenset)):
        raise TypeError("not numbers in an order")
    found = [one.tolist() if hasattr(one, "tolist") else one for one in value]
    if any(isinstance(one, bool) for one in found):
        raise TypeError("True and False are no numbers")
    return found


def tokenizer(name: str, value):
    """A tokenizer of transformers, or what can be used like one."""
    if callable(value) and hasattr(value, "convert_ids_to_tokens"):
        return value
    raise TypeError(
        f"{name}={shown(value)}: it must be a tokenizer, such as llmviz.load returns with the model"
    )


def trace(name: str, value) -> Trace:
    """A Trace."""
    from .trace import Trace

    if not isinstance(value, Trace):
        raise TypeError(f"{name}={shown(value)}: it must be a Trace, such as lv.generate returns")
    return value


def steps(name: str, run, sequence: int = 0) -> list[Step]:
    """The steps of one sequence of a Trace, whose figures are numbers that can be shown."""
    from .trace import Candidate, Step

    records = trace(name, run).steps
    if not records:
        raise ValueError(f"{name} has no sequences")
    found = records[whole("sequence", sequence, 0, len(records) - 1)]
    for t, step in enumerate(found, start=1):
        where = f"{name} holds, in step {t} of sequence {sequence},"
        _record(where, step, Step, _STEP)
        if not isinstance(step.candidates, (list, tuple)):
            raise TypeError(f"{where} candidates={shown(step.candidates)}: it must be a list")
        for candidate in step.candidates:
            _record(where, candidate, Candidate, _CANDIDATE)
    return found


# The figures that views read, and their bounds; a logarithm's rounding may lead beyond them.
_STEP = {"log_prob": (-math.inf, 0.001), "entropy": (-0.001, 1000.0)}
_CANDIDATE = {
    "log_prob": (-math.inf, 0.001),
    "processed_probability": (0.0, 1.001),
    "score": (-math.inf, math.inf),
}


def _record(where: str, record, kind: type, bounds: dict[str, tuple[float, float]]) -> None:
    if not isinstance(record, kind):
        raise TypeError(f"{where} {shown(record)}, which is no {kind.__name__}")
    for key, (low, high) in bounds.items():
        value = getattr(record, key)
        if not is_number(value) or not low <= value <= high:
            raise ValueError(f"{where} {key}={shown(value)}, which cannot be shown")
    for key in ("rank", "token_id"):
        value = getattr(record, key)
        if not is_whole(value):
            raise ValueError(f"{where} {key}={shown(value)}, which is no whole number")


def label(name: str, run: Trace, token_id: int) -> str:
    """A token's label in a Trace."""
    found = run.labels.get(token_id)
    if not isinstance(found, str):
        raise ValueError(
            f"{name} has no label for the token {shown(token_id)}: lv.generate and lv.trace_of "
            "label the tokens of what they return"
        )
    return found
