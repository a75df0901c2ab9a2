"""Whether an attempt's answer is the wanted one, and how to say where it is not."""

from __future__ import annotations

import dis
import inspect
import linecache
from collections.abc import Callable, Iterator, Mapping, Sequence, Set, ValuesView
from types import SimpleNamespace

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..arguments import is_number, plain

_LINE = 110  # characters of an input that is shown
_FEW = 40  # numbers of a tensor that are shown
_NO_WORK = {"RESUME", "NOP", "CACHE", "RETURN_VALUE", "MAKE_CELL", "COPY_FREE_VARS"}
_WRITABLE = (str, int, float, list, tuple, set, dict, torch.Tensor, SimpleNamespace)


def same(found, wanted) -> bool:
    """Whether both hold the same content.

    Equal containers count as one: a tuple for a list, an array or a list for a tensor, a frozenset
    for a set. So do numbers of numpy and torch for Python's, and 3.0 for 3, but not True for 1.
    Floats may differ by rounding; shapes may not differ at all.
    """
    try:
        return _same(found, wanted)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # what makes no tensor or number
        return False


def _same(found, wanted) -> bool:
    if isinstance(wanted, torch.Tensor):
        return _same_numbers(_tensor(found, wanted.ndim), wanted.detach().cpu())
    if isinstance(wanted, str):
        return isinstance(found, str) and found == wanted
    if is_number(wanted):
        found, wanted = plain(found), plain(wanted)
        if not is_number(found) or isinstance(wanted, int):
            return is_number(found) and found == wanted
        return _same_numbers(
            *(torch.tensor(float(x), dtype=torch.float64) for x in (found, wanted))
        )
    if isinstance(wanted, Set):
        alike = isinstance(found, Set) and len(found) == len(wanted)
        return alike and _all_in(found, wanted) and _all_in(wanted, found)
    if isinstance(wanted, Mapping):
        alike = isinstance(found, Mapping) and found.keys() == wanted.keys()
        return alike and all(_same(found[name], value) for name, value in wanted.items())
    if isinstance(wanted, Sequence):
        items = _items(found)
        return items is not None and len(items) == len(wanted) and all(map(_same, items, wanted))
    found, wanted = plain(found), plain(wanted)
    return type(found) is type(wanted) and found == wanted


def _all_in(these, those) -> bool:
    return all(any(_same(x, y) for y in those) for x in these)


def _items(found) -> list | None:
    """The items of what has an order; None for a string, a set or an iterator."""
    views = (type({}.keys()), ValuesView, type({}.items()))
    if isinstance(found, (Sequence, *views)) and not isinstance(found, (str, bytes)):
        return list(found)
    if getattr(found, "ndim", 0) == 1 or isinstance(found, (torch.Tensor, np.ndarray)):
        return list(found) if found.ndim else None
    return None


def _tensor(found, ndim: int) -> torch.Tensor:
    """`found` on the CPU, from numbers that are nested up to `ndim` deep."""
    if isinstance(found, torch.Tensor):
        return found.detach().cpu()
    if isinstance(found, str):
        raise TypeError("text is no number")
    if hasattr(found, "__array__"):  # numpy's and pandas'
        return torch.from_numpy(np.array(found))
    items = _items(found)
    if items is None:
        return torch.tensor(found, dtype=torch.float64 if isinstance(found, float) else None)
    if not ndim or not items:
        return torch.empty(len(items))
    return torch.stack([_tensor(x, ndim - 1) for x in items])


def _same_numbers(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    if found.shape != wanted.shape or found.is_complex():
        return False
    if not wanted.is_floating_point():
        return torch.equal(found.double(), wanted.double())
    # Two ways to compute the same thing round differently: in relation to the largest number.
    dtypes = [x.dtype for x in (found, wanted) if x.is_floating_point()]
    rounding = max(5e-6, *(2 * torch.finfo(dtype).eps for dtype in dtypes))
    found, wanted = found.double(), wanted.double()
    finite = wanted[wanted.isfinite()].abs()
    scale = max(finite.max().item(), 0.2) if finite.numel() else 1.0
    return torch.allclose(found, wanted, 2 * rounding, rounding * scale, equal_nan=True)


def is_stub(function: Callable) -> bool:
    """Whether its body is still `...`, `pass`, a docstring or `return None`: nothing to try."""
    function = inspect.unwrap(function)
    if not inspect.isfunction(function):
        return False
    outside = inspect.getclosurevars(function)
    values = {**outside.globals, **outside.nonlocals}

    def loads_nothing(i: dis.Instruction) -> bool:
        if i.opname in ("LOAD_CONST", "RETURN_CONST"):
            return i.argval is None or i.argval is ...
        value = values.get(i.argval, 0) if i.opname in ("LOAD_DEREF", "LOAD_GLOBAL") else 0
        return value is None or value is ...

    steps = dis.get_instructions(function)
    return all(i.opname in _NO_WORK or loads_nothing(i) for i in steps)


class _Calls(TorchDispatchMode):
    """Writes down what torch computes, by whatever door it was asked."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__.strip("_"))
        return func(*args, **(kwargs or {}))


def calls_of(function: Callable, arguments: Sequence) -> set[str]:
    """The names of the torch operations that a call of `function` comes to, such as "softmax"."""
    with _Calls() as calls:
        function(*arguments)
    return calls.names


def difference(found, wanted, case: str) -> str:
    """A sentence that says what the answer should be; `case` names the input, or is empty."""
    where = f"For {case}" if case else "For the first case that differs"
    if isinstance(wanted, torch.Tensor):
        try:
            numbers = _tensor(found, wanted.ndim)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            numbers = torch.empty(0)
        if numbers.shape != wanted.shape and isinstance(found, (torch.Tensor, np.ndarray)):
            return f"The shape should be {tuple(wanted.shape)}, and is {tuple(numbers.shape)}."
        if numbers.shape != wanted.shape or isinstance(found, (list, tuple)):
            kind = type(found).__name__
            return f"A tensor of shape {tuple(wanted.shape)} was wanted, not a {kind}."
        if wanted.numel() > _FEW:
            [place] = [i for i in np.ndindex(*wanted.shape) if not same(numbers[i], wanted[i])][:1]
            found, wanted = numbers[place].item(), wanted[place].item()
            where += f", at {list(place)}"
    elif isinstance(found, Iterator):
        return f"A {type(wanted).__name__} was wanted, not a {type(found).__name__}: try list(…)."
    elif isinstance(wanted, Set) and _items(found) is not None:
        return f"A set was wanted, not a {type(found).__name__}."
    wants, finds = written(wanted), written(found)
    if wants == finds:  # they differ in a later digit
        wants, finds = written(wanted, digits=17), written(found, digits=17)
    return f"{where}, it should be {_cut(wants)}, and is {_cut(finds)}."


def raised(error: Exception, attempt: Callable, case: str) -> str:
    """A sentence that says what the attempt raised, in which of its lines, for which input."""
    message = _cut(" ".join(_printable(_text_of(error)).split()))
    at = [_line_in(attempt, error), case and f"for {case}"]
    at = ", ".join(x for x in at if x)
    said = f"Your code raised {type(error).__name__}" + (f": {message}" if message else "")
    return said + (f" ({at})" if at else "")


def _text_of(value, write: Callable = str) -> str:
    try:
        return write(value)
    except Exception:  # a learner's own class may raise anything, and must not hide our sentence
        return f"a {type(value).__name__}"


def _line_in(attempt: Callable, error: Exception) -> str:
    """The last line of the attempt's own file or cell that the error came through."""
    code = getattr(inspect.unwrap(attempt), "__code__", None)
    trace, found = error.__traceback__, ""
    while trace and code:
        if trace.tb_frame.f_code.co_filename == code.co_filename:
            source = linecache.getline(code.co_filename, trace.tb_lineno).strip()
            found = f"line {trace.tb_lineno}" + (f": {_cut(_printable(source), 80)}" * bool(source))
        trace = trace.tb_next
    return found


def case_as_written(case: Sequence, attempt: Callable) -> str:
    """The input as `name=value, …`, without models and tokenizers; "" where it fills a line.

    What is long by itself is named by its kind and length.
    """
    try:
        names = [*inspect.signature(attempt).bind(*case).arguments]
    except (TypeError, ValueError):  # the attempt takes other arguments, or shows none
        return ""
    if len(names) != len(case):  # *args hold several
        return ""
    shown = {n: x for n, x in zip(names, case, strict=True) if isinstance(x, _WRITABLE)}
    for write in (written, _in_short):
        text = ", ".join(f"{name}={write(value)}" for name, value in shown.items())
        if len(text) <= _LINE:
            return text
    return ""


def _in_short(value) -> str:
    text = written(value)
    if len(text) <= _LINE // 3:
        return text
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    size = f" of {len(value)}" if hasattr(value, "__len__") else ""
    return f"a {type(value).__name__}{size}"


def written(value, digits: int = 6) -> str:
    """`value` as Python would write it, on one line, with floats rounded to `digits`."""
    value = plain(value)
    if isinstance(value, torch.Tensor):
        if value.numel() > _FEW:
            return f"a tensor of shape {tuple(value.shape)}"
        value = value.detach().cpu()
        if digits > 6:
            return f"tensor({written(value.tolist(), digits)})"
        return " ".join(repr(value).split())
    if isinstance(value, float):
        return repr(float(f"{value:.{digits}g}"))
    if type(value) in (list, tuple, set) and value:
        left, right = {list: "[]", tuple: "()", set: "{}"}[type(value)]
        items = [written(x, digits) for x in [*value][:_FEW]] + ["…"] * (len(value) > _FEW)
        return left + ", ".join(items) + ("," * (right == ")" and len(value) == 1)) + right
    return " ".join(_printable(_text_of(value, repr)).split())


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else f"⟨U+{ord(c):04X}⟩" for c in text)


def _cut(text: str, most: int = 200) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
