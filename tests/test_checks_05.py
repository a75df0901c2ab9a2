"""Lesson 05's self-checks know the right answers, and name the usual wrong ones."""

import pytest
from transformers import AutoTokenizer

from llmviz.checks import lesson_05
from llmviz.models import default_model_folder
from tests.checks import shared_tests


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(default_model_folder())


def right_period(ids):
    lengths = (p for p in range(1, len(ids)) if 2 * p <= len(ids))
    ends = len(ids)
    return next((p for p in lengths if ids[ends - p :] == ids[ends - 2 * p : ends - p]), 0)


def right_distinct(ids, n):
    ngrams = list(zip(*(ids[i:] for i in range(n)), strict=False))
    return len({*ngrams}) / len(ngrams)


def right_until(tokenizer, ids, stop):
    written = []
    for token in ids:
        written.append(token)
        if stop in tokenizer.decode(written):
            break
    return len(written)


RIGHT = {"find_period": right_period, "distinct_n": right_distinct, "tokens_until": right_until}


def all_periods(ids):
    return [p for p in range(1, len(ids) // 2 + 1) if ids[-p:] == ids[-2 * p : -p]]


def back_to_the_same_token(ids):
    for back in range(1, len(ids)):
        if ids[-1 - back] == ids[-1]:
            return back
    return 0


def at_the_front(ids):
    for p in range(1, len(ids) // 2 + 1):
        if ids[:p] == ids[p : 2 * p]:
            return p
    return 0


def inside(ids):
    for p in range(1, len(ids) // 2 + 1):
        if any(ids[i : i + p] == ids[i + p : i + 2 * p] for i in range(len(ids) - 2 * p + 1)):
            return p
    return 0


def range_too_short(ids):
    for p in range(1, (len(ids) + 1) // 2):
        if ids[-p:] == ids[-2 * p : -p]:
            return p
    return 0


def side_by_side(ids, n):
    pieces = [tuple(ids[i : i + n]) for i in range(0, len(ids) - n + 1, n)]
    return len(set(pieces)) / len(pieces)


def last_missing(ids, n):
    pieces = [tuple(ids[i : i + n]) for i in range(len(ids) - n)]
    return len(set(pieces)) / len(pieces)


def with_stumps(ids, n):
    pieces = [tuple(ids[i : i + n]) for i in range(len(ids))]
    return len(set(pieces)) / len(pieces)


def once_only(ids, n):
    pieces = [tuple(ids[i : i + n]) for i in range(len(ids) + 1 - n)]
    return len([p for p in pieces if pieces.count(p) == 1]) / len(pieces)


def one_token_equals(tokenizer, ids, stop):
    words = tokenizer.batch_decode([[i] for i in ids])
    return 1 + words.index(stop) if stop in words else len(ids)


def one_token_holds_it(tokenizer, ids, stop):
    for t, token in enumerate(ids):
        if stop in tokenizer.decode(token):
            return t + 1
    return len(ids)


def ends_with_it(tokenizer, ids, stop):
    for t in range(len(ids)):
        if tokenizer.decode(ids[: t + 1]).endswith(stop):
            return t + 1
    return len(ids)


def index_of_it(tokenizer, ids, stop):
    for t in range(len(ids)):
        if stop in tokenizer.decode(ids[: t + 1]):
            return t
    return len(ids)


def zero_for_never(tokenizer, ids, stop):
    return right_until(tokenizer, ids, stop) if stop in tokenizer.decode(ids) else 0


WRONG = [
    ("find_period", back_to_the_same_token, "last appearance"),
    ("find_period", at_the_front, "first tokens were compared"),
    ("find_period", inside, "somewhere inside"),
    ("find_period", lambda ids: max([0, *all_periods(ids)]), "several rounds"),
    ("find_period", range_too_short, "fills the whole list was missed"),
    ("find_period", lambda ids: min([len(ids), *all_periods(ids)]), "return 0"),
    ("find_period", lambda ids: ids[len(ids) - right_period(ids) :], "its length was asked for"),
    (
        "distinct_n",
        lambda ids, n: right_distinct(ids, n) * (len(ids) + 1 - n),
        "The n-grams were counted",
    ),
    (
        "distinct_n",
        lambda ids, n: right_distinct(ids, n) * (len(ids) + 1 - n) / len(ids),
        "by the number of tokens",
    ),
    ("distinct_n", side_by_side, "They overlap"),
    ("distinct_n", last_missing, "last n-gram is missing"),
    ("distinct_n", with_stumps, "shorter than n"),
    ("distinct_n", once_only, "occur once"),
    ("distinct_n", lambda ids, n: 1 - right_distinct(ids, n), "share of repetition"),
    ("distinct_n", lambda ids, n: len(set(ids)) / len(ids), "Single tokens"),
    ("tokens_until", one_token_equals, "had to be all of it"),
    ("tokens_until", one_token_holds_it, "within single tokens"),
    ("tokens_until", ends_with_it, "ends inside a token"),
    ("tokens_until", index_of_it, "One too few"),
    ("tokens_until", lambda t, ids, stop: t.decode(ids).find(stop), "Characters"),
    ("tokens_until", zero_for_never, "never comes"),
]

WILD = [
    ("find_period", lambda ids: 17, "should be"),
    ("distinct_n", lambda ids, n: 0.123, "should be"),
    ("distinct_n", lambda ids, n: 1 / 0, "raised ZeroDivisionError"),
    ("tokens_until", lambda t, ids, stop: 1234, "should be"),
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_05, RIGHT, WRONG, WILD, context={"tokens_until": ["tokenizer"]}
)
