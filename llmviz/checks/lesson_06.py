"""Checks of lesson 06: one step of beam search, and the final score of a hypothesis."""

import math

import torch

from . import Exercise, normal


def _unflatten(flat, columns):
    return flat // columns, flat % columns


def _top(candidates, num_beams):
    best, flat = candidates.flatten().topk(num_beams)
    return best, *_unflatten(flat, candidates.shape[-1])


def _step(totals, log_probs, num_beams):
    return _top(totals[:, None] + log_probs, num_beams)


def _one_a_beam(totals, log_probs, num_beams, ranked=False):
    best, tokens = (totals[:, None] + log_probs).max(-1)
    parents = best.argsort(descending=True) if ranked else torch.arange(len(best))
    return best[parents][:num_beams], parents[:num_beams], tokens[parents][:num_beams]


def _per_row(totals, log_probs, num_beams):
    best, flat = (totals[:, None] + log_probs).topk(num_beams)
    return best, *_unflatten(flat, log_probs.shape[-1])


def _parents_by_beams(totals, log_probs, num_beams):
    best, flat = (totals[:, None] + log_probs).flatten().topk(num_beams)
    return best, *_unflatten(flat, len(totals))


def _flat_tokens(totals, log_probs, num_beams):
    best, flat = (totals[:, None] + log_probs).flatten().topk(num_beams)
    return best, flat // log_probs.shape[-1], flat


def _fractions(totals, log_probs, num_beams):
    best, flat = (totals[:, None] + log_probs).flatten().topk(num_beams)
    return best, flat / log_probs.shape[-1], flat % log_probs.shape[-1]


def _swapped(totals, log_probs, num_beams):
    best, parents, tokens = _step(totals, log_probs, num_beams)
    return best, tokens, parents


_PROBABILITIES = [
    [0.05, 0.5, 0.3, 0.1, 0.05],
    [0.03, 0.07, 0.02, 0.28, 0.6],
    [0.9, 0.02, 0.05, 0.02, 0.01],
]


def _any_step(dice):
    beams = dice.randint(2, 4)
    log_probs = (
        2 * normal(beams, dice.randint(beams + 1, 9), seed=dice.getrandbits(32))
    ).log_softmax(-1)
    return normal(beams, seed=dice.getrandbits(32)) - 3, log_probs, dice.randint(1, beams)


beam_step = Exercise(
    right=_step,
    cases=[
        (torch.tensor([-1.0, -1.1, -4.0]), torch.tensor(_PROBABILITIES).log(), 3),
        (torch.tensor([-2.0, -1.0, -3.0]), torch.tensor(_PROBABILITIES).log(), 2),
    ],
    drawn=_any_step,
    mistakes={
        "Each beam kept its own best continuation. They compete with each other: one topk over "
        "the continuations of all beams.": _one_a_beam,
        "Each beam kept its own best continuation, and these were ranked. They compete with each "
        "other: one topk over the continuations of all beams.": (
            lambda *case: _one_a_beam(*case, ranked=True)
        ),
        "topk ran along each row: flatten first, so that all beams' continuations compete.": (
            _per_row
        ),
        "The running totals were left out: a hypothesis is ranked by all of its tokens, not by "
        "the newest.": lambda totals, log_probs, num_beams: _top(log_probs, num_beams),
        "Log-probabilities were multiplied: a product of probabilities is their sum.": (
            lambda totals, log_probs, num_beams: _top(totals[:, None] * log_probs, num_beams)
        ),
        "Parents and tokens are exchanged: in the flat index, a hypothesis is a row and a token a "
        "column.": _swapped,
        "The flat index was taken apart by the number of beams: a row is as long as the "
        "vocabulary.": _parents_by_beams,
        "The tokens are still flat indices, over all beams: take the remainder.": _flat_tokens,
        "The parents are fractions: divide with //, which gives the row.": _fractions,
    },
    praise="Right: the two // and % are what most beam searches get wrong first.",
)


final_score = Exercise(
    right=lambda total, length, penalty: total / length**penalty,
    cases=[(-6.0, 4, 2.0), (-6.0, 4, 0.5), (-6.0, 4, 1.0), (-6.0, 4, 0.0), (-7.5, 12, -1.0)],
    drawn=lambda dice: (-dice.uniform(1, 30), dice.randint(2, 40), round(dice.uniform(-2, 2), 2)),
    mistakes={
        "The sum was multiplied by the power of the length: divide by it.": (
            lambda total, length, penalty: total * length**penalty
        ),
        "The sign is the other way: a sum of log-probabilities is negative, and so is the score.": (
            lambda total, length, penalty: -total / length**penalty
        ),
        "This is the mean of a token, whatever the penalty: it is the exponent of the length.": (
            lambda total, length, penalty: total / length
        ),
        "The length was multiplied by the penalty: it is the exponent.": (
            lambda total, length, penalty: total / (length * penalty or math.nan)
        ),
        "Base and exponent are exchanged: the length is raised to the penalty.": (
            lambda total, length, penalty: total / (penalty**length or math.nan)
        ),
        "The penalty was subtracted for each token: here the sum is divided.": (
            lambda total, length, penalty: total - penalty * length
        ),
        "This is the formula of Google's translation system, ((5 + length) / 6) ** penalty: "
        "transformers uses the length itself.": (
            lambda total, length, penalty: total / ((5 + length) / 6) ** penalty
        ),
    },
    praise="Right: to get shorter texts, the penalty has to be negative.",
)
