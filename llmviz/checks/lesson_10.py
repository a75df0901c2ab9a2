"""Self-checks of lesson 10: the rule of speculative decoding, and a constraint to some answers."""

from __future__ import annotations

import torch

from . import Exercise, normal


def _accept(p, q):
    return (p / q).clamp(max=1)


def _normalised(weights):
    return weights / weights.sum()


def _over(p, q):
    return (p - q).clamp(min=0)


def _judge(p, q):
    return _accept(p, q), _normalised(_over(p, q))


judge = Exercise(
    right=_judge,
    cases=[
        (torch.tensor([0.5, 0.3, 0.15, 0.05]), torch.tensor([0.3, 0.5, 0.1, 0.1])),
        (torch.tensor([0.0, 0.2, 0.8]), torch.tensor([0.6, 0.3, 0.1])),
    ],
    drawn=lambda dice: tuple(normal(6, seed=dice.getrandbits(32)).softmax(-1) for _ in range(2)),
    mistakes={
        "p / q is above 1 where p is larger. A probability is at most 1: such a token always "
        "stays.": lambda p, q: (p / q, _judge(p, q)[1]),
        "The ratio is upside down: a token of which q draws too many has to go more often.": (
            lambda p, q: ((q / p).clamp(max=1), _judge(p, q)[1])
        ),
        "The residual does not add up to 1 yet.": lambda p, q: (_accept(p, q), _over(p, q)),
        "The residual has the wrong sign: it holds tokens of which q drew too many. What is "
        "missing is what p has over q.": lambda p, q: (_accept(p, q), _normalised(_over(q, p))),
        "The residual counts differences in both directions. Where q has more than p, nothing is "
        "missing.": lambda p, q: (_accept(p, q), _normalised((p - q).abs())),
        "Negative differences stayed in the residual, and a probability cannot be negative.": (
            lambda p, q: (_accept(p, q), p - q)
        ),
        "A softmax gives even tokens that nothing is missing of a share. Divide by the sum.": (
            lambda p, q: (_accept(p, q), _over(p, q).softmax(-1))
        ),
        "Tokens that go are redrawn from p itself. Then the likely ones, which were kept before, "
        "come up too often.": lambda p, q: (_accept(p, q), p),
        "The two are in the wrong order: first what is kept, then the residual.": (
            lambda p, q: _judge(p, q)[::-1]
        ),
    },
    praise="Right: together they give p, whatever q is.",
)


def _allowed(answers, written, eos):
    n = len(written)
    ended = [[*answer, eos] for answer in answers]
    return sorted({a[n] for a in ended if a[:n] == written and n < len(a)})


_CITIES = [[40, 7], [40, 8, 3], [21], [21, 5], [33, 8, 4]]


def _any_answers(dice):
    answers = [dice.choices([1, 11, 4, 30], k=dice.randint(1, 4)) for _ in range(6)]
    answer = dice.choice(answers)
    return answers, answer[: dice.randint(0, len(answer))], dice.choice([0, 20, 99])


allowed_tokens = Exercise(
    right=_allowed,
    cases=[(_CITIES, written, 2) for written in ([40], [21], [40, 8], [21, 5], [], [8])]
    + [([[1, 1, 5], [11, 4, 6]], [1, 1], 2)],  # the same digits
    drawn=_any_answers,
    mistakes={
        "What was written is ignored: only answers that begin with it count.": (
            lambda answers, written, eos: sorted(
                {[*a, eos][len(written)] for a in answers if len(written) <= len(a)}
            )
        ),
        "These are the first ids of the answers, whatever was written.": (
            lambda answers, written, eos: sorted({a[0] for a in answers})
        ),
        "Where an answer is complete, eos is missing: it could never end.": (
            lambda answers, written, eos: sorted(set(_allowed(answers, written, eos)) - {eos})
        ),
        "eos is allowed before any answer is complete.": lambda answers, written, eos: sorted(
            {*_allowed(answers, written, eos), eos}
        ),
        "A complete answer allows eos alone here, though a longer answer goes on from it.": (
            lambda answers, written, eos: (
                [eos] if written in answers else _allowed(answers, written, eos)
            )
        ),
        "These are all the ids still to come. Only the next one may be allowed.": (
            lambda answers, written, eos: sorted(
                {
                    i
                    for a in answers
                    if a[: len(written)] == written
                    for i in [*a, eos][len(written) :]
                }
            )
        ),
        "The same id stands there more than once.": lambda answers, written, eos: sorted(
            [*a, eos][len(written)] for a in answers if a[: len(written)] == written
        ),
        "The right ids, but not sorted.": lambda answers, written, eos: list(
            dict.fromkeys([*a, eos][len(written)] for a in answers if a[: len(written)] == written)
        ),
    },
    praise="Right: whatever the model likes, it can only write one of these answers.",
)
