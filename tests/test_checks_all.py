"""What holds of every exercise's check, whatever the exercise is."""

import copy
import functools
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from tests.checks import EXERCISES, context_of, the_same_draws, verdict  # noqa: F401

every_exercise = pytest.mark.parametrize("name", EXERCISES)


def test_none_is_left_out():
    assert len(EXERCISES) == 49
    assert all(x.drawn for x in EXERCISES.values()), "answers could be learnt by heart"


@every_exercise
def test_the_right_answer(name):
    said = verdict(name, EXERCISES[name].right)
    assert said == f"✓ {EXERCISES[name].praise}" and said.startswith("✓ Right")


def by_numpy(answer):
    if isinstance(answer, torch.Tensor):
        return answer.detach().numpy()
    if isinstance(answer, (int, float)):
        return np.float64(answer)
    if isinstance(answer, (list, tuple)):
        return tuple(map(by_numpy, answer)) if answer else ()
    if isinstance(answer, set):
        return frozenset(map(np.int64, answer))
    return np.str_(answer)


def by_torch(answer):
    if isinstance(answer, torch.Tensor):
        return answer.double().requires_grad_()
    if isinstance(answer, (int, float)):
        return torch.tensor(answer, dtype=torch.float64)
    if isinstance(answer, (list, tuple)):
        return [by_torch(x) for x in answer]
    return {torch.tensor(x) for x in answer} if isinstance(answer, set) else answer


def by_lists(answer):
    if isinstance(answer, torch.Tensor):
        return answer.tolist()
    if isinstance(answer, tuple):
        return [by_lists(x) for x in answer]
    if isinstance(answer, list):
        return dict.fromkeys(answer).keys() if len({*map(str, answer)}) == len(answer) else answer
    return dict.fromkeys(answer).keys() if isinstance(answer, set) else answer


@every_exercise
@pytest.mark.parametrize("form", [by_numpy, by_torch, by_lists])
def test_the_same_content_in_other_types(name, form):
    right = EXERCISES[name].right
    if name == "15.make_room":  # dicts of strings are only themselves
        return
    assert verdict(name, lambda *case: form(right(*case))).startswith("✓")


@every_exercise
def test_each_mistake_is_told_from_the_others(name):
    for sentence, mistakes in EXERCISES[name].mistakes.items():
        for mistake in getattr(mistakes, "ways", [mistakes]):
            assert verdict(name, mistake) == f"✗ {sentence}"


def stub_1(*case): ...


def stub_2(*case):
    """What it should return."""
    # your code here


def stub_3(*case):
    pass


def stub_4(*case):
    return None


def stub_5(*case):
    return ...


NOTHING = None
stub_6 = functools.lru_cache(lambda *case: NOTHING)


@every_exercise
@pytest.mark.parametrize("stub", [stub_1, stub_2, stub_3, stub_4, stub_5, stub_6])
def test_a_stub_costs_nothing(name, stub, monkeypatch):
    monkeypatch.setattr(EXERCISES[name], "cases", None)  # which are not even made
    assert EXERCISES[name].verdict(stub, *[None] * 2) == "… not attempted yet"


@every_exercise
def test_a_missing_return(name):
    def works_and_prints(*case):
        print(EXERCISES[name].right(*case))

    assert verdict(name, works_and_prints).startswith("✗ Your function returns nothing")


@every_exercise
def test_an_exception_is_named_with_its_line(name):
    said = verdict(name, lambda *case: {}["key"])
    assert said.startswith("✗ Your code raised KeyError: 'key' (line ")
    assert "{}[" in said and "\n" not in said and "Traceback" not in said


def ruined(x):
    """Whatever can be changed in place is."""
    if isinstance(x, torch.Tensor) and not x.requires_grad:
        x.zero_()
    elif isinstance(x, pd.DataFrame):
        x.iloc[:, -1] = 0.0
        x["token"] = "?"
    elif isinstance(x, (list, tuple)):
        [ruined(y) for y in x]
        if isinstance(x, list):
            x.clear()
    elif isinstance(x, dict):
        [ruined(y) for y in x.values()]
        x.clear()


@every_exercise
def test_an_attempt_in_place_spoils_no_case(name):
    exercise, context = EXERCISES[name], context_of(name)
    before = None if callable(exercise.cases) else copy.deepcopy([*exercise.cases])

    def vandal(*case):
        found = exercise.right(*case)
        found = found.detach().clone() if isinstance(found, torch.Tensor) else copy.deepcopy(found)
        for x in case:
            if not any(x is y for y in context):
                ruined(x)
        return found

    assert exercise.verdict(vandal, *context).startswith("✓")
    assert exercise.verdict(lambda *case: vandal(*case) and "?", *context).startswith("✗")
    assert exercise.verdict(exercise.right, *context).startswith("✓")
    assert not before or repr(before) == repr(exercise.cases)


@every_exercise
def test_answers_learnt_by_heart(name):
    exercise, context = EXERCISES[name], context_of(name)
    cases = exercise.cases(*context) if callable(exercise.cases) else exercise.cases
    with torch.device("cpu"):
        known = {repr(case[1:] or case): exercise.right(*copy.deepcopy(case)) for case in cases}
    [first, *_] = known.values()
    assert (
        exercise.verdict(lambda *case: known.get(repr(case[1:] or case), first), *context)[0] == "✗"
    )
    assert exercise.verdict(lambda *case: first, *context)[0] == "✗"


@every_exercise
@pytest.mark.parametrize(
    "wrong", [float("nan"), 10**400, "text", [], {}, object(), True, torch.zeros(7, 7)]
)
def test_what_is_no_answer(name, wrong):
    said = verdict(name, lambda *case: wrong)
    assert said.startswith("✗ ") and len(said) < 700 and said.isprintable()


@every_exercise
def test_the_value_instead_of_the_function(name):
    assert (
        verdict(name, "Paris") == "✗ Pass the function itself, not a call of it: this is 'Paris'."
    )


@every_exercise
def test_another_default_device(name):
    context = context_of(name)
    torch.set_default_device("meta")
    try:
        assert EXERCISES[name].verdict(EXERCISES[name].right, *context).startswith("✓")
    finally:
        torch.set_default_device(None)


def test_the_lessons_can_be_imported_on_another_default_device():
    program = (
        "import torch; torch.set_default_device('meta'); import llmviz.checks as c\n"
        "for n in range(19): getattr(c, f'lesson_{n:02d}')\n"
        "assert c.lesson_07._SCORES.device.type == 'cpu'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
