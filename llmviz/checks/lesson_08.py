"""Checks of lesson 08: a draw by the cumulative distribution, temperature without logits."""

import torch

from . import Exercise, Ways, normal


def _index(probabilities, u, shift=0):
    index = int((probabilities.cumsum(-1) <= u).sum()) + shift
    return min(max(index, 0), len(probabilities) - 1)


def _any_draw(dice):
    probabilities = normal(dice.randint(2, 8), seed=dice.getrandbits(32)).softmax(-1)
    ends = [0.0, *probabilities.cumsum(-1).tolist()]
    i = dice.randrange(len(probabilities))
    return probabilities, ends[i] + dice.uniform(0.1, 0.9) * (ends[i + 1] - ends[i])


draw = Exercise(
    right=_index,
    cases=[
        (torch.tensor([0.1, 0.1, 0.15, 0.15, 0.1, 0.4]), 0.44),  # each mistake has its own answer
        (torch.tensor([0.1, 0.3, 0.4, 0.2]), 0.35),
        (torch.tensor([0.1, 0.3, 0.4, 0.2]), 0.95),
        (torch.tensor([0.25, 0.5, 0.25]), 0.25),
        (torch.tensor([0.0, 0.5, 0.5]), 0.0),
        (torch.tensor([0.5, 0.0, 0.25, 0.25]), 0.5),
        (torch.tensor([0.25, 0.25, 0.5, 0.0]), 0.75),
    ],
    drawn=_any_draw,
    mistakes={
        "Where u falls on the border of two pieces, the right-hand one holds it: otherwise a token "
        "with the probability 0 can be drawn. Mind < and ≤.": (
            lambda probabilities, u: int((probabilities.cumsum(-1) < u).sum())
        ),
        "This is the likeliest token, whatever u is: that is greedy search.": (
            lambda probabilities, u: int(probabilities.argmax())
        ),
        "One too low: the piece before u's was named. Count the pieces that lie wholly to the "
        "left of u; the first piece has index 0.": Ways(
            lambda probabilities, u: _index(probabilities, u, shift=-1),
            lambda probabilities, u: _index(probabilities, u) - 1,
        ),
        "One too high: indices begin at 0.": (
            lambda probabilities, u: _index(probabilities, u) + 1
        ),
        "u was compared with the probabilities themselves: compare it with their cumulative sum.": (
            lambda probabilities, u: int((probabilities < u).int().argmin())
        ),
        "The tokens were laid out by probability: keep the vocabulary's order, or lead the index "
        "back to it.": (
            lambda probabilities, u: _index(probabilities.sort(descending=True).values, u)
        ),
    },
    praise="Right: inverse-transform sampling, and a token with the probability 0 is never drawn.",
)


def _reheated(probabilities, power, dim=-1):
    powers = probabilities**power
    return powers / powers.sum(dim, keepdim=True)


with_temperature = Exercise(
    right=lambda probabilities, temperature: _reheated(probabilities, 1 / temperature),
    cases=[
        (torch.tensor([[0.5, 0.25, 0.15, 0.1], [0.02, 0.08, 0.9, 0.0]]), temperature)
        for temperature in (0.5, 5.0, 1.0)
    ],
    drawn=lambda dice: (
        (2 * normal(dice.randint(2, 4), 5, seed=dice.getrandbits(32))).softmax(-1),
        round(dice.uniform(0.3, 4), 2),
    ),
    mistakes={
        "They were raised to the power T: a high temperature should flatten, so it is 1/T.": (
            lambda probabilities, temperature: _reheated(probabilities, temperature)
        ),
        "These no longer add up to 1: divide each row by its sum.": (
            lambda probabilities, temperature: probabilities ** (1 / temperature)
        ),
        "The probabilities themselves were divided, and no longer add up to 1: it is logits that "
        "are divided by T, and what that does to ratios is to raise them to a power.": (
            lambda probabilities, temperature: probabilities / temperature
        ),
        "The temperature had no effect: dividing probabilities and making them add up to 1 again "
        "gives what you had.": lambda probabilities, temperature: probabilities,
        "Probabilities went into the softmax where logits belong: their logarithms would do.": (
            lambda probabilities, temperature: (probabilities / temperature).softmax(-1)
        ),
        "The columns add up to 1, but the rows should: the vocabulary is the last dimension.": (
            lambda probabilities, temperature: _reheated(probabilities, 1 / temperature, dim=0)
        ),
        "All rows together add up to 1: each is a distribution of its own (keepdim=True).": (
            lambda probabilities, temperature: _reheated(probabilities, 1 / temperature, (0, 1))
        ),
    },
    praise="Right: log-probabilities are logits too, and dividing them is taking a power.",
)
