"""Lesson 13's self-checks know the right answers, and name the usual wrong ones."""

import math

import torch

from llmviz import processors
from llmviz.checks import lesson_13
from tests.checks import shared_tests


def smallest_k(logits, mass):
    total, k = 0.0, 0
    for p in sorted(logits.softmax(-1).tolist(), reverse=True):
        if total >= mass:
            break
        total, k = total + p, k + 1
    return k


def entropy(logits, temperature, base=2.0):
    probabilities = (logits / temperature).softmax(-1).tolist()
    return -sum(p * math.log(p, base) for p in probabilities if p > 0)


def search(function):
    """The temperature up to which `function(logits, temperature)` is below the bits."""

    def attempt(logits, bits):
        low, high = 0.01, 100.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            if function(logits, middle) < bits:
                low = middle
            else:
                high = middle
        return low

    return attempt


RIGHT = {"smallest_k": smallest_k, "temperature_for": search(entropy)}


def bisected(logits, bits):
    low, high = 0.01, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        p = (logits / middle).softmax(-1)
        if -(p * p.log2()).nansum() > bits:
            high = middle
        else:
            low = middle
    return middle


ALSO_RIGHT = [
    ("smallest_k", lambda x, mass: processors.top_p(x[None], mass).isfinite().sum()),
    (
        "smallest_k",
        lambda x, mass: (x.softmax(-1).sort(descending=True)[0].cumsum(-1) < mass).sum() + 1,
    ),
    ("temperature_for", bisected),
    ("temperature_for", lambda x, bits: torch.tensor(bisected(x, bits))),
]


def nan_is_not_below(logits, temperature):
    p = (logits / temperature).softmax(-1)
    return -(p * p.log2()).sum()


def ends_swapped(logits, bits):
    low, high = 0.01, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        if entropy(logits, middle) > bits:
            low = middle
        else:
            high = middle
    return middle


def kept_mass(logits, mass):
    return sum(logits.softmax(-1).sort(descending=True).values[: smallest_k(logits, mass)].tolist())


WRONG = [
    ("smallest_k", lambda x, m: smallest_k(x, m) - 1, "One too few"),
    ("smallest_k", lambda x, m: smallest_k(x, m) + 1, "One too many"),
    (
        "smallest_k",
        lambda x, m: (x.softmax(-1).sort().values.cumsum(-1) < m).sum().item() + 1,
        "begin with the likeliest",
    ),
    (
        "smallest_k",
        lambda x, m: int((x.softmax(-1).cumsum(-1) < m).sum()) + 1,
        "the vocabulary's order",
    ),
    (
        "smallest_k",
        lambda x, m: int((x.sort(descending=True).values.cumsum(-1) < m).sum()) + 1,
        "Logits were added up",
    ),
    ("smallest_k", lambda x, m: sum(p > m for p in x.softmax(-1).tolist()), "each alone"),
    ("smallest_k", kept_mass, "how many tokens hold it"),
    ("temperature_for", search(lambda x, t: entropy(x, t, math.e)), "in nats"),
    ("temperature_for", lambda x, b: 1 / RIGHT["temperature_for"](x, b), "multiplied"),
    ("temperature_for", ends_swapped, "ran into its upper end"),
    ("temperature_for", search(nan_is_not_below), "lower end"),
    ("temperature_for", lambda x, b: search(entropy)(x, 1e9), "upper end"),
]

WILD = [
    ("smallest_k", lambda x, m: 77, "should be 3, and is 77"),
    ("temperature_for", lambda x, b: -3.0, "and is -3.0"),
    ("temperature_for", lambda x, b: 1 / 0, "raised ZeroDivisionError"),
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_13, RIGHT, WRONG, WILD, also_right=ALSO_RIGHT
)
