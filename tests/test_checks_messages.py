"""What counts as the same answer, and what a check says of another."""

from collections import deque

import numpy as np
import pandas as pd
import pytest
import torch

from llmviz.checks import Exercise, Ways
from llmviz.checks.answers import same

T = torch.tensor


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (np.int64(3), 3), (3.0, 3), (T(3), 3), (np.float32(0.5), 0.5), (1, 1.0),
        (T([[2.0]])[0, 0], 2),
        (np.array(3), 3), (np.bool_(True), True), (T(True), True), (np.str_("a"), "a"),
        ((1, 2), [1, 2]), ([1, 2], (1, 2)), (T([1, 2]), [1, 2]), (np.array([1, 2]), [1, 2]),
        (pd.Series([1, 2]), [1, 2]), (range(1, 3), [1, 2]), (deque([1, 2]), [1, 2]),
        ({1: 0, 2: 0}.keys(), [1, 2]), ({0: 1, 1: 2}.values(), [1, 2]), (np.array(["a"]), ["a"]),
        (frozenset([1, 2]), {1, 2}), ({np.int64(1)}, {1}), ({T(1)}, {1}), ({1: 0}.keys(), {1}),
        ([0.5, 1.0], T([0.5, 1.0])), ([T(0.5), 1], T([0.5, 1.0])), (T([0.5]).double(), T([0.5])),
        ([T([1, 2]), T([3, 4])], T([[1, 2], [3, 4]])), (pd.DataFrame([[1.0]]), T([[1.0]])),
        (T([0.5], requires_grad=True), T([0.5])), (T([True, False]), T([1, 0])), ([], T([])),
        (T([0.5]).half(), T([0.5])), (T([-torch.inf, 1.0]), T([-torch.inf, 1.0])),
        (torch.stack([T([1, 2]), T([3, 4])]), (T([1, 2]), T([3, 4]))), (1e-17, 0.0),
        ({"a": (1,)}, {"a": [1]}), (0.1 + 0.2, 0.3), (T([20.00001]), T([20.0])),
    ],
)  # fmt: skip
def test_the_same(found, wanted):
    assert same(found, wanted)


LOOP: list = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (True, 1), (np.bool_(True), 1), (1, True), ("3", 3), (3.0000001, 3), (3 + 0j, 3), ([3], 3),
        (T([3]), 3), (None, 0), (float("nan"), 0.5), (10**400, 0.5), (10**400, 3),
        (float("inf"), 3.0),
        ([1, 2], {1, 2}), ({1, 2}, [1, 2]), ({1: 0}, [1]), (iter([1]), [1]), ("ab", ["a", "b"]),
        ([1, True], [1, 1]),
        ([T(1), T(1)], {1}), ({T(3), T(3)}, {3, 4}), ([1, 2, 3], [1, 2]), ([[1, 2]], [1, 2]),
        (T([[1, 2]]), [1, 2]),
        (T([[0.5]]), T([0.5])), (T(0.5), T([0.5])), ([[0.5]], T([0.5])), ([T([0.5])], T([0.5])),
        ("0.5", T([0.5])),
        (["0.5"], T([0.5])), ([[1.0], [1.0, 2.0]], T([[1.0, 0.0], [1.0, 2.0]])),
        (T([0.5 + 0j]), T([0.5])),
        (T([3.00005]), T([3.0])), (T([torch.nan]), T([0.5])), (LOOP, T([0.5])), (LOOP, [1]),
        (torch.empty(1, device="meta"), T([0.5])),
        (object(), T([0.5])), (pd.Series(["a"]), T([0.5])), (T([2]), T([3])), (T([2.5]), T([2])),
        (" a", "a"),
    ],
)  # fmt: skip
def test_not_the_same(found, wanted):
    assert not same(found, wanted)


shift = Exercise(
    right=lambda ids, n: [i + n for i in ids],
    cases=[([1, 2], 1), ([5], 0), ([], 3)],
    drawn=lambda dice: ([dice.randint(0, 9) for _ in range(3)], dice.randint(1, 9)),
    mistakes={
        "n was left out.": lambda ids, n: ids,
        "n was taken away.": Ways(
            lambda ids, n: [i - n for i in ids], lambda ids, n: [n - i for i in ids]
        ),
    },
)


def only_in_part(ids, n):
    return ids if n == 1 else [n for _ in ids]


def no_end(ids, n):  # noqa: RET503
    for _ in range(n):
        return [i + n for i in ids]


def raises_later(ids, n):
    return [i + 1 for i in ids][: 5 // n]


def own_error(ids, n):
    class Loud(Exception):
        def __str__(self):
            raise ValueError

    raise Loud


class Odd:
    def __repr__(self):
        raise ValueError


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (lambda ids, n: ids, "✗ n was left out."),
        (lambda ids, n: [n - i for i in ids], "✗ n was taken away."),
        # As a mistake in the first case, and none in the others.
        (only_in_part, "✗ For ids=[1, 2], n=1, it should be [2, 3], and is [1, 2]."),
        (
            lambda ids, n: [i + n for i in ids] if n else 7,
            "✗ For ids=[5], n=0, it should be [5], and is 7.",
        ),
        (no_end, "✗ For ids=[5], n=0, your function comes to its end without a `return`."),
        (
            lambda ids, n: print(ids),
            "✗ Your function returns nothing: a `return` with the answer is missing.",
        ),
        (lambda ids, n: (i + n for i in ids), "✗ A list was wanted, not a generator: try list(…)."),
        (
            lambda *case: "\x1b[31m",
            "✗ For the first case that differs, it should be [2, 3], and is '\\x1b[31m'.",
        ),
        (lambda ids, n: Odd(), "✗ For ids=[1, 2], n=1, it should be [2, 3], and is a Odd."),
        (lambda ids: ids, "✗ Your code raised TypeError: "),
        (raises_later, "✗ Your code raised ZeroDivisionError: "),
        (own_error, "✗ Your code raised Loud: a Loud (line "),
        (shift.right, "✓ Right."),
        ([2, 3], "✗ Pass the function itself, not a call of it: this is [2, 3]."),
        (None, "✗ Pass the function itself, not a call of it: this is None."),
    ],
)
def test_what_is_said(attempt, said):
    assert shift.verdict(attempt).startswith(said)


def test_a_case_is_written_on_one_line_or_in_short():
    long = Exercise(right=lambda x, ids, stop: 1, cases=[(torch.zeros(5, 9), [*range(60)], "\n")])
    said = long.verdict(lambda x, ids, stop: 2)
    case = r"x=a tensor of shape (5, 9), ids=a list of 60, stop='\n'"
    assert said == f"✗ For {case}, it should be 1, and is 2."


def test_numbers_that_differ_in_a_late_digit_are_written_in_full():
    one = Exercise(right=lambda: 1 / 3, cases=[()])
    assert "0.3333" in one.verdict(lambda: 0.33335) and "0.33335" in one.verdict(lambda: 0.33335)


def test_a_large_tensor_is_compared_where_it_differs():
    big = Exercise(right=lambda n: torch.zeros(n, 100), cases=[(3,)])
    wrong = torch.zeros(3, 100)
    wrong[1, 7] = 2.5
    assert big.verdict(lambda n: wrong) == "✗ For n=3, at [1, 7], it should be 0.0, and is 2.5."
    assert "shape should be (3, 100), and is (3, 99)" in big.verdict(lambda n: wrong[:, 1:])


def test_what_an_attempt_prints_is_seen_once(capsys):
    shift.verdict(lambda ids, n: print("here") or ids)
    assert capsys.readouterr().out == "here\n"


def test_a_check_says_what_it_takes():
    needs = Exercise(right=len, cases=lambda model, tokenizer: [])
    with pytest.raises(TypeError, match="your function, model, tokenizer"):
        needs.verdict(len)
