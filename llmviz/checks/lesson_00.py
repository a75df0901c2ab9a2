"""Checks of lesson 00: reading a table of probabilities."""

from ..tables import Table
from . import Exercise


def _tables():
    tokens, probabilities = ["␣the", "␣Paris", "␣New", "␣London"], [0.065, 0.773, 0.009, 0.012]
    table = Table({"token": tokens, "probability": probabilities})
    return [(table,), (table.iloc[[1, 3, 2, 0]],), (table.iloc[[3, 2, 0]],)]


def _winner(table):
    return table.loc[table.probability.idxmax(), "token"]


winner = Exercise(
    right=_winner,
    cases=_tables,
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
