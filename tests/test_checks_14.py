"""Lesson 14's self-checks know the right answers, and name the usual wrong ones."""

import math

import torch

from llmviz.checks import lesson_14
from tests.checks import shared_tests


def shared(prompt_ids, whole_ids):
    same = [a == b for a, b in zip(prompt_ids, whole_ids, strict=False)]
    return same.index(False) if False in same else len(same)


def terms(logits, whole_ids, start, row=-1):
    """The log-probability of each token from `start` on, read `row` rows off its own place."""
    return [
        float(logits[i + row, whole_ids[i]] - logits[i + row].exp().sum().log())
        for i in range(start, len(whole_ids))
    ]


def right_answer(logits, prompt_ids, whole_ids):
    return math.fsum(terms(logits, whole_ids, shared(prompt_ids, whole_ids)))


def shares(p):
    return p / p.sum(-1, keepdim=True)


def right_calibrate(log_probs, content_free):
    prior = torch.stack([shares(row.exp()) for row in content_free]).mean(0)
    return shares(log_probs.exp() / prior)


def groups(confidence, right, edges):
    pairs = list(zip(confidence.tolist(), right.tolist(), strict=True))
    bins = [
        [(c, r) for c, r in pairs if low <= c < high]
        for low, high in zip(edges, edges[1:], strict=False)
    ]
    return [
        (len(b), sum(c for c, _ in b) / len(b), sum(r for _, r in b) / len(b)) for b in bins if b
    ]


def right_error(confidence, right, edges):
    return sum(n * abs(c - r) for n, c, r in groups(confidence, right, edges)) / len(right)


RIGHT = {
    "answer_log_prob": right_answer,
    "calibrate": right_calibrate,
    "calibration_error": right_error,
}


def test_an_answer_that_is_certain_has_log_probability_0():
    logits = torch.full((4, 5), -torch.inf)
    ids = [0, 1, 2, 3]
    logits[range(3), ids[1:]] = 0.0
    logits[3] = 0.0
    assert lesson_14.answer_log_prob.right(logits, [0, 4], ids) == 0


def test_what_equals_the_prior_is_calibrated_to_equal_shares():
    prior = torch.tensor([[0.7, 0.2, 0.1]]).log()
    flat = lesson_14.calibrate.right(prior - 5, prior - 2)
    assert torch.allclose(flat, torch.full((1, 3), 1 / 3))


def test_perfect_confidence_has_no_error():
    confidence, right = torch.tensor([0.5, 0.5, 1.0]), torch.tensor([True, False, True])
    assert lesson_14.calibration_error.right(confidence, right, [0.5, 0.9, 1.1]) == 0


def prior(content_free):
    return content_free.softmax(-1).mean(0)


def answers(logits, prompt_ids, whole_ids, skip=0, row=-1):
    return terms(logits, whole_ids, shared(prompt_ids, whole_ids) + skip, row)


def gaps(confidence, right, edges):
    return [abs(c - r) for _, c, r in groups(confidence, right, edges)]


def nan_in_an_empty_bin(confidence, right, edges):
    total = 0
    for low, high in zip([0.0, *edges], edges, strict=False):
        here = (low <= confidence) & (confidence < high)
        total += here.sum() * (confidence[here].mean() - right[here].float().mean()).abs()
    return total / len(confidence)


WRONG = [
    ("answer_log_prob", lambda z, p, w: sum(terms(z, w, len(p))), "too late"),
    ("answer_log_prob", lambda z, p, w: sum(answers(z, p, w, row=0)), "row i"),
    ("answer_log_prob", lambda z, p, w: answers(z, p, w)[0], "Only the answer's first"),
    ("answer_log_prob", lambda z, p, w: sum(answers(z, p, w, skip=1)), "left out"),
    ("answer_log_prob", lambda z, p, w: sum(terms(z, w, 1)), "Tokens of the prompt"),
    (
        "answer_log_prob",
        lambda z, p, w: torch.tensor(answers(z, p, w)).mean(),
        "mean per token",
    ),
    (
        "answer_log_prob",
        lambda z, p, w: sum(z[i - 1, w[i]] for i in range(shared(p, w), len(w))),
        "Logits were added",
    ),
    (
        "answer_log_prob",
        lambda z, p, w: sum(
            torch.log_softmax(z, 0)[i - 1, w[i]] for i in range(shared(p, w), len(w))
        ),
        "over the tokens of the text",
    ),
    ("answer_log_prob", lambda z, p, w: math.exp(right_answer(z, p, w)), "is the probability"),
    ("calibrate", lambda x, free: shares(x.exp() * prior(free)), "multiplied in"),
    ("calibrate", lambda x, free: shares(x.exp()), "changed nothing"),
    (
        "calibrate",
        lambda x, free: shares((x - free.log_softmax(-1).mean(0)).exp()),
        "over log-probabilities",
    ),
    ("calibrate", lambda x, free: shares(x.exp() / free.exp().mean(0)), "before they were shares"),
    ("calibrate", lambda x, free: shares((x - prior(free)).exp()), "itself was subtracted"),
    ("calibrate", lambda x, free: shares(x.exp()) / prior(free), "do not add up to 1"),
    ("calibrate", lambda x, free: x - prior(free).log(), "These are logarithms"),
    ("calibrate", lambda x, free: torch.softmax(x - prior(free).log(), 0), "down the questions"),
    (
        "calibrate",
        lambda x, free: shares(x.exp() / torch.softmax(free, 0).mean(0)),
        "changed nothing",
    ),
    (
        "calibration_error",
        lambda c, r, e: sum(n * (p - q) for n, p, q in groups(c, r, e)) / len(c),
        "Overconfident and",
    ),
    (
        "calibration_error",
        lambda c, r, e: abs(c.mean() - r.float().mean()),
        "over all answers",
    ),
    (
        "calibration_error",
        lambda c, r, e: sum(gaps(c, r, e)) / len(gaps(c, r, e)),
        "counts alike. Weigh",
    ),
    ("calibration_error", lambda c, r, e: sum(gaps(c, r, e)) / (len(e) - 1), "the empty ones"),
    ("calibration_error", lambda c, r, e: torch.abs(c - r.float()).mean(), "answer by answer"),
    ("calibration_error", lambda c, r, e: right_error(c, r, e) * len(c), "not divided"),
    ("calibration_error", lambda c, r, e: max(gaps(c, r, e)), "the largest distance"),
    ("calibration_error", nan_in_an_empty_bin, "NaN"),
]

WILD = [
    ("answer_log_prob", lambda z, p, w: 7.0, "and is 7.0."),
    ("answer_log_prob", lambda z, p, w: z[w, p], "raised IndexError"),
    ("calibrate", lambda x, free: x.T, "The shape should be (5, 2), and is (2, 5)."),
    ("calibrate", lambda x, free: 0, "A tensor of shape (5, 2) was wanted, not a int."),
    ("calibration_error", lambda c, r, e: 0.5, "and is 0.5."),
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_14, RIGHT, WRONG, WILD
)
