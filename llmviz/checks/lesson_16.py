"""Self-checks of lesson 16: padding on the left, reading at the last token, wasted row-steps."""

from __future__ import annotations

import torch

from . import Exercise, Ways


def _padded(rows, pad_id, *, left=True):
    width = max(map(len, rows))
    pads = [[pad_id] * (width - len(row)) for row in rows]
    return torch.tensor([p + r if left else r + p for p, r in zip(pads, rows, strict=True)])


def _left_pad(rows, pad_id):
    ones = [[1] * len(row) for row in rows]
    return _padded(rows, pad_id), _padded(ones, 0)


def _right_pad(rows, pad_id):
    ones = [[1] * len(row) for row in rows]
    return _padded(rows, pad_id, left=False), _padded(ones, 0, left=False)


def _from_ids(rows, pad_id):
    ids = _padded(rows, pad_id)
    return ids, (ids != pad_id).long()


def _cropped(rows, pad_id):
    width = min(map(len, rows))
    ids = torch.tensor([row[-width:] for row in rows])
    return ids, torch.ones_like(ids)


left_pad = Exercise(
    right=_left_pad,
    # The second case has the pad id inside a prompt and at its start, as chats have end tokens.
    cases=[
        ([[5, 6, 7], [8], [9, 4]], 0),
        ([[2, 5, 2, 8, 6], [7, 2], [2, 3, 4]], 2),
        ([[1, 2], [3, 4]], 9),
    ],
    drawn=lambda dice: (
        [dice.choices(range(1, 9), k=dice.randint(1, 6)) for _ in range(dice.randint(1, 5))],
        dice.randrange(9),
    ),
    mistakes={
        "The pads stand on the right: a short row would end in a pad, and be continued there.": (
            _right_pad
        ),
        "The mask is 1 everywhere, so the pads are read as text.": lambda rows, pad_id: (
            _padded(rows, pad_id),
            torch.ones_like(_padded(rows, pad_id)),
        ),
        "The mask is the wrong way round: 1 is for what may be seen, 0 for a pad.": (
            lambda rows, pad_id: (_padded(rows, pad_id), 1 - _left_pad(rows, pad_id)[1])
        ),
        "The ids are padded on the left and the mask on the right: they must agree.": (
            lambda rows, pad_id: (_padded(rows, pad_id), _right_pad(rows, pad_id)[1])
        ),
        "The mask was taken from the ids, and hides a real token that equals the pad id. Take it "
        "from the lengths.": _from_ids,
        "Longer rows were cut to the shortest one: nothing may be lost.": _cropped,
        "The two are in the wrong order: ids first, then the mask.": lambda rows, pad_id: _left_pad(
            rows, pad_id
        )[::-1],
        "These are the ids alone. The mask is missing.": _padded,
    },
    praise="Right: every row ends in its own last token, and the mask knows the pads.",
)


def _at(logits, column):
    return logits[torch.arange(len(logits)), column]


def _last(mask):
    return (mask * torch.arange(mask.shape[1])).argmax(-1)


def _last_logits(logits, mask):
    return _at(logits, _last(mask))


def _logits(rows: int, tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, tokens, 6, generator=torch.Generator().manual_seed(seed))


_RIGHT = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])


def _any_batch(dice):
    """Padded on the left or on the right, or on both sides in turn."""
    rows = []
    for _ in range(dice.randint(1, 4)):
        ones = dice.randint(1, 5)
        row = [1] * ones + [0] * (5 - ones)
        rows.append(row[:: dice.choice([-1, 1])])
    return _logits(len(rows), 5, dice.getrandbits(32)), torch.tensor(rows)


last_logits = Exercise(
    right=_last_logits,
    cases=[
        (_logits(3, 5, 1), _RIGHT),
        (_logits(3, 5, 2), _RIGHT.flip(1)),
        (_logits(2, 3, 3), torch.ones(2, 3, dtype=torch.long)),
    ],
    drawn=_any_batch,
    mistakes={
        "Every row was read at the last column. A row padded on the right has a pad there.": (
            lambda logits, mask: logits[:, -1]
        ),
        "Every row was read at the first row's place. Each has its own.": Ways(
            lambda logits, mask: logits[:, mask[0].sum() - 1],
            lambda logits, mask: logits[:, mask[0].nonzero()[-1, 0]],
        ),
        "You read one column too early: the number of tokens minus 1 is the last place already.": (
            lambda logits, mask: _at(logits, _last(mask) - 1)
        ),
        "You read one column too late: counting begins at 0.": Ways(
            lambda logits, mask: _at(logits, mask.sum(-1).clamp(max=mask.shape[1] - 1)),
            lambda logits, mask: _at(logits, (_last(mask) + 1).clamp(max=mask.shape[1] - 1)),
        ),
        "You counted the tokens of a row, which is its last place only where no pads stand in "
        "front.": lambda logits, mask: _at(logits, mask.sum(-1) - 1),
        "A row was read at its first real token: `argmax` finds the first of equal ones.": (
            lambda logits, mask: _at(logits, mask.argmax(-1))
        ),
    },
    praise="Right: padded left or right, it reads where the prompt ends.",
)


def _batches(new_tokens, size):
    return [new_tokens[i : i + size] for i in range(0, len(new_tokens), size)]


def _share(used, seats):
    return 1 - used / seats


def _wasted_share(new_tokens, size):
    return _share(sum(new_tokens), sum(len(b) * max(b) for b in _batches(new_tokens, size)))


def _mean_of_shares(new_tokens, size):
    shares = [_wasted_share(b, len(b)) for b in _batches(new_tokens, size)]
    return sum(shares) / len(shares)


def _to_useful(new_tokens, size):
    wasted = _wasted_share(new_tokens, size)
    return wasted / (1 - wasted)


wasted_share = Exercise(
    right=_wasted_share,
    cases=[([8, 12, 7, 24, 30, 3], 4), ([5, 40, 7, 38, 6, 45, 8], 2), ([9, 9, 9], 8)],
    drawn=lambda dice: (
        [dice.randint(1, 60) for _ in range(dice.randint(2, 11))],
        dice.randint(1, 5),
    ),
    mistakes={
        "This is the share of steps that were used. Wasted are the others.": lambda n, size: (
            1 - _wasted_share(n, size)
        ),
        "The wasted steps were divided by the used ones. Divide by all.": _to_useful,
        "All answers were put into one batch: each batch of `batch_size` waits only for its own "
        "longest.": lambda n, size: _wasted_share(n, len(n)),
        "The last batch was counted with empty rows. It has only as many as there are left.": (
            lambda n, size: _share(sum(n), sum(size * max(b) for b in _batches(n, size)))
        ),
        "The last, smaller batch was left out.": lambda n, size: _wasted_share(
            n[: len(n) // size * size] or n, size
        ),
        "This is the mean of the batches' shares. A batch with more steps counts for more: add up "
        "first.": _mean_of_shares,
        "The answers were sorted first. They run in the order of the list.": lambda n, size: (
            _wasted_share(sorted(n), size)
        ),
        "This is the number of wasted steps. Divide it by all.": lambda n, size: float(
            sum(len(b) * max(b) for b in _batches(n, size)) - sum(n)
        ),
    },
    praise="Right. Now try the eight lengths, as they came and sorted.",
)
