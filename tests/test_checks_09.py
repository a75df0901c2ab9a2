"""Lesson 09's self-checks know the right answers, and name the usual wrong ones."""

import math

import torch
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from llmviz.checks import lesson_09
from tests.checks import shared_tests

INF = math.inf


def by_row(keep):
    """A filter from a function that takes a row's probabilities and the setting, and says which
    tokens stay."""

    def attempt(logits, setting):
        rows = []
        for row in logits:
            stay = keep(row.softmax(-1).tolist(), setting)
            rows.append([x if i in stay else -INF for i, x in enumerate(row.tolist())])
        return torch.tensor(rows)

    return attempt


def ranked(p):
    return sorted(range(len(p)), key=p.__getitem__, reverse=True)


def nucleus(p, mass):
    stay, reached = [], 0.0
    for i in ranked(p):
        if reached < mass:
            stay.append(i)
        reached += p[i]
    return stay


def nucleus_without_crossing(p, mass):
    order = ranked(p)
    return [i for n, i in enumerate(order) if sum(p[j] for j in order[: n + 1]) <= mass]


def tail(p, mass):
    order, stay, reached = ranked(p)[::-1], [], 0.0
    for i in order:
        if reached < mass:
            stay.append(i)
        reached += p[i]
    return stay


def tail_without_crossing(p, mass):
    order = ranked(p)[::-1]
    return [i for n, i in enumerate(order) if sum(p[j] for j in order[: n + 1]) <= mass]


RIGHT = {
    "top_k_filter": lambda logits, k: TopKLogitsWarper(k)(None, logits),
    "top_p_filter": lambda logits, p: TopPLogitsWarper(p)(None, logits),
    "min_p_filter": lambda logits, p: MinPLogitsWarper(p)(None, logits),
}


def scatter_forgotten(logits, p):
    sums = logits.softmax(-1).sort(descending=True).values.cumsum(-1)
    goes = torch.zeros_like(sums, dtype=torch.bool)
    goes[:, 1:] = sums[:, :-1] >= p
    return logits.masked_fill(goes, -INF)


def sorted_scores(logits, p):
    ordered = logits.sort(descending=True).values
    return RIGHT["top_p_filter"](ordered, p)


def cut(logits, goes):
    return logits.masked_fill(goes, -INF)


def zeros(name):
    def attempt(logits, setting):
        right = RIGHT[name](logits, setting)
        return torch.where(right.isinf(), 0, right)

    return attempt


def after(name, function):
    return lambda logits, setting: function(RIGHT[name](logits, setting))


def highest(logits):
    return logits.max(-1, keepdim=True).values


def highest_of_all_rows(logits, min_p):
    return cut(logits, logits < logits.max() + math.log(min_p))


def last_of_a_tie(logits, k):
    return by_row(lambda p, k: ranked(p)[:k])(logits.flip(-1), k).flip(-1)


def logits_added(logits, p):
    ordered, order = logits.sort(descending=True)
    goes = torch.empty_like(logits, dtype=torch.bool).scatter(-1, order, ordered.cumsum(-1) > p)
    return cut(logits, goes)


ALSO_RIGHT = [
    ("top_k_filter", by_row(lambda p, k: [i for i, x in enumerate(p) if x >= sorted(p)[-k]])),
    ("top_p_filter", by_row(nucleus)),
    ("min_p_filter", by_row(lambda p, m: [i for i, x in enumerate(p) if x >= m * max(p)])),
]
WRONG = [
    ("top_k_filter", lambda x, k: cut(x, x < x.flatten().sort().values[-k]), "whole batch"),
    ("top_k_filter", lambda x, k: cut(x, x > x.sort().values[:, k - 1 : k]), "lowest were kept"),
    ("top_k_filter", lambda x, k: cut(x, x <= x.topk(k).values[:, -1:]), "One too few"),
    ("top_k_filter", lambda x, k: cut(x, x < x.topk(k + 1).values[:, -1:]), "One too many"),
    ("top_k_filter", zeros("top_k_filter"), "a fair score"),
    ("top_k_filter", after("top_k_filter", lambda x: x.softmax(-1)), "these are probabilities"),
    ("top_k_filter", lambda x, k: x.topk(k).values, "scores alone"),
    ("top_k_filter", by_row(lambda p, k: ranked(p)[:k]), "of the first token"),
    ("top_k_filter", last_of_a_tie, "of the last token"),
    ("top_p_filter", by_row(nucleus_without_crossing), "crosses p was dropped. It stays"),
    ("top_p_filter", by_row(tail), "least likely tokens were kept: add up"),
    ("top_p_filter", by_row(tail_without_crossing), "least likely tokens were kept, and the one"),
    ("top_p_filter", scatter_forgotten, "scatter it back"),
    ("top_p_filter", sorted_scores, "came back sorted"),
    ("top_p_filter", by_row(lambda p, m: [i for i in range(5) if sum(p[:i]) < m]), "sort them"),
    ("top_p_filter", by_row(lambda p, m: [i for i in range(5) if p[i] >= m]), "it is the sum"),
    ("top_p_filter", logits_added, "Logits were added up"),
    ("top_p_filter", zeros("top_p_filter"), "a fair score"),
    ("top_p_filter", after("top_p_filter", lambda x: x.softmax(-1)), "these are probabilities"),
    ("top_p_filter", after("top_p_filter", lambda x: x.log_softmax(-1)), "log-probabilities"),
    ("min_p_filter", lambda x, m: cut(x, x.softmax(-1) < m), "epsilon"),
    ("min_p_filter", lambda x, m: cut(x, x < highest(x) * m), "multiplied"),
    ("min_p_filter", lambda x, m: cut(x, x < highest(x) - m), "its logarithm first"),
    ("min_p_filter", lambda x, m: cut(x, x < highest(x) - math.log(m)), "sign"),
    (
        "min_p_filter",
        lambda x, m: cut(x, x.softmax(-1) < m * x.softmax(-1).max()),
        "likeliest token of the whole batch",
    ),
    ("min_p_filter", highest_of_all_rows, "highest logit of the whole batch"),
    ("min_p_filter", zeros("min_p_filter"), "a fair score"),
    ("min_p_filter", after("min_p_filter", lambda x: x.softmax(-1)), "these are probabilities"),
]

WILD = [
    *[(name, lambda logits, setting: logits[0], "The shape should be") for name in RIGHT],
    *[(name, lambda logits, setting: logits.tolist(), "not a list") for name in RIGHT],
    *[(name, lambda logits, setting: logits + 7, "-inf") for name in RIGHT],
    *[
        (name, lambda logits, setting: logits.filter(setting), "Your code raised AttributeError")
        for name in RIGHT
    ],
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_09, RIGHT, WRONG, WILD, also_right=ALSO_RIGHT
)
