"""Checks of lesson 07: the repetition penalty, presence and frequency, n-gram blocking."""

import torch

from . import Exercise, normal


def _penalised(scores, ids, penalty, lower=None):
    lower = lower or (lambda s: torch.where(s > 0, s / penalty, s * penalty))
    scores = scores.clone()
    seen = torch.tensor(sorted(set(ids)), dtype=torch.long)
    scores[seen] = lower(scores[seen])
    return scores


def _per_count(scores, ids, penalty):
    for i in ids:
        scores = _penalised(scores, [i], penalty)
    return scores


def _the_others(scores, ids, penalty):
    return _penalised(scores, set(range(len(scores))) - set(ids), penalty)


_SCORES = torch.tensor([2.0, -1.0, 0.0, 3.0, -2.5, 1.0])


def _any_text(dice):
    return 2 * normal(6, seed=dice.getrandbits(32)), dice.choices(range(6), k=dice.randint(1, 9))


repetition_penalty = Exercise(
    right=_penalised,
    cases=[
        (_SCORES, [0, 1, 3, 0, 4, 0], 1.5),
        (_SCORES, [4, 2], 2.0),
        (_SCORES, [0, 4, 4], 0.5),
    ],
    drawn=lambda dice: (*_any_text(dice), round(dice.uniform(0.5, 2), 2)),
    mistakes={
        "Negative scores were divided as well, which brings them closer to 0: a reward. What makes "
        "a negative score smaller?": (
            lambda s, ids, penalty: _penalised(s, ids, penalty, lambda x: x / penalty)
        ),
        "A token that was said several times was penalised several times. Once is enough: only "
        "whether it was said matters.": _per_count,
        "Positive scores were multiplied, negative ones divided: the wrong way round, a reward.": (
            lambda s, ids, penalty: _penalised(s, ids, 1 / penalty)
        ),
        "All scores were multiplied. A positive score gets larger that way.": (
            lambda s, ids, penalty: _penalised(s, ids, penalty, lambda x: x * penalty)
        ),
        "The penalty was subtracted, as the presence penalty is; this one divides or multiplies.": (
            lambda s, ids, penalty: _penalised(s, ids, penalty, lambda x: x - penalty)
        ),
        "All tokens were penalised, whether they were said or not.": (
            lambda s, ids, penalty: _penalised(s, range(len(s)), penalty)
        ),
        "The tokens that were not said were penalised, and those that were said were spared.": (
            _the_others
        ),
        "Only the last token was penalised: all of the text counts.": (
            lambda s, ids, penalty: _penalised(s, ids[-1:], penalty)
        ),
    },
    praise="Right: what transformers computes.",
)


def _subtracted(scores, generated, presence, frequency):
    count = torch.bincount(torch.tensor(generated, dtype=torch.long), minlength=len(scores))
    return scores - presence * (count > 0) - frequency * count


def _divided(scores, generated, presence, frequency):
    length = max(len(generated), 1)
    return _subtracted(scores, generated, presence, frequency / length)


presence_frequency = Exercise(
    right=_subtracted,
    cases=[
        (_SCORES, [0, 1, 3, 0, 4, 0], 0.5, 0.2),
        (_SCORES, [5, 5, 4], 1.0, 0.0),
        (_SCORES, [5, 5, 4], 0.0, -1.0),
        (_SCORES, [], 1.0, 1.0),
    ],
    drawn=lambda dice: (*_any_text(dice), *(round(dice.uniform(-2, 2), 2) for _ in range(2))),
    mistakes={
        "Presence was subtracted for each time that the token was said. Presence takes its share "
        "once; only frequency counts.": (
            lambda s, ids, presence, frequency: _subtracted(s, ids, 0.0, presence + frequency)
        ),
        "Frequency was subtracted once. It takes its share each time that the token was said.": (
            lambda s, ids, presence, frequency: _subtracted(s, ids, presence + frequency, 0.0)
        ),
        "The two were exchanged: presence subtracts once, frequency per count.": (
            lambda s, ids, presence, frequency: _subtracted(s, ids, frequency, presence)
        ),
        "The penalties were added, which rewards what has been said.": (
            lambda s, ids, presence, frequency: _subtracted(s, ids, -presence, -frequency)
        ),
        "Presence was subtracted from every token, said or not.": (
            lambda s, ids, presence, frequency: _subtracted(s, ids, 0.0, frequency) - presence
        ),
        "The count was divided by the length of the text. It is the plain count that counts.": (
            _divided
        ),
        "Only the presence penalty is there: the frequency penalty is missing.": (
            lambda s, ids, presence, frequency: _subtracted(s, ids, presence, 0.0)
        ),
        "Only the frequency penalty is there: the presence penalty is missing.": (
            lambda s, ids, presence, frequency: _subtracted(s, ids, 0.0, frequency)
        ),
    },
    praise="Right: the OpenAI API's definition, and vLLM's.",
)


def _in_order(ids, n):
    """The banned tokens, in the order of the places that ban them."""
    begun = ids[max(len(ids) - n + 1, 0) :]
    ngrams = [ids[i : i + n] for i in range(len(ids) - n + 1)]
    return [ngram[-1] for ngram in ngrams if ngram[:-1] == begun]


def _banned(ids, n):
    return set(_in_order(ids, n))


def _minus_zero(ids, n):
    """With n = 1, ids[-0:] is the whole list, and no n-gram begins with that."""
    return _banned(ids, n) if n > 1 else set()


def _last_of_all(ids, n):
    return {ids[i + n - 1] for i in range(len(ids) - n + 1)}


banned_tokens = Exercise(
    right=_banned,
    cases=[
        ([9, 1, 2, 3, 4, 2, 5, 1, 2], 3),
        ([1, 2, 3, 1, 2, 4, 1, 2], 3),
        ([7, 8, 7], 2),
        ([5, 5, 5], 3),
        ([1, 2], 4),
        ([6, 9, 6], 1),
        ([1, 11, 5, 11, 1, 7, 1, 11], 3),
        ([2, 1, 8, 1, 2], 3),  # the same tokens, in another order
        ([11, 1, 5, 1, 11], 3),  # the same digits
    ],
    drawn=lambda dice: (dice.choices([1, 11, 2], k=dice.randint(4, 12)), dice.randint(1, 4)),
    mistakes={
        "One token too few was compared: the n-gram to come begins with the last n − 1 tokens.": (
            lambda ids, n: _banned(ids, max(n - 1, 1))
        ),
        "The last n tokens were compared. With the token to come that makes n + 1: compare the "
        "last n − 1.": lambda ids, n: _banned(ids, n + 1),
        "Every n-gram's last token was banned. Only those count whose first n − 1 tokens are the "
        "last n − 1 of the text.": _last_of_all,
        "All tokens of the text were banned, which is right for n = 1 only.": (
            lambda ids, n: set(ids)
        ),
        "Only the first place was found: the same n − 1 tokens may stand in several.": (
            lambda ids, n: set(_in_order(ids, n)[:1])
        ),
        "Only the latest place was found: the same n − 1 tokens may stand in several.": (
            lambda ids, n: set(_in_order(ids, n)[-1:])
        ),
        "Right for n of 2 or more. With n = 1 the last n − 1 tokens are none, but ids[-0:] is the "
        "whole list.": _minus_zero,
        "A set was asked for, so that each banned token is in it once.": (_in_order),
    },
    praise="Right: these get the score −∞.",
)
