"""Lesson 06's self-checks know the right answers, and name the usual wrong ones."""

import torch

from llmviz.checks import lesson_06
from tests.checks import shared_tests


def right_step(totals, log_probs, num_beams):
    """Without a flat index: all pairs, sorted."""
    rows, columns = log_probs.shape
    pairs = [
        (float(totals[r] + log_probs[r, c]), r, c) for r in range(rows) for c in range(columns)
    ]
    best = sorted(pairs, reverse=True)[:num_beams]
    return tuple(torch.tensor(column) for column in zip(*best, strict=True))


def right_score(sum_logprob, length, length_penalty):
    return sum_logprob * length ** (-length_penalty)


RIGHT = {"beam_step": right_step, "final_score": right_score}


def own_best(totals, log_probs, num_beams):
    best = [(totals[r] + row).max(0) for r, row in enumerate(log_probs)][:num_beams]
    return (
        torch.stack([b.values for b in best]),
        torch.arange(len(best)),
        torch.stack([b.indices for b in best]),
    )


def own_best_ranked(totals, log_probs, num_beams):
    values, tokens = (totals.unsqueeze(-1) + log_probs).max(dim=1)
    order = values.sort(descending=True).indices[:num_beams]
    return values[order], order, tokens[order]


def no_flatten(totals, log_probs, num_beams):
    values, flat = torch.topk(totals[:, None] + log_probs, num_beams, dim=-1)
    return values, flat // log_probs.shape[1], flat % log_probs.shape[1]


def newest_only(totals, log_probs, num_beams):
    values, flat = log_probs.reshape(-1).topk(num_beams)
    return values, flat // log_probs.shape[1], flat % log_probs.shape[1]


def product(totals, log_probs, num_beams):
    values, flat = (totals[:, None] * log_probs).reshape(-1).topk(num_beams)
    return values, flat // log_probs.shape[1], flat % log_probs.shape[1]


def flat_of(totals, log_probs, num_beams):
    return (totals[:, None] + log_probs).reshape(-1).topk(num_beams)


def exchanged(totals, log_probs, num_beams):
    values, flat = flat_of(totals, log_probs, num_beams)
    return values, flat % log_probs.shape[1], flat // log_probs.shape[1]


def by_beams(totals, log_probs, num_beams):
    values, flat = flat_of(totals, log_probs, num_beams)
    return values, flat // log_probs.shape[0], flat % log_probs.shape[0]


def raw(totals, log_probs, num_beams):
    values, flat = flat_of(totals, log_probs, num_beams)
    return values, flat // log_probs.shape[1], flat


def slashed(totals, log_probs, num_beams):
    values, flat = flat_of(totals, log_probs, num_beams)
    return values, flat / log_probs.shape[1], flat % log_probs.shape[1]


WRONG = [
    ("beam_step", own_best, "kept its own best continuation. They"),
    ("beam_step", own_best_ranked, "kept its own best continuation, and these were ranked"),
    ("beam_step", no_flatten, "flatten first"),
    ("beam_step", newest_only, "running totals were left out"),
    ("beam_step", product, "were multiplied"),
    ("beam_step", exchanged, "exchanged"),
    ("beam_step", by_beams, "by the number of beams"),
    ("beam_step", raw, "still flat indices"),
    ("beam_step", slashed, "fractions"),
    ("final_score", lambda s, n, p: s * n**p, "multiplied by the power"),
    ("final_score", lambda s, n, p: abs(s) / n**p, "sign"),
    ("final_score", lambda s, n, p: s / n, "mean of a token"),
    ("final_score", lambda s, n, p: s / n / p, "multiplied by the penalty"),
    ("final_score", lambda s, n, p: s / p**n, "Base and exponent"),
    ("final_score", lambda s, n, p: s - n * p, "subtracted"),
    ("final_score", lambda s, n, p: s / (((5 + n) ** p) / (6**p)), "Google"),
]

WILD = [
    ("beam_step", lambda *case: right_step(*case)[0], "should be (tensor("),
    ("beam_step", lambda t, lp, n: (t + lp).topk(n), "Your code raised RuntimeError"),
    (
        "final_score",
        lambda s, n, p: 0.0 if p == 0 else right_score(s, n, p),
        "should be -6.0, and is 0.0.",
    ),
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_06, RIGHT, WRONG, WILD
)
