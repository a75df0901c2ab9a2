"""The exercises' self-checks: one module a lesson, each check naming the mistake that it found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module

import torch


@dataclass
class Exercise:
    """Compares an attempt with the right function, and knows the usual wrong ones.

    right: a correct solution.
    cases: the arguments to try, a tuple a call; or a function that makes them from whatever the
        notebook passes to the check behind the attempt (a model, a tokenizer).
    mistakes: functions that make a usual mistake, each under the sentence that names it.
    praise: what to say of a right solution.
    """

    right: Callable
    cases: Iterable[tuple] | Callable[..., Iterable[tuple]]
    mistakes: dict[str, Callable] = field(default_factory=dict)
    praise: str = "Right."

    def __call__(self, attempt: Callable, *context) -> None:
        """Print what `verdict` says."""
        print(self.verdict(attempt, *context))

    def verdict(self, attempt: Callable, *context) -> str:
        """A line that begins with ✓, with ✗ and the mistake, or with … for no attempt yet."""
        cases = self.cases(*context) if callable(self.cases) else self.cases
        for number, case in enumerate(cases):
            wanted = self.right(*_copies(case))
            try:
                found = attempt(*_copies(case))
            except Exception as error:  # whatever a learner's code raises is worth reporting
                return f"✗ Your code raised {type(error).__name__}: {error}"
            if number == 0 and (found is None or found is ...):
                return "… not attempted yet"
            if _same(found, wanted):
                continue
            for sentence, mistake in self.mistakes.items():
                if _same(found, mistake(*_copies(case))):
                    return f"✗ {sentence}"
            return f"✗ {_difference(found, wanted)}"
        return f"✓ {self.praise}"


def _copies(case: tuple) -> list:
    """Tensors are copied, so that an attempt that works in place spoils nothing."""
    return [x.clone() if isinstance(x, torch.Tensor) else x for x in case]


def _same(found, wanted) -> bool:
    if isinstance(wanted, (list, tuple)):
        alike = isinstance(found, (list, tuple)) and len(found) == len(wanted)
        return alike and all(map(_same, found, wanted))
    if isinstance(wanted, (torch.Tensor, float)):
        try:
            found, wanted = (torch.as_tensor(x).detach().cpu() for x in (found, wanted))
        except (TypeError, ValueError, RuntimeError):
            return False
        alike = found.shape == wanted.shape
        return alike and torch.allclose(found.double(), wanted.double(), atol=1e-4, equal_nan=True)
    if isinstance(found, torch.Tensor):
        found = found.tolist()
    return type(found) is type(wanted) and found == wanted


def _difference(found, wanted) -> str:
    if isinstance(wanted, torch.Tensor):
        if not isinstance(found, torch.Tensor):
            return (
                f"A tensor of shape {tuple(wanted.shape)} was wanted, not a {type(found).__name__}."
            )
        if found.shape != wanted.shape:
            return f"The shape should be {tuple(wanted.shape)}, and is {tuple(found.shape)}."
    return f"For the first case that differs, it should be {wanted!r:.200}, and is {found!r:.200}."


def __getattr__(name: str):
    if name.startswith("lesson_"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
