"""Self-checks of lesson 12: the causal mask of a step with a cache, and the induction score."""

from __future__ import annotations

import torch

from . import Exercise, normal


def _scores(q, k):
    return q @ k.T / q.shape[-1] ** 0.5


def _future(q, k):
    return torch.ones(len(q), len(k)).triu(1 + len(k) - len(q)).bool()


def _masked(scores, future):
    return scores.masked_fill(future, -torch.inf).softmax(-1)


def _causal_weights(q, k):
    return _masked(_scores(q, k), _future(q, k))


def _any_step(dice):
    m, d = dice.randint(1, 4), dice.randint(2, 6)
    n = m + dice.randint(0, 4)
    return normal(m, d, seed=dice.getrandbits(32)), normal(n, d, seed=dice.getrandbits(32))


causal_weights = Exercise(
    right=_causal_weights,
    # A step of two new tokens, a whole prompt, and the usual step of one.
    cases=[
        (normal(2, 4, seed=1), normal(5, 4, seed=2)),
        (normal(4, 4, seed=3), normal(4, 4, seed=4)),
        (normal(1, 6, seed=5), normal(3, 6, seed=6)),
    ],
    drawn=_any_step,
    mistakes={
        "The mask begins at the first token, as if the queries were those of the first m. They "
        "belong to the last m, which see more.": lambda q, k: _masked(
            _scores(q, k), torch.ones(len(q), len(k)).triu(1).bool()
        ),
        "There is no mask: a query sees keys of later tokens.": lambda q, k: _scores(q, k).softmax(
            -1
        ),
        "A token cannot see itself. It may: only what comes after it is hidden.": lambda q, k: (
            _masked(_scores(q, k), torch.ones(len(q), len(k)).triu(len(k) - len(q)).bool())
        ),
        "Masked scores were set to 0, and e⁰ is 1: such a key still gets weight. Which score has "
        "the exponential 0?": lambda q, k: _scores(q, k).masked_fill(_future(q, k), 0).softmax(-1),
        "The mask came after the softmax, so rows with hidden keys add up to less than 1.": (
            lambda q, k: _scores(q, k).softmax(-1).masked_fill(_future(q, k), 0)
        ),
        "The softmax went down the columns. Each query, a row, has a weight of 1 to spend.": (
            lambda q, k: _scores(q, k).masked_fill(_future(q, k), -torch.inf).softmax(0)
        ),
        "The scores were not divided by √d.": lambda q, k: _masked(q @ k.T, _future(q, k)),
        "The scores were divided by d, not by its root.": lambda q, k: _masked(
            q @ k.T / q.shape[-1], _future(q, k)
        ),
        "These are the scores, masked. The softmax is missing.": lambda q, k: _scores(
            q, k
        ).masked_fill(_future(q, k), -torch.inf),
    },
    praise="Right: one mask for a whole prompt, and for a step with a cache.",
)


def _induction(weights, ids, *, shift=1, only=slice(None), divide_by_all=False):
    found = []
    for i in range(len(ids)):
        places = [j + shift for j in range(i) if ids[j] == ids[i]][only]
        if places:
            found.append(weights[i, places].sum().item())
    return sum(found) / (len(ids) if divide_by_all else len(found))


def _per_place(weights, ids):
    """The mean over pairs: a token that stood there three times counts three times."""
    pairs = [(i, j + 1) for i in range(len(ids)) for j in range(i) if ids[j] == ids[i]]
    return sum(weights[i, j].item() for i, j in pairs) / len(pairs)


def _map(tokens: int, seed: int) -> torch.Tensor:
    return _masked(normal(tokens, tokens, seed=seed), torch.ones(tokens, tokens).triu(1).bool())


def _any_repetition(dice):
    ids = [dice.randrange(5)]
    while len(ids) < 5 or len(set(ids)) == len(ids) or dice.random() < 0.7:
        ids.append(dice.choice([i for i in range(5) if i != ids[-1]]))
    return _map(len(ids), dice.getrandbits(32)), ids


induction_score = Exercise(
    right=_induction,
    # No token stands twice in a row: there the token behind would be the present one itself.
    cases=[
        (_map(9, 7), [5, 8, 6, 5, 8, 7, 5, 9, 8]),
        (_map(6, 8), [1, 2, 3, 1, 2, 3]),
    ],
    drawn=_any_repetition,
    mistakes={
        "The weight on the earlier place itself was taken. An induction head looks at the token "
        "behind it.": lambda w, ids: _induction(w, ids, shift=0),
        "The weight on the token before the earlier place was taken. What came next stands "
        "behind it.": lambda w, ids: _induction(w, ids, shift=-1),
        "Only the latest earlier place was looked at. A head may look at all of them: add up.": (
            lambda w, ids: _induction(w, ids, only=slice(-1, None))
        ),
        "Only the first earlier place was looked at, which is the one that `index` finds. Add up "
        "all of them.": lambda w, ids: _induction(w, ids, only=slice(1)),
        "The sum was divided by the number of all tokens. One that stands there for the first time "
        "has nothing to find, and does not count.": lambda w, ids: _induction(
            w, ids, divide_by_all=True
        ),
        "The mean was taken over all earlier places. Add up a token's weights first, then take the "
        "mean over the tokens.": _per_place,
        "The score is 0, as it is when rows and columns are the wrong way round: weights[i, j] is "
        "what i, the query, gives to j.": (lambda w, ids: _induction(w.T, ids)),
        "This is the sum over the tokens. Divide it by how many stood there before.": (
            lambda w, ids: len(ids) * _induction(w, ids, divide_by_all=True)
        ),
    },
    praise="Right: it finds an induction head in any text that repeats something.",
)
