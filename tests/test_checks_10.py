"""Lesson 10's self-checks know the right answers, and name the usual wrong ones."""

import torch

from llmviz.checks import lesson_10
from tests.checks import shared_tests


def right_judge(p, q):
    pairs = list(zip(p.tolist(), q.tolist(), strict=True))
    over = torch.tensor([max(a - b, 0) for a, b in pairs])
    return torch.tensor([min(1, a / b) for a, b in pairs]), over / over.sum()


def right_allowed(answers, written, eos):
    allowed = set()
    for answer in answers:
        if answer == written:
            allowed.add(eos)
        elif answer[: len(written)] == written:
            allowed.add(answer[len(written)])
    return sorted(allowed)


RIGHT = {"judge": right_judge, "allowed_tokens": right_allowed}


def keep(p, q):
    return torch.minimum(p / q, torch.ones_like(p))


def rest(p, q):
    return torch.relu(p - q) / torch.relu(p - q).sum()


def next_ids(answers, written, eos):
    n = len(written)
    for answer in answers:
        if answer[:n] == written:
            yield (answer + [eos])[n]


def anywhere(answers, written, eos):
    n = len(written)
    return sorted({(a + [eos])[n] for a in answers if len(a) >= n})


def all_to_come(answers, written, eos):
    n = len(written)
    return sorted({i for a in answers if a[:n] == written for i in (a + [eos])[n:]})


def eos_alone(answers, written, eos):
    return [eos] if written in answers else right_allowed(answers, written, eos)


WRONG = [
    ("judge", lambda p, q: (p / q, rest(p, q)), "at most 1"),
    ("judge", lambda p, q: (keep(q, p), rest(p, q)), "upside down"),
    ("judge", lambda p, q: (keep(p, q), torch.relu(p - q)), "does not add up to 1"),
    ("judge", lambda p, q: (keep(p, q), rest(q, p)), "wrong sign"),
    ("judge", lambda p, q: (keep(p, q), (q - p).abs() / (q - p).abs().sum()), "both directions"),
    ("judge", lambda p, q: (keep(p, q), p - q), "cannot be negative"),
    ("judge", lambda p, q: (keep(p, q), torch.relu(p - q).softmax(0)), "Divide by the sum"),
    ("judge", lambda p, q: (keep(p, q), p), "redrawn from p"),
    ("judge", lambda p, q: (rest(p, q), keep(p, q)), "wrong order"),
    ("allowed_tokens", anywhere, "What was written is ignored"),
    ("allowed_tokens", lambda a, w, e: sorted({x[0] for x in a}), "first ids"),
    (
        "allowed_tokens",
        lambda a, w, e: sorted({x[len(w)] for x in a if x[: len(w)] == w and x != w}),
        "eos is missing",
    ),
    (
        "allowed_tokens",
        lambda a, w, e: sorted({*next_ids(a, w, e), e}),
        "before any answer is complete",
    ),
    ("allowed_tokens", eos_alone, "though a longer answer goes on"),
    ("allowed_tokens", all_to_come, "Only the next one"),
    ("allowed_tokens", lambda a, w, e: sorted(next_ids(a, w, e)), "more than once"),
    ("allowed_tokens", lambda a, w, e: list(dict.fromkeys(next_ids(a, w, e))), "not sorted"),
]

WILD = [
    ("judge", lambda p, q: p, "[0.8000, 0.0000, 0.2000, 0.0000]"),
    ("allowed_tokens", lambda a, w, e: [99], "[7, 8]"),
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_10, RIGHT, WRONG, WILD
)
