"""Lesson 16's self-checks know the right answers, and name the usual wrong ones."""

import pytest
import torch

from llmviz.checks import lesson_16
from llmviz.tokens import encode
from tests.checks import shared_tests


def right_left_pad(rows, pad_id):
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
    return ids, mask


def right_last_logits(logits, mask):
    return torch.stack([rows[m.bool()][-1] for rows, m in zip(logits, mask, strict=True)])


def right_wasted_share(new_tokens, batch_size):
    wasted = seats = 0
    for start in range(0, len(new_tokens), batch_size):
        batch = new_tokens[start : start + batch_size]
        wasted += sum(max(batch) - n for n in batch)
        seats += max(batch) * len(batch)
    return wasted / seats


RIGHT = {
    "left_pad": right_left_pad,
    "last_logits": right_last_logits,
    "wasted_share": right_wasted_share,
}


def as_lists(rows, pad_id):
    return [x.tolist() for x in right_left_pad(rows, pad_id)]


def test_padding_agrees_with_the_package():
    def tokenizer(text, **_):
        return {"input_ids": [ord(c) for c in text]}

    texts = ["abc", "a", "ca"]
    ours = lesson_16.left_pad.right([[ord(c) for c in t] for t in texts], 97)
    for mine, theirs in zip(ours, encode(tokenizer, texts, pad_token_id=97), strict=True):
        assert torch.equal(mine, theirs)


def test_sorting_saves_what_the_exercise_hints_at():
    share, lengths = lesson_16.wasted_share.right, [5, 40, 7, 38, 6, 45, 8, 42]
    assert share(lengths, 4) == pytest.approx(149 / 340)
    assert share(sorted(lengths), 4) == pytest.approx(21 / 212)


def padded(rows, pad_id, left=True):
    width = max(len(row) for row in rows)
    fill = [[pad_id] * (width - len(row)) for row in rows]
    return torch.tensor(
        [pads + row if left else row + pads for pads, row in zip(fill, rows, strict=True)]
    )


def mask_of(rows, left=True):
    return padded([[1] * len(row) for row in rows], 0, left)


def id_mask(rows, pad_id):
    ids = padded(rows, pad_id)
    return ids, (ids != pad_id) * 1


def cut(rows, pad_id):
    ids = torch.tensor([row[len(row) - min(map(len, rows)) :] for row in rows])
    return ids, torch.ones_like(ids)


def one_by_one(logits, mask, place):
    return torch.stack([row[place(m)] for row, m in zip(logits, mask, strict=True)])


def last_place(m):
    return int(m.nonzero()[-1])


def seats(batches):
    return sum(max(batch) * len(batch) for batch in batches)


def cut_up(n, size):
    return [n[i : i + size] for i in range(0, len(n), size)]


def mean_share(n, size):
    shares = [1 - sum(batch) / seats([batch]) for batch in cut_up(n, size)]
    return sum(shares) / len(shares)


def with_empty_rows(n, size):
    return 1 - sum(n) / sum(max(batch) * size for batch in cut_up(n, size))


def without_rest(n, size):
    batches = [batch for batch in cut_up(n, size) if len(batch) == size] or [n]
    return 1 - sum(map(sum, batches)) / seats(batches)


def lost(n, size):
    return seats(cut_up(n, size)) - sum(n)


WRONG = [
    ("left_pad", lambda rows, p: (padded(rows, p, False), mask_of(rows, False)), "pads stand"),
    ("left_pad", lambda rows, p: (padded(rows, p), mask_of(rows) * 0 + 1), "1 everywhere"),
    ("left_pad", lambda rows, p: (padded(rows, p), (mask_of(rows) == 0) * 1), "wrong way round"),
    ("left_pad", lambda rows, p: (padded(rows, p), mask_of(rows, False)), "must agree"),
    ("left_pad", id_mask, "from the ids"),
    ("left_pad", cut, "were cut"),
    ("left_pad", lambda rows, p: (mask_of(rows), padded(rows, p)), "wrong order"),
    ("left_pad", padded, "mask is missing"),
    ("last_logits", lambda logits, m: logits[:, -1, :], "at the last column"),
    ("last_logits", lambda logits, m: logits[:, last_place(m[0])], "first row's place"),
    (
        "last_logits",
        lambda logits, m: one_by_one(logits, m, lambda m: last_place(m) - 1),
        "too early",
    ),
    (
        "last_logits",
        lambda logits, m: one_by_one(logits, m, lambda m: min(last_place(m) + 1, len(m) - 1)),
        "too late",
    ),
    (
        "last_logits",
        lambda logits, m: one_by_one(logits, m, lambda m: int(m.sum()) - 1),
        "You counted",
    ),
    (
        "last_logits",
        lambda logits, m: one_by_one(logits, m, lambda m: int(m.nonzero()[0])),
        "first real token",
    ),
    ("wasted_share", lambda n, size: sum(n) / seats(cut_up(n, size)), "that were used"),
    ("wasted_share", lambda n, size: lost(n, size) / sum(n), "by the used ones"),
    ("wasted_share", lambda n, size: 1 - sum(n) / (max(n) * len(n)), "one batch"),
    ("wasted_share", with_empty_rows, "empty rows"),
    ("wasted_share", without_rest, "left out"),
    ("wasted_share", mean_share, "mean of"),
    (
        "wasted_share",
        lambda n, size: 1 - sum(n) / seats(cut_up(sorted(n), size)),
        "sorted first",
    ),
    ("wasted_share", lost, "number of wasted"),
]

WILD = [
    ("left_pad", lambda rows, p: torch.tensor(rows), "raised ValueError"),
    ("left_pad", lambda rows, p: 7, "and is 7."),
    ("last_logits", lambda logits, m: logits, "should be (3, 6), and is (3, 5, 6)."),
    ("last_logits", lambda logits, m: logits[m], "The shape should be (3, 6)"),
    ("wasted_share", lambda n, size: 0.5, "and is 0.5."),
    ("wasted_share", lambda n, size: n[len(n)], "raised IndexError"),
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_16, RIGHT, WRONG, WILD, also_right=[("left_pad", as_lists)]
)
