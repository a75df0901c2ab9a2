"""Checks of lesson 03: softmax, the log-probability of a text, the tokens that hold a mass."""

import torch

from . import Exercise, Ways, mass_between, normal
from .answers import same


def _shifted(logits, input_ids, rows, targets):
    log_probs = logits[0, rows].log_softmax(-1)
    return log_probs.gather(-1, input_ids[0, targets, None])


_NEXT = (slice(None, -1), slice(1, None))


def _shares(powers, dim=-1):
    return powers / powers.sum(dim, keepdim=True)


def _softmax(logits, dim=-1):
    return _shares((logits - logits.amax(dim, keepdim=True)).exp(), dim)


def _nearly(found, logits) -> bool:
    """Logits of 1000 leave float32 four digits of a difference, and so of a probability."""
    found, right = torch.as_tensor(found).double(), _softmax(logits).double()
    return found.shape == right.shape and torch.allclose(found, right, atol=1e-4)


_FORBIDDEN = "This is torch's softmax, and right: now write it with exp and sum."

softmax = Exercise(
    right=_softmax,
    fits=_nearly,
    cases=[
        (torch.tensor([[3.0, 2.0, 0.5], [-1.0, 0.0, 4.0]]),),
        (torch.tensor([[1000.0, 999.0, 0.0], [1.0, 2.0, 3.0]]),),
        (torch.tensor([[-1000.0, -1001.0, -1002.0]]),),
    ],
    drawn=lambda dice: (
        dice.choice([3, 300]) * normal(dice.randint(1, 4), 5, seed=dice.getrandbits(32)),
    ),
    mistakes={
        "The columns add up to 1, but the rows should: the vocabulary is the last dimension.": Ways(
            lambda logits: _softmax(logits, 0),
            lambda logits: _shares(logits.exp(), 0),
        ),
        "All rows together add up to 1: each row is a distribution of its own, so keep the sum "
        "of each (dim=-1, keepdim=True).": Ways(
            lambda logits: logits.exp() / logits.exp().sum(),
            lambda logits: (logits - logits.max()).exp() / (logits - logits.max()).exp().sum(),
        ),
        "The logits were divided by their sum: raise e to them first.": _shares,
        "These are powers that do not add up to 1: divide by their sum.": Ways(
            lambda logits: logits.exp(),
            lambda logits: (logits - logits.amax(-1, keepdim=True)).exp(),
        ),
        "Right for small logits, but e^1000 is infinite, and infinity over infinity is nan: take "
        "the row's highest logit away first.": Ways(
            lambda logits: _shares(logits.exp()),
            lambda logits: _shares((logits - logits.max()).exp()),
        ),
        "These are log-probabilities: probabilities were asked for.": Ways(
            lambda logits: logits.log_softmax(-1),
            lambda logits: _softmax(logits).log(),
        ),
    },
    not_with={"softmax": _FORBIDDEN, "safe_softmax": _FORBIDDEN, "log_softmax": _FORBIDDEN},
    praise="Right, and stable: this is what torch.softmax does.",
)


def _text_case():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1, 5, 7, generator=generator)
    return [(logits, torch.tensor([[1, 4, 2, 2, 6]]))]


def _any_text(dice):
    logits = 3 * normal(1, 5, 7, seed=dice.getrandbits(32))
    return logits, torch.tensor([dice.choices(range(7), k=5)])


text_log_prob = Exercise(
    right=lambda logits, ids: _shifted(logits, ids, *_NEXT).sum(),
    cases=_text_case,
    drawn=_any_text,
    # One number in a tensor of shape (1,) is what the card asks for as well.
    fits=lambda found, logits, ids: same(found, _shifted(logits, ids, *_NEXT).sum()[None]),
    mistakes={
        "Row i was read at token i: the logits at position i predict the token at i + 1.": (
            lambda logits, ids: _shifted(logits, ids, slice(None), slice(None)).sum()
        ),
        "Row i was read at token i, the last one left out: row i predicts token i + 1.": (
            lambda logits, ids: _shifted(logits, ids, slice(None, -1), slice(None, -1)).sum()
        ),
        "Row i was read at token i − 1: shifted the wrong way. Row i predicts token i + 1.": (
            lambda logits, ids: _shifted(logits, ids, slice(1, None), slice(None, -1)).sum()
        ),
        "This is the mean over the tokens: the log-probability of the text is the sum.": (
            lambda logits, ids: _shifted(logits, ids, *_NEXT).mean()
        ),
        "Logits were added up: take log_softmax first.": (
            lambda logits, ids: logits[0, :-1].gather(-1, ids[0, 1:, None]).sum()
        ),
        "Probabilities were added up: a text's probability is their product, the sum of logs.": (
            lambda logits, ids: _shifted(logits, ids, *_NEXT).exp().sum()
        ),
        "This is the probability itself: its logarithm was asked for.": (
            lambda logits, ids: _shifted(logits, ids, *_NEXT).sum().exp()
        ),
        "The sign is the other way: a log-probability is never above 0.": (
            lambda logits, ids: -_shifted(logits, ids, *_NEXT).sum()
        ),
    },
    praise="Right: minus its mean over the tokens is the loss that models are trained on.",
)


def _count(logits, mass, extra=1, descending=True):
    probabilities = logits.softmax(-1).sort(descending=descending).values
    return int((probabilities.cumsum(-1) < mass).sum()) + extra


tokens_for_mass = Exercise(
    right=_count,
    # The usual mistakes all give other numbers in the first case.
    cases=[
        *((torch.tensor([0.3, 0.05, 0.4, 0.05, 0.2]).log(), mass) for mass in (0.62, 0.35, 0.97)),
        (torch.zeros(4), 0.5),
    ],
    drawn=mass_between,
    mistakes={
        "One too few: the token that crosses the mass belongs to it.": (
            lambda logits, mass: _count(logits, mass, extra=0)
        ),
        "The least likely tokens were counted first: sort from the likeliest down.": (
            lambda logits, mass: _count(logits, mass, descending=False)
        ),
        "The tokens were taken in the vocabulary's order: sort from the likeliest down.": (
            lambda logits, mass: int((logits.softmax(-1).cumsum(-1) < mass).sum()) + 1
        ),
        "Tokens that are each as likely as the mass were counted: add their probabilities up.": (
            lambda logits, mass: int((logits.softmax(-1) >= mass).sum())
        ),
    },
    praise="Right: this is the size of the nucleus that top-p keeps.",
)
