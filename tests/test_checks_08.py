"""Lesson 08's self-checks know the right answers, and name the usual wrong ones."""

import itertools

import torch

from llmviz.checks import lesson_08
from tests.checks import shared_tests


def right_draw(probabilities, u):
    ends = itertools.accumulate(probabilities.tolist())
    return next(index for index, end in enumerate(ends) if u < end)


def right_temperature(probabilities, temperature):
    return (probabilities.log() / temperature).softmax(-1)


RIGHT = {"draw": right_draw, "with_temperature": right_temperature}


def search(p, u):
    return int(torch.searchsorted(p.cumsum(-1), torch.tensor(u), right=True))


def search_left(p, u):
    return int(torch.searchsorted(p.cumsum(-1), torch.tensor(u)))


def power(p, temperature):
    return p ** (1 / temperature)


ALSO_RIGHT = [
    ("draw", search),
    ("draw", lambda p, u: (p.cumsum(-1) > u).int().argmax()),
    ("with_temperature", lambda p, T: torch.nn.functional.normalize(power(p, T), p=1.0)),
]
WRONG = [
    ("draw", lambda p, u: int(p.argmax()), "likeliest"),
    ("draw", lambda p, u: search(p, u) - 1, "One too low"),
    ("draw", lambda p, u: search(p, u) + 1, "One too high"),
    ("draw", lambda p, u: next((i for i, x in enumerate(p.tolist()) if u <= x), 0), "themselves"),
    ("draw", lambda p, u: search(p.sort(descending=True)[0], u), "laid out by probability"),
    ("draw", search_left, "Mind < and ≤"),
    ("with_temperature", lambda p, T: p**T / (p**T).sum(-1, keepdim=True), "it is 1/T"),
    ("with_temperature", power, "These no longer add up"),
    ("with_temperature", lambda p, T: p / T, "themselves were divided"),
    ("with_temperature", lambda p, T: (p / T) / (p / T).sum(-1, keepdim=True), "no effect"),
    ("with_temperature", lambda p, T: torch.softmax(p / T, dim=1), "where logits belong"),
    ("with_temperature", lambda p, T: power(p, T) / power(p, T).sum(0), "columns"),
    ("with_temperature", lambda p, T: power(p, T) / power(p, T).sum(), "All rows together"),
]

WILD = [
    ("draw", lambda p, u: 7, "it should be 3, and is 7."),
    (
        "with_temperature",
        lambda p, T: p.flatten(),
        "The shape should be (2, 4), and is (8,).",
    ),
    ("with_temperature", lambda p, T: p.heat(T), "Your code raised AttributeError"),
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_08, RIGHT, WRONG, WILD, also_right=ALSO_RIGHT
)
