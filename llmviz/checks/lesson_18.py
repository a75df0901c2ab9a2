"""Self-checks of lesson 18: right at least once in n draws, and the strategies on the frontier."""

from __future__ import annotations

import torch

from . import Exercise, normal

_P = torch.tensor([0.9, 0.5, 0.1, 0.0])
_Q = torch.tensor([1.0, 0.25, 0.3])


def _at_least_once(p, n):
    return (1 - (1 - p) ** n).mean().item()


at_least_once = Exercise(
    right=_at_least_once,
    cases=[(_P, 3), (_Q, 2), (_P, 1)],
    drawn=lambda dice: (
        normal(dice.randint(2, 6), seed=dice.getrandbits(32)).sigmoid(),
        dice.randint(1, 6),
    ),
    mistakes={
        "The mean was taken first, and one question of average difficulty was asked n times. Each "
        "question has its own chance: take the mean last.": lambda p, n: (
            1 - (1 - p.mean().item()) ** n
        ),
        "The chances of n draws were added up, and a sum can exceed 1. Ask first how likely it is "
        "that all n are wrong.": lambda p, n: (n * p).mean().item(),
        "The sum of n chances was cut off at 1. Ask first how likely it is that all n are wrong.": (
            lambda p, n: (n * p).clamp(max=1).mean().item()
        ),
        "This is the chance that all n draws are right. One is enough.": lambda p, n: (
            (p**n).mean().item()
        ),
        "This is the chance that not all n draws are right. Which ones must fail for there to be "
        "no right one?": lambda p, n: (1 - p**n).mean().item(),
        "This is the chance that all n draws are wrong: the complement is wanted.": lambda p, n: (
            ((1 - p) ** n).mean().item()
        ),
        "These are the chances of the single questions. Return their mean.": lambda p, n: (
            1 - (1 - p) ** n
        ),
    },
    praise="Right: what papers call pass@n.",
)


def _better(a, b):
    """a is at least as good as b in both measures, and better in one."""
    return a[0] >= b[0] and a[1] <= b[1] and a != b


def _unbeaten(points, better=_better):
    return sorted(
        name
        for name, own in points.items()
        if not any(better(other, own) for other in points.values())
    )


def _best_in_one(points):
    likely = max(p[0] for p in points.values())
    least = min(p[1] for p in points.values())
    return sorted(name for name, p in points.items() if p[0] == likely or p[1] == least)


_CLEAR = {"good": (-1.0, 0.2), "fair": (-2.0, 0.5), "bad": (-3.0, 0.5)}
_POINTS = {
    "a": (-1.0, 0.9),
    "b": (-1.5, 0.4),
    "c": (-1.6, 0.6),
    "d": (-3.0, 0.1),
    "e": (-3.0, 0.2),
    "f": (-2.0, 0.9),
}
_TWINS = {"x": (-2.0, 0.3), "y": (-2.0, 0.3), "z": (-1.0, 0.5), "w": (-2.5, 0.3)}

frontier = Exercise(
    right=_unbeaten,
    cases=[(_CLEAR,), (_POINTS,), (_TWINS,)],
    drawn=lambda dice: (
        {
            name: (dice.randint(-6, -1) / 2, dice.randint(0, 5) / 5)
            for name in dice.sample("abcdefgh", dice.randint(2, 6))
        },
    ),
    mistakes={
        "A high self-BLEU was taken for good. It means that answers repeat one another: lower is "
        "more diverse.": lambda points: _unbeaten(
            points, lambda a, b: a[0] >= b[0] and a[1] >= b[1] and a != b
        ),
        "A low log-probability was taken for good. −1 is likelier than −3.": lambda points: (
            _unbeaten(points, lambda a, b: a[0] <= b[0] and a[1] <= b[1] and a != b)
        ),
        "Only the winners of a single measure are left. A strategy between them stays, too, as "
        "long as no other is at least as good in both.": _best_in_one,
        "A strategy stayed though another is as good in one measure and better in the other. Such "
        "a one is beaten.": lambda points: _unbeaten(
            points, lambda a, b: a[0] > b[0] and a[1] < b[1]
        ),
        "Whoever is worse than another in one measure was thrown out. To be beaten, it must not "
        "be better in the other.": lambda points: _unbeaten(
            points, lambda a, b: a[0] > b[0] or a[1] < b[1]
        ),
        "Every strategy was thrown out: each is as good as itself. To be beaten, it must be worse "
        "than another in something.": lambda points: _unbeaten(
            points, lambda a, b: a[0] >= b[0] and a[1] <= b[1]
        ),
        "These are the beaten ones. Return the others.": lambda points: sorted(
            set(points) - set(_unbeaten(points))
        ),
        "The right names, but not sorted.": lambda points: sorted(_unbeaten(points), reverse=True),
    },
    praise="Right: this is the Pareto frontier.",
)
