"""The exercises' self-checks: one module a lesson, each check naming the mistake that it found."""

from __future__ import annotations

import copy
import inspect
import io
import random
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module

import torch

from .answers import calls_of, case_as_written, difference, is_stub, raised, same, written

_DRAWS = 5  # cases from random numbers, so that nobody can learn the answers by heart


@dataclass
class Raised:
    """What a function gave that returned nothing, since it raised `error`."""

    error: Exception


class Ways:
    """A mistake that is made in several ways, all named by the same sentence."""

    def __init__(self, *ways: Callable):
        self.ways = ways

    def __call__(self, *case):
        return self.ways[0](*case)


@dataclass
class Exercise:
    """Compares an attempt with the right function, and knows the usual wrong ones.

    right: a correct solution.
    cases: the arguments to try, a tuple per call; or a function that makes them from whatever the
        notebook passes to the check after the attempt (a model, a tokenizer).
    drawn: makes one more case from a `random.Random` and what `cases` is given. It is called anew
        at each check, a few times.
    mistakes: functions that make a usual mistake, each under the sentence that names it.
    fits: where the card leaves a choice: whether another answer than that of `right` is right too,
        from the answer and the case.
    not_with: operations of torch that the card forbids, each with the sentence that says so.
    praise: what to say of a right solution.

    Every function gets a copy of each case, so an attempt that works in place spoils none.
    """

    right: Callable
    cases: Iterable[tuple] | Callable[..., Iterable[tuple]]
    drawn: Callable[..., tuple] | None = None
    mistakes: dict[str, Callable] = field(default_factory=dict)
    fits: Callable[..., bool] | None = None
    not_with: dict[str, str] = field(default_factory=dict)
    praise: str = "Right."

    def __call__(self, attempt: Callable, *context) -> None:
        """Print what `verdict` says."""
        print(self.verdict(attempt, *context))

    def verdict(self, attempt: Callable, *context) -> str:
        """A line that begins with ✓, with ✗ and the mistake, or with … for no attempt yet.

        Raises TypeError where `context` is not what the check needs.
        """
        if not callable(attempt):
            return f"✗ Pass the function itself, not a call of it: this is {written(attempt):.80}."
        if is_stub(attempt):
            return "… not attempted yet"
        with torch.device("cpu"):  # where the cases are, whatever torch's default device is
            return self._judged(attempt, context)

    def _judged(self, attempt: Callable, context: tuple) -> str:
        cases = self._all_cases(context)
        for number, case in enumerate(cases):
            found = _outcome(attempt, case, context)
            if not self._is_right(found, case, context):
                sentence = self._failure(found, attempt, case, context, first=not number)
                if not isinstance(found, Raised) and found is not None and found is not ...:
                    order = [*cases[number:], *cases[:number]]
                    sentence = self._mistake(attempt, order, context) or sentence
                return f"✗ {sentence}"
        if self.not_with:
            calls = calls_of(_outcome, (attempt, cases[0], context))
            for sentence in [s for name, s in self.not_with.items() if name in calls]:
                return f"✗ {sentence}"
        return f"✓ {self.praise}"

    def _is_right(self, found, case: tuple, context: tuple) -> bool:
        if isinstance(found, Raised):
            return False
        if self.fits and _outcome(partial(self.fits, found), case, context) is True:
            return True
        return _alike(found, _outcome(self.right, case, context))

    def _mistake(self, attempt: Callable, cases: list[tuple], context: tuple) -> str | None:
        """The sentence of the first mistake that gives what the attempt gives, in every case.

        A case in which the attempt raises tells nothing: an index that is one too large is within
        bounds in some cases.
        """
        left = [
            (sentence, mistake)
            for sentence, mistakes in self.mistakes.items()
            for mistake in getattr(mistakes, "ways", [mistakes])
        ]
        with redirect_stdout(io.StringIO()):  # what it prints has been seen in the first run
            for case in cases:
                found = _outcome(attempt, case, context)
                if not isinstance(found, Raised):
                    left = [x for x in left if _alike(found, _outcome(x[1], case, context))]
        return left[0][0] if left else None

    def _all_cases(self, context: tuple) -> list[tuple]:
        if not callable(self.cases):
            needed, make = [], lambda: self.cases
        else:
            needed, make = [*inspect.signature(self.cases).parameters], self.cases
        if len(context) != len(needed):
            raise TypeError(f"this check takes {', '.join(['your function', *needed])}")
        dice = random.Random()
        drawn = [self.drawn(dice, *context) for _ in range(_DRAWS)] if self.drawn else []
        return [*make(*context), *drawn]

    def _failure(self, found, attempt, case, context, *, first: bool) -> str:
        where = case_as_written(case, attempt)
        if isinstance(found, Raised):
            return raised(found.error, attempt, where)
        if found is None or found is ...:
            if first:
                return "Your function returns nothing: a `return` with the answer is missing."
            return f"For {where or 'one case'}, your function comes to its end without a `return`."
        return difference(found, _outcome(self.right, case, context), where)


def _outcome(function: Callable, case: tuple, context: tuple):
    """What the function returns for a copy of the case, or the exception that it raises.

    Copied is all but what the notebook passed: a model and a tokenizer take long to copy. New
    tensors are made where those of the case are, whatever torch's default device is.
    """
    own = copy.deepcopy(case, {id(x): x for x in context})
    device = next((x.device for x in own if hasattr(x, "device")), "cpu")
    try:
        with torch.device(device):
            return function(*own)
    except Exception as error:  # whatever a learner's code raises is worth reporting
        return Raised(error)


def _alike(found, other) -> bool:
    either_raised = isinstance(found, Raised) or isinstance(other, Raised)
    return not either_raised and same(found, other)


def normal(*shape: int, seed: int) -> torch.Tensor:
    """Numbers of a normal distribution, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), device="cpu")


def mass_between(dice: random.Random) -> tuple[torch.Tensor, float]:
    """Logits of a few tokens and a mass, which lies well between two sums of probabilities."""
    logits = 2 * normal(dice.randint(2, 12), seed=dice.getrandbits(32))
    sums = [0.0, *logits.softmax(-1).sort(descending=True).values.cumsum(-1).tolist()]
    k = dice.randrange(1, min(len(sums), 6))
    return logits, (sums[k - 1] + sums[k]) / 2


def __getattr__(name: str):
    if name.startswith("lesson_"):
        with torch.device("cpu"):  # where a lesson's cases belong, whatever torch's default is
            return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
