"""Lesson 08's self-checks know the right answers, and name the usual wrong ones."""

import itertools

import pytest
import torch

from llmviz.checks import lesson_08


def right_draw(probabilities, u):
    ends = itertools.accumulate(probabilities.tolist())
    return next(index for index, end in enumerate(ends) if u < end)


def right_temperature(probabilities, temperature):
    return (probabilities.log() / temperature).softmax(-1)


RIGHT = {"draw": right_draw, "with_temperature": right_temperature}


def verdict(name, attempt):
    return getattr(lesson_08, name).verdict(attempt)


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_solution_is_praised(name):
    assert verdict(name, RIGHT[name]).startswith("✓ Right")


def search(p, u):
    return int(torch.searchsorted(p.cumsum(-1), torch.tensor(u), right=True))


def search_left(p, u):
    return int(torch.searchsorted(p.cumsum(-1), torch.tensor(u)))


def power(p, temperature):
    return p ** (1 / temperature)


@pytest.mark.parametrize(
    ("name", "attempt"),
    [
        ("draw", search),
        ("draw", lambda p, u: (p.cumsum(-1) > u).int().argmax()),
        ("with_temperature", lambda p, T: torch.nn.functional.normalize(power(p, T), p=1.0)),
    ],
)
def test_other_right_solutions_are_right_too(name, attempt):
    assert verdict(name, attempt).startswith("✓ Right")


WRONG = [
    ("draw", lambda p, u: int(p.argmax()), "likeliest"),
    ("draw", lambda p, u: search(p, u) - 1, "One too low"),
    ("draw", lambda p, u: search(p, u) + 1, "One too high"),
    ("draw", lambda p, u: next((i for i, x in enumerate(p.tolist()) if u <= x), 0), "themselves"),
    ("draw", lambda p, u: search(p.sort(descending=True)[0], u), "laid out by probability"),
    ("draw", search_left, "Mind < and ≤"),
    ("with_temperature", lambda p, T: p**T / (p**T).sum(-1, keepdim=True), "it is 1/T"),
    ("with_temperature", power, "no longer add up"),
    ("with_temperature", lambda p, T: p / T, "themselves were divided"),
    ("with_temperature", lambda p, T: (p / T) / (p / T).sum(-1, keepdim=True), "no effect"),
    ("with_temperature", lambda p, T: torch.softmax(p / T, dim=1), "where logits belong"),
    ("with_temperature", lambda p, T: power(p, T) / power(p, T).sum(0), "columns"),
    ("with_temperature", lambda p, T: power(p, T) / power(p, T).sum(), "All rows together"),
]


@pytest.mark.parametrize(("name", "attempt", "part"), WRONG)
def test_a_usual_mistake_is_named(name, attempt, part):
    said = verdict(name, attempt)
    assert said.startswith("✗") and part in said


def test_any_other_mistake_shows_what_was_wanted():
    assert verdict("draw", lambda p, u: 7).endswith("it should be 3, and is 7.")
    flat = verdict("with_temperature", lambda p, T: p.flatten())
    assert "(2, 4)" in flat and "(8,)" in flat
    raised = verdict("with_temperature", lambda p, T: p.heat(T))
    assert raised.startswith("✗ Your code raised AttributeError")
