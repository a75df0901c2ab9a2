"""Checks of lesson 13: the smallest top-k for a mass, the temperature for an entropy."""

import math

import torch

from . import Exercise, Ways, mass_between, normal

_LIKELY = torch.tensor([0.04, 0.35, 0.08, 0.22, 0.31]).log() + 2
# A mass of 0.65 of these tells all the mistakes apart.
_SEVEN = torch.tensor([0.1, 0.06, 0.26, 0.18, 0.06, 0.1, 0.24]).log() + 1


def _sums(probabilities, descending=True):
    return probabilities.sort(descending=descending).values.cumsum(-1)


def _enough(sums, mass):
    return (sums < mass).sum().item() + 1


smallest_k = Exercise(
    right=lambda logits, mass: _enough(_sums(logits.softmax(-1)), mass),
    cases=[(_SEVEN, 0.65), (_LIKELY, 0.93), (_LIKELY, 0.2), (torch.zeros(4), 0.5)],
    drawn=mass_between,
    mistakes={
        "One too few: these tokens hold less than the mass, and one more is needed to reach it.": (
            lambda logits, mass: _enough(_sums(logits.softmax(-1)), mass) - 1
        ),
        "One too many: the token that reaches the mass is the last one needed.": (
            lambda logits, mass: _enough(_sums(logits.softmax(-1)), mass) + 1
        ),
        "Added up from the least likely token: begin with the likeliest.": (
            lambda logits, mass: _enough(_sums(logits.softmax(-1), descending=False), mass)
        ),
        "Added up in the vocabulary's order: sort the probabilities first.": (
            lambda logits, mass: _enough(logits.softmax(-1).cumsum(-1), mass)
        ),
        "Logits were added up: the mass is one of probabilities, so softmax first.": (
            lambda logits, mass: _enough(_sums(logits), mass)
        ),
        "These are the tokens that are likelier than the mass, each alone: add them up.": (
            lambda logits, mass: (logits.softmax(-1) > mass).sum().item()
        ),
        "This is the mass that is kept: return how many tokens hold it.": (
            lambda logits, mass: _sums(logits.softmax(-1))[
                _enough(_sums(logits.softmax(-1)), mass) - 1
            ].item()
        ),
    },
    praise="Right: this is how many tokens top_p keeps, too.",
)


def _bits(logits, temperature):
    p = (logits.double() / temperature).softmax(-1)
    return -(p * p.log2()).nansum().item()


def _bits_or_nan(logits, temperature):
    p = (logits / temperature).softmax(-1)
    return -(p * p.log2()).sum().item()


def _bisect(too_hot, halvings=60):
    low, high = 0.01, 100.0
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (low, middle) if too_hot(middle) else (middle, high)
    return middle


_NINE = torch.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])
# Probabilities of 0 stand in the way of a search that takes 0 · log 0 for a number.
_WIDE = torch.tensor([11.5, 12.0, 9.0, -40.0, 3.0])

temperature_for = Exercise(
    right=lambda logits, bits: _bisect(lambda t: _bits(logits, t) > bits),
    cases=[(_NINE, 2.0), (_NINE, 1.2), (_NINE, 0.5), (_WIDE, 0.9)],
    drawn=lambda dice: (4 * normal(6, seed=dice.getrandbits(32)), round(dice.uniform(0.7, 2), 2)),
    mistakes={
        "The entropy was in nats: for bits, take the logarithm to the base 2.": (
            lambda logits, bits: _bisect(lambda t: _bits(logits, t) * math.log(2) > bits)
        ),
        "The logits were multiplied by the temperature: divide them by it.": (
            lambda logits, bits: _bisect(lambda t: _bits(logits, 1 / t) < bits)
        ),
        "The search ran into its upper end: where the entropy is too high, the answer lies below "
        "the middle.": lambda logits, bits: 100.0,
        "The search ran into its lower end: where the entropy is too low, the answer lies above "
        "the middle; and 0 · log 0 is no number, with which no comparison holds.": Ways(
            lambda logits, bits: 0.01,
            lambda logits, bits: _bisect(lambda t: not _bits_or_nan(logits, t) < bits),
        ),
    },
    praise="Right. The entropy rises with the temperature, and so halving finds it.",
)
