"""Checks of lesson 00: reading a table of probabilities."""

import torch

from ..tables import Table
from . import Exercise

_TOKENS = ["␣the", "␣Paris", "␣New", "␣London", "␣a", "␣located", "␣Le", "␣Berlin", ",", "\\n"]


def _table(logits, order, *, keep_labels=True):
    """What `logits_to_frame` makes of the tokens above, its rows in another order."""
    logits = torch.tensor(logits, dtype=torch.float64)
    top = logits.topk(len(order))
    log_probs = logits.log_softmax(-1)[top.indices]
    columns = {
        "rank": range(1, len(order) + 1),
        "token_id": (top.indices * 100 + 260).tolist(),
        "token": [_TOKENS[i] for i in top.indices],
        "logit": top.values.tolist(),
        "log_prob": log_probs.tolist(),
        "probability": log_probs.exp().tolist(),
    }
    table = Table(columns).iloc[order]
    return (table if keep_labels else table.reset_index(drop=True),)


def _tables():
    logits = [14.9, 17.4, 12.7, 13.2, 12.5, 12.4, 13.0, 11.0, 10.5, 10.0]
    return [
        _table(logits, [1, 0, 2, 3]),
        _table(logits[::-1], [3, 1, 2, 0, 4]),
        _table([1.0, 1.5, 0.5, 2.0, 0.0, 0.2, -1.0, -2.0, 0.9, 1.2], [2, 1, 0], keep_labels=False),
    ]


def _any_table(dice):
    rows = dice.randint(2, 6)
    logits = [dice.gauss(0, 2) for _ in _TOKENS]
    return _table(logits, dice.sample(range(rows), rows), keep_labels=dice.random() < 0.5)


def _winner(table):
    return table.loc[table.probability.idxmax(), "token"]


winner = Exercise(
    right=_winner,
    cases=_tables,
    drawn=_any_table,
    mistakes={
        "This is the token of the first row: the rows are shuffled, so look for the highest "
        "probability.": lambda table: table.token.iloc[0],
        "This is the highest probability: the token that has it was asked for.": (
            lambda table: table.probability.max()
        ),
        "This is the label of the row: take the token that stands in it.": (
            lambda table: int(table.probability.idxmax())
        ),
        "This is the least likely token of the table.": (
            lambda table: table.loc[table.probability.idxmin(), "token"]
        ),
    },
)

left_out = Exercise(
    right=lambda table: float(1 - table.probability.sum()),
    cases=_tables,
    drawn=_any_table,
    mistakes={
        "This is what the table holds: what it leaves out is the rest, up to 1.": (
            lambda table: float(table.probability.sum())
        ),
        "This is a percentage: a number from 0 to 1 was asked for.": (
            lambda table: float(100 * (1 - table.probability.sum()))
        ),
        "Only the likeliest token was taken away from 1: take away all that are shown.": (
            lambda table: float(1 - table.probability.max())
        ),
        "Tokens were counted: their probabilities are not equal, so counting does not help.": (
            lambda table: 1 - len(table) / 49152
        ),
    },
)
