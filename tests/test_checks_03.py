"""Lesson 03's self-checks know the right answers, and name the usual wrong ones."""

import math

import torch

from llmviz.checks import lesson_03
from tests.checks import shared_tests


def right_softmax(logits):
    rows = []
    for row in logits.tolist():
        powers = [math.exp(x - max(row)) for x in row]
        rows.append([p / sum(powers) for p in powers])
    return torch.tensor(rows)


def right_text_log_prob(logits, input_ids):
    total = torch.tensor(0.0)
    for i in range(1, input_ids.shape[1]):
        total = total + torch.log_softmax(logits[0, i - 1], dim=-1)[input_ids[0, i]]
    return total


def right_tokens_for_mass(logits, mass):
    total, count = 0.0, 0
    for p in sorted(torch.softmax(logits, dim=-1).tolist(), reverse=True):
        total, count = total + p, count + 1
        if total >= mass:
            return count
    return count


RIGHT = {
    "softmax": right_softmax,
    "text_log_prob": right_text_log_prob,
    "tokens_for_mass": right_tokens_for_mass,
}


def text(logits, ids, row, token, of=torch.log_softmax):
    """Sum over the tokens: the score, at position i + row, of the token at position i + token."""
    scores, most = of(logits[0], dim=-1), ids.shape[1] - max(row, token)
    return sum(scores[i + row, ids[0, i + token]] for i in range(most))


def raw(logits, dim):
    return logits


def count_until(values, mass):
    total, count = 0.0, 0
    for value in values:
        total += value
        count += total < mass
    return count


def probabilities(logits):
    return torch.softmax(logits, dim=-1).tolist()


WRONG = [
    ("softmax", lambda x: torch.softmax(x, dim=0), "The columns add up to 1"),
    ("softmax", lambda x: torch.exp(x) / torch.sum(torch.exp(x)), "All rows together"),
    ("softmax", lambda x: x / x.sum(dim=1, keepdim=True), "divided by their sum"),
    ("softmax", lambda x: torch.exp(x), "powers that do not add up"),
    ("softmax", lambda x: torch.exp(x) / torch.exp(x).sum(dim=1, keepdim=True), "e^1000"),
    ("softmax", lambda x: torch.log(torch.softmax(x, dim=1)), "log-probabilities"),
    ("text_log_prob", lambda x, ids: text(x, ids, 0, 0), "Row i was read at token i: "),
    (
        "text_log_prob",
        lambda x, ids: text(x[:, :-1], ids[:, :-1], 0, 0),
        "Row i was read at token i, the last one left out",
    ),
    ("text_log_prob", lambda x, ids: text(x, ids, 1, 0), "shifted the wrong way"),
    ("text_log_prob", lambda x, ids: text(x, ids, 0, 1) / 4, "the mean"),
    ("text_log_prob", lambda x, ids: text(x, ids, 0, 1, of=raw), "Logits were added up"),
    ("text_log_prob", lambda x, ids: text(x, ids, 0, 1, of=torch.softmax), "were added up: a"),
    ("text_log_prob", lambda x, ids: torch.exp(text(x, ids, 0, 1)), "the probability itself"),
    ("text_log_prob", lambda x, ids: -text(x, ids, 0, 1), "The sign"),
    (
        "tokens_for_mass",
        lambda x, m: count_until(sorted(probabilities(x), reverse=True), m),
        "One too few",
    ),
    (
        "tokens_for_mass",
        lambda x, m: 1 + count_until(sorted(probabilities(x)), m),
        "least likely tokens",
    ),
    ("tokens_for_mass", lambda x, m: 1 + count_until(probabilities(x), m), "vocabulary's order"),
    ("tokens_for_mass", lambda x, m: sum(p >= m for p in probabilities(x)), "each as likely"),
]

WILD = [
    ("softmax", lambda x: x[:, :1], "The shape should be (2, 3), and is (2, 1)"),
    ("text_log_prob", lambda x, ids: x[9], "raised IndexError"),
    ("tokens_for_mass", lambda x, m: 77, "should be 2, and is 77"),
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_03, RIGHT, WRONG, WILD
)
