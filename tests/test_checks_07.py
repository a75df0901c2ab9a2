"""Lesson 07's self-checks know the right answers, and name the usual wrong ones."""

from collections import Counter

import torch

from llmviz.checks import lesson_07
from tests.checks import shared_tests


def each(scores, ids, change):
    """The scores, with `change` made once to that of each id."""
    found = scores.tolist()
    for i in ids:
        found[i] = change(found[i])
    return torch.tensor(found)


def lowered(penalty):
    return lambda s: s / penalty if s > 0 else s * penalty


def right_repetition(scores, ids, penalty):
    return each(scores, set(ids), lowered(penalty))


def right_presence_frequency(scores, generated, presence, frequency):
    found = scores.tolist()
    for i, count in Counter(generated).items():
        found[i] -= presence + count * frequency
    return torch.tensor(found)


def right_banned(ids, n):
    followers = {}
    for i in range(len(ids) - n + 1):
        followers.setdefault(tuple(ids[i : i + n - 1]), set()).add(ids[i + n - 1])
    return followers.get(tuple(ids[len(ids) - n + 1 :]) if len(ids) >= n else None, set())


RIGHT = {
    "repetition_penalty": right_repetition,
    "presence_frequency": right_presence_frequency,
    "banned_tokens": right_banned,
}


def in_place(scores, ids, penalty):
    for i in set(ids):
        scores[i] = lowered(penalty)(scores[i])
    return scores


def per_position(subtract_once, subtract_each):
    def attempt(scores, generated, presence, frequency):
        found = scores.clone()
        for i in set(generated):
            found[i] -= subtract_once(presence, frequency)
        for i in generated:
            found[i] -= subtract_each(presence, frequency)
        return found

    return attempt


def presence_from_all(scores, generated, presence, frequency):
    return right_presence_frequency(scores - presence, generated, 0.0, frequency)


def relative(scores, generated, presence, frequency):
    share = frequency / len(generated) if generated else 0.0
    return right_presence_frequency(scores, generated, presence, share)


def first_place(ids, n):
    for i in range(len(ids) - n + 1):
        if ids[i : i + n - 1] == ids[len(ids) - n + 1 :]:
            return {ids[i + n - 1]}
    return set()


def latest_place(ids, n):
    for i in reversed(range(len(ids) - n + 1)):
        if ids[i : i + n - 1] == ids[len(ids) - n + 1 :]:
            return {ids[i + n - 1]}
    return set()


def minus_zero(ids, n):
    begun = ids[-(n - 1) :]
    return {ids[i + n - 1] for i in range(len(ids) - n + 1) if ids[i : i + n - 1] == begun}


def as_list(ids, n):
    begun = ids[len(ids) - n + 1 :]
    return [ids[i + n - 1] for i in range(len(ids) - n + 1) if ids[i : i + n - 1] == begun]


WRONG = [
    ("repetition_penalty", lambda s, ids, p: each(s, set(ids), lambda x: x / p), "divided as well"),
    ("repetition_penalty", lambda s, ids, p: each(s, ids, lowered(p)), "several times"),
    ("repetition_penalty", lambda s, ids, p: each(s, set(ids), lowered(1 / p)), "wrong way round"),
    (
        "repetition_penalty",
        lambda s, ids, p: each(s, {*ids}, lambda x: x * p),
        "All scores were multiplied",
    ),
    ("repetition_penalty", lambda s, ids, p: each(s, {*ids}, lambda x: x - p), "subtracted"),
    ("repetition_penalty", lambda s, ids, p: each(s, range(6), lowered(p)), "All tokens"),
    ("repetition_penalty", lambda s, ids, p: each(s, {*range(6)} - {*ids}, lowered(p)), "spared"),
    ("repetition_penalty", lambda s, ids, p: each(s, ids[-1:], lowered(p)), "last token"),
    ("presence_frequency", per_position(lambda p, f: 0, lambda p, f: p + f), "for each time that"),
    ("presence_frequency", per_position(lambda p, f: p + f, lambda p, f: 0), "Frequency was"),
    ("presence_frequency", per_position(lambda p, f: f, lambda p, f: p), "exchanged"),
    ("presence_frequency", per_position(lambda p, f: -p, lambda p, f: -f), "rewards"),
    ("presence_frequency", presence_from_all, "every token"),
    ("presence_frequency", relative, "length of the text"),
    (
        "presence_frequency",
        per_position(lambda p, f: p, lambda p, f: 0),
        "frequency penalty is missing",
    ),
    (
        "presence_frequency",
        per_position(lambda p, f: 0, lambda p, f: f),
        "presence penalty is missing",
    ),
    ("banned_tokens", lambda ids, n: right_banned(ids, max(n - 1, 1)), "too few was compared"),
    ("banned_tokens", lambda ids, n: right_banned(ids, n + 1), "last n tokens"),
    ("banned_tokens", lambda ids, n: {*ids[n - 1 :]}, "Every n-gram's last"),
    ("banned_tokens", lambda ids, n: {*ids}, "right for n = 1 only"),
    ("banned_tokens", first_place, "Only the first place"),
    ("banned_tokens", latest_place, "Only the latest place"),
    ("banned_tokens", minus_zero, "ids[-0:]"),
    ("banned_tokens", as_list, "A set was asked for"),
]

WILD = [
    ("repetition_penalty", lambda s, ids, penalty: s + 17, "should be"),
    ("presence_frequency", lambda s, generated, presence, frequency: s * 17, "should be"),
    ("banned_tokens", lambda ids, n: {17}, "should be"),
    ("banned_tokens", lambda ids, n: 1 / 0, "raised ZeroDivisionError"),
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_07, RIGHT, WRONG, WILD, also_right=[("repetition_penalty", in_place)]
)
