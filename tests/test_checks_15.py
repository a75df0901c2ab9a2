"""Lesson 15's self-checks know the right answers, and name the usual wrong ones."""

import pytest

from llmviz.checks import lesson_15
from tests.checks import shared_tests


@pytest.fixture(scope="module")
def tokenizer(default_model):
    return default_model[1]


def decode(tokenizer, ids, special=False):
    return tokenizer.decode(ids, skip_special_tokens=not special)


def right_pieces(tokenizer, ids):
    found, waiting = [], []
    for token in ids:
        waiting.append(token)
        text = decode(tokenizer, waiting)
        whole = text.rstrip("\ufffd")
        if whole != text:  # hold back all but a space in front of the half
            found.append(" " if whole == " " and len(waiting) == 1 else "")
        else:
            found.append(text[sum(map(len, found[len(found) - len(waiting) + 1 :])) :])
            waiting = []
    return found


def size(tokenizer, messages, prompt=True):
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    return len(tokenizer(text).input_ids)


def trimmed(tokenizer, messages, most, *, first=1, width=2, prompt=True, spare=0, least=2):
    kept = list(messages)
    while len(kept) > least and size(tokenizer, kept, prompt) > most - spare:
        del kept[first : first + width]
    return kept


RIGHT = {"pieces": right_pieces, "make_room": trimmed}


def test_pieces_join_to_the_text_and_never_hold_a_half(tokenizer):
    text = "naïve 🧑‍🚀 猫 and ❤️"
    ids = tokenizer(text).input_ids
    found = lesson_15.pieces.right(tokenizer, ids)
    assert "".join(found) == text and len(found) == len(ids)
    assert not any("\ufffd" in piece for piece in found)


def texts(tokenizer, ids, half=""):
    return [decode(tokenizer, ids[: n + 1]).rstrip(half or None) for n in range(len(ids))]


def shown(so_far):
    found, printed = [], 0
    for text in so_far:
        found.append(text[printed:])
        printed = len(text)
    return found


def every_half(tokenizer, ids):
    return shown([decode(tokenizer, ids[:n]) for n in range(1, len(ids) + 1)])


def the_end_too(tokenizer, ids):
    so_far = [decode(tokenizer, ids[:n], special=True) for n in range(1, len(ids) + 1)]
    return shown([text.rstrip("\ufffd") for text in so_far])


def newest(tokenizer, messages, most):
    kept = list(messages)
    while len(kept) > 2 and size(tokenizer, kept) > most:
        del kept[-3:-1]
    return kept


def to_the_last(tokenizer, messages, most):
    kept = list(messages)
    while len(kept) > 1 and size(tokenizer, kept) > most:
        del kept[1:3]
    return kept


WRONG = [
    ("pieces", lambda t, ids: [decode(t, [i]) for i in ids], "so the cat is three"),
    ("pieces", lambda t, ids: [decode(t, [i]).strip("\ufffd") for i in ids], "never appears"),
    ("pieces", every_half, "cannot take it back"),
    ("pieces", lambda t, ids: texts(t, ids, "\ufffd"), "whole texts so far"),
    ("pieces", the_end_too, "special token"),
    ("pieces", lambda t, ids: [p for p in right_pieces(t, ids) if p], "no string"),
    ("make_room", lambda *case: trimmed(*case, prompt=False), "generation prompt"),
    ("make_room", lambda *case: trimmed(*case, spare=1), "too many"),
    ("make_room", lambda *case: trimmed(*case, first=0), "system message"),
    ("make_room", lambda *case: trimmed(*case, width=1), "without its answer"),
    ("make_room", newest, "newest turns"),
    ("make_room", lambda tokenizer, messages, most: messages, "Nothing was dropped"),
    ("make_room", to_the_last, "new question is gone"),
]

WILD = [
    ("pieces", lambda t, ids: ["?"], "it should be ['c', 'af', "),
    ("pieces", lambda t, ids: t.decode(ids).x, "raised AttributeError"),
    ("make_room", lambda t, messages, most: messages[-1:], "it should be [{'role': 'system'"),
    ("make_room", lambda t, messages, most: len(messages), "and is 8."),
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_15, RIGHT, WRONG, WILD, context=dict.fromkeys(RIGHT, ["tokenizer"])
)


def test_an_attempt_may_work_in_place_and_spoils_no_later_check(tokenizer):
    def in_place(tokenizer, messages, most):
        while len(messages) > 2 and size(tokenizer, messages) > most:
            del messages[1:3]
        return messages

    for attempt in (in_place, trimmed):
        assert lesson_15.make_room.verdict(attempt, tokenizer).startswith("✓")
