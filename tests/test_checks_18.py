"""Lesson 18's self-checks know the right answers, and name the usual wrong ones."""

import math

import torch

from llmviz.checks import lesson_18
from tests.checks import shared_tests


def right_once(p, n):
    return sum(1 - math.prod([1 - x] * n) for x in p.tolist()) / len(p)


def right_frontier(points):
    left = set(points)
    for name, (likely, alike) in points.items():
        for other_likely, other_alike in points.values():
            as_good = other_likely >= likely and other_alike <= alike
            if as_good and (other_likely > likely or other_alike < alike):
                left.discard(name)
    return sorted(left)


RIGHT = {"at_least_once": right_once, "frontier": right_frontier}


def mean_as_tensor(p, n):
    return (1 - (1 - p).pow(n)).mean()


def mean_first(p, n):
    failed = 1.0
    for _ in range(n):
        failed *= 1 - sum(p.tolist()) / len(p)
    return 1 - failed


def added(p, n):
    return sum(n * x for x in p.tolist()) / len(p)


def added_and_cut(p, n):
    return sum(min(n * x, 1.0) for x in p.tolist()) / len(p)


def all_right(p, n):
    return sum(x**n for x in p.tolist()) / len(p)


def not_all_right(p, n):
    return 1 - all_right(p, n)


def all_wrong(p, n):
    return 1 - right_once(p, n)


def no_mean(p, n):
    return torch.tensor([1 - (1 - x) ** n for x in p.tolist()])


def beaten_where(points, beaten):
    return sorted(
        name for name, p in points.items() if not any(beaten(p, q) for q in points.values())
    )


def alike_is_good(points):
    return right_frontier_of(points, lambda p: (p[0], -p[1]))


def unlikely_is_good(points):
    return right_frontier_of(points, lambda p: (-p[0], p[1]))


def right_frontier_of(points, change):
    return right_frontier({name: change(p) for name, p in points.items()})


def winners(points):
    ranked = sorted(points.values())
    most_likely, most_diverse = ranked[-1][0], min(p[1] for p in ranked)
    return sorted(n for n, p in points.items() if most_likely == p[0] or most_diverse == p[1])


def strictly_in_both(points):
    return beaten_where(points, lambda p, q: q[0] > p[0] and q[1] < p[1])


def worse_in_one(points):
    return beaten_where(points, lambda p, q: q[0] > p[0] or q[1] < p[1])


def beaten_by_itself(points):
    return beaten_where(points, lambda p, q: q[0] >= p[0] and q[1] <= p[1])


def the_beaten(points):
    return sorted(name for name in points if name not in right_frontier(points))


def backwards(points):
    return right_frontier(points)[::-1]


WRONG = [
    ("at_least_once", mean_first, "The mean was taken first"),
    ("at_least_once", added, "The chances of n draws were added up"),
    ("at_least_once", added_and_cut, "The sum of n chances was cut off"),
    ("at_least_once", all_right, "This is the chance that all n draws are right"),
    ("at_least_once", not_all_right, "This is the chance that not all n draws are right"),
    ("at_least_once", all_wrong, "This is the chance that all n draws are wrong"),
    ("at_least_once", no_mean, "These are the chances of the single questions"),
    ("frontier", alike_is_good, "A high self-BLEU was taken for good"),
    ("frontier", unlikely_is_good, "A low log-probability was taken for good"),
    ("frontier", winners, "Only the winners of a single measure"),
    ("frontier", strictly_in_both, "A strategy stayed though another"),
    ("frontier", worse_in_one, "Whoever is worse than another in one measure"),
    ("frontier", beaten_by_itself, "Every strategy was thrown out"),
    ("frontier", the_beaten, "These are the beaten ones"),
    ("frontier", backwards, "The right names, but not sorted"),
]

WILD = [
    ("at_least_once", lambda p, n: 7.0, "should be"),
    ("frontier", lambda points: ["greedy"], "should be ['good']"),
    ("frontier", lambda points: points["greedy"], "raised KeyError"),
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_18, RIGHT, WRONG, WILD, also_right=[("at_least_once", mean_as_tensor)]
)
