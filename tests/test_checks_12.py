"""Lesson 12's self-checks know the right answers, and name the usual wrong ones."""

import math

import pytest
import torch

from llmviz.checks import lesson_12
from tests.checks import shared_tests


def right_causal(q, k):
    weights = torch.zeros(len(q), len(k))
    for row in range(len(q)):
        seen = len(k) - len(q) + row + 1
        weights[row, :seen] = (k[:seen] @ q[row] / math.sqrt(q.shape[-1])).softmax(-1)
    return weights


def right_induction(weights, ids):
    ids = torch.tensor(ids)
    earlier = (ids[:, None] == ids).tril(-1)
    behind = earlier.roll(1, dims=1)
    return (weights * behind).sum(-1)[earlier.any(-1)].mean()


RIGHT = {"causal_weights": right_causal, "induction_score": right_induction}


def test_the_step_gives_the_last_rows_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 6, 4, generator=generator)
    whole = lesson_12.causal_weights.right(q, k)
    assert torch.allclose(lesson_12.causal_weights.right(q[4:], k), whole[4:])
    theirs = torch.nn.functional.scaled_dot_product_attention(
        q[None], k[None], torch.eye(6)[None], is_causal=True
    )
    assert torch.allclose(whole, theirs[0], atol=1e-6)


def test_copies_at_a_fixed_distance_score_as_in_the_lesson():
    weights = torch.rand(12, 12, generator=torch.Generator().manual_seed(0)).tril()
    score = lesson_12.induction_score.right(weights, [*range(6)] * 2)
    assert score == pytest.approx(weights.diagonal(-5)[1:].mean().item())


def masked(q, k, start, fill=-torch.inf):
    scores = q @ k.T / math.sqrt(q.shape[-1])
    keep = torch.ones(len(q), len(k)).tril(start) == 1
    return torch.where(keep, scores, torch.tensor(fill))


def last(q, k):
    return len(k) - len(q)


def root(q):
    return math.sqrt(q.shape[-1])


def induction(weights, ids, behind=1, keep=lambda places: places):
    found = []
    for i, token in enumerate(ids):
        places = keep([j for j, other in enumerate(ids[:i]) if other == token])
        if places:
            found.append(sum(float(weights[i, j + behind]) for j in places))
    return found


def mean(numbers):
    return sum(numbers) / len(numbers)


def over_all_places(weights, ids):
    count = sum(ids[:i].count(token) for i, token in enumerate(ids))
    return sum(induction(weights, ids)) / count


WRONG = [
    ("causal_weights", lambda q, k: masked(q, k, 0).softmax(-1), "begins at the first token"),
    ("causal_weights", lambda q, k: torch.softmax(q @ k.T / root(q), -1), "no mask"),
    ("causal_weights", lambda q, k: masked(q, k, last(q, k) - 1).softmax(-1), "see itself"),
    ("causal_weights", lambda q, k: masked(q, k, last(q, k), 0.0).softmax(-1), "set to 0"),
    (
        "causal_weights",
        lambda q, k: torch.softmax(q @ k.T / root(q), -1).tril(last(q, k)),
        "after the softmax",
    ),
    ("causal_weights", lambda q, k: masked(q, k, last(q, k)).softmax(-2), "down the columns"),
    ("causal_weights", lambda q, k: right_causal(q * root(q), k), "not divided"),
    ("causal_weights", lambda q, k: right_causal(q / root(q), k), "not by its root"),
    ("causal_weights", lambda q, k: masked(q, k, last(q, k)), "softmax is missing"),
    ("induction_score", lambda w, ids: mean(induction(w, ids, 0)), "place itself"),
    ("induction_score", lambda w, ids: mean(induction(w, ids, -1)), "token before"),
    (
        "induction_score",
        lambda w, ids: mean(induction(w, ids, keep=lambda p: p[-1:])),
        "Only the latest",
    ),
    (
        "induction_score",
        lambda w, ids: mean([w[i, ids.index(t) + 1] for i, t in enumerate(ids) if t in ids[:i]]),
        "Only the first",
    ),
    ("induction_score", lambda w, ids: sum(induction(w, ids)) / len(ids), "all tokens"),
    ("induction_score", over_all_places, "all earlier places"),
    ("induction_score", lambda w, ids: right_induction(w.T, ids), "wrong way round"),
    ("induction_score", lambda w, ids: sum(induction(w, ids)), "This is the sum"),
]

WILD = [
    ("causal_weights", lambda q, k: k @ q.T, "The shape should be (2, 5), and is (5, 2)."),
    ("causal_weights", lambda q, k: 7, "A tensor of shape (2, 5) was wanted, not a int."),
    ("causal_weights", lambda q, k: q @ k, "raised RuntimeError"),
    ("induction_score", lambda w, ids: 0.5, "and is 0.5."),
    ("induction_score", lambda w, ids: w[ids, ids], "raised IndexError"),
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_12, RIGHT, WRONG, WILD
)
