"""Checks of lesson 09: top-k, top-p and min-p for a batch."""

import math

import torch

from . import Exercise, normal


def _cut(logits, goes):
    return logits.masked_fill(goes, -math.inf)


def _kth(logits, k):
    return logits.topk(k).values[:, -1:]


def _top_k(logits, k):
    return _cut(logits, logits < _kth(logits, k))


def _exactly_k(logits, k):
    order = logits.sort(stable=True, descending=True).indices[:, :k]
    return torch.full_like(logits, -math.inf).scatter(-1, order, logits.gather(-1, order))


_ROWS = torch.tensor([[1.0, 4.0, 2.5, 0.5, 3.0, -1.0], [9.0, 5.5, 8.0, 6.0, 7.5, 7.0]])
_TIED = torch.tensor([[2.0, 3.0, 2.0, 1.0, 0.5], [0.0, -1.0, 5.0, 4.0, 3.0]])


def _any_rows(dice):
    return 2 * normal(dice.randint(1, 4), 5, seed=dice.getrandbits(32)) + dice.randint(-3, 3)


_PROBABILITIES = (
    "The cut is right, but these are probabilities: return the logits of those that stay."
)
_ZEROS = "Tokens that go got the score 0, which is a fair score: −inf makes their probability 0."
_TIE = "A tie at the k-th place was broken, "

top_k_filter = Exercise(
    right=_top_k,
    cases=[(_ROWS, 3), (_TIED, 2), (_ROWS, 6), (_ROWS, 1)],
    drawn=lambda dice: (_any_rows(dice), dice.randint(1, 5)),
    mistakes={
        "The k-th highest score was taken from the whole batch: each row has its own.": (
            lambda logits, k: _cut(logits, logits < logits.flatten().topk(k).values[-1])
        ),
        "The k lowest were kept: topk has the highest first, sort the lowest.": (
            lambda logits, k: -_top_k(-logits, k).nan_to_num(neginf=math.inf)
        ),
        "One too few: the k-th highest stays itself. Mind < and ≤.": (
            lambda logits, k: _cut(logits, logits <= _kth(logits, k))
        ),
        "One too many was kept: the k-th highest score has the index k − 1.": (
            lambda logits, k: _top_k(logits, min(k + 1, logits.shape[-1]))
        ),
        _ZEROS: lambda logits, k: logits.masked_fill(logits < _kth(logits, k), 0),
        _PROBABILITIES: lambda logits, k: _top_k(logits, k).softmax(-1),
        "These are the k highest scores alone: return all of the row, with −inf for the others.": (
            lambda logits, k: logits.topk(k).values
        ),
        _TIE + "in favour of the first token: compare with the k-th score instead.": _exactly_k,
        _TIE + "in favour of the last token: compare with the k-th score instead.": (
            lambda logits, k: _exactly_k(logits.flip(-1), k).flip(-1)
        ),
    },
    praise="Right, ties and all: this is transformers' TopKLogitsWarper.",
)


def _top_p(logits, p, crossing=True, descending=True):
    probabilities, order = logits.softmax(-1).sort(descending=descending)
    reached = probabilities.cumsum(-1)
    goes = reached - probabilities >= p if crossing else reached > p
    return _cut(logits, torch.zeros_like(goes).scatter(-1, order, goes))


def _in_sorted_order(logits, p):
    ordered = logits.sort(descending=True).values
    return _cut(ordered, _top_p(ordered, p) == -math.inf)


def _not_scattered(logits, p):
    return _cut(logits, _in_sorted_order(logits, p) == -math.inf)


def _by_vocabulary(logits, p):
    probabilities = logits.softmax(-1)
    return _cut(logits, probabilities.cumsum(-1) - probabilities >= p)


# The row with the likeliest token has not the highest logit: the two are different mistakes.
_LIKELY = torch.tensor([[0.1, 0.4, 0.05, 0.25, 0.2], [0.02, 0.03, 0.05, 0.1, 0.8]]).log()
_LIKELY = _LIKELY + torch.tensor([[5.0], [3.0]])


def _any_p(dice):
    """Rows and a share that no sum of probabilities comes near."""
    while True:
        rows, p = _any_rows(dice), round(dice.uniform(0.05, 0.97), 2)
        sums = rows.softmax(-1).sort(descending=True).values.cumsum(-1)
        if ((sums - p).abs() > 1e-3).all():
            return rows, p


top_p_filter = Exercise(
    right=_top_p,
    cases=[(_LIKELY, p) for p in (0.52, 0.75, 0.93, 0.04)],
    drawn=_any_p,
    mistakes={
        "The token that crosses p was dropped. It stays: ask what the likelier tokens add up to "
        "before it.": lambda logits, p: _top_p(logits, p, crossing=False),
        "The least likely tokens were kept: add up from the likeliest down.": (
            lambda logits, p: _top_p(logits, p, descending=False)
        ),
        "The least likely tokens were kept, and the one that crosses p was dropped: add up from "
        "the likeliest down.": (
            lambda logits, p: _top_p(logits, p, crossing=False, descending=False)
        ),
        "The decision was taken in sorted order and used in the vocabulary's: scatter it back "
        "along the order that sort returned.": _not_scattered,
        "The scores came back sorted: scatter them to where they came from.": _in_sorted_order,
        "The probabilities were added up in the vocabulary's order: sort them first.": (
            _by_vocabulary
        ),
        "Tokens less likely than p were cut: it is the sum that is compared with p.": (
            lambda logits, p: _cut(logits, logits.softmax(-1) < p)
        ),
        "Logits were added up: sums of probabilities are wanted, so softmax first.": (
            lambda logits, p: _cut(
                logits,
                torch.zeros_like(logits, dtype=torch.bool).scatter(
                    -1,
                    logits.argsort(descending=True),
                    logits.sort(descending=True).values.cumsum(-1) > p,
                ),
            )
        ),
        _ZEROS: lambda logits, p: _top_p(logits, p).nan_to_num(neginf=0.0),
        _PROBABILITIES: lambda logits, p: _top_p(logits, p).softmax(-1),
        "The cut is right, but these are log-probabilities: return the logits as they were.": (
            lambda logits, p: _top_p(logits, p).log_softmax(-1)
        ),
    },
    praise="Right, with the token that crosses p: this is transformers' TopPLogitsWarper.",
)


def _min_p(logits, min_p):
    return _cut(logits, logits < logits.amax(-1, keepdim=True) + math.log(min_p))


def _any_min_p(dice):
    """Rows and a share that no token's comes near."""
    while True:
        rows, min_p = _any_rows(dice), round(dice.uniform(0.02, 0.9), 2)
        shares = (rows - rows.amax(-1, keepdim=True)).exp()
        if ((shares - min_p).abs() > 1e-3).all():
            return rows, min_p


min_p_filter = Exercise(
    right=_min_p,
    cases=[(_LIKELY, min_p) for min_p in (0.22, 0.55, 0.09, 1.0)],
    drawn=_any_min_p,
    mistakes={
        "This is a fixed threshold, which is the epsilon cut-off: min_p is a share of the "
        "likeliest token's probability.": (
            lambda logits, min_p: _cut(logits, logits.softmax(-1) < min_p)
        ),
        "The logit was multiplied by min_p, but a share of a probability is a difference of "
        "logits: add the logarithm.": (
            lambda logits, min_p: _cut(logits, logits < min_p * logits.amax(-1, keepdim=True))
        ),
        "min_p was taken from the highest logit: take its logarithm first.": (
            lambda logits, min_p: _cut(logits, logits < logits.amax(-1, keepdim=True) - min_p)
        ),
        "The sign of the logarithm: log(min_p) is negative, and to be added.": (
            lambda logits, min_p: _cut(
                logits, logits < logits.amax(-1, keepdim=True) - math.log(min_p)
            )
        ),
        "The likeliest token of the whole batch was the measure: each row has its own.": (
            lambda logits, min_p: _cut(
                logits, logits.softmax(-1) < min_p * logits.softmax(-1).max()
            )
        ),
        "The highest logit of the whole batch was the measure: each row has its own.": (
            lambda logits, min_p: _cut(logits, logits < logits.max() + math.log(min_p))
        ),
        _ZEROS: lambda logits, min_p: _min_p(logits, min_p).nan_to_num(neginf=0.0),
        _PROBABILITIES: lambda logits, min_p: _min_p(logits, min_p).softmax(-1),
    },
    praise="Right: this is transformers' MinPLogitsWarper.",
)
