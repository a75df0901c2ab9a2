"""Lesson 00's self-checks know the right answers, and name the usual wrong ones."""

from llmviz.checks import lesson_00
from tests.checks import shared_tests

RIGHT = {
    "winner": lambda table: table.sort_values("probability").token.iloc[-1],
    "left_out": lambda table: 1 - sum(table.probability.tolist()),
}
WRONG = [
    ("winner", lambda t: t.iloc[0].token, "the token of the first row"),
    ("winner", lambda t: float(max(t.probability)), "This is the highest probability"),
    ("winner", lambda t: int(t.sort_values("probability").index[-1]), "the label of the row"),
    ("winner", lambda t: t.sort_values("probability").token.iloc[0], "the least likely token"),
    ("left_out", lambda t: sum(t.probability.tolist()), "what the table holds"),
    ("left_out", lambda t: 100 - 100 * sum(t.probability.tolist()), "a percentage"),
    ("left_out", lambda t: 1 - max(t.probability.tolist()), "Only the likeliest token"),
    ("left_out", lambda t: 1 - len(t) / 49152, "Tokens were counted"),
]

WILD = [
    ("winner", lambda t: "Rome", "should be '␣Paris', and is 'Rome'"),
    ("winner", lambda t: t["tokens"], "raised KeyError"),
    ("left_out", lambda t: 0.5, "For the first case"),
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_00, RIGHT, WRONG, WILD
)
